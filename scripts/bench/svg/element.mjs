// SVG as text.

/**
 * An element; children are markup, which `escape` makes of other text.
 * @param {string} name
 * @param {Readonly<Record<string, string | number>>} attributes pixels are rounded to tenths.
 * @param {readonly string[]} [children]
 * @returns {string}
 */
export function element(name, attributes, children = []) {
  const pairs = Object.entries(attributes).map(([key, value]) => {
    const text = typeof value === "number" ? String(Math.round(value * 10) / 10) : value;
    return ` ${key}="${escape(text)}"`;
  });
  const start = `<${name}${pairs.join("")}`;
  return children.length === 0 ? `${start}/>` : `${start}>${children.join("")}</${name}>`;
}

/** @param {string} text @returns {string} */
export function escape(text) {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}

/**
 * How wide text is, about: whose font it will be is not known. A wide one is assumed.
 * @param {string} text @param {number} fontSize
 * @returns {number}
 */
export function textWidth(text, fontSize) {
  return text.length * fontSize * 0.58;
}
