import { HymbaError, type HymbaErrorCode } from "../errors";

/** What a client is told, in OpenAI's shape. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    /** The field that is to blame. */
    readonly param: string | null;
    readonly code: string | null;
  };
}

/** A request that cannot be answered, by its own fault. */
export class ApiError extends Error {
  /** Of HTTP. */
  readonly status = 400;
  readonly param: string | null;
  readonly code: string | null;

  constructor(message: string, param: string | null = null, code: string | null = null) {
    super(message);
    this.param = param;
    this.code = code;
  }

  /** As it is answered. */
  get body(): ErrorBody {
    const { message, param, code } = this;
    return { error: { message, type: "invalid_request_error", param, code } };
  }
}

/** Errors of the library that are a request's own fault, and OpenAI's codes for them. */
const REQUEST_ERRORS: Readonly<Partial<Record<HymbaErrorCode, string | null>>> = {
  ERR_INVALID_ARGUMENT: null,
  ERR_MODEL_UNSUPPORTED: null,
  ERR_CONTEXT_FULL: "context_length_exceeded",
};

/** An option of the library in a message of the library, which a client knows by the name of a field. */
const OPTION = /\boptions\.(\w+)/g;

/** The error as its request's fault; undefined when it is somebody else's. */
export function requestError(error: unknown): ApiError | undefined {
  if (error instanceof ApiError) return error;
  if (!(error instanceof Error)) return undefined;
  const [option] = error.message.matchAll(OPTION);
  const param = option === undefined ? null : fieldOf(option[1]!);
  const message = error.message
    .replace(OPTION, (_, name: string) => fieldOf(name))
    // How a call of several sequences counts them.
    .replace(/^request \d+: /, "the prompt is too long: ");
  if (error instanceof HymbaError) {
    const code = REQUEST_ERRORS[error.code];
    return code === undefined ? undefined : new ApiError(message, param, code);
  }
  const isArgument = error instanceof TypeError || error instanceof RangeError;
  return isArgument && param !== null ? new ApiError(message, param) : undefined;
}

/** `topP` is `top_p`. */
function fieldOf(option: string): string {
  return option.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
