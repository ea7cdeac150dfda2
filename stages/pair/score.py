"""Measures of stage pair on held-out people, on raw paintings; every definition lives in stages.metrics.

Every score of every person goes to `heldout/scores.jsonl`, and KID, which has no score a person, to
`heldout/resampled.json` on the bootstrap's resamples: with both, two runs are compared person by person (`compare`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.core.artifact import Artifact
from stages.core.files import read_jsonl, write_json, write_jsonl
from stages.core.images import load_images, load_masks, write_image
from stages.core.runtime import Runtime
from stages.core.settings import TristyleError
from stages.core.tensors import mask_tensor, to_tensor, unit
from stages.metrics.bootstrap import Interval, difference, draw, interval, mean_interval
from stages.metrics.clarity import median_defined, paired_ratios
from stages.metrics.geometry import correspondence, landmark_error
from stages.metrics.identity import embed, same_person_auc
from stages.metrics.kid import HeadKid
from stages.metrics.pixel import background_error, face_error, frame_error, head_iou
from stages.networks.face_reader import Reader
from stages.pair.photo_sets import Painter, Translation, load_photos, read_masks

BATCH = 64
SEED = 0  # of the resamples: the same for every run, so that runs pair
READ = ("yaw", "pitch", "smile", "mouth_open", "eye_open")  # what the face reader says of pose and expression
LEAST = 3  # people from which a correlation over them says anything
MEANS = ("identity", "background_error", "face_error", "frame_error", "landmark_error", "mask_iou")
BASELINES = ("photo_face_error", "photo_frame_error", "twin_identity")  # what the untouched photo, the true twin gives
MEDIANS = ("edge_clarity_ratio", "flat_energy_ratio", "photo_edge_clarity_ratio", "photo_flat_energy_ratio")


@dataclass
class HeldOut:
    """Pictures that no training saw: uint8 [N, H, W, 3], `mask` [N, H, W]; `twin` is None where there are no twins."""

    ids: list[str]
    people: list[str]
    photo: np.ndarray
    mask: np.ndarray
    twin: np.ndarray | None


def measure_heldout(
    data: Artifact, style: str, painter: Painter, reader: Reader, out: Path, runtime: Runtime
) -> dict[str, float]:
    """Raw paintings of the held-out photos to `heldout/`, and their measures beside the untouched photos'.

    Errors to the twin need the painter's twins, KID held-out style pictures, the same-person AUC several photos of a
    person, and the masks' agreement a painter that gives masks; without them those entries are left out. Clarity is
    the twin's, or without twins the photo's (`photo_...`). Intervals are 95 % over people.
    """
    people = _held_out(data, style, runtime.workers)
    painting = painter(people.photo)
    _write_paintings(out / "heldout", people.ids, painting)
    rows, embeddings = _scores(people, painting, reader, runtime.device)
    write_jsonl(out / "heldout" / "scores.jsonl", _lines(people, rows))
    metrics = {name: _mean(rows[name]) for name in MEANS + BASELINES if name in rows}
    metrics |= {name: median_defined(rows[name]) for name in MEDIANS if name in rows}
    if "face_error" in metrics:
        metrics["face_ratio"] = metrics["face_error"] / metrics["photo_face_error"]
    draws = draw(people.people, seed=SEED)
    metrics |= _bounds("identity", mean_interval(rows["identity"], draws))
    metrics |= _kept(rows) | _auc(people.people, *embeddings)
    return metrics | _kid(data, style, people, painting.raw, draws, reader, out, runtime)


def compare(first: Artifact, second: Artifact) -> dict[str, Interval]:
    """How much larger each measure is in the `second` pair artifact than in the `first`, over the same people.

    Returns:
        measure -> mean difference and its 95 % interval over people; one that excludes 0 says that the runs differ.

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
        before, after = (json.loads(path.read_bytes()) for path in kids)
        if (before["people"], before["seed"]) != (after["people"], after["seed"]):
            raise TristyleError(f"{kids[0]} and {kids[1]}: hold different resamples. Run stage=pair again.")
        change = np.array(after["kid"], np.float64) - np.array(before["kid"], np.float64)
        found["kid"] = interval(after["value"] - before["value"], change)
    return found


