"""A contact sheet of what a folder of photos came to: some that are used, and those that are not with the reasons."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stages.core.images import read_image
from stages.datasets.folders.cache import Cache
from stages.datasets.folders.choose import RejectedFile, UsablePicture

TILE, GAP, COLUMNS = 96, 6, 10  # px, and tiles a row
LETTERS, LINES = 17, 4  # of a caption
KEPT, DROPPED = 30, 120  # tiles shown of each
INK, FAINT, PAPER, EMPTY = (30, 30, 30), (110, 110, 110), (255, 255, 255), (225, 225, 225)


def contact_sheet(pictures: Sequence[UsablePicture], rejects: Sequence[RejectedFile], cache: Cache) -> np.ndarray:
    """uint8 RGB [H, W, 3]: photos that are used, evenly spread, and rejects with their reasons as captions."""
    kept = [(_tile(cache, picture), _words(picture.name, "")) for picture in _spread(pictures, KEPT)]
    dropped = [(_tile(cache, reject), _words(reject.name, reject.reason)) for reject in _spread(rejects, DROPPED)]
    parts = [_heading(f"{len(pictures)} photos used" + (f", {len(kept)} of them" if len(kept) < len(pictures) else ""))]
    parts += _rows(kept)
    parts.append(
        _heading(f"{len(rejects)} left out" + (f", {len(dropped)} of them" if len(dropped) < len(rejects) else ""))
    )
    parts += _rows(dropped)
    return np.concatenate(parts)


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _tile(cache: Cache, item: UsablePicture | RejectedFile) -> np.ndarray:
    """The square cut out, or an empty one where nothing could be."""
    import cv2

    if item.entry is None or not item.entry.crops:
        return np.full((TILE, TILE, 3), EMPTY, np.uint8)
    picture = read_image(cache.picture(item.entry.key, item.face))
    method = cv2.INTER_AREA if len(picture) > TILE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (TILE, TILE), interpolation=method))


def _words(name: str, reason: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Lines of a caption, each with its colour."""
    short = name.rpartition("/")[2]
    lines = textwrap.wrap(reason, LETTERS)[: LINES - 1]
    return [(short if len(short) <= LETTERS else f"{short[: LETTERS - 1]}…", FAINT), *((line, INK) for line in lines)]


def _rows(tiles: Sequence[tuple[np.ndarray, list[tuple[str, tuple[int, int, int]]]]]) -> Iterable[np.ndarray]:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(10)
    for start in range(0, len(tiles), COLUMNS):
        part = tiles[start : start + COLUMNS]
        lines = max(len(words) for _, words in part)
        row = Image.new("RGB", (_width(), TILE + 12 * lines + GAP), PAPER)
        draw = ImageDraw.Draw(row)
        for column, (tile, words) in enumerate(part):
            left = GAP + column * (TILE + GAP)
            row.paste(Image.fromarray(tile), (left, 0))
            for line, (text, colour) in enumerate(words):
                draw.text((left, TILE + 1 + 12 * line), text, fill=colour, font=font)
        yield np.asarray(row)


def _heading(text: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    row = Image.new("RGB", (_width(), 30), PAPER)
    ImageDraw.Draw(row).text((GAP, 7), text, fill=INK, font=ImageFont.load_default(14))
    return np.asarray(row)


def _width() -> int:
    return GAP + COLUMNS * (TILE + GAP)
