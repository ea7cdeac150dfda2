"""The faces of a photo, each through the student at the scale it was trained at, pasted back softly.

The network sees the square that it saw in training. A wider one (1.25 sides) hardly lowers the head's
error and trebles what leaks into the background. Back in the photo a painting fades out toward the
square's edge, and between two faces each pixel belongs to the nearer one. A model without a matte also paints what is
behind the head; there its colours are drawn to the photo's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages.apply.face_squares import Face
from stages.apply.model import fixed_side, run_padded, step_of, trained_size
from stages.apply.picture import lay

if TYPE_CHECKING:
    import numpy as np

FADE = 0.8  # share of the way from centre to edge where the painting begins to fade
DIVIDE = 24.0  # how sharply two faces divide what lies between them; px at a face's scale go as exp(-DIVIDE * distance)
OWN = 0.4  # and up to where a painting without a matte keeps its own colours
UNKNOWN_SIZE = 256  # px, for a model that does not note what it was trained at


def paint_heads(
    session: Any,
    photo: np.ndarray,
    faces: Sequence[Face],
    size: int | None = None,
    strengths: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Stylise the heads of a photo and leave the rest as it is.

    Args:
        session: see `open_model`.
        photo: uint8 [H, W, 3] RGB.
        faces: see `open_finder`.
        size: px that the side of a face's square has for the network; None = the size noted in the model.
        strengths: for each face 0..1, how far it is faded in; None: 1 for all.

    Returns:
        uint8 [H, W, 3], and where it was painted, float32 [H, W] in 0..1.
    """
    import numpy as np

    # Each face changes the photo as it was, not what another face made of it.
    wanted = fixed_side(session) or size or trained_size(session) or UNKNOWN_SIZE
    out = photo.astype(np.float32)
    matte = np.zeros(photo.shape[:2], np.float32)
    for index, face in enumerate(faces):
        rows, columns = _reach(face, photo.shape[:2])
        region = np.ascontiguousarray(photo[rows, columns])
        if not region.size:
            continue

        painted, alpha, share = _paint_one(session, region, faces, index, (columns.start, rows.start), wanted)
        if strengths is not None:
            share *= strengths[index]
        out[rows, columns] += share[..., None] * (painted.astype(np.float32) - region)
        matte[rows, columns] += share * alpha
    return np.clip(np.rint(out), 0, 255).astype(np.uint8), np.minimum(matte, 1)


