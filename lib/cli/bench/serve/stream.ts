import http from "node:http";
import https from "node:https";
import type { IncomingMessage } from "node:http";

/** Where requests go. */
export interface Target {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  /** Keeps connections for further requests. */
  readonly agent: http.Agent;
}

/** A target for so many requests at a time. */
export function openTarget(url: string, apiKey: string | undefined): Target {
  const parsed = new URL(url);
  const { Agent } = parsed.protocol === "https:" ? https : http;
  return {
    url: parsed,
    headers: {
      "content-type": "application/json",
      ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
    },
    agent: new Agent({ keepAlive: true, maxSockets: Infinity }),
  };
}

/** How a streamed answer came. Times are of `performance.now()`. */
export interface Timing {
  readonly sentAt: number;
  /** When each part that has text arrived. */
  readonly partsAt: readonly number[];
  readonly inputTokens: number;
  readonly outputTokens: number;
}

interface Part {
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: { readonly content?: string | null };
  }[];
  readonly usage?: { readonly prompt_tokens: number; readonly completion_tokens: number } | null;
  readonly error?: { readonly message?: string };
}

/**
 * Sends a request for a stream, and reads it to its end.
 * @throws Error when the answer is none.
 */
export async function timeStream(
  target: Target,
  body: object,
  signal: AbortSignal,
): Promise<Timing> {
  const text = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } });
  const sentAt = performance.now();
  const response = await send(target, text, signal);
  if (response.statusCode !== 200) throw await refusal(response);
  const partsAt: number[] = [];
  let usage: Part["usage"];
  for await (const data of readEvents(response)) {
    const now = performance.now();
    const part = JSON.parse(data) as Part;
    if (part.error !== undefined) throw new Error(part.error.message ?? data);
    const [choice] = part.choices ?? [];
    if (choice?.text || choice?.delta?.content) partsAt.push(now);
    usage = part.usage ?? usage;
  }
  if (!usage) throw new Error("the answer has no usage, although stream_options asked for it");
  return {
    sentAt,
    partsAt,
    inputTokens: usage.prompt_tokens,
    outputTokens: usage.completion_tokens,
  };
}

function send({ url, headers, agent }: Target, body: string, signal: AbortSignal) {
  const { request } = url.protocol === "https:" ? https : http;
  return new Promise<IncomingMessage>((resolve, reject) => {
    const asked = request(url, { method: "POST", headers, agent, signal }, resolve);
    asked.on("error", reject);
    asked.end(body);
  });
}

async function refusal(response: IncomingMessage): Promise<Error> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString().slice(0, 500);
  return new Error(`status ${response.statusCode}: ${text}`);
}

/** The data of server-sent events, up to `[DONE]`. */
async function* readEvents(response: IncomingMessage): AsyncGenerator<string, void, undefined> {
  response.setEncoding("utf8");
  let rest = "";
  let isDone = false;
  for await (const chunk of response as AsyncIterable<string>) {
    const events = (rest + chunk).split(/\r?\n\r?\n/);
    rest = events.pop()!;
    for (const event of events) {
      // Lines that begin otherwise are comments, and fields that are not used here.
      const data = /^data: ?(.*)$/m.exec(event)?.[1];
      if (data === "[DONE]") isDone = true;
      else if (data !== undefined) yield data;
    }
  }
  if (!isDone) throw new Error("the answer was cut off");
}
