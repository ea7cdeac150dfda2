/* Boxes around upright faces seen from the front, by a cascade of local binary patterns.

   The file is OpenCV's lbpcascade_frontalface, which scikit-image ships. What is searched, how boxes are grouped and that
   the mirrored picture must show a face too is as in `CascadeDetector` of stages/faces/detect.py; false alarms in pictures
   that lie on a side are not looked for. */

const WINDOW = 24; // px of the smallest window, which the cascade was trained at
const GROWTH = 1.1; // of the windows from one search to the next
const STEP = 1.4; // px between neighbouring windows, in px of the smallest
const EPSILON = 1e-5;
export const SMALLEST = 28; // px of the smallest box

const numbers = (text) => text.trim().split(/\s+/).map(Number);

/** The text of the XML file -> stages of {threshold, stumps: [{rect: [x, y, width, height], table, yes, no}]}. */
export function readCascade(xml) {
  const rects = [...xml.matchAll(/<rect>([^<]*)/g)].map(([, text]) => numbers(text));
  return xml
    .split('<stageThreshold>')
    .slice(1)
    .map((part) => ({
      threshold: parseFloat(part) - EPSILON,
      stumps: [...part.matchAll(/<internalNodes>([^<]*)<\/internalNodes>\s*<leafValues>([^<]*)/g)].map(
        ([, node, leaves]) => {
          const [, , rect, ...table] = numbers(node);
          const [yes, no] = numbers(leaves);
          return { rect: rects[rect], table: Int32Array.from(table), yes, no };
        },
      ),
    }));
}

/** Faces of a grey picture {values, width, height} from `least` px on: {left, top, side} in its px, the largest first. */
export function findBoxes(cascade, grey, least = SMALLEST) {
  const boxes = search(cascade, grey, least, Infinity).map((box) => confirmed(cascade, grey, box));
  const kept = [];
  for (const box of boxes.filter(Boolean).sort((a, b) => b.side - a.side)) {
    if (kept.every((larger) => shared(box, larger) < 0.5 * box.side ** 2)) kept.push(box);
  }
  return kept;
}

/** A box's mean with the one that the mirrored picture has there; null where it has none. */
function confirmed(cascade, grey, box) {
  const left = Math.max(0, Math.floor(box.left - box.side / 2));
  const top = Math.max(0, Math.floor(box.top - box.side / 2));
  const width = Math.min(grey.width, Math.floor(box.left + 1.5 * box.side)) - left;
  const height = Math.min(grey.height, Math.floor(box.top + 1.5 * box.side)) - top;
  const values = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const from = (top + y) * grey.width + left;
    for (let x = 0; x < width; x++) values[y * width + x] = grey.values[from + width - 1 - x];
  }

  const union = (a, b) => a.side ** 2 + b.side ** 2 - shared(a, b);
  const likeness = (other) => shared(box, other) / union(box, other);
  const best = search(cascade, { values, width, height }, 0.7 * box.side, 1.4 * box.side)
    .map((found) => ({ left: left + width - found.left - found.side, top: top + found.top, side: found.side }))
    .reduce((a, b) => (a && likeness(a) >= likeness(b) ? a : b), null);
  if (!best || likeness(best) < 0.4) return null;
  const mean = (name) => (box[name] + best[name]) / 2;
  return { left: mean('left'), top: mean('top'), side: mean('side') };
}

/** Area that two boxes share. */
export function shared(a, b) {
  const along = (name) => Math.min(a[name] + a.side, b[name] + b.side) - Math.max(a[name], b[name]);
  return Math.max(0, along('left')) * Math.max(0, along('top'));
}

/** Boxes from `least` to `most` px, as groups of at least two windows. */
function search(cascade, { values, width, height }, least, most) {
  const limit = (side) => Math.round(Math.min(Math.max(side, SMALLEST), width, height));
  const last = Math.log(limit(most) / WINDOW) / Math.log(GROWTH);
  const sums = integral(values, width, height);
  const groups = [];
  for (let power = Math.max(0, Math.log(limit(least) / WINDOW) / Math.log(GROWTH)); power < last; power++) {
    const scale = GROWTH ** power;
    const [side, step] = [Math.floor(WINDOW * scale), Math.round(STEP * scale)];
    const stages = scaled(cascade, scale, width + 1);
    for (let top = 0; top < height - side; top += step) {
      for (let left = 0; left < width - side; left += step) {
        if (passes(stages, sums, top * (width + 1) + left)) join(groups, { left, top, side });
      }
    }
  }
  return groups.filter(({ count }) => count > 1).map(mean);
}

/** Sums over all pixels above and left of each corner, (width + 1) x (height + 1). */
function integral(values, width, height) {
  const sums = new Int32Array((width + 1) * (height + 1));
  for (let y = 0; y < height; y++) {
    let row = 0;
    for (let x = 0; x < width; x++) {
      row += values[y * width + x];
      sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
    }
  }
  return sums;
}

/** The stages for windows of `scale`: of every stump the places of its 4 x 4 corners in the sums. */
function scaled(cascade, scale, stride) {
  return cascade.map(({ threshold, stumps }) => ({
    threshold,
    stumps: stumps.map(({ rect, ...rest }) => {
      const [x, y, width, height] = rect.map((value) => Math.floor(value * scale));
      const corners = Int32Array.from({ length: 16 }, (_, i) => (y + (i >> 2) * height) * stride + x + (i & 3) * width);
      return { corners, ...rest };
    }),
  }));
}

const AROUND = [0, 1, 2, 5, 8, 7, 6, 3]; // the blocks around the middle one, from the top left on, clockwise
const blocks = new Int32Array(9); // their sums, of the stump at hand

/** Whether the window at this place of the sums passes every stage. */
function passes(stages, sums, place) {
  for (const { threshold, stumps } of stages) {
    let points = 0;
    for (const { corners, table, yes, no } of stumps) {
      for (let i = 0; i < 9; i++) {
        const at = i + ((i / 3) | 0); // of the block's top left corner
        blocks[i] =
          sums[place + corners[at]] -
          sums[place + corners[at + 1]] -
          sums[place + corners[at + 4]] +
          sums[place + corners[at + 5]];
      }
      let code = 0;
      for (const i of AROUND) code = (code << 1) | (blocks[i] >= blocks[4]);
      points += (table[code >> 5] >> (code & 31)) & 1 ? yes : no;
    }
    if (points < threshold) return false;
  }
  return true;
}

/** Add a window to the group that it overlaps most, by half at least, or to none. */
function join(groups, box) {
  let best = null;
  let most = 0.5;
  for (const group of groups) {
    const middle = mean(group);
    const overlap = shared(box, middle) / Math.min(box.side, middle.side) ** 2;
    if (overlap > most) [best, most] = [group, overlap];
  }
  if (!best) groups.push({ ...box, count: 1 });
  else for (const name of ['left', 'top', 'side']) best[name] += box[name];
  if (best) best.count++;
}

const mean = ({ left, top, side, count }) => ({
  left: Math.trunc(left / count),
  top: Math.trunc(top / count),
  side: Math.trunc(side / count),
});
