"""What a run made, on one self-contained page; and the runs of a sweep side by side.

The page works with any subset of the stages: a section whose artifact is absent is left out. Pictures of people are the
first held-out ones by number, never chosen, and the worst ones by score stand below them.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.artifact import KINDS, Artifact, open_artifact
from stages.core.files import read_jsonl, write_bytes, write_json
from stages.core.images import read_image
from stages.report.data import data_parts
from stages.report.export import export_table, tier_table
from stages.report.glossary import TARGETS, find, measure
from stages.report.html import (
    curves,
    fit,
    flat,
    gallery,
    note,
    number,
    page,
    picture,
    section,
    table,
    text,
    tile,
)
from stages.report.pair import pair_parts, spread, style_name
from stages.report.plane import PairRun, planes
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
        artifacts: kind -> sealed artifact; any subset of the five kinds.
        title: heading; the style's name when empty.
        command: the command line that made the run, shown for repeating it.
    """
    path = Path(path)
    title = title or _title(style_name(artifacts))
    sections = (_people, _inputs, _style, _pairs, _training, _measures, _deployment, _cost)
    parts = [_header(artifacts, title), *(make(artifacts) for make in sections), _repeat(artifacts, command)]
    footer = "<footer>PairRun by tristyle. Every picture is inside this file; it loads nothing from elsewhere.</footer>"
    write_bytes(path, page(title, "\n".join(part for part in [*parts, footer] if part)).encode())
    places = {kind: os.path.relpath(item.path, path.parent) for kind, item in artifacts.items()}
    write_json(path.with_suffix(".json"), {"title": title, "artifacts": places})


def _title(style: str) -> str:
    return "A generator of photos" if style == "photo" else f"From photo to {style}"


def _header(artifacts: Mapping[str, Artifact], title: str) -> str:
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
    grid = f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""
    heading = f'<p class="eyebrow">tristyle</p><h1>{escape(title)}</h1><p class="lede">{escape(lede)}</p>'
    return f"<header>{heading}{grid}</header>"


# ------------------------------------------------------------------------------------------------ pictures


def _load(path: Path) -> np.ndarray:
    return fit(read_image(path), SHOWN)


def held_out_columns(artifacts: Mapping[str, Artifact]) -> dict[str, Path]:
    """Heading -> folder of pictures named by held-out id, in the order they are shown; only those that exist."""
    columns: dict[str, Path] = {}
    if "data" in artifacts:
        columns["photo"] = artifacts["data"].path / "heldout" / "photo"
    for kind, heading in (("pair", "pair"), ("student", "student")):
        if kind in artifacts:
            columns[heading] = artifacts[kind].path / "heldout"
    if "data" in artifacts:
        columns["true twin"] = artifacts["data"].path / "heldout" / "twin" / style_name(artifacts)
    return {heading: folder for heading, folder in columns.items() if folder.is_dir()}


def _people(artifacts: Mapping[str, Artifact]) -> str:
    columns = held_out_columns(artifacts)
    if not set(columns) & {"pair", "student"} or "photo" not in columns:
        return ""
    made = next(columns[name] for name in ("student", "pair") if name in columns)
    ids = sorted(file.stem for file in made.glob("*.png"))
    scores = {str(row.get("id")): row for row in artifacts["student"].records()} if "student" in artifacts else {}
    errors = {name: _score(scores.get(name)) for name in ids}
    ranked = sorted((error, name) for name, error in errors.items() if error is not None)
    worst = [name for _, name in ranked[::-1] if name not in ids[:PEOPLE]][:WORST]
    shown = [_person(columns, name, errors[name]) for name in ids[:PEOPLE]]
    below = [_person(columns, name, errors[name]) for name in worst]
    meaning = {
        "pair": "pair is the translator's raw output",
        "student": "student is the small network's raw output",
        "true twin": "the true twin was painted from the same person, and no training saw it",
    }
    explained = [meaning[name] for name in columns if name in meaning]
    return section(
        "Result", "People that no training has seen",
        note(f"The first {len(shown)} of {len(ids)} held-out people by number, not chosen. "
             + "; ".join(explained) + "."),
        f'<div class="people">{"".join(shown)}</div>',
        f'<h3>The worst of the others by face error</h3><div class="people">{"".join(below)}</div>' if below else "",
    )  # fmt: skip


def _score(row: Mapping[str, Any] | None) -> float | None:
    value = (row or {}).get("face_error")
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _person(columns: Mapping[str, Path], name: str, error: float | None) -> str:
    cells = []
    for heading, folder in columns.items():
        file = folder / f"{name}.png"
        shown = picture(_load(file), f"{heading} of held-out person {name}") if file.exists() else ""
        extra = f" {error:.3f}" if heading == "student" and error is not None else ""
        cells.append(f"<figure>{shown}<figcaption>{escape(heading)}{extra}</figcaption></figure>")
    return f'<div class="card person"><div class="columns">{"".join(cells)}</div></div>'


