/* The page: wires camera, pictures, network and controls together. No setting is stored, nothing is sent. */
import { NO_PICTURE, cameraFacts, closeCamera, listCameras, openCamera } from './camera.js';
import { keptSize, natural, overlay } from './overlay.js';
import { Runner } from './runner.js';
import { Grabber, layout, show } from './frame.js';
import { Faces, paintFaces } from './faces.js';
import { showSliders } from './editing.js';
import { markedPng } from './mark.js';
import { describeDevice, measure } from './measure.js';

const SIZES = [256, 384, 512]; // px offered beside the size that a model was trained at
const LARGEST_FILE = 64e6; // pixels, as for `stylize`
const SEEN = 480; // px of a camera frame's shorter side, where only its faces are painted
const NO_FACE = 'No face was found, so nothing is painted. Faces are found that are upright and seen from the front.';
const REMEMBERED = 30; // frames that the frame rate is taken over

const page = Object.fromEntries([...document.querySelectorAll('[id]')].map((element) => [element.id, element]));
const grabber = new Grabber();
const finder = new Faces();
let runner, models, runtime;
let model = null; // the loaded one, null while none is
let choices = 0; // how often a model was chosen
let video = null; // the open camera
let picture = null; // the picture on show, a canvas; null while the camera runs
let notice = ''; // what stays said of it
let drawnBy = ''; // digest of the network that drew the result on show
let frames = []; // of the camera: {at, whole} in ms
let unseen = false; // a model of one size sees no face in the camera's last frame
let busy = false,
  fresh = false; // a frame is being worked on; a newer one is there
let editing = false,
  edited = false; // the picture is being edited; a slider has moved since
let measuring = null; // AbortController
let figures = null; // the last measurement

function say(text = '', bad = false) {
  page.message.textContent = text;
  page.message.hidden = !text;
  page.message.classList.toggle('bad', bad);
}

function tell(...parts) {
  page.numbers.replaceChildren(
    ...parts.map((part) =>
      typeof part === 'string' ? part : Object.assign(document.createElement('b'), { textContent: part }),
    ),
  );
}

const threads = () => (runner.threads === 1 ? 'one thread' : `${runner.threads} threads`);
const size = (of = model) => (of.fixed || page.size.value === 'own' ? of.size : Number(page.size.value));

/* ---------------------------------------------------------------- models */

function fillModels() {
  page.model.replaceChildren(...models.map(({ name }, index) => new Option(name, index)));
  page.modelField.hidden = models.length < 2;
}

function fillSizes(chosen) {
  const chosenBefore = page.size.value;
  const larger = chosen.fixed ? [] : SIZES.filter((value) => value > chosen.size);
  page.size.replaceChildren(
    new Option(`${chosen.size} px, trained`, 'own'),
    ...larger.map((value) => new Option(`${value} px`, value)),
  );
  if (larger.includes(Number(chosenBefore))) page.size.value = chosenBefore;
}

async function chooseModel() {
  const chosen = models[page.model.value];
  const choice = ++choices;
  model = null;
  page.edits.hidden = true;
  say(`Loading ${chosen.name} …`);
  try {
    await runner.load(chosen.file);
  } catch (error) {
    if (choice === choices) {
      const remedy = error.remedy ?? 'Export it again, or choose another one.';
      say(`The model “${chosen.name}” could not be loaded (${error.message}). ${remedy}`, true);
      enable();
    }
    return;
  }
  if (choice !== choices) return; // another one was chosen meanwhile
  model = chosen;
  unseen = false;
  finder.forget();
  fillSizes(chosen);
  runner.edit = showSliders(page.edits, chosen, edit);
  page.styleName.textContent = chosen.attributes ? 'edited' : chosen.style || 'stylised';
  say(notice);
  enable();
  await refresh();
}

