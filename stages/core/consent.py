"""Whose pictures may be used: `sources.csv`, and the one function that every reader of people's pictures calls.

`sources.csv` lies in a folder of pictures or in any folder above it. It has a line a source: `pattern` (a file or a
folder below its own, or a name with `*` and `?`, which match `/`, too), and any of `licence`, `licence_class`,
`consent`, `author`. Consent is `yes`, `no` or `unknown`. A `no` beats every other line; one that names nothing is a
mistake, and so is a word that is not on the list. Names are compared as text, and a name that exists is not a pattern.
"""

from __future__ import annotations

import csv
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from stages.core.settings import TristyleError
from stages.core.walk import ancestors, below, text_of

FILE = "sources.csv"
COLUMNS = ("pattern", "licence", "licence_class", "consent", "author")
EXAMPLE = ",".join(COLUMNS)
CONSENT = ("yes", "no", "unknown")
LICENCE_CLASSES = ("open", "research/non-commercial", "unknown")
CLOSED = {"consent": CONSENT, "licence_class": LICENCE_CLASSES}
NO_CONSENT = f"no consent, by {FILE}"


@dataclass(frozen=True)
class SourceLine:
    """One line of `sources.csv`: its number, its pattern as text, and its other cells by column."""

    number: int
    pattern: str
    cells: dict[str, str]

    @property
    def refuses(self) -> bool:
        """Whether it says no."""
        return self.cells.get("consent") == "no"


def word(text: str) -> str:
    """A word as it is compared: without case, width, accents written apart, blanks and invisible characters."""
    kept = (
        letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) not in ("Cc", "Cf")
    )
    return "".join(kept).strip().casefold()


class SourceTable:
    """The lines of one `sources.csv`.

    Args:
        file: the file.

    Raises:
        TristyleError: unreadable, another column, a line that does not fit, or a word that means nothing.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.root = file, file.parent
        self.lines = _lines(file)

    def matching(self, name: str) -> list[SourceLine]:
        """The lines that name a file, by its path below the table's folder: it alone, a folder it is in, a pattern."""
        name = text_of(name)
        parts = name.split("/")
        literal = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
        exact = [line for place in literal for line in self._literal.get(place, ())]
        return exact + [line for line in self._patterns if fnmatchcase(name, line.pattern)]

    def refuses(self, name: str) -> bool:
        """Whether a line says no to a file.

        Raises:
            TristyleError: a line says no to nothing at all.
        """
        return bool(self._refusing) and any(line.refuses for line in self.matching(name))

    @cached_property
    def _refusing(self) -> list[SourceLine]:
        """The lines that say no, after checking that each of them names something."""
        found = [line for line in self.lines if line.refuses]
        for line in found:
            if not self._exists(line) and not any(fnmatchcase(name, line.pattern) for name in self._present):
                raise TristyleError(
                    f"{self.file}: line {line.number} says no to {line.pattern!r}, which names nothing in {self.root}. "
                    "Write the path below that folder, or remove the line."
                )
        return found

    @cached_property
    def _present(self) -> set[str]:
        """All files and folders below the table's folder, as text."""
        files = [text_of(name) for _, name in below(self.root).files]
        parted = [name.split("/") for name in files]
        return {"/".join(parts[:end]) for parts in parted for end in range(1, len(parts) + 1)}

    def _exists(self, line: SourceLine) -> bool:
        return os.path.lexists(self.root / line.pattern) or line.pattern in self._present

    @cached_property
    def _patterns(self) -> list[SourceLine]:
        """Lines with `*`, `?` or `[`; not those that are the name of something that exists."""
        signed = (line for line in self.lines if any(sign in line.pattern for sign in "*?["))
        return [line for line in signed if not self._exists(line)]

    @cached_property
    def _literal(self) -> dict[str, list[SourceLine]]:
        """All other lines by the file or folder that they name."""
        found: dict[str, list[SourceLine]] = {}
        patterns = {line.number for line in self._patterns}
        for line in self.lines:
            if line.number not in patterns:
                found.setdefault(line.pattern, []).append(line)
        return found

    @cached_property
    def refused_bytes(self) -> dict[int, set[str]]:
        """Size -> digests of the files that a line says no to: a copy under another name is refused with them."""
        found: dict[int, set[str]] = {}
        for path, name in below(self.root).files if self._refusing else ():
            if self.refuses(text_of(name)) and path.is_file():
                found.setdefault(path.stat().st_size, set()).add(_digest(path))
        return found


