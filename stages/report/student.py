"""Stage three on the report's page: a distilled generator beside its teacher, few-shot pictures, and phones.

The sheets are files that the student left in `preview/`; what a run did not make is left out. The phones' figures are
those of the paper's tables; ours stand beside them once the page's Measure button has timed the model on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stages.core.artifact import Artifact
from stages.core.files import read_json
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.report.export import timed_digests
from stages.report.markup import EMPTY, figure, fit, heading, join, note, table, tag

SHEETS = {
    "teacher": ("Student beside teacher", "rows: the teacher, the student at equal latents, their difference"),
    "pyramid": ("The pyramid of heads", "rows: each head, coarse to fine, then the teacher; the last head is exported"),
    "encoding": ("Photos through the encoder", "photos over what the generator draws of their codes"),
    "few-shot": (
        "A style from few pictures",
        "rows: the pictures, what the encoder and the generator make of them, faces from scratch before and after",
    ),
}
# BlazeStyleGAN's tables (CVPR workshops 2023): generator alone, ms a picture on the CPU and on the GPU
PHONES = {
    256: {
        "iPhone 11": (23.0, 12.1), "iPhone 12": (18.9, 12.0), "iPhone 13 Pro": (16.1, 7.2), "Pixel 6": (43.1, 12.2),
        "Pixel 7": (37.8, 17.0), "Galaxy S10": (52.8, 17.0), "Galaxy S20": (40.2, 9.0),
    },
    512: {
        "iPhone 11": (38.4, 18.5), "iPhone 12": (37.3, 15.7), "iPhone 13 Pro": (29.5, 9.3), "Pixel 6": (67.6, 16.7),
        "Pixel 7": (62.2, 21.8), "Galaxy S10": (87.5, 24.1), "Galaxy S20": (56.9, 14.1),
    },
}  # fmt: skip
UNMEASURED = "no phone measured"


def student_parts(artifacts: Mapping[str, Artifact]) -> list[Markup]:
    """The parts of the section about a blaze student; empty for another student, or for none."""
    if "student" not in artifacts:
        return []
    preview = artifacts["student"].path / "preview"
    sheets = {name: preview / f"{name}.png" for name in SHEETS}
    shown = [_sheet(*SHEETS[name], path) for name, path in sheets.items() if path.exists()]
    return [*shown, heading("Phones", _phones(artifacts))] if shown else []


def _sheet(title: str, what: str, path: Path) -> Markup:
    return heading(title, figure(fit(read_image(path), 960), what, what, "wide"))


def _phones(artifacts: Mapping[str, Artifact]) -> Markup:
    """The paper's phones and sizes, and this run's model where it was measured, at whatever size."""
    ours = _measured(artifacts["export"]) if "export" in artifacts else []
    sides = sorted({*PHONES, *(side for _, side, _ in ours)})
    rows: list[tuple[Any, ...]] = [
        (name, *(f"{PHONES[side][name][0]:g}, {PHONES[side][name][1]:g}" if side in PHONES else "" for side in sides))
        for name in PHONES[256]
    ]
    rows += [(name, *(time if side == own else EMPTY for side in sides)) for name, own, time in ours]
    if not ours:
        rows.append(("this model", tag("span", UNMEASURED, style="color:var(--soft)"), *[""] * (len(sides) - 1)))
    said = (
        "BlazeStyleGAN's own figures: its generator alone, ms on the CPU and on the GPU. Ours are whole models in a "
        "browser, encoder included, on any device where the page has measured them."
    )
    return join([table(("phone", *(f"{side} px" for side in sides)), rows), note(said)])


def _measured(export: Artifact) -> list[tuple[str, int, str]]:
    """Device, px a side and time wherever the page timed a file of this export."""
    digests = set[str]().union(*map(timed_digests, export.records()))
    found: list[tuple[str, int, str]] = []
    for path in sorted((export.path.resolve().parents[1] / "reports" / "measurements").glob("*.json")):
        try:
            saved = read_json(path, {"models": list, "device": dict})
            for row in (model for model in saved["models"] if model["sha256"] in digests):
                time = f"{row['network_ms']['median']:g} ({row['threads']} threads)"
                found.append((f"this model on {saved['device']['name']}", int(row["size"]), time))
        except (TristyleError, KeyError, TypeError, ValueError):
            continue  # not what the page saves
    return found
