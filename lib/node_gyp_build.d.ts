/** The loader that finds a native addon, built or prebuilt, in a package's folder. */
declare module "node-gyp-build" {
  function load(folder: string): unknown;
  namespace load {
    /** The file that `load` takes. */
    function path(folder: string): string;
  }
  export = load;
}
