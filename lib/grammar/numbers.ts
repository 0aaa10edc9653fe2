import { character, choice, EMPTY, type Expression, NOTHING, repeat, sequence } from "./expression";
import { both } from "./intersect";
import { MOST_DIGITS } from "./json";

/** A decimal number: `digits` · 10^-`scale`. */
interface Decimal {
  readonly digits: bigint;
  readonly scale: number;
}

/** Numbers to be written; bounds that are left out are those of {@link MOST_DIGITS} digits. */
export interface NumberRange {
  readonly min?: number;
  readonly max?: number;
  /** Whether `min` itself is too small. */
  readonly aboveMin?: boolean;
  readonly belowMax?: boolean;
  /** Only its multiples. */
  readonly multipleOf?: number;
  readonly integer: boolean;
}

/** Digits behind the point, where the bounds do not have more. */
const FRACTION_DIGITS = 6;

const DIGIT = character([0x30, 0x39]);

/**
 * The numbers of a range, without exponents and with at most {@link MOST_DIGITS} digits, so that as
 * doubles they are in the range, too.
 */
export function numbersIn(range: NumberRange): Expression {
  const { min, max, multipleOf, integer } = range;
  const given = [min, max, multipleOf].filter((value) => value !== undefined).map(toDecimal);
  const step = multipleOf === undefined ? undefined : toDecimal(multipleOf);
  if (step !== undefined) {
    // All with as many digits behind the point as the step has: then it divides their digits.
    const scale = integer ? 0 : step.scale;
    const numbers = scaledNumbers(range, scale);
    const divisor = integer ? integerStep(step) : step.digits;
    return both(numbers, multiples(Number(divisor)));
  }
  if (integer) return scaledNumbers(range, 0);
  const wholeDigits = Math.max(...given.map(({ digits, scale }) => numDigits(digits) - scale), 1);
  const wanted = Math.max(FRACTION_DIGITS, ...given.map(({ scale }) => scale));
  const scale = Math.max(0, Math.min(wanted, MOST_DIGITS - wholeDigits));
  return choice(...Array.from({ length: scale + 1 }, (_, i) => scaledNumbers(range, i)));
}

/** The least integer that is a multiple of the step. */
function integerStep({ digits, scale }: Decimal): bigint {
  const unit = 10n ** BigInt(scale);
  const divisor = (a: bigint, b: bigint): bigint => (b === 0n ? a : divisor(b, a % b));
  return digits / divisor(digits, unit);
}

function numDigits(digits: bigint): number {
  return String(digits < 0n ? -digits : digits).length;
}

function toDecimal(value: number): Decimal {
  const [mantissa, exponent = "0"] = String(value).split("e") as [string, string?];
  const [whole, fraction = ""] = mantissa.split(".") as [string, string?];
  const scale = fraction.length - Number(exponent);
  const digits = BigInt(whole + fraction);
  return scale >= 0 ? { digits, scale } : { digits: digits * 10n ** BigInt(-scale), scale: 0 };
}

/** The numbers of the range with exactly `scale` digits behind the point. */
function scaledNumbers(
  { min, max, aboveMin = false, belowMax = false }: NumberRange,
  scale: number,
): Expression {
  const most = 10n ** BigInt(MOST_DIGITS) - 1n;
  const bound = (value: number | undefined, excluded: boolean, sign: 1n | -1n): bigint => {
    if (value === undefined) return sign * most;
    const exact = toDecimal(value);
    // Of the negative for the upper bound: rounding up then is rounding down.
    const digits = -sign * exact.digits;
    const unit = 10n ** BigInt(Math.max(0, exact.scale - scale));
    const shifted = digits * 10n ** BigInt(Math.max(0, scale - exact.scale));
    const isExact = shifted % unit === 0n;
    const up = shifted / unit + (!isExact && shifted > 0n ? 1n : 0n);
    return -sign * (isExact && excluded ? up + 1n : up);
  };
  const clamp = (value: bigint): bigint => (value > most ? most : value < -most ? -most : value);
  const low = bound(min, aboveMin, -1n);
  const high = bound(max, belowMax, 1n);
  if (low > high || low > most || high < -most) return NOTHING;
  const first = clamp(low);
  const last = clamp(high);
  const options: Expression[] = [];
  if (last >= 0n) options.push(unsigned(first > 0n ? first : 0n, last, scale));
  if (first < 0n) {
    options.push(sequence("-", unsigned(last < 0n ? -last : 1n, -first, scale)));
  }
  return choice(...options);
}

