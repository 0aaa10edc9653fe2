import { HttpError } from "./http_error";
import type { ServerState } from "./state";

/**
 * Checks a name by which a request calls the model; none is fine.
 * @throws HttpError 404.
 */
export function checkModelName({ options }: ServerState, name: string | undefined): void {
  if (name === undefined || options.names.includes(name)) return;
  const names = options.names.map((known) => JSON.stringify(known)).join(" or ");
  throw new HttpError(404, `there is no such model here: it is called ${names}`, {
    code: "model_not_found",
    param: "model",
  });
}