function enable() {
  page.model.disabled = !!measuring;
  for (const control of [page.camera, page.open, page.save, page.size, page.measure])
    control.disabled = !!measuring || !model;
  page.openLabel.classList.toggle('off', page.open.disabled);
  page.scratch.disabled = !!measuring || !model;
  for (const control of page.edits.querySelectorAll('input, select, button')) control.disabled = !!measuring;
  page.scratch.hidden = !model?.faces;
}

/* ---------------------------------------------------------------- pictures */

/** Show a picture's result; `image` is a bitmap, an <img> or a canvas. */
async function openPicture(image) {
  stopCamera();
  picture = natural(image);
  await refresh();
}

async function openFile(file) {
  if (page.open.disabled) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    say(`“${file.name}” is not a picture that this browser can read. Use a PNG, JPEG or WebP file.`, true);
    return;
  }
  if (bitmap.width * bitmap.height > LARGEST_FILE) {
    say(
      `“${file.name}” has ${bitmap.width} × ${bitmap.height} pixels, more than ${LARGEST_FILE / 1e6} million. Shrink it.`,
      true,
    );
  } else {
    page.photoName.textContent = file.name;
    const [width, height] = keptSize(bitmap);
    notice = width < bitmap.width ? `“${file.name}” is shown and saved reduced to ${width} × ${height} px.` : '';
    say(notice);
    await openPicture(bitmap);
  }
  bitmap.close();
}

/** Run the picture on show again: after another model or size was chosen. */
async function refresh() {
  if (!picture || !model || measuring) return;
  const asked = picture;
  const used = model;
  const late = () => asked !== picture || used !== model;
  try {
    if (used.fixed) {
      await refreshFaces(asked, used, late);
      return;
    }
    const place = layout(asked.width, asked.height, size(), true, model.step);
    const { image, matte, milliseconds } = await runner.run(grabber.grab(asked, place, { smooth: 'high' }), true);
    if (late()) return;
    const result =
      asked.width === place.width && asked.height === place.height
        ? image
        : overlay(asked, grabber.canvas, image, matte);
    present(asked, result);
    say(notice);
    tell(`${place.width} × ${place.height} px · network `, Math.round(milliseconds), ` ms · ${threads()}`);
  } catch (error) {
    if (!late()) fail(error, error.remedy ?? advice());
  }
}

/** The same with a model of one size: what it paints is faces. late(): whether the result is still wanted. */
async function refreshFaces(asked, used, late) {
  const faces = await finder.find(asked);
  if (late()) return;
  const { image, milliseconds } = await paintFaces(runner, asked, faces, used.size);
  if (late()) return;
  present(asked, image);
  page.save.disabled ||= !faces.length;
  say(faces.length ? notice : NO_FACE);
  tell(`${counted(faces.length)} at ${used.size} px · network `, Math.round(milliseconds), ` ms · ${threads()}`);
}

const counted = (faces) => (faces === 1 ? 'one face' : `${faces || 'no'} faces`);

/** Show the picture with another edit; of the ones that are asked for meanwhile the last. */
async function edit(chosen) {
  runner.edit = chosen;
  edited = true;
  if (editing) return;
  editing = true;
  try {
    while (edited) {
      edited = false;
      await refresh();
    }
  } finally {
    editing = false;
  }
}

/** Draw a face of nobody in the place of the result. */
async function drawFace() {
  stopCamera();
  try {
    const drawing = model;
    const { image, milliseconds } = await runner.draw(drawing.faces);
    if (model !== drawing) return; // another one was chosen meanwhile
    presentResult(image, drawing.faces_sha256);
    say();
    tell(`a face of nobody, ${image.width} px · network `, Math.round(milliseconds), ` ms · ${threads()}`);
  } catch (error) {
    fail(error, 'Choose another model.');
  }
}

function present(photo, result) {
  page.stage.style.setProperty('--ratio', photo.width / photo.height);
  show(page.photo, photo);
  presentResult(result);
}

/** Show a result, which the network of a digest has drawn. */
function presentResult(image, digest = model?.sha256) {
  show(page.styled, image);
  drawnBy = digest;
  page.save.disabled = !!measuring || !model;
}

