/* From a source (video, picture) to the pixels that the network gets. */

const SMALLEST = 32;
const LONGEST = 2048; // px, of the longer side; a panorama gets a shorter side below the one asked for

const multiple = (side, step) => Math.max(SMALLEST, Math.round(side / step) * step);

/** Which part of a width x height source is taken, and how large it becomes.
    whole: the whole frame, its shorter side `size` px; else the square in its centre, `size` px a side.
    step: px that the network's sides are multiples of, at most 32. */
export function layout(width, height, size, whole, step = 1) {
  if (!whole) {
    const side = Math.min(width, height);
    return {
      left: (width - side) / 2,
      top: (height - side) / 2,
      across: side,
      down: side,
      width: multiple(size, step),
      height: multiple(size, step),
    };
  }
  const scale = Math.min(size / Math.min(width, height), LONGEST / Math.max(width, height));
  return {
    left: 0,
    top: 0,
    across: width,
    down: height,
    width: multiple(width * scale, step),
    height: multiple(height * scale, step),
  };
}

/** Draws sources at the network's size and reads them back; the canvas is made once and lives in memory, on no GPU. */
export class Grabber {
  canvas = document.createElement('canvas');
  #context = this.canvas.getContext('2d', { willReadFrequently: true, alpha: false });

  /** -> ImageData of the part that `place` (see layout) names; smooth: 'high' for stills, 'medium' costs less. */
  grab(source, place, { mirrored = false, smooth = 'medium' } = {}) {
    const { left, top, across, down, width, height } = place;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const context = this.#context;
    context.imageSmoothingQuality = smooth;
    context.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? width : 0, 0);
    context.fillStyle = '#fff'; // under what is transparent, as `stylize` does
    context.fillRect(0, 0, width, height);
    context.drawImage(source, left, top, across, down, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  }
}

/** Give a canvas this size and show an ImageData or another canvas on it. */
export function show(canvas, image) {
  if (canvas.width !== image.width || canvas.height !== image.height) {
    canvas.width = image.width;
    canvas.height = image.height;
  }
  const context = canvas.getContext('2d', { alpha: false });
  if (image instanceof ImageData) context.putImageData(image, 0, 0);
  else context.drawImage(image, 0, 0);
}
