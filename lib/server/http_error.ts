import { HymbaError } from "../errors";
import { type ErrorBody, requestError } from "../openai/api_error";

/** OpenAI's words for whose fault an error is. */
type ErrorType = "invalid_request_error" | "rate_limit_error" | "server_error";

/** What a request is answered with when it is not answered. */
export class HttpError extends Error {
  readonly status: number;
  readonly code: string | null;
  readonly param: string | null;
  /** Seconds after which to ask again; undefined: that would not help. */
  readonly retryAfter: number | undefined;

  constructor(
    status: number,
    message: string,
    options: {
      readonly code?: string | null;
      readonly param?: string | null;
      readonly retryAfter?: number;
      readonly cause?: unknown;
    } = {},
  ) {
    super(message, options);
    this.status = status;
    this.code = options.code ?? null;
    this.param = options.param ?? null;
    this.retryAfter = options.retryAfter;
  }

  /** In OpenAI's shape. */
  get body(): ErrorBody {
    const { message, param, code } = this;
    return { error: { message, type: this.#type, param, code } };
  }

  get #type(): ErrorType {
    if (this.status >= 500) return "server_error";
    return this.status === 429 ? "rate_limit_error" : "invalid_request_error";
  }
}

/** The model cannot be used any more. */
export function isFatal(error: unknown): boolean {
  return error instanceof HymbaError && error.code === "ERR_DEVICE_LOST";
}

/** Seconds after which something else may have come up. */
const RESTART_SECONDS = 10;

/** The server is about to stop. */
export function drainingError(): HttpError {
  return new HttpError(503, "the server is stopping: ask another one, or again", {
    code: "stopping",
    retryAfter: RESTART_SECONDS,
  });
}

/** What a client is told about an error. What is not its own fault is told without details. */
export function toHttpError(error: unknown): HttpError {
  if (error instanceof HttpError) return error;
  const fault = requestError(error);
  if (fault !== undefined) {
    const { status, message, param, code } = fault;
    return new HttpError(status, message, { param, code, cause: error });
  }
  if (error instanceof HymbaError) return fromLibrary(error);
  return fromFramework(error) ?? new HttpError(500, "an internal error", { cause: error });
}

function fromLibrary(error: HymbaError): HttpError {
  switch (error.code) {
    case "ERR_OUT_OF_MEMORY":
      return new HttpError(503, "there is no room for the request", {
        retryAfter: 1,
        cause: error,
      });
    case "ERR_DISPOSED":
    case "ERR_DEVICE_LOST":
      return new HttpError(503, "the model is gone", {
        code: "model_gone",
        retryAfter: RESTART_SECONDS,
        cause: error,
      });
    default:
      return new HttpError(500, "an internal error", { cause: error });
  }
}

/** Fastify's own errors about requests, such as a body that is too large. */
function fromFramework(error: unknown): HttpError | undefined {
  if (!(error instanceof Error)) return undefined;
  const { statusCode, code, message } = error as Error & { statusCode?: number; code?: string };
  if (statusCode === undefined || statusCode < 400 || statusCode > 499) return undefined;
  return new HttpError(statusCode, MESSAGES[code ?? ""] ?? message, { cause: error });
}

const MESSAGES: Readonly<Record<string, string>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: "the body is larger than the server takes (--max-body)",
  FST_ERR_CTP_EMPTY_JSON_BODY: "the body is empty: it must be JSON",
  FST_ERR_CTP_INVALID_MEDIA_TYPE: "the body must be JSON, with Content-Type: application/json",
};
