import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Engine } from "../engine/engine";
import type { EndReason, EngineObserver } from "../engine/metrics";
import type { HymbaModel } from "../model";

/** Seconds; from a step of one sequence to a prompt that waits for long. */
const TOKEN_SECONDS = [
  ...[0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75],
  ...[1, 2.5, 5, 10, 20, 40, 80],
];
const REQUEST_SECONDS = [
  ...[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60],
  ...[120, 240, 480, 960],
];

/**
 * An engine's metrics for Prometheus, under vLLM's names with the prefix `hymba_`. Labels have few
 * values, none of which a client can choose.
 */
export class EngineMetrics implements EngineObserver {
  readonly registry = new Registry();

  readonly #promptTokens = this.#counter("prompt_tokens_total", "Tokens of prompts.");
  readonly #generationTokens = this.#counter("generation_tokens_total", "Tokens generated.");
  readonly #cacheQueries = this.#counter(
    "prefix_cache_queries_total",
    "Tokens of prompts that were looked for in the prefix cache.",
  );
  readonly #cacheHits = this.#counter(
    "prefix_cache_hits_total",
    "Tokens of prompts that were found in the prefix cache.",
  );
  readonly #ended = this.#counter(
    "request_success_total",
    "Texts that ended, by why: stop, length, context, or abort for those cut short.",
    ["finished_reason"],
  );
  readonly #timeToFirstToken = this.#histogram(
    "time_to_first_token_seconds",
    "From a text's arrival until its first token.",
    TOKEN_SECONDS,
  );
  readonly #interToken = this.#histogram(
    "inter_token_latency_seconds",
    "From one token of a text to its next.",
    TOKEN_SECONDS,
  );
  readonly #endToEnd = this.#histogram(
    "e2e_request_latency_seconds",
    "From a text's arrival until its end.",
    REQUEST_SECONDS,
  );
  readonly #queue = this.#histogram(
    "request_queue_time_seconds",
    "From a text's arrival until it came into a step.",
    REQUEST_SECONDS,
  );
  readonly #prefill = this.#histogram(
    "request_prefill_time_seconds",
    "From a text's first step until its first token.",
    REQUEST_SECONDS,
  );
  readonly #decode = this.#histogram(
    "request_decode_time_seconds",
    "From a text's first token until its last.",
    REQUEST_SECONDS,
  );

  /** @param modelName label of all metrics. */
  constructor(modelName: string) {
    this.registry.setDefaultLabels({ model_name: modelName });
    for (const reason of ["stop", "length", "context", "abort"]) {
      this.#ended.inc({ finished_reason: reason }, 0);
    }
  }

  /** Adds what is read off an engine and its model whenever somebody asks. */
  watch(engine: Engine, model: HymbaModel): void {
    this.#gauge("num_requests_running", "Texts that are generated.", () => engine.load.running);
    this.#gauge("num_requests_waiting", "Texts that wait for room.", () => engine.load.waiting);
    const share = ({ used, total }: { used: number; total: number }): number =>
      total === 0 ? 0 : used / total;
    this.#gauge(
      "kv_cache_usage_perc",
      "Share of the pages of the global layers in use, from 0 to 1.",
      () => share(model.info().cache.globalPages),
    );
    this.#gauge(
      "window_cache_usage_perc",
      "Share of the pages of the window layers in use, from 0 to 1.",
      () => share(model.info().cache.windowPages),
    );
    this.#gauge("state_slots_in_use", "Slots of Mamba states in use.", () => {
      return model.info().cache.stateSlots.used;
    });
    this.#gauge("state_slots", "Slots of Mamba states.", () => {
      return model.info().cache.stateSlots.total;
    });
    this.#gauge("prefix_cache_snapshots", "Snapshots in the prefix cache.", () => {
      return model.info().cache.sequences.kept;
    });
    this.#gauge("resident_memory_bytes", "Memory of the server's process.", () =>
      process.memoryUsage.rss(),
    );
  }

  entered({ promptTokens, cachedTokens, queueMs }: Parameters<EngineObserver["entered"]>[0]): void {
    this.#promptTokens.inc(promptTokens);
    this.#cacheQueries.inc(promptTokens);
    this.#cacheHits.inc(cachedTokens);
    this.#queue.observe(queueMs / 1000);
  }

  firstToken(text: Parameters<EngineObserver["firstToken"]>[0]): void {
    this.#generationTokens.inc();
    this.#timeToFirstToken.observe(text.timeToFirstTokenMs / 1000);
    this.#prefill.observe(text.prefillMs / 1000);
  }

  nextToken(gapMs: number): void {
    this.#generationTokens.inc();
    this.#interToken.observe(gapMs / 1000);
  }

  ended(reason: EndReason, { totalMs, decodeMs }: Parameters<EngineObserver["ended"]>[1]): void {
    this.#ended.inc({ finished_reason: reason });
    this.#endToEnd.observe(totalMs / 1000);
    if (decodeMs !== undefined) this.#decode.observe(decodeMs / 1000);
  }

  #counter<Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[] = [],
  ): Counter<Label> {
    return new Counter({ ...this.#common(name, help), labelNames: [...labelNames] });
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ ...this.#common(name, help), buckets });
  }

  #gauge(name: string, help: string, read: () => number): void {
    const gauge: Gauge = new Gauge({
      ...this.#common(name, help),
      collect: () => gauge.set(read()),
    });
  }

  #common(name: string, help: string) {
    return { name: `hymba_${name}`, help, registers: [this.registry] };
  }
}
