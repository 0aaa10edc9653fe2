import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { App } from "./app";
import { openApiDocument } from "./openapi";
import type { ServerState } from "./state";

/** The page to try the model, which is one file; lib/ and dist/ are equally deep. */
const PAGE = join(__dirname, "..", "..", "web", "index.html");

/** What the page may do: run its own script, and ask this server. */
const POLICY =
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** What people and programs find out about the server by. */
export function addPageRoutes(app: App, { version }: ServerState): void {
  const page = readFileSync(PAGE);
  const document = JSON.stringify(openApiDocument(version));
  app.get("/", (_request, reply) =>
    reply
      .type("text/html; charset=utf-8")
      .header("content-security-policy", POLICY)
      .header("x-content-type-options", "nosniff")
      .send(page),
  );
  app.get("/openapi.json", (_request, reply) => reply.type("application/json").send(document));
}
