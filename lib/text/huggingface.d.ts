// What we use of two packages whose own declarations import without file extensions, which Node's
// module rules, and so TypeScript's, do not resolve: everything in them would silently be `any`.

declare module "@huggingface/tokenizers" {
  export class Tokenizer {
    constructor(tokenizer: object, config: object);
    encode(text: string, options?: { add_special_tokens?: boolean }): { ids: number[] };
    decode(
      ids: number[],
      options?: { skip_special_tokens?: boolean; clean_up_tokenization_spaces?: boolean },
    ): string;
    token_to_id(token: string): number | undefined;
    id_to_token(id: number): string | undefined;
  }
}

declare module "@huggingface/jinja" {
  export class Template {
    constructor(template: string);
    readonly parsed: { readonly body: unknown[] };
    render(variables?: Record<string, unknown>): string;
  }
}
