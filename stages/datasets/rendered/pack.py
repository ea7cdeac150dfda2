"""Reads the asset pack `data/people`: one mesh of nobody, its shape targets, fitted pieces, skins, marks; no pickles.

Units are decimetres, y up; the face looks to +z and the person's left is +x. `data/people/README.md` has the formats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages.core.files import data_file, read_json
from stages.datasets.rendered.colour import LUMINANCE, linear

ATLAS = 2048  # px, side of a whole skin atlas
RELIEF = 40.0  # steps of a byte that a unit of log luminance stands for
CHEEKS = ((0.25, 0.5, 6.98, 7.15), (0.0, 0.3, 7.5, 7.65))  # |x| and y ranges on the neutral mesh that show plain skin


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles whose vertices have one texture coordinate each: a mesh cut at its texture's seams."""

    source: np.ndarray  # int32 [N]: the mesh vertex of each
    triangles: np.ndarray  # int32 [T, 3], into the N
    uv: np.ndarray  # float32 [N, 2], v down
    coarse: np.ndarray  # int32 [C, 3]: far fewer triangles, for shadows; into the N


@dataclass(frozen=True, eq=False)
class Piece:
    """A thing that is fitted to the mesh: clothes, eyes, teeth, tongue, hat."""

    ids: np.ndarray  # int32 [P, 3]: base vertices that each vertex hangs on
    weights: np.ndarray  # float32 [P, 3]
    offsets: np.ndarray  # float32 [P, 3], scaled by the spans in `scale`
    rest: np.ndarray  # float32 [P, 3]: places on the neutral mesh
    surface: Surface
    hides: np.ndarray  # int32: body vertices under the piece
    scale: dict[str, tuple[int, int, float]]
    picture: dict[str, str] | None

    def fit(self, vertices: np.ndarray) -> np.ndarray:
        """Places [P, 3] on the base mesh [V, 3]: weighted base vertices, and an offset scaled by spans of the base."""
        spans = np.ones(3, np.float32)
        for axis, (a, b, rest) in self.scale.items():
            column = "xyz".index(axis)
            spans[column] = abs(vertices[a, column] - vertices[b, column]) / rest
        return np.einsum("pk,pkc->pc", self.weights, vertices[self.ids]) + self.offsets * spans


