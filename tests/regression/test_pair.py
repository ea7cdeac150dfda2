"""Stage pair, tiny and seeded: loss curves and measures against recorded ones, and faults that must move them.

To record anew after an intended change:  python tests/regression/test_pair.py
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
from stages.core.tensors import mask_tensor, to_tensor, unit
from stages.core.tracking import Tracker
from stages.metrics.pixel import background_error
from stages.pair.batches import unpaired_batches
from stages.pair.ugatit import UgatitTranslator
from stages.training.fit import Batches, fit
from tests.tools.pair_toys import heads, translator, weights

RECORD = Path(__file__).with_name("pair.json")
WINDOWS = 4  # a curve is the means over so many equal parts of the training
TOLERANCE = 0.03  # of a curve's largest value; other processors add up in another order
MEASURES = {
    "background": 0.004,
    "colour_gap": 0.01,
    "mask_overlap": 0.03,
    "average_lag": 0.1,
}  # absolute; lag: of itself
TRAIN = Train(images=64, batch=4, lr=2e-3, seed=0)
VARIANTS = {
    "mask": translator(ema=0.9, weights=weights(cam=10.0, mask=10.0, mask_tv=0.2)),
    "region": translator(ema=0.9, mask_head=False, weights=weights(cam=10.0, background=10.0)),
}


def swapped(batches: Batches) -> Batches:
    """The fault of giving each picture the other domain's mask."""

    def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
        data = batches(start, count, rows)
        return data | {"photo_mask": data["style_mask"], "style_mask": data["photo_mask"]}

    return batch


def train(model: UgatitTranslator, settings: Train = TRAIN, fault: Callable[[Batches], Batches] | None = None) -> dict:
    """Train on toys; loss curves by phase and term, and measures on toys that were not trained on."""
    torch.set_num_threads(1)
    task = model.task(32, settings)
    batches = unpaired_batches(*heads(32, 0, False), *heads(32, 1, True), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime("cpu", 1, Tracker(Path(folder)))
        fit(
            task,
            fault(batches) if fault else batches,
            train=settings,
            scratch=Path(folder),
            runtime=runtime,
            label="pair",
        )
        rows = read_jsonl(Path(folder) / "log.jsonl")
    curves: dict[str, list[float]] = {}
    for row in rows:
        for name in row.keys() - {"phase", "images"}:
            curves.setdefault(f"{row['phase']}/{name}", []).append(row[name])
    means = {name: np.array(values).reshape(WINDOWS, -1).mean(1).round(5).tolist() for name, values in curves.items()}
    return {"curves": dict(sorted(means.items())), "measures": measures(task)}


@torch.no_grad()
def measures(task: torch.nn.Module) -> dict[str, float]:
    images, cover = heads(16, 2, False)
    mask, photo = mask_tensor(cover), to_tensor(images)
    out = task.ema(photo)
    styles, style_cover = heads(16, 3, True)
    wanted = (styles[style_cover > 127] / 255).mean(0)
    got = unit(out.image).permute(0, 2, 3, 1)[mask[:, 0] > 0.5].mean(0).numpy()
    found = {
        "background": float(background_error(unit(out.image), unit(photo), mask).mean()),
        "colour_gap": float(np.abs(got - wanted).mean()),
    }
    if out.mask is not None:
        found["mask_overlap"] = float(torch.minimum(out.mask, mask).sum() / torch.maximum(out.mask, mask).sum())
    pairs = list(zip(task.ema.parameters(), task.to_style.parameters(), strict=True))
    lag = sum(float((average - live).abs().sum()) for average, live in pairs)
    found["average_lag"] = lag / sum(float(live.abs().sum()) for _, live in pairs)
    return {name: round(value, 5) for name, value in found.items()}


def deviations(found: dict, recorded: dict) -> list[str]:
    """What lies outside the tolerances."""
    wrong = [] if found["curves"].keys() == recorded["curves"].keys() else ["other terms"]
    for name in found["curves"].keys() & recorded["curves"].keys():
        expected = np.array(recorded["curves"][name])
        worst = np.abs(np.array(found["curves"][name]) - expected).max()
        if worst > TOLERANCE * max(np.abs(expected).max(), 1e-3):
            wrong.append(f"{name}: {found['curves'][name]} instead of {recorded['curves'][name]}")
    for name, value in found["measures"].items():
        expected = recorded["measures"][name]
        allowed = MEASURES[name] * (expected if name == "average_lag" else 1)
        if abs(value - expected) > allowed:
            wrong.append(f"{name}: {value} instead of {expected}")
    return wrong


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_repeats_what_was_recorded(variant: str) -> None:
    assert not deviations(train(VARIANTS[variant]), json.loads(RECORD.read_text())[variant])


def without(variant: str, term: str) -> UgatitTranslator:
    model = VARIANTS[variant]
    return replace(model, weights=replace(model.weights, **{term: 0.0}))


FAULTS = {
    "learning rate doubled": ("mask", lambda: train(VARIANTS["mask"], replace(TRAIN, lr=2 * TRAIN.lr)), "generator"),
    "average off": ("mask", lambda: train(replace(VARIANTS["mask"], ema=0.0)), "average_lag"),
    "mask term zero": ("mask", lambda: train(without("mask", "mask")), "mask_overlap"),
    "masks swapped": ("mask", lambda: train(VARIANTS["mask"], fault=swapped), "generator/mask"),
    "background term zero": ("region", lambda: train(without("region", "background")), "background"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str) -> None:
    variant, faulty, where = FAULTS[fault]
    wrong = deviations(faulty(), json.loads(RECORD.read_text())[variant])
    assert any(where in line for line in wrong), wrong


def test_the_recorded_training_learns() -> None:
    recorded = json.loads(RECORD.read_text())
    for variant, result in recorded.items():
        cycle = result["curves"]["pair/generator/cycle"]
        assert cycle[-1] < 0.95 * cycle[0], variant
    assert recorded["mask"]["measures"]["background"] < recorded["region"]["measures"]["background"]


if __name__ == "__main__":
    RECORD.write_text(json.dumps({name: train(model) for name, model in VARIANTS.items()}, indent=1) + "\n")
