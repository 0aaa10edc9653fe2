import { describeValue } from "./problems";

/** Attention and K/V sharing of one layer. */
export interface LayerConfig {
  /** `global` sees every earlier position, `window` the nearest ones and the meta tokens. */
  readonly attention: "global" | "window";
  /** The layer whose K/V this layer reads; its own index when it produces them. */
  readonly kvProducer: number;
}

/** The fields of config.json that say which layers see everything, and which share K/V. */
export interface LayerRules {
  readonly numLayers: number;
  /** `global_attn_idx`. */
  readonly globalLayers: readonly number[];
  /** `kv_reuse_group`: the first layer of a group produces K/V for the others. */
  readonly groups: readonly (readonly number[])[];
  /** `kv_reuse_every_i_layer` n: layer i reads the K/V of layer i - i % n. Undefined: unused. */
  readonly everyLayers: number | undefined;
}

/** The layers that the rules describe; what is wrong with the rules is added to `problems`. */
export function planLayers(rules: LayerRules, problems: string[]): readonly LayerConfig[] {
  const { numLayers, everyLayers, groups } = rules;
  const globalLayers = checkGlobalLayers(rules, problems);
  const producers = Array.from({ length: numLayers }, (_, layer) => layer);
  if (everyLayers !== undefined && groups.length > 0) {
    problems.push(
      `kv_reuse_every_i_layer is ${everyLayers} and kv_reuse_group is not empty, but only one of ` +
        `the two can be followed`,
    );
  } else if (everyLayers !== undefined) {
    shareEvery(everyLayers, producers, globalLayers, problems);
  } else {
    shareInGroups(groups, producers, globalLayers, problems);
  }
  return producers.map((kvProducer, layer) => ({
    attention: globalLayers.has(layer) ? "global" : "window",
    kvProducer,
  }));
}

function checkGlobalLayers(rules: LayerRules, problems: string[]): ReadonlySet<number> {
  const layers = new Set<number>();
  for (const layer of rules.globalLayers) {
    if (layer >= rules.numLayers) {
      problems.push(`global_attn_idx names layer ${layer} of ${rules.numLayers} layers`);
    } else if (layers.has(layer)) {
      problems.push(`global_attn_idx names layer ${layer} twice`);
    }
    layers.add(layer);
  }
  return layers;
}

/** A window producer forgets what its window leaves behind: it cannot serve a global layer. */
function shareEvery(
  everyLayers: number,
  producers: number[],
  globalLayers: ReadonlySet<number>,
  problems: string[],
): void {
  for (const layer of producers.keys()) {
    const producer = layer - (layer % everyLayers);
    producers[layer] = producer;
    if (globalLayers.has(layer) && !globalLayers.has(producer)) {
      problems.push(
        `kv_reuse_every_i_layer ${everyLayers} makes layer ${layer}, which has global attention, ` +
          `read the K/V of layer ${producer}, which has a sliding window`,
      );
    }
  }
}

function shareInGroups(
  groups: readonly (readonly number[])[],
  producers: number[],
  globalLayers: ReadonlySet<number>,
  problems: string[],
): void {
  const problem = (group: readonly number[], text: string): void => {
    problems.push(`kv_reuse_group ${describeValue(group)} ${text}`);
  };
  /** The largest layer so far: groups and their layers ascend. */
  let last = -1;
  const seen = new Set<number>();
  for (const group of groups) {
    const [producer, ...consumers] = group;
    if (producer === undefined || consumers.length === 0) {
      problem(group, "needs at least two layers, a producer and a consumer");
      continue;
    }
    for (const layer of group) {
      if (layer >= producers.length) {
        problem(group, `names layer ${layer} of ${producers.length} layers`);
      } else if (seen.has(layer)) {
        problem(group, `repeats layer ${layer}, which already has its place in a group`);
      } else if (layer < producer) {
        problem(group, `lets layer ${layer} read the K/V of a later layer, ${producer}`);
      } else if (layer < last) {
        problem(group, `is out of order: layer ${layer} comes after layer ${last}`);
      } else if (globalLayers.has(layer)) {
        problem(group, `contains layer ${layer}, which has global attention`);
      } else {
        producers[layer] = producer;
      }
      seen.add(layer);
      last = Math.max(last, layer);
    }
  }
}
