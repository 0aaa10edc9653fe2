/**
 * An engine without a model, for the scheduler: the cache is counted as native/cache does, time is a
 * number, and tokens are drawn by counting. They arrive when the next step has been handed over.
 * Every plan is checked when it is carried out.
 */
import {
  planStep,
  rankOf,
  type Schedulable,
  type SchedulerLimits,
  type StepPlan,
} from "../../lib/engine/scheduler";
import { PAGE_TOKENS, pagesFor } from "../../lib/steps";

/** What the cache was laid out for. */
export interface SimulatedLimits extends SchedulerLimits {
  readonly maxSequences: number;
  readonly maxContextTokens: number;
  /** Of text, at least those of a whole context. */
  readonly globalPages: number;
  readonly slidingWindow: number;
}

/** What is asked for. */
export interface SimulatedOptions {
  readonly promptTokens: number;
  readonly maxTokens: number;
  /** It meets a stop after so many. */
  readonly stopAfter: number;
  readonly priority: number;
  /** Infinity: none. */
  readonly timeoutMs: number;
  /** Prompts of a family begin with the same tokens. */
  readonly family?: number;
  readonly constrained?: boolean;
}

/** So many. */
export const FAMILY_TOKENS = 70;

/** What texts of a family can go on from. Pages are known by numbers. */
interface SimulatedSnapshot {
  readonly family: number;
  readonly tokens: number;
  readonly pages: readonly number[];
}

export class SimulatedRequest implements Schedulable {
  readonly rank: number;
  readonly deadline: number;
  readonly promptTokens: number;
  readonly mostCachedTokens: number;
  readonly mostKnownTokens: number;
  readonly constrained: boolean;
  /** Those of the prompt, and those drawn that have arrived. */
  arrivedTokens: number;
  /** Tokens that steps under way draw. */
  draws = 0;
  /** While it runs. */
  pages: number[] = [];
  running = false;
  removed = false;
  readonly family: number;
  readonly #engine: SimulatedEngine;
  #cachedTokens = 0;

  constructor(
    engine: SimulatedEngine,
    options: SimulatedOptions,
    now: number,
    maxContextTokens: number,
  ) {
    const { promptTokens, maxTokens, stopAfter } = options;
    this.#engine = engine;
    this.family = options.family ?? -1;
    this.rank = rankOf(now, options.priority);
    this.deadline = now + options.timeoutMs;
    this.promptTokens = promptTokens;
    this.constrained = options.constrained ?? false;
    this.arrivedTokens = promptTokens;
    this.mostCachedTokens = Math.min(promptTokens + maxTokens - 1, maxContextTokens);
    this.mostKnownTokens = Math.min(promptTokens + stopAfter, this.mostCachedTokens + 1);
  }

  get knownTokens(): number {
    const known = this.arrivedTokens + (this.constrained ? 0 : this.draws);
    return Math.min(known, this.mostCachedTokens);
  }

  get cachedTokens(): number {
    return this.running ? this.#cachedTokens : (this.#engine.snapshotFor(this)?.tokens ?? 0);
  }

  get spanEnd(): number {
    const { cachedTokens, snapshotPoint, promptTokens, knownTokens } = this;
    if (cachedTokens < snapshotPoint) return snapshotPoint;
    return cachedTokens < promptTokens ? promptTokens : knownTokens;
  }

  get snapshotPoint(): number {
    return this.family < 0 ? 0 : Math.min(FAMILY_TOKENS, this.promptTokens - 1);
  }

  get ownPages(): number {
    const others = this.#engine.requests.filter((request) => request !== this);
    const theirs = new Set(others.flatMap(({ pages }) => pages));
    return this.pages.filter((page) => !theirs.has(page)).length;
  }

  get ended(): boolean {
    return this.arrivedTokens === this.mostKnownTokens;
  }

  get tokensLeft(): number {
    return this.knownTokens - this.cachedTokens;
  }

  /** Shares what is full of what it goes on from, and has a copy of the rest. */
  enter(): void {
    const snapshot = this.#engine.snapshotFor(this);
    this.running = true;
    this.#cachedTokens = snapshot?.tokens ?? 0;
    this.pages = snapshot?.pages.slice(0, Math.floor(snapshot.tokens / PAGE_TOKENS)) ?? [];
    this.compute(0);
    if (snapshot !== undefined) this.#engine.counts.hits += 1;
  }