def _reach(face: Face, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the photo that a face's turned square can touch."""
    import math

    half = face.side / 2 * (abs(math.cos(face.tilt)) + abs(math.sin(face.tilt)))
    first = [max(0, math.floor(centre - half)) for centre in (face.y, face.x)]
    last = [min(most, math.ceil(centre + half) + 1) for centre, most in zip((face.y, face.x), shape, strict=True)]
    rows, columns = (slice(low, max(low, high)) for low, high in zip(first, last, strict=True))
    return rows, columns


def _paint_one(
    session: Any, region: np.ndarray, faces: Sequence[Face], index: int, corner: tuple[int, int], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint one face of a region of the photo.

    Args:
        session: see `open_model`.
        region: uint8 [h, w, 3], the part of the photo around the face.
        faces: all faces of the photo, in its px.
        index: of the face to paint.
        corner: x and y in the photo of the region's first pixel.
        size: px of the square's side for the network.

    Returns:
        The region painted, uint8 [h, w, 3]; its matte and its share (see `_share`), float32 [h, w] in 0..1.
    """
    import math

    import cv2
    import numpy as np

    face = faces[index]
    height, width = region.shape[:2]
    step = step_of(session)
    side = round(size / step) * step
    scale = face.side / size  # px of the photo for one of the network

    # Reduce first, by averaging; the turn then samples what is already of the network's scale.
    reduced = region
    if scale > 1:
        shape = (max(1, round(width / scale)), max(1, round(height / scale)))
        reduced = cv2.resize(region, shape, interpolation=cv2.INTER_AREA)
    across, down = width / reduced.shape[1], height / reduced.shape[0]

    # The map from pixels of the network to pixels of the region. Pixel centres are whole numbers in both.
    cos, sin = math.cos(face.tilt) * scale, math.sin(face.tilt) * scale
    middle = (side - 1) / 2
    x, y = face.x - corner[0], face.y - corner[1]
    back = np.array([[cos, -sin, x - middle * (cos - sin)], [sin, cos, y - middle * (sin + cos)]])
    to_reduced = back.copy()
    to_reduced[:, 2] += 0.5
    to_reduced /= np.array([[across], [down]])
    to_reduced[:, 2] -= 0.5

    # Paint the square.
    inward = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    small = cv2.warpAffine(reduced, to_reduced, (side, side), flags=inward, borderMode=cv2.BORDER_REFLECT_101)
    painted, alpha = run_padded(session, small)
    if len(session.get_outputs()) < 2:
        painted = match_rim(small, painted)

    def enlarge(plane: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(plane, back, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    # How much of each place is this face's, computed at the network's scale.
    v, u = np.mgrid[:side, :side].astype(np.float32)
    x, y = (row[0] * u + row[1] * v + row[2] + first for row, first in zip(back, corner, strict=True))
    share = _share(faces, index, x.astype(np.float32), y.astype(np.float32))
    share = cv2.warpAffine(share, back, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return *lay(region, small, painted, alpha, enlarge), share


def _share(faces: Sequence[Face], index: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of each place in the photo is this face's: float32 [h, w] in 0..1.

    1 around it, 0 at the edge of its square and beside nearer faces. It changes slowly, so network pixels suffice.

    Args:
        faces: all faces.
        index: of this one.
        x: the places along the photo's rows, float32 [h, w], px of the photo.
        y: the places along its columns, the same.
    """
    import math

    import numpy as np

    def distance(face: Face) -> np.ndarray:
        return np.hypot(x - face.x, y - face.y) / face.side

    # 1 in the middle, 0 at the edge of the square.
    face = faces[index]
    cos, sin = math.cos(face.tilt), math.sin(face.tilt)
    half = face.side / 2
    across = np.abs((x - face.x) * cos + (y - face.y) * sin) / half
    down = np.abs((y - face.y) * cos - (x - face.x) * sin) / half
    share = _step((1 - _edge(across, down)) / (1 - FADE))

    # Less where another face is nearer.
    others = np.zeros_like(share)
    for number, other in enumerate(faces):
        near = math.hypot(face.x - other.x, face.y - other.y) < (face.side + other.side)
        if number != index and near:
            others += np.exp(np.clip(DIVIDE * (distance(face) - distance(other)), -50, 50))
    out: np.ndarray = share / (1 + others)
    return out


def _edge(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """How far places are on the way from the centre (0) to the edge (1) of a square with round corners.

    Args:
        across: horizontal distance from the centre, in half sides.
        down: vertical distance, the same.
    """
    import numpy as np

    out: np.ndarray = np.sqrt(np.sqrt(across**4 + down**4))
    return out


def _step(x: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, smooth between."""
    import numpy as np

    x = np.clip(x, 0, 1)
    out: np.ndarray = x * x * (3 - 2 * x)
    return out


def match_rim(photo: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """Draw a painted square's colours to the photo's toward its edge, so that no seam shows there.

    The missing colour is averaged over an eighth of the side. It is added in full at the edge and not at all inward of
    OWN: the face keeps the style's colours, and the rim keeps its drawing.

    Args:
        photo: [S, S, 3] in 0..255.
        painted: the same square as the network painted it, [S, S, 3] in 0..255.

    Returns:
        float32 [S, S, 3].
    """
    import cv2
    import numpy as np

    # 0 up to FADE, 1 at the edge.
    side = len(painted)
    places = np.abs((np.arange(side, dtype=np.float32) * 2 + 1) / side - 1)
    edge = _edge(places[None], places[:, None])
    rim = _step((edge - FADE) / (1 - FADE))

    # What the rim lacks, averaged over its neighbourhood.
    weight = cv2.GaussianBlur(rim, (0, 0), side / 8, borderType=cv2.BORDER_CONSTANT)
    lacking = (photo - painted.astype(np.float32)) * rim[..., None]
    lacking = cv2.GaussianBlur(lacking, (0, 0), side / 8, borderType=cv2.BORDER_CONSTANT)
    pull = _step((edge - OWN) / (1 - OWN)) / np.maximum(weight, 1e-3)
    out: np.ndarray = painted + pull[..., None] * lacking
    return out
