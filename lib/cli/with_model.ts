import type { HymbaModel } from "../model";
import type { CliContext } from "./context";
import { type LoadFlags, loadOptions } from "./options";
import { Progress } from "./progress";

/** Loads a model for one sequence, lets the command use it and disposes of it, come what may. */
export async function withModel(
  context: CliContext,
  path: string,
  flags: LoadFlags,
  use: (model: HymbaModel) => Promise<void>,
): Promise<void> {
  const progress = new Progress(context.io);
  const model = await context.library
    .loadModel(path, {
      ...loadOptions(flags),
      maxSequences: 1,
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