def _lines(file: Path) -> list[SourceLine]:
    try:
        if not file.is_file():
            raise TristyleError(f"{file}: not a regular file. Name the table of sources so, or rename this.")
        rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TristyleError(f"{file}: cannot be read as CSV in UTF-8 ({error}). Save it so.") from None

    head = [word(cell) for cell in rows[0]] if rows else []
    foreign = [name for name in head if name not in COLUMNS]
    if "pattern" not in head or foreign or len(set(head)) < len(head):
        fault = f"the column {foreign[0]!r} is unknown" if foreign else "a column stands twice"
        fault = fault if "pattern" in head or foreign else "there is no column 'pattern'"
        raise TristyleError(f"{file}: {fault}. Its first line is {EXAMPLE}, the last four as wanted.")

    filled = ((number, cells) for number, cells in enumerate(rows[1:], 2) if any(cell.strip() for cell in cells))
    return [_line(file, number, head, cells) for number, cells in filled]


def _line(file: Path, number: int, head: Sequence[str], cells: Sequence[str]) -> SourceLine:
    """One line, its words checked."""
    row = dict(zip(head, (cell.strip() for cell in cells), strict=False))
    if len(cells) != len(head) or not row.get("pattern"):
        fault = f"{'more' if len(cells) > len(head) else 'fewer'} cells than columns"
        fault = "no pattern" if len(cells) == len(head) else fault
        raise TristyleError(
            f"{file}: line {number} has {fault}. Quote cells that hold a comma; leave empty cells between commas."
        )

    # Words of the closed lists as they are compared; the rest as it is written.
    for column, known in CLOSED.items():
        if column in row:
            row[column] = word(row[column])
            if row[column] and row[column] not in known:
                raise TristyleError(
                    f"{file}: line {number}: {column} {row[column]!r} is unknown. Write one of {', '.join(known)}."
                )
    pattern = text_of(row.pop("pattern")).removeprefix("./").rstrip("/")
    return SourceLine(number, pattern, {column: text for column, text in row.items() if text})


# ------------------------------------------------------------------------------------------------- every reader's gate


def tables_above(folder: Path) -> list[Path]:
    """Every `sources.csv` that speaks of what lies in a folder: in it, or in a folder above it.

    The name counts in any case. Above the folder, a file whose first line has none of our columns is another program's.
    """
    found = []
    for place in ancestors(folder):
        try:
            names = [name for name in os.listdir(place) if name.lower() == FILE]
        except OSError:
            continue
        found += [place / name for name in sorted(names) if place == folder or _is_ours(place / name)]
    return [path for index, path in enumerate(found) if not any(_same(path, other) for other in found[:index])]


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _is_ours(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            first = opened.readline(4096).replace(b"\0", b"").lower()
    except OSError:
        return True  # its reader says what is wrong with it
    return any(column.encode() in first for column in ("pattern", "consent", "licence"))


def refusals(files: Iterable[Path]) -> dict[Path, str]:
    """Which files may not be used, and why: a `no` in any table above them, or the bytes of a file refused there.

    Every reader of people's pictures calls this or `usable`; `tests/faults/test_consent.py` lists them.

    Raises:
        TristyleError: a table cannot be understood, or a `no` in it names nothing.
    """
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.parent, []).append(path)

    opened: dict[Path, SourceTable] = {}
    found: dict[Path, str] = {}
    for folder, paths in by_folder.items():
        for file in tables_above(folder):
            if file not in opened:
                opened[file] = SourceTable(file)
            found |= {path: reason for path in paths if (reason := _refusal(opened[file], path))}
    return found


def _refusal(table: SourceTable, path: Path) -> str:
    """Why a table refuses a file, by the name it is given or the one it really has; "" where it does not."""
    root = table.root.resolve()
    for place in (Path(os.path.abspath(path.parent)) / path.name, path.parent.resolve() / path.name, path.resolve()):
        for home in (table.root.absolute(), root):
            if place.is_relative_to(home) and table.refuses(text_of(place.relative_to(home).as_posix())):
                return NO_CONSENT
    try:
        refused = table.refused_bytes.get(path.stat().st_size) if path.is_file() else None
    except OSError:
        return ""
    return f"the bytes of a picture without consent, by {FILE}" if refused and _digest(path) in refused else ""


def usable(files: Iterable[Path]) -> list[Path]:
    """The files of a list that nobody refused, in their order; see `refusals`."""
    listed = list(files)
    refused = refusals(listed)
    return [path for path in listed if path not in refused]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
