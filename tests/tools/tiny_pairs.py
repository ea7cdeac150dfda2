"""Toy pairs for the student's tests: a disc with two eyes before a gradient, and its "style" with larger eyes, flat.

Drawn here and not by the renderer, so that recorded values outlive its changes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stages.core.artifact import Artifact, seal
from stages.core.files import write_jsonl
from stages.core.images import write_image

STYLE = "toy"


def toy(index: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photo, twin uint8 [size, size, 3] and head mask uint8 [size, size] of toy person `index`."""
    random = np.random.default_rng([11, index])
    ramp = np.linspace(0, 1, size)[:, None, None] * random.uniform(40, 120, 3) + random.uniform(20, 120, 3)
    photo = np.broadcast_to(ramp, (size, size, 3)).copy()
    photo += random.normal(0, 6, photo.shape)
    twin, mask = photo.copy(), np.zeros((size, size), np.uint8)
    centre = (int(size * random.uniform(0.45, 0.55)), int(size * random.uniform(0.45, 0.55)))
    radius, skin = int(size * random.uniform(0.25, 0.33)), random.uniform(120, 220, 3)
    cv2.circle(mask, centre, radius, 255, -1)
    shade = np.clip(skin * random.uniform(0.9, 1.1), 0, 255)
    photo[mask > 0] = skin + random.normal(0, 8, (int((mask > 0).sum()), 3))
    twin[mask > 0] = np.round(shade / 64) * 64
    for side in (-1, 1):
        eye = (centre[0] + side * radius // 2, centre[1] - radius // 5)
        cv2.circle(photo, eye, max(1, radius // 8), (30, 30, 30), -1)
        cv2.circle(twin, eye, max(2, radius // 4), (20, 20, 40), -1)
    cv2.circle(twin, centre, radius - 1, (20, 20, 40), 1)
    photo, twin = (np.clip(image, 0, 255).astype(np.uint8) for image in (photo, twin))
    return photo, twin, mask


def toys(first: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photos, twins [count, size, size, 3] and masks [count, size, size]."""
    photo, twin, mask = zip(*(toy(first + i, size) for i in range(count)), strict=True)
    return np.stack(photo), np.stack(twin), np.stack(mask)


def data_artifact(path: Path, size: int, people: int = 6) -> Artifact:
    """A sealed data set of toy people with held-out twins and style pictures, and as many photos to train on."""
    rows = []
    about = {"style": None, "attributes": {}, "source": "toy", "licence": "Apache-2.0", "licence_class": "free"}
    for i in range(people):
        write_image(path / "photo" / f"{i:06d}.png", toy(i, size)[0])
        rows.append({"id": f"{i:06d}", "split": "train", "person": i, "photo": f"photo/{i:06d}.png"} | about)
    for i, (photo, twin, mask) in enumerate(toy(1000 + i, size) for i in range(people)):
        name = f"{i:06d}"
        other_twin, other_mask = toy(2000 + i, size)[1:]
        pictures = {"photo": photo, "mask": mask, f"twin/{STYLE}": twin, f"style/{STYLE}": other_twin}
        pictures[f"style_mask/{STYLE}"] = other_mask
        for kind, picture in pictures.items():
            write_image(path / "heldout" / kind / f"{name}.png", picture)
        row = {"id": name, "split": "heldout", "person": 1000 + i, "photo": f"heldout/photo/{name}.png"}
        rows.append(row | about)
    write_jsonl(path / "records.jsonl", rows)
    return seal(path, "data", config={"size": size}, inputs={}, metrics={"size": size})


def pair_artifact(path: Path, size: int, pairs: int = 24, people: int = 6) -> Artifact:
    """Sealed pairs of toy people (one of them not kept), and a translator's pictures of the held-out ones."""
    rows = []
    for i, (photo, twin, mask) in enumerate(toy(i, size) for i in range(pairs)):
        name = f"{i:06d}"
        rows.append({"id": name, "kept": i > 0, "reason": "" if i else "identity"})
        if i:
            for kind, picture in {"photo": photo, "style": twin, "mask": mask}.items():
                write_image(path / kind / f"{name}.png", picture)
    for i in range(people):
        write_image(path / "heldout" / f"{i:06d}.png", toy(1000 + i, size)[1])
    write_jsonl(path / "records.jsonl", rows)
    return seal(path, "pair", config={"size": size}, inputs={}, metrics={"kept": pairs - 1.0})
