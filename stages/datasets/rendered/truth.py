"""Exact labels of a picture: face regions, head mask, depth, landmarks, and the point of the face at each pixel."""

from __future__ import annotations

import cv2
import numpy as np

from stages.datasets.rendered.build import Scene
from stages.datasets.rendered.pack import Pack
from stages.datasets.rendered.raster import FAR, strand_depth, vote
from stages.datasets.rendered.shade import Frame
from stages.datasets.rendered.texture import scalp
from stages.networks.face_labels import PARSER

CLASSES = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "glasses", "l_ear", "r_ear", "earring", "nose", "mouth",
    "u_lip", "l_lip", "neck", "necklace", "cloth", "hair", "hat", "beard",
)  # fmt: skip
LABELS = {name: number for number, name in enumerate(CLASSES)}  # of samples; the pack's own order
# What pictures are labelled with: the face parser's 19, where a beard is skin.
TO_PARSER = np.array([PARSER[{"beard": "skin"}.get(name, name)] for name in CLASSES], np.uint8)
NOT_HEAD = ("background", "neck", "necklace", "cloth")
HEAD = tuple(number for name, number in LABELS.items() if name not in NOT_HEAD)
BARE = (*HEAD, LABELS["neck"], LABELS["necklace"])  # down to where clothes begin
PERSON = (*BARE, LABELS["cloth"])


def regions(frame: Frame, covers: list[tuple[np.ndarray, int]], filled: bool = False) -> np.ndarray:
    """Region [W, W] of every sample; strands win where they cover half, the nearer kind last.

    filled: skin that hair grows from is hair, seen or not, as drawings have it.
    """
    out = frame.raster(frame.label.astype(np.uint8))
    hair = frame.scene.person.hair
    if filled or hair.style in ("crop", "bald", "coils"):  # cropped hair is seen through
        on = (frame.label == 1) | (frame.label == 14)
        grown = np.zeros(len(on), bool)
        grown[on] = scalp(frame.neutral[on], hair) > 0.5
        out[frame.rows[grown], frame.columns[grown]] = LABELS["hair"]
    for cover, label in covers:
        out[cover > 0.42] = label
    return out


def parsing(labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Regions of samples [W, W] -> the parser's 19 labels of pixels, uint8 [size, size], and which are beard, bool.

    A pixel has the commonest region of its samples.
    """
    common = vote(labels, labels.shape[0] // size)
    return TO_PARSER[common], common == LABELS["beard"]


def mask(labels: np.ndarray, size: int, among: tuple[int, ...] = HEAD) -> np.ndarray:
    """Coverage of some regions, uint8 [size, size]: by default the head (hair, hat, face, ears, what is worn there)."""
    inside = np.isin(labels, among).astype(np.float32) * 255
    return np.rint(cv2.resize(inside, (size, size), interpolation=cv2.INTER_AREA)).astype(np.uint8)


def depth(frame: Frame) -> np.ndarray:
    """Distance [W, W] along the view in decimetres, hair included; nan where nothing is."""
    out = frame.depth.copy()
    for bunch in frame.scene.strands:
        if bunch.kind in ("hair", "beard"):
            xy, z = frame.scene.camera.project(bunch.points.reshape(-1, 3), frame.width)
            strand_depth(xy, z, bunch.points.shape[1], out)
    return np.where(out >= FAR, np.nan, out)


def landmarks(pack: Pack, scene: Scene, size: int) -> np.ndarray:
    """68 points [68, 2] in pixels (a pixel's centre is a whole number), hidden ones too; the jaw on the outline."""
    xy, _ = scene.camera.project(scene.base[pack.landmarks], size)
    return jaw_on_outline(pack, scene, xy, size) - 0.5


def fixed_landmarks(pack: Pack, scene: Scene, size: int) -> np.ndarray:
    """As `landmarks`, with the jaw on the same points of the mesh in every pose."""
    return scene.camera.project(scene.base[pack.landmarks], size)[0] - 0.5


def jaw_on_outline(pack: Pack, scene: Scene, marks: np.ndarray, size: int) -> np.ndarray:
    """Jaw points moved out along rays from the mouth to where the face ends, as people mark them."""
    ids = np.unique(pack.body.source[pack.body.triangles[np.isin(pack.triangle_class, [1, 10, 12, 13])]])
    ids = ids[(pack.vertices[ids, 1] < 7.35) & (pack.vertices[ids, 2] > 0.55) & (pack.headness[ids] > 0.9)]
    face, _ = scene.camera.project(scene.base[ids], size)
    hull = cv2.convexHull(np.concatenate([face, marks[:17]]).astype(np.float32))[:, 0]
    middle = (marks[27] + marks[57]) / 2
    out = marks.copy()
    for k in range(17):
        ray = marks[k] - middle
        reach = np.linalg.norm(ray)
        far = _exit(hull, middle, ray / max(reach, 1e-6))
        # points of the near side stay; those of the far side are hidden behind the cheek and move out
        out[k] = middle + ray / max(reach, 1e-6) * max(reach, far)
    return out


def _exit(hull: np.ndarray, start: np.ndarray, direction: np.ndarray) -> float:
    """How far a ray from inside a convex outline [n, 2] goes before it leaves."""
    a, b = hull - start, np.roll(hull, -1, axis=0) - start
    edge = b - a
    across = direction[0] * edge[:, 1] - direction[1] * edge[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (a[:, 0] * edge[:, 1] - a[:, 1] * edge[:, 0]) / across
        u = (a[:, 0] * direction[1] - a[:, 1] * direction[0]) / across
    fits = (abs(across) > 1e-9) & (t > 0) & (u >= -1e-6) & (u <= 1 + 1e-6)
    return float(t[fits].max()) if fits.any() else 0.0


def flow(before: Scene, frame: Frame) -> np.ndarray:
    """Where the samples of `frame` were in an earlier scene of the same person, less their places.

    float32 [W, W, 2] in samples; nan where the earlier scene has no such point (background, teeth that showed up).
    """
    parts, at = frame.scene.parts, np.stack([frame.columns, frame.rows], axis=1) + 0.5
    hit = frame.index[frame.rows, frame.columns] - np.cumsum([0] + [len(part.triangles) for part in parts])[frame.part]
    out = np.full(at.shape, np.nan)
    for number, part in enumerate(parts):
        on = frame.part == number
        same = [p for p in before.parts if p.kind == part.kind and p.triangles.shape == part.triangles.shape]
        if not on.any() or not same:
            continue
        twin = same[min(len(same) - 1, sum(p.kind == part.kind for p in parts[:number]))]
        now, _ = frame.scene.camera.project(part.vertices, frame.width)
        then, _ = before.camera.project(twin.vertices, frame.width)
        corners = part.triangles[hit[on]]
        weights = _barycentrics(now[corners].astype(float), at[on])
        out[on] = np.einsum("nk,nkc->nc", weights, then[corners]) - at[on]
    return frame.raster(out.astype(np.float32), np.nan)


def _barycentrics(corners: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Weights [n, 3] of triangles' corners [n, 3, 2] at points [n, 2]."""
    e, f, g = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], at - corners[:, 0]
    area = e[:, 0] * f[:, 1] - e[:, 1] * f[:, 0]
    area = np.where(abs(area) < 1e-9, 1e-9, area)
    u = (g[:, 0] * f[:, 1] - g[:, 1] * f[:, 0]) / area
    v = (e[:, 0] * g[:, 1] - e[:, 1] * g[:, 0]) / area
    return np.stack([1 - u - v, u, v], axis=1)