def _sheet(paths: Sequence[Path], what: str) -> str:
    """A contact sheet of pictures evenly spread over the list; "" when there are none."""
    chosen = [fit(read_image(path), 96) for path in spread(paths, SHEET)]
    return gallery(chosen, what, f"{what}: {len(chosen)} of {len(paths)}, evenly spread")


def _inputs(artifacts: Mapping[str, Artifact]) -> str:
    if "data" not in artifacts:
        return ""
    data = artifacts["data"]
    rows = data.records()
    counted = Counter((str(row["split"]), str(row.get("style") or "")) for row in rows)
    licences = Counter((str(row.get("licence", "unknown")), str(row.get("licence_class", ""))) for row in rows)
    cells = [(SPLITS.get(split, split), escape(style), number(count)) for (split, style), count in counted.items()]
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
        f'<div class="sheets">{"".join(sheets)}</div>', "<h3>Counts</h3>", counts,
        *data_parts(data, rows, rejected),
    )  # fmt: skip


def _style(artifacts: Mapping[str, Artifact]) -> str:
    if "style" not in artifacts:
        return ""
    style = artifacts["style"]
    images = sorted((style.path / "images").glob("*.png"))
    return section(
        "Stage 1", "From the base generator to the style",
        note(
            "A row is one latent z. A number is the share of the transferred generator in an even mixture; "
            "fused is the generator that made the style set."
        ),
        *style_parts(style),
        "<h3>The style set</h3>" if images else "",
        _sheet(images, "sampled pictures"),
    )  # fmt: skip


def _pairs(artifacts: Mapping[str, Artifact]) -> str:
    if "pair" not in artifacts:
        return ""
    parts = pair_parts(artifacts["pair"], artifacts.get("data"), style_name(artifacts))
    return section("Stage 2", "Pairs for the student", *parts)


# ------------------------------------------------------------------------------------------------ numbers


def _measures(artifacts: Mapping[str, Artifact]) -> str:
    rows = []
    arrows = {"lower": "↓ lower", "higher": "↑ higher", "": ""}
    for kind in KINDS:
        metrics: dict[str, Any] = dict(artifacts[kind].metrics) if kind in artifacts else {}
        for name, value in metrics.items():
            entry = measure(name)
            label = f'<span class="kind">{kind}</span><code>{escape(name)}</code>'
            rows.append((label, escape(text(value)), escape(entry.unit), arrows[entry.better], escape(entry.meaning)))
    head = ("measure", "value", "unit", "better", "what it says")
    return section("Measures", "What was measured", table(head, rows, numeric=(1,), style="stack line"))


def _training(artifacts: Mapping[str, Artifact]) -> str:
    parts = {kind: curves(read_jsonl(item.path / "log.jsonl")) for kind, item in artifacts.items()}
    drawn = [f"<h3>{kind}</h3>{parts[kind]}" for kind in KINDS if parts.get(kind)]
    lead = "Thin: as logged; thick: running mean. Below each curve its range and the images seen."
    return section("Training", "Loss curves", note(lead) if drawn else "", *drawn)


def _deployment(artifacts: Mapping[str, Artifact]) -> str:
    if "export" not in artifacts:
        return ""
    export = artifacts["export"]
    facts: dict[str, Any] = dict(export.metrics)
    if "student" in artifacts:
        student = artifacts["student"].metrics
        facts |= {name: student[name] for name in student if name.startswith(("param", "macs"))}
    rows = [(f"<code>{escape(name)}</code>", text(value), measure(name).unit, measure(name).meaning)
            for name, value in facts.items()]  # fmt: skip
    card = export.path / "card.json"
    shown = (
        f"<details><summary>card.json</summary><pre>{escape(card.read_text())}</pre></details>" if card.exists() else ""
    )
    head = ("", "value", "unit", "what it says")
    facts_table = table(head, rows, numeric=(1,), style="stack line")
    return section("Deployment", "Sizes and latencies", facts_table, export_table([artifacts]), shown)


def _cost(artifacts: Mapping[str, Artifact]) -> str:
    rows = []
    total = {"seconds": 0.0, "cpu_seconds": 0.0}
    for kind in KINDS:
        cost = artifacts[kind].manifest.get("cost") or {} if kind in artifacts else {}
        if cost:
            for name in total:
                total[name] += float(cost.get(name, 0.0))
            rows.append((kind, *_times(cost)))
    if not rows:
        return ""
    rows.append(("<b>all</b>", *_times(total)))
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


