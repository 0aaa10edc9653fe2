/**
 * Decides what the next step of an engine consists of.
 *
 * `planStep` is a pure function: no clock, no promise, no cache of its own. It sees the requests as
 * numbers of tokens and the cache as what is free of it, and says who leaves, who comes in, and how
 * many tokens each takes. docs/engine.md says what follows from its rules.
 */
import { PAGE_TOKENS, pagesFor } from "../steps";

/** A request, as the scheduler sees it. It runs while it holds a state slot and pages, else it waits. */
export interface Schedulable {
  /** Tokens of its text that can go into the cache: those of the prompt, and those drawn. */
  readonly knownTokens: number;
  /**
   * So many of them, the first ones, are in the cache after the steps under way. All of them while
   * one that runs waits for its next token. While it waits to come in, those that it would find
   * there and go on from: fewer than are known.
   */
  readonly cachedTokens: number;
  /**
   * Its next span may not go beyond: more than are in the cache, if more are known, and no more than
   * those.
   */
  readonly spanEnd: number;
  /** Whether what may be drawn for it depends on the token before, which has to arrive first. */
  readonly constrained: boolean;
  /** Pages of the global pool that nobody else uses, so that they are free when it leaves. */
  readonly ownPages: number;
  /** The most that can come to be in the cache before it ends. */
  readonly mostCachedTokens: number;
  /** Whether it holds a state slot. */
  readonly running: boolean;
  /** When it is given up, in the time of `now`; Infinity: never. */
  readonly deadline: number;
}

/** What a plan is made from. */
export interface SchedulerState<Request extends Schedulable> {
  /** All that have not ended, in the order of their ranks: see {@link rankOf}. */
  readonly requests: readonly Request[];
  /** Pages of the global pool that nobody uses. */
  readonly freePages: number;
  /** State slots that nobody holds. */
  readonly freeSlots: number;
  /** In milliseconds. */
  readonly now: number;
}

/** What a step can take. */
export interface SchedulerLimits {
  /** Tokens of all spans together. */
  readonly maxBatchTokens: number;
  /** Spans of more than one token. The window pool has room for so many, so nobody counts its pages. */
  readonly maxPrefillSpans: number;
}

/** Tokens that a request has in a step: the next ones that are known but not in the cache. */
export interface PlannedSpan<Request> {
  readonly request: Request;
  /** At least 1. They never reach beyond its `spanEnd`. */
  readonly tokens: number;
}

/** A step. The lists are to be carried out in this order; then all pages and slots suffice. */
export interface StepPlan<Request> {
  /** Their deadlines have passed: they end. */
  readonly expired: readonly Request[];
  /** They give back pages and slot, and wait; what they had in the cache will be computed again. */
  readonly preempted: readonly Request[];
  /** They get a slot. */
  readonly admitted: readonly Request[];
  /** Each of a request that runs. Empty when nothing can run before pages or slots become free. */
  readonly spans: readonly PlannedSpan<Request>[];
}

/** What a level of priority is worth, in milliseconds of waiting. */
export const PRIORITY_MS = 10_000;

/**
 * Who comes first: the lower rank. It never changes, and so there is no starvation: a request is
 * overtaken only by those that come within {@link PRIORITY_MS} times the difference of the
 * priorities. Of equals the first to come is first.
 */
export function rankOf(arrival: number, priority: number): number {
  return arrival - priority * PRIORITY_MS;
}

/**
 * Plans the next step: first those that run, then those that wait, each in the order of the ranks.
 *
 * Of those that run, one that cannot move for want of pages takes those of the last. The last keeps
 * what it has, and stands still until others end. Of those that wait, one that does not fit yet is
 * not overtaken by a smaller one.
 *
 * Those that are constrained draw in the same steps, and none of them in the step after, in which
 * their tokens are on the way. Each on its own would miss as many steps, but they would not share
 * those that they are in.
 *
 * Two things follow. Nobody comes in while one that runs lacks pages, since then more were promised
 * than there are. And no more run than a step has tokens for, since one comes in only with a token
 * that all the others left.
 */
