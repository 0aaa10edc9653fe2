// A rectangle with two axes, lines and points.
import { element, escape } from "./element.mjs";
import { around, LABEL_SIZE, placeLabels } from "./labels.mjs";
import { linearScale, logScale } from "./scale.mjs";

/**
 * @typedef {import("./labels.mjs").Box} Box
 * @typedef {import("./scale.mjs").Scale} Scale
 *
 * @typedef {object} Axis from the first tick to the last.
 * @property {string} caption
 * @property {readonly number[]} ticks
 * @property {boolean} isLog
 *
 * @typedef {object} Point
 * @property {number} x
 * @property {number} y
 * @property {string} hint what it is, for who points at it.
 * @property {string} [label]
 *
 * @typedef {object} Style
 * @property {string} colour
 * @property {string} [dash] as in stroke-dasharray.
 * @property {"circle" | "diamond"} [marker] without it, a line alone.
 *
 * @typedef {Style & { points: readonly Point[] }} Series what comes later lies above, and is the first to get labels.
 */

const GREY = "#57606a";
const GRID = "#d8dee4";
const RADIUS = 3.5;

/** Room between the frame and the outermost ticks of the horizontal axis. */
const INSET = 22;

/** Pixels between the places where a label would cover a line. */
const LINE_STEP = 3;

/**
 * @param {Box} box @param {Axis} xAxis @param {Axis} yAxis @param {readonly Series[]} series
 * @returns {string}
 */
export function panel(box, xAxis, yAxis, series) {
  const x = scaleOf(xAxis, box.left + INSET, box.right - INSET);
  const y = scaleOf(yAxis, box.bottom, box.top);
  const drawn = series.map(({ points, ...style }) => ({
    style,
    points: points.map((point) => ({ ...point, x: x(point.x), y: y(point.y) })),
  }));
  const marked = drawn.filter(({ style }) => style.marker).flatMap(({ points }) => points);
  const labels = placeLabels(
    drawn
      .toReversed()
      .flatMap(({ style: { colour }, points }) =>
        points.flatMap((at) => (at.label ? [{ x: at.x, y: at.y, text: at.label, colour }] : [])),
      ),
    marked.map((point) => around(point.x, point.y, RADIUS)),
    drawn.flatMap(({ points }) => alongLine(points)),
    box,
  );
  const parts = [
    ...xAxis.ticks.map((tick) => verticalTick(tick, x(tick), box)),
    ...yAxis.ticks.map((tick) => horizontalTick(tick, y(tick), box)),
    caption(xAxis.caption, (box.left + box.right) / 2, box.bottom + 38, "middle"),
    caption(yAxis.caption, box.left, box.top - 10, "start"),
    ...drawn.map(({ style, points }) => line(points, style)),
    ...drawn.flatMap(({ style, points }) => points.map((point) => marker(point, style))),
    ...labels.map(({ box: at, text, colour }) =>
      element(
        "text",
        {
          ...{ x: (at.left + at.right) / 2, y: at.bottom - 1.5, "text-anchor": "middle" },
          ...{ "font-size": LABEL_SIZE, fill: colour },
          // Lines end around the label.
          ...{ stroke: "#ffffff", "stroke-width": 3, "paint-order": "stroke" },
        },
        [escape(text)],
      ),
    ),
  ];
  return element("g", {}, [`\n${parts.join("\n")}\n`]);
}

/**
 * A sample of a style, as a legend shows it.
 * @param {number} x its left end. @param {number} y @param {number} width @param {Style} style
 * @returns {string}
 */
export function swatch(x, y, width, style) {
  const ends = [x, x + width].map((end) => ({ x: end, y }));
  return line(ends, style) + marker({ x: x + width / 2, y, hint: "" }, style);
}

/** As on an axis. @param {number} value @returns {string} */
export function formatNumber(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
}

/** @param {Axis} axis @param {number} from @param {number} to @returns {Scale} */
function scaleOf({ ticks, isLog }, from, to) {
  const scale = isLog ? logScale : linearScale;
  return scale([ticks[0] ?? 0, ticks.at(-1) ?? 1], [from, to]);
}

/** @param {number} tick @param {number} x @param {Box} box @returns {string} */
function verticalTick(tick, x, { top, bottom }) {
  return (
    element("path", { d: `M${x.toFixed(1)} ${top}V${bottom}`, stroke: GRID }) +
    caption(formatNumber(tick), x, bottom + 18, "middle")
  );
}

/** @param {number} tick @param {number} y @param {Box} box @returns {string} */
function horizontalTick(tick, y, { left, right }) {
  return (
    element("path", { d: `M${left} ${y.toFixed(1)}H${right}`, stroke: GRID }) +
    caption(formatNumber(tick), left - 6, y + 4, "end")
  );
}

/** @param {string} text @param {number} x @param {number} y @param {string} anchor @returns {string} */
function caption(text, x, y, anchor) {
  const attributes = { x, y, "text-anchor": anchor, "font-size": 12, fill: GREY };
  return element("text", attributes, [escape(text)]);
}

/** @param {readonly { x: number, y: number }[]} points @param {Style} style @returns {string} */
function line(points, { colour, dash }) {
  if (points.length < 2) return "";
  const attributes = {
    points: points.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" "),
    ...{ fill: "none", stroke: colour, "stroke-width": 2 },
    ...(dash && { "stroke-dasharray": dash }),
  };
  return element("polyline", attributes);
}

/** @param {{ x: number, y: number, hint: string }} point @param {Style} style @returns {string} */
function marker({ x, y, hint }, { colour, marker: shape }) {
  const children = hint ? [element("title", {}, [escape(hint)])] : [];
  if (shape === "circle") {
    return element("circle", { cx: x, cy: y, r: RADIUS, fill: colour }, children);
  }
  if (shape === "diamond") {
    const r = RADIUS + 1;
    const d = `M${(x - r).toFixed(1)} ${y.toFixed(1)}l${r} ${-r} ${r} ${r} ${-r} ${r}z`;
    return element("path", { d, fill: colour }, children);
  }
  return "";
}

/** Boxes along a line. @param {readonly { x: number, y: number }[]} points @returns {Box[]} */
function alongLine(points) {
  return points.slice(1).flatMap((to, i) => {
    const from = points[i] ?? to;
    const steps = Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / LINE_STEP);
    return Array.from({ length: steps + 1 }, (_, step) => {
      const part = step / Math.max(steps, 1);
      return around(from.x + part * (to.x - from.x), from.y + part * (to.y - from.y), 1);
    });
  });
}
