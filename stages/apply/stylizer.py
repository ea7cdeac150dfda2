"""A model, a face finder and the user's options, opened once and used on any number of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.apply.face_squares import Face, Finder, open_finder
from stages.apply.heads import paint_heads
from stages.apply.model import draws_faces_only, fixed_side, open_model
from stages.apply.picture import cut_out, paint_whole
from stages.core.settings import TristyleError

if TYPE_CHECKING:
    import numpy as np

FACES = ("auto", "always", "never")


@dataclass(frozen=True)
class Options:
    """How to stylise: what the command line asks for, without the places read and written.

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
        """All that decides what becomes of a photo, as text.

        Args:
            digest: sha256 of the model file, in the place of its path.
        """
        values = {name: str(value) for name, value in asdict(self).items() if name != "model"}
        return f"{digest} {sorted(values.items())}"


class Stylizer:
    """Stylises pictures. Opening costs a second, a picture some hundredths.

    Args:
        options: the model, and how to stylise.
        threads: of the network; 0 = one a core.
        still: see `open_finder`.

    Attributes:
        options: as given.
        digest: hex sha256 of the model file.
        session: see `open_model`.
        find: see `open_finder`; None where no faces are wanted.
        faces_only: the model draws faces; a photo without one stays as it is.
        untouched: whether the last photo was left as it is.
    """

    def __init__(self, options: Options, threads: int = 0, *, still: bool = True) -> None:
        """Open the model and the finder.

        Raises:
            TristyleError: the model, the face weights or a package is missing or unusable; or cut-outs are wanted of a
                model without a matte; or whole frames or another size of a model that draws faces of one size.
        """
        from stages.core.files import sha256_file

        self.options = options
        self.session: Any = open_model(options.model, threads)
        self.digest = sha256_file(options.model)
        self.untouched = False
        self.faces_only = draws_faces_only(self.session)
        side = fixed_side(self.session)
        if side is not None and options.size not in (None, side):
            raise TristyleError(f"--size {options.size}: {options.model} takes {side} px only. Leave --size out.")
        if self.faces_only and options.faces == "never":
            raise TristyleError(f"--faces never: {options.model} draws faces only. Leave --faces out.")
        self.find: Finder | None = None
        if options.faces != "never":
            self.find = open_finder(options.weights, still=still)
        if options.alpha and len(self.session.get_outputs()) < 2:
            raise TristyleError(f"{options.model}: paints the whole frame and has no matte. Leave --alpha out.")

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Stylise one photo: uint8 [H, W, 3] -> uint8 [H, W, 3], [H, W, 4] with `options.alpha`.

        A model that draws faces only leaves a photo without one as it is, and `untouched` says so.

        Raises:
            TristyleError: no face was found where faces alone are wanted.
        """
        faces = self.find(photo) if self.find else None
        self.untouched = self.faces_only and not faces
        if self.untouched and self.options.faces == "auto" and not self.options.alpha:
            return photo
        if not faces and (self.options.faces == "always" or self.untouched):
            left = "the photo stays as it is then" if self.faces_only else "the whole frame is painted then"
            cause = "--faces" if self.options.faces == "always" else "--alpha"
            raise TristyleError(f"no face found. Crop it closer, or leave {cause} out: {left}")
        image, matte = self.paint(photo, faces or None)
        return cut_out(image, matte) if self.options.alpha else image

    @property
    def mark(self) -> str | None:
        """The digest that marks what was made of the last photo; None where the photo was left as it is."""
        return None if self.untouched else self.digest

    def paint(
        self, photo: np.ndarray, faces: Sequence[Face] | None = None, strengths: Sequence[float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paint some faces, or the whole frame.

        Args:
            photo: uint8 [H, W, 3].
            faces: see `paint_heads`; None: the whole frame.
            strengths: see `paint_heads`.

        Returns:
            uint8 [H, W, 3], and where it was painted, float32 [H, W] in 0..1.
        """
        if faces is None:
            return paint_whole(self.session, photo, self.options.size)
        return paint_heads(self.session, photo, faces, self.options.size, strengths)