  compute(tokens: number): void {
    this.#cachedTokens += tokens;
    while (this.pages.length < pagesFor(this.#cachedTokens)) this.pages.push(nextPage++);
  }

  leave(): void {
    this.running = false;
    this.pages = [];
  }
}

let nextPage = 0;

export class SimulatedEngine {
  /** In the order of their ranks. */
  readonly requests: SimulatedRequest[] = [];
  /** Tokens of sequences that others hold in the same cache. */
  readonly outside: number[] = [];
  /** In the order in which they were made. */
  readonly snapshots: SimulatedSnapshot[] = [];
  readonly counts = {
    ...{ steps: 0, preempted: 0, expired: 0, ended: 0, stalled: 0, hits: 0 },
    /** Steps that constrained ones share, and tokens drawn after the last one. */
    ...{ together: 0, extra: 0 },
  };
  now = 0;
  /** For whom the step under way draws. */
  #underWay: readonly SimulatedRequest[] = [];

  constructor(readonly limits: SimulatedLimits) {}

  add(options: SimulatedOptions): SimulatedRequest {
    const request = new SimulatedRequest(this, options, this.now, this.limits.maxContextTokens);
    const after = this.requests.findIndex(({ rank }) => rank > request.rank);
    this.requests.splice(after < 0 ? this.requests.length : after, 0, request);
    return request;
  }

  remove(request: SimulatedRequest): void {
    request.leave();
    request.removed = true;
    this.requests.splice(this.requests.indexOf(request), 1);
  }

  /** Of all pages those that nobody uses; snapshots only keep theirs. */
  get freePages(): number {
    return this.#pagesBeside([]);
  }

  #pagesBeside(kept: readonly number[]): number {
    const pages = new Set([...kept, ...this.requests.flatMap(({ pages }) => pages)]);
    return this.limits.globalPages - pages.size - sumOf(this.outside.map(pagesFor));
  }

  /** The longest that it can go on from. */
  snapshotFor({ family, promptTokens }: SimulatedRequest): SimulatedSnapshot | undefined {
    return this.snapshots
      .filter((each) => each.family === family && each.tokens < promptTokens)
      .sort((a, b) => b.tokens - a.tokens)[0];
  }

  #evict(): void {
    while (this.#pagesBeside(this.snapshots.flatMap(({ pages }) => pages)) < 0) {
      check(this.snapshots.length > 0, "there are so many pages");
      this.snapshots.shift();
    }
  }

  get freeSlots(): number {
    const running = this.requests.filter((request) => request.running).length;
    return this.limits.maxSequences - running - this.outside.length;
  }

  /** Plans and carries out a step, and checks everything that a plan promises. */
  step(): void {
    const { requests, freePages, freeSlots, now } = this;
    const plan = planStep({ requests, freePages, freeSlots, now }, this.limits);
    const late = requests.filter(({ deadline }) => deadline <= now);
    check(same(plan.expired, late), "exactly those whose deadlines have passed expire");
    for (const request of plan.expired) this.remove(request);
    this.#preempt(plan);
    this.#admit(plan);
    this.#checkSpans(plan);
    const next = this.#compute(plan);
    this.#arrive();
    this.#underWay = next;
    this.counts.steps += 1;
    this.counts.expired += plan.expired.length;
    this.counts.preempted += plan.preempted.length;
  }

