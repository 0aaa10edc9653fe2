import { findViolations } from "../scripts/check_includes.mjs";

const violationsIn = (path: string, text: string) => findViolations([{ path, text }]);

describe("the include rule of native/", () => {
  it.each([
    ["native/core/a.h", "#include <vector>\n#include <sys/mman.h>"],
    ["native/ops/a.h", '#include "core/error.h"'],
    ["native/cache/a.h", '#include "core/error.h"\n#include "cache/b.h"'],
    ["native/model/a.h", '#include "ops/ops.h"\n#include "cache/kv_layout.h"'],
    ["native/cpu/a.cpp", '#include "cpu/a.h"\n#include "ops/ops.h"'],
    ["native/cuda/runtime/a.cu", "#include <cuda_runtime.h>\n#include <cub/cub.cuh>"],
    ["native/addon/a.cpp", '#include <napi.h>\n#include "cuda/runtime/device_info.h"'],
  ])("lets %s include its own layer and those below", (path, text) => {
    expect(violationsIn(path, text)).toEqual([]);
  });

  it.each([
    ["native/core/a.h", '#include "ops/ops.h"', 'core may not include "ops/ops.h"'],
    ["native/ops/a.h", '#include "cache/b.h"', 'ops may not include "cache/b.h"'],
    ["native/cache/a.h", '#include "ops/ops.h"', 'cache may not include "ops/ops.h"'],
    ["native/model/a.h", '#include "cpu/b.h"', 'model may not include "cpu/b.h"'],
    ["native/cpu/a.cpp", '#include "cuda/b.h"', 'cpu may not include "cuda/b.h"'],
    ["native/cuda/a.cu", '#include "model/b.h"', 'cuda may not include "model/b.h"'],
    ["native/model/a.h", "#include <napi.h>", "only addon may include <napi.h>"],
    ["native/cpu/a.cpp", "#include <cuda_bf16.h>", "only cuda may include <cuda_bf16.h>"],
    ["native/addon/a.cpp", "#include <cuda.h>", "only cuda may include <cuda.h>"],
    ["native/core/a.h", '#  include "error.h"', '"error.h" does not start with a layer'],
    ["native/core/a.h", '#include "../ops/ops.h"', '"../ops/ops.h" does not start with a layer'],
    ["native/extra/a.h", "#include <vector>", "native/extra is no known layer"],
  ])("finds that in %s the line %s is forbidden", (path, line, problem) => {
    const [first, ...others] = violationsIn(path, `// A comment.\n\n${line}\n`);
    expect(first).toContain(`${path}:3: ${problem}`);
    expect(others).toEqual([]);
  });
});

describe("the import rule of lib/", () => {
  it.each([
    ["lib/model.ts", 'import { a } from "./checkpoint/config";\nimport fs from "node:fs";'],
    ["lib/cli/chat.ts", 'import { a } from "../model";\nimport { b } from "./io";'],
    ["lib/cli/main.ts", 'const { version } = require("../../package.json");'],
    ["test/a.test.ts", 'import { a } from "../lib/cli/main";'],
  ])("lets %s import what is below it", (path, text) => {
    expect(violationsIn(path, text)).toEqual([]);
  });

  it.each([
    ["lib/model.ts", 'import { a } from "./cli/io";', 'only lib/cli may import "./cli/io"'],
    ["lib/text/a.ts", "export * from '../cli/io';", 'only lib/cli may import "../cli/io"'],
    ["lib/a.ts", 'import "../test/helpers/error";', "outside of it"],
    ["lib/cli/a.ts", 'await import("../../scripts/b.mjs");', "outside of it"],
    ["lib/a.ts", 'type A = import("../test/a").A;', "outside of it"],
    ["lib/a.ts", 'import {\n  a,\n} from "../test/a";', "outside of it"],
  ])("finds that %s may not say %s", (path, text, problem) => {
    expect(violationsIn(path, text)).toEqual([expect.stringContaining(problem)]);
  });
});
