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
  let thrown: { readonly error: unknown } | undefined;
  const report = (): void => {
    if (thrown !== undefined) return;
    try {
      onProgress?.({ stage: "Loading weights", fraction: native.loadProgress() });
    } catch (error) {
      // Out of a timer it would end the process; it is the load that has to fail.
      thrown = { error };
      native.stop();
    }
  };
  // The addon calls nobody back: it is asked.
  const timer = setInterval(report, POLL_MS);
  const stop = (): void => native.stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    await awaitNative(() => native.load(nativeOptions));
    throwIfAborted(signal);
    report();
    if (thrown !== undefined) throw thrown.error;
    return native;
  } catch (error) {
    await native.dispose();
    if (thrown !== undefined) throw thrown.error;
    throwIfAborted(signal);
    throw error;
  } finally {
    clearInterval(timer);
    signal?.removeEventListener("abort", stop);
  }
}
