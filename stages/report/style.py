"""Stage one on the report's page: what was fused and chosen, what the style set holds, and what it was made from.

Everything is read from files of the style artifact (`pareto.json`, `ladder.json`, `distribution.json`, `lineage.json`,
sheets); what a run did not make is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stages.core.artifact import Artifact
from stages.core.files import read_json
from stages.core.images import read_image
from stages.report.charts import Dot, histograms, lines, scatter
from stages.report.markup import EMPTY, figure, fit, heading, note, number, table, tag

LABELLED = ("source", "transferred")  # labelled in the plane beside the front's members
LEAK = "leak_"
MOVED, READ = "moved_", "classifier_"  # metrics of an editor
RICHNESS = {
    "coverage": "poses and expressions",
    "attribute_coverage": "attributes",
    "pose_correspondence": "pose kept",
    "recall": "recall",
}


def style_parts(style: Artifact) -> list[Markup]:
    """The parts of the section about `style`, in order; empty for what the run did not make."""
    return [
        note(_origin(_json(style.path / "lineage.json"))),
        _picture(style, "fusion.png", "source, transferred, fused"),
        *_sweep(style),
        heading("Inverted photos", _picture(style, "inversion.png", "photo, its inversion, the same latent fused")),
        heading("Edits", _picture(style, "edits.png", "edited faces")),
        *_editor(style),
        *_distribution(_json(style.path / "distribution.json")),
        heading("Augmentations in the samples", _leaks(style.metrics)),
        heading("Left out of the set", _picture(style, "rejects.png", "rejected samples")),
    ]


def _json(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _picture(style: Artifact, name: str, what: str) -> Markup:
    path = style.path / name
    if not path.exists():
        return EMPTY
    image = read_image(path)
    if image.shape[0] > 4 * image.shape[1]:  # stretched, one column of faces would be as wide as the page
        return figure(image, what, of=path)
    return figure(fit(image, 960), what, "", "wide", path)


def _origin(lineage: Mapping[str, Any] | None) -> str:
    """Where the generator comes from, in one line."""
    if not lineage:
        return ""
    parents = [str(parent.get("name") or parent.get("target")) for parent in lineage["parents"]]
    made = {"transfer": "Transferred from", "fusion": "Fused from"}.get(str(lineage["how"]), "Trained from scratch")
    return f"{made} {' and '.join(parents)}." if parents else f"{made}."


# ------------------------------------------------------------------------------------------------ fusion


def _sweep(style: Artifact) -> list[Markup]:
    found = _json(style.path / "pareto.json")
    if not found:
        return []

    rows: list[Mapping[str, Any]] = found["points"]
    labels = [str(row["label"]) for row in rows]
    named = {*LABELLED, *found["front"], found["chosen"]}
    points = [
        Dot(float(row["coverage"]), float(row["kid"]), label, str(row["family"]), label if label in named else "")
        for row, label in zip(rows, labels, strict=True)
    ]

    # What the figure shows, what was chosen and by which rule.
    rule = found["rule"]
    wanted = f"coverage of at least {rule['coverage_min']:g} and at most {rule['kid_ratio_max']:g} times the plain KID"
    kept = "keeps the rule" if rule["met"] else "is the knee, for no candidate keeps the rule"
    lead = (
        f"Each point is a fusion of source and transferred generator, {found['count']} pictures of the same latents. "
        f"Right is richer, down is nearer to the style. The dashed line is the front, the ringed point the choice: "
        f"{found['chosen']} {kept} ({wanted}); the front's knee is {found['knee']}."
    )
    if found["confirmed"]:
        plain, chosen = found["confirmed"]["transferred"], found["confirmed"]["chosen"]
        lead += (
            f" On as many other latents: coverage {chosen['coverage']:.2f} and KID {chosen['kid']:.3g}, "
            f"the plain transfer {plain['coverage']:.2f} and {plain['kid']:.3g}."
        )

    front = [labels.index(name) for name in found["front"]]
    chart = scatter(
        points, "coverage of the source's poses and expressions", "KID", front, labels.index(found["chosen"])
    )
    return [
        heading("Stylised or rich", note(lead)), chart,
        _picture(style, "pareto.png", "the front's members on the same latents"),
        heading("Broken samples", _broken(found["broken_share"])),
        *_ladder(_json(style.path / "ladder.json")),
    ]  # fmt: skip


def _broken(shares: Mapping[str, float]) -> Markup:
    rows = [(family, f"{100 * share:.1f} %") for family, share in shares.items()]
    return table(("family of fusions", "samples that the quality gate calls broken"), rows, numeric=(1,))


def _ladder(rows: Sequence[Mapping[str, Any]] | None) -> list[Markup]:
    """Stylisation and richness against the images seen."""
    if not rows or len(rows) < 2:
        return []
    images = [float(row["images"]) for row in rows]
    kid = lines(images, {"KID": [float(row["kid"]) for row in rows]}, "images seen", "KID")
    series = {name: [float(row[key]) for row in rows] for key, name in RICHNESS.items() if key in rows[0]}
    rich = lines(images, series, "images seen", "share of the source's")
    return [heading("Along the training", tag("div", kid, rich, class_="charts"))]


# ------------------------------------------------------------------------------------------------ editor


def _editor(style: Artifact) -> list[Markup]:
    """Held-out photos through the editor of style=expanded, beside other ways to invert them."""
    names = [name.removeprefix(MOVED) for name in style.metrics if name.startswith(MOVED)]
    if not names:
        return []

    lead = (
        "Held-out photos: the first row is the photo, the others are what each way to invert it makes of it with the "
        "same generator. Editor is both branches, encoder the style branch alone."
    )
    rows = [(name, *(_figure(style, key + name) for key in (MOVED, READ))) for name in names]
    said = ("attribute", "moved at a strength of 1, deviations of the data", "how well the classifier reads it")
    return [
        heading("Photos, inverted and kept", note(lead)), _picture(style, "modes.png", "photo, and each mode"),
        heading("Edits at five strengths", _picture(style, "editing.png", "each attribute from -2 to 2")),
        heading("What the edits change", _picture(style, "change.png", "the same edits: dark is unchanged")),
        heading("Attributes", table(said, rows, numeric=(1, 2))),
    ]  # fmt: skip


def _figure(style: Artifact, name: str) -> str:
    return f"{float(style.metrics[name]):.2f}" if name in style.metrics else ""


# ------------------------------------------------------------------------------------------------ style set


def _distribution(found: Mapping[str, Any] | None) -> list[Markup]:
    """Histograms of every steered attribute: all candidates, the accepted ones, the target."""
    if not found:
        return []
    steered = found["target"] != "natural"
    series = {"before": "before", "after": "after", "target": "target"} if steered else {"the set": "after"}
    charts = [
        histograms(
            f"{name}, {row['unit']}" if row["unit"] else name,
            row["labels"],
            {name: row[key] for name, key in series.items()},
        )
        for name, row in found["attributes"].items()
    ]
    lead = f"{number(found['accepted'])} of {number(found['candidates'])} sound candidates accepted"
    lead += f"; target: {found['target']}, the worst attribute {100 * found['distance']:.1f} % off." if steered else "."
    return [heading("Which faces the set holds", note(lead)), tag("div", *charts, class_="charts")]


def _leaks(metrics: Mapping[str, Any]) -> Markup:
    scores = {name.removeprefix(LEAK): value for name, value in metrics.items() if name.startswith(LEAK)}
    rows = [(kind, f"{float(score):.2f}") for kind, score in scores.items()]
    return table(("augmentation", "leak: 0 none, 1 as often as the discriminator sees it"), rows, numeric=(1,))
