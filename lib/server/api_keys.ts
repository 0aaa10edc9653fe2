import { createHash, timingSafeEqual } from "node:crypto";

/** The keys that requests may have. */
export class ApiKeys {
  readonly #digests: readonly Buffer[];

  constructor(keys: readonly string[]) {
    this.#digests = keys.map(digest);
  }

  /**
   * Whether an Authorization header has one of the keys, if there are any: as `Bearer <key>`, or as the password of
   * `Basic`, which browsers ask people for. Digests are compared, each in constant time, and all of
   * them: how long that takes says nothing about the keys.
   */
  accepts(authorization: string | undefined): boolean {
    if (this.#digests.length === 0) return true;
    const given = digest(credential(authorization ?? ""));
    let found = false;
    for (const known of this.#digests) found = timingSafeEqual(known, given) || found;
    return found;
  }
}

function digest(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

function credential(authorization: string): string {
  const [, scheme = "", value = ""] = /^(\S+) +(\S+)$/.exec(authorization) ?? [];
  if (scheme.toLowerCase() === "bearer") return value;
  if (scheme.toLowerCase() !== "basic") return "";
  const pair = Buffer.from(value, "base64").toString();
  return pair.slice(pair.indexOf(":") + 1);
}
