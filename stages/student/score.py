"""How good is a student? Scored on held-out people, on its raw output; every definition lives in stages.metrics."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.artifact import Artifact
from stages.core.tensors import mask_tensor, to_tensor, to_uint8, unit
from stages.datasets.people import HELDOUT_PEOPLE, Motion, open_people
from stages.metrics.clarity import clarity_ratios
from stages.metrics.flicker import flicker
from stages.metrics.heldout import BATCH, HeldOut, HeldOutView, heldout_kid, ratio_of_means, read_if_all, score_pictures
from stages.metrics.pixel import face_error, mean_defined, ssim
from stages.networks.face_reader import Reader

MOVING, FRAMES = 8, 8  # people in motion and frames of each, for the flicker
# of each picture; where there is no twin or no teacher, what needs it is left out
SCORES = (
    "background_error",
    "identity",
    "face_error",
    "photo_face_error",
    "ssim_twin",
    "teacher_face_error",
    "ssim_target",
)


def read_teacher(pair: Artifact, people: HeldOut, workers: int) -> np.ndarray | None:
    """The translator's raw pictures of the held-out people, uint8 [N, H, W, 3]; None for pairs without a translator."""
    return read_if_all([pair.path / "heldout" / f"{name}.png" for name in people.ids], workers)


def apply_student(student: nn.Module, photos: np.ndarray, device: str) -> Tensor:
    """uint8 [N, H, W, 3] -> raw outputs, float32 [N, 3, H, W] in [-1, 1], on the CPU."""
    with torch.no_grad():
        chunks = [
            student(to_tensor(photos[i : i + BATCH]).to(device)).float().cpu() for i in range(0, len(photos), BATCH)
        ]
    return torch.cat(chunks)


def score(
    output: Tensor, people: HeldOut, teacher: np.ndarray | None, reader: Reader
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All measures of a student's raw outputs on held-out people.

    Args:
        output: [N, 3, H, W] in [-1, 1], on the CPU.
        people: the held-out people.
        teacher: uint8 [N, H, W, 3], the translator's raw pictures of them; None without a translator.
        reader: the face reader, on the CPU.

    Returns:
        (means and what they rest on, the values of each picture). Errors are L1 in [0, 1]. Beside each stands the
        untouched photo's (`photo_...`) and the translator's (`teacher_...`). Clarity is relative to the target's, in
        the head and, as `frame_...`, in the whole frame.
    """
    result = unit(output)
    target = None if teacher is None else _target(people, teacher)
    found = score_pictures(people, result, reader, further=lambda view: _likeness(view, teacher, target))
    rows = {name: found.rows[name] for name in SCORES if name in found.rows}

    means: dict[str, Any] = {name: mean_defined(values) for name, values in rows.items()}
    for name, other in (("face_ratio", "photo_face_error"), ("face_to_teacher", "teacher_face_error")):
        if other in rows:
            means[name] = ratio_of_means(rows["face_error"], rows[other])
    if target is not None:
        means |= _clarity(_bytes(result), _bytes(target), people.mask > 127)
    means |= heldout_kid(people, {"kid": result, "photo_kid": people.photo}, reader)[1]
    return means | {"reader": reader.id}, {name: values.numpy() for name, values in rows.items()}


def _target(people: HeldOut, teacher: np.ndarray) -> Tensor:
    """What the student was trained towards, [N, 3, H, W] in [0, 1]: the translator's picture where it paints."""
    mask = mask_tensor(people.mask if people.painted is None else people.painted)
    return unit(to_tensor(people.photo)) * (1 - mask) + unit(to_tensor(teacher)) * mask


def _likeness(view: HeldOutView, teacher: np.ndarray | None, target: Tensor | None) -> dict[str, Tensor]:
    """Structural similarity to twin and target, and the translator's own error to the twin."""
    found: dict[str, Tensor] = {}
    if view.twin is not None:
        found["ssim_twin"] = ssim(view.raw, view.twin)
        if teacher is not None:
            found["teacher_face_error"] = face_error(unit(to_tensor(teacher[view.part])), view.twin, view.mask)
    if target is not None:
        found["ssim_target"] = ssim(view.raw, target[view.part])
    return found


def _bytes(pictures: Tensor) -> np.ndarray:
    """[N, 3, H, W] in [0, 1] -> uint8 [N, H, W, 3]."""
    return (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _clarity(own: np.ndarray, wanted: np.ndarray, heads: np.ndarray) -> dict[str, float]:
    """Clarity over the target's, in the head and in the whole frame."""
    frame = {f"frame_{name}": value for name, value in clarity_ratios(own, wanted).items()}
    return clarity_ratios(own, wanted, heads) | frame


@lru_cache(maxsize=1)
def films(size: int, first: int) -> list[Motion]:
    """The embedded people in motion, rendered once for all students of a sweep."""
    people = open_people()
    return [people.moving(person, size, FRAMES) for person in range(first, first + MOVING)]


def steadiness(student: nn.Module, size: int, device: str, first: int = HELDOUT_PEOPLE) -> dict[str, float]:
    """Flicker of a student's heads on motion with known flow; {} at a size that the embedded people do not reach.

    The people are the same whatever the student was trained on, so that two students are compared on one film.

    Args:
        student: the network.
        size: side of the frames, px.
        device: where the student is.
        first: number of the first person.
    """
    low, high = open_people().sizes
    if not low <= size <= high:
        return {}
    values = []
    for film in films(size, first):
        shown = to_uint8(apply_student(student, film.frames, device))
        values.append(flicker(list(film.frames), list(shown), list(film.flows), list(film.heads[1:])))
    return {"flicker": float(np.mean(values))}
