/* Faces of a picture, each through the network as the square that it saw in training, laid back softly: what
   stages/apply/heads.py does. */
import { SMALLEST, findBoxes, readCascade, shared } from './cascade.js';
import { canvasOf, overlay } from './overlay.js';

const SIDE = 320; // px of the longer side of what is searched
const SQUARE = { x: 0.5, y: 0.44, side: 1.672 }; // a portrait's centre and side for a box of side 1 at 0, 0
const FADE = 0.8; // share of the way from centre to edge where a painting begins to fade, as in stages/apply/heads.py
const DIVIDE = 24; // how sharply two faces divide what lies between them
const NEAR = 48; // px of the smallest box that is looked for before the camera: a third of the time
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
  async find(source, least = SMALLEST) {
    this.#cascade ??= await fetched('cascade.xml').then(readCascade);
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
    return findBoxes(this.#cascade, { values, width, height }, least).map((box) => {
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
      const found = await this.find(source, NEAR);
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

  /** What comes next has nothing to do with the last frame. */
  forget() {
    [this.#followed, this.#frame] = [[], 0];
  }
}

async function fetched(address) {
  const remedy = 'Check the connection, then choose the model again or reload the page.';
  const answer = await fetch(new URL(address, document.baseURI)).catch(({ message }) => ({ status: message }));
  if (!answer.ok) throw Object.assign(new Error(`${address} is not there: ${answer.status}`), { remedy });
  return answer.text();
}

/** Paint the faces {left, top, side} of a canvas with a network of squares of `size` px.
    -> {image: ImageData of the canvas's size, milliseconds of the network alone} */
export async function paintFaces(runner, photo, faces, size) {
  // All squares are sent before the first answer: no other model gets between them.
  const squares = faces.map((face) => square(photo, face, size));
  const answers = await Promise.all(squares.map((seen) => runner.run(pixels(seen), true)));
  const result = pixels(photo);
  faces.forEach((face, index) => lay(result, photo, faces, face, squares[index], answers[index]));
  return { image: result, milliseconds: answers.reduce((sum, answer) => sum + answer.milliseconds, 0) };
}

/** Add to the pixels of the result what a face's painting changes: each face changes the photo as it was. */
function lay(result, photo, faces, face, seen, { image, matte }) {
  // The region of the photo that the square covers.
  const [left, top] = [face.left, face.top].map((from) => Math.max(0, Math.floor(from)));
  const width = Math.min(photo.width, Math.ceil(face.left + face.side)) - left;
  const height = Math.min(photo.height, Math.ceil(face.top + face.side)) - top;
  if (width < 1 || height < 1) return;
  const place = { left: face.left - left, top: face.top - top, width: face.side, height: face.side };
  const region = canvas(width, height);
  context(region).drawImage(photo, -left, -top);

  // Its share is computed at the network's scale; it changes slowly.
  const painted = overlay(region, seen, image, matte, place).data;
  const grown = canvas(width, height); // black, so nothing beyond the square
  context(grown).imageSmoothingQuality = 'high';
  context(grown).drawImage(canvasOf(shares(face, faces, seen.width)), place.left, place.top, place.width, place.height);
  const share = pixels(grown).data;
  const [before, out] = [pixels(region).data, result.data];
  for (let y = 0, from = 0; y < height; y++) {
    let to = 4 * ((top + y) * photo.width + left);
    for (let x = 0; x < width; x++, from += 4, to += 4) {
      const part = share[from] / 255;
      if (!part) continue;
      for (let c = 0; c < 3; c++) out[to + c] += part * (painted[from + c] - before[from + c]);
    }
  }
}

/** How much of each place of a square is its face's, in red of an ImageData: all around the face, nothing at the square's
    edge and where another face is nearer. */
function shares(face, faces, size) {
  const grey = new ImageData(size, size);
  grey.data.fill(255);
  const rivals = faces.filter((other) => other !== face);
  for (let i = 0; i < size * size; i++) {
    const across = ((i % size) + 0.5) / size - 0.5;
    const down = (((i / size) | 0) + 0.5) / size - 0.5;
    const edge = ((2 * across) ** 4 + (2 * down) ** 4) ** 0.25;
    const step = Math.min(1, Math.max(0, (1 - edge) / (1 - FADE)));
    let others = 0;
    for (const { left, top, side } of rivals) {
      const x = face.left + (across + 0.5) * face.side - left - side / 2;
      const y = face.top + (down + 0.5) * face.side - top - side / 2;
      others += Math.exp(DIVIDE * (Math.hypot(across, down) - Math.hypot(x, y) / side));
    }
    grey.data[4 * i] = (255 * step * step * (3 - 2 * step)) / (1 + others);
  }
  return grey;
}

/** The square of a photo at `size` px; beyond the photo's edges it is mirrored about the last pixel. */
function square(photo, face, size) {
  const out = canvas(size, size);
  const drawn = context(out);
  drawn.imageSmoothingQuality = 'high';
  const scale = size / face.side;
  const [width, height] = [photo.width, photo.height];
  // The photo lies over its mirror images, which reach a pixel below it, so that no seam shows.
  const tiles = [-1, 1, 0].flatMap((i) => [-1, 1, 0].map((j) => [i, j]));
  for (const [i, j] of tiles) {
    const x = i ? (i < 0 ? 1 : 2 * width - 1) : 0; // where the tile's first pixel begins
    const y = j ? (j < 0 ? 1 : 2 * height - 1) : 0;
    const [across, down] = [i ? -scale : scale, j ? -scale : scale];
    drawn.setTransform(across, 0, 0, down, scale * (x - face.left), scale * (y - face.top));
    drawn.drawImage(photo, 0, 0);
  }
  return out;
}

const canvas = (width, height) => Object.assign(document.createElement('canvas'), { width, height });
const context = (of) => of.getContext('2d', { alpha: false, willReadFrequently: true });
const pixels = (of) => context(of).getImageData(0, 0, of.width, of.height);
