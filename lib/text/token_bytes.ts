import { z } from "zod";
import { HymbaError } from "../errors";

/** The part of `tokenizer.json` that says how tokens become text. */
const decoderSchema = z
  .looseObject({
    type: z.string(),
    decoders: z.array(z.looseObject({ type: z.string() })).optional(),
  })
  .nullish();

/** Bytes of a token of the vocabulary as `tokenizer.json` writes it; undefined when it has none. */
export type TokenBytes = (token: string) => Uint8Array | undefined;

/**
 * How tokens stand for bytes: in GPT-2's alphabet of bytes, or as SentencePiece's text with `▁` for a
 * space and `<0x0A>` for a byte.
 * @throws HymbaError ERR_MODEL_UNSUPPORTED when they do so in another way.
 */
export function tokenBytesOf(decoder: unknown): TokenBytes {
  const parsed = decoderSchema.safeParse(decoder);
  const steps = parsed.success ? [parsed.data, ...(parsed.data?.decoders ?? [])] : [];
  const has = (type: string): boolean => steps.some((step) => step?.type === type);
  if (has("ByteLevel")) return byteLevelBytes();
  if (has("Metaspace") || (has("Replace") && has("ByteFallback"))) return sentencePieceBytes;
  throw new HymbaError(
    "ERR_MODEL_UNSUPPORTED",
    "constrained output needs a tokenizer of bytes or of SentencePiece, and the decoder of this " +
      "tokenizer.json is neither",
  );
}

function sentencePieceBytes(token: string): Uint8Array {
  const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
  if (byte !== null) return Uint8Array.of(parseInt(byte[1]!, 16));
  return Buffer.from(token.replaceAll("▁", " "), "utf8");
}

/** GPT-2's alphabet: printable Latin-1 characters are their own bytes, the others follow from U+0100 on. */
function byteLevelBytes(): TokenBytes {
  const isPrintable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  const bytes = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    bytes.set(String.fromCharCode(isPrintable(byte) ? byte : next++), byte);
  }
  return (token) => {
    const found = Array.from(token, (c) => bytes.get(c));
    return found.every((byte) => byte !== undefined) ? Uint8Array.from(found) : undefined;
  };
}
