"""From a person and a view to a scene: meshes and strands in the world, what they are made of, and a camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stages.datasets.rendered import wear
from stages.datasets.rendered.colour import ramp
from stages.datasets.rendered.hair.face import beard_of, brows_of, lashes_of
from stages.datasets.rendered.hair.head import hair_of
from stages.datasets.rendered.hair.strands import Strands
from stages.datasets.rendered.pack import Pack, Surface
from stages.datasets.rendered.person import FACES, Person, View
from stages.datasets.rendered.raster import add_shape, chosen_triangles, turn_points, vertex_normals

Warp = Callable[[np.ndarray], np.ndarray]
AGES = {"baby": 1.0, "child": 10.0, "young": 25.0, "old": 90.0}  # years that the macro shapes stand for
TEXELS = {64: 512, 128: 768, 256: 1024}  # side of the skin atlas by picture size
TEETH_SHOW = ("jawOpen", "mouthUpperUpLeft", "mouthLowerDownLeft", "mouthFunnel", "mouthStretchLeft")


@dataclass
class MeshPart:
    """A mesh in the world. N vertices, T triangles."""

    kind: str  # skin | eye | teeth | tongue | cloth | hat | frame | lens | metal
    vertices: np.ndarray  # float32 [N, 3]
    normals: np.ndarray  # float32 [N, 3]
    triangles: np.ndarray  # int32 [T, 3]
    coarse: np.ndarray  # int32 [C, 3]: what throws shadows
    uv: np.ndarray  # float32 [N, 2]
    label: np.ndarray  # uint8 [T]: face region
    texture: np.ndarray | None = None  # uint8 [H, W, 3 or 4]
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)  # linear; multiplies the texture
    neutral: np.ndarray | None = None  # float32 [N, 3]: places on the neutral mesh


@dataclass(frozen=True)
class Camera:
    """A camera that looks along -z."""

    place: np.ndarray  # float32 [3]
    half: float  # half the picture's width at unit depth
    look: np.ndarray  # float32 [3], the middle of what it frames

    def project(self, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [n, 2] (a pixel's centre is a half) and depths [n] of world points [n, 3]."""
        d = points - self.place
        scale = np.float32(size / 2 / self.half)
        depth = -d[:, 2]
        xy = np.stack([size / 2 + d[:, 0] / depth * scale, size / 2 - d[:, 1] / depth * scale], axis=1)
        return xy.astype(np.float32), depth.astype(np.float32)


@dataclass
class Scene:
    """Everything there is to draw."""

    person: Person
    view: View
    parts: list[MeshPart]
    strands: list[Strands]
    base: np.ndarray  # float32 [V, 3]: the posed base mesh
    camera: Camera
    eyes: np.ndarray  # float32 [2, 3]: centres, right and left
    gaze: np.ndarray  # float32 [3]: where both look
    plain: np.ndarray  # float32 [3]: what the skin picture's cheeks have, linear


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation [3, 3] of degrees: about y, then x, then z."""
    a, b, c = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    tilt = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (turn @ nod @ tilt).astype(np.float32)


def shape_of(pack: Pack, person: Person) -> np.ndarray:
    """The person's mesh [V, 3], unposed, without expression."""
    vertices = pack.vertices.copy()

    def add(name: str, weight: float) -> None:
        if weight > 1e-4 and name in pack.targets:
            ids, offsets = pack.targets[name]
            add_shape(vertices, ids, offsets, np.float32(weight))

    for age, by_age in _shares(AGES, person.age).items():
        for sex, by_sex in {"female": 1 - person.masculine, "male": person.masculine}.items():
            for face, share in zip(FACES, person.face_shape, strict=True):
                add(f"macro/{face}-{sex}-{age}", by_age * by_sex * share)
            for muscle, by_muscle in _thirds(person.muscle).items():
                for stout, by_weight in _thirds(person.weight).items():
                    name = f"macro/universal-{sex}-{age}-{muscle}muscle-{stout}weight"
                    add(name, by_age * by_sex * by_muscle * by_weight)
    for name, share in person.shape.items():
        add(name, share)
    return vertices


def _shares(knots: dict[str, float], at: float) -> dict[str, float]:
    """Weights of the two knots around a value."""
    names, places = list(knots), list(knots.values())
    k = int(np.clip(np.searchsorted(places, at) - 1, 0, len(places) - 2))
    t = float(np.clip((at - places[k]) / (places[k + 1] - places[k]), 0, 1))
    return {names[k]: 1 - t, names[k + 1]: t}


def _thirds(x: float) -> dict[str, float]:
    return {"min": max(0, 1 - 2 * x), "average": 1 - abs(2 * x - 1), "max": max(0, 2 * x - 1)}


