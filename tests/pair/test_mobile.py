"""The mobile translator: terms, warm-up, what the discriminators see, coarse terms, resuming, refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.core.files import append_jsonl
from stages.core.images import write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tensors import mask_tensor, to_tensor
from stages.core.tracking import Tracker
from stages.pair.mobile import MobileTranslation, MobileTranslator, MobileWeights
from stages.pair.translator import TrainingInputs
from stages.training.fit import Update, fit
from tests.pair.test_stage import inputs, runtime
from tests.tools.pair_toys import check_phases, heads, small_reader

SIZE = 32
TRAIN = Train(images=16, batch=4, lr=1e-3, checkpoint_images=8)
LATE = Update(images=12)


def translator(**changes: Any) -> MobileTranslator:
    """A tiny one in float32 without a recogniser, but for `changes`."""
    settings = {"tier": "nano", "discriminator_width": 4, "precision": "float32", "ema": 0.9}
    return MobileTranslator(**settings | {"weights": MobileWeights(identity=0.0)} | changes)


def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Heads of every kind, the same for the same start."""
    photo, style, source, drawn = (heads(count, 4 * start + i, style=i in (1, 3)) for i in range(4))
    kinds = {"photo": photo, "style": style, "drawn": drawn}
    found = {name: to_tensor(images[rows]) for name, (images, _) in kinds.items()}
    found |= {f"{name}_mask": mask_tensor(masks[rows]) for name, (_, masks) in kinds.items()}
    return found | {"source": to_tensor(source[0][rows])}


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    return batches(0, 4)


def task_of(settings: MobileTranslator) -> MobileTranslation:
    return settings.task(SIZE, TRAIN).train()


def test_every_term_is_there_and_its_weight_scales_it(batch: dict[str, Tensor]) -> None:
    def terms_of(weights: MobileWeights) -> dict[str, Tensor]:
        torch.manual_seed(0)  # the colour behind the heads
        return task_of(translator(weights=weights)).losses("generator", batch, replace(LATE, memory={}))

    weights = MobileWeights()
    terms = terms_of(weights)
    assert set(terms) == set(vars(weights))
    assert all(value.isfinite() for value in terms.values())
    for name in terms:
        again = terms_of(replace(weights, **{name: 2 * getattr(weights, name)}))
        torch.testing.assert_close(again[name], 2 * terms[name], rtol=1e-4, atol=1e-6)
    assert "identity" not in terms_of(replace(weights, identity=0.0))


def test_the_warm_up_is_of_latent_pairs_and_mattes_alone(batch: dict[str, Tensor]) -> None:
    task, update = task_of(translator()), Update()
    assert set(task.losses("generator", batch, update)) == {"latent", "mask"}
    assert task.losses("discriminator", batch, update) == {}


def test_discriminators_see_heads_alone_of_the_datas_style_and_of_drawn_photos(batch: dict[str, Tensor]) -> None:
    task, update = task_of(translator()), replace(LATE, memory={})
    task.losses("generator", batch, update)
    real, fake = update.memory["seen"]
    for seen, head in ((real, batch["drawn_mask"]), (fake, batch["photo_mask"])):
        torch.testing.assert_close(seen[:, :1], 2 * head - 1)
        for picture, outside in zip(seen[:, 1:], (head == 0).expand(-1, 3, -1, -1), strict=True):
            assert all(channel[there].std() < 1e-6 for channel, there in zip(picture, outside, strict=True))
    inside = (batch["drawn_mask"] == 1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(real[:, 1:][inside], batch["drawn"][inside])
    assert not fake.requires_grad


def test_coarse_terms_overlook_strands_and_see_colours(batch: dict[str, Tensor]) -> None:
    task, photo, head = task_of(translator()), batch["photo"], torch.ones_like(batch["photo_mask"])
    strands = 0.2 * (1 - 2 * (torch.arange(SIZE) % 2).float())
    assert task._coarse_l1(photo + strands, photo, head, 8) < 1e-6
    torch.testing.assert_close(task._coarse_l1(photo + 0.2, photo, head, 8), torch.tensor(0.2))


def test_each_phase_trains_its_own(batch: dict[str, Tensor]) -> None:
    check_phases(task_of(translator()), batch, replace(LATE, memory={}), "to_", "discriminators")


def trained(folder: Path, images: int) -> dict[str, Tensor]:
    """State after so many images, of a training that may have begun in `folder` before."""
    folder.mkdir(exist_ok=True)
    task, place = translator().task(SIZE, TRAIN), Runtime("cpu", 1, Tracker(folder))
    fit(task, batches, train=replace(TRAIN, images=images), scratch=folder, runtime=place, label="pair")
    return task.state_dict()


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", 16)
    after, stop = MobileTranslation.after_update, 12

    def killed(self: MobileTranslation, images: int, batch: int) -> dict[str, float]:
        if images == stop:
            raise KeyboardInterrupt
        return after(self, images, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MobileTranslation, "after_update", killed)
        trained(tmp_path / "killed", 16)
    for name, value in trained(tmp_path / "killed", 16).items():
        assert torch.equal(value, whole[name]), name


@pytest.fixture
def data(tmp_path: Path) -> TrainingInputs:
    """The toy artifacts, with sources beside the style set and style pictures among the data."""
    found, (images, masks) = inputs(tmp_path), heads(6, 5, True)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        name = f"{i:06d}.png"
        write_image(tmp_path / "data/style/comic" / name, image)
        write_image(tmp_path / "data/style_mask/comic" / name, mask)
        places = {"photo": f"style/comic/{name}", "mask": f"style_mask/comic/{name}"}
        append_jsonl(tmp_path / "data/records.jsonl", {"id": f"s{i}", "split": "style", "style": "comic", **places})
    for row in found["style"].records():
        write_image(tmp_path / "style/source" / Path(row["image"]).name, images[0])
    place = runtime(tmp_path / "run")
    return TrainingInputs(found["data"], found["style"], small_reader(), tmp_path / "scratch", place, "comic")


def test_batches_bring_the_datas_style_pictures_and_their_masks(data: TrainingInputs) -> None:
    found = translator().batches(data, 0)
    batch = found(0, 4)
    assert batch["drawn"].shape == batch["photo"].shape and batch["drawn_mask"].shape == batch["photo_mask"].shape
    part = found(0, 4, slice(1, 3))
    for name, value in part.items():
        torch.testing.assert_close(value, batch[name][1:3])
    assert not np.array_equal(found(4, 4)["drawn"], batch["drawn"])


def test_a_style_set_without_sources_is_refused(data: TrainingInputs) -> None:
    shutil.rmtree(data.style_set.path / "source")
    with pytest.raises(TristyleError, match=r"no source/ pictures.*Say pair=mask"):
        translator().batches(data, 0)


def test_pictures_of_no_multiple_of_16_px_are_refused(data: TrainingInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"photo": torch.zeros(1, 3, 40, 40), "source": torch.zeros(1, 3, 40, 40)}
    monkeypatch.setattr("stages.pair.mobile.style_set_batches", lambda inputs, seed: lambda start, count: odd)
    with pytest.raises(ConfigError, match="multiple of 16"):
        translator().batches(data, 0)


@pytest.mark.parametrize("change", [{"tier": "huge"}, {"warm_up": 1.5}, {"ema": 1.0}, {"precision": "half"}])
def test_a_bad_setting_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        translator(**change)
    with pytest.raises(ConfigError, match="cycle"):
        MobileWeights(cycle=-1.0)
