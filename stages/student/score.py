"""How good is a student? Scored on held-out people, on its raw output; every definition lives in stages.metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.artifact import Artifact
from stages.core.images import load_images, load_masks
from stages.core.settings import TristyleError
from stages.core.tensors import mask_tensor, to_tensor, to_uint8, unit
from stages.datasets.painted.motion import moving
from stages.datasets.painted.paint import SIZES
from stages.datasets.painted.person import HELDOUT_PEOPLE
from stages.metrics.clarity import clarity_ratios
from stages.metrics.flicker import flicker
from stages.metrics.identity import identity_cosine
from stages.metrics.kid import HeadKid
from stages.metrics.pixel import background_error, face_error, mean_defined, ssim
from stages.networks.face_reader import Reader

BATCH = 64
MOVING, FRAMES = 8, 8  # people in motion and frames of each, for the flicker


@dataclass(kw_only=True)
class HeldOut:
    """Pictures of people that no training saw. uint8; None where the data set has no such thing.

    photo, twin (true stylised twin), teacher (raw output of the pair stage's translator): [N, H, W, 3].
    mask: [N, H, W], the photo's head. style, style_mask: held-out pictures of the style, of other people.
    """

    ids: list[str]
    photo: np.ndarray
    mask: np.ndarray
    twin: np.ndarray | None
    teacher: np.ndarray | None
    style: np.ndarray | None
    style_mask: np.ndarray | None


def held_out(data: Artifact, pair: Artifact, target: str, workers: int) -> HeldOut:
    """Read the held-out part of a data set and the translator's outputs on it.

    Raises:
        TristyleError: the data set holds nobody out.
    """
    ids = [row["id"] for row in data.records() if row["split"] == "heldout"]
    if not ids:
        raise TristyleError(f"{data.path}: holds out no photos, so nothing can be scored. Set data.heldout above 0.")

    def pictures(folder: Path, names: list[str]) -> np.ndarray | None:
        paths = [folder / f"{name}.png" for name in names]
        return load_images(paths, workers) if paths and all(path.exists() for path in paths) else None

    base = data.path / "heldout"
    styles = [path.stem for path in sorted((base / "style" / target).glob("*.png"))]
    style_masks = [base / "style_mask" / target / f"{name}.png" for name in styles]
    has_masks = bool(styles) and all(path.exists() for path in style_masks)
    return HeldOut(
        ids=ids,
        photo=load_images([base / "photo" / f"{name}.png" for name in ids], workers),
        mask=load_masks([base / "mask" / f"{name}.png" for name in ids], workers),
        twin=pictures(base / "twin" / target, ids),
        teacher=pictures(pair.path / "heldout", ids),
        style=pictures(base / "style" / target, styles) if has_masks else None,
        style_mask=load_masks(style_masks, workers) if has_masks else None,
    )


def apply_student(student: nn.Module, photos: np.ndarray, device: str) -> Tensor:
    """uint8 [N, H, W, 3] -> raw outputs, float32 [N, 3, H, W] in [-1, 1], on the CPU."""
    with torch.no_grad():
        chunks = [
            student(to_tensor(photos[i : i + BATCH]).to(device)).float().cpu() for i in range(0, len(photos), BATCH)
        ]
    return torch.cat(chunks)


def score(output: Tensor, people: HeldOut, reader: Reader) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All measures of raw outputs [N, 3, H, W] in [-1, 1] on held-out people.

    Returns:
        (means and what they rest on, the per-picture values behind them). Errors are L1 in [0, 1]; beside each stands
        the untouched photo's value (`photo_...`), and where there are the translator's pictures, its own
        (`teacher_...`). Clarity is over that of the target, in the head and, as `frame_...`, in the whole frame.
    """
    result, mask, photo = unit(output), mask_tensor(people.mask), unit(to_tensor(people.photo))
    rows = {"background_error": background_error(result, photo, mask)}
    rows["identity"] = identity_cosine(reader, photo, result, mask)
    means: dict[str, Any] = {}
    if people.twin is not None:
        twin = unit(to_tensor(people.twin))
        rows["face_error"] = face_error(result, twin, mask)
        rows["photo_face_error"] = face_error(photo, twin, mask)
        rows["ssim_twin"] = ssim(result, twin)
        means["face_ratio"] = _ratio(rows["face_error"], rows["photo_face_error"])
        if people.teacher is not None:
            rows["teacher_face_error"] = face_error(unit(to_tensor(people.teacher)), twin, mask)
            means["face_to_teacher"] = _ratio(rows["face_error"], rows["teacher_face_error"])
    if people.teacher is not None:
        # What the student was asked for: the translator's picture laid over the photo by the mask.
        teacher = photo * (1 - mask) + unit(to_tensor(people.teacher)) * mask
        rows["ssim_target"] = ssim(result, teacher)
        wanted = (teacher * 255).round().byte().permute(0, 2, 3, 1).numpy()
        own = (result * 255).round().byte().permute(0, 2, 3, 1).numpy()
        means |= clarity_ratios(own, wanted, people.mask > 127)
        means |= {f"frame_{name}": value for name, value in clarity_ratios(own, wanted).items()}
    if people.style is not None and people.style_mask is not None and min(len(people.style), len(result)) >= 2:
        means |= _kid(result, photo, mask, people.style, people.style_mask, reader)
    means["reader"] = reader.id
    means = {name: mean_defined(values) for name, values in rows.items()} | means
    return means, {name: values.numpy() for name, values in rows.items()}


def _ratio(values: Tensor, others: Tensor) -> float:
    """One mean over another; NaN where that is 0."""
    below = mean_defined(others)
    return mean_defined(values) / below if below > 0 else float("nan")


def steadiness(student: nn.Module, size: int, device: str, first: int = HELDOUT_PEOPLE) -> dict[str, float]:
    """Flicker of a student's heads on painted motion with known flow; {} at a size that the painter does not reach.

    The same painted people whatever was trained on, from number `first`: two students are compared on one film.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        return {}
    values = []
    for person in range(first, first + MOVING):
        film = moving(person, size, FRAMES)
        shown = to_uint8(apply_student(student, film.frames, device))
        values.append(flicker(list(film.frames), list(shown), list(film.flows), list(film.heads[1:])))
    return {"flicker": float(np.mean(values))}


def _kid(
    result: Tensor, photo: Tensor, mask: Tensor, style: np.ndarray, style_mask: np.ndarray, reader: Reader
) -> dict[str, Any]:
    """KID of the outputs to the held-out style pictures, the photos' beside it."""
    kid = HeadKid(reader)
    for start in range(0, len(style), BATCH):
        part = slice(start, start + BATCH)
        kid.add_real(unit(to_tensor(style[part])), mask_tensor(style_mask[part]))
    values: dict[str, Any] = {}
    for name, pictures in (("kid", result), ("photo_kid", photo)):
        kid.clear_fake()
        for start in range(0, len(pictures), BATCH):
            kid.add_fake(pictures[start : start + BATCH], mask[start : start + BATCH])
        found = kid.compute()
        values |= {name: found["kid"], f"{name}_sd": found["kid_sd"]}
    values["kid_ratio"] = values["kid"] / values["photo_kid"] if values["photo_kid"] > 0 else float("nan")
    return values | {"kid_style_images": len(style)}
