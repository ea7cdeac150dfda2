"""What the notebooks draw with: open artifacts, show pictures, curves, score distributions and how runs compare.

Everything is shown in a frame of its own, so that the report's style sheet does not reach into the notebook.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from stages.core.artifact import Artifact, ArtifactError, open_artifact
from stages.core.files import read_jsonl
from stages.core.images import grid
from stages.report import export as report_export
from stages.report import markup as page
from stages.report import pair as report_pair
from stages.report import plane as report_plane
from stages.report.student import student_parts


def runs() -> Path:
    """Where the artifacts are: $TRISTYLE_RUNS, else `runs` beside the notebooks' folder."""
    return Path(os.environ.get("TRISTYLE_RUNS", "../runs"))


def newest(kind: str) -> Artifact | None:
    """The artifact of `kind` that was finished last; None, with a line that says what to do, when there is none."""
    found = finished(kind)
    if not found:
        print(
            f"There is no finished {kind} artifact in {runs().resolve()}. Make one with `make demo` or "
            f"`tristyle stage={kind}`, or set TRISTYLE_RUNS to another runs folder; then run this notebook again."
        )
        return None
    artifact = max(found, key=lambda item: str(item.manifest["created"]))
    print(f"{kind}: {artifact.path}, digest {artifact.digest[:16]}, finished {artifact.manifest['created']}")
    return artifact


def finished(kind: str) -> list[Artifact]:
    """All finished artifacts of `kind` in the runs folder; what cannot be opened is printed."""
    found = []
    for manifest in sorted((runs() / kind).glob("*/manifest.json")):
        try:
            found.append(open_artifact(manifest.parent, kind, verify=False))
        except ArtifactError as error:
            print(error)
    return found


def source(artifact: Artifact, kind: str) -> Artifact:
    """The artifact of `kind` that `artifact` was made from.

    Raises:
        ArtifactError: it has moved away, or is not the one that was read.
    """
    entry = artifact.manifest["inputs"][kind]
    found = open_artifact(artifact.path / entry["path"], kind, verify=False)
    if found.digest != entry["digest"]:
        raise ArtifactError(f"{found.path}: not the {kind} artifact that {artifact.path} was made from. Run it again.")
    return found


def generator(student: Artifact, export: Artifact | None) -> Any:
    """A blaze student's sheets and the paper's phones; a line that says so for any other student."""
    parts = student_parts({"student": student} | ({"export": export} if export else {}))
    if not parts:
        print("This student does not draw faces from scratch. Make one with `tristyle experiment=blaze-128`.")
        return None
    return frame(page.join(parts), 900)


def origins(pair: Artifact) -> dict[str, Artifact]:
    """A pair artifact and what it was made from, by kind."""
    return {kind: source(pair, kind) for kind in pair.manifest["inputs"]} | {"pair": pair}


def frame(body: Markup, height: int) -> Any:
    """`body` in the report's style, as something that a notebook displays; `height` in CSS px."""
    from IPython.display import HTML

    document = page.page("", body, css="main{padding:4px}")
    style = f"width:100%;height:{height}px;border:0"
    return HTML(str(page.tag("div", page.tag("iframe", srcdoc=str(document), style=style))))  # as text: escaped


def sheet(images: Sequence[np.ndarray], caption: str, columns: int = 8) -> Any:
    """uint8 [H, W, 3] pictures of one size as one sheet."""
    if not len(images):
        return frame(page.note(f"{caption}: none"), 60)
    width = round(112 * images[0].shape[1] / images[0].shape[0])  # rows of several pictures keep their height
    return whole(grid([page.fit(image, width) for image in images], min(columns, len(images)), pad=4), caption)


def whole(picture: np.ndarray, caption: str) -> Any:
    """One picture as it is, uint8 [H, W, 3]; small ones are enlarged."""
    picture = page.fit(picture, 960) if picture.shape[1] < 640 else picture
    height = round(picture.shape[0] * min(1.0, 1020 / picture.shape[1])) + 80
    return frame(page.figure(picture, caption, caption), height)


