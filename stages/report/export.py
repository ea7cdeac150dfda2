"""Stage three on the report's page: every file of an export, runtime by precision, and tiers side by side.

Everything is read from `records.jsonl` and `card.json` of export artifacts and the measures of their students. What a
machine of this kind cannot run says so, and a phone's time stands only where somebody measured it: the JSON that the
page's Measure button saves, put into `<out>/reports/measurements/`, is found there and joined by the model's SHA-256.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stages.core.artifact import Artifact
from stages.core.files import read_json
from stages.core.settings import TristyleError
from stages.export.contract import BACKENDS, PRECISIONS
from stages.report.markup import EMPTY, heading, join, note, table, tag

TIME = re.compile(r"ms_(\d+)_(\d+)")  # a time's key: px a side, threads
HEAD = ("tier", "runtime", "precision", "MB", "PSNR dB", "edge clarity ×")
QUALITY: dict[str, str] = {  # measure of a student -> heading
    "edge_clarity_ratio": "edge clarity ×",
    "edge_slope_ratio": "edge slope ×",
    "flat_energy_ratio": "flat energy ×",
    "kid_ratio": "KID ×",
    "face_ratio": "face ×",
    "flicker": "flicker",
}
Runs = Sequence[Mapping[str, Artifact]]


def export_table(runs: Runs) -> Markup:
    """Tier by runtime by precision: size, agreement with torch, sharpness and times of every exported file.

    runs: kind -> artifact of each run; those without an export are left out. Empty when none lists its files.
    """
    rows = sorted(_files(runs), key=_order)
    if not rows:
        return EMPTY
    folders = {run["export"].path.resolve().parents[1] / "reports" / "measurements" for run in runs if "export" in run}
    times = {match[0]: (int(match[1]), int(match[2])) for row in rows for key in row if (match := TIME.fullmatch(key))}
    times = dict(sorted(times.items(), key=lambda item: item[1]))
    devices = [cells for row in rows for folder in sorted(folders) for cells in _elsewhere(row, folder, list(times))]

    said = (
        "ms: side in px and threads; one picture on this machine, least of several, CPU time on one thread and wall "
        "time on two. "
        "PSNR (range 2) and edge clarity compare the file's pictures with torch's, on held-out photos. "
    )
    said += (
        "Other devices: as measured there on the page."
        if devices
        else "Phones: not measured. To have their times, open the page of `stylize serve` there, press Measure, "
        "and put what it saves into reports/measurements."
    )

    head = (*HEAD, *(f"ms {side}, {threads}" for side, threads in times.values()))
    body = table(head, [*(_cells(row, list(times)) for row in rows), *devices], numeric=range(3, len(head)))
    return heading("Every tier, runtime and precision", note(said) + body)


def tier_table(runs: Runs) -> Markup:
    """Compute, clarity and stylisation of each student of a sweep; empty for fewer than two."""
    students: dict[Path, list[Mapping[str, Artifact]]] = {}
    for run in runs:
        if "student" in run:
            students.setdefault(run["student"].path.resolve(), []).append(run)
    made = sorted(students.values(), key=lambda same: _rank(_tiers(), _tier(same[0])))
    if len(made) < 2:
        return EMPTY

    # A column for each measure that at least one student has.
    measures = [same[0]["student"].metrics for same in made]
    known = {key: name for key, name in QUALITY.items() if any(_finite(found.get(key)) for found in measures)}
    rows = []
    for same, found in zip(made, measures, strict=True):
        cost = [_scaled(found.get("parameters"), 1e-6), _scaled(found.get("macs_256"), 1e-9), _time(same)]
        rows.append((_tier(same[0]), *cost, *(_scaled(found.get(key), 1.0) for key in known)))

    head = ("tier", "M parameters", "GMAC at 256 px", "ms at 512 px", *known.values())
    said = (
        "Clarity is the student's over its teacher's pictures, KID and face error are shares of the untouched photos', "
        "all on held-out people; ms is onnxruntime's CPU time on one thread."
    )
    body = table(head, rows, numeric=range(1, len(head)))
    return heading("Tiers by compute, clarity and stylisation", note(said) + body)


def _files(runs: Runs) -> Iterator[dict[str, Any]]:
    """The lines of all exports' records.jsonl, once each, with their tier."""
    seen = set()
    for run in runs:
        if "export" in run and (place := run["export"].path.resolve()) not in seen:
            seen.add(place)
            for row in run["export"].records():
                yield row | {"tier": _tier(run)}


