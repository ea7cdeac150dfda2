/* Times models on this device. The figures stay in the page until the person saves them. */
import { Runner, THREADS } from './runner.js';
import { Grabber, layout, show } from './frame.js';
import { noEdit } from './editing.js';

const WARM_UP = 10;

/** One, two and all threads (at most eight), as far as the page may use them. */
export function threadCounts() {
  return [...new Set([1, Math.min(2, THREADS), Math.min(THREADS, 8)])];
}

/** Time every model at every number of threads.

    models: of models.json; source: anything that can be drawn; size(model): side in px; runs: timed runs each;
    canvas: where results are drawn; progress(text); signal: AbortSignal.
    -> a list of {model, file, sha256, size, threads, load_ms, runs, frame_to_drawn_ms, network_ms}, the last two as
    {median, p95}: from before a frame is read to after its result is on the canvas, and the network alone. */
export async function measure({
  models,
  source,
  size,
  canvas,
  runs = 60,
  counts = threadCounts(),
  progress = () => {},
  signal,
}) {
  const rows = [];
  for (const model of models) {
    for (const threads of counts) {
      const runner = new Runner(threads);
      try {
        const begun = performance.now();
        await runner.load(model.file);
        runner.edit = noEdit(model);
        const load = performance.now() - begun;
        const times = await timed(runner, source, size(model), model.step, canvas, runs, (done) => {
          progress(`${model.name}, ${threads === 1 ? 'one thread' : `${threads} threads`}: ${done} of ${runs}`);
          signal?.throwIfAborted();
        });
        rows.push({
          model: model.name,
          file: model.file,
          sha256: model.sha256,
          size: size(model),
          threads,
          load_ms: round(load),
          runs,
          ...times,
        });
      } finally {
        runner.close();
      }
    }
  }
  return rows;
}

async function timed(runner, source, size, step, canvas, runs, tick) {
  const grabber = new Grabber();
  const place = layout(source.videoWidth || source.width, source.videoHeight || source.height, size, false, step);
  const whole = [],
    network = [];
  for (let i = -WARM_UP; i < runs; i++) {
    const begun = performance.now();
    const { image, milliseconds } = await runner.run(grabber.grab(source, place));
    show(canvas, image);
    if (i >= 0) {
      whole.push(performance.now() - begun);
      network.push(milliseconds);
    }
    if (i % 10 === 0) tick(Math.max(i, 0));
    await new Promise((resolve) => setTimeout(resolve)); // the page stays alive meanwhile
  }
  return { frame_to_drawn_ms: summary(whole), network_ms: summary(network) };
}

function summary(times) {
  const sorted = Float64Array.from(times).sort();
  const at = (share) => round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
  return { median: at(0.5), p95: at(0.95) };
}

/** What the browser knows of the device, and the name that its owner gives. */
export async function describeDevice(named) {
  const hints = await navigator.userAgentData
    ?.getHighEntropyValues(['model', 'platformVersion', 'fullVersionList'])
    .catch(() => null);
  return {
    name: named || hints?.model || null,
    model: hints?.model || null,
    platform: hints ? `${hints.platform} ${hints.platformVersion}`.trim() : navigator.platform || null,
    browser:
      hints?.fullVersionList
        ?.map(({ brand, version }) => `${brand} ${version}`)
        .filter((name) => !/not.*brand/i.test(name)) ?? null,
    user_agent: navigator.userAgent,
    cores: navigator.hardwareConcurrency ?? null,
    memory_gb: navigator.deviceMemory ?? null,
    isolated: globalThis.crossOriginIsolated === true,
  };
}

const round = (value) => Math.round(value * 100) / 100;
