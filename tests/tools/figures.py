"""Figures of people: what the renderer knows, and what a run made of them.

    python -m tests.tools.figures people -o data/portraits.png            # photo and the true twin in every style
    python -m tests.tools.figures run --data runs/data/KEY --pair runs/pair/KEY --student runs/student/KEY -o FILE.png

`run` shows held-out people: photo, what the translator and the student make of it (either may be left out), true twin.
Neither picks: people stand in the order of their numbers, from --first on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from stages.core.images import grid, read_image, write_image
from stages.datasets.people import HELDOUT_PEOPLE
from stages.datasets.rendered.person import sample_person, sample_view
from stages.datasets.rendered.render import photo
from stages.datasets.rendered.styles import STYLES
from stages.datasets.rendered.styles.twins import twin_of


def people(first: int, count: int, size: int) -> list[list[np.ndarray]]:
    """A row a person: photo, and the twin in every style."""
    rows = []
    for number in range(HELDOUT_PEOPLE + first, HELDOUT_PEOPLE + first + count):
        who, view = sample_person(number), sample_view(number)
        twins = [twin_of(who, view, size, style).image for style in STYLES]
        rows.append([photo(who, view, size).image, *twins])
    return rows


def run(options: argparse.Namespace) -> list[list[np.ndarray]]:
    """A row a held-out person of a run."""
    held = options.data / "heldout"
    names = sorted(path.name for path in (held / "photo").iterdir())[options.first : options.first + options.count]
    made = [folder / "heldout" for folder in (options.pair, options.student) if folder is not None]
    return [
        [read_image(folder / name) for folder in (held / "photo", *made, held / "twin" / options.style)]
        for name in names
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["people", "run"])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--across", type=int, default=2, help="people side by side")
    parser.add_argument("--size", type=int, default=128, help="people: side of a picture, px")
    parser.add_argument("--style", default="comic", help="run: whose twins")
    for name in ("data", "pair", "student"):
        parser.add_argument(f"--{name}", type=Path, help="run: the folder of the artifact")
    options = parser.parse_args()

    rows = run(options) if options.what == "run" else people(options.first, options.count, options.size)
    pictures = [picture for row in rows for picture in row]
    write_image(options.out, grid(np.stack(pictures), options.across * len(rows[0])))


if __name__ == "__main__":
    main()
