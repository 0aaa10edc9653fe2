const YEAR = "\\d{4}";
/** Days that there are in every year: the 29th of February is left out. */
const DATE =
  `${YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|` +
  "02-(?:0[1-9]|1\\d|2[0-8]))";
const TIME =
  "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)";
const BYTE = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const LABEL = "[A-Za-z0-9]{1,20}(?:-[A-Za-z0-9]{1,20}){0,2}";
const WORD = "[A-Za-z0-9_+-]+";
const DOMAIN = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*";

/**
 * `format`s of JSON Schema as patterns of the whole string. They match valid strings only, but not
 * all of them: no leap days and seconds, no quoted names in addresses.
 */
export const FORMATS: ReadonlyMap<string, string> = new Map([
  ["date", DATE],
  ["time", TIME],
  ["date-time", `${DATE}T${TIME}`],
  ["uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"],
  ["ipv4", `${BYTE}(?:\\.${BYTE}){3}`],
  ["hostname", `${LABEL}(?:\\.${LABEL}){0,2}`],
  ["email", `${WORD}(?:\\.${WORD})*@${DOMAIN}(?:\\.${DOMAIN})+`],
]);
