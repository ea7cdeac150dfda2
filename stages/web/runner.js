/* The network as the page sees it: load a model, run it on an ImageData. The work is done in worker.js. */

/** What this page may use: one thread where there is no shared memory (mostly: the page is not isolated), else as many
    as there are cores. */
export const THREADS =
  globalThis.crossOriginIsolated && globalThis.SharedArrayBuffer ? navigator.hardwareConcurrency || 1 : 1;

/** One core is left to the camera and the page. More than four gain nothing for networks this small, and a phone's
    small cores would hold the large ones up. */
export const USUAL_THREADS = Math.max(1, Math.min(THREADS - 1, 4));

export class Runner {
  #worker;
  #waiting = new Map();
  #next = 0;
  #ended = null; // the error that the worker ended with: it will answer nothing more
  edit = null; // {attributes, regions} that an editor gets with every picture; null: the model takes the picture alone

  constructor(threads = USUAL_THREADS) {
    this.threads = threads;
    this.#start();
  }

  #start() {
    const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error) reject(new Error(data.error));
      else resolve(data);
    };
    worker.onerror = (event) => {
      const error = new Error(event.message || 'the scripts of the page could not be loaded');
      this.#end(Object.assign(error, { remedy: 'Check the connection, then choose it again or reload the page.' }));
    };
    this.#worker = worker;
    this.#ended = null;
    this.#ask('open', { threads: this.threads }).catch(() => {}); // a failure shows when a model is loaded
  }

  /** Fetch and open a model, in a new worker where the last one has failed.

      Rejects with the reason in a few words; where another model would not help, the error has a `remedy`. */
  async load(url) {
    if (this.#ended) this.#start();
    await this.#ask('load', { url: new URL(url, document.baseURI).href });
  }

  /** image: ImageData whose sides are multiples of 8; its buffer is taken away, not copied.
      -> {image: ImageData, matte: Float32Array in 0..1 or null, milliseconds of the network alone} */
  async run(image, matte = false) {
    const { width, height } = image;
    const pixels = image.data.buffer;
    const answer = await this.#ask('run', { pixels, width, height, matte, edit: this.edit }, [pixels]);
    return { ...answer, image: new ImageData(new Uint8ClampedArray(answer.pixels), width, height) };
  }

  /** A face from scratch, by the generator at `url`. -> {image: ImageData, milliseconds of the network alone} */
  async draw(url) {
    const answer = await this.#ask('draw', { url: new URL(url, document.baseURI).href });
    return { ...answer, image: new ImageData(new Uint8ClampedArray(answer.pixels), answer.width, answer.height) };
  }

  close() {
    this.#end(new Error('stopped'));
  }

  #ask(action, values, transfer = []) {
    if (this.#ended) return Promise.reject(this.#ended);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, action, ...values }, transfer);
    });
  }

  #end(error) {
    this.#worker.terminate();
    this.#ended = error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
