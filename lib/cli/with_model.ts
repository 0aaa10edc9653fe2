import type { HymbaModel, MemoryOptions } from "../model";
import type { CliContext } from "./context";
import { type LoadFlags, loadOptions } from "./options";
import { Progress } from "./progress";

/**
 * Loads a model, lets the command use it and disposes of it, come what may.
 * @param limits what it is loaded for, besides the flags. Default one sequence.
 */
export async function withModel(
  context: CliContext,
  path: string,
  flags: LoadFlags,
  use: (model: HymbaModel) => Promise<void>,
  limits: MemoryOptions = { maxSequences: 1 },
): Promise<void> {
  const progress = new Progress(context.io);
  const model = await context.library
    .loadModel(path, {
      ...loadOptions(flags),
      ...limits,
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
