import type { HymbaModel } from "../model";
import type { CliIo } from "./io";
import type { Diagnosis } from "./doctor";

/** The parts of the library that commands use, so that tests can stand in for them. */
export interface Library {
  readonly loadModel: typeof HymbaModel.load;
  readonly memoryPlan: typeof HymbaModel.memoryPlan;
  /** What the addon knows about itself and the machine. */
  readonly diagnose: () => Diagnosis;
}

/** What every command gets. */
export interface CliContext {
  readonly io: CliIo;
  readonly library: Library;
  /** Aborts at the first Ctrl-C. */
  readonly signal: AbortSignal;
  /** Does what Ctrl-C does. */
  interrupt(): void;
}
