"""A moving picture of the page at work: `python -m tests.tools.film_page -o data/page.gif [--model MODEL ...]`.

A fake camera plays rendered people who turn their heads and smile; the page stylises them in headless Chromium, and its
own rendering is filmed in real time, so that the frame rate on it is the one of this machine (beside a film camera).
The kind of file follows its ending: .gif, .webp or .png (animated). With `--sample` only the person is written whom the
page shows first (a .jpg).
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from stages.apply import serve
from stages.datasets.people import HELDOUT_PEOPLE
from stages.datasets.rendered.person import sample_person, sample_view
from stages.datasets.rendered.render import Shot, shoot
from tests.tools.chromium import Chromium, find_chromium, write_camera

PEOPLE = (5, 11, 9)  # of the held-out people: no network was trained on them
SAMPLE, SAMPLE_SIDE = 5, 512  # likewise; px
SIDE = 480  # px of the camera's frames
CAMERA_RATE, FILM_RATE = 24, 8  # frames a second
SECONDS = 1  # a person
VIEW = (800, 660)  # CSS px; the film ends below the buttons


def performance(person: int, frames: int) -> list[np.ndarray]:
    """One person looking around and smiling, uint8 [SIDE, SIDE, 3]; ends as it began."""
    identity, view = sample_person(person), sample_view(person, 0)
    shots: list[Shot] = []
    for angle in np.linspace(0, 2 * np.pi, frames, endpoint=False):
        swing, nod = float(np.sin(angle)), float(np.cos(angle))
        smile, brows = 0.35 - 0.35 * nod, max(0.0, -0.4 * nod)
        units = {"mouthSmile": smile, "cheekSquint": smile / 2, "browOuterUp": brows}
        units = {name + side: weight for name, weight in units.items() for side in ("Left", "Right")}
        moved = replace(view, yaw=15 * swing, pitch=3 * nod, roll=2.5 * swing, gaze=(4 * swing, 0.0))
        moved = replace(moved, units=units | {"jawOpen": 0.08 - 0.08 * nod})
        shots.append(shoot(identity, moved, SIDE, camera=shots[0].scene.camera if shots else None, grain=0.0))
    return [shot.picture.image for shot in shots]


def record(models: list[Path] | None, camera: Path, dark: bool) -> tuple[list[tuple[float, bytes]], int]:
    """Film the page while it stylises the camera, a little longer than the camera's loop; how far down it is shown."""
    server = serve.open_server(0, serve.page_models(models))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Chromium(camera) as browser:
        browser.viewport(*VIEW, dark=dark)
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
        browser.until("message.hidden && numbers.textContent.includes('network')")
        browser.run("camera.click()")
        browser.until("numbers.textContent.includes('frames/s')")
        browser.film(2 * SECONDS)  # until the frame rate has settled
        shots = browser.film(len(PEOPLE) * SECONDS + 0.5)
        bottom = browser.run("save.getBoundingClientRect().bottom")
    server.shutdown()
    return shots, int(bottom) + 18


def on_the_beat(shots: list[tuple[float, bytes]], height: int) -> list[Image.Image]:
    """One shot for every FILM_RATE-th of a second over one loop of the camera: the last one shown at that time.

    height: px that are kept of it.
    """
    begun = shots[0][0]
    frames = []
    for beat in range(len(PEOPLE) * SECONDS * FILM_RATE):
        shown = [data for at, data in shots if at <= begun + beat / FILM_RATE + 1e-6]
        shot = Image.open(io.BytesIO(shown[-1])).convert("RGB")
        frames.append(shot.crop((0, 0, shot.width, height)))
    return frames


def write_film(path: Path, frames: list[Image.Image]) -> None:
    """Write an endless animation, its kind by the ending of `path`."""
    duration = 1000 // FILM_RATE
    rest = {"save_all": True, "duration": duration, "loop": 0}
    if path.suffix == ".gif":  # one palette for all, or the page's paper flickers
        sheet = Image.new("RGB", (frames[0].width, frames[0].height * 3))
        for place, frame in enumerate(frames[:: max(1, len(frames) // 3)][:3]):
            sheet.paste(frame, (0, place * frame.height))
        palette = sheet.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        flat[0].save(path, append_images=flat[1:], optimize=False, disposal=1, **rest)
    elif path.suffix == ".webp":
        frames[0].save(path, append_images=frames[1:], quality=80, method=6, **rest)
    else:
        frames[0].save(path, append_images=frames[1:], **rest)


def main() -> None:
    """Render the camera's people, film the page, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help=".gif, .webp or .png; .jpg with --sample")
    parser.add_argument("--model", type=Path, nargs="+", help="as for `stylize serve`")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    parser.add_argument("--sample", action="store_true", help="write the person whom the page shows first")
    options = parser.parse_args()

    if options.sample:
        person = HELDOUT_PEOPLE + SAMPLE
        picture = shoot(sample_person(person), sample_view(person, 0), SAMPLE_SIDE).picture.image
        Image.fromarray(picture).save(options.out, quality=90)
        return
    if options.out.suffix not in (".gif", ".webp", ".png"):
        raise SystemExit(f"film_page: {options.out}: unknown kind of film. End -o in .gif, .webp or .png.")
    if find_chromium() is None:
        raise SystemExit("film_page: no Chromium is installed. Install Debian's package chromium.")

    # The camera plays rendered people; the browser films the page.
    people = [HELDOUT_PEOPLE + number for number in PEOPLE]
    played = [frame for person in people for frame in performance(person, SECONDS * CAMERA_RATE)]
    with tempfile.TemporaryDirectory() as folder:
        film = write_camera(Path(folder) / "camera.y4m", played, CAMERA_RATE)
        shots, height = record(options.model, film, options.dark)

    frames = on_the_beat(shots, height)
    write_film(options.out, frames)
    report = f"{len(frames)} frames from {len(shots)} shots, {frames[0].width}x{frames[0].height}"
    print(f"{options.out}: {report}, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
