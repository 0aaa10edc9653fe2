import { Tokenizer as JsTokenizer } from "@huggingface/tokenizers";
import { HymbaError } from "../errors";
import { createJsEncoder, createNativeEncoder, type TokenEncoder } from "./encoder";
import { tokenBytesOf } from "./token_bytes";
import { readTokenizerFiles, type TokenizerFiles } from "./tokenizer_files";

/** Options of {@link Tokenizer.load}. */
export interface TokenizerLoadOptions {
  /**
   * Which implementation encodes. `auto` takes the native one, which works off the event loop, and
   * falls back to JavaScript where it has no binary or refuses the file. Default `auto`.
   */
  readonly encoder?: "auto" | "native" | "javascript";
}

/** Tokens put before and after a text. */
interface Frame {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/**
 * The tokenizer of a model folder (`tokenizer.json`): text to token ids and back.
 *
 * Encoding is native and off the event loop where possible; decoding, which is cheap and called for
 * every generated token, is synchronous.
 */
export class Tokenizer {
  readonly #decoder: JsTokenizer;
  readonly #encoder: TokenEncoder;
  /** Tokens put around a text; undefined leaves it to the post-processor. */
  readonly #frame: Frame | undefined;
  /** `decoder` of `tokenizer.json`. */
  readonly #decoderSteps: unknown;
  /** Ids of added tokens, which are written as they are. */
  readonly #addedTokens: ReadonlyMap<number, string>;

  /** One more than the largest token id. A model may have more rows than this, never fewer. */
  readonly vocabSize: number;
  /** Ids of the tokens that are marks rather than text, such as BOS and EOS. */
  readonly specialTokenIds: ReadonlySet<number>;
  /** Text of the beginning-of-sequence token, if there is one. */
  readonly bosToken: string | undefined;
  /** Text of the end-of-sequence token, if there is one. */
  readonly eosToken: string | undefined;
  /** Id of the beginning-of-sequence token, if there is one. */
  readonly bosTokenId: number | undefined;
  /** Id of the end-of-sequence token, if there is one. */
  readonly eosTokenId: number | undefined;
  /** Id of the padding token, if there is one. */
  readonly padTokenId: number | undefined;
  /** Jinja source of the model's default chat template, if it has one. */
  readonly chatTemplate: string | undefined;

  private constructor(files: TokenizerFiles, decoder: JsTokenizer, encoder: TokenEncoder) {
    this.#decoder = decoder;
    this.#encoder = encoder;
    this.vocabSize = files.vocabSize;
    this.bosToken = files.bosToken;
    this.eosToken = files.eosToken;
    this.bosTokenId = this.#idOf(files.bosToken);
    this.eosTokenId = this.#idOf(files.eosToken);
    this.padTokenId = this.#idOf(files.padToken);
    this.chatTemplate = files.chatTemplate;
    this.specialTokenIds = files.specialTokenIds;
    this.#decoderSteps = (files.definition as { decoder?: unknown }).decoder;
    this.#addedTokens = files.addedTokens;
    this.#frame = this.#frameFor(files);
  }

  /**
   * Reads the tokenizer of a Hugging Face model folder.
   *
   * Special tokens around a text follow Hugging Face: when `tokenizer_config.json` says
   * `add_bos_token`, BOS (and EOS, if `add_eos_token` is true) are added exactly as it says;
   * otherwise the post-processor of `tokenizer.json` decides.
   * @param folder path of the model folder.
   * @throws HymbaError ERR_MODEL_FORMAT when `tokenizer.json` is missing or malformed;
   * ERR_MODEL_UNSUPPORTED when it uses a kind of tokenizer that is not known here.
   */
  static async load(folder: string, options: TokenizerLoadOptions = {}): Promise<Tokenizer> {
    const files = await readTokenizerFiles(folder);
    let decoder: JsTokenizer;
    try {
      // No config: it would add clean-up steps that tokenizer.json does not have, and that make the
      // text of a token depend on tokens far from it.
      decoder = new JsTokenizer(files.definition, {});
    } catch (error) {
      throw unsupported(folder, error);
    }
    const encoder = await chooseEncoder(folder, files, decoder, options.encoder ?? "auto");
    return new Tokenizer(files, decoder, encoder);
  }

  /** Which implementation encodes: `native` works off the event loop, `javascript` on it. */
  get encoderKind(): "native" | "javascript" {
    return this.#encoder.kind;
  }

