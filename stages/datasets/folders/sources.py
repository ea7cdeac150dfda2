"""What lies in a folder of own pictures, and under which licence: the walk, and `sources.csv` for its records.

Who may be used at all is decided in `stages.core.consent`. Of the lines of `sources.csv` that name a picture, a path
counts before a pattern, of patterns the first. What no line names has the licence of the configuration.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from stages.core.consent import FILE, SourceTable, tables_above
from stages.core.images import IMAGE_SUFFIXES
from stages.core.settings import TristyleError
from stages.core.walk import ignored, text_of


@dataclass(frozen=True)
class PictureSource:
    """Where pictures come from. `licence_class` is `open`, `research/non-commercial` or `unknown`."""

    licence: str = "unknown"
    licence_class: str = "unknown"
    consent: str = "unknown"
    author: str = "unknown"


class Sources:
    """The lines of `sources.csv` in a folder and above it.

    Args:
        root: the folder.
        default: what is said of pictures that no line names, and in place of empty cells.

    Raises:
        TristyleError: a table that cannot be understood, or two of them in the folder.
    """

    def __init__(self, root: Path, default: PictureSource) -> None:
        files = tables_above(root)
        own = [file for file in files if file.parent == root]
        if len(own) > 1:
            raise TristyleError(f"{own[1]}: a second {FILE}. Put all lines into one.")
        self.root, self.default = root, default
        self.tables = [SourceTable(file) for file in files]
        self.used: set[tuple[Path, int]] = set()  # lines by file and number

    def of(self, path: str) -> PictureSource:
        """The source of a picture by its path below the folder, with slashes."""
        for table in self.tables:
            place = (self.root if table.root == self.root else self.root.absolute()) / path
            if not place.is_relative_to(table.root):
                place = self.root.resolve() / path
            if lines := table.matching(place.relative_to(table.root).as_posix()):
                self.used.add((table.file, lines[0].number))
                names = [field.name for field in fields(PictureSource)]
                said = {name: lines[0].cells.get(name) or getattr(self.default, name) for name in names}
                return PictureSource(**said)
        return self.default

    def idle(self) -> list[str]:
        """The patterns of the folder's own lines that gave no picture its source."""
        own = [(table.file, line) for table in self.tables if table.root == self.root for line in table.lines]
        return [line.pattern for file, line in own if (file, line.number) not in self.used]


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
        """`name` without its suffix, as text: by it pictures, masks and twins belong together."""
        return text_of(self.name[: len(self.name) - len(self.path.suffix)])


def listed(folder: Path) -> list[Listed]:
    """Everything in a folder and the folders in it, by name.

    Names that start with a dot and what desktops leave behind are left alone. Links are followed within the folder;
    the folder itself may be one. A folder under a picture's name is not entered.
    """
    home = folder.resolve()
    found: list[Listed] = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        within = here.relative_to(folder).as_posix()
        prefix = "" if within == "." else f"{within}/"
        shown = sorted(name for name in folders if not ignored(name))
        closed = [name for name in shown if (here / name).is_symlink() or name.lower().endswith(IMAGE_SUFFIXES)]
        folders[:] = [name for name in shown if name not in closed]
        entries = [*closed, *(name for name in names if not ignored(name))]
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
