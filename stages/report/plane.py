"""Several translators side by side: the plane of identity against style, and pictures under it, to choose from.

`tristyle -m stage=pair pair=region,mask pair/balance=id,even,style` is what it is for; any pair artifacts that hold out
the same people will do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stages.core.artifact import Artifact
from stages.core.images import read_image
from stages.report.charts import Dot, Span, scatter
from stages.report.markup import EMPTY, fit, flat, join, note, picture, section, tag

PEOPLE = 5  # held-out people under the plane
SIDE = 128  # px that a small picture is enlarged to
TITLE, COLUMN = 116, 90  # CSS px: the column of the rows' titles, and the least width of the others
CELL = "padding:7px 4px"
TABLED: dict[str, tuple[str, int, float | str | None, float | str | None]] = {
    # measure -> name, +1: more is better, what the untouched photo has, what the true twin has (a number or a measure)
    "identity": ("identity", 1, 1.0, "twin_identity"),
    "kid": ("KID to the style", -1, "photo_kid", "twin_kid"),
    "background_error": ("background error", -1, 0.0, None),
    "frame_error": ("whole-frame error", -1, "photo_frame_error", 0.0),
    "face_error": ("face error", -1, "photo_face_error", 0.0),
    "landmark_error": ("landmarks moved", -1, 0.0, None),
}


@dataclass(frozen=True)
class PairRun:
    """A pair artifact beside others: the data it was made from, the style, its settings (flat), a link to its page."""

    pair: Artifact
    data: Artifact
    style: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    link: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the artifact that are finite numbers."""
        found = self.pair.metrics.items()
        return {name: value for name, value in found if isinstance(value, (int, float)) and isfinite(value)}


def variant(config: Mapping[str, Any]) -> str:
    """What kind of pair stage a config describes: mask, region, plain, or its module's name (latent, given)."""
    module, _, name = str(config.get("_target_", "")).rpartition(".")
    translator = config.get("translator") or {}
    if "mask_head" in translator:
        return "mask" if translator["mask_head"] else "region" if translator.get("composite") else "plain"
    if translator:
        return str(translator.get("_target_", name)).rpartition(".")[2]
    return module.rpartition(".")[2] or name


def balance(config: Mapping[str, Any]) -> str:
    """The name of the dial's setting; "" where the weights were set otherwise."""
    return str((config.get("translator") or {}).get("balance") or "")


def labels(runs: Sequence[PairRun]) -> list[str]:
    """A short name a run: variant and balance, and where these coincide the settings that differ."""
    names = [" ".join(part for part in (variant(run.pair.config), balance(run.pair.config)) if part) for run in runs]
    found = []
    for name, run in zip(names, runs, strict=True):
        like = [
            flat(other.pair.config) | dict(other.settings) for other, n in zip(runs, names, strict=True) if n == name
        ]
        own = flat(run.pair.config) | dict(run.settings)
        keys = [key for key in sorted({key for settings in like for key in settings}) if not key.endswith("_target_")]
        differ = [key for key in keys if len({json.dumps(settings.get(key)) for settings in like}) > 1]
        extra = [f"{key.rpartition('.')[2]}={own.get(key)}" for key in differ[:2]]
        if len(like) > 1 and not extra:
            extra = [run.pair.path.name[:8]]
        found.append(", ".join([name, *extra]))
    return found


def planes(runs: Sequence[PairRun]) -> Markup:
    """For each data set and style with several pair artifacts a section: the plane, and under it their pictures.

    Only runs that hold out the same people compare. Empty where no two do.
    """
    distinct = {run.pair.path.resolve(): run for run in runs if {"identity", "kid"} <= set(run.metrics)}
    groups: dict[tuple[str, str], list[PairRun]] = {}
    for run in distinct.values():
        groups.setdefault((run.data.digest, run.style), []).append(run)
    return join((_plane(group) for group in groups.values() if len(group) > 1), "\n")


def _plane(runs: Sequence[PairRun]) -> Markup:
    runs = sorted(runs, key=lambda run: (-run.metrics["identity"], run.metrics["kid"]))
    names = labels(runs)
    points = [
        Dot(run.metrics["identity"], run.metrics["kid"], name, variant(run.pair.config), name,
              _span(run.metrics, "identity"), _span(run.metrics, "kid"))
        for run, name in zip(runs, names, strict=True)
    ]  # fmt: skip

    best = front([(point.x, point.y) for point in points])
    chart = scatter(points, "identity · more like the person →", "KID · ← more like the style", best, trails=True)

    lead = (
        "Each point is a translator on the same held-out people, raw output. Right is more like the person, down is "
        "more like the style; crosses are 95 % intervals over people. The dashed line joins the runs that no other "
        f"beats in both: {', '.join(names[index] for index in best)}; faint lines join runs of one kind. "
        "Choose by the pictures below, which stand in the plane's order, from person to style."
    )
    return section("Choose", "The person or the style", note(lead), chart, _choices(runs, names, set(best)))


