/** Problems of one kind that a message lists; the rest is counted. */
const MAX_LISTED = 20;

/** Problems as one line, the first twenty in full. */
export function formatList(problems: readonly string[], separator = "; "): string {
  const listed = problems.slice(0, MAX_LISTED).join(separator);
  const rest = problems.length - MAX_LISTED;
  return rest > 0 ? `${listed}${separator}and ${rest} more` : listed;
}

/** Characters of a value that a message shows: room for any name or shape that is meant to be. */
const MAX_SHOWN = 80;

/** A value of a JSON file as an error message shows it: short, and on one line. */
export function describeValue(value: unknown): string {
  if (value === undefined) return "nothing";
  // JSON turns NaN and the infinities into null.
  const text = typeof value === "number" ? String(value) : toJson(value);
  return text.length <= MAX_SHOWN ? text : `${text.slice(0, MAX_SHOWN - 3)}...`;
}

/** Unlike parsing, writing JSON is recursive, and fails some thousand levels deep. */
function toJson(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch {
    return "something nested too deeply";
  }
}
