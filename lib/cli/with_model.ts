import type { HymbaModel, LoadOptions } from "../model";
import type { CliContext } from "./context";
import { type LoadFlags, loadOptions } from "./options";
import { Progress } from "./progress";

/** Where no engine runs. */
export const NO_PREFIX_CACHE = { prefixCacheBytes: 0 } as const;

/**
 * Loads a model, lets the command use it and disposes of it, come what may.
 * @param options what it is loaded with, besides the flags. Default: for one sequence of text.
 */
export async function withModel(
  context: CliContext,
  path: string,
  flags: LoadFlags,
  use: (model: HymbaModel) => Promise<void>,
  options: LoadOptions = { maxSequences: 1, requireTokenizer: true, ...NO_PREFIX_CACHE },
): Promise<void> {
  const progress = new Progress(context.io);
  const model = await context.library
    .loadModel(path, {
      ...loadOptions(flags),
      ...options,
      signal: context.signal,
      onProgress: ({ stage, fraction }) => progress.update(stage, fraction),
    })
    .finally(() => progress.stop());
  try {
    await use(model);
  } finally {
    await model.dispose();
  }
}
