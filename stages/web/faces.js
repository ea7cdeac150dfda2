/* Faces of a picture, each through the network as the square that it saw in training, laid back softly. */
import { SMALLEST, findBoxes, readCascade, shared } from './cascade.js';
import { overlay } from './overlay.js';

const SIDE = 320; // px of the longer side of what is searched
const SQUARE = { x: 0.5, y: 0.44, side: 1.672 }; // a portrait's centre and side for a box of side 1 at 0, 0
const FADE = 0.8; // share of the way from centre to edge where a painting begins to fade, as in stages/apply/heads.py
const DIVIDE = 24; // how sharply two faces divide what lies between them
const EVERY = 3; // frames of the camera from one search to the next
const PULL = 0.5; // share of the way to what was found
const PATIENCE = 4; // searches without success before a face is given up

/** The finder: cascade.xml is fetched at the first search. */
export class Faces {
  #cascade = null;
  #canvas = document.createElement('canvas');
  #followed = []; // {left, top, side, missed} of the camera
  #frame = 0;

  /** Squares {left, top, side} around the faces of a canvas, in its px, the largest first. */
  async find(source) {
    this.#cascade ??= fetched('cascade.xml').then(readCascade);
    const scale = SIDE / Math.max(source.width, source.height);
    const [width, height] = [source.width, source.height].map((side) => Math.max(SMALLEST, Math.round(side * scale)));
    Object.assign(this.#canvas, { width, height });
    const drawn = context(this.#canvas);
    drawn.imageSmoothingQuality = 'medium';
    drawn.drawImage(source, 0, 0, width, height);
    const { data } = pixels(this.#canvas);
    const values = new Uint8Array(width * height);
    for (let i = 0; i < values.length; i++) {
      values[i] = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2] + 0.5;
    }
    return findBoxes(await this.#cascade, { values, width, height }).map((box) => {
      const side = (SQUARE.side * box.side) / scale;
      return {
        left: (box.left + SQUARE.x * box.side) / scale - side / 2,
        top: (box.top + SQUARE.y * box.side) / scale - side / 2,
        side,
      };
    });
  }

  /** The same for the next frame of a camera: every few frames are searched, and squares move smoothly. */
  async follow(source) {
    if (this.#frame++ % EVERY === 0) {
      const found = await this.find(source);
      for (const face of this.#followed) {
        const index = found.findIndex((other) => shared(face, other) > 0.3 * Math.max(face.side, other.side) ** 2);
        const [seen] = index < 0 ? [] : found.splice(index, 1);
        face.missed = seen ? 0 : face.missed + 1;
        if (seen) for (const name of ['left', 'top', 'side']) face[name] += PULL * (seen[name] - face[name]);
      }
      const kept = this.#followed.filter(({ missed }) => missed < PATIENCE);
      this.#followed = [...kept, ...found.map((face) => ({ ...face, missed: 0 }))];
    }
    return this.#followed;
  }

  /** Another camera, or the same one again. */
  forget() {
    [this.#followed, this.#frame] = [[], 0];
  }
}

async function fetched(address) {
  const answer = await fetch(new URL(address, document.baseURI));
  if (!answer.ok) throw new Error(`${address} is not there (${answer.status})`);
  return answer.text();
}

/** Paint the faces {left, top, side} of a canvas with a network of squares of `size` px.
    -> {image: ImageData of the canvas's size, milliseconds of the network alone} */
export async function paintFaces(runner, photo, faces, size) {
  const result = pixels(photo);
  let total = 0;
  for (const face of faces) {
    // The region of the photo that the square covers, and what the network makes of the square.
    const [left, top] = [face.left, face.top].map((from) => Math.max(0, Math.floor(from)));
    const width = Math.min(photo.width, Math.ceil(face.left + face.side)) - left;
    const height = Math.min(photo.height, Math.ceil(face.top + face.side)) - top;
    if (width < 1 || height < 1) continue;
    const seen = square(photo, face, size);
    const { image, matte, milliseconds } = await runner.run(pixels(seen), true);
    total += milliseconds;
    const region = canvas(width, height);
    context(region).drawImage(photo, -left, -top);
    const place = { left: face.left - left, top: face.top - top, width: face.side, height: face.side };
    const painted = overlay(region, seen, image, matte, place).data;

    // Each face changes the photo as it was, by its share.
    const before = pixels(region).data;
    for (let y = 0, from = 0; y < height; y++) {
      let to = 4 * ((top + y) * photo.width + left);
      for (let x = 0; x < width; x++, from += 4, to += 4) {
        const share = shareOf(face, faces, left + x + 0.5, top + y + 0.5);
        for (let c = 0; c < 3; c++) result.data[to + c] += share * (painted[from + c] - before[from + c]);
      }
    }
  }
  return { image: result, milliseconds: total };
}

/** How much of a place is a face's: 1 around it, 0 at its square's edge and where another one is nearer. */
function shareOf(face, faces, x, y) {
  const from = (other) => [x - other.left - other.side / 2, y - other.top - other.side / 2].map((d) => d / other.side);
  const [across, down] = from(face);
  const edge = ((2 * across) ** 4 + (2 * down) ** 4) ** 0.25;
  const step = Math.min(1, Math.max(0, (1 - edge) / (1 - FADE)));
  let others = 0;
  for (const other of faces) {
    if (other !== face) others += Math.exp(DIVIDE * (Math.hypot(across, down) - Math.hypot(...from(other))));
  }
  return (step * step * (3 - 2 * step)) / (1 + others);
}

/** The square of a photo at `size` px; beyond the photo's edges it is mirrored. */
function square(photo, face, size) {
  const out = canvas(size, size);
  const drawn = context(out);
  drawn.imageSmoothingQuality = 'high';
  const scale = size / face.side;
  const [width, height] = [photo.width, photo.height];
  for (const [i, j] of [-1, 0, 1].flatMap((i) => [-1, 0, 1].map((j) => [i, j]))) {
    const [x, y] = [i * width - face.left, j * height - face.top];
    if (x > face.side || y > face.side || x + width < 0 || y + height < 0) continue;
    const [across, down] = [i ? -scale : scale, j ? -scale : scale];
    drawn.setTransform(across, 0, 0, down, scale * (i ? x + width : x), scale * (j ? y + height : y));
    drawn.drawImage(photo, 0, 0);
  }
  return out;
}

const canvas = (width, height) => Object.assign(document.createElement('canvas'), { width, height });
const context = (of) => of.getContext('2d', { alpha: false, willReadFrequently: true });
const pixels = (of) => context(of).getImageData(0, 0, of.width, of.height);