def express(pack: Pack, vertices: np.ndarray, units: dict[str, float], gain: float = 1.0) -> np.ndarray:
    """The mesh with facial units added."""
    vertices = vertices.copy()
    for name, weight in units.items():
        ids, offsets = pack.targets[f"unit/{name}"]
        add_shape(vertices, ids, offsets, np.float32(weight * gain))
    return vertices


@dataclass(frozen=True)
class Pose:
    """Turns the body by a part of the yaw, head and neck by the rest, in nine blended steps along the neck."""

    body: np.ndarray  # [3, 3]
    steps: np.ndarray  # [9, 3, 3]
    pivot: np.ndarray  # [3]
    shoulders: float  # height at which hair follows the body

    def place(self, points: np.ndarray, headness: np.ndarray) -> np.ndarray:
        """Points [n, 3] posed; headness [n] is their share of the head's turn."""
        flat = np.ascontiguousarray(points, dtype=np.float32)
        return turn_points(flat, np.asarray(headness, np.float32), self.body, self.steps, self.pivot.astype(np.float32))

    def turn(self, directions: np.ndarray) -> np.ndarray:
        """Directions [..., 3] of the head turned with it."""
        return (directions @ (self.steps[8] @ self.body).T).astype(np.float32)

    def hang(self, strands: np.ndarray) -> np.ndarray:
        """Strand points [S, P, 3] posed: hair on the shoulders follows the body."""
        flat = strands.reshape(-1, 3)
        share = 0.15 + 0.85 * ramp(flat[:, 1], self.shoulders, self.shoulders + 0.9)
        return self.place(flat, share).reshape(strands.shape)


def pose_of(view: View, pivot: np.ndarray) -> Pose:
    """The pose of a view about the neck's joint."""
    away = view.yaw * (1 - view.lean)
    steps = [rotation(away * t, view.pitch * t, view.roll * t) for t in np.linspace(0, 1, 9)]
    return Pose(rotation(view.yaw * view.lean, 0, 0), np.stack(steps), pivot, float(pivot[1]) - 0.25)


def camera_of(pack: Pack, base: np.ndarray, view: View) -> Camera:
    """Frames the head as FFHQ does, from eyes and mouth."""
    right, left = (base[rim].mean(axis=0) for rim in pack.eye_rims)
    eyes = (left + right) / 2
    down = base[pack.mouth_corners].mean(axis=0) - eyes
    half = max(np.linalg.norm((left - right)[:2]) * 2.0, np.linalg.norm(down[:2]) * 1.8) * view.zoom
    shift = np.array([view.shift[0], view.shift[1], 0]) * half * 2
    look = (eyes + down * 0.1 + shift).astype(np.float32)
    return Camera(look + np.array([0, 0, view.distance], np.float32), float(half / view.distance), look)


def build(
    pack: Pack,
    person: Person,
    view: View,
    size: int,
    warp: Warp | None = None,
    gain: float = 1.0,
    gather: float = 1.0,
    tresses: int | None = None,
) -> Scene:
    """The scene of a person in a view, with detail for pictures of `size` px.

    Args:
        warp: changes proportions of the unposed mesh, for styles.
        gain: of the expression.
        gather: above 1, hair forms thicker locks.
        tresses: picture size that hair has its detail for, if not `size`.
    """
    plain = shape_of(pack, person)
    shaped = warp(plain) if warp else plain
    vertices = express(pack, shaped, view.units, gain)
    pose = pose_of(view, pack.joint(shaped, "neck"))
    maker = _Maker(pack, person, pose, vertices, size)
    maker.skin()
    maker.eyes(view)
    if sum(view.units.get(name, 0) for name in TEETH_SHOW) > 0.02:
        maker.piece("teeth", "teeth/teeth_base", 512, 11, (1.45, 1.4, 1.3))
        maker.piece("tongue", "tongue/tongue01", 128, 11)
    maker.clothes()
    for kind, points, triangles, label, colour in wear.worn(pack, person, vertices):
        maker.plain(kind, points, triangles, label, colour)
    strands = [*brows_of(pack, person, vertices, size), *lashes_of(pack, person, vertices, size)]
    strands += [*beard_of(pack, person, vertices, size), *hair_of(pack, person, vertices, tresses or size, gather)]
    for bunch in strands:
        bunch.points = pose.hang(bunch.points)
        bunch.outward = pose.turn(bunch.outward)
    base = maker.base
    # a style's camera is the photograph's: it frames the face before the warp
    framed = base if warp is None else pose.place(express(pack, plain, view.units), pack.headness)
    camera = camera_of(pack, framed, view)
    return Scene(person, view, maker.parts, strands, base, camera, maker.centres, maker.look, maker.plain_colour)