/** The integers from `low` to `high`, both at least 0, with a point before the last `scale` digits. */
function unsigned(low: bigint, high: bigint, scale: number): Expression {
  const options: Expression[] = [];
  /** Widths of which all numbers are in the range. */
  const full: number[] = [];
  for (let width = scale + 1; width <= MOST_DIGITS; width++) {
    // No zero stands before other digits in front of the point.
    const least = width === scale + 1 ? 0n : 10n ** BigInt(width - 1);
    const most = 10n ** BigInt(width) - 1n;
    const from = low > least ? low : least;
    const to = high < most ? high : most;
    if (from > to) continue;
    if (width > scale + 1 && from === least && to === most) {
      full.push(width);
      continue;
    }
    const digits = (value: bigint): string => String(value).padStart(width, "0");
    options.push(digitsBetween(digits(from), digits(to), width - scale));
  }
  if (full.length > 0) {
    const before = (width: number): number => width - scale - 1;
    options.push(
      sequence(
        character([0x31, 0x39]),
        repeat(DIGIT, before(full[0]!), before(full.at(-1)!)),
        scale === 0 ? EMPTY : sequence(".", repeat(DIGIT, scale, scale)),
      ),
    );
  }
  return choice(...options);
}

/** Digits from `low` to `high`, which are as many, with a point before the one at `point`. */
function digitsBetween(low: string, high: string, point: number): Expression {
  if (low === "") return EMPTY;
  if (point === 0) return sequence(".", digitsBetween(low, high, -1));
  const rest = low.length - 1;
  const first = Number(low[0]);
  const last = Number(high[0]);
  if (/^0*$/.test(low) && /^9*$/.test(high)) {
    if (point < 0 || point >= low.length) return repeat(DIGIT, low.length, low.length);
    const fraction = low.length - point;
    return sequence(repeat(DIGIT, point, point), ".", repeat(DIGIT, fraction, fraction));
  }
  const tail = (from: string, to: string): Expression => digitsBetween(from, to, point - 1);
  if (first === last) return sequence(low[0]!, tail(low.slice(1), high.slice(1)));
  const options = [
    sequence(low[0]!, tail(low.slice(1), "9".repeat(rest))),
    sequence(high[0]!, tail("0".repeat(rest), high.slice(1))),
  ];
  if (first + 1 < last) {
    const between = character([0x30 + first + 1, 0x30 + last - 1]);
    options.push(sequence(between, tail("0".repeat(rest), "9".repeat(rest))));
  }
  return choice(...options);
}

/** Numbers whose digits, without sign and point, are a multiple of `divisor`. */
function multiples(divisor: number): Expression {
  const edges = Array.from({ length: divisor }, (_, remainder) => [
    [0x2d, 0x2e, remainder] as const,
    ...Array.from({ length: 10 }, (_, digit) => {
      const code = 0x30 + digit;
      return [code, code, (10 * remainder + digit) % divisor] as const;
    }),
  ]);
  return {
    kind: "machine",
    machine: { edges, accepting: edges.map((_, remainder) => remainder === 0) },
  };
}

/** The largest step whose multiples are worth an automaton. */
export const MOST_STEP = 100;

/** Whether {@link numbersIn} can take a step. */
export function isPossibleStep(value: number, integer: boolean): boolean {
  const step = toDecimal(value);
  return step.digits > 0n && (integer ? integerStep(step) : step.digits) <= MOST_STEP;
}
