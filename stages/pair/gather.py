"""The end of writing pairs: the shards' records as one list, their means, and a sheet of what curation rejected."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.core.files import parse_json
from stages.core.mark import origin
from stages.core.shards import Pictures, encode, place, put, read_at
from stages.pair.curate import SCORES, Limits, beyond

SHOWN = 8  # rejects on the sheet for each reason
COLUMNS, SIDE = 4, 96  # pairs in a row, and px of a picture there
PAD, TITLE, CAPTION = 10, 26, 18  # px: around a pair, of a reason's heading, of what is written under a pair
INK, FAINT = (35, 35, 35), (120, 120, 120)
WRONG = {1: "below", -1: "above"}


def gather(out: Path, lists: Iterable[Path], limits: Limits) -> dict[str, Any]:
    """Write records.jsonl and rejects.png from the shards' records; returns the metrics.

    Args:
        out: the artifact's folder.
        lists: the shards' records, in order.
        limits: the least or greatest value of each score that was kept.

    Returns:
        pairs, kept (share), unreadable, train_<score> (mean where defined), rejected_<score> (count).
    """
    rejects, seen = Rejects(limits), Counter[str]()
    sums = dict.fromkeys(SCORES, 0.0)

    def lines() -> Iterator[bytes]:
        for file in lists:
            with file.open("rb") as opened:
                for line in opened:
                    row = parse_json(line, file, {"kept": bool})
                    seen.update(["all", *["kept"] * row["kept"], *["unreadable"] * ("unreadable" in row)])
                    for name in SCORES:
                        if row[name] is not None:
                            seen[name] += 1
                            sums[name] += row[name]
                    rejects.add(row)
                    yield line

    # one pass over the shards' lists, which may hold millions of lines
    put(out / "records.jsonl", lines(), sync=True)
    put(out / "rejects.png", encode(sheet(out, rejects), source=_source(out, rejects)))

    means = {f"train_{name}": sums[name] / seen[name] for name in SCORES if seen[name]}
    counts = {f"rejected_{name}": float(rejects.counts[name]) for name in SCORES}
    kept = {"pairs": float(seen["kept"]), "kept": seen["kept"] / max(seen["all"], 1)}
    return kept | means | counts | {"unreadable": float(seen["unreadable"])}


class Rejects:
    """The rejects so far: how many for each reason, and the records of the worst.

    A pair with several reasons counts for each and is shown for the first.

    Args:
        limits: the worst records are those farthest from these.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.counts, self.all = limits, Counter[str](), 0
        self.unreadable: list[dict[str, Any]] = []
        self._worst: dict[str, list[tuple[float, int, dict[str, Any]]]] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Look at a record, rejected or not."""
        self.all += 1
        if "unreadable" in row:
            self.counts["unreadable"] += 1
            self.unreadable += [row] * (len(self.unreadable) < SHOWN)
        elif not row["kept"]:
            names = row["reason"].split()
            self.counts.update(names)
            shown = self._worst.setdefault(names[0], [])
            heapq.heappush(shown, (beyond(row, names[0], self.limits[names[0]] or 0.0), -self.all, row))
            if len(shown) > SHOWN:
                heapq.heappop(shown)

    def worst(self, name: str) -> list[dict[str, Any]]:
        """Records rejected first of all for `name`, the worst first."""
        return [row for _, _, row in sorted(self._worst.get(name, []), key=lambda item: item[:2], reverse=True)]


# ------------------------------------------------------------------------------------------------------ the sheet


def sheet(out: Path, rejects: Rejects) -> np.ndarray:
    """Photo and raw translation of the worst rejects, under the reason and its limit: uint8 [H, W, 3]."""
    bands = [_band(out, rejects, name) for name in SCORES if rejects.worst(name)]
    if rejects.unreadable:
        lines = [f"{row.get('source', row['id'])}: {_reason(row)}" for row in rejects.unreadable]
        bands.append(_text(f"unreadable: {rejects.counts['unreadable']} of {rejects.all}", lines))
    return np.concatenate(bands or [_text(f"none of {rejects.all} pairs was rejected", [])])


def _source(out: Path, rejects: Rejects) -> str:
    """IPTC's term for the sheet: that of the first translation on it."""
    for row in (row for name in SCORES for row in rejects.worst(name)):
        name, start, size = place(row, "raw")
        file = out / name
        return origin(read_at(file, start, size if size >= 0 else file.stat().st_size))
    return ""


def _reason(row: dict[str, Any]) -> str:
    text = str(row["unreadable"])
    return text.rpartition(f"{row.get('source', row['id'])}: ")[2][:90]


def _band(out: Path, rejects: Rejects, name: str) -> np.ndarray:
    rows, limit = rejects.worst(name), rejects.limits[name]
    count = rejects.counts[name]
    title = f"{name} {WRONG[SCORES[name]]} {limit:.3g}: {count} of {rejects.all} pairs"
    note = "" if count == len(rows) else f"{len(rows)} shown, the worst first"

    band = _canvas(TITLE + -(-len(rows) // COLUMNS) * (SIDE + CAPTION + PAD))
    draw = ImageDraw.Draw(band)
    _heading(draw, title, note)

    # photo and raw translation side by side, under them the score and, faint, the id and other reasons
    for number, row in enumerate(rows):
        left, top = PAD + number % COLUMNS * (2 * SIDE + PAD), TITLE + number // COLUMNS * (SIDE + CAPTION + PAD)
        for side, kind in enumerate(("photo", "raw")):
            band.paste(Image.fromarray(_shown(out, row, kind)), (left + side * SIDE, top))
        draw.text((left, top + SIDE + 3), f"{row[name]:.3g}", INK, _font(12))
        other = " ".join(row["reason"].split()[1:])
        draw.text(
            (left + 2 * SIDE, top + SIDE + 3), row["id"] + (f", {other}" if other else ""), FAINT, _font(12), "ra"
        )
    return np.array(band)


def _shown(out: Path, row: dict[str, Any], kind: str) -> np.ndarray:
    one = Pictures(out)
    one.add(*place(row, kind))
    image = one[0]
    how = cv2.INTER_AREA if len(image) >= SIDE else cv2.INTER_CUBIC
    return cv2.resize(image, (SIDE, SIDE), interpolation=how)


def _text(title: str, lines: list[str]) -> np.ndarray:
    band = _canvas(TITLE + len(lines) * CAPTION + PAD)
    draw = ImageDraw.Draw(band)
    _heading(draw, title, "")
    for number, line in enumerate(lines):
        draw.text((PAD, TITLE + number * CAPTION), line, FAINT, _font(12))
    return np.array(band)


def _canvas(height: int) -> Image.Image:
    return Image.new("RGB", (PAD + COLUMNS * (2 * SIDE + PAD), height), "white")


def _heading(draw: ImageDraw.ImageDraw, title: str, note: str) -> None:
    draw.text((PAD, 5), title, INK, _font(14))
    draw.text((PAD + draw.textlength(f"{title}   ", _font(14)), 6), note, FAINT, _font(12))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