const advice = () =>
  model?.attributes ? 'Press Reset or choose another model.' : 'Choose a smaller size or another model.';

/** Say that the network failed. The photo stands unpainted in the result's place, and cannot be saved as one. */
function fail(error, remedy) {
  say(`The network failed (${error.message}). ${remedy}`, true);
  tell('\u00a0');
  present(picture, picture);
  page.save.disabled = true;
}

/* ---------------------------------------------------------------- camera */

async function startCamera(id = '') {
  page.camera.disabled = true;
  try {
    say('Waiting for the camera …');
    video = await openCamera(id);
  } catch (error) {
    say(error.message, true);
    return;
  } finally {
    page.camera.disabled = false;
  }
  const opened = video;
  const [track] = opened.srcObject.getVideoTracks();
  track.onended = () => {
    if (video !== opened) return;
    stopCamera();
    say('The camera stopped. Connect it and press the button again, or open a picture.', true);
  };
  track.onmute = () => video === opened && say(NO_PICTURE, true); // covered, or another program took it
  track.onunmute = () => video === opened && say();
  notice = '';
  say();
  picture = null;
  frames = [];
  unseen = false;
  finder.forget();
  document.body.dataset.camera = 'on';
  page.camera.textContent = 'Stop camera';
  page.photoName.textContent = 'camera';
  page.mirror.checked = !cameraFacts(opened).away;
  watch(opened);
  const cameras = await listCameras();
  page.lens.replaceChildren(...cameras.map((camera) => new Option(camera.name, camera.id)));
  page.lens.value = cameraFacts(opened).id;
  page.lensField.hidden = cameras.length < 2;
}

/** Note every new frame of this camera until it is closed. */
function watch(opened) {
  if (video !== opened) return;
  fresh = true;
  pump();
  if (opened.requestVideoFrameCallback) opened.requestVideoFrameCallback(() => watch(opened));
  else requestAnimationFrame(() => watch(opened));
}

/** Work on the newest frame; the ones that arrive meanwhile are passed over but for the last. */
async function pump() {
  if (busy || !fresh || !video || !model || measuring) return;
  [busy, fresh] = [true, false];
  const [opened, used] = [video, model];
  try {
    const begun = performance.now();
    const whole = page.framing.value === 'whole';
    const step = used.fixed ? 1 : used.step;
    const place = layout(opened.videoWidth, opened.videoHeight, used.fixed ? SEEN : size(), whole, step);
    const grabbed = grabber.grab(opened, place, { mirrored: page.mirror.checked });
    const faces = used.fixed ? await finder.follow(grabber.canvas) : null;
    const painted = () => (faces ? paintFaces(runner, grabber.canvas, faces, used.size) : runner.run(grabbed));
    const { image } = used === model ? await painted() : {};
    if (video === opened && used === model) {
      present(grabber.canvas, image); // the photo beside it is the frame that the network saw
      if (unseen !== (faces?.length === 0)) say((unseen = !unseen) ? NO_FACE : '');
      page.save.disabled ||= unseen;
      const now = performance.now();
      frames = [...frames.slice(1 - REMEMBERED), { at: now, whole: now - begun }];
    }
  } catch (error) {
    if (video === opened && used === model) {
      stopCamera();
      fail(error, error.remedy ?? advice());
    }
  }
  busy = false;
  pump();
}

function tellRate() {
  if (!video || frames.length < 5) return;
  const mean = frames.reduce((sum, { whole }) => sum + whole, 0) / frames.length;
  const rate = (1000 * (frames.length - 1)) / (frames.at(-1).at - frames[0].at);
  tell(Math.round(rate), ' frames/s · ', Math.round(mean), ` ms from frame to drawn · ${threads()}`);
}

/** Close the camera and keep its last frame as a picture. */
function stopCamera() {
  if (!video) return;
  closeCamera(video);
  video = null;
  picture = natural(page.photo);
  page.photoName.textContent = 'last frame';
  delete document.body.dataset.camera;
  page.camera.textContent = 'Start camera';
  tell('\u00a0');
}

