"""Rendered people for the tests: each picture is made once a session."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from stages.core.runtime import Runtime
from stages.core.tracking import Silent
from stages.datasets.people import Portrait, open_people
from stages.datasets.rendered.stage import RenderedData


@lru_cache(maxsize=2000)
def portrait(person: int, size: int = 64, style: str | None = None, view: int = 0, seed: int = 0) -> Portrait:
    """A person's photo, or the person in a style. Nobody may write to its arrays."""
    people = open_people(seed)
    made = people.photo(person, view, size) if style is None else people.styled(person, view, style, size)
    for array in (made.image, made.mask, made.parsing, made.beard, made.landmarks):
        array.setflags(write=False)
    return made


def rendered_data(out: Path, **settings: object) -> dict[str, float]:
    """The files of a small data artifact under `out`, not sealed; its measures."""
    few: dict[str, object] = {"size": 64, "count": 4, "style_count": 1, "heldout": 1, "heldout_style": 1}
    stage = RenderedData(**(few | settings))  # type: ignore[arg-type]
    return stage.run({}, out, Runtime("cpu", 1, Silent()))
