"""What is written of a fusion: the strip of its two ends, and a sweep's points, plane and contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from stages.core.files import write_json
from stages.core.images import grid, write_image
from stages.core.mark import TRAINED
from stages.networks.stylegan2 import Generator
from stages.style.fusion.sweep import Result, SweepPoint, broken_by_family
from stages.style.sampling.candidates import draw

LINE = 14  # px of a line of text


def ladder_rows(points: Sequence[SweepPoint]) -> list[dict[str, Any]]:
    """Stylisation and richness against the images seen, of the plain snapshots."""
    plain = sorted((point for point in points if point.candidate.fusion is None), key=lambda point: point.images)
    return [{"images": point.images} | {k: round(v, 5) for k, v in point.measures.items()} for point in plain]


def write_sweep(result: Result, out: Path) -> None:
    """Write `pareto.json`, `ladder.json` and `pareto.png` under `out`."""
    settings = result.settings
    summary = {
        "rule": {"coverage_min": settings.coverage_min, "kid_ratio_max": settings.kid_ratio_max, "met": result.met},
        "count": settings.count,
        "chosen": result.chosen.label,
        "confirmed": {which: {k: round(v, 5) for k, v in row.items()} for which, row in result.confirmed.items()},
        "knee": result.knee.label,
        "front": [point.label for point in result.front],
        "broken_share": {family: round(share, 5) for family, share in broken_by_family(result.points).items()},
        "points": [point.row() for point in result.points],
    }
    write_json(out / "pareto.json", summary)
    write_json(out / "ladder.json", ladder_rows(result.points))
    write_image(out / "pareto.png", contact_sheet(result), TRAINED)


def contact_sheet(result: Result) -> np.ndarray:
    """Contact sheet of the candidates; uint8 [H, W, 3].

    Rows are latents. Columns are the front's members, the source, the plain transfer and the choice, from nearest to
    the style on, each under its name, KID and coverage.
    """
    shown = {point.label: point for point in (*result.front, *result.points[:2], result.chosen)}
    columns = sorted(shown.values(), key=lambda point: point.kid)
    names = []
    for point in columns:
        first, plus, second = point.label.partition("+")
        notes = [note for note, which in (("knee", result.knee), ("chosen", result.chosen)) if which is point]
        measured = f"KID {point.kid:.3g}  cov {point.coverage:.2f}"
        names.append((first + plus, second or ", ".join(notes), measured) + ((", ".join(notes),) if second else ()))
    return headed(names, [point.pictures for point in columns])


def headed(names: Sequence[Sequence[str]], columns: Sequence[np.ndarray], side: int = 128) -> np.ndarray:
    """Columns of pictures, uint8 [rows, R, R, 3] each, shown `side` px wide at least, under lines of text."""
    height = columns[0].shape[1]
    factor = -(-side // height)  # whole pixels, so that nothing is blurred
    side = factor * height
    cells = [column[row].repeat(factor, 0).repeat(factor, 1) for row in range(len(columns[0])) for column in columns]
    sheet = grid(cells, columns=len(columns))
    band = np.full((6 + LINE * max(map(len, names)), sheet.shape[1], 3), 255, np.uint8)
    for i, lines in enumerate(names):
        for row, line in enumerate(lines):
            (width, _), _ = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 0.36, 1)
            scale = 0.36 * min(1.0, (side - 4) / max(width, 1))
            place = (4 + i * (side + 2), LINE * (row + 1) - 1)
            cv2.putText(band, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([band, sheet])


def strip(columns: Sequence[tuple[str, Generator]], z: Tensor, psi: float) -> np.ndarray:
    """The same latents (rows) through each generator (columns, with their names); uint8 [H, W, 3]."""
    drawn = [draw(generator, z, psi) for _, generator in columns]
    return headed([(name,) for name, _ in columns], drawn)
