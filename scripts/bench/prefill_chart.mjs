// The reading of one prompt against its length: tokens a second.
import { LIMIT_PREFILL, PUBLISHED_PREFILL, QWEN_PREFILL, REFERENCE_DEVICE } from "./references.mjs";
import { belowLegend, chart, HEIGHT, WIDTH } from "./svg/chart.mjs";
import { formatNumber, panel } from "./svg/panel.mjs";
import { fromZero, powersOfTwo } from "./svg/scale.mjs";

/**
 * @typedef {import("./rows.mjs").PrefillRow} PrefillRow
 * @typedef {import("./svg/panel.mjs").Style} Style
 * @typedef {{ tokens: number, tokensPerSecond: number }} Measurement
 * @typedef {Style & { name: string, of: readonly Measurement[] }} Line
 */

/** @type {readonly Line[]} */
const REFERENCES = [
  {
    ...{ name: "limit: 800 TFLOP/s", of: LIMIT_PREFILL },
    ...{ colour: "#57606a", dash: "6 4" },
  },
  {
    ...{ name: "published PyTorch code", of: PUBLISHED_PREFILL },
    ...{ colour: "#bc4c00", marker: "diamond" },
  },
  {
    ...{ name: "Qwen2.5-1.5B, transformers", of: QWEN_PREFILL },
    ...{ colour: "#8250df", marker: "diamond" },
  },
];

/** @param {readonly PrefillRow[]} rows sorted. @param {string} device @returns {string} an SVG. */
export function prefillChart(rows, device) {
  const measured = rows
    .filter(({ sequences }) => sequences === 1)
    .map(({ tokens, tokens_per_s }) => ({ tokens, tokensPerSecond: tokens_per_s }));
  if (measured.length === 0) throw new Error("no row of a single prompt (--sequences 1)");
  /** @type {Line} */
  const ours = { name: "hymba", of: measured, colour: "#0969da", marker: "circle" };
  const lines = [...(device === REFERENCE_DEVICE ? REFERENCES : []), ours];
  const legend = [{ heading: "", entries: lines.toReversed() }];
  const all = lines.flatMap(({ of }) => of);
  const box = { left: 80, top: belowLegend(legend) + 18, right: WIDTH - 20, bottom: HEIGHT - 54 };
  const tokenAxis = {
    caption: "tokens of the prompt",
    ticks: powersOfTwo(all.map(({ tokens }) => tokens)),
    isLog: true,
  };
  const speedAxis = {
    caption: "tokens/s",
    ticks: fromZero(all.map(({ tokensPerSecond }) => tokensPerSecond)),
    isLog: false,
  };
  const about = {
    title: `One prompt, Hymba-1.5B (random weights, bfloat16), on one ${device}`,
    description: `Tokens/s. ${measured.map(describe).join("; ")}.`,
    legend,
  };
  const series = lines.map(({ name, of, ...style }) => ({
    ...style,
    points: of.map((at) => ({
      ...{ x: at.tokens, y: at.tokensPerSecond, label: formatNumber(at.tokensPerSecond) },
      hint: `${name}, ${describe(at)}`,
    })),
  }));
  return chart(about, [panel(box, tokenAxis, speedAxis, series)]);
}

/** @param {Measurement} at @returns {string} */
function describe({ tokens, tokensPerSecond }) {
  return `${formatNumber(tokens)} tokens: ${formatNumber(tokensPerSecond)} tokens/s`;
}