def _repeat(artifacts: Mapping[str, Artifact], command: str) -> str:
    rows = [
        (
            kind,
            escape(WHAT[kind]),
            f"<code>{escape(artifacts[kind].path.name)}</code>",
            f"<code>{artifacts[kind].digest[:16]}</code>",
        )
        for kind in KINDS
        if kind in artifacts
    ]
    lines = [command or "tristyle"]
    if "export" in artifacts:
        lines.append(f"stylize photo.png -o out.png --model {artifacts['export'].path / 'student.onnx'}")
    settings = ""
    for kind in (name for name in KINDS if name in artifacts):
        given = "\n".join(f"{kind}.{name}: {json.dumps(value)}" for name, value in flat(artifacts[kind].config).items())
        settings += f"<details><summary>Settings of {kind}</summary><pre>{escape(given)}</pre></details>"
    code = list(artifacts.values())[-1].manifest.get("code") or {}
    made = ", ".join(f"{name} {value}" for name, value in code.items() if value)
    return section(
        "Repeat",
        "How to make it again",
        f"<pre>{escape(chr(10).join(lines))}</pre>",
        note(made),
        table(("stage", "holds", "key", "digest"), rows, style="stack"),
        settings,
    )


# ------------------------------------------------------------------------------------------------ sweeps


def write_index(reports: Sequence[Path], path: Path) -> None:
    """Set the runs of a sweep side by side: what differs, key measures, a row of pictures, a link to each report.

    A run whose artifacts are all part of another run's (`stage=style,pair`: the chain up to style) is left out.
    """
    path = Path(path)
    runs = [(report, _open(report)) for report in reports]
    places = [{item.path.resolve() for item in artifacts.values()} for _, artifacts in runs]
    whole = [run for index, run in enumerate(runs) if not any(places[index] < other for other in places)]
    settings = [flat({kind: item.config for kind, item in artifacts.items()}) for _, artifacts in whole]
    names = sorted({name for entry in settings for name in entry})
    differing = [name for name in names if len({json.dumps(entry.get(name)) for entry in settings}) > 1]
    rows, made = [], []
    for (report, artifacts), entry in zip(whole, settings, strict=True):
        link = os.path.relpath(report, path.parent)
        shown = [f"{escape(name)} = {escape(_short(entry[name]))}" for name in differing if name in entry]
        different = "".join(f'<span class="why">{line}</span>' for line in shown)
        values = [find(artifacts, target) for target in TARGETS]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        name = f'<a href="{escape(link, quote=True)}">{escape(report.parent.name)}</a>{different}'
        minutes = sum(float((item.manifest.get("cost") or {}).get("seconds", 0)) for item in artifacts.values()) / 60
        rows.append((name, _strip(artifacts, ("student", "pair")), *cells, f"{minutes:.1f}"))
        if {"data", "pair"} <= set(artifacts):
            before = flat({kind: artifacts[kind].config for kind in ("data", "style") if kind in artifacts})
            made.append(PairRun(artifacts["pair"], artifacts["data"], style_name(artifacts), before, link))
    known = [column for column in range(8) if column in (0, 1, 7) or any(row[column] for row in rows)]
    longest = max((artifacts for _, artifacts in whole), key=len, default={})
    rows.insert(0, ("the photos", _strip(longest, ("photo",)), "1", "0", "1", "", "", ""))
    rows.append(("the true twins", _strip(longest, ("true twin",)), "0", "0", "", "", "", ""))
    head = ("run", "held-out people", "face ×", "background", "KID ×", "MB", "ms", "minutes")
    lede = "Settings that differ stand under each name."
    if len(known) > 3:
        lede += " Lower is better in every column; face and KID are shares of the untouched photos'."
    title = f'<p class="eyebrow">tristyle</p><h1>{len(whole)} runs side by side</h1><p class="lede">{lede}</p>'
    cut = [[row[column] for column in known] for row in rows]
    beside = table([head[column] for column in known], cut, numeric=range(2, len(known)))
    drawn = planes(made)
    parts = [beside, drawn] if len(known) > 3 or not drawn else [drawn, f"<section>{beside}</section>"]
    files = [artifacts for _, artifacts in whole]
    parts.append(section("Deployment", "Files side by side", tier_table(files), export_table(files)))
    write_bytes(path, page("tristyle runs", f"<header>{title}</header>{''.join(parts)}").encode())


def _open(report: Path) -> dict[str, Artifact]:
    places = json.loads(report.with_suffix(".json").read_bytes())["artifacts"]
    return {kind: open_artifact(report.parent / place, kind, verify=False) for kind, place in places.items()}


def _short(value: Any) -> str:
    """A class by its last name, anything else as JSON."""
    return value.rpartition(".")[2] if isinstance(value, str) and value.startswith("stages.") else json.dumps(value)


def _strip(artifacts: Mapping[str, Artifact], wanted: Sequence[str]) -> str:
    """The first held-out people in the first of the `wanted` columns that the run has."""
    columns = held_out_columns(artifacts)
    folder = next((columns[name] for name in wanted if name in columns), None)
    files = sorted(folder.glob("*.png"))[:6] if folder else []
    return f'<div class="shots">{"".join(picture(_load(file), f"held-out {file.stem}") for file in files)}</div>'
