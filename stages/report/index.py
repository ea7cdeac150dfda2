"""The runs of a sweep side by side on one page, with a link to the report of each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stages.core.artifact import Artifact, open_artifact
from stages.core.files import read_json, write_bytes
from stages.core.images import read_image
from stages.report.export import export_table, tier_table
from stages.report.glossary import TARGETS, find
from stages.report.markup import fit, flat, header, join, page, picture, section, table, tag
from stages.report.pair import style_name
from stages.report.plane import PairRun, planes
from stages.report.write import SHOWN, held_out_columns

HEAD = ("run", "held-out people", "face ×", "background", "KID ×", "MB", "ms", "minutes")
Run = tuple[Path, dict[str, Artifact]]  # a report, and what it is about


def write_index(reports: Sequence[Path], path: Path) -> None:
    """Set the runs of a sweep side by side: what differs, key measures, a row of pictures, a link to each report.

    A run whose artifacts are all part of another run's (`stage=style,pair`: the chain up to style) is left out.

    Args:
        reports: the runs' report.html files, each with its report.json beside it.
        path: the page to write.
    """
    path = Path(path)
    runs = _whole([(report, _open(report)) for report in reports])
    rows = _rows(runs, path)
    known = [column for column in range(len(HEAD)) if column in (0, 1, 7) or any(row[column] for row in rows)]
    photos, twins = _bounds(runs)
    rows = [photos, *rows, twins]

    lede = "Settings that differ stand under each name."
    if len(known) > 3:
        lede += " Lower is better in every column; face and KID are shares of the untouched photos'."
    cut = [[row[column] for column in known] for row in rows]
    beside = table([HEAD[column] for column in known], cut, numeric=range(2, len(known)))

    # Without measures of a student the plane of pairs says most, so it comes first.
    drawn = planes(_pair_runs(runs, path))
    parts = [beside, drawn] if len(known) > 3 or not drawn else [drawn, tag("section", beside)]
    files = [artifacts for _, artifacts in runs]
    parts.append(section("Deployment", "Files side by side", tier_table(files), export_table(files)))
    top = header(f"{len(runs)} runs side by side", lede)
    write_bytes(path, page("tristyle runs", join([top, *parts])).encode())


def _open(report: Path) -> dict[str, Artifact]:
    places = read_json(report.with_suffix(".json"), {"artifacts": dict})["artifacts"]
    return {kind: open_artifact(report.parent / place, kind, verify=False) for kind, place in places.items()}


def _whole(runs: Sequence[Run]) -> list[Run]:
    """The runs that are not part of another one."""
    places = [{item.path.resolve() for item in artifacts.values()} for _, artifacts in runs]
    return [run for index, run in enumerate(runs) if not any(places[index] < other for other in places)]


def _rows(runs: Sequence[Run], path: Path) -> list[tuple[str, ...]]:
    """A row a run in the columns of HEAD; "" where a run has no such measure."""
    settings = [flat({kind: item.config for kind, item in artifacts.items()}) for _, artifacts in runs]
    names = sorted({name for entry in settings for name in entry})
    differing = [name for name in names if len({json.dumps(entry.get(name)) for entry in settings}) > 1]

    rows: list[tuple[str, ...]] = []
    for (report, artifacts), entry in zip(runs, settings, strict=True):
        shown = [f"{name} = {_short(entry[name])}" for name in differing if name in entry]
        link = tag("a", report.parent.name, href=os.path.relpath(report, path.parent))
        name = join([link, *(tag("span", line, class_="why") for line in shown)])
        values = [find(artifacts, target) for target in TARGETS]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        minutes = sum(float((item.manifest.get("cost") or {}).get("seconds", 0)) for item in artifacts.values()) / 60
        rows.append((name, _strip(artifacts, ("student", "pair")), *cells, f"{minutes:.1f}"))
    return rows


def _bounds(runs: Sequence[Run]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The rows around those of the runs: what doing nothing has, and what the truth has."""
    longest = max((artifacts for _, artifacts in runs), key=len, default={})
    photos = ("the photos", _strip(longest, ("photo",)), "1", "0", "1", "", "", "")
    twins = ("the true twins", _strip(longest, ("true twin",)), "0", "0", "", "", "", "")
    return photos, twins


def _pair_runs(runs: Sequence[Run], path: Path) -> list[PairRun]:
    found = []
    for report, artifacts in runs:
        if {"data", "pair"} <= set(artifacts):
            before = flat({kind: artifacts[kind].config for kind in ("data", "style") if kind in artifacts})
            link = os.path.relpath(report, path.parent)
            found.append(PairRun(artifacts["pair"], artifacts["data"], style_name(artifacts), before, link))
    return found


def _short(value: Any) -> str:
    """A class by its last name, anything else as JSON."""
    return value.rpartition(".")[2] if isinstance(value, str) and value.startswith("stages.") else json.dumps(value)


def _strip(artifacts: Mapping[str, Artifact], wanted: Sequence[str]) -> Markup:
    """The first held-out people in the first of the `wanted` columns that the run has."""
    columns = held_out_columns(artifacts)
    folder = next((columns[name] for name in wanted if name in columns), None)
    files = sorted(folder.glob("*.png"))[:6] if folder else []
    shots = (picture(fit(read_image(file), SHOWN), f"held-out {file.stem}", file) for file in files)
    return tag("div", *shots, class_="shots")
