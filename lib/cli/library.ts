import { bindingPath, loadBinding } from "../binding";
import { chooseDevice } from "../device";
import { HymbaModel } from "../model";
import type { Library } from "./context";

/** The library itself, for every command line that is no test's. */
export const hymbaLibrary: Library = {
  loadModel: (path, options) => HymbaModel.load(path, options),
  memoryPlan: (path, options) => HymbaModel.memoryPlan(path, options),
  diagnose() {
    try {
      const binding = loadBinding();
      return {
        addon: { path: bindingPath(), build: binding.buildInfo() },
        cuda: binding.probeDevices(),
        chosen: chooseDevice("auto"),
      };
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      // node-gyp-build says where it looked on lines of their own.
      return { addon: { error: reason.replace(/\s+/g, " ") }, cuda: undefined, chosen: undefined };
    }
  },
};
