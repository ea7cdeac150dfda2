"""Toy faces with known landmarks for tests of `pair=tps`: photos of many skins, a style with outlines and large eyes.

Drawn here and not by a painter or a renderer, so that recorded values outlive their changes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stages.core.artifact import Artifact, seal
from stages.core.files import write_jsonl
from stages.core.images import write_image
from stages.pair.tps.batches import FaceSet

STYLE = "toy"


def template(eye: float = 0.06) -> np.ndarray:
    """68 landmarks of a face about (0, 0), some 1 wide: iBUG 300-W order. `eye` is half an eye's height."""
    angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([0.42 * np.cos(angle), 0.02 + 0.5 * np.sin(angle)], axis=1)
    brow = np.stack([np.linspace(-0.3, -0.08, 5), -0.24 - 0.03 * np.sin(np.linspace(0, np.pi, 5))], axis=1)
    bridge = np.stack([np.zeros(4), np.linspace(-0.12, 0.08, 4)], axis=1)
    wings = np.stack([np.linspace(-0.08, 0.08, 5), 0.13 + 0.02 * np.sin(np.linspace(0, np.pi, 5))], axis=1)
    lids = np.array([[-0.09, 0], [-0.03, -eye], [0.03, -eye], [0.09, 0], [0.03, eye], [-0.03, eye]])
    left = lids + [-0.18, -0.1]
    right = lids + [0.18, -0.1]
    lips = [(0.15 * np.cos(a), 0.29 + 0.06 * np.sin(a)) for a in np.linspace(np.pi, 3 * np.pi, 13)[:-1]]
    inner = [(0.1 * np.cos(a), 0.29 + 0.025 * np.sin(a)) for a in np.linspace(np.pi, 3 * np.pi, 9)[:-1]]
    mirrored = brow[::-1] * [-1, 1]
    return np.concatenate([jaw, brow, mirrored, bridge, wings, left, right, np.array(lips), np.array(inner)])


def face(index: int, style: bool, size: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture uint8 [size, size, 3], head coverage uint8 [size, size] and landmarks [68, 2] in px."""
    random = np.random.default_rng([7, int(style), index])
    scale, turn = random.uniform(0.5, 0.62), random.normal(0, 0.08)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = template(0.07 if style else 0.035) * scale @ spin.T + random.normal([0.5, 0.5], 0.03)
    large = 4 * size  # drawn large, then reduced
    wall = random.uniform(60, 200, 3) + np.linspace(0, 1, large)[:, None, None] * random.uniform(-40, 40, 3)
    picture = np.broadcast_to(wall, (large, large, 3)) + random.normal(0, 5, (large, large, 3))
    picture = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))

    mask = np.zeros((large, large), np.uint8)
    outline = np.concatenate([points[:17], points[16:][:1] + [0, -0.3 * scale], points[:1] + [0, -0.3 * scale]])
    cv2.fillPoly(mask, [_px(outline, large)], 255)
    skin = np.array([240, 200, 160]) if style else random.uniform(0.6, 1, 3) * [210, 160, 130]
    picture[mask > 0] = skin
    if style:
        cv2.polylines(picture, [_px(outline, large)], True, (20, 20, 40), large // 40)
    for first, last, colour in ((36, 42, (20, 20, 40)), (42, 48, (20, 20, 40)), (48, 60, (180, 60, 60))):
        cv2.fillPoly(picture, [_px(points[first:last], large)], colour)
    for first, last in ((17, 22), (22, 27), (27, 31), (31, 36)):
        cv2.polylines(picture, [_px(points[first:last], large)], False, (70, 45, 30), large // 50)
    small = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in (picture, mask)]
    return small[0], small[1], points * size - 0.5


def _px(points: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(np.rint(points * size - 0.5), np.int32)


def faces(count: int, style: bool, size: int = 32, first: int = 0) -> FaceSet:
    """Toy faces in memory, as the batches take them."""
    pictures, masks, points = zip(*(face(first + i, style, size) for i in range(count)), strict=True)
    shares = ((np.stack(points) + 0.5) / size).astype(np.float32)
    return FaceSet(np.stack(pictures), np.stack(masks), shares)


def data_artifact(path: Path, photos: int = 12, styles: int = 10, size: int = 32, known: bool = True) -> Artifact:
    """A sealed data set of toy faces with held-out people, twins and style pictures; `known` landmarks or none."""
    rows = []
    about = {"attributes": {}, "source": "toy", "licence": "Apache-2.0", "licence_class": "free"}
    landmarks: dict[str, np.ndarray] = {}
    plan = (("train", None, photos, 0), ("style", STYLE, styles, 0), ("heldout", None, 4, 500))
    for split, style, count, first in (*plan, ("heldout_style", STYLE, 4, 500)):
        folder = "photo" if style is None else f"style/{style}"
        covers = "mask" if style is None else f"style_mask/{style}"
        base = "heldout/" if split.startswith("heldout") else ""
        made = [face(first + i, style is not None, size) for i in range(count)]
        for i, (picture, mask, _) in enumerate(made):
            name = f"{i:06d}"
            place = {"photo": f"{base}{folder}/{name}.png", "mask": f"{base}{covers}/{name}.png"}
            write_image(path / place["photo"], picture)
            write_image(path / place["mask"], mask)
            rows.append({"id": name, "split": split, "person": first + i, "style": style} | place | about)
            if split == "heldout":
                write_image(path / f"heldout/twin/{STYLE}/{name}.png", picture)
        if not base:
            landmarks[folder] = np.stack([points for _, _, points in made]).astype(np.float32)
    if known:
        np.savez(path / "landmarks.npz", **landmarks)
    write_jsonl(path / "records.jsonl", rows)
    return seal(path, "data", config={"size": size}, inputs={}, metrics={"size": size})
