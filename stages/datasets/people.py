"""People with truth: the seam behind which portraits are made, and who is who in every data set.

Whoever needs people whose head, landmarks, attributes, stylised twin or motion are known exactly asks `open_people`.
Today a renderer answers (`stages.datasets.rendered`). Another source takes its place by the protocol `People`.

A person is a number. The ranges below keep apart who is trained on, who lends a style its faces, and who only scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TRAIN_PEOPLE = 0
"""First person of the training photos."""
STYLE_PEOPLE = 2_000_000
"""First person of the style pictures: never one of the photos."""
HELDOUT_STYLE_PEOPLE = 3_000_000
"""First person of the style pictures that are the real side of KID."""
HELDOUT_PEOPLE = 5_000_000
"""First held-out person, for measuring only."""
READER_PEOPLE = 8_000_000
"""First person that the face reader is trained on."""
MOST_PEOPLE = 900_000
"""People that one range may hold, so that no two ranges share a person."""
READER_HELDOUT = READER_PEOPLE + MOST_PEOPLE
"""First person that the face reader is scored on."""

SENSOR_NOISE = 0.005
"""Deviation of a sensor's white noise, of full white: what a good camera shows indoors."""

_RANGES = {
    "train": TRAIN_PEOPLE,
    "heldout": HELDOUT_PEOPLE,
    "style": STYLE_PEOPLE,
    "heldout_style": HELDOUT_STYLE_PEOPLE,
}


def person_of(split: str, index: int) -> int:
    """The person on picture `index` of a split: splits never share one, styles share theirs.

    Args:
        split: train, heldout, style or heldout_style.
        index: 0 to `MOST_PEOPLE` - 1.
    """
    return _RANGES[split] + index


@dataclass(frozen=True)
class Portrait:
    """A picture and its truth.

    Attributes:
        image: uint8 RGB [H, W, 3].
        mask: uint8 [H, W], coverage of the head (hair, hat, face, ears, beard, glasses), 255 = head.
        parsing: uint8 [H, W], the face parser's 19 labels (`stages.networks.face_labels.PARSER_LABELS`).
        beard: bool [H, W], where a beard hides what the labels call skin.
        landmarks: float32 [68, 2] in iBUG order, pixels; a pixel's centre is a whole number.
        attributes: what records.jsonl says of it. Angles are in degrees; `glasses`, `beard` and `hat` are kinds.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    parsing: NDArray[np.uint8]
    beard: NDArray[np.bool_]
    landmarks: NDArray[np.float32]
    attributes: dict[str, float | int | str]


@dataclass(frozen=True)
class Motion:
    """A short video and its truth: T frames of S x S pixels.

    Attributes:
        frames: uint8 RGB [T, S, S, 3].
        flows: float32 [T - 1, S, S, 2], px: frame t + 1 at x shows what frame t showed at x + flow(x).
        heads: bool [T, S, S]: the head, without what comes into view from beyond the portrait.
        twins: uint8 RGB [T, S, S, 3], the true stylised twin in the same motion; None where no style was given.
    """

    frames: NDArray[np.uint8]
    flows: NDArray[np.float32]
    heads: NDArray[np.bool_]
    twins: NDArray[np.uint8] | None


class People(Protocol):
    """A source of people with truth. Every picture is a function of its arguments and the source's seed alone.

    `view` is one look at a person: another view has another pose, expression, light and background. A size outside
    `sizes` or a style that is not in `styles` raises ValueError.
    """

    @property
    def id(self) -> str:
        """Names the source by content: what a cache of its pictures depends on."""
        ...

    @property
    def sizes(self) -> tuple[int, int]:
        """Smallest and largest side of a picture, px."""
        ...

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles that it draws."""
        ...

    def photo(self, person: int, view: int, size: int) -> Portrait:
        """The photo of a person."""
        ...

    def styled(self, person: int, view: int, style: str, size: int) -> Portrait:
        """The same person as the style draws people, on the style's own background."""
        ...

    def twin(self, person: int, view: int, style: str, size: int) -> Portrait:
        """The true stylised twin of a photo: the style's person on the photo's own clothes and background.

        The mask is of what is painted: at least the photo's mask. Where it is 0, the image is the photo's, byte for
        byte.
        """
        ...

    def moving(
        self, person: int, size: int, frames: int = 8, style: str | None = None, noise: float = SENSOR_NOISE
    ) -> Motion:
        """A person who moves from view 0 on, or is seen by a moving camera.

        Args:
            person: number of the person; it also draws the motion.
            size: side of a frame, px.
            frames: how many.
            style: also the true twin's video in this style.
            noise: deviation of the white noise that a sensor adds to each frame, of full white. The twin has none.
        """
        ...

    def attributes(self, person: int, view: int) -> dict[str, float | int | str]:
        """`Portrait.attributes` without drawing the picture."""
        ...


def open_people(seed: int = 0) -> People:
    """The embedded source of people. Another seed is another population."""
    from stages.datasets.rendered.people import RenderedPeople  # numba takes half a second

    return RenderedPeople(seed)
