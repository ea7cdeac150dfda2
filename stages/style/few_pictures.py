"""`style=pictures`: one to ten pictures of a style as they are, cut to the square of their face; nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.core import decode
from stages.core.artifact import Artifact
from stages.core.consent import tables_above, usable
from stages.core.files import write_jsonl
from stages.core.images import IMAGE_SUFFIXES, write_image
from stages.core.runtime import Runtime, one_thread
from stages.core.settings import ConfigError, TristyleError, choice, image_size
from stages.core.stage import Stage
from stages.faces.align import crop, portrait_quad
from stages.faces.detect import find_detector, open_detector
from stages.faces.landmarks import find_landmarks

MOST = 10
FRAMES = ("aligned", "square")


@dataclass(kw_only=True)
class FewPictures(Stage):
    """A folder with a few pictures of a style -> the style set, each picture cut as this project frames portraits.

    Args:
        pictures: the folder, or one picture.
        size: px a side of the squares.
        target: what the style is called; its held-out pictures in the data, if there are any, measure the student.
        faces: ``aligned``: the square around the largest face; ``square``: the centre square, for pictures that are
            framed as the data's are.
        weights: folder with RetinaFace's weights, as `data.weights`.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    pictures: str
    size: int
    target: str
    faces: str = "aligned"
    weights: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is not a name", "Name the style, e.g. ink")
        image_size("size", self.size)
        choice("faces", self.faces, FRAMES)

    def files(self) -> dict[str, Path]:
        """The pictures, the tables of sources above them, and the weights that find faces."""
        place = Path(self.pictures)
        above = [file for file in tables_above(place) if file.parent != place]
        found = {"pictures": place} | {f"sources.{number}": file for number, file in enumerate(above)}
        if self.faces == "aligned":
            networks = {"detector": find_detector(self.weights), "landmarks": find_landmarks(self.weights)}
            found |= {name: file for name, file in networks.items() if file is not None}
        return found

    def check(self) -> None:
        """Raises TristyleError: no picture, or more than ten."""
        self._paths()

    def _paths(self) -> list[Path]:
        """The pictures that nobody refused (`sources.csv`), by name."""
        place = Path(self.pictures)
        paths = [place] if place.is_file() else sorted(place.glob("*"))
        paths = usable(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise TristyleError(
                f"style.pictures: {place} holds no picture that may be used. Put 1 to {MOST} pictures of a style there."
            )
        if len(paths) > MOST:
            raise TristyleError(
                f"style.pictures: {place} holds {len(paths)} pictures, more than {MOST}. Take the best of them, or "
                "train a style on all (style=stylegan2)."
            )
        return paths

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Cut the squares and write them; returns how many there are.

        Raises:
            TristyleError: a picture cannot be read, or shows no face.
        """
        squares = [self._square(path) for path in self._paths()]
        rows = []
        for index, (path, square) in enumerate(zip(self._paths(), squares, strict=True)):
            name = f"{index:06d}"
            write_image(out / "images" / f"{name}.png", square)
            rows.append({"id": name, "image": f"images/{name}.png", "style": self.target, "source": path.name})
        write_jsonl(out / "records.jsonl", rows)
        return {"count": len(rows), "size": self.size}

    def _square(self, path: Path) -> np.ndarray:
        """One picture's square, uint8 [size, size, 3]."""
        import cv2

        pixels = decode.read(path).pixels
        if self.faces == "aligned":
            with one_thread():
                found = open_detector(self.weights)(pixels)
            if not found:
                raise TristyleError(
                    f"{path}: no face was found. Leave it out, or say style.faces=square where pictures are framed as "
                    "the photos are."
                )
            return crop(pixels, portrait_quad(found[0].points), self.size)[0]

        side = min(pixels.shape[:2])
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        inner = pixels[top : top + side, left : left + side]
        smaller = cv2.INTER_AREA if side > self.size else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(inner, (self.size, self.size), interpolation=smaller))
