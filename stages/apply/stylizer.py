"""A model, a way of finding faces and the user's wishes, opened once and used on any number of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.apply.face_squares import Face, Finder, open_finder
from stages.apply.heads import paint_heads
from stages.apply.model import open_model
from stages.apply.picture import cut_out, paint_whole
from stages.core.settings import TristyleError

if TYPE_CHECKING:
    import numpy as np

FACES = ("auto", "always", "never")


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for, but for the places read and written.

    Attributes:
        model: an ONNX file.
        size: px at which the network works (a face's square, or the shorter side); None = as trained.
        faces: `auto`: the faces found, else the whole frame; `always`: faces only; `never`: the whole frame.
        weights: folder of facexlib's detection weights, see `open_finder`.
        alpha: write cut-outs: what was painted, on nothing.
    """

    model: Path
    size: int | None = None
    faces: str = "auto"
    weights: Path | None = None
    alpha: bool = False

    def key(self, digest: str) -> str:
        """Names all that decides what becomes of a photo; `digest` stands for the model."""
        wishes = {name: str(value) for name, value in asdict(self).items() if name != "model"}
        return f"{digest} {sorted(wishes.items())}"


class Stylizer:
    """Stylises pictures as wished. Opening costs a second, a picture some hundredths.

    Attributes:
        digest: hex sha256 of the model file.
        session: see `open_model`.
        find: see `open_finder`; None where no faces are wanted.
    """

    def __init__(self, wishes: Wishes, threads: int = 0) -> None:
        """Open the model.

        Raises:
            TristyleError: the model, the face weights or a package is missing or unusable; or cut-outs are wanted of a
                model without a matte.
        """
        from stages.core.files import sha256_file

        self.wishes = wishes
        self.session: Any = open_model(wishes.model, threads)
        self.digest = sha256_file(wishes.model)
        self.find: Finder | None = None if wishes.faces == "never" else open_finder(wishes.weights)
        if wishes.alpha and len(self.session.get_outputs()) < 2:
            raise TristyleError(f"{wishes.model}: paints the whole frame and has no matte. Leave --alpha out.")

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Stylise one photo: uint8 [H, W, 3] -> uint8 [H, W, 3], with transparency [H, W, 4] where that is wished.

        Raises:
            TristyleError: no face was found where faces alone are wanted.
        """
        faces = self.find(photo) if self.find else None
        if not faces and self.wishes.faces == "always":
            raise TristyleError("no face found. Crop it closer, or leave --faces out: the whole frame is painted then")
        image, matte = self.paint(photo, faces or None)
        return cut_out(image, matte) if self.wishes.alpha else image

    def paint(
        self, photo: np.ndarray, faces: Sequence[Face] | None = None, strengths: Sequence[float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paint these faces (see `paint_heads`), or with None the whole frame: uint8 [H, W, 3], float32 [H, W]."""
        if faces is None:
            return paint_whole(self.session, photo, self.wishes.size)
        return paint_heads(self.session, photo, faces, self.wishes.size, strengths)
