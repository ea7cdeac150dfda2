"""A person who moves: head, gaze and face drift from frame to frame, and the flow between frames is known exactly."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from stages.datasets.people import Motion
from stages.datasets.rendered import truth
from stages.datasets.rendered.pack import Pack, load_pack
from stages.datasets.rendered.person import View, sample_person, sample_view
from stages.datasets.rendered.render import Shot, shoot
from stages.datasets.rendered.styles.twins import twin

SWING = {"yaw": 9.0, "pitch": 4.0, "roll": 3.0}  # degrees, largest
STEP = 2 * np.pi / 24  # a whole swing takes about this many frames


def views(number: int, frames: int, seed: int = 0) -> list[View]:
    """The views of a moving person: view 0 to begin with, then smoothly on."""
    rng = np.random.default_rng([seed, number, 51])
    first = sample_view(number, 0, seed)
    phases, speeds = rng.uniform(0, 2 * np.pi, 5), rng.uniform(0.6, 1.2, 5) * STEP
    out = []
    for t in range(frames):
        swing = np.sin(phases + speeds * t) - np.sin(phases)

        mouth = first.units.get("jawOpen", 0.0) + 0.12 * abs(swing[4])
        out.append(
            replace(
                first,
                yaw=first.yaw + SWING["yaw"] * swing[0],
                pitch=first.pitch + SWING["pitch"] * swing[1],
                roll=first.roll + SWING["roll"] * swing[2],
                gaze=(first.gaze[0] + 8 * swing[3], first.gaze[1]),
                units={**first.units, "jawOpen": float(mouth)},
            )
        )
    return out


def moving(
    number: int,
    size: int,
    frames: int = 8,
    style: str | None = None,
    seed: int = 0,
    noise: float | None = None,
    pack: Pack | None = None,
) -> Motion:
    """A person in motion before a camera that holds still.

    Args:
        style: also the true twin's video in this style.
        noise: deviation of the sensor's noise, of full white; by default the camera's own.
    """
    pack, person = pack or load_pack(), sample_person(number, seed)
    shots: list[Shot] = []
    for view in views(number, frames, seed):
        shots.append(shoot(person, view, size, pack, shots[0].scene.camera if shots else None, noise))
    flows, heads = [], []

    # the flow is the mesh's: hair that hangs before it is left out
    for k, shot in enumerate(shots):
        width = shot.frame.width
        bare = np.isin(shot.labels, [n for n in truth.HEAD if n != truth.LABELS["hair"]]) & (shot.frame.index >= 0)
        heads.append(cv2.resize(bare.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) > 0.99)
        if k:
            flow = np.nan_to_num(truth.flow(shots[k - 1].scene, shot.frame)) * (size / width)
            flows.append(cv2.resize(flow.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA))

    drawn = None
    if style is not None:
        drawn = np.stack([twin(shot, style).image for shot in shots])
    return Motion(np.stack([shot.picture.image for shot in shots]), np.stack(flows), np.stack(heads), drawn)
