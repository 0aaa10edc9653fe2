import type { Random } from "../kernels/helpers";

/** Makes tokens as a tokenizer of bytes has them: every byte, then pieces of texts and of JSON. */
export function makeVocabulary(size: number, numbers: Random): Uint8Array[] {
  const tokens = new Map<string, Uint8Array>();
  const add = (bytes: Uint8Array): void => {
    if (tokens.size < size && bytes.length > 0) {
      tokens.set(Buffer.from(bytes).toString("latin1"), bytes);
    }
  };
  for (let byte = 0; byte < 256; byte++) add(Uint8Array.of(byte));
  const pick = (list: readonly string[]): string => list[numbers.integer(0, list.length)]!;
  const SYLLABLES = "an ber co de el fi gra ho in ka le ma no or pre qui re sta ti un ver wo".split(
    " ",
  );
  const SIGNS = [
    '"',
    '":',
    '": "',
    '",',
    '", "',
    "{",
    '{"',
    "}",
    "}}",
    "]",
    "],",
    "[",
    "\\",
    "\\n",
    "\\u",
  ];
  const OTHERS = [
    "é",
    "ß",
    "世界",
    "😀",
    "Ж",
    " ",
    "  ",
    ".",
    "-",
    "0",
    "12",
    "007",
    "e+",
    "true",
    "null",
  ];
  while (tokens.size < size) {
    const kind = numbers.integer(0, 10);
    const word = Array.from({ length: 1 + numbers.integer(0, 4) }, () => pick(SYLLABLES)).join("");
    const text =
      kind < 6
        ? (kind % 2 === 0 ? " " : "") + (kind === 5 ? word[0]!.toUpperCase() + word.slice(1) : word)
        : kind < 8
          ? String(numbers.integer(0, 10_000))
          : kind < 9
            ? pick(SIGNS) + pick([...SIGNS, ...OTHERS, word, ""])
            : pick(OTHERS) + pick([...OTHERS, word, ""]);
    const bytes = Buffer.from(text);
    // Some end inside of a character.
    add(kind === 9 && bytes.length > 2 ? bytes.subarray(0, bytes.length - 1) : bytes);
  }
  return [...tokens.values()];
}