def curves(artifact: Artifact) -> Any:
    """The loss curves in an artifact's log."""
    drawn = page.curves(read_jsonl(artifact.path / "log.jsonl"))
    return frame(drawn or page.note("This stage logged no curves."), 60 + 190 * -(-drawn.count("<svg") // 4))


def measures(artifact: Artifact) -> Any:
    """An artifact's own measures as a table."""
    rows = [(page.tag("code", name), page.text(value)) for name, value in artifact.metrics.items()]
    return frame(page.table(("measure", "value"), rows, numeric=(1,)), 60 + 36 * len(rows))


def histogram(values: Sequence[float | None], title: str, bins: int = 24) -> Any:
    """How scores are distributed; None and NaN are left out."""
    known = np.array([value for value in values if value is not None and np.isfinite(value)], np.float64)
    if not len(known):
        return frame(page.note(f"{title}: nothing to count"), 60)

    counts, edges = np.histogram(known, bins)
    width, top = 100 / bins, counts.max()
    bars = [
        page.tag(
            "rect", x=f"{index * width:.2f}", y=f"{100 - 100 * count / top:.1f}",
            width=f"{width * 0.86:.2f}", height=f"{100 * count / top:.1f}", fill=page.PALETTE[0],
        )
        for index, count in enumerate(counts)
    ]  # fmt: skip

    view = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "role": "img", "aria_label": title}
    median = page.tag("b", f"median {page.number(float(np.median(known)))}")
    name = page.tag("div", page.tag("span", title), median, class_="name")
    ends = [page.tag("span", page.number(float(edges[end]))) for end in (0, -1)]
    drawing = [page.tag("svg", *bars, **view), page.tag("div", *ends, class_="ends")]
    return frame(page.tag("div", name, *drawing, class_="card curve"), 180)


# ------------------------------------------------------------------------------------------------ stage two


def held_out(pair: Artifact) -> Any:
    """The first held-out people: photo, raw translation, attention, mask, the pair it makes, true twin."""
    found = origins(pair)
    drawn = report_pair.held_out_table(pair, found.get("data"), report_pair.style_name(found))
    columns = drawn.count('class="caption"')
    rows = drawn.count("<img") // max(columns, 1)
    return frame(drawn or page.note("No pictures of held-out people."), 90 + rows * 1000 // max(columns, 1))


def kept_pairs(pair: Artifact, rows: Sequence[dict[str, Any]], caption: str) -> Any:
    """Photo and style picture of kept pairs, side by side, from files or shards."""
    couples = [couple for row in rows if (couple := report_pair.couple(pair.path, row)) is not None]
    return sheet(couples, caption, 4)


def scores(pair: Artifact) -> Any:
    """How every score of curation is distributed, and its limit."""
    drawn = report_pair.score_charts(pair)
    return frame(drawn or page.note("No scores."), 60 + 240 * -(-drawn.count("<svg") // 3))


def alignment(pair: Artifact) -> Any:
    """What `pair=tps` aligned; None, with a line, for other pairs."""
    if not (pair.path / "alignment.png").exists():
        print("These pairs were not aligned; `tristyle experiment=tps-64` makes such.")
        return None
    return frame(report_pair.alignment(pair), 820)


def expression(pair: Artifact) -> Any:
    """How much of pose and expression the raw translations keep."""
    drawn = report_pair.expression_table(pair.metrics)
    return frame(drawn or page.note("Nothing was measured of the expression."), 340)


def plane() -> Any:
    """Identity against KID for all pair artifacts of the runs folder that hold out the same people."""
    made = []
    for pair in finished("pair"):
        try:
            found = origins(pair)
        except ArtifactError as error:
            print(error)
            continue
        before = page.flat({kind: item.config for kind, item in found.items() if kind in ("data", "style")})
        made.append(report_plane.PairRun(pair, found["data"], report_pair.style_name(found), before))
    drawn = report_plane.planes(made)
    return frame(
        drawn or page.note("One run alone has no plane; make another with another pair/balance."), 1900 if drawn else 60
    )


# ---------------------------------------------------------------------------------------------- stage three


def exports() -> Any:
    """Every file of every export in the runs folder, tier by runtime by precision, and the tiers side by side."""
    made = []
    for export in finished("export"):
        try:
            made.append({"export": export, "student": source(export, "student")})
        except ArtifactError as error:
            print(error)
    drawn = report_export.export_table(made) + report_export.tier_table(made)
    return frame(drawn or page.note("No export lists its files."), 160 + 44 * drawn.count("<tr"))
