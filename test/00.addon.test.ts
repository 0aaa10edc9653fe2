import { execFileSync } from "node:child_process";
import { bindingPath, loadBinding } from "../lib/binding";

const readelf = (option: string) =>
  execFileSync("readelf", ["--wide", option, bindingPath()], { encoding: "utf8" });

describe("the addon", () => {
  const { buildInfo, probeDevices } = loadBinding();

  it("says what it was built with", () => {
    expect(buildInfo()).toMatchObject({
      compiler: expect.stringMatching(/^\w+ \d+\.\d+/),
      buildType: expect.stringMatching(/^(Release|Debug|RelWithDebInfo)$/),
      cuda: expect.stringMatching(/^(\d+\.\d+|none \(.+\))$/),
      cudaArchitectures: expect.stringMatching(/^(none|\d+[a-z]?(-real)?(, \d+[a-z]?(-real)?)*)$/),
    });
  });

  it("names its GPUs, or says why there are none", () => {
    const { devices, problem, runtimeVersion } = probeDevices();
    if (buildInfo()["cuda"]?.startsWith("none")) {
      expect(runtimeVersion).toBeNull();
      expect(problem).toMatch(/^this addon was built without CUDA: none \(.+\)$/);
    } else {
      expect(runtimeVersion).toMatch(/^\d+\.\d+$/);
      expect(problem === null).toBe(devices.length > 0);
      expect(problem ?? "none").not.toBe("");
    }
    for (const device of devices) {
      expect(device).toMatchObject({
        name: expect.stringMatching(/./),
        computeCapability: expect.stringMatching(/^\d+\.\d+$/),
      });
      expect(device.memoryBytes).toBeGreaterThan(2 ** 30);
      expect(device.availableBytes).toBeLessThan(device.memoryBytes);
      expect(device.multiprocessors).toBeGreaterThan(0);
    }
  });

  it("runs this build's code on every GPU that it was built for", () => {
    const tooOld = ({ computeCapability }: { computeCapability: string }) =>
      Number(computeCapability) < 8;
    for (const device of probeDevices().devices) {
      expect(device.problem === null).toBe(!tooOld(device));
    }
  });

  it("answers a second probe like the first", () => {
    // But for the memory that is available, which others on the GPU take and give back.
    const probe = () => {
      const report = probeDevices();
      return {
        ...report,
        devices: report.devices.map((device) => ({ ...device, availableBytes: "any" })),
      };
    };
    expect(probe()).toEqual(probe());
  });

  it("needs no CUDA library and no C++ runtime to load", () => {
    const needed = [...readelf("--dynamic").matchAll(/\(NEEDED\).*\[(.+?)\.so/g)].map(
      ([, name]) => name,
    );
    const instrumented = buildInfo()["sanitizer"] !== undefined;
    const allowed = instrumented
      ? /^(libc|libm|ld-linux-.*|lib[a-z]+san)$/
      : /^(libc|libm|libdl|librt|libpthread|ld-linux-.*)$/;
    expect(needed).toContain("libc");
    expect(needed.filter((name) => !allowed.test(name ?? ""))).toEqual([]);
  });

  it("shows Node its two symbols and nothing else", () => {
    const defined = readelf("--dyn-syms")
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter((columns) => /^\d+:$/.test(columns[0] ?? "") && columns[6] !== "UND")
      .flatMap((columns) => columns[7] ?? []);
    expect(defined.sort()).toEqual([
      "napi_register_module_v1",
      "node_api_module_get_api_version_v1",
    ]);
  });
});
