import { HymbaError, KernelDevice } from "../../lib/kernels";

export * from "./batches";
export * from "./numbers";

/** What the emulator of CUDA calls its device: correct, and a million times slower than a GPU. */
const EMULATOR = "CUDA emulator";

type Opened = { readonly device: KernelDevice } | { readonly problem: string };

let openedGpu: Opened | undefined;
let openedCpu: KernelDevice | undefined;

afterAll(() => {
  openedCpu?.dispose();
  if (openedGpu !== undefined && "device" in openedGpu) openedGpu.device.dispose();
});

/** The CPU, whose stages are the specification. One device a test file. */
export function cpu(): KernelDevice {
  return (openedCpu ??= KernelDevice.open("cpu", { threads: 2 }));
}

/** The GPU, or undefined when there is none. One device a test file. */
export function gpu(): KernelDevice | undefined {
  const opened = (openedGpu ??= openGpu());
  return "device" in opened ? opened.device : undefined;
}

function openGpu(): Opened {
  try {
    return { device: KernelDevice.open("cuda") };
  } catch (error) {
    const isMissing =
      error instanceof HymbaError &&
      (error.code === "ERR_NO_DEVICE" || error.code === "ERR_UNSUPPORTED_DEVICE");
    if (!isMissing) throw error;
    process.stderr.write(
      `SKIPPED: the tests on a GPU in ${expect.getState().testPath}: ${error.message}\n`,
    );
    return { problem: error.message };
  }
}

/**
 * `describe` for tests on a GPU. Without one they are skipped, and stderr says why; with
 * HYMBA_REQUIRE_CUDA=1 in the environment they fail.
 */
export function describeCuda(name: string, define: (device: KernelDevice) => void): void {
  const device = gpu();
  if (device !== undefined) {
    describe(name, () => define(device));
  } else if (process.env["HYMBA_REQUIRE_CUDA"] === "1") {
    test(`${name}: needs a GPU`, () => {
      throw new Error("HYMBA_REQUIRE_CUDA is 1, but there is no GPU: see stderr");
    });
  } else {
    describe.skip(name, () => {
      test("needs a GPU", () => undefined);
    });
  }
}

/**
 * `test` for what only a real GPU does in bearable time; skipped on the emulator, and with
 * HYMBA_SMALL_TESTS=1 in the environment, as under a sanitizer.
 */
export function bigTest(name: string, run: jest.ProvidesCallback, timeoutMs?: number): void {
  const isWanted = isFast() && process.env["HYMBA_SMALL_TESTS"] !== "1";
  (isWanted ? test : test.skip)(name, run, timeoutMs);
}

/** `test` for what the emulator has no kernels for, and would take long. */
export function realGpuTest(name: string, run: jest.ProvidesCallback): void {
  (isFast() ? test : test.skip)(name, run);
}

function isFast(): boolean {
  const device = gpu();
  return device !== undefined && device.name !== EMULATOR;
}
