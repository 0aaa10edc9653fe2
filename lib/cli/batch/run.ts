import { randomUUID } from "node:crypto";
import { ApiError, requestError } from "../../openai/api_error";
import { answer, type Served } from "../../openai/answer";
import { type BatchLine, readBatch } from "./input";
import { type BatchOutput, ID_PREFIX, type OutputLine } from "./output";

/** How a batch is worked through. */
export interface BatchOptions {
  /** Requests that the engine has at a time; no more of the input is in memory. */
  readonly maxRequests: number;
  /** Ends the batch: what runs is dropped, what is in the output stays. */
  readonly signal: AbortSignal;
  /** Called when a line is in the output. */
  readonly onDone: (line: OutputLine) => void;
}

/**
 * Answers the lines of an input that the output does not have.
 * @throws what is not the fault of a request, such as an abort, a lost device or a full disk.
 */
export async function runBatch(
  served: Served,
  input: string,
  output: BatchOutput,
  { maxRequests, signal, onDone }: BatchOptions,
): Promise<void> {
  const lines = readBatch(input);
  // When one of them fails, its loop ends the input, and so all loops.
  const work = async (): Promise<void> => {
    for await (const line of lines) {
      if (output.has(line)) continue;
      const answered = await answerLine(served, line, signal);
      await output.add(answered);
      onDone(answered);
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: maxRequests }, work));
  const failure = ended.find((result) => result.status === "rejected");
  if (failure !== undefined) throw failure.reason;
}

async function answerLine(
  served: Served,
  { number, customId, request }: BatchLine,
  signal: AbortSignal,
): Promise<OutputLine> {
  const line = {
    id: `${ID_PREFIX}${randomUUID()}`,
    custom_id: customId ?? null,
    response: null,
    error: null,
  } as const;
  if (request instanceof ApiError) {
    const { message, param, code } = request;
    return { ...line, error: { code: code ?? "invalid_line", message, param, line: number } };
  }
  const request_id = randomUUID();
  try {
    const asked = await request.endpoint(served.model, request.body);
    if (asked.stream !== undefined) {
      throw new ApiError("stream must be false: the answers of a batch are whole", "stream");
    }
    const body = await answer(served, asked, signal);
    return { ...line, response: { status_code: 200, request_id, body } };
  } catch (error) {
    const fault = requestError(error);
    if (fault === undefined) throw error;
    return { ...line, response: { status_code: fault.status, request_id, body: fault.body } };
  }
}
