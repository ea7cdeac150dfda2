"""What lies in a folder of own pictures, and under which licence and consent: the walk, and `sources.csv`.

`DIR/sources.csv` has a line a source: `pattern` (a path below DIR, or one with `*` and `?`, which match `/`, too), and
any of `licence`, `licence_class`, `consent`, `author`. A path counts before a pattern, of patterns the first. What no
line names has the licence of the configuration. Pictures whose consent is `no` are left out.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path

from stages.core.images import IMAGE_SUFFIXES
from stages.core.settings import TristyleError

FILE = "sources.csv"
EXAMPLE = "pattern,licence,licence_class,consent,author"


@dataclass(frozen=True)
class PictureSource:
    """Whence pictures come. `licence_class` is `open`, `research/non-commercial` or `unknown`."""

    licence: str = "unknown"
    licence_class: str = "unknown"
    consent: str = "unknown"
    author: str = "unknown"


class Sources:
    """The lines of `sources.csv`, or none where there is no such file.

    Args:
        root: the folder.
        default: what is said of pictures that no line names, and in place of empty cells.

    Raises:
        TristyleError: unreadable, no `pattern` column, or a column that means nothing.
    """

    def __init__(self, root: Path, default: PictureSource) -> None:
        self.default = default
        self.paths: dict[str, PictureSource] = {}
        self.patterns: list[tuple[str, PictureSource]] = []
        self.used: set[str] = set()
        file = root / FILE
        if file.is_file():
            self._read(file)

    def _read(self, file: Path) -> None:
        names = [field.name for field in fields(PictureSource)]
        try:
            rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TristyleError(f"{file}: cannot be read as CSV in UTF-8 ({error}). Save it so.") from None

        head = [cell.strip().lower() for cell in rows[0]] if rows else []
        foreign = [name for name in head if name not in ("pattern", *names)]
        if "pattern" not in head or foreign:
            fault = f"the column {foreign[0]!r} is unknown" if foreign else "there is no column 'pattern'"
            raise TristyleError(f"{file}: {fault}. Its first line is {EXAMPLE}, the last four as wanted.")

        for number, cells in enumerate(rows[1:], 2):
            if not any(cell.strip() for cell in cells):
                continue
            row = dict(zip(head, (cell.strip() for cell in cells), strict=False))
            if len(cells) > len(head) or not row.get("pattern"):
                fault = "more cells than columns" if len(cells) > len(head) else "no pattern"
                raise TristyleError(f"{file}: line {number} has {fault}. Quote cells that hold a comma.")

            said = {name: row.get(name) or getattr(self.default, name) for name in names}
            pattern, source = row["pattern"].removeprefix("./"), PictureSource(**said)
            if any(sign in pattern for sign in "*?["):
                self.patterns.append((pattern, source))
            else:
                self.paths.setdefault(pattern, source)

    def of(self, path: str) -> PictureSource:
        """The source of a picture by its path below the folder, with slashes."""
        if path in self.paths:
            self.used.add(path)
            return self.paths[path]
        for pattern, source in self.patterns:
            if fnmatchcase(path, pattern):
                self.used.add(pattern)
                return source
        return self.default

    def idle(self) -> list[str]:
        """Paths and patterns that named none of the pictures asked for."""
        return [name for name in (*self.paths, *(pattern for pattern, _ in self.patterns)) if name not in self.used]


@dataclass(frozen=True)
class Listed:
    """What lies at a path: a file to read, or something else and why it is not read (`fault`).

    Attributes:
        path: where it lies.
        name: the same relative to the folder listed, with slashes.
        stamp: size and time of change, to see whether it is replaced while the folder is read.
    """

    path: Path
    name: str
    stamp: tuple[int, int] = (0, 0)
    fault: str = ""

    @property
    def stem(self) -> str:
        """`name` without its suffix, by which pictures, masks and twins belong together."""
        return self.name[: len(self.name) - len(self.path.suffix)]


def listed(folder: Path) -> list[Listed]:
    """Everything in a folder and the folders in it, by name.

    Names that start with a dot (.DS_Store, editors' leavings) are left alone. Links are followed within the folder;
    the folder itself may be one. A folder under a picture's name is not entered.
    """
    home = folder.resolve()
    found: list[Listed] = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        within = here.relative_to(folder).as_posix()
        prefix = "" if within == "." else f"{within}/"
        shown = sorted(name for name in folders if not name.startswith("."))
        closed = [name for name in shown if (here / name).is_symlink() or name.lower().endswith(IMAGE_SUFFIXES)]
        folders[:] = [name for name in shown if name not in closed]
        entries = [*closed, *(name for name in names if not name.startswith("."))]
        found += [_entry(here / name, prefix + name, home) for name in entries]
    return sorted(found, key=lambda entry: entry.name.split("/"))


def _entry(path: Path, name: str, home: Path) -> Listed:
    try:
        if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(home):
            return Listed(path, name, fault="a link out of the folder. Copy the file here.")
        if not path.is_file():  # a folder, a pipe, a dangling link: opening some of these would block
            return Listed(path, name, fault="not a regular file. Give a picture, or remove it.")
        stat = path.stat()
    except OSError as error:  # a link to itself, a folder that may not be entered
        return Listed(path, name, fault=f"cannot be read ({error.strerror}). Check its permissions.")
    return Listed(path, name, (stat.st_size, stat.st_mtime_ns))
