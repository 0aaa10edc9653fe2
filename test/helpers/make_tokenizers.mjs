// Writes the two small tokenizers that the text tests use into test/helpers/tokenizers/.
//
//   node test/helpers/make_tokenizers.mjs [--help]
//
// byte_level     GPT-2 style: every byte is a token, plus merges learned from the sample below.
//                Some merges end inside a UTF-8 character, which is what streaming has to survive.
// byte_fallback  Llama style: "▁" marks spaces, unknown characters become <0xNN> tokens, and the
//                first space of a text is dropped when decoding.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { format, resolveConfig } from "prettier";

const sample = `The lighthouse keeper counted the ships. There were three of them, then four, then none; and
the sea, which had been green, was grey. "Is that the last?" she asked. He didn't answer; he'd been
counting for 27 years, from 1851 to 1878, and they'd never asked him. naïve café, Ærøskøbing, déjà vu —
“quotes”, ‘more’… 你好，世界。世界你好。 こんにちは世界 Привет, мир! مرحبا 👍🏽 👩‍👩‍👧‍👦 😀😀😁😂🤣 🇨🇦 The quick brown
fox jumps over the lazy dog, and the dog, being lazy, doesn't mind.\n\n    return x;\n\t\tend\n`;

/** GPT-2's map from bytes to printable characters. */
function byteAlphabet() {
  const printable = (byte) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(printable(byte) ? byte : next++),
  );
}

/** Learns up to `count` merges: each joins the most frequent neighbouring pair (ties: first seen). */
function learnMerges(words, count) {
  const merges = [];
  while (merges.length < count) {
    const frequency = new Map();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = `${word[i]} ${word[i + 1]}`;
        frequency.set(pair, (frequency.get(pair) ?? 0) + 1);
      }
    }
    const best = [...frequency].reduce((a, b) => (b[1] > a[1] ? b : a), ["", 1]);
    if (best[1] < 2) break;
    const [left, right] = best[0].split(" ");
    merges.push(`${left} ${right}`);
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        if (word[i] === left && word[i + 1] === right) word.splice(i, 2, left + right);
      }
    }
  }
  return merges;
}

function addedToken(id, content, special) {
  return {
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special,
  };
}

function bpeModel(tokens, merges, options) {
  const vocab = {};
  for (const token of [...tokens, ...merges.map((pair) => pair.replace(" ", ""))]) {
    vocab[token] ??= Object.keys(vocab).length;
  }
  return { type: "BPE", dropout: null, unk_token: null, ...options, vocab, merges };
}

function byteLevel() {
  const alphabet = byteAlphabet();
  const split = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
  const words = sample.match(split).map((word) => [...Buffer.from(word)].map((b) => alphabet[b]));
  const special = ["<|begin|>", "<|end|>", "<|pad|>"];
  const model = bpeModel([...special, ...alphabet], learnMerges(words, 200), {
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
  });
  const size = Object.keys(model.vocab).length;
  const byteLevelStep = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  return {
    added_tokens: [
      ...special.map((content, id) => addedToken(id, content, true)),
      addedToken(size, "<|user|>", false),
      addedToken(size + 1, "<|assistant|>", false),
    ],
    normalizer: null,
    pre_tokenizer: { ...byteLevelStep, use_regex: true },
    post_processor: { ...byteLevelStep, use_regex: true },
    decoder: { ...byteLevelStep, use_regex: true },
    model,
  };
}

function byteFallback() {
  const byteToken = (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`;
  const words = sample
    .split(" ")
    .map((word) => [..."▁", ...word].filter((c) => c < "\u0250" || c === "▁"));
  const tokens = ["<unk>", "<s>", "</s>", ...Array.from({ length: 256 }, byteToken)];
  tokens.push(...new Set(words.flat().filter((c) => c > " ")));
  const model = bpeModel(tokens, learnMerges(words, 150), {
    unk_token: "<unk>",
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: true,
  });
  const first = { SpecialToken: { id: "<s>", type_id: 0 } };
  const sequence = (id, type_id) => ({ Sequence: { id, type_id } });
  return {
    added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => addedToken(id, content, true)),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [first, sequence("A", 0)],
      pair: [first, sequence("A", 0), sequence("B", 1)],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model,
  };
}

if (process.argv.length > 2) {
  console.log("Usage: node test/helpers/make_tokenizers.mjs\nRewrites test/helpers/tokenizers/.");
} else {
  const folder = join(dirname(fileURLToPath(import.meta.url)), "tokenizers");
  const write = async (name, file, value) => {
    const path = join(folder, name, file);
    mkdirSync(dirname(path), { recursive: true });
    const style = await resolveConfig(path);
    writeFileSync(path, await format(JSON.stringify(value), { ...style, parser: "json" }));
  };
  const header = { version: "1.0", truncation: null, padding: null };
  await write("byte_level", "tokenizer.json", { ...header, ...byteLevel() });
  await write("byte_level", "tokenizer_config.json", {
    tokenizer_class: "PreTrainedTokenizerFast",
    add_bos_token: true,
    bos_token: "<|begin|>",
    eos_token: "<|end|>",
    pad_token: "<|pad|>",
  });
  await write("byte_fallback", "tokenizer.json", { ...header, ...byteFallback() });
  await write("byte_fallback", "tokenizer_config.json", {
    tokenizer_class: "LlamaTokenizer",
    bos_token: { content: "<s>", special: true },
    eos_token: { content: "</s>", special: true },
    unk_token: "<unk>",
  });
}
