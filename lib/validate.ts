/** Checks of what programs pass in. Mistakes are TypeErrors and RangeErrors that say what was expected. */

/** How a value is shown in a message. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  if (value === null || value === undefined) return String(value);
  return Array.isArray(value) ? "an array" : `a value of type ${typeof value}`;
}

/**
 * An integer in a range.
 * @throws TypeError when it is no integer; RangeError when it is out of the range.
 */
export function checkInteger(name: string, value: unknown, min: number, max: number): number {
  if (typeof value !== "number" || !Number.isInteger(value)) {
    throw new TypeError(`${name} must be an integer, got ${show(value)}`);
  }
  if (value < min || value > max) {
    throw new RangeError(`${name} must be from ${min} to ${max}, got ${value}`);
  }
  return value;
}

/**
 * One of a few strings.
 * @throws TypeError when it is none of them.
 */
export function checkChoice<T extends string>(
  name: string,
  value: unknown,
  choices: readonly T[],
): T {
  if (!(choices as readonly unknown[]).includes(value)) {
    throw new TypeError(
      `${name} must be one of ${choices.map(show).join(", ")}, got ${show(value)}`,
    );
  }
  return value as T;
}

/**
 * A string.
 * @throws TypeError when it is not one.
 */
export function checkString(name: string, value: unknown): void {
  if (typeof value !== "string")
    throw new TypeError(`${name} must be a string, got ${show(value)}`);
}

/**
 * An object, for options.
 * @throws TypeError when it is not one.
 */
export function checkObject(name: string, value: unknown): asserts value is object {
  if (typeof value !== "object" || value === null) {
    throw new TypeError(`${name} must be an object, got ${show(value)}`);
  }
}

/**
 * An AbortSignal, or nothing.
 * @throws TypeError when it is something else.
 */
export function checkSignal(name: string, value: unknown): void {
  if (value !== undefined && !(value instanceof AbortSignal)) {
    throw new TypeError(`${name} must be an AbortSignal, got ${show(value)}`);
  }
}

/**
 * True or false.
 * @throws TypeError when it is something else.
 */
export function checkBoolean(name: string, value: unknown): void {
  if (typeof value !== "boolean") {
    throw new TypeError(`${name} must be true or false, got ${show(value)}`);
  }
}

/**
 * A function, or nothing.
 * @throws TypeError when it is something else.
 */
export function checkCallback(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== "function") {
    throw new TypeError(`${name} must be a function, got ${show(value)}`);
  }
}

/**
 * Token ids, copied: at least one, each within the vocabulary.
 * @throws TypeError when they are no array of integers; RangeError when there are none, or one is
 * out of range.
 */
export function checkTokens(name: string, tokens: unknown, vocabSize: number): Int32Array {
  if (!Array.isArray(tokens) && !ArrayBuffer.isView(tokens)) {
    throw new TypeError(`${name} must be an array of token ids, got ${show(tokens)}`);
  }
  const list = tokens as ArrayLike<unknown>;
  if (!(list.length > 0)) throw new RangeError(`${name} must hold at least one token, got none`);
  const ids = new Int32Array(list.length);
  for (let i = 0; i < list.length; i++) {
    ids[i] = checkInteger(`${name}[${i}]`, list[i], 0, vocabSize - 1);
  }
  return ids;
}
