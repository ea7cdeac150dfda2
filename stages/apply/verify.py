"""`stylize verify`: what files say of their origin."""

from __future__ import annotations

from pathlib import Path

from stages.core.mark import read_mark

LONGEST = 200  # letters of what a file says that are shown


def verify(paths: list[Path]) -> int:
    """Print what each file says of its origin.

    Returns:
        0 when all say that they are synthetic, else 1.

    Raises:
        TristyleError: as `read_mark`.
    """
    plain = 0
    for path in paths:
        mark = read_mark(path)
        name = _printable(str(path), len(str(path)))
        if mark is not None and mark.synthetic:
            by = f", made by {_printable(mark.system)}" if mark.system else ""
            model = f", model {_printable(mark.version)}" if mark.version else ""
            print(f"{name}: synthetic ({mark.source}){by}{model}")
            continue
        plain += 1
        says = f"says that it is {_printable(mark.source)}" if mark else "carries no mark of being synthetic"
        print(f"{name}: {says}. Marks can be removed: a missing one proves nothing.")
    return 1 if plain else 0


def _printable(text: str, most: int = LONGEST) -> str:
    """What a file says, in one line: letters that steer a terminal are shown as their codes."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return shown if len(shown) <= most else f"{shown[:most]}..."
