import { z } from "zod";
import { chatBody } from "../openai/chat_completions";
import { completionBody } from "../openai/completions";
import { detokenizeBody, tokenizeBody } from "./token_routes";

/** The form of a body, as JSON schema. */
const bodyOf = (schema: z.ZodType): object => {
  const { $schema: _, ...json } = z.toJSONSchema(schema, { unrepresentable: "any", io: "input" });
  return { required: true, content: { "application/json": { schema: json } } };
};

const JSON_ANSWER = { "application/json": {} };
const ERRORS = { default: { $ref: "#/components/responses/error" } };

const get = (summary: string, content: object = JSON_ANSWER): object => ({
  get: { summary, responses: { 200: { description: summary, content }, ...ERRORS } },
});

const post = (summary: string, schema: z.ZodType, content: object = JSON_ANSWER): object => ({
  post: {
    summary,
    requestBody: bodyOf(schema),
    responses: { 200: { description: summary, content }, ...ERRORS },
  },
});

const STREAMED = { ...JSON_ANSWER, "text/event-stream": {} };
const text = (nullable: boolean) => ({ type: nullable ? ["string", "null"] : "string" });

/** What the server can be asked, for programs that read such descriptions: OpenAPI 3.1. */
export function openApiDocument(version: string): object {
  return {
    openapi: "3.1.0",
    info: { title: "hymba", version, description: "Text by a Hymba model, in OpenAI's way." },
    security: [{ key: [] }],
    paths: {
      "/v1/completions": post("Texts that continue prompts", completionBody, STREAMED),
      "/v1/chat/completions": post("The next message of a conversation", chatBody, STREAMED),
      "/v1/models": get("The names of the model"),
      "/tokenize": post("Tokens of a text or a conversation", tokenizeBody),
      "/detokenize": post("Text of tokens", detokenizeBody),
      "/tokenizer_info": get("Special tokens and chat template"),
      "/health": get("Whether the server answers requests; open to all"),
      "/version": get("The server's version"),
      "/metrics": get("Metrics for Prometheus", { "text/plain": {} }),
    },
    components: {
      securitySchemes: { key: { type: "http", scheme: "bearer" } },
      responses: {
        error: {
          description: "What went wrong; 429 and 503 say by Retry-After when to ask again",
          content: {
            "application/json": {
              schema: {
                type: "object",
                required: ["error"],
                properties: {
                  error: {
                    type: "object",
                    required: ["message", "type", "param", "code"],
                    properties: {
                      message: text(false),
                      type: text(false),
                      param: text(true),
                      code: text(true),
                    },
                  },
                },
              },
            },
          },
        },
      },
    },
  };
}
