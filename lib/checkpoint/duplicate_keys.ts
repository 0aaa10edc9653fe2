/**
 * The first key that an object of a JSON text has twice: `JSON.parse` keeps the last one silently,
 * where another reader may keep the first.
 * @param text valid JSON.
 */
export function findDuplicateKey(text: string): string | undefined {
  /** Keys of each object that is open at this point; undefined for an array. */
  const open: (Set<string> | undefined)[] = [];
  /** The last string, until something other than white space follows it. */
  let lastString: string | undefined;
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '"': {
        const end = findStringEnd(text, i);
        lastString = text.slice(i, end);
        i = end - 1;
        break;
      }
      case ":": {
        // Only a key is followed by a colon. Parsing it resolves escapes: "a" and "\u0061" are one.
        const key = JSON.parse(lastString as string) as string;
        const keys = open.at(-1) as Set<string>;
        if (keys.has(key)) return key;
        keys.add(key);
        break;
      }
      case "{":
        open.push(new Set());
        break;
      case "[":
        open.push(undefined);
        break;
      case "}":
      case "]":
        open.pop();
        break;
      default:
    }
  }
  return undefined;
}

/** One past the quote that closes the string whose opening quote is at `begin`. */
function findStringEnd(text: string, begin: number): number {
  let i = begin + 1;
  while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
  return i + 1;
}
