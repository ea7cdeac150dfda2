/* The camera: open, close, and what to tell a person when it does not open. */

const PATIENCE = 10_000; // ms that an open camera has for its first frame

/** What to say of a camera that is open and shows nothing. */
export const NO_PICTURE =
  'The camera gives no picture. Uncover it, connect it again or choose another one, or open a picture.';

/** -> a <video> that plays the camera of this id, or the one that faces the person. Rejects with an Error whose
    message is a plain sentence with the remedy. */
export async function openCamera(id = '') {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error(
      'Browsers give the camera only to https pages and to this machine’s own (localhost). Put the page on ' +
        'https, or forward the port to the phone (adb reverse tcp:8000 tcp:8000). Pictures work here.',
    );
  }
  let stream;
  try {
    const which = id ? { deviceId: { exact: id } } : { facingMode: 'user' };
    const wanted = { ...which, width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
  } catch (error) {
    refuse(error);
  }
  const video = document.createElement('video');
  video.muted = true;
  video.playsInline = true; // or an iPhone shows it full screen
  video.srcObject = stream;
  let late;
  const patience = new Promise((_, reject) => {
    late = setTimeout(() => reject(new Error(NO_PICTURE)), PATIENCE);
  });
  try {
    await Promise.race([video.play().catch(refuse), patience]); // without a frame it would wait for ever
  } catch (error) {
    closeCamera(video); // or its light stays on
    throw error;
  } finally {
    clearTimeout(late);
  }
  return video;
}

function refuse(error) {
  throw new Error(sentence(error));
}

export function closeCamera(video) {
  for (const track of video.srcObject.getTracks()) track.stop();
  video.srcObject = null;
}

/** The cameras there are, {id, name}; their names are known once one of them was allowed. */
export async function listCameras() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const cameras = devices.filter(({ kind }) => kind === 'videoinput');
  return cameras.map(({ deviceId, label }, index) => ({ id: deviceId, name: label || `camera ${index + 1}` }));
}

/** Facts of an open camera: {id, away: whether it faces away from the person}. */
export function cameraFacts(video) {
  const { deviceId, facingMode } = video.srcObject.getVideoTracks()[0].getSettings();
  return { id: deviceId, away: facingMode === 'environment' };
}

function sentence(error) {
  switch (error.name) {
    case 'NotAllowedError':
      return (
        'The camera was not allowed. Allow it beside the page’s address (or in the system’s privacy settings) and ' +
        'press the button again, or open a picture.'
      );
    case 'NotFoundError':
      return 'No camera was found. Connect one and press the button again, or open a picture.';
    case 'NotReadableError':
      return 'Another program holds the camera. Close it and press the button again, or open a picture.';
    default:
      return `The camera did not open (${error.message || error.name}). Try again, or open a picture.`;
  }
}