def front(places: Sequence[Span]) -> list[int]:
    """Of (identity, KID) places the ones that no other beats in both, by falling identity."""
    order = sorted(range(len(places)), key=lambda index: (-places[index][0], places[index][1]))
    found: list[int] = []
    for index in order:
        if not found or places[index][1] < places[found[-1]][1]:
            found.append(index)
    return found


def _span(metrics: Mapping[str, float], name: str) -> Span | None:
    ends = [metrics.get(f"{name}_{end}") for end in ("low", "high")]
    return (ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None


def _choices(runs: Sequence[PairRun], names: Sequence[str], best: set[int]) -> Markup:
    """Rows: the same held-out people and then the numbers; columns: photo, each run in the plane's order, twin."""
    held = runs[0].data.path / "heldout"
    columns: list[tuple[str, str, Path]] = [("photo", "photo", held / "photo")]
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        shown = tag("a", name, href=run.link) if run.link else name
        columns.append((name, join(["● " if index in best else "", shown]), run.pair.path / "heldout"))
    twins = held / "twin" / runs[0].style
    if twins.is_dir():
        columns.append(("true twin", "true twin", twins))
    people = sorted(file.stem for file in columns[1][2].glob("*.png"))[:PEOPLE]
    rows = [_row("", [tag("th", title, style=CELL) for _, title, _ in columns])]
    for person in people:
        cells = []
        for name, _, folder in columns:
            file = folder / f"{person}.png"
            said = f"person {person}: {name}"
            shown = picture(fit(read_image(file), SIDE), said, file) if file.exists() else EMPTY
            cells.append(tag("td", shown, style="padding:3px;border:0"))
        rows.append(_row(person, cells))
    commands = [EMPTY, *(_command(run.pair.config) for run in runs), *([EMPTY] if twins.is_dir() else [])]
    for title, values in [*_numbers(runs, twins.is_dir()), ("to have it", commands)]:
        rows.append(_row(title, [tag("td", value, style=CELL) for value in values]))

    wide = f"table-layout:fixed;min-width:{TITLE + COLUMN * len(columns)}px"
    said = "● on the front. Bold: the best of the row. Small: 95 % interval over people."
    body = tag("table", *rows, style=wide)
    return tag("div", body, class_="card scroll", style="margin:18px 0") + note(said)


def _row(title: str, cells: Sequence[Markup]) -> Markup:
    """A row whose title stays in sight when the table is pushed aside."""
    stays = f"position:sticky;left:0;z-index:1;background:var(--card);width:{TITLE}px"
    return tag("tr", tag("th", title, style=stays), *cells)


def _numbers(runs: Sequence[PairRun], twins: bool) -> list[tuple[str, list[Markup]]]:
    """(measure, a cell a column); the untouched photo's and the true twin's values stand at the ends."""
    rows = []
    for key, (name, better, photo, twin) in TABLED.items():
        values = [run.metrics.get(key) for run in runs]
        best = max((value for value in values if value is not None), key=lambda value: value * better, default=None)
        if best is None:
            continue
        cells = [_end(photo, runs[0])]
        for run, value in zip(runs, values, strict=True):
            span = _span(run.metrics, key)
            between = tag("span", f"{span[0]:.3g}–{span[1]:.3g}", class_="why") if span else EMPTY
            shown = "" if value is None else f"{value:.3g}"
            cells.append(join([tag("b", shown) if value == best else shown, between]))
        cells += [_end(twin, runs[0])] if twins else []
        rows.append((f"{name} {'↑' if better > 0 else '↓'}", cells))
    return rows


def _end(value: float | str | None, run: PairRun) -> Markup:
    """A known value, or the run's measure of that name; "" where there is none."""
    known = run.metrics.get(value) if isinstance(value, str) else value
    return EMPTY if known is None else tag("span", f"{known:.3g}", style="color:var(--soft)")


def _command(config: Mapping[str, Any]) -> Markup:
    kind, dial = variant(config), balance(config)
    chosen = [" pair/", tag("wbr"), "balance=", tag("wbr"), dial] if dial else []
    return tag("code", "pair=", tag("wbr"), kind, *chosen)
