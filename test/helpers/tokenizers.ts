import { join } from "node:path";

/** Folders of the tokenizers that `make_tokenizers.mjs` writes. */
export const tokenizerFolders = {
  byteLevel: join(__dirname, "tokenizers", "byte_level"),
  byteFallback: join(__dirname, "tokenizers", "byte_fallback"),
} as const;

/** Texts that tokenizers tend to disagree about. */
export const awkwardTexts: readonly string[] = [
  "",
  " ",
  "   ",
  "\n",
  "\n\n  \t x",
  "a",
  " a",
  "a ",
  "  leading and trailing  ",
  "The lighthouse keeper counted the ships.",
  "don't DON'T he'd we'll they've",
  "1851, 1878 and 3.14159e-10",
  "naïve café, déjà vu — “quotes”…",
  "e\u0301 is not \u00e9",
  "你好，世界。こんにちは",
  "Привет مرحبا שלום",
  "😀😁 👍🏽 👩‍👩‍👧‍👦 🇨🇦",
  "\u00a0\u2003\u3000\u2028\u2029 spaces",
  "\u0000\u0001\u007f control",
  "zero\u200bwidth\u200djoiner",
  "\ufffd already replaced",
  "<|begin|><|user|> hello <|end|> <s></s>",
  "    return x;\r\n\t\tend\r\n",
  "a".repeat(2000),
  "word ".repeat(500),
  "😀".repeat(300),
];