def _tier(run: Mapping[str, Artifact]) -> str:
    """By the export's card, else by the student's settings."""
    card = run["export"].path / "card.json" if "export" in run else None
    if card is not None and card.exists() and "tier" in (found := read_json(card, {})):
        return str(found["tier"])
    config = run["student"].config if "student" in run else {}
    return str((config.get("model") or {}).get("tier", ""))


def _rank(order: Sequence[str], name: str) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _tiers() -> tuple[str, ...]:
    from stages.networks.mobile import TIERS  # here, since a page without students needs no torch

    return tuple(TIERS)


def _order(row: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    columns = ((_tiers(), "tier"), (BACKENDS, "runtime"), (PRECISIONS, "precision"))
    return tuple(_rank(order, str(row.get(name, ""))) for order, name in columns)


def _names(row: Mapping[str, Any]) -> list[str]:
    return [str(row.get(name, "")) for name in ("tier", "runtime", "precision")]


def _absent(why: str) -> Markup:
    return tag("span", why, style="color:var(--soft)")


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """A file's line of the table, its times by their keys."""
    megabytes, psnr, clarity = _scaled(row.get("bytes"), 1e-6), row.get("psnr"), row.get("edge_clarity")
    if psnr is None:
        return [*_names(row), megabytes, _absent("not run here"), "", *[""] * len(names)]
    times = [_scaled(row.get(name), 1.0) for name in names]
    if names and not any(times):
        times[0] = _absent("not measured")
    sharp = f"{clarity:.3f}" if _finite(clarity) else ""
    return [*_names(row), megabytes, f"{psnr:.0f}", sharp, *times]


def timed_digests(row: Mapping[str, Any]) -> set[str]:
    """Digests by which the page may name a file: its own, and those of the models in a folder of the page."""
    return {str(row.get("sha256")), *map(str, row.get("models") or ())}


def _elsewhere(row: Mapping[str, Any], folder: Path, names: Sequence[str]) -> Iterator[list[str]]:
    """Lines for the devices on which the page timed this very file."""
    for path in sorted(folder.glob("*.json")):
        try:
            found = read_json(path, {})
            device, models = found["device"], found["models"]
            for model in models:
                name = f"ms_{model['size']}_{min(model['threads'], 2)}"
                if model["sha256"] in timed_digests(row) and name in names:
                    ms = _scaled(model["network_ms"]["median"], 1.0)
                    threads = f"{model['threads']} thread{'s' if model['threads'] > 1 else ''}"
                    where = f"{device['browser']}, {threads}, median"
                    place = join([str(device["name"]), tag("span", where, class_="why")])
                    tier, _, precision = _names(row)
                    yield [tier, place, precision, "", "", "", *(ms if name == known else "" for known in names)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, TristyleError):
            continue  # not what the page saves


def _time(runs: Runs) -> str:
    rows = [row for row in _files(runs) if row.get("runtime") == "onnx" and row.get("precision") == "fp32"]
    return _scaled(rows[0].get("ms_512_1"), 1.0) if rows else ""


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _scaled(value: Any, scale: float) -> str:
    """Three significant digits; "" for what is not a finite number."""
    if not _finite(value):
        return ""
    shown = float(value) * scale
    return f"{shown:.0f}" if shown >= 100 else f"{shown:.3g}"
