/* A picture's result at the picture's own size: where nothing is painted the photo stays as it is, sharp. */

const LARGEST = 2048; // px of the longer side that are kept: a phone holds four such canvases

/** The size that a photo is kept at: its own, or reduced to LARGEST. -> [width, height] in px */
export function keptSize({ width, height }) {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  return [width, height].map((side) => Math.max(1, Math.round(side * scale)));
}

/** The photo at its kept size. -> canvas */
export const natural = (photo) => enlarged(photo, ...keptSize(photo));

/** up(o) + (1 - up(a)) (p - up(s)): p the photo, s what the network saw, o its output, a its matte (null: all painted).

    photo, seen: canvases; output: ImageData; matte: Float32Array of the output's size, or null; place: {left, top, width,
    height} of what was seen in the photo, where it is not the whole of it. -> ImageData of the photo's size */
export function overlay(photo, seen, output, matte, place) {
  const { width, height } = photo;
  const read = (image) => pixels(enlarged(image, width, height, place));
  const result = read(canvasOf(output));
  if (!matte) return result;
  const grey = new ImageData(output.width, output.height);
  grey.data.fill(255);
  for (let i = 0; i < matte.length; i++) grey.data[4 * i] = 255 * matte[i]; // red is enough
  const [alpha, small, large] = [read(canvasOf(grey)).data, read(seen).data, pixels(photo).data];
  for (let i = 0; i < alpha.length; i += 4) {
    const shown = 1 - alpha[i] / 255;
    for (let c = i; c < i + 3; c++) result.data[c] += shown * (large[c] - small[c]);
  }
  return result;
}

function enlarged(image, width, height, place = { left: 0, top: 0, width, height }) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d', { alpha: false, willReadFrequently: true });
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(image, place.left, place.top, place.width, place.height);
  return canvas;
}

/** An ImageData as a canvas. */
export function canvasOf(image) {
  const canvas = document.createElement('canvas');
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

const pixels = (canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
