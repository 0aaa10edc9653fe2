"use strict";

/**
 * Two projects: `unit` needs no GPU and finishes in minutes; `stress` (test/stress) loads full-size
 * models and counts memory, so it runs alone and is asked for by name.
 */

/** Packages that may resolve to ES modules: Jest's CommonJS runtime needs those transformed. */
const esmPackages = ["@huggingface"];

/** @param {Record<string, unknown>} parser */
const swc = (parser) => [
  "@swc/jest",
  {
    swcrc: false,
    jsc: {
      parser,
      // Below ES2025 `using` and `await using` become helper calls, as Node 20 needs.
      target: "es2022",
      keepClassNames: true,
    },
    module: { type: "commonjs" },
    sourceMaps: "inline",
  },
];

/** @type {import("jest").Config} */
const shared = {
  testEnvironment: "node",
  // Jest looks up globals of a test's context by name, every time: a hundred times slower than these.
  sandboxInjectedGlobals: ["Math", "Number", "Object"],
  moduleFileExtensions: ["ts", "mjs", "js", "json", "node"],
  transform: {
    "\\.ts$": swc({ syntax: "typescript" }),
    "\\.m?js$": swc({ syntax: "ecmascript", explicitResourceManagement: true }),
  },
  transformIgnorePatterns: [`/node_modules/(?!(?:${esmPackages.join("|")})/)`, "\\.node$"],
};

/** @type {import("jest").Config} */
module.exports = {
  projects: [
    {
      ...shared,
      displayName: "unit",
      testMatch: ["<rootDir>/test/**/*.test.ts"],
      testPathIgnorePatterns: ["/node_modules/", "<rootDir>/test/stress/"],
    },
    {
      ...shared,
      displayName: "stress",
      testMatch: ["<rootDir>/test/stress/**/*.test.ts"],
      // Jest reads `testTimeout` from the root only.
      setupFilesAfterEnv: ["<rootDir>/test/stress/setup.ts"],
    },
  ],
  testTimeout: 60_000,
  collectCoverageFrom: ["lib/**/*.ts", "!lib/**/*.d.ts"],
  coverageThreshold: { global: { branches: 90 } },
  coverageReporters: ["text", "lcovonly"],
};
