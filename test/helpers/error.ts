import { HymbaError, type HymbaErrorCode } from "../../lib/errors";

/** Runs the call, which must throw a `HymbaError` with this code, and gives back its message. */
export function messageOf(code: HymbaErrorCode, call: () => unknown): string {
  try {
    call();
  } catch (error) {
    return check(code, error);
  }
  throw new Error(`expected a HymbaError ${code}, but nothing was thrown`);
}

/** Awaits the promise, which must reject with such an error, and gives back its message. */
export async function rejectionOf(
  code: HymbaErrorCode,
  promise: Promise<unknown>,
): Promise<string> {
  const error: unknown = await promise.then(
    () => new Error(`expected a HymbaError ${code}, but nothing was thrown`),
    (reason: unknown) => reason,
  );
  return check(code, error);
}

function check(code: HymbaErrorCode, error: unknown): string {
  if (!(error instanceof HymbaError)) throw error;
  expect(`${error.code}: ${error.message}`).toMatch(new RegExp(`^${code}: `));
  return error.message;
}
