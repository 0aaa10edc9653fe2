import { awaitNative, loadBinding, type NativeLoadOptions, type NativeModel } from "./binding";
import type { LoadOptions } from "./load_options";
import { throwIfAborted } from "./runner";

/** Time between two looks at how far the native side is. */
const POLL_MS = 100;

/**
 * Loads the native model, reporting progress; the signal makes it give up.
 * @throws HymbaError as `HymbaModel.load`.
 */
export async function loadNative(
  nativeOptions: NativeLoadOptions,
  { onProgress, signal }: Pick<LoadOptions, "onProgress" | "signal">,
): Promise<NativeModel> {
  throwIfAborted(signal);
  const { NativeModel } = loadBinding();
  const native = new NativeModel();
  const report = (): void =>
    onProgress?.({ stage: "Loading weights", fraction: native.loadProgress() });
  // The addon calls nobody back: it is asked.
  const timer = setInterval(report, POLL_MS);
  const stop = (): void => native.stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    await awaitNative(() => native.load(nativeOptions));
    throwIfAborted(signal);
    report();
    return native;
  } catch (error) {
    await native.dispose();
    throwIfAborted(signal);
    throw error;
  } finally {
    clearInterval(timer);
    signal?.removeEventListener("abort", stop);
  }
}