  /**
   * Token ids of a text.
   *
   * Special tokens written out in the text (`</s>`) become those tokens, as in Hugging Face.
   * @param options.addSpecialTokens whether BOS and the like are added where the model wants them
   * (see {@link Tokenizer.load}); false for the output of a chat template, which has them already.
   * Default true.
   */
  async encode(
    text: string,
    options: { readonly addSpecialTokens?: boolean } = {},
  ): Promise<Int32Array> {
    if (typeof text !== "string") {
      throw new TypeError(`text must be a string, got ${typeof text}`);
    }
    const { addSpecialTokens = true } = options;
    if (this.#frame === undefined) return this.#encoder.encode(text, addSpecialTokens);
    const ids = await this.#encoder.encode(text, false);
    if (!addSpecialTokens) return ids;
    return Int32Array.from([...this.#frame.before, ...ids, ...this.#frame.after]);
  }

  /**
   * Text of token ids. Bytes that are not UTF-8 become U+FFFD; ids that have no token (a model may
   * have spare rows) become nothing.
   * @param options.skipSpecialTokens whether special tokens are left out. Default true.
   * @throws TypeError when a token is not an integer ≥ 0.
   */
  decode(
    tokens: ArrayLike<number>,
    options: { readonly skipSpecialTokens?: boolean } = {},
  ): string {
    const { skipSpecialTokens = true } = options;
    const ids = Array.from(tokens).filter((id) => {
      if (!Number.isInteger(id) || id < 0) {
        throw new TypeError(`a token must be an integer >= 0, got ${String(id)}`);
      }
      if (skipSpecialTokens && this.specialTokenIds.has(id)) return false;
      return this.idToToken(id) !== undefined;
    });
    if (ids.length === 0) return "";
    return this.#decoder.decode(ids, { clean_up_tokenization_spaces: false });
  }

  /** Id of a token as the vocabulary writes it (`Ġthe`, `▁the`, `</s>`). */
  tokenToId(token: string): number | undefined {
    return this.#decoder.token_to_id(token);
  }

  /** The token of an id as the vocabulary writes it; its text is `decode([id])`. */
  idToToken(id: number): string | undefined {
    return this.#decoder.id_to_token(id);
  }

  /**
   * The bytes that each token adds to a text, by id; undefined for special tokens and for ids without
   * a token.
   * @throws HymbaError ERR_MODEL_UNSUPPORTED when the tokens do not stand for bytes of their own.
   */
  tokenBytes(): (Uint8Array | undefined)[] {
    const bytesOf = tokenBytesOf(this.#decoderSteps);
    return Array.from({ length: this.vocabSize }, (_, id) => {
      if (this.specialTokenIds.has(id)) return undefined;
      const added = this.#addedTokens.get(id);
      if (added !== undefined) return Buffer.from(added, "utf8");
      const token = this.idToToken(id);
      return token === undefined ? undefined : bytesOf(token);
    });
  }

  #idOf(token: string | undefined): number | undefined {
    return token === undefined ? undefined : this.tokenToId(token);
  }

  #frameFor(files: TokenizerFiles): Frame | undefined {
    if (files.addBosToken === undefined) return undefined;
    const required = (option: string, id: number | undefined): number => {
      if (id !== undefined) return id;
      throw new HymbaError(
        "ERR_MODEL_FORMAT",
        `tokenizer_config.json sets ${option}, but names no such token of the vocabulary`,
      );
    };
    return {
      before: files.addBosToken ? [required("add_bos_token", this.bosTokenId)] : [],
      after: files.addEosToken ? [required("add_eos_token", this.eosTokenId)] : [],
    };
  }
}

async function chooseEncoder(
  folder: string,
  files: TokenizerFiles,
  decoder: JsTokenizer,
  wanted: "auto" | "native" | "javascript",
): Promise<TokenEncoder> {
  if (wanted === "javascript") return createJsEncoder(decoder);
  try {
    return await createNativeEncoder(files.definitionText);
  } catch (error) {
    if (wanted === "native") throw unsupported(folder, error);
    return createJsEncoder(decoder);
  }
}

function unsupported(folder: string, cause: unknown): HymbaError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new HymbaError(
    "ERR_MODEL_UNSUPPORTED",
    `the tokenizer of "${folder}" cannot be used: ${reason}`,
    { cause },
  );
}
