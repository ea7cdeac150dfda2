"""Stage two on the report's page: how pairs were made, kept and left out.

Everything is read from files of the pair artifact (`heldout/`, `records.jsonl`, `limits.json`, sheets) and of the data
it was made from; what a run did not make is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from markupsafe import Markup

from stages.core.artifact import Artifact
from stages.core.files import read_json, read_jsonl
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.core.shards import Pictures, place
from stages.report.charts import distribution
from stages.report.markup import EMPTY, figure, fit, folded, gallery, heading, note, number, picture, table, tag

if TYPE_CHECKING:
    from stages.pair.curate import Curate

UPPER_BOUND = (
    "Supervised upper bound: these pairs are true twins, the same rendered person in the style. They show what the "
    "student can reach, not what the pipeline makes of style pictures."
)
SHOWN = 6  # held-out people in the table of pictures
KEPT = 14  # kept pairs on the sheet
SIDE = 128  # px that a small picture is enlarged to
READ = {
    "yaw": "turn of the head",
    "pitch": "nod",
    "smile": "smile",
    "mouth_open": "mouth open",
    "eye_open": "eyes open",
}
SCORES = {
    "identity": "identity",
    "landmarks": "landmarks moved",
    "background": "background changed",
    "clarity": "clarity of edges",
    "agreement": "agreement of masks",
}
PAINTED = {"laid over the photo": "raw translation"}  # column of `held_out_table` -> the one whose origin it has


def style_name(artifacts: Mapping[str, Artifact]) -> str:
    """The style that the run aims at: the target of a stage, else the first style of the data."""
    for kind in ("student", "pair", "style"):
        target = artifacts[kind].config.get("target") if kind in artifacts else None
        if target:
            return str(target)
    rows = artifacts["data"].records() if "data" in artifacts else []
    return min((str(row["style"]) for row in rows if row.get("style")), default="style")


def pair_parts(pair: Artifact, data: Artifact | None, style: str) -> list[Markup]:
    """The parts of the section about `pair`, in order; empty for what the run did not make.

    Args:
        pair: the artifact.
        data: the data set that it was made from, for photos, masks and twins.
        style: the style that it aims at.
    """
    rows = pair.records()
    kept = [row for row in rows if row.get("kept")]
    out = [row for row in rows if not row.get("kept")]

    # Why pairs were left out; one may have several reasons.
    blamed = [_reasons(row) for row in out]
    counted = Counter(name for names in blamed for name in names).most_common()
    why = ", ".join(f"{count} for {name}" for name, count in counted)
    why += ", some for several reasons" if any(len(names) > 1 for names in blamed) else ""

    # The pictures of both kinds.
    couples = [sides for row in spread(kept, KEPT) if (sides := couple(pair.path, row)) is not None]
    caption = f"photo and style: {len(couples)} of {len(kept)} kept pairs, evenly spread"
    rejects, painted = pair.path / "rejects.png", next((pair.path / "heldout").glob("*.png"), None)
    shown = figure(fit(read_image(rejects), 820), "rejected pairs", of=rejects) if why and rejects.exists() else EMPTY
    return [
        note(UPPER_BOUND) if str(pair.config.get("_target_", "")).endswith(".TwinPairs") else EMPTY,
        note(f"{len(kept)} of {len(rows)} pairs kept" + (f"; left out: {why}." if why else ".")),
        heading("From photo to pair", held_out_table(pair, data, style)),
        heading("Alignment", alignment(pair)),
        heading("Expression kept", expression_table(pair.metrics)),
        heading("Scores and their limits", score_charts(pair)),
        heading("Kept", gallery(couples, "kept pair", caption, 128, painted)),
        heading("Left out: photo and raw translation", shown),
        _rejects(rows),
    ]


def held_out_table(pair: Artifact, data: Artifact | None, style: str, count: int = SHOWN) -> Markup:
    """The first held-out people by number: photo, raw translation, where it looked, where it painted, pair, twin."""
    names = sorted(file.stem for file in (pair.path / "heldout").glob("*.png"))[:count]
    if not names or data is None:
        return EMPTY
    held, made = data.path / "heldout", pair.path / "heldout"
    columns = {
        "photo": held / "photo",
        "raw translation": made,
        "attention": made / "heatmap",
        "its mask": made / "mask",
        "laid over the photo": held / "mask",
        "true twin": held / "twin" / style,
    }
    columns = {title: folder for title, folder in columns.items() if (folder / f"{names[0]}.png").exists()}
    from stages.pair.curate import Curate  # with torch, which a report without pairs does without

    settings = pair.config.get("curate") or {}
    curate = Curate(**{key: settings[key] for key in ("grow", "feather") if key in settings})
    cells = [tag("div", title, class_="caption") for title in columns]
    for name in names:
        files = {title: folder / f"{name}.png" for title, folder in columns.items()}
        for title in columns:
            image = _cell(title, files, curate)
            of = files[PAINTED.get(title, title)]
            cells.append(tag("div") if image is None else picture(fit(image, SIDE), f"person {name}: {title}", of))
    grid = f"grid-template-columns:repeat({len(columns)},minmax(72px,1fr))"
    said = f"The first {len(names)} held-out people by number, not chosen."
    if "attention" in columns:
        said += " Attention (CAM) is bright where the translator looks to separate photo from style."
    shots = tag("div", *cells, class_="shots", style=grid)
    return tag("figure", shots, tag("figcaption", said), class_="card sheet")


def _cell(title: str, files: Mapping[str, Path], curate: Curate) -> np.ndarray | None:
    """One picture of `held_out_table`; None where a file that it needs is missing."""
    needed = {"attention": ("photo",), "laid over the photo": ("photo", "raw translation")}.get(title, ())
    if not all(files[name].exists() for name in (title, *needed) if name in files):
        return None
    image = read_image(files[title])
    if title == "attention":
        return heat_over(read_image(files["photo"]), image[..., 0])
    if title == "laid over the photo":
        from stages.pair.curate import composite

        photo, raw = (read_image(files[name]) for name in needed)
        return composite(raw, photo, image[..., 0], curate)
    return image


def heat_over(photo: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A heat map uint8 [h, w] over its photo uint8 [H, W, 3], which fades to grey: uint8 [H, W, 3].

    The colours (inferno) rise in lightness too, so that they read without distinct hues.
    """
    size = (photo.shape[1], photo.shape[0])
    large = cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR)
    colour = cv2.applyColorMap(large, cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
    return np.asarray(np.rint(0.62 * colour + 0.38 * grey), np.uint8)


def alignment(pair: Artifact) -> Markup:
    """What `pair=tps` aligned, with landmarks drawn, who saw them, and the pictures that were left out."""
    sheet = pair.path / "alignment.png"
    if not sheet.exists():
        return EMPTY
    said = []
    for kind, name in (("photo", "photos"), ("style", "style pictures")):
        used, out = (pair.metrics.get(f"{kind}s_{part}", 0) for part in ("aligned", "left_out"))
        source = pair.metrics.get(f"{kind}_landmarks")
        said.append(f"{used:.0f} {name} took part, {out:.0f} did not; landmarks: {source}.")
    caption = (
        "From above: portrait; style picture; the style picture warped to the portrait; the result of warped features, "
        "which is judged beside the style picture; the result as it is, which is judged beside the warped one."
    )
    rows = [(row["kind"], tag("code", row["picture"]), row["why"]) for row in read_jsonl(pair.path / "left_out.jsonl")]
    listed = folded("Pictures left out", table(("kind", "picture", "why"), rows[:200])) if rows else EMPTY
    return Markup("").join([note(" ".join(said)), figure(read_image(sheet), "aligned pictures", caption), listed])


def expression_table(metrics: Mapping[str, Any]) -> Markup:
    """Correlation over people of what the reader sees in photo and output; the twins' beside it as the ceiling."""
    rows = [
        (name, f"{float(metrics[f'{key}_kept']):.2f}", _two(metrics.get(f"twin_{key}_kept")))
        for key, name in READ.items()
        if f"{key}_kept" in metrics
    ]
    if not rows:
        return EMPTY
    said = "Correlation over held-out people between photo and raw translation: 1 follows, 0 ignores. The true twins' "
    said += "says how much of it the face reader can see at this size."
    return note(said) + table(("", "raw translation", "true twin"), rows, numeric=(1, 2))


def _two(value: Any) -> str:
    return f"{float(value):.2f}" if isinstance(value, (int, float)) else ""


def score_charts(pair: Artifact) -> Markup:
    """Every score of curation over all candidates: kept, left out for this score, left out for another; its limit."""
    rows = pair.records()
    path = pair.path / "limits.json"
    limits = read_json(path, {"limits": dict})["limits"] if path.exists() else {}
    charts = []
    for key, name in SCORES.items():
        parts: dict[str, list[float]] = {"kept": [], "left out for this": [], "left out for another": []}
        for row in rows:
            if isinstance(row.get(key), (int, float)):
                blamed = key in str(row.get("reason") or "").split()
                part = "kept" if row.get("kept") else "left out for this" if blamed else "left out for another"
                parts[part].append(float(row[key]))
        limit = limits.get(key)
        at = f", limit {limit:.3g}" if isinstance(limit, (int, float)) else ""
        charts.append(distribution(name + at, parts, limit if at else None))
    return tag("div", *charts, class_="charts") if any(charts) else EMPTY


def _rejects(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The pairs left out with all their scores, folded away."""
    out = [row for row in rows if not row.get("kept")]
    known = [key for key in SCORES if any(isinstance(row.get(key), (int, float)) for row in out)]
    cells = [
        (tag("code", row["id"]), " and ".join(_reasons(row)),
         *(number(row[key]) if isinstance(row.get(key), (int, float)) else "" for key in known))
        for row in out[:200]
    ]  # fmt: skip
    listed = table(("pair", "left out for", *known), cells, numeric=range(2, 2 + len(known)))
    few = f"the first {len(cells)} of {len(out)}" if len(cells) < len(out) else f"all {len(out)}"
    return folded(f"Scores of {few} left out", listed) if listed else EMPTY


def _reasons(row: Mapping[str, Any]) -> list[str]:
    """Why a pair was left out: names of scores, or what else was the matter."""
    return str(row.get("reason") or "").split() or ["unreadable" if "unreadable" in row else "unknown"]


def couple(folder: Path, row: dict[str, Any]) -> np.ndarray | None:
    """Photo and style of a kept pair side by side, from files or shards; None where they cannot be read."""
    sides = Pictures(folder)
    for kind in ("photo", "style"):
        sides.add(*place(row, kind))
    try:
        return np.concatenate([fit(sides[index], 96) for index in range(2)], axis=1)
    except TristyleError:
        return None


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` items evenly spread over the list (all of a shorter one)."""
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, min(count, len(items)))] if items else []