  #preempt({ preempted }: Plan): void {
    const running = this.requests.filter((request) => request.running);
    const last = running.slice(running.length - preempted.length);
    check(same([...preempted].reverse(), last), "the last ones make room");
    for (const request of preempted) request.leave();
  }

  #admit({ admitted, preempted }: Plan): void {
    const waiting = this.requests.filter(({ running }) => !running);
    check(same(admitted, waiting.slice(0, admitted.length)), "the first ones come in");
    check(admitted.length === 0 || preempted.length === 0, "nobody comes in when others must go");
    for (const request of admitted) request.enter();
    this.#evict();
    check(this.freeSlots >= 0, "there is a slot for each");
    const running = this.requests.filter((request) => request.running);
    check(running.length <= this.limits.maxBatchTokens, "there is a token for each");
  }

  #checkSpans({ spans }: Plan): void {
    const { maxBatchTokens, maxPrefillSpans } = this.limits;
    const taken = new Map(spans.map(({ request, tokens }) => [request, tokens]));
    check(taken.size === spans.length, "a request has one span");
    const running = this.requests.filter((request) => request.running);
    const held = running.some(({ constrained, tokensLeft }) => constrained && tokensLeft === 0);
    let newPages = 0;
    for (const [request, tokens] of taken) {
      const { spanEnd, cachedTokens, knownTokens, constrained, draws } = request;
      const end = cachedTokens + tokens;
      check(request.running && tokens >= 1, "spans are of those that run");
      check(end <= spanEnd, "a span ends where it has to");
      const waits = constrained && (held || draws > 0);
      check(!waits || end < knownTokens, "who is constrained draws with the others, in their turn");
      check(draws === 0 || tokens === 1, "what is not there yet is a span of its own");
      newPages += pagesFor(end) - pagesFor(cachedTokens);
    }
    const sizes = [...taken.values()];
    check(sumOf(sizes) <= maxBatchTokens, "the tokens fit");
    check(sizes.filter((size) => size > 1).length <= maxPrefillSpans, "the spans fit");
    const pagesLeft = this.freePages - newPages;
    check(pagesLeft >= 0, "the pages suffice");
    this.#checkWindowPages(taken);

    for (const request of running) {
      if (request.tokensLeft !== 1 || taken.has(request)) continue;
      if (held && request.constrained) continue;
      const stalled = request.cachedTokens % PAGE_TOKENS === 0 && pagesLeft === 0;
      check(stalled && request === running.at(-1), "only the last stands still, without a page");
      this.counts.stalled += 1;
    }
    const alone = this.outside.length === 0 && this.requests.length > 0;
    const moves = taken.has(running[0]!) || this.#underWay.length > 0;
    check(!alone || moves, "when nobody else holds anything, the first one moves");
  }

  /** The pool of the window layers is of a size that nobody need look at: see KvLayout. */
  #checkWindowPages(taken: ReadonlyMap<SimulatedRequest, number>): void {
    const { slidingWindow, maxSequences, maxContextTokens, maxBatchTokens, maxPrefillSpans } =
      this.limits;
    const contextPages = pagesFor(maxContextTokens);
    const ring = Math.min(pagesFor(slidingWindow) + 1, contextPages);
    const headroom = pagesFor(maxBatchTokens) + maxPrefillSpans;
    const capacity = Math.min(maxSequences * ring + headroom, maxSequences * contextPages);
    const held = (cached: number, tokens = 0): number =>
      pagesFor(cached + tokens) - Math.floor(Math.max(0, cached - slidingWindow) / PAGE_TOKENS);
    const running = this.requests.filter((request) => request.running);
    const ours = running.map((request) => held(request.cachedTokens, taken.get(request)));
    const theirs = this.outside.map((tokens) => held(tokens));
    check(sumOf(ours) + sumOf(theirs) <= capacity, "the window pages suffice");
  }

  /** Returns for whom a token is drawn. */
  #compute({ spans }: Plan): SimulatedRequest[] {
    const drawing: SimulatedRequest[] = [];
    let constrained = 0;
    for (const { request, tokens } of spans) {
      const draws = request.tokensLeft === tokens;
      request.compute(tokens);
      this.#keep(request);
      if (!draws) continue;
      request.draws += 1;
      constrained += request.constrained ? 1 : 0;
      drawing.push(request);
    }
    this.counts.together += constrained > 1 ? 1 : 0;
    this.#evict();
    return drawing;
  }

  /** What the step before this one drew. */
  #arrive(): void {
    for (const request of this.#underWay) {
      if (request.removed) {
        this.counts.extra += request.ended ? 1 : 0;
        continue;
      }
      request.draws -= 1;
      request.arrivedTokens += 1;
      if (!request.ended) continue;
      this.remove(request);
      this.counts.ended += 1;
    }
  }

  #keep({ family, pages, cachedTokens, snapshotPoint }: SimulatedRequest): void {
    if (cachedTokens !== snapshotPoint) return;
    const full = pages.slice(0, Math.floor(cachedTokens / PAGE_TOKENS));
    const own = cachedTokens % PAGE_TOKENS === 0 ? [] : [nextPage++];
    this.snapshots.push({ family, tokens: cachedTokens, pages: [...full, ...own] });
  }
}

type Plan = StepPlan<SimulatedRequest>;

/** `expect`, for what is looked at a million times. */
function check(holds: boolean, rule: string): void {
  if (!holds) throw new Error(`broken: ${rule}`);
}

function same<T>(a: readonly T[], b: readonly T[]): boolean {
  return a.length === b.length && a.every((item, index) => item === b[index]);
}

function sumOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}