@dataclass(eq=False)
class Pack:
    """The pack in memory. V vertices, indices into them unless said otherwise."""

    folder: Path
    vertices: np.ndarray  # float32 [V, 3], neutral
    body: Surface
    triangle_class: np.ndarray  # uint8 [T]: face region of each triangle of `body`, one of CLASSES
    headness: np.ndarray  # float32 [V]: share of the head's turn that a vertex follows
    groups: dict[str, np.ndarray]
    targets: dict[str, tuple[np.ndarray, np.ndarray]]  # name: (vertices [n], offsets [n, 3])
    kinds: dict[str, str]  # name of a target: its kind
    pieces: dict[str, Piece]
    skins: dict[str, dict[str, Any]]
    landmarks: np.ndarray  # int [68], iBUG order
    eye_rims: tuple[np.ndarray, np.ndarray]  # right, left: outer corner ... around
    mouth_corners: np.ndarray
    iris_centres: np.ndarray  # [2, 2] uv of the eye texture, v down
    _images: dict[Any, Any] = field(default_factory=dict, repr=False)

    def joint(self, vertices: np.ndarray, name: str) -> np.ndarray:
        """Place of a joint on a mesh: the mean of its vertices."""
        return vertices[self.groups[f"joint-{name}"]].mean(axis=0)

    def image(self, name: str, size: int, grey: bool = False) -> np.ndarray:
        """A picture of the pack, uint8 RGB or grey, square; kept in memory."""
        key = (name, size, grey)
        if key not in self._images:
            stored = cv2.imread(str(self.folder / name), cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
            assert stored is not None, f"{name}: not in the pack"
            if not grey:
                stored = stored[..., ::-1]
            self._images[key] = _resized(np.ascontiguousarray(stored), size, size)
        return self._images[key]

    def skin(self, name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A skin atlas: uint8 [size, size, 4], sRGB and relief, and its plain colour, linear [3].

        The relief is the log luminance less its blur: wrinkles and pores are dark where the skin is low.
        """
        key = ("skin", name, size)
        if key not in self._images:
            entry = self.skins[name]
            atlas = _resized(self.image(entry["low"], 512), ATLAS, ATLAS)
            x0, y0, x1, y1 = entry["box"]
            stored = cv2.imread(str(self.folder / entry["head"]))
            assert stored is not None, f"{entry['head']}: not in the pack"
            atlas[y0:y1, x0:x1] = _resized(np.ascontiguousarray(stored[..., ::-1]), y1 - y0, x1 - x0)
            atlas = _resized(atlas, size, size)

            # wrinkles and pores
            light = np.log(linear(atlas) @ LUMINANCE + 0.01)
            relief = light - cv2.GaussianBlur(light, (0, 0), size / 110)
            relief = np.clip(128 + RELIEF * relief * 3, 0, 255).astype(np.uint8)

            # the colour of plain skin
            x, y, z = np.moveaxis(self.vertices[self.body.source], -1, 0)
            plain = np.zeros(len(x), bool)
            for low, high, bottom, top in CHEEKS:
                plain |= (z > 0.5) & (abs(x) >= low) & (abs(x) < high) & (y > bottom) & (y < top)
            at = np.clip((self.body.uv[plain] * size).astype(int), 0, size - 1)
            colour = np.median(linear(cv2.blur(atlas, (5, 5)))[at[:, 1], at[:, 0]], axis=0)
            self._images[key] = np.dstack([atlas, relief]), colour.astype(np.float32)
        return self._images[key]

    @cached_property
    def body_triangles(self) -> np.ndarray:
        """The body's triangles as numbers of mesh vertices, int32 [T, 3]."""
        return self.body.source[self.body.triangles].astype(np.int32)

    @cached_property
    def skull_triangles(self) -> np.ndarray:
        """Triangles of `body` that hair lies on: the head without ears and mouth."""
        head = (self.headness[self.body.source] > 0.9)[self.body.triangles].all(axis=1)
        return self.body.triangles[head & ~np.isin(self.triangle_class, [7, 8, 11])]

    @cached_property
    def families(self) -> dict[str, list[str]]:
        """Local shapes by family: left and right and the two directions of a measure belong together."""
        out: dict[str, list[str]] = {}
        for name in (name for name, kind in self.kinds.items() if kind == "local"):
            stem = "-".join(name.split("-")[:-1]).replace("/r-", "/l-")
            if not any(part in stem for part in UNUSED):
                out.setdefault(stem, []).append(name)
        return out


# local shapes left alone: they age, move or scale parts in ways that the macro shapes already do
UNUSED = ("head-age", "neck-circ", "neck-scale", "neck-trans", "trans-head", "nose-trans", "mouth-trans", "l-eye-trans")


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _surface(triangles: np.ndarray, uv: np.ndarray, uv_triangles: np.ndarray, rest: np.ndarray, cell: float) -> Surface:
    """A mesh cut at its seams: one vertex for every pair of place and texture coordinate."""
    pairs = np.stack([triangles.ravel(), uv_triangles.ravel()], axis=1)
    unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
    source, cut = unique[:, 0].astype(np.int32), inverse.reshape(-1, 3).astype(np.int32)
    places = uv[unique[:, 1]].astype(np.float32)
    return Surface(source, cut, np.stack([places[:, 0], 1 - places[:, 1]], axis=1), _coarse(cut, rest[source], cell))


def _coarse(triangles: np.ndarray, places: np.ndarray, cell: float) -> np.ndarray:
    """The triangles after vertices within one cell of a grid became one: a coarse stand-in of the same vertices."""
    _, first, inverse = np.unique(np.floor(places / cell).astype(int), axis=0, return_index=True, return_inverse=True)
    merged = first[inverse.ravel()][triangles]
    flat = (merged[:, 0] == merged[:, 1]) | (merged[:, 1] == merged[:, 2]) | (merged[:, 2] == merged[:, 0])
    return np.unique(merged[~flat], axis=0).astype(np.int32)


def _shown(pack: Pack, surface: Surface, picture: dict[str, str] | None) -> Surface:
    """The surface without triangles that its picture's alpha hides."""
    if picture is None or "alpha" not in picture:
        return surface
    alpha = pack.image(picture["alpha"], 256, grey=True)
    at = np.clip((surface.uv[surface.triangles].mean(axis=1) % 1 * 256).astype(int), 0, 255)
    kept = surface.triangles[alpha[at[:, 1], at[:, 0]] > 127]
    used, inverse = np.unique(kept, return_inverse=True)
    kept = inverse.reshape(-1, 3).astype(np.int32)
    return Surface(surface.source[used], kept, surface.uv[used], kept)


def _split(index: Any, name: str) -> dict[str, np.ndarray]:
    starts = index[f"{name}_start"]
    parts = zip(index[f"{name}_names"].tolist(), starts[:-1], starts[1:], strict=True)
    return {key: index[f"{name}_index"][a:b].astype(np.int64) for key, a, b in parts}


@lru_cache(maxsize=2)
def load_pack(folder: Path | None = None) -> Pack:
    """The pack of `folder`, by default the one that ships; read once a process."""
    folder = folder or data_file("people")
    with np.load(folder / "mesh.npz") as stored:
        mesh = dict(stored)
    marks = read_json(folder / "marks.json", {})
    index = read_json(folder / "index.json")
    vertices = mesh["vertices"].astype(np.float32)

    with np.load(folder / "targets.npz") as stored:
        names, starts = stored["names"].tolist(), stored["start"]
        rows, offsets = stored["index"].astype(np.int64), stored["offset"].astype(np.float32) / 1000
        kinds = dict(zip(names, stored["kind"].tolist(), strict=True))
    spans = list(zip(names, starts[:-1], starts[1:], strict=True))
    pack = Pack(
        folder=folder,
        vertices=vertices,
        body=_surface(mesh["triangles"], mesh["uv"], mesh["uv_triangles"], vertices, 0.11),
        triangle_class=mesh["triangle_class"],
        headness=mesh["headness"].astype(np.float32),
        groups=_split(mesh, "group"),
        targets={name: (rows[a:b], offsets[a:b]) for name, a, b in spans},
        kinds=kinds,
        pieces={},
        skins=index["skins"],
        landmarks=np.array(marks["landmarks"]["vertices"]),
        eye_rims=(np.array(marks["eye_rims"]["right"]), np.array(marks["eye_rims"]["left"])),
        mouth_corners=np.array(marks["mouth_corners"]),
        iris_centres=np.array(marks["iris_uv"]["centres"], np.float32),
    )

    with np.load(folder / "pieces.npz") as arrays:
        for name, entry in index["pieces"].items():
            pack.pieces[name] = _piece(pack, {part: arrays[f"{entry['key']}.{part}"] for part in PARTS}, entry)
    return pack


PARTS = ("ids", "w", "d", "rest", "triangles", "uv", "uv_triangles", "hide")


def _piece(pack: Pack, stored: dict[str, np.ndarray], entry: dict[str, Any]) -> Piece:
    rest = stored["rest"].astype(np.float32)
    surface = _surface(stored["triangles"], stored["uv"], stored["uv_triangles"], rest, 0.15)
    return Piece(
        ids=stored["ids"].astype(np.int32),
        weights=stored["w"].astype(np.float32),
        offsets=stored["d"].astype(np.float32),
        rest=rest,
        surface=_shown(pack, surface, entry["picture"]),
        hides=stored["hide"].astype(np.int64),
        scale={axis: (int(a), int(b), float(n)) for axis, (a, b, n) in entry["scale"].items()},
        picture=entry["picture"],
    )
