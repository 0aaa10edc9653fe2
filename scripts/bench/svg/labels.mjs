// Finds room for the labels of points.
import { textWidth } from "./element.mjs";

/**
 * @typedef {{ left: number, top: number, right: number, bottom: number }} Box
 * @typedef {{ x: number, y: number, text: string, colour: string }} Label text at a point.
 * @typedef {Label & { box: Box }} PlacedLabel
 */

export const LABEL_SIZE = 11;

/** Between a point and its label, which is diagonally a corner, nearer than the middle of a side. */
const GAP = 6;
const DIAGONAL_GAP = 4;

/** Where a label may stand, best first: -1 left of or above its point, 0 centred, 1 right or below. */
const DIRECTIONS = [
  { dx: 0, dy: -1 },
  { dx: 1, dy: 1 },
  { dx: 0, dy: 1 },
  { dx: -1, dy: -1 },
  { dx: 1, dy: 0 },
  { dx: -1, dy: 0 },
  { dx: 1, dy: -1 },
  { dx: -1, dy: 1 },
];

/**
 * Each label goes where it covers the fewest of the boxes `avoid`; it covers none of `taken` and no
 * other label, and stays within the bounds. One that finds no such place is left out.
 * @param {readonly Label[]} labels @param {readonly Box[]} taken @param {readonly Box[]} avoid
 * @param {Box} bounds
 * @returns {PlacedLabel[]}
 */
export function placeLabels(labels, taken, avoid, bounds) {
  /** @type {PlacedLabel[]} */
  const placed = [];
  for (const label of labels) {
    const occupied = [...taken, ...placed.map(({ box }) => box)];
    const best = DIRECTIONS.map((direction) => boxAt(label, direction))
      .filter((box) => contains(bounds, box) && !occupied.some((other) => overlap(box, other)))
      .map((box) => ({ box, cost: avoid.filter((other) => overlap(box, other)).length }))
      .reduce((a, b) => (b.cost < a.cost ? b : a), { box: bounds, cost: Infinity });
    if (best.cost < Infinity) placed.push({ ...label, box: best.box });
  }
  return placed;
}

/** The square around a point. @param {number} x @param {number} y @param {number} radius @returns {Box} */
export function around(x, y, radius) {
  return { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius };
}

/** @param {Box} a @param {Box} b @returns {boolean} */
export function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/** @param {Box} outer @param {Box} inner @returns {boolean} */
function contains(outer, inner) {
  return (
    outer.left <= inner.left &&
    outer.top <= inner.top &&
    outer.right >= inner.right &&
    outer.bottom >= inner.bottom
  );
}

/** @param {Label} label @param {{ dx: number, dy: number }} direction @returns {Box} */
function boxAt({ x, y, text }, { dx, dy }) {
  const [halfWidth, halfHeight] = [textWidth(text, LABEL_SIZE) / 2, LABEL_SIZE / 2];
  const gap = dx !== 0 && dy !== 0 ? DIAGONAL_GAP : GAP;
  const centreX = x + dx * (halfWidth + gap);
  const centreY = y + dy * (halfHeight + gap);
  return {
    left: centreX - halfWidth,
    top: centreY - halfHeight,
    right: centreX + halfWidth,
    bottom: centreY + halfHeight,
  };
}