def _column(rows: dict[str, dict[str, float | None]], name: str) -> np.ndarray:
    return np.array([row.get(name) for row in rows.values()], np.float64)


# ------------------------------------------------------------------------------------------------ scores of a person


def _held_out(data: Artifact, style: str, workers: int) -> HeldOut:
    held = load_photos(data, "heldout", "heldout/photo", "heldout/mask", workers)
    known = {Path(row["photo"]).stem: row for row in data.records() if row["split"] == "heldout" and row.get("photo")}
    twins = [data.path / "heldout" / "twin" / style / f"{name}.png" for name in held.ids]
    twin = load_images(twins, workers) if all(path.exists() for path in twins) else None
    people = [str(known[name].get("person", name)) for name in held.ids]
    return HeldOut(held.ids, people, held.images, held.masks, twin)


def _write_paintings(folder: Path, ids: list[str], painting: Translation) -> None:
    """`*.png` raw, `mask/*.png` and `heatmap/*.png` as far as the painter gives them."""
    for place, pictures in (
        (folder, painting.raw),
        (folder / "mask", painting.mask),
        (folder / "heatmap", painting.heatmap),
    ):
        for name, picture in zip(ids, pictures, strict=True) if pictures is not None else ():
            write_image(place / f"{name}.png", picture)


def _scores(
    people: HeldOut, painting: Translation, reader: Reader, device: str
) -> tuple[dict[str, np.ndarray], tuple[Tensor, Tensor]]:
    """Score -> one value a picture [N]; and the embeddings [N, D] of photos and paintings."""
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(people.ids), BATCH):
        part = slice(start, start + BATCH)
        photo, raw = (unit(to_tensor(images[part]).to(device)) for images in (people.photo, painting.raw))
        mask = mask_tensor(people.mask[part]).to(device)
        twin = None if people.twin is None else unit(to_tensor(people.twin[part]).to(device))
        found = _pixels(photo, raw, mask, twin) | _read(reader, photo, raw, twin)
        found |= {"who": embed(reader, photo, mask), "who_raw": embed(reader, raw, mask)}
        if twin is not None:
            found["twin_identity"] = torch.nn.functional.cosine_similarity(
                embed(reader, twin, mask), found["who"], dim=1
            )
        if painting.mask is not None:
            found["mask_iou"] = head_iou(mask_tensor(painting.mask[part]).to(device), mask)
        parts.append({name: values.cpu() for name, values in found.items()})
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    who, who_raw = columns.pop("who"), columns.pop("who_raw")
    rows = {"identity": torch.nn.functional.cosine_similarity(who, who_raw, dim=1).double().numpy()}
    rows |= {name: values.double().numpy() for name, values in columns.items()}
    target, prefix = (people.photo, "photo_") if people.twin is None else (people.twin, "")
    sharp = paired_ratios(painting.raw, target, people.mask > 127)
    rows |= {f"{prefix}{name}": sharp[name] for name in ("edge_clarity_ratio", "flat_energy_ratio")}
    return rows, (who, who_raw)


def _pixels(photo: Tensor, raw: Tensor, mask: Tensor, twin: Tensor | None) -> dict[str, Tensor]:
    found = {"background_error": background_error(raw, photo, mask)}
    if twin is not None:
        for name, picture in (("", raw), ("photo_", photo)):
            found[f"{name}face_error"] = face_error(picture, twin, mask)
            found[f"{name}frame_error"] = frame_error(picture, twin)
    return found


