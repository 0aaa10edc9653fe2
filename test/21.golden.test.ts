import { join } from "node:path";
import { HymbaModel, type ModelDtype } from "../lib";
import { DEVICE } from "./helpers/device";
import {
  argmax,
  type GoldenTensor,
  MICRO,
  readSafetensors,
  relativeError,
  transpose,
} from "./helpers/golden";

// What NVIDIA's own code computed, in float32, for the weights of test/golden/micro.
const golden = readSafetensors(join(MICRO, "golden.safetensors"));

function tensor(name: string): GoldenTensor {
  const found = golden.get(name);
  if (!found) throw new Error(`no golden tensor ${name}`);
  return found;
}

const lengths = [...golden.keys()]
  .map((name) => /^forward\.(\d+)\.logits$/.exec(name)?.[1])
  .filter((length) => length !== undefined)
  .map(Number)
  .sort((a, b) => a - b);

const load = (dtype: ModelDtype): Promise<HymbaModel> =>
  HymbaModel.load(MICRO, { device: DEVICE, dtype, maxContextTokens: 256, maxSequences: 4 });

describe.each([
  { dtype: "float32", bound: DEVICE === "cpu" ? 1e-5 : 1e-4 },
  { dtype: "bfloat16", bound: 2e-2 },
] as const)("golden numbers in $dtype", ({ dtype, bound }) => {
  let model: HymbaModel;
  beforeAll(async () => {
    model = await load(dtype);
  });
  afterAll(() => model.dispose());

  test("there are golden forwards on both sides of every boundary", () => {
    expect(lengths).toEqual([1, 2, 3, 5, 17, 31, 32, 33, 48, 49, 87, 131]);
  });

  test.each(lengths)("logits of a whole forward over %i tokens", async (length) => {
    const tokens = tensor(`forward.${length}.input_ids`).data;
    using sequence = model.createSequence();
    const [result] = await model.prefill([{ sequence, tokens, logits: "all" }]);
    const error = relativeError(result!.logits!, tensor(`forward.${length}.logits`).data);
    expect(error).toBeLessThanOrEqual(bound);
  });

  test("greedy decoding takes the same tokens", async () => {
    const expected = tensor("greedy.output_ids").data;
    const reference = tensor("greedy.logits");
    const vocabSize = model.config.vocabSize;
    using sequence = model.createSequence();
    const logits: number[] = [];
    let [result] = await model.prefill([{ sequence, tokens: tensor("greedy.prompt_ids").data }]);
    for (const [step, token] of expected.entries()) {
      const row = reference.data.slice(step * vocabSize, (step + 1) * vocabSize);
      const [first, second] = [...row].sort((a, b) => b - a);
      // Where the reference itself is all but undecided, rounding may decide.
      if (dtype === "float32" || first! - second! > 0.1) {
        expect(argmax(result!.logits!)).toBe(token);
      }
      logits.push(...result!.logits!);
      [result] = await model.decode([{ sequence, token }]);
    }
    expect(relativeError(logits, reference.data)).toBeLessThanOrEqual(bound);
  });
});

describe("golden activations in float32", () => {
  const BOUND = DEVICE === "cpu" ? 1e-5 : 1e-4;
  const inner = [...golden.keys()].filter((name) => name.startsWith("inner.layer"));
  const traced = new Map<string, GoldenTensor>();
  let model: HymbaModel;

  beforeAll(async () => {
    model = await load("float32");
    for (const { layer, name, shape, values } of await model.trace(
      tensor("inner.input_ids").data,
      [0, 1, 2],
    )) {
      traced.set(`${layer}.${name}`, { shape, data: values });
    }
  });
  afterAll(() => model.dispose());

  /** Our activation, in the layout of the golden one. */
  function ours(layer: number, name: string): ArrayLike<number> {
    const get = (stage: string): GoldenTensor => {
      const found = traced.get(`${layer}.${stage}`);
      if (!found) throw new Error(`no activation ${stage} in layer ${layer}`);
      return found;
    };
    const channelMajor = ({ shape, data }: GoldenTensor): ArrayLike<number> =>
      transpose(data, shape[0]!, shape[1]!);
    switch (name) {
      case "ssm.u":
      case "ssm.B":
      case "ssm.C":
      case "ssm.gate":
      case "ssm.out_gated":
        return channelMajor(get(name));
      case "ssm.last_state":
        return get("ssm.state").data;
      // We keep softplus(dt + bias), so that bias and softplus have to be undone.
      case "ssm.dt_before_bias": {
        const delta = get("ssm.delta");
        const bias = biases(layer);
        const channels = delta.shape[1]!;
        const before = Float64Array.from(delta.data, (value, i) => {
          return Math.log(Math.expm1(value)) - bias[i % channels]!;
        });
        return channelMajor({ shape: delta.shape, data: Float32Array.from(before) });
      }
      // Their residual branches are only visible in what they add to the stream.
      case "out_proj":
        return difference(get("after_heads").data, get("in").data);
      case "mlp":
        return difference(get("out").data, get("after_heads").data);
      // K and V of a consumer are its producer's, which the golden file repeats.
      case "attn.k":
      case "attn.v": {
        const producer = model.config.layers[layer]!.kvProducer;
        const found = traced.get(`${producer}.${name}`)!;
        return found.data;
      }
      default:
        return get(name).data;
    }
  }

  function difference(a: ArrayLike<number>, b: ArrayLike<number>): Float64Array {
    return Float64Array.from(a, (value, i) => value - b[i]!);
  }

  const weights = readSafetensors(join(MICRO, "model.safetensors"));
  function biases(layer: number): ArrayLike<number> {
    return weights.get(`model.layers.${layer}.mamba.dt_proj.0.bias`)!.data;
  }

  test("every golden activation is looked at", () => {
    expect(inner).toHaveLength(48);
  });

  test.each(inner)("%s", (name) => {
    const [, layer, stage] = /^inner\.layer(\d)\.(.+)$/.exec(name)!;
    const error = relativeError(ours(Number(layer), stage!), tensor(name).data);
    expect(error).toBeLessThanOrEqual(BOUND);
  });
});
