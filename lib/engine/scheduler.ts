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
  /** Tokens of its text so far: those of the prompt, and those that were drawn. */
  readonly knownTokens: number;
  /**
   * So many of them, the first ones, are in the cache. Fewer than are known. While it waits, those
   * that it would find there and go on from.
   */
  readonly cachedTokens: number;
  /** Its next span may not go beyond: more than are in the cache, at most those that are known. */
  readonly spanEnd: number;
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

  /** Each of `running` that decodes is sure of its token, so that prompts hold up no text. */
  constructor(limits: SchedulerLimits, freePages: number, running: readonly Request[]) {
    this.#tokens = limits.maxBatchTokens - running.filter(decodes).length;
    this.#prefillSpans = limits.maxPrefillSpans;
    this.#freePages = freePages;
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
    if (!decodes(request)) this.#tokens -= tokens;
    if (tokens > 1) this.#prefillSpans -= 1;
    this.#freePages -= pagesFor(request.cachedTokens + tokens) - heldPages(request);
    return true;
  }

  /** Takes back what it holds; it has no tokens in this step. */
  release(request: Request): void {
    if (decodes(request)) this.#tokens += 1;
    this.#freePages += request.ownPages;
  }

  /** The tokens that it can have, as far as pages do not matter. */
  #share(request: Request): number {
    if (decodes(request)) return 1;
    const most = this.#prefillSpans > 0 ? this.#tokens : Math.min(this.#tokens, 1);
    return Math.min(request.spanEnd - request.cachedTokens, most);
  }

  #tokensThatFit(request: Request): number {
    return (heldPages(request) + this.#freePages) * PAGE_TOKENS - request.cachedTokens;
  }
}

function isRunning({ running }: Schedulable): boolean {
  return running;
}

/** Whether only its last token is missing in the cache. */
function decodes({ running, knownTokens, cachedTokens }: Schedulable): boolean {
  return running && knownTokens - cachedTokens === 1;
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
