import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import OpenAI from "openai";
import { pino } from "pino";
import { HymbaModel, type LoadOptions } from "../../lib";
import type { ServerOptions } from "../../lib/server/options";
import { HymbaServer } from "../../lib/server/server";
import { ROOT } from "./package";

export const NAME = "tiny";

/** A model, a server at any free port or at a path, and what it has logged. */
export class TestServer {
  readonly #fresh;

  private constructor(
    readonly model: HymbaModel,
    readonly server: HymbaServer,
    readonly url: string,
    readonly log: string[],
  ) {
    this.#fresh = model.info().cache;
  }

  static async start(
    options: Partial<ServerOptions> & { readonly path?: string; readonly load?: LoadOptions } = {},
  ): Promise<TestServer> {
    const { path, load, ...rest } = options;
    const model = await HymbaModel.load(join(ROOT, "models", "hymba-tiny"), {
      device: "cpu",
      maxSequences: 4,
      maxContextTokens: 256,
      ...load,
    });
    const log: string[] = [];
    const logger = pino({ base: null }, { write: (line: string) => void log.push(line) });
    const server = new HymbaServer(model, { names: [NAME, "alias/of it"], ...rest }, logger);
    const url = await server.listen(path === undefined ? { host: "127.0.0.1", port: 0 } : { path });
    return new TestServer(model, server, url, log);
  }

  /** OpenAI's client. */
  client(apiKey = "none"): OpenAI {
    return new OpenAI({ apiKey, baseURL: `${this.url}/v1`, maxRetries: 0 });
  }

  get(path: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
    return fetch(this.url + path, { headers });
  }

  post(
    path: string,
    body: unknown,
    headers: Readonly<Record<string, string>> = {},
    signal: AbortSignal | null = null,
  ): Promise<Response> {
    return fetch(this.url + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
      signal,
    });
  }

  /** The values of the metrics, by name and labels without the model's. */
  async metrics(): Promise<Map<string, number>> {
    const text = await (await this.get("/metrics")).text();
    const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    return new Map(
      lines.map((line) => {
        const [, name = "", labels = "", value] = /^hymba_(\w+)\{(.*)\} (\S+)$/.exec(line) ?? [];
        const own = labels.split(",").filter((label) => !label.startsWith("model_name="));
        return [own.length === 0 ? name : `${name} ${own.join(",")}`, Number(value)];
      }),
    );
  }

  /** Requests and sequences that are not done; slots and pages that are not back. */
  leftOver(): object {
    const { sequences, globalPages, stateSlots } = this.model.info().cache;
    return {
      open: this.server.openRequests,
      sequences: sequences.used,
      // Those of the meta tokens are always in use.
      pages: globalPages.used - this.#fresh.globalPages.used,
      slots: stateSlots.used - this.#fresh.stateSlots.used,
    };
  }

  /** Waits until everything is as in the beginning. */
  async settled(): Promise<void> {
    const nothing = { open: 0, sequences: 0, pages: 0, slots: 0 };
    for (let i = 0; i < 200; i++) {
      if (JSON.stringify(this.leftOver()) === JSON.stringify(nothing)) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(this.leftOver()).toEqual(nothing);
  }

  async stop(graceMs = 0): Promise<void> {
    await this.server.close(graceMs);
    await this.model.dispose();
  }
}

/** Bytes on a connection of their own, for requests that no client would make. */
export async function rawConnection(url: string): Promise<Socket> {
  const socket = url.startsWith("http")
    ? connect(Number(new URL(url).port), "127.0.0.1")
    : connect(url);
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
}

/** A request over HTTP/1.1 as text. */
export function rawPost(path: string, body: string, headers: readonly string[] = []): string {
  return [
    `POST ${path} HTTP/1.1`,
    "Host: localhost",
    "Content-Type: application/json",
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...headers,
    "",
    body,
  ].join("\r\n");
}