/* ---------------------------------------------------------------- results */

function download(blob, name) {
  const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const stamp = () => new Date().toISOString().slice(0, 19).replace('T', '-').replaceAll(':', '');

async function save() {
  download(await markedPng(page.styled, drawnBy), `tristyle-${page.styleName.textContent}-${stamp()}.png`);
}

async function runMeasure() {
  if (measuring) {
    measuring.abort();
    return;
  }
  stopCamera();
  measuring = new AbortController();
  enable();
  page.measure.disabled = false;
  page.measure.textContent = 'Stop';
  try {
    const progress = (text) => {
      page.progress.textContent = text;
    };
    const rows = await measure({
      models,
      source: picture,
      size,
      canvas: page.styled,
      progress,
      signal: measuring.signal,
    });
    const device = await describeDevice(page.device.value.trim());
    figures = {
      kind: 'tristyle measurement',
      version: 1,
      made: new Date().toISOString(),
      runtime,
      device,
      models: rows,
    };
    page.progress.textContent = device.isolated
      ? 'Done.'
      : 'Done. One thread only: this address sends no isolation headers.';
    page.report.disabled = false;
    tabulate(rows);
  } catch (error) {
    page.progress.textContent = error.name === 'AbortError' ? 'Stopped.' : `Not measured: ${error.message}.`;
  }
  measuring = null;
  page.measure.textContent = 'Measure';
  enable();
  await refresh();
}

function tabulate(rows) {
  const cell = (value, number = true) =>
    Object.assign(document.createElement('td'), { textContent: value, className: number ? 'num' : '' });
  page.figures.hidden = false;
  page.figures.tBodies[0].replaceChildren(
    ...rows.map((row) => {
      const line = document.createElement('tr');
      line.append(
        cell(row.model, false),
        cell(row.size),
        cell(row.threads),
        ...[row.frame_to_drawn_ms, row.network_ms].map(({ median, p95 }) =>
          cell(`${median.toFixed(1)} (${p95.toFixed(1)})`),
        ),
      );
      return line;
    }),
  );
}

/* ---------------------------------------------------------------- events */

page.camera.onclick = () => (video ? stopCamera() : startCamera());
page.lens.onchange = () => {
  stopCamera(); // a phone opens one at a time
  startCamera(page.lens.value);
};
page.open.onchange = () => {
  if (page.open.files[0]) openFile(page.open.files[0]);
  page.open.value = ''; // so that the same file can be opened again
};
page.save.onclick = save;
page.scratch.onclick = drawFace;
page.model.onchange = chooseModel;
page.size.onchange = refresh;
page.mirror.onchange = page.framing.onchange = () => finder.forget();
page.measure.onclick = runMeasure;
page.report.onclick = () => {
  const text = `${JSON.stringify(figures, null, 1)}\n`;
  download(new Blob([text], { type: 'application/json' }), `tristyle-measure-${stamp()}.json`);
};

const carriesFiles = (event) => event.dataTransfer?.types.includes('Files');
addEventListener('dragover', (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  page.drop.hidden = false;
});
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) page.drop.hidden = true;
});
addEventListener('drop', (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  page.drop.hidden = true;
  openFile(event.dataTransfer.files[0]);
});
addEventListener('paste', (event) => {
  if (event.clipboardData.files[0]) openFile(event.clipboardData.files[0]);
});
setInterval(tellRate, 500);

async function start() {
  try {
    ({ models, runtime } = await (await fetch('models.json')).json());
  } catch {
    say('models.json is missing beside this page. Make the folder again (tristyle stage=export export=web).', true);
    return;
  }
  fillModels();
  runner = new Runner();
  const sample = new Image();
  sample.src = 'sample.jpg';
  await sample.decode();
  page.photoName.textContent = 'photo of nobody, rendered';
  picture = natural(sample);
  present(picture, picture);
  await chooseModel();
}

start();
