"""The training of aligned generators: branches, contests, terms, and equality after a stop and across parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tracking import Tracker
from stages.pair.tps.batches import REGIONS, aligned_batches
from stages.pair.tps.task import AlignedTask, Layout
from stages.pair.tps.translator import TpsTranslator, TpsWeights
from stages.training.fit import Update, fit
from tests.tools.aligned_toys import faces
from tests.tools.pair_toys import check_phases

SIZE = 32
TRAIN = Train(images=16, batch=4, lr=1e-3, checkpoint_images=8)


UNALIGNED = TpsWeights(warped=0.0, local=0.0, deformation=0.0, perceptual=0.0, cycle=10.0)


def translator(**changes: Any) -> TpsTranslator:
    """A tiny one in float32, but for `changes`."""
    settings = {"generator": "nano", "discriminator_width": 4, "discriminator_layers": 1, "precision": "float32"}
    return TpsTranslator(**settings | {"ema": 0.9} | changes)


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    return aligned_batches(faces(10, False), faces(8, True), 0, 0.02, 8)(0, 4)


def task_of(settings: TpsTranslator) -> AlignedTask:
    return settings.task(SIZE, TRAIN).train()


def test_every_term_is_there_and_its_weight_scales_it(batch: dict[str, Tensor]) -> None:
    weights = TpsWeights(background=1.0)
    terms = task_of(translator(weights=weights)).losses("generator", batch, Update())
    contests = {f"{branch}_{domain}" for branch in ("warped", "invariant") for domain in ("photo", "style")}
    expected = {f"adversarial_{name}" for name in contests | set(REGIONS)}
    assert expected | {
        "cycle",
        "perceptual",
        "deformation",
        "mask",
        "mask_tv",
        "background",
        "grid",
        "_folded",
        "_overlap",
    } == set(terms)
    assert all(value.isfinite() and value > 0 for name, value in terms.items() if name != "_folded")
    assert terms["_overlap"] > 0.85  # of the style picture's head, warped, and the photo's
    for name in ("cycle", "perceptual", "deformation", "mask", "mask_tv", "background", "grid"):
        doubled = replace(weights, **{name: 2 * getattr(weights, name)})
        again = task_of(translator(weights=doubled)).losses("generator", batch, Update())
        torch.testing.assert_close(again[name], 2 * terms[name], rtol=1e-4, atol=1e-6)
        off = task_of(translator(weights=replace(weights, **{name: 0.0}))).losses("generator", batch, Update())
        assert name not in off


def test_the_branches_contest_what_the_paper_says(batch: dict[str, Tensor]) -> None:
    """The warped branch meets the style picture itself, the invariant one the style picture in the photo's layout."""
    task, update = task_of(translator(composite=False)), Update()
    task.losses("generator", batch, update)
    seen = update.memory["seen"]
    layout = Layout(batch["to_photo"], SIZE)
    torch.testing.assert_close(seen["warped_style"][1], batch["style"])
    torch.testing.assert_close(seen["invariant_style"][1], layout(batch["style"]))
    assert not torch.allclose(layout(batch["style"]), batch["style"], atol=0.05)
    torch.testing.assert_close(seen["warped_photo"][1], batch["photo"])
    torch.testing.assert_close(seen["invariant_photo"][1], Layout(batch["to_style"], SIZE)(batch["photo"]))
    for place, name in enumerate(REGIONS):
        torch.testing.assert_close(seen[name][1], batch["patches"][:, place])
        assert seen[name][2].shape == seen[name][1].shape
    assert not any(fake.requires_grad for _, _, fake in seen.values())


def test_composited_heads_stand_on_one_colour(batch: dict[str, Tensor]) -> None:
    task, update = task_of(translator()), Update()
    task.losses("generator", batch, update)
    for name, own in (("warped_style", "style_mask"), ("warped_photo", "photo_mask")):
        outside = (batch[own] == 0).expand(-1, 3, -1, -1)
        real = update.memory["seen"][name][1]
        for picture, where in zip(real, outside, strict=True):
            assert all(channel[there].std() < 1e-6 for channel, there in zip(picture, where, strict=True))


def test_without_alignment_it_is_cyclegan(batch: dict[str, Tensor]) -> None:
    task, update = task_of(translator(align=False, composite=False, weights=UNALIGNED)), Update()
    plain = {name: batch[name] for name in ("photo", "style", "photo_mask", "style_mask")}
    terms = task.losses("generator", plain, update)
    assert {name for name in terms if name.startswith("adv")} == {
        "adversarial_invariant_style", "adversarial_invariant_photo"
    }  # fmt: skip
    torch.testing.assert_close(update.memory["seen"]["invariant_style"][1], batch["style"])
    assert not task.region_discriminators


def test_running_statistics_are_those_of_unpainted_pictures(batch: dict[str, Tensor]) -> None:
    """Neither the warped features nor what the cycle repaints counts: the invariant branch meets neither."""
    task, plain = task_of(translator()), task_of(translator())
    task.losses("generator", batch, Update())
    with torch.no_grad():
        plain.to_style(batch["photo"])
        plain.to_photo(batch["style"])
    expected = dict(plain.named_buffers())
    found = {name: value for name, value in task.named_buffers() if "running" in name}
    assert any("to_style" in name for name in found)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_each_phase_trains_its_own(batch: dict[str, Tensor]) -> None:
    check_phases(task_of(translator()), batch, Update(), "to_", "discriminators")


def trained(folder: Path, images: int, settings: Train = TRAIN) -> dict[str, Tensor]:
    """State after so many images, of a training that may have begun in `folder` before."""
    folder.mkdir(exist_ok=True)
    task = translator().task(SIZE, settings)
    batches = aligned_batches(faces(10, False), faces(8, True), 0, 0.02, 8)
    runtime = Runtime("cpu", 1, Tracker(folder))
    fit(task, batches, train=replace(settings, images=images), scratch=folder, runtime=runtime, label="pair")
    return task.state_dict()


def test_a_resumed_training_is_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AlignedTask, "lr_factor", lambda *given: 1.0)  # which depends on the length
    whole = trained(tmp_path / "whole", 16)
    trained(tmp_path / "parts", 8)
    parts = trained(tmp_path / "parts", 16)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"generator": "huge"}, "generator"),
        ({"mask_head": False, "weights": TpsWeights(mask=0, mask_tv=0)}, "mask_head"),
        ({"generator": "light", "mask_head": False}, "weights.mask"),
        ({"align": False}, "weights.warped"),
        ({"most_folded": 2}, "most_folded"),
        ({"discriminator_max_width": 2}, "discriminator_max_width"),
        ({"ema": 1.0}, "ema"),
        ({"precision": "half"}, "precision"),
        ({"perceptual": ""}, "perceptual: .. names nothing"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        translator(**changes)


def test_no_branch_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither branch"):
        TpsWeights(warped=0, invariant=0)


def test_a_perceptual_network_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(1)}, file)
    with pytest.raises(TristyleError, match=r"other\.pth: none of the known backbones\. Give torchvision's weights"):
        translator(perceptual=str(file)).task(SIZE, TRAIN)
