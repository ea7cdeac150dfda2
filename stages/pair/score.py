"""Measures of stage pair on held-out people, on raw paintings; every definition lives in stages.metrics.

Each person's scores go to `heldout/scores.jsonl`. KID has no score a person: its values on the bootstrap's resamples go
to `heldout/resampled.json`. With both files two runs are compared person by person (`compare`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.artifact import Artifact
from stages.core.files import read_json, read_jsonl, write_json, write_jsonl
from stages.core.images import write_image
from stages.core.runtime import Runtime
from stages.core.settings import TristyleError
from stages.core.tensors import mask_tensor, to_tensor
from stages.metrics.backbones import load_perceptual
from stages.metrics.bootstrap import Interval, difference, draw, interval, mean_interval
from stages.metrics.clarity import median_defined, paired_ratios
from stages.metrics.fid import art_fid, frechet_distance
from stages.metrics.geometry import correspondence, landmark_error, mean_landmark_distance
from stages.metrics.heldout import (
    BATCH,
    HeldOut,
    HeldOutView,
    PictureScores,
    heldout_kid,
    ratio_of_means,
    read_heldout,
    score_pictures,
)
from stages.metrics.identity import same_person_auc
from stages.metrics.kid import HeadKid
from stages.metrics.pixel import head_iou, mean_defined
from stages.networks.face_reader import Reader
from stages.pair.translator import Painter, Translation

SEED = 0  # of the resamples: the same for every run, so that runs pair
READ = ("yaw", "pitch", "smile", "mouth_open", "eye_open")  # what the face reader says of pose and expression
LEAST = 3  # people from which a correlation over them says anything
MEANS = ("identity", "background_error", "face_error", "frame_error", "landmark_error", "mask_iou")
BASELINES = ("photo_face_error", "photo_frame_error", "twin_identity")  # of the untouched photo, of the true twin
MEDIANS = ("edge_clarity_ratio", "flat_energy_ratio", "photo_edge_clarity_ratio", "photo_flat_energy_ratio")


def measure_heldout(
    data: Artifact, style: str, painter: Painter, reader: Reader, out: Path, runtime: Runtime
) -> dict[str, Any]:
    """Paint the held-out photos, write the raw paintings to `heldout/`, and measure them beside the untouched photos.

    What a measure needs and the data lacks leaves that measure out: errors to the twin need twins, KID held-out style
    pictures, the same-person AUC several photos of a person, and the masks' agreement a painter that gives masks.
    Clarity is relative to the twin, or without twins to the photo (`photo_...`). Intervals are 95 % over people.

    Args:
        data: the data artifact.
        style: name of the style among its twins and style pictures.
        painter: paints the photos.
        reader: the face reader, on the runtime's device.
        out: the pair artifact's folder.
        runtime: the machine.
    """
    people = read_heldout(data, style, runtime.workers)
    painting = painter(people.photo)
    _write_paintings(out / "heldout", people.ids, painting)

    scores = score_pictures(
        people, painting.raw, reader, runtime.device, lambda view: _read(view, reader) | _agreement(view, painting)
    )
    rows = {name: values.double().numpy() for name, values in scores.rows.items()} | _clarity(people, painting.raw)
    write_jsonl(out / "heldout" / "scores.jsonl", _lines(people, rows))

    metrics: dict[str, Any] = {name: mean_defined(scores.rows[name]) for name in MEANS + BASELINES if name in rows}
    metrics |= {name: median_defined(rows[name]) for name in MEDIANS if name in rows}
    if "face_error" in rows:
        metrics["face_ratio"] = ratio_of_means(scores.rows["face_error"], scores.rows["photo_face_error"])
    draws = draw(people.people, seed=SEED)
    metrics |= _bounds("identity", mean_interval(rows["identity"], draws))
    metrics |= _kept(rows) | _auc(people.people, scores)
    metrics |= mean_landmark_distance(scores.rows["landmark_error"], reader.id)
    return metrics | _kid(people, painting.raw, draws, reader, out, runtime.device)


def compare(first: Artifact, second: Artifact) -> dict[str, Interval]:
    """How much larger each measure is in the `second` pair artifact than in the `first`, over the same people.

    Returns:
        measure -> mean difference and its 95 % interval over people. The runs differ where it excludes 0.

    Raises:
        TristyleError: the two do not hold out the same people, or one was made before scores were written.
    """
    rows = [
        {str(row["id"]): row for row in read_jsonl(pair.path / "heldout" / "scores.jsonl")} for pair in (first, second)
    ]
    if not rows[0] or not rows[1]:
        missing = first if not rows[0] else second
        raise TristyleError(f"{missing.path}: holds no heldout/scores.jsonl. Run stage=pair again.")
    sources = [pair.manifest["inputs"]["data"]["digest"] for pair in (first, second)]
    if list(rows[0]) != list(rows[1]) or sources[0] != sources[1]:
        raise TristyleError(f"{first.path} and {second.path}: hold out different people. Compare runs on one data set.")

    draws = draw([str(row["person"]) for row in rows[0].values()], seed=SEED)
    one, other = ({name: _column(run, name) for name in MEANS + MEDIANS} for run in rows)
    found = {
        name: difference(one[name], other[name], draws) for name in one if np.isfinite(one[name] + other[name]).any()
    }

    kids = [pair.path / "heldout" / "resampled.json" for pair in (first, second)]
    if all(path.exists() for path in kids):
        before, after = (read_json(path, {"people": object, "kid": list, "value": (int, float)}) for path in kids)
        if (before["people"], before["seed"]) != (after["people"], after["seed"]):
            raise TristyleError(f"{kids[0]} and {kids[1]}: hold different resamples. Run stage=pair again.")
        change = np.array(after["kid"], np.float64) - np.array(before["kid"], np.float64)
        found["kid"] = interval(after["value"] - before["value"], change)
    return found


def _column(rows: dict[str, dict[str, float | None]], name: str) -> np.ndarray:
    return np.array([row.get(name) for row in rows.values()], np.float64)


# ------------------------------------------------------------------------------------------------ scores of a person


def _write_paintings(folder: Path, ids: list[str], painting: Translation) -> None:
    """`*.png` raw, `mask/*.png` and `heatmap/*.png` as far as the painter gives them."""
    places = ((folder, painting.raw), (folder / "mask", painting.mask), (folder / "heatmap", painting.heatmap))
    for place, pictures in places:
        for name, picture in zip(ids, pictures, strict=True) if pictures is not None else ():
            write_image(place / f"{name}.png", picture, painting.source if place == folder else "")


def _read(view: HeldOutView, reader: Reader) -> dict[str, Tensor]:
    """What the face reader sees in painting, photo and twin: pose and expression, and the landmarks' distance."""
    found: dict[str, Tensor] = {}
    landmarks = []
    for name, picture in (("", view.raw), ("photo_", view.photo), ("twin_", view.twin)):
        if picture is not None:
            reading = reader.read(picture * 2 - 1)
            values = torch.cat([reading.pose, reading.expression], dim=1)
            found |= {f"{name}{key}": values[:, column] for column, key in enumerate(READ)}
            landmarks.append(reading.landmarks)
    return found | {"landmark_error": landmark_error(landmarks[0], landmarks[1])}


