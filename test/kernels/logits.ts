import type { Random } from "./helpers";

/** Rows of logits that a sampler may meet, by what is difficult about them. */
export const LOGIT_STYLES = [
  "normal",
  "peaked",
  "coarse",
  "zeroes",
  "close",
  "special",
  "huge",
  "sparse",
  "nothing",
] as const;
export type LogitStyle = (typeof LOGIT_STYLES)[number];

const SPECIAL = [NaN, Infinity, -Infinity, 0, -0];

/** One row of logits. */
export function logitRow(numbers: Random, style: LogitStyle, vocabSize: number): Float32Array {
  const scale = Math.exp(numbers.uniform(1, -3, 3)[0]!);
  const normal = numbers.normal(vocabSize, scale);
  switch (style) {
    case "normal":
      return normal;
    case "peaked": // as of language models: a few far above the rest
      return numbers.uniform(vocabSize, 0, 1).map((share) => -4 * Math.log(share + 1e-9));
    case "coarse": // many equals
      return normal.map((logit) => Math.round((logit / scale) * 4) / 4);
    case "zeroes": // equal, though not the same bits
      return normal.map((logit) => (logit > 0 ? 0 : -0));
    case "close": // neighbouring floats, all with the same upper bits
      return normal.map((logit) => 10 + (logit / scale) * 1e-6);
    case "special":
      return normal.map((logit) => {
        const place = numbers.integer(0, 20);
        return place < SPECIAL.length ? SPECIAL[place]! : logit;
      });
    case "huge": // differences overflow
      return normal.map((logit) => (logit / scale) * 1e38);
    case "sparse": // a grammar's mask
      return normal.map((logit) => (numbers.integer(0, vocabSize) < 3 ? logit : -Infinity));
    case "nothing":
      return normal.fill(-Infinity);
  }
}

/** Rows one after the other, the style of each drawn by lot unless given. */
export function logitRows(
  numbers: Random,
  rows: number,
  vocabSize: number,
  style?: LogitStyle,
): Float32Array {
  const logits = new Float32Array(rows * vocabSize);
  for (let row = 0; row < rows; row++) {
    const drawn = LOGIT_STYLES[numbers.integer(0, LOGIT_STYLES.length)]!;
    logits.set(logitRow(numbers, style ?? drawn, vocabSize), row * vocabSize);
  }
  return logits;
}