export function planStep<Request extends Schedulable>(
  state: SchedulerState<Request>,
  limits: SchedulerLimits,
): StepPlan<Request> {
  const [expired, alive] = divide(state.requests, ({ deadline }) => deadline <= state.now);
  const [running, waiting] = divide(alive, isRunning);
  const released = expired.filter(isRunning);
  const freePages = state.freePages + sum(released, ({ ownPages }) => ownPages);
  const step = new StepDraft(limits, freePages, running);
  // Pages that are not promised to those that run now.
  let room = freePages - sum(running, pagesToCome);
  let slots = state.freeSlots + released.length;

  const preempted: Request[] = [];
  for (let i = 0; i < running.length; i++) {
    const request = running[i]!;
    while (step.lacksPages(request) && i + 1 < running.length) {
      const last = running.pop()!;
      step.release(last);
      preempted.push(last);
    }
    step.take(request);
  }

  const admitted: Request[] = [];
  for (const request of waiting) {
    if (slots === 0 || pagesToCome(request) > room || !step.take(request)) break;
    admitted.push(request);
    room -= pagesToCome(request);
    slots -= 1;
  }
  return { expired, preempted, admitted, spans: step.spans };
}

/** A step that is being filled. */
class StepDraft<Request extends Schedulable> {
  readonly spans: PlannedSpan<Request>[] = [];
  /** Those that nobody is sure of. */
  #tokens: number;
  #prefillSpans: number;
  #freePages: number;

  /** Whether those that are constrained draw nothing: some of them wait for a token. */
  readonly #held: boolean;

  /** Each of `running` that writes is sure of its token, so that prompts hold up no text. */
  constructor(limits: SchedulerLimits, freePages: number, running: readonly Request[]) {
    this.#tokens = limits.maxBatchTokens - running.filter(writes).length;
    this.#prefillSpans = limits.maxPrefillSpans;
    this.#freePages = freePages;
    this.#held = running.some((each) => each.constrained && tokensLeft(each) === 0);
  }

  /** Whether it could have tokens in this step, but no page for even one of them. */
  lacksPages(request: Request): boolean {
    return this.#share(request) > 0 && this.#tokensThatFit(request) === 0;
  }

  /** Gives it as many tokens as there are for it. Returns whether there were any. */
  take(request: Request): boolean {
    const tokens = Math.min(this.#share(request), this.#tokensThatFit(request));
    if (tokens === 0) return false;
    this.spans.push({ request, tokens });
    if (!writes(request)) this.#tokens -= tokens;
    if (tokens > 1) this.#prefillSpans -= 1;
    this.#freePages -= pagesFor(request.cachedTokens + tokens) - heldPages(request);
    return true;
  }

  /** Takes back what it holds; it has no tokens in this step. */
  release(request: Request): void {
    if (writes(request)) this.#tokens += 1;
    this.#freePages += request.ownPages;
  }

  /** The tokens that it can have, as far as pages do not matter. */
  #share(request: Request): number {
    const { spanEnd, knownTokens, cachedTokens, constrained } = request;
    const end = constrained && this.#held ? Math.min(spanEnd, knownTokens - 1) : spanEnd;
    const wanted = Math.max(0, end - cachedTokens);
    if (writes(request)) return wanted;
    return Math.min(wanted, this.#tokens, this.#prefillSpans > 0 ? Infinity : 1);
  }

  #tokensThatFit(request: Request): number {
    return (heldPages(request) + this.#freePages) * PAGE_TOKENS - request.cachedTokens;
  }
}

function isRunning({ running }: Schedulable): boolean {
  return running;
}

/** Whether it needs one token a step at most: its last one, or none before the next has arrived. */
function writes(request: Schedulable): boolean {
  return request.running && tokensLeft(request) <= 1;
}

function tokensLeft({ knownTokens, cachedTokens }: Schedulable): number {
  return knownTokens - cachedTokens;
}

/** Pages that it need not take. What one that waits goes on from counts as free until then. */
function heldPages({ running, cachedTokens }: Schedulable): number {
  return running ? pagesFor(cachedTokens) : 0;
}

/** Pages that it will take for what is known of it and a page of tokens more. */
function pagesToCome(request: Schedulable): number {
  const { knownTokens, mostCachedTokens } = request;
  return pagesFor(Math.min(knownTokens + PAGE_TOKENS, mostCachedTokens)) - heldPages(request);
}

/** Those of which it is true, and the others. */
function divide<T>(items: readonly T[], test: (item: T) => boolean): [T[], T[]] {
  const [yes, no]: [T[], T[]] = [[], []];
  for (const item of items) (test(item) ? yes : no).push(item);
  return [yes, no];
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}
