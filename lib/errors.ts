/**
 * What went wrong, for programs to decide on:
 * - `ERR_INVALID_ARGUMENT`: a value that was passed in cannot be used.
 * - `ERR_MODEL_FORMAT`: a file of the model is missing, damaged or contradicts another one.
 * - `ERR_MODEL_UNSUPPORTED`: a well-formed model that needs something we do not implement.
 * - `ERR_NO_DEVICE`: the requested device is not there.
 * - `ERR_UNSUPPORTED_DEVICE`: the device is there, but the kernels do not run on it.
 * - `ERR_OUT_OF_MEMORY`: host or device memory, or the cache that was planned, does not suffice.
 * - `ERR_CONTEXT_FULL`: a sequence would become longer than the model was loaded for.
 * - `ERR_BUSY`: a sequence is in use by a call that has not finished.
 * - `ERR_DISPOSED`: the model or the sequence was disposed, or the engine closed.
 * - `ERR_ABORTED`: an `AbortSignal` fired, or a request's time was over.
 * - `ERR_DEVICE_LOST`: the device failed; the model has to be loaded again.
 * - `ERR_INTERNAL`: a bug in this package.
 */
export type HymbaErrorCode =
  | "ERR_INVALID_ARGUMENT"
  | "ERR_MODEL_FORMAT"
  | "ERR_MODEL_UNSUPPORTED"
  | "ERR_NO_DEVICE"
  | "ERR_UNSUPPORTED_DEVICE"
  | "ERR_OUT_OF_MEMORY"
  | "ERR_CONTEXT_FULL"
  | "ERR_BUSY"
  | "ERR_DISPOSED"
  | "ERR_ABORTED"
  | "ERR_DEVICE_LOST"
  | "ERR_INTERNAL";

/** Every error code, in the order of the enum `ErrorCode` in native/core/error.h. */
export const HYMBA_ERROR_CODES: readonly HymbaErrorCode[] = [
  "ERR_INVALID_ARGUMENT",
  "ERR_MODEL_FORMAT",
  "ERR_MODEL_UNSUPPORTED",
  "ERR_NO_DEVICE",
  "ERR_UNSUPPORTED_DEVICE",
  "ERR_OUT_OF_MEMORY",
  "ERR_CONTEXT_FULL",
  "ERR_BUSY",
  "ERR_DISPOSED",
  "ERR_ABORTED",
  "ERR_DEVICE_LOST",
  "ERR_INTERNAL",
];

/**
 * The error of everything that can go wrong at run time; mistakes in a program's use of the API are
 * `TypeError` or `RangeError`.
 */
export class HymbaError extends Error {
  /** The kind of failure; a closed set that only grows in major versions. */
  readonly code: HymbaErrorCode;

  constructor(code: HymbaErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "HymbaError";
    this.code = code;
  }
}
