import { HymbaModel } from "../lib";
import { loadBinding } from "../lib/binding";
import { MICRO } from "./helpers/golden";
import { ensureBuilt, runScript } from "./helpers/package";

// Machines on which CUDA does not work. The emulator plays them (test/cuda_emulator/README.md); on a
// real GPU there is nothing to test here. A process of its own each time: it must end by itself.
const isEmulated = loadBinding().buildInfo()["cuda"] === "emulated";

beforeAll(ensureBuilt);

/** In use on the emulated device before anything is allocated. */
const CONTEXT_MIB = 512;
/** What the backend leaves to the runtime (native/cuda/runtime/device_room.cpp). */
const RUNTIME_MIB = 256;

const LIMITS = { maxSequences: 4, maxContextTokens: 256, maxBatchTokens: 256 };

interface Outcome {
  readonly code?: string;
  readonly message?: string;
  readonly kind?: "cpu" | "cuda";
  readonly reason?: string;
  readonly token?: number;
}

interface Report {
  readonly cuda: Outcome;
  readonly auto: Outcome;
  readonly door: Outcome;
  readonly repaired: Outcome;
}

/** Loads and generates on a machine of this kind, then, in the same process, on a good one. */
async function loadOn(machine: Readonly<Record<string, string>>): Promise<Report> {
  const script = `
    const { HymbaModel } = require("hymba");
    const { KernelDevice } = require("hymba/kernels");
    const failure = ({ code, message }) => ({ code, message });
    async function load(device) {
      try {
        const model = await HymbaModel.load(${JSON.stringify(MICRO)}, {
          ...${JSON.stringify(LIMITS)}, device, dtype: "float32",
        });
        const sequence = model.createSequence();
        const [{ token }] = await model.prefill([
          { sequence, tokens: [1, 2, 3], sample: { temperature: 0 } },
        ]);
        const { kind, reason } = model.info().device;
        await model.dispose();
        return { kind, reason, token };
      } catch (error) {
        return failure(error);
      }
    }
    function openDoor() {
      try {
        KernelDevice.open("cuda").dispose();
        return {};
      } catch (error) {
        return failure(error);
      }
    }
    (async () => {
      const machine = ${JSON.stringify(machine)};
      Object.assign(process.env, machine);
      const report = { cuda: await load("cuda"), auto: await load("auto"), door: openDoor() };
      for (const name of Object.keys(machine)) delete process.env[name];
      console.log(JSON.stringify({ ...report, repaired: await load("cuda") }));
    })();`;
  const { code, signal, out, err } = await runScript(script);
  expect({ code, signal, err }).toEqual({ code: 0, signal: null, err: "" });
  return JSON.parse(out) as Report;
}

(isEmulated ? test : test.skip)("a model knows what of its GPU is not its own", async () => {
  const script = `
    const { HymbaModel } = require("hymba");
    const load = (device) =>
      HymbaModel.load(${JSON.stringify(MICRO)}, { ...${JSON.stringify(LIMITS)}, device });
    (async () => {
      const first = await load("cuda");
      const infos = [first.info()];
      const second = await load("cuda");
      infos.push(second.info());
      await second.dispose();
      infos.push(first.info());
      infos.push((await load("cpu")).info());
      const deviceMemory = infos.map((info) => info.deviceMemory ?? null);
      console.log(JSON.stringify({ deviceMemory, planned: infos[0].memory.totalBytes }));
    })();`;
  const { code, out, err } = await runScript(script);
  expect({ code, err }).toEqual({ code: 0, err: "" });
  const { deviceMemory, planned } = JSON.parse(out) as { deviceMemory: unknown; planned: number };
  const [total, context, runtime] = [64 * 1024, CONTEXT_MIB, RUNTIME_MIB].map((m) => m * 2 ** 20);
  const memory = (models: number) => ({
    totalBytes: total,
    usedBytes: context! + models * planned,
    otherBytes: context! + (models - 1) * planned,
    availableBytes: total! - context! - runtime! - models * planned,
  });
  expect(deviceMemory).toEqual([memory(1), memory(2), memory(1), null]);
});

(isEmulated ? describe : describe.skip)("a machine with", () => {
  const unusable = [
    {
      name: "no driver",
      machine: { HYMBA_EMULATOR_DRIVER: "0" },
      code: "ERR_NO_DEVICE",
      reason: /no CUDA driver is installed/,
    },
    {
      name: "a driver that is too old",
      machine: { HYMBA_EMULATOR_DRIVER: "12020" },
      code: "ERR_NO_DEVICE",
      reason:
        /the driver is too old: it serves CUDA 12\.2, this build needs 13\.0; install a newer/,
    },
    {
      name: "a GPU that is too old",
      machine: { HYMBA_EMULATOR_COMPUTE: "75" },
      code: "ERR_UNSUPPORTED_DEVICE",
      reason: /its compute capability is 7\.5, the kernels need 8\.0 or newer/,
    },
    {
      name: "a GPU that the addon was not built for",
      machine: { HYMBA_EMULATOR_COMPUTE: "120", HYMBA_EMULATOR_MAX_COMPUTE: "90" },
      code: "ERR_UNSUPPORTED_DEVICE",
      reason: /no code for its compute capability 12\.0: build it with HYMBA_CUDA_TARGETS=120/,
    },
  ];
  test.each(unusable)(
    "$name: says so, runs on the CPU, and loads once it is mended",
    async ({ machine, code, reason }) => {
      const { cuda, auto, door, repaired } = await loadOn(machine);
      expect(cuda).toEqual({ code, message: expect.stringMatching(reason) as string });
      expect(door).toEqual({ code, message: expect.stringMatching(reason) as string });
      expect(auto).toMatchObject({ kind: "cpu", reason: expect.stringMatching(reason) as string });
      expect(repaired).toEqual({ kind: "cuda", reason: "asked for", token: auto.token });
    },
  );

  test("a GPU whose memory is full: says so, and loads when there is room", async () => {
    const { cuda, auto, door, repaired } = await loadOn({
      HYMBA_EMULATOR_MEMORY_MIB: String(CONTEXT_MIB),
    });
    expect(cuda).toEqual({
      code: "ERR_OUT_OF_MEMORY",
      message: expect.stringMatching(/takes \d+ MiB .*, but 0 MiB of 512 MiB are available: load/),
    });
    // Not the CPU: that the GPU is full may be over at any time.
    expect(auto).toEqual(cuda);
    expect(door.code).toBe("ERR_OUT_OF_MEMORY");
    expect(repaired).toMatchObject({ kind: "cuda" });
  });

  test("just enough memory loads and runs, and with less it does not load", async () => {
    const plan = await HymbaModel.memoryPlan(MICRO, {
      ...LIMITS,
      device: "cuda",
      dtype: "float32",
    });
    const enough = CONTEXT_MIB + RUNTIME_MIB + Math.ceil(plan.totalBytes / 2 ** 20);
    const on = (mib: number) => loadOn({ HYMBA_EMULATOR_MEMORY_MIB: String(mib) });
    const [fits, short] = [await on(enough), await on(enough - 1)];
    expect(fits.cuda).toMatchObject({ kind: "cuda", token: fits.repaired.token });
    expect(short.cuda).toMatchObject({
      code: "ERR_OUT_OF_MEMORY",
      message: expect.stringMatching(/or free what else is on the GPU/) as string,
    });
    expect(short.repaired).toEqual(fits.repaired);
  });
});
