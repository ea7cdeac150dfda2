/* The network's own thread: pixels in, stylised pixels out, so that a slow network never makes the page stutter.

   Messages: {id, action, ...} -> {id, ...answer} or {id, error}. They are answered one after the other. */
import * as ort from './vendor/ort.wasm.min.mjs';

const RANGE = Float32Array.from({ length: 256 }, (_, value) => value / 127.5 - 1); // 8 bits -> [-1, 1]

let session = null;
let feed = null; // the input tensor; made anew only when the size changes

const actions = {
  /** threads: more than one needs an isolated page. */
  open({ threads }) {
    ort.env.wasm.wasmPaths = new URL('./vendor/', import.meta.url).href;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = 'error';
    return {};
  },

  async load({ url }) {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`the file is not there (${answer.status})`);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    await session?.release();
    session = null;
    session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'], graphOptimizationLevel: 'all' });
    return {};
  },

  /** pixels: ArrayBuffer of RGBA, width and height multiples of 8. -> pixels, matte (Float32Array, or null),
      milliseconds of the network alone. */
  async run({ pixels, width, height, matte }) {
    const bytes = new Uint8ClampedArray(pixels);
    if (feed?.dims[2] !== height || feed.dims[3] !== width) {
      feed = new ort.Tensor('float32', new Float32Array(3 * width * height), [1, 3, height, width]);
    }
    toPlanes(bytes, feed.data);
    const [painted, alpha] = session.outputNames;
    const wanted = matte && alpha ? [painted, alpha] : [painted];
    const begun = performance.now();
    const results = await session.run({ [session.inputNames[0]]: feed }, wanted);
    const milliseconds = performance.now() - begun;
    toPixels(results[painted].data, bytes);
    return { pixels, matte: wanted.length > 1 ? results[alpha].data : null, milliseconds };
  },
};

/** RGBA bytes -> three planes in [-1, 1]. */
function toPlanes(bytes, planes) {
  const count = planes.length / 3;
  for (let i = 0, from = 0; i < count; i++, from += 4) {
    planes[i] = RANGE[bytes[from]];
    planes[i + count] = RANGE[bytes[from + 1]];
    planes[i + 2 * count] = RANGE[bytes[from + 2]];
  }
}

/** Three planes in [-1, 1] -> opaque RGBA; a clamped array rounds and clips by itself. */
function toPixels(planes, bytes) {
  const count = planes.length / 3;
  for (let i = 0, to = 0; i < count; i++, to += 4) {
    bytes[to] = (planes[i] + 1) * 127.5;
    bytes[to + 1] = (planes[i + count] + 1) * 127.5;
    bytes[to + 2] = (planes[i + 2 * count] + 1) * 127.5;
    bytes[to + 3] = 255;
  }
}

let last = Promise.resolve();
onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      const answer = await actions[data.action](data);
      postMessage({ id: data.id, ...answer }, answer.pixels ? [answer.pixels] : []);
    } catch (error) {
      postMessage({ id: data.id, error: String(error?.message ?? error).split('\n')[0] });
    }
  });
};
