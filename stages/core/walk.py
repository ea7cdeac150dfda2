"""What lies below a folder: the one walk, which every reader of a folder and every digest of one takes.

Left out are names that begin with a dot, what desktops leave behind, and what tristyle itself wrote: artifacts, reports
and the outputs of `stylize`. A linked folder is entered once, after the real ones, so loops of links end.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LEFT_BEHIND = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin")  # by desktops
MADE = (".stylize.jsonl",)  # in a folder of outputs
ARTIFACT = {"config.json", ".lock"}  # in the folder of an artifact, finished or not
RUNS = {"data", "style", "pair", "student", "export"}  # in the folder of runs, beside others
KEY = re.compile(r"[0-9a-f]{16}")


@dataclass
class Below:
    """What lies below a folder.

    Attributes:
        files: path, and name relative to the folder with slashes; links, pipes and devices are among them.
        closed: linked folders that are not entered, as the folder itself lies in them, and folders that cannot be read.
    """

    files: list[tuple[Path, str]] = field(default_factory=list)
    closed: list[tuple[Path, str]] = field(default_factory=list)


def below(folder: Path, except_for: Sequence[Path] = ()) -> Below:
    """Everything below a folder that may be somebody's picture, sorted by name.

    Args:
        folder: it may be a link itself.
        except_for: folders that are left out, e.g. that of the outputs.
    """
    seen = {identity for path in except_for if (identity := _identity(path))}
    home, found = folder.resolve(), Below()
    waiting: list[tuple[Path, str]] = [(folder, "")]
    while waiting:
        links: list[tuple[Path, str]] = []
        for start, within in waiting:
            if start != folder and home.is_relative_to(start.resolve()):
                found.closed.append((start, within))
            else:
                _enter(start, within, seen, links, found)
        waiting = sorted(links, key=lambda link: link[1].split("/"))
    found.files.sort(key=lambda entry: entry[1].split("/"))
    return found


def _enter(start: Path, within: str, seen: set[tuple[int, int]], links: list[tuple[Path, str]], found: Below) -> None:
    """Add what lies below one real folder, and note its linked folders for later."""

    def refused(error: OSError) -> None:
        place = Path(error.filename or start)
        found.closed.append((place, _join(within, os.path.relpath(place, start))))

    for place, folders, names in os.walk(start, onerror=refused):
        here, prefix = Path(place), _join(within, os.path.relpath(place, start))
        identity = _identity(here)
        if identity is None or identity in seen or (prefix and wrote(here, folders, names)):
            folders.clear()
            continue
        seen.add(identity)

        shown = sorted(name for name in folders if not ignored(name))
        linked = [name for name in shown if (here / name).is_symlink()]
        folders[:] = [name for name in shown if name not in linked]
        links += [(here / name, _join(prefix, name)) for name in linked]
        found.files += [(here / name, _join(prefix, name)) for name in names if not ignored(name)]


def _join(within: str, name: str) -> str:
    return within if name == "." else f"{within}/{name}" if within else name


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def ignored(name: str) -> bool:
    """Whether a name is hidden, or one that desktops leave behind in folders."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def wrote(folder: Path, folders: Sequence[str], names: Sequence[str]) -> bool:
    """Whether tristyle wrote a folder that holds these folders and files: outputs, an artifact, or a folder of runs."""
    if any(name in names for name in MADE) or set(names) >= ARTIFACT:
        return True
    return any(KEY.fullmatch(entry) for kind in folders if kind in RUNS for entry in _entries(folder / kind))


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def text_of(name: str) -> str:
    """A file name as text: macOS spells an accent as a letter of its own, Linux and Windows do not."""
    return unicodedata.normalize("NFC", name)


def ancestors(path: Path) -> Iterator[Path]:
    """A folder and all folders that it lies in, as it is named and, where links lead elsewhere, as it really lies."""
    named, real = Path(os.path.abspath(path)), path.resolve()
    yield from dict.fromkeys([named, *named.parents, real, *real.parents])
