"""The renderer as a source of people with truth (`stages.datasets.people.People`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.files import data_file
from stages.datasets.people import SENSOR_NOISE, Motion, Portrait
from stages.datasets.rendered.motion import moving
from stages.datasets.rendered.person import Person, View, attributes, sample_person, sample_view
from stages.datasets.rendered.render import SIZES, Picture, photo, shoot
from stages.datasets.rendered.styles import STYLES
from stages.datasets.rendered.styles.twins import styled, twin


@dataclass(frozen=True)
class RenderedPeople:
    """Everybody that the renderer can render from one seed."""

    seed: int = 0

    @property
    def id(self) -> str:
        """Digest of the renderer's source, its pack and the seed: another renderer renders other pictures."""
        digest = hashlib.sha256(str(self.seed).encode())
        for path in sorted(Path(__file__).parent.rglob("*.py")):
            digest.update(path.read_bytes())
        digest.update((data_file("people") / "manifest.csv").read_bytes())
        return f"renderer-{digest.hexdigest()[:8]}"

    @property
    def sizes(self) -> tuple[int, int]:
        """Smallest and largest side of a picture, px."""
        return SIZES

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles."""
        return STYLES

    def _seen(self, person: int, view: int) -> tuple[Person, View]:
        return sample_person(person, self.seed), sample_view(person, view, self.seed)

    def photo(self, person: int, view: int, size: int) -> Portrait:
        """The photo of a person."""
        return _portrait(photo(*self._seen(person, view), size))

    def styled(self, person: int, view: int, style: str, size: int) -> Portrait:
        """The same person as the style draws people, on the style's own background."""
        return _portrait(styled(*self._seen(person, view), size, style))

    def twin(self, person: int, view: int, style: str, size: int) -> Portrait:
        """The style's head, neck and shoulders on the photo; the style's own truth but for the mask."""
        true = twin(shoot(*self._seen(person, view), size), style)
        return replace(_portrait(true), mask=true.bare)

    def moving(
        self, person: int, size: int, frames: int = 8, style: str | None = None, noise: float = SENSOR_NOISE
    ) -> Motion:
        """A person who moves from view 0 on before a camera that holds still."""
        return moving(person, size, frames, style, self.seed, noise)

    def attributes(self, person: int, view: int) -> dict[str, float | int | str]:
        """What records.jsonl says of a picture."""
        return attributes(*self._seen(person, view))


def _portrait(picture: Picture) -> Portrait:
    return Portrait(picture.image, picture.mask, picture.parsing, picture.beard, picture.landmarks, picture.attributes)
