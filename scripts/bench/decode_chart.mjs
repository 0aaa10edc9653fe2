// Decode steps against the number of sequences: tokens a second, and the share of the limit.
import { COMPILED_DECODE, REFERENCE_DEVICE } from "./references.mjs";
import { belowLegend, chart, HEIGHT, WIDTH } from "./svg/chart.mjs";
import { formatNumber, panel } from "./svg/panel.mjs";
import { oneTwoFive, powersOfTwo } from "./svg/scale.mjs";

/**
 * @typedef {import("./rows.mjs").DecodeRow} DecodeRow
 * @typedef {import("./svg/panel.mjs").Style} Style
 * @typedef {{ ours: Style, limit: Style, compiled: Style }} Styles
 *
 * @typedef {object} Group the rows of one context.
 * @property {number} context
 * @property {Styles} styles
 * @property {readonly DecodeRow[]} rows
 * @property {readonly { batch: number, tokensPerSecond: number }[]} compiled
 */

/** One of each a context. @type {readonly Styles[]} */
const STYLES = [
  stylesOf("#0969da", "#57606a", "#bc4c00"),
  stylesOf("#8250df", "#8c959f", "#9a6700"),
  stylesOf("#1a7f37", "#afb8c1", "#a40e26"),
];

/** @param {string} ours @param {string} limit @param {string} compiled @returns {Styles} */
function stylesOf(ours, limit, compiled) {
  return {
    ours: { colour: ours, marker: "circle" },
    limit: { colour: limit, dash: "6 4" },
    compiled: { colour: compiled, dash: "2 4", marker: "diamond" },
  };
}

/** @param {readonly DecodeRow[]} rows sorted. @param {string} device @returns {string} an SVG. */
export function decodeChart(rows, device) {
  const groups = groupByContext(rows, device);
  const legend = groups.map(({ context, styles, compiled }) => ({
    heading: `${formatNumber(context)} tokens each:`,
    entries: [
      { name: "hymba", ...styles.ours },
      { name: "limit: bytes at copy speed", ...styles.limit },
      ...(compiled.length > 0 ? [{ name: "torch.compile + CUDA graph", ...styles.compiled }] : []),
    ],
  }));
  const top = belowLegend(legend) + 18;
  const bottom = HEIGHT - 54;
  const batches = groups.flatMap((group) => [...group.rows, ...group.compiled]);
  const batchAxis = {
    caption: "sequences in a step",
    ticks: powersOfTwo(batches.map(({ batch }) => batch)),
    isLog: true,
  };
  const speeds = groups.flatMap(speedSeries);
  const speedAxis = {
    caption: "tokens/s, all sequences together",
    ticks: oneTwoFive(speeds.flatMap(({ points }) => points.map(({ y }) => y))),
    isLog: true,
  };
  const shareAxis = { caption: "% of the limit", ticks: [0, 20, 40, 60, 80, 100], isLog: false };
  const about = {
    title: `Decode steps of Hymba-1.5B (random weights, bfloat16) on one ${device}`,
    description: `Sequences: tokens/s, share of the limit. ${rows.map(describe).join("; ")}.`,
    legend,
  };
  return chart(about, [
    panel({ left: 70, top, right: 440, bottom }, batchAxis, speedAxis, speeds),
    panel(
      { left: 500, top, right: WIDTH - 20, bottom },
      batchAxis,
      shareAxis,
      groups.flatMap(shareSeries),
    ),
  ]);
}

/** @param {readonly DecodeRow[]} rows @param {string} device @returns {Group[]} */
function groupByContext(rows, device) {
  const contexts = [...new Set(rows.map(({ context }) => context))];
  return contexts.map((context, i) => {
    const styles = STYLES[i];
    if (styles === undefined) {
      throw new Error(`${contexts.length} contexts, but a chart shows ${STYLES.length} at most`);
    }
    const references = device === REFERENCE_DEVICE ? COMPILED_DECODE : [];
    return {
      context,
      styles,
      rows: rows.filter((row) => row.context === context),
      compiled: references.filter((reference) => reference.context === context),
    };
  });
}

/** @param {Group} group */
function speedSeries({ context, styles, rows, compiled }) {
  const hint = (/** @type {number} */ batch, /** @type {number} */ speed) =>
    `${batch} × ${formatNumber(context)}: ${formatNumber(speed)} tokens/s`;
  return [
    {
      ...styles.limit,
      points: rows.map((row) => ({ x: row.batch, y: limitOf(row), hint: "" })),
    },
    {
      ...styles.compiled,
      points: compiled.map(({ batch, tokensPerSecond: y }) => ({
        ...{ x: batch, y, hint: hint(batch, y), label: formatNumber(y) },
      })),
    },
    {
      ...styles.ours,
      points: rows.map(({ batch, tokens_per_s: y }) => ({
        ...{ x: batch, y, hint: hint(batch, y), label: formatNumber(y) },
      })),
    },
  ];
}

/** @param {Group} group */
function shareSeries({ context, styles, rows, compiled }) {
  const point = (/** @type {number} */ batch, /** @type {number} */ share) => ({
    ...{ x: batch, y: 100 * share, label: formatNumber(100 * share) },
    hint: `${batch} × ${formatNumber(context)}: ${formatNumber(100 * share)} % of the limit`,
  });
  return [
    { ...styles.limit, points: rows.map(({ batch }) => ({ x: batch, y: 100, hint: "" })) },
    {
      ...styles.compiled,
      // Where the limit was measured, too.
      points: compiled.flatMap(({ batch, tokensPerSecond }) =>
        rows
          .filter((row) => row.batch === batch)
          .map((row) => point(batch, tokensPerSecond / limitOf(row))),
      ),
    },
    { ...styles.ours, points: rows.map((row) => point(row.batch, row.fraction_of_floor)) },
  ];
}

/** Tokens a second if a step took no longer than the floor. @param {DecodeRow} row @returns {number} */
function limitOf({ batch, floor_ms }) {
  return (1000 * batch) / floor_ms;
}

/** @param {DecodeRow} row @returns {string} */
function describe({ batch, context, tokens_per_s, fraction_of_floor }) {
  const share = formatNumber(100 * fraction_of_floor);
  return `${batch} of ${formatNumber(context)} tokens: ${formatNumber(tokens_per_s)}, ${share} %`;
}
