"""What a run made, on one self-contained page.

The page works with any subset of the stages: a section whose artifact is absent is left out. Pictures of people are the
first held-out ones by number, never chosen, and the worst ones by score stand below them.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from stages.core.artifact import KINDS, Artifact
from stages.core.files import read_jsonl, write_bytes, write_json
from stages.core.images import read_image
from stages.report.data import data_parts
from stages.report.export import export_table
from stages.report.glossary import TARGETS, find, measure
from stages.report.markup import (
    EMPTY,
    curves,
    fit,
    flat,
    folded,
    gallery,
    header,
    heading,
    join,
    note,
    number,
    page,
    picture,
    section,
    table,
    tag,
    text,
    tile,
)
from stages.report.pair import pair_parts, spread, style_name
from stages.report.student import student_parts
from stages.report.style import style_parts

PEOPLE = 8  # held-out people shown
WORST = 4
SHOWN = 160  # px that a small picture is enlarged to
SHEET = 24  # pictures on a contact sheet
WHAT = {
    "data": "photos, style pictures, masks and held-out people",
    "style": "the transferred and fused generator and its pictures",
    "pair": "photo and style pairs, translated, scored and curated",
    "student": "the small network that a phone runs",
    "export": "the file that a phone loads",
}
SPLITS = {
    "train": "photos to train on",
    "heldout": "photos held out",
    "style": "style pictures",
    "heldout_style": "style pictures held out",
}


def write_report(artifacts: Mapping[str, Artifact], path: Path, title: str = "", command: str = "") -> None:
    """Write `path` (report.html) and beside it `report.json`, which an index page reads.

    Args:
        path: the page to write.
        artifacts: kind -> sealed artifact; any subset of the five kinds.
        title: heading; the style's name when empty.
        command: the command line that made the run, shown for repeating it.
    """
    path = Path(path)
    title = title or _title(style_name(artifacts))
    sections = (_people, _inputs, _style, _pairs, _student, _training, _measures, _deployment, _cost)
    parts = [_header(artifacts, title), *(make(artifacts) for make in sections), _repeat(artifacts, command)]
    said = "Made by tristyle. Every picture is inside this file; it loads nothing from elsewhere."
    write_bytes(path, page(title, *parts, tag("footer", said)).encode())
    places = {kind: os.path.relpath(item.path, path.parent) for kind, item in artifacts.items()}
    write_json(path.with_suffix(".json"), {"title": title, "artifacts": places})


def _title(style: str) -> str:
    return "A generator of photos" if style == "photo" else f"From photo to {style}"


def _header(artifacts: Mapping[str, Artifact], title: str) -> Markup:
    last = list(artifacts.values())[-1]
    chain = " → ".join(kind for kind in KINDS if kind in artifacts)
    size = next((item.config["size"] for item in artifacts.values() if "size" in item.config), None)
    finished = str(last.manifest.get("created", ""))[:16].replace("T", " ")
    lede = " · ".join(fact for fact in (chain, f"{size} px" if size else "", f"finished {finished} UTC") if fact)
    tiles = []
    for target in TARGETS:
        value = find(artifacts, target)
        if value is not None:
            shown = f"{value:.3f}" if value < 1 else f"{value:.2f}"
            goal = f"at most {target.limit:g} {target.unit}"
            tiles.append(tile(target.label, shown, target.unit, value <= target.limit, goal))
    grid = tag("div", *tiles, class_="tiles") if tiles else EMPTY
    return header(title, lede, grid)


# ------------------------------------------------------------------------------------------------ pictures


def _load(path: Path) -> np.ndarray:
    return fit(read_image(path), SHOWN)


def held_out_columns(artifacts: Mapping[str, Artifact]) -> dict[str, Path]:
    """Heading -> folder of pictures named by held-out id, in the order they are shown; only those that exist."""
    columns: dict[str, Path] = {}
    if "data" in artifacts:
        columns["photo"] = artifacts["data"].path / "heldout" / "photo"
    for kind in ("pair", "student"):
        if kind in artifacts:
            columns[kind] = artifacts[kind].path / "heldout"
    if "data" in artifacts:
        columns["true twin"] = artifacts["data"].path / "heldout" / "twin" / style_name(artifacts)
    return {title: folder for title, folder in columns.items() if folder.is_dir()}


def _people(artifacts: Mapping[str, Artifact]) -> Markup:
    columns = held_out_columns(artifacts)
    if not set(columns) & {"pair", "student"} or "photo" not in columns:
        return EMPTY
    made = next(columns[name] for name in ("student", "pair") if name in columns)
    ids = sorted(file.stem for file in made.glob("*.png"))

    # The first people by number, and the worst of the others by score.
    scores = {str(row.get("id")): row for row in artifacts["student"].records()} if "student" in artifacts else {}
    errors = {name: _score(scores.get(name)) for name in ids}
    ranked = sorted((error, name) for name, error in errors.items() if error is not None)
    worst = [name for _, name in ranked[::-1] if name not in ids[:PEOPLE]][:WORST]
    shown = [_person(columns, name, errors[name]) for name in ids[:PEOPLE]]
    below = [_person(columns, name, errors[name]) for name in worst]

    meaning = {
        "pair": "pair is the translator's raw output",
        "student": "student is the small network's raw output",
        "true twin": "the true twin was rendered from the same person, and no training saw it",
    }
    explained = [meaning[name] for name in columns if name in meaning]
    return section(
        "Result", "People that no training has seen",
        note(f"The first {len(shown)} of {len(ids)} held-out people by number, not chosen. "
             + "; ".join(explained) + "."),
        tag("div", *shown, class_="people"),
        heading("The worst of the others by face error", tag("div", *below, class_="people")) if below else EMPTY,
    )  # fmt: skip


def _score(row: Mapping[str, Any] | None) -> float | None:
    value = (row or {}).get("face_error")
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _person(columns: Mapping[str, Path], name: str, error: float | None) -> Markup:
    cells = []
    for title, folder in columns.items():
        file = folder / f"{name}.png"
        shown = picture(_load(file), f"{title} of held-out person {name}", file) if file.exists() else EMPTY
        extra = f" {error:.3f}" if title == "student" and error is not None else ""
        cells.append(tag("figure", shown, tag("figcaption", title, extra)))
    return tag("div", tag("div", *cells, class_="columns"), class_="card person")


def _sheet(paths: Sequence[Path], what: str) -> Markup:
    """A contact sheet of pictures evenly spread over the list; empty when there are none."""
    chosen = [fit(read_image(path), 96) for path in spread(paths, SHEET)]
    return gallery(chosen, what, f"{what}: {len(chosen)} of {len(paths)}, evenly spread", of=next(iter(paths), None))


def _inputs(artifacts: Mapping[str, Artifact]) -> Markup:
    if "data" not in artifacts:
        return EMPTY
    data = artifacts["data"]
    rows = data.records()
    counted = Counter((str(row["split"]), str(row.get("style") or "")) for row in rows)
    licences = Counter((str(row.get("licence", "unknown")), str(row.get("licence_class", ""))) for row in rows)
    cells = [(SPLITS.get(split, split), style, number(count)) for (split, style), count in counted.items()]
    counts = table(("pictures", "style", "count"), sorted(cells), numeric=(2,))

    sheets = [_sheet(sorted((data.path / "photo").glob("*.png")), "photos to train on")]
    styles = sorted(folder for folder in (data.path / "style").glob("*") if folder.is_dir())
    sheets += [_sheet(sorted(folder.glob("*.png")), f"style pictures: {folder.name}") for folder in styles]

    rejected = read_jsonl(data.path / "rejects.jsonl")
    people = len({str(row.get("person")) for row in rows if row["split"] in ("train", "heldout")})
    licence = "; ".join(f"{name}{f' ({kind})' if kind else ''}: {count}" for (name, kind), count in licences.items())
    return section(
        "Input", "What went in",
        note(f"{people} people at {data.config.get('size', '?')} px. Held-out people share nobody with the training. "
             f"Licences: {licence}."),
        tag("div", *sheets, class_="sheets"), heading("Counts", counts),
        *data_parts(data, rows, rejected),
    )  # fmt: skip


def _style(artifacts: Mapping[str, Artifact]) -> Markup:
    if "style" not in artifacts:
        return EMPTY
    style = artifacts["style"]
    images = sorted((style.path / "images").glob("*.png"))
    if not (style.path / "fusion.png").exists():
        return section("Stage 1", "Pictures of the style", _sheet(images, "given pictures"))
    return section(
        "Stage 1", "From the base generator to the style",
        note(
            "A row is one latent z. A number is the share of the transferred generator in an even mixture; "
            "fused is the generator that made the style set."
        ),
        *style_parts(style),
        heading("The style set", _sheet(images, "sampled pictures")),
    )  # fmt: skip


def _pairs(artifacts: Mapping[str, Artifact]) -> Markup:
    if "pair" not in artifacts:
        return EMPTY
    parts = pair_parts(artifacts["pair"], artifacts.get("data"), style_name(artifacts))
    return section("Stage 2", "Pairs for the student", *parts)


def _student(artifacts: Mapping[str, Artifact]) -> Markup:
    parts = student_parts(artifacts)
    return section("Stage 3", "The generator on the phone", *parts) if parts else EMPTY


# ------------------------------------------------------------------------------------------------ numbers


def _measures(artifacts: Mapping[str, Artifact]) -> Markup:
    rows = []
    arrows = {"lower": "↓ lower", "higher": "↑ higher", "": ""}
    for kind in KINDS:
        metrics: dict[str, Any] = dict(artifacts[kind].metrics) if kind in artifacts else {}
        for name, value in metrics.items():
            entry = measure(name)
            label = tag("span", kind, class_="kind") + tag("code", name)
            rows.append((label, text(value), entry.unit, arrows[entry.better], entry.meaning))
    head = ("measure", "value", "unit", "better", "what it says")
    return section("Measures", "What was measured", table(head, rows, numeric=(1,), style="stack line"))


def _training(artifacts: Mapping[str, Artifact]) -> Markup:
    parts = {kind: curves(read_jsonl(item.path / "log.jsonl")) for kind, item in artifacts.items()}
    drawn = [heading(kind, parts[kind]) for kind in KINDS if kind in parts]
    lead = "Thin: as logged; thick: running mean. Below each curve its range and the images seen."
    return section("Training", "Loss curves", note(lead) if any(drawn) else EMPTY, *drawn)


def _deployment(artifacts: Mapping[str, Artifact]) -> Markup:
    if "export" not in artifacts:
        return EMPTY
    export = artifacts["export"]
    facts: dict[str, Any] = dict(export.metrics)
    if "student" in artifacts:
        student = artifacts["student"].metrics
        facts |= {name: student[name] for name in student if name.startswith(("param", "macs"))}
    rows = [(tag("code", name), text(value), measure(name).unit, measure(name).meaning)
            for name, value in facts.items()]  # fmt: skip
    card = export.path / "card.json"
    shown = folded("card.json", tag("pre", card.read_text())) if card.exists() else EMPTY
    head = ("", "value", "unit", "what it says")
    facts_table = table(head, rows, numeric=(1,), style="stack line")
    return section("Deployment", "Sizes and latencies", facts_table, export_table([artifacts]), shown)


def _cost(artifacts: Mapping[str, Artifact]) -> Markup:
    rows = []
    total = {"seconds": 0.0, "cpu_seconds": 0.0}
    for kind in KINDS:
        cost = artifacts[kind].manifest.get("cost") or {} if kind in artifacts else {}
        if cost:
            for name in total:
                total[name] += float(cost.get(name, 0.0))
            rows.append((kind, *_times(cost)))
    if not rows:
        return EMPTY

    rows.append((tag("b", "all"), *_times(total)))
    counts = Counter(str(row["split"]) for row in artifacts["data"].records()) if "data" in artifacts else Counter()
    photos, drawn = counts["train"], counts["style"]
    code = list(artifacts.values())[-1].manifest.get("code") or {}
    where = ", ".join(f"{name} {code[name]}" for name in ("device", "threads", "isa", "torch") if code.get(name))

    spent = f"{total['seconds'] / 60:.1f} minutes and {total['cpu_seconds'] / 3600:.2f} CPU hours"
    went = f" from {photos} photos and {drawn} style pictures" if counts else ""
    return section(
        "Cost",
        "What the style cost",
        note(f"{spent}{went}" + (f"; {where}." if where else ".")),
        table(("stage", "minutes", "CPU hours"), rows, numeric=(1, 2)),
    )


def _times(cost: Mapping[str, Any]) -> tuple[str, str]:
    return f"{float(cost.get('seconds', 0)) / 60:.1f}", f"{float(cost.get('cpu_seconds', 0)) / 3600:.3f}"


def _use(export: Path) -> str:
    """The command that runs what an export holds."""
    if (export / "editor.onnx").exists():
        return f"stylize edit photo.png --sheet -o sheet.png --model {export}"
    return f"stylize photo.png -o out.png --model {export / 'student.onnx'}"


def _repeat(artifacts: Mapping[str, Artifact], command: str) -> Markup:
    rows = [
        (kind, WHAT[kind], tag("code", artifacts[kind].path.name), tag("code", artifacts[kind].digest[:16]))
        for kind in KINDS
        if kind in artifacts
    ]

    lines = [command or "tristyle"]
    if "export" in artifacts:
        lines.append(_use(artifacts["export"].path))
    settings = []
    for kind in (name for name in KINDS if name in artifacts):
        given = "\n".join(f"{kind}.{name}: {json.dumps(value)}" for name, value in flat(artifacts[kind].config).items())
        settings.append(folded(f"Settings of {kind}", tag("pre", given)))

    # The machine and the versions that the last stage recorded.
    code = list(artifacts.values())[-1].manifest.get("code") or {}
    made = ", ".join(f"{name} {value}" for name, value in code.items() if value)
    return section(
        "Repeat",
        "How to make it again",
        tag("pre", "\n".join(lines)),
        note(made),
        table(("stage", "holds", "key", "digest"), rows, style="stack"),
        join(settings),
    )
