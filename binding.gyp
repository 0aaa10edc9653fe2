{
  # `npm install` runs node-gyp-build, which falls back to node-gyp, which comes here: CMake does the
  # work, in build/cmake, out of the way of node-gyp's own Makefile in build/.
  "targets": [
    {
      "target_name": "hymba",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake_js",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/hymba.node"],
          "action": ["npx", "--no-install", "cmake-js", "build", "--out", "build/cmake"],
        },
      ],
    },
  ],
}
