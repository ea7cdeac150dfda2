"""The report's part on a folder of own pictures: what was left out and why, scores and limits, a contact sheet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from stages.core.artifact import Artifact
from stages.core.images import read_image
from stages.datasets.folders.photo_quality import BOUNDS
from stages.report.charts import distribution
from stages.report.markup import EMPTY, figure, folded, heading, note, number, table, tag

LISTED = 200  # files named
AXES = {
    "sharpness": "sharpness",
    "brightness": "brightness, 0..1",
    "face": "side of the square in the file, px",
    "yaw": "turn of the head, degrees",
    "occlusion": "share of the face covered",
    "outside": "share mirrored in",
}


def data_parts(data: Artifact, rows: Sequence[Mapping[str, Any]], rejects: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """HTML parts; all empty for painted data, of which nothing is left out or scored.

    Args:
        data: the artifact.
        rows: its records.
        rejects: the lines of its rejects.jsonl.
    """
    noted = [row for row in rows if row.get("notes")]
    remarks = [(tag("code", row["source"]), "; ".join(row["notes"])) for row in noted]
    sheet = data.path / "sheet.png"
    what = "Photos that are used, and pictures that are not with the reasons."
    shown = figure(read_image(sheet), "contact sheet", what) if sheet.exists() else EMPTY
    charts = _charts(data, rows, rejects)
    return [
        _why(rejects),
        heading("Scores of the photos and their limits", charts),
        heading("Contact sheet", shown),
        _listing(f"{len(rejects)} files were not used", [_named(row) for row in rejects]),
        _listing(f"{len(noted)} pictures with a remark", remarks),
    ]


def _why(rejects: Sequence[Mapping[str, Any]]) -> Markup:
    """How many are left out for which kind of reason: what stands before numbers, names and remedies."""
    kinds = Counter(re.split(r" \(|\. | as |, |\d", str(row["reason"]))[0].strip() for row in rejects)
    cells = [(kind or "other", number(count)) for kind, count in kinds.most_common(20)]
    return heading("Left out", table(("why", "count"), cells, numeric=(1,)))


def _charts(data: Artifact, rows: Sequence[Mapping[str, Any]], rejects: Sequence[Mapping[str, Any]]) -> Markup:
    photos = [row["scores"] for row in rows if row.get("scores") and row.get("style") is None]
    out = [row["scores"] for row in rejects if row.get("scores") and str(row["path"]).startswith("photo/")]
    limits = data.config.get("limits") or {}
    drawn = []
    for score, name in AXES.items():
        parts = {what: _values(given, score) for what, given in (("used", photos), ("left out", out))}
        limit = next((limits.get(key) for key, bound in BOUNDS.items() if bound[0] == score and limits.get(key)), None)
        drawn.append(distribution(name, {what: values for what, values in parts.items() if values}, limit))
    return tag("div", *drawn, class_="charts") if any(drawn) else EMPTY


def _values(scores: Sequence[Mapping[str, Any]], score: str) -> list[float]:
    found = [row.get(score) for row in scores]
    return [abs(value) if score == "yaw" else value for value in found if value is not None]


def _named(row: Mapping[str, Any]) -> tuple[str, str]:
    which = f", face {row['face'] + 1}" if row.get("face") else ""
    return tag("code", row["path"]) + which, str(row["reason"])


def _listing(summary: str, cells: Sequence[tuple[str, str]]) -> Markup:
    if not cells:
        return EMPTY
    more = note(f"The first {LISTED} of them.") if len(cells) > LISTED else EMPTY
    return folded(summary, more, table(("file", "why"), cells[:LISTED]))