def _read(reader: Reader, photo: Tensor, raw: Tensor, twin: Tensor | None) -> dict[str, Tensor]:
    """What the face reader sees in painting, photo and twin: pose and expression, and the landmarks' distance."""
    found: dict[str, Tensor] = {}
    landmarks = []
    for name, picture in (("", raw), ("photo_", photo), ("twin_", twin)):
        if picture is not None:
            reading = reader.read(picture * 2 - 1)
            values = torch.cat([reading.pose, reading.expression], dim=1)
            found |= {f"{name}{key}": values[:, column] for column, key in enumerate(READ)}
            landmarks.append(reading.landmarks)
    return found | {"landmark_error": landmark_error(landmarks[0], landmarks[1])}


def _lines(people: HeldOut, rows: dict[str, np.ndarray]) -> list[dict[str, str | float | None]]:
    named = zip(people.ids, people.people, strict=True)
    return [
        {"id": name, "person": who, **{key: _plain(rows[key][i]) for key in rows}}
        for i, (name, who) in enumerate(named)
    ]


def _plain(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


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


def _auc(people: list[str], photo: Tensor, raw: Tensor) -> dict[str, float]:
    """Photo A against the painting of photo B of the same person; untouched photos beside it as the ceiling."""
    names = sorted(set(people))
    if not 1 < len(names) < len(people):
        return {}
    number = torch.tensor([names.index(name) for name in people])
    return {
        "same_person_auc": same_person_auc(photo, raw, number, number, aligned=True),
        "photo_same_person_auc": same_person_auc(photo, photo, number, number, aligned=True),
    }


def style_kid(data: Artifact, style: str, reader: Reader, runtime: Runtime) -> tuple[HeadKid, int]:
    """KID with the held-out style pictures as its real side, heads on one grey, and how many there are.

    Masks that the data does not have come from the reader.
    """
    kid = HeadKid(reader)
    real = sorted((data.path / "heldout" / "style" / style).glob("*.png"))
    if not real:
        return kid, 0
    images = load_images(real, runtime.workers)
    given = [data.path / "heldout" / "style_mask" / style / path.name for path in real]
    there = all(path.exists() for path in given)
    cover = load_masks(given, runtime.workers) if there else read_masks(reader, images, runtime.device)
    add_pictures(kid.add_real, images, cover, runtime.device)
    return kid, len(real)


def _kid(
    data: Artifact, style: str, people: HeldOut, raw: np.ndarray, draws: np.ndarray,
    reader: Reader, out: Path, runtime: Runtime,
) -> dict[str, float]:  # fmt: skip
    """KID of paintings, untouched photos and twins to the held-out style pictures; {} without any."""
    kid, real = style_kid(data, style, reader, runtime)
    if min(real, len(people.ids)) < 2:
        return {}
    found: dict[str, float] = {}
    for name, pictures in (("twin_kid", people.twin), ("photo_kid", people.photo), ("kid", raw)):
        if pictures is None:
            continue
        kid.clear_fake()
        add_pictures(kid.add_fake, pictures, people.mask, runtime.device)
        result = kid.compute()
        found |= {name: float(result["kid"]), f"{name}_sd": float(result["kid_sd"])}
    replicates = kid.resampled(draws)
    kept = {"people": len(people.ids), "seed": SEED, "value": found["kid"], "kid": [_plain(kid) for kid in replicates]}
    write_json(out / "heldout" / "resampled.json", kept)
    found["kid_ratio"] = found["kid"] / found["photo_kid"] if found["photo_kid"] > 0 else float("nan")
    return found | _bounds("kid", interval(found["kid"], replicates)) | {"kid_style_images": float(real)}


def add_pictures(add: Callable[[Tensor, Tensor], None], images: np.ndarray, masks: np.ndarray, device: str) -> None:
    """Feed one side of KID: uint8 [N, H, W, 3] pictures and their heads' coverage uint8 [N, H, W]."""
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        add(unit(to_tensor(images[part])).to(device), mask_tensor(masks[part]).to(device))
