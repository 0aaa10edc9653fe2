// What surrounds the panels: the picture with its background, its title and the legend.
import { element, escape, textWidth } from "./element.mjs";
import { swatch } from "./panel.mjs";

/**
 * @typedef {import("./panel.mjs").Style} Style
 * @typedef {Style & { name: string }} Entry
 * @typedef {{ heading: string, entries: readonly Entry[] }} LegendRow
 */

export const WIDTH = 800;
export const HEIGHT = 420;

const MARGIN = 20;
const TITLE_Y = 30;
const LEGEND_Y = 54;
const LEGEND_ROW = 19;
const LEGEND_SIZE = 12;
const LEGEND_GAP = 18;
const SWATCH = 26;

/** Where panels may begin. @param {readonly LegendRow[]} legend @returns {number} */
export function belowLegend(legend) {
  return LEGEND_Y + legend.length * LEGEND_ROW;
}

/**
 * @param {{ title: string, description: string, legend: readonly LegendRow[] }} about
 * @param {readonly string[]} panels
 * @returns {string} a whole file.
 */
export function chart({ title, description, legend }, panels) {
  const attributes = {
    xmlns: "http://www.w3.org/2000/svg",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    ...{ width: WIDTH, height: HEIGHT, role: "img", "aria-labelledby": "title description" },
    "font-family": "system-ui, sans-serif",
  };
  const heading = { x: MARGIN, y: TITLE_Y, "font-size": 14, "font-weight": 600, fill: "#1f2328" };
  const parts = [
    element("title", { id: "title" }, [escape(title)]),
    element("desc", { id: "description" }, [escape(description)]),
    // Readable on a dark page, too.
    element("rect", { width: WIDTH, height: HEIGHT, rx: 8, fill: "#ffffff" }),
    element("text", heading, [escape(title)]),
    ...legend.map((row, i) => legendRow(row, LEGEND_Y + i * LEGEND_ROW)),
    ...panels,
  ];
  return `${element("svg", attributes, [`\n${parts.join("\n")}\n`])}\n`;
}

/** @param {LegendRow} row @param {number} y @returns {string} */
function legendRow({ heading, entries }, y) {
  let x = MARGIN;
  const parts = heading ? [legendText(heading, x, y)] : [];
  if (heading) x += textWidth(heading, LEGEND_SIZE) + LEGEND_GAP;
  for (const { name, ...style } of entries) {
    parts.push(swatch(x, y - 4, SWATCH, style), legendText(name, x + SWATCH + 6, y));
    x += SWATCH + 6 + textWidth(name, LEGEND_SIZE) + LEGEND_GAP;
  }
  return parts.join("");
}

/** @param {string} text @param {number} x @param {number} y @returns {string} */
function legendText(text, x, y) {
  return element("text", { x, y, "font-size": LEGEND_SIZE, fill: "#1f2328" }, [escape(text)]);
}