class _Maker:
    """Collects the parts of a scene."""

    def __init__(self, pack: Pack, person: Person, pose: Pose, vertices: np.ndarray, size: int) -> None:
        self.pack, self.person, self.pose, self.vertices, self.size = pack, person, pose, vertices, size
        self.parts: list[MeshPart] = []
        self.base = pose.place(vertices, pack.headness)
        self.centres = np.zeros((2, 3), np.float32)
        self.look = np.array([0, 0, 1], np.float32)
        self.texels = TEXELS[min((k for k in TEXELS if k >= size), default=256)]
        self.plain_colour = np.ones(3, np.float32)

    def add(
        self, kind: str, at: np.ndarray, surface: Surface, label: np.ndarray | int, keep: np.ndarray | None = None
    ) -> MeshPart:
        """A part of a surface whose mesh vertices are `at`, posed; only the triangles to keep."""
        triangles = surface.triangles if keep is None else surface.triangles[keep]
        labels = np.broadcast_to(np.asarray(label, np.uint8), len(surface.triangles))
        world = np.ascontiguousarray(at[surface.source], dtype=np.float32)
        part = MeshPart(
            kind, world, vertex_normals(world, triangles), triangles, surface.coarse, surface.uv,
            labels if keep is None else labels[keep],
        )  # fmt: skip
        self.parts.append(part)
        return part

    def skin(self) -> None:
        """The body, less what clothes cover."""
        pack = self.pack
        hidden = np.zeros(len(pack.vertices), bool)
        hidden[pack.pieces[f"clothes/{self.person.clothes}"].hides] = True
        keep = ~chosen_triangles(pack.body_triangles, hidden)
        part = self.add("skin", self.base, pack.body, pack.triangle_class, keep)
        # normals of the whole mesh, so that seams of the texture do not show
        whole = vertex_normals(self.base, pack.body_triangles)
        part.normals = whole[pack.body.source]
        part.texture, self.plain_colour = pack.skin(self.person.skin, self.texels)
        part.neutral = pack.vertices[pack.body.source]

    def eyes(self, view: View) -> None:
        """Both eyes, turned to where they look."""
        piece = self.pack.pieces["eyes/high-poly"]
        at, left = piece.fit(self.vertices), piece.rest[:, 0] > 0
        turn = rotation(view.gaze[0], view.gaze[1], 0)
        centres = []
        for chosen in (~left, left):
            centre = (at[chosen].max(axis=0) + at[chosen].min(axis=0)) / 2
            at[chosen] = (at[chosen] - centre) @ turn.T + centre
            centres.append(centre)
        self.centres = self.pose.place(np.array(centres, np.float32), np.ones(2))
        self.look = self.pose.turn(turn @ np.array([0, 0, 1], np.float32))
        labels = np.where(left[piece.surface.source[piece.surface.triangles[:, 0]]], 4, 5)
        part = self.add("eye", self.pose.place(at, np.ones(len(at))), piece.surface, labels)
        assert piece.picture is not None
        part.texture = self.pack.image(piece.picture["colour"], 256)

    def piece(
        self, kind: str, name: str, texels: int, label: int, colour: tuple[float, float, float] = (1, 1, 1)
    ) -> None:
        """A fitted piece that moves with what it hangs on."""
        piece = self.pack.pieces[name]
        share = (self.pack.headness[piece.ids] * piece.weights).sum(axis=1)
        part = self.add(kind, self.pose.place(piece.fit(self.vertices), share), piece.surface, label)
        part.colour = colour
        if piece.picture is not None:
            part.texture = self.pack.image(piece.picture["colour"], texels)

    def clothes(self) -> None:
        """The suit, dyed."""
        self.piece("cloth", f"clothes/{self.person.clothes}", self.texels // 2, 16, self.person.clothes_colour)
        if self.person.hat == "fedora":
            self.piece("hat", "clothes/fedora", 64, 18, self.person.hat_colour)

    def plain(
        self, kind: str, at: np.ndarray, triangles: np.ndarray, label: int, colour: tuple[float, float, float]
    ) -> None:
        """A thing of one colour on the head or, below it, on the neck."""
        world = self.pose.hang(np.asarray(at, np.float32)[None])[0]
        triangles = triangles.astype(np.int32)
        uv = np.zeros((len(world), 2), np.float32)
        labels = np.full(len(triangles), label, np.uint8)
        self.parts.append(
            MeshPart(kind, world, vertex_normals(world, triangles), triangles, triangles, uv, labels, None, colour)
        )
