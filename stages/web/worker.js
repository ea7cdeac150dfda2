/* The network's own thread: pixels in, stylised pixels out, so that a slow network never makes the page stutter.

   Messages: {id, action, ...} -> {id, ...answer} or {id, error}. They are answered one after the other. */
import * as ort from './vendor/ort.wasm.min.mjs';

const RANGE = Float32Array.from({ length: 256 }, (_, value) => value / 127.5 - 1); // 8 bits -> [-1, 1]

let session = null;
let feed = null; // the input tensor; made anew only when the size changes
let artist = null; // {url, session} of the generator that draws faces from scratch

const actions = {
  /** threads: more than one needs an isolated page. */
  open({ threads }) {
    ort.env.wasm.wasmPaths = new URL('./vendor/', import.meta.url).href;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = 'error';
    return {};
  },

  async load({ url }) {
    const bytes = await fetched(url);
    await session?.release();
    session = null;
    session = await opened(bytes);
    return {};
  },

  /** A face from scratch. -> pixels, width, height, milliseconds of the network alone. */
  async draw({ url }) {
    if (artist?.url !== url) {
      const bytes = await fetched(url);
      await artist?.session.release();
      artist = null;
      artist = { url, session: await opened(bytes) };
    }
    const [name] = artist.session.inputNames;
    const length = artist.session.inputMetadata[0].shape[1];
    const latent = new ort.Tensor('float32', Float32Array.from({ length }, gaussian), [1, length]);
    const begun = performance.now();
    const { [artist.session.outputNames[0]]: drawn } = await artist.session.run({ [name]: latent });
    const milliseconds = performance.now() - begun;
    const [height, width] = drawn.dims.slice(2);
    const bytes = new Uint8ClampedArray(4 * width * height);
    toPixels(drawn.data, bytes);
    return { pixels: bytes.buffer, width, height, milliseconds };
  },

  /** pixels: ArrayBuffer of RGBA, width and height multiples of 8; edit: lists of numbers by the name of the input that
      takes them, or null. -> pixels, matte (Float32Array, or null),
      milliseconds of the network alone. */
  async run({ pixels, width, height, matte, edit }) {
    const bytes = new Uint8ClampedArray(pixels);
    if (feed?.dims[2] !== height || feed.dims[3] !== width) {
      feed = new ort.Tensor('float32', new Float32Array(3 * width * height), [1, 3, height, width]);
    }
    toPlanes(bytes, feed.data);
    const [painted, alpha] = session.outputNames;
    const wanted = matte && alpha ? [painted, alpha] : [painted];
    const given = { [session.inputNames[0]]: feed };
    for (const [name, values] of Object.entries(edit ?? {})) {
      given[name] = new ort.Tensor('float32', Float32Array.from(values), [1, values.length]);
    }
    const begun = performance.now();
    const results = await session.run(given, wanted);
    const milliseconds = performance.now() - begun;
    toPixels(results[painted].data, bytes);
    const area = wanted.length > 1 ? results[alpha].data : null;
    if (area) refuseInfinite(area.reduce((sum, value) => sum + value, 0));
    return { pixels, matte: area, milliseconds };
  },
};

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`the file is not there (${answer.status})`);
  return new Uint8Array(await answer.arrayBuffer());
}

const opened = (bytes) =>
  ort.InferenceSession.create(bytes, { executionProviders: ['wasm'], graphOptimizationLevel: 'all' });

/** A number drawn from N(0, 1) (Box and Muller). */
const gaussian = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

/** RGBA bytes -> three planes in [-1, 1]. */
function toPlanes(bytes, planes) {
  const count = planes.length / 3;
  for (let i = 0, from = 0; i < count; i++, from += 4) {
    planes[i] = RANGE[bytes[from]];
    planes[i + count] = RANGE[bytes[from + 1]];
    planes[i + 2 * count] = RANGE[bytes[from + 2]];
  }
}

/** A sum of float32 values is finite where each of them is. */
function refuseInfinite(sum) {
  if (!Number.isFinite(sum)) throw new Error('its output is not finite');
}

/** Three planes in [-1, 1] -> opaque RGBA; a clamped array rounds and clips by itself, and makes black of NaN. */
function toPixels(planes, bytes) {
  const count = planes.length / 3;
  let sum = 0;
  for (let i = 0, to = 0; i < count; i++, to += 4) {
    bytes[to] = (planes[i] + 1) * 127.5;
    bytes[to + 1] = (planes[i + count] + 1) * 127.5;
    bytes[to + 2] = (planes[i + 2 * count] + 1) * 127.5;
    bytes[to + 3] = 255;
    sum += planes[i] + planes[i + count] + planes[i + 2 * count];
  }
  refuseInfinite(sum);
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
