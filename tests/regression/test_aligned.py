"""`pair=tps`, tiny and seeded: loss curves and measures against recorded ones, and faults that must move them.

To record anew after an intended change:  python -m tests.regression.test_aligned
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.core.settings import Train
from stages.core.tensors import unit
from stages.core.tracking import Tracker
from stages.pair.tps import task as module
from stages.pair.tps.batches import FaceSet, aligned_batches
from stages.pair.tps.task import AlignedTask
from stages.pair.tps.translator import TpsTranslator, TpsWeights
from stages.training.fit import Batches, fit
from tests.tools.aligned_toys import faces

RECORD = Path(__file__).with_name("aligned.json")
WINDOWS, TOLERANCE = 4, 0.03  # parts of a curve; share of its largest value
MEASURES = {"skin_gap": 0.02, "background": 0.01, "unlike_warped": 0.01}
TRAIN = Train(images=96, batch=4, lr=2e-3)
SETTINGS = TpsTranslator(
    generator="nano", discriminator_width=8, discriminator_layers=1, precision="float32", ema=0.8,
    weights=TpsWeights(cycle=2.0, perceptual=0.1),
)  # fmt: skip


def train(settings: TpsTranslator = SETTINGS, length: Train = TRAIN, fault: Callable[[Batches], Batches] | None = None):
    """Train on toys; loss curves by phase and term, and measures on toys that were not trained on."""
    torch.set_num_threads(1)
    batches = aligned_batches(faces(16, False), faces(12, True), 0, settings.most_folded, 8)
    task = settings.task(32, length)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runtime = Runtime("cpu", 1, Tracker(folder))
        fit(task, fault(batches) if fault else batches, train=length, scratch=folder, runtime=runtime, label="pair")
        rows = read_jsonl(folder / "log.jsonl")
    curves: dict[str, list[float]] = {}
    for row in rows:
        for term in row.keys() - {"phase", "images"}:
            curves.setdefault(f"{row['phase']}/{term}", []).append(row[term])
    means = {term: np.array(values).reshape(WINDOWS, -1).mean(1).round(5).tolist() for term, values in curves.items()}
    return {"curves": dict(sorted(means.items())), "measures": measures(task)}


@torch.no_grad()
def measures(task: AlignedTask) -> dict[str, float]:
    """Of the averaged generator on eight new faces: colour of the skin, background, may features be warped?"""
    photos, styles = faces(8, False, first=100), faces(8, True, first=100)
    batch = aligned_batches(photos, styles, 0, 1.0, 0)(0, 8)
    photo, mask, task_ema = batch["photo"], batch["photo_mask"], task.ema.eval()
    features = task_ema.encode(photo)
    plain = module.painted(task_ema, photo, features).image
    layout = module.Layout(batch["to_style"], 32)
    aligned = module.painted(task_ema, photo, features, layout).image
    skin = np.median(np.asarray(styles.images)[np.asarray(styles.masks) > 200], axis=0) / 255
    seen = unit(plain).permute(0, 2, 3, 1)[mask[:, 0] > 0.8].median(0).values.numpy()
    found = {
        "skin_gap": float(np.abs(seen - skin).mean()),
        "background": float(((unit(plain) - unit(photo)).abs() * (1 - mask)).sum() / (3 * (1 - mask).sum())),
        "unlike_warped": float((layout(plain) - aligned).abs().mean()),
    }
    return {name: round(value, 5) for name, value in found.items()}


def deviations(found: dict, recorded: dict) -> list[str]:
    """What lies outside the tolerances."""
    wrong = sorted(f"missing or new: {name}" for name in found["curves"].keys() ^ recorded["curves"].keys())
    for name in found["curves"].keys() & recorded["curves"].keys():
        expected = np.array(recorded["curves"][name])
        if np.abs(np.array(found["curves"][name]) - expected).max() > TOLERANCE * max(np.abs(expected).max(), 1e-3):
            wrong.append(f"{name}: {found['curves'][name]} instead of {recorded['curves'][name]}")
    for name, value in found["measures"].items():
        if abs(value - recorded["measures"][name]) > MEASURES[name]:
            wrong.append(f"{name}: {value} instead of {recorded['measures'][name]}")
    return wrong


def exchanged(batches: Batches) -> Batches:
    """The fault of taking each spline for its inverse."""

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
        data = batches(start, count, rows)
        return data | {"to_photo": data["to_style"], "to_style": data["to_photo"]}

    return batch


def of_others(batches: Batches) -> Batches:
    """The fault of taking another face's landmarks."""

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
        data = batches(start, count, rows)
        moved = ("to_photo", "to_style", "regions", "patches")
        return data | {name: data[name].roll(1, 0) for name in moved}

    return batch


def mirrored_landmarks() -> dict:
    """The fault of numbering the left half of a style picture's landmarks as the right one."""
    from stages.networks.face_labels import LANDMARK_MIRROR

    styles = faces(12, True)
    swapped = FaceSet(styles.images, styles.masks, styles.points[:, LANDMARK_MIRROR])
    batches = aligned_batches(faces(16, False), swapped, 0, SETTINGS.most_folded, 8)
    return train(fault=lambda _: batches)


def unwarped() -> dict:
    """The fault of leaving out the warp of the features, while all else is aligned."""
    whole = module.painted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "painted", lambda generator, photo, maps, warp=None: whole(generator, photo, maps))
        return train()


FAULTS = {
    "landmarks swapped": (mirrored_landmarks, "folded"),
    "splines exchanged": (lambda: train(fault=exchanged), "overlap"),
    "landmarks of another face": (lambda: train(fault=of_others), "left_eye"),
    "warp left out": (unwarped, "deformation"),
    "local module off": (lambda: train(replace(SETTINGS, weights=replace(SETTINGS.weights, local=0.0))), "mouth"),
    "deformation term zero": (
        lambda: train(replace(SETTINGS, weights=replace(SETTINGS.weights, deformation=0.0))),
        "deformation",
    ),
    "learning rate doubled": (lambda: train(length=replace(TRAIN, lr=2 * TRAIN.lr)), "generator"),
}


def test_training_repeats_what_was_recorded() -> None:
    assert not deviations(train(), json.loads(RECORD.read_text()))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str) -> None:
    faulty, where = FAULTS[fault]
    wrong = deviations(faulty(), json.loads(RECORD.read_text()))
    assert any(where in line for line in wrong), wrong


def test_the_recorded_training_learns() -> None:
    recorded = json.loads(RECORD.read_text())
    for name in ("cycle", "perceptual", "mask"):
        curve = recorded["curves"][f"pair/generator/{name}"]
        assert curve[-1] < 0.9 * curve[0], name
    assert recorded["measures"]["background"] < 0.2


if __name__ == "__main__":
    RECORD.write_text(json.dumps(train(), indent=1) + "\n")