def _agreement(view: HeldOutView, painting: Translation) -> dict[str, Tensor]:
    """Overlap of where the painter says it painted with the head; {} for a painter without masks."""
    if painting.mask is None:
        return {}
    return {"mask_iou": head_iou(mask_tensor(painting.mask[view.part]).to(view.mask.device), view.mask)}


def _clarity(people: HeldOut, raw: np.ndarray) -> dict[str, np.ndarray]:
    """Clarity of each head over that of its target: the twin, or without twins the photo."""
    target, prefix = (people.photo, "photo_") if people.twin is None else (people.twin, "")
    sharp = paired_ratios(raw, target, people.mask > 127)
    return {f"{prefix}{name}": sharp[name] for name in ("edge_clarity_ratio", "flat_energy_ratio")}


def _lines(people: HeldOut, rows: dict[str, np.ndarray]) -> list[dict[str, str | float | None]]:
    named = zip(people.ids, people.people, strict=True)
    return [
        {"id": name, "person": who, **{key: _plain(rows[key][i]) for key in rows}}
        for i, (name, who) in enumerate(named)
    ]


def _plain(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


# ------------------------------------------------------------------------------------------------ measures of all


def _bounds(name: str, found: Interval) -> dict[str, float]:
    return {f"{name}_low": found.low, f"{name}_high": found.high}


def _kept(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Is pose and expression kept: correlation over people between photo and painting, and photo and twin beside it."""
    if len(rows["identity"]) < LEAST:
        return {}
    found: dict[str, float] = {}
    photo = np.stack([rows[f"photo_{key}"] for key in READ], axis=1)
    for prefix in ("", "twin_"):
        if f"{prefix}{READ[0]}" in rows:
            seen = np.stack([rows[f"{prefix}{key}"] for key in READ], axis=1)
            follows = correspondence(torch.from_numpy(seen), torch.from_numpy(photo)).tolist()
            found |= {f"{prefix}{key}_kept": value for key, value in zip(READ, follows, strict=True)}
    return found


def _auc(people: list[str], scores: PictureScores) -> dict[str, float]:
    """Photo A against the painting of photo B of the same person; untouched photos beside it as the ceiling."""
    names = sorted(set(people))
    if not 1 < len(names) < len(people):
        return {}
    number = torch.tensor([names.index(name) for name in people])
    return {
        "same_person_auc": same_person_auc(scores.photo, scores.raw, number, number, aligned=True),
        "photo_same_person_auc": same_person_auc(scores.photo, scores.photo, number, number, aligned=True),
    }


def _kid(people: HeldOut, raw: np.ndarray, draws: np.ndarray, reader: Reader, out: Path, device: str) -> dict[str, Any]:
    """KID of twins, untouched photos and paintings to the held-out style pictures, FID and Art-FID; {} without any."""
    shown = {"twin_kid": people.twin, "photo_kid": people.photo, "kid": raw}
    kid, found = heldout_kid(people, shown, reader, device)
    if kid is None:
        return {}

    # the paintings came last, so that it is they who are resampled
    replicates = kid.resampled(draws)
    kept = {"people": len(people.ids), "seed": SEED, "value": found["kid"], "kid": [_plain(kid) for kid in replicates]}
    write_json(out / "heldout" / "resampled.json", kept)
    return found | _bounds("kid", interval(found["kid"], replicates)) | _frechet(kid, people, raw, device)


@torch.no_grad()
def _frechet(kid: HeadKid, people: HeldOut, raw: np.ndarray, device: str) -> dict[str, Any]:
    """FID of the paintings to the style pictures, heads on grey as in KID, and Art-FID; with the networks' names."""
    fid, perceptual = frechet_distance(torch.cat(kid.real), torch.cat(kid.fake)), load_perceptual(device=device)
    apart = [
        perceptual.distance(
            *(to_tensor(pictures[start : start + BATCH]).to(device) for pictures in (people.photo, raw))
        )
        for start in range(0, len(raw), BATCH)
    ]
    content = float(torch.cat(apart).mean())
    return {
        "fid": fid,
        "fid_extractor": kid.reader.id,
        "art_fid": art_fid(content, fid),
        "art_fid_extractor": f"{perceptual.id} {kid.reader.id}",
    }
