// Jest's configuration in a GPU bundle: everything is compiled already.

/** Tests of the source tree, its tools and its packaging. */
const SOURCE_TREE_TESTS = ["/test/00\\."];

/** @type {import("jest").Config} */
const shared = {
  testEnvironment: "node",
  // As in the source tree: lookups of globals are slow.
  sandboxInjectedGlobals: ["Math", "Number", "Object"],
  transform: {},
};

/** @type {import("jest").Config} */
export default {
  projects: [
    {
      ...shared,
      displayName: "unit",
      testMatch: ["<rootDir>/test/**/*.test.js"],
      testPathIgnorePatterns: ["/node_modules/", "/test/stress/", ...SOURCE_TREE_TESTS],
    },
    {
      ...shared,
      displayName: "stress",
      testMatch: ["<rootDir>/test/stress/**/*.test.js"],
      setupFilesAfterEnv: ["<rootDir>/test/stress/setup.js"],
    },
  ],
  testTimeout: 60_000,
  cacheDirectory: "<rootDir>/.jest_cache",
  watchman: false,
};
