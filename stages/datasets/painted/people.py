"""The painter as a source of people with truth (`stages.datasets.people.People`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from stages.datasets.painted import motion
from stages.datasets.painted.paint import SIZES, STYLES, paint, twin
from stages.datasets.painted.person import Person, View, attributes, sample_person, sample_view
from stages.datasets.people import SENSOR_NOISE, Motion, Portrait


@dataclass(frozen=True)
class PaintedPeople:
    """Everybody that the painter can paint from one seed."""

    seed: int = 0

    @property
    def id(self) -> str:
        """Digest of the painter's source and the seed: another painter paints other pictures."""
        digest = hashlib.sha256(str(self.seed).encode())
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        return f"painter-{digest.hexdigest()[:8]}"

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
        return paint(*self._seen(person, view), size)

    def styled(self, person: int, view: int, style: str, size: int) -> Portrait:
        """The same person as the style draws people, on the style's own background."""
        return paint(*self._seen(person, view), size, style)

    def twin(self, person: int, view: int, style: str, size: int) -> Portrait:
        """The style's head on the photo's own neck, clothes and background."""
        return twin(*self._seen(person, view), size, style)

    def moving(
        self, person: int, size: int, frames: int = 8, style: str | None = None, noise: float = SENSOR_NOISE
    ) -> Motion:
        """A person in view 0 under a moving camera."""
        return motion.moving(person, size, frames, style, noise, self.seed)

    def attributes(self, person: int, view: int) -> dict[str, float | int | str]:
        """What records.jsonl says of a picture."""
        return attributes(*self._seen(person, view))
