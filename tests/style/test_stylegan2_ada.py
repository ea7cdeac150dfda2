"""The style training: what is frozen stays, what is stopped resumes bit for bit, what is kept along the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tracking import Tracker
from stages.core.weights import load_network
from stages.networks.stylegan2 import Discriminator, Generator
from stages.style.stylegan2_ada import Ada, Recipe, StyleGAN2, rungs
from stages.training.fit import Update, fit, keep_state
from stages.training.losses import distance_consistency

SIZE, BATCH = 16, 4
EVERYTHING: dict[str, Any] = {
    "freeze_d": 2,
    "freeze_g": 4,
    "freeze_mapping": True,
    "consistency": 3.0,
    "ladder": 3,
    "r1_every": 4,
    "pl_every": 2,
}


class Stop(Exception):
    """A kill, for tests."""


class Stoppable(StyleGAN2):
    """The training, stopped after some images as a kill would."""

    stop_after = 10**9

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        state = super().after_update(images, batch)
        if images >= self.stop_after:
            raise Stop
        return state


def task(place: Path | None = None, seed: int = 0, kind: type[StyleGAN2] = StyleGAN2, **recipe: Any) -> StyleGAN2:
    torch.manual_seed(seed)
    generator = Generator(8, 8, SIZE, channel_base=128, channel_max=8)
    discriminator = Discriminator(SIZE, channel_base=128, channel_max=8)
    settings = {"noise": True, "ema_images": 20.0, "precision": "float32"} | recipe
    ada = Ada(target=-1.0, images=100, every=2, p_max=0.5)
    return kind(generator, discriminator, 0.01, Recipe(**settings), ada, ladder=place)


def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(start)
    return {"images": (torch.rand(count, 3, SIZE, SIZE, generator=generator) * 2 - 1)[rows]}


def train(which: StyleGAN2, folder: Path, images: int = 48, start: Path | None = None) -> StyleGAN2:
    folder.mkdir(parents=True, exist_ok=True)
    length = Train(images=images, batch=BATCH, lr=0.01, checkpoint_images=16)
    runtime = Runtime("cpu", 1, Tracker(folder))
    fit(which, batches, train=length, scratch=folder / ".scratch", runtime=runtime, label="style", start=start)
    return which


def same(a: StyleGAN2, b: StyleGAN2) -> None:
    """Every tensor and every optimiser's state agrees bit for bit."""
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    for one, two in zip(a.phases, b.phases, strict=True):
        states = [phase.optimizer.state_dict()["state"] for phase in (one, two)]
        assert states[0].keys() == states[1].keys()
        for key, entry in states[0].items():
            assert all(torch.equal(value, states[1][key][name]) for name, value in entry.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[StyleGAN2, Path]:
    """An uninterrupted training with ADA, frozen layers, consistency, path lengths and a ladder; and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return train(task(folder / "ladder", **EVERYTHING), folder), folder


def test_stopped_and_resumed_equals_uninterrupted_with_everything_on(whole, tmp_path) -> None:
    reference, folder = whole
    assert 0 < float(reference.augment.p) and float(reference.pl_mean) > 0
    for stop in (20, 36):
        stopped = task(tmp_path / "ladder", kind=Stoppable, **EVERYTHING)
        stopped.stop_after = stop
        with pytest.raises(Stop):
            train(stopped, tmp_path)
    same(reference, train(task(tmp_path / "ladder", **EVERYTHING), tmp_path))
    names = sorted(path.name for path in (folder / "ladder").iterdir())
    assert names == ["0000012.safetensors", "0000024.safetensors", "0000048.safetensors"]
    assert names == sorted(path.name for path in (tmp_path / "ladder").iterdir())
    for name in names:
        assert (folder / "ladder" / name).read_bytes() == (tmp_path / "ladder" / name).read_bytes()


def test_a_finished_training_goes_on_as_if_it_had_been_longer(whole, tmp_path) -> None:
    first = train(task(tmp_path / "first/ladder", **EVERYTHING), tmp_path / "first", images=24)
    keep_state(tmp_path / "first/.scratch", "style", tmp_path / "training.ckpt")
    # Built on what the first one made: only the state knows where that one started.
    onward = task(tmp_path / "ladder", seed=9, **EVERYTHING)
    onward.generator.load_state_dict(first.ema.state_dict())
    train(onward, tmp_path, start=tmp_path / "training.ckpt")
    same(whole[0], onward)


def test_a_state_that_does_not_fit_is_refused(whole, tmp_path) -> None:
    keep_state(whole[1] / ".scratch", "style", tmp_path / "training.ckpt")
    with pytest.raises(TristyleError, match="does not fit"):
        train(task(**EVERYTHING | {"freeze_g": 0}), tmp_path, images=96, start=tmp_path / "training.ckpt")
    with pytest.raises(TristyleError, match="48 images already"):
        train(task(**EVERYTHING), tmp_path, start=tmp_path / "training.ckpt")
    (tmp_path / "torn.ckpt").write_bytes(b"0" * 80)
    with pytest.raises(TristyleError, match="no whole training state is left"):
        train(task(**EVERYTHING), tmp_path, start=tmp_path / "torn.ckpt")


def moved(recipe: dict[str, Any], folder: Path, network: Callable[[StyleGAN2], torch.nn.Module]) -> set[str]:
    """Names of the state that a short training changes."""
    before, after = task(**recipe), train(task(**recipe), folder, images=16)
    pairs = zip(network(before).state_dict().items(), network(after).state_dict().values(), strict=True)
    return {name for (name, old), new in pairs if not torch.equal(old, new)}


def test_frozen_parts_of_the_generator_stay_and_the_rest_moves(tmp_path) -> None:
    names = moved({"freeze_g": 8, "freeze_mapping": True, "pl_every": 1}, tmp_path, lambda t: t.generator)
    assert names and all(name.startswith("synthesis.b16.") for name in names), names
    everything = moved({}, tmp_path / "free", lambda t: t.generator)
    assert any(name.startswith("mapping.") for name in everything) and "synthesis.b4.const" in everything
    assert "mapping.w_avg" in everything


def test_consistency_is_with_what_the_training_started_from(tmp_path) -> None:
    which = task(consistency=1000.0)
    started = {name: value.clone() for name, value in which.generator.state_dict().items()}
    assert which.losses("Gmain", batches(0, BATCH), Update())["consistency"].item() == pytest.approx(0, abs=1e-3)
    train(which, tmp_path, images=16)
    assert all(torch.equal(value, started[name]) for name, value in which.source.state_dict().items())
    term = which.losses("Gmain", batches(0, BATCH), Update())["consistency"]
    assert term.item() > 0
    own = torch.autograd.grad(term, list(which.generator.parameters()), allow_unused=True, retain_graph=True)
    assert any(float(grad.abs().sum()) > 0 for grad in own if grad is not None)
    assert not any(parameter.requires_grad for parameter in which.source.parameters())
    assert "consistency" not in task().losses("Gmain", batches(0, BATCH), Update())
    assert not any(name.startswith("source.") for name in task().state_dict())


def test_distance_consistency_by_hand() -> None:
    wanted = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    found = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])  # lengths do not matter

    def rows(similarities: list[list[float]]) -> Tensor:
        return torch.tensor(similarities).softmax(dim=1)

    p, q = rows([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]), rows([[0.0, 0.6], [0.0, 0.8], [0.6, 0.8]])
    torch.testing.assert_close(distance_consistency(found, wanted), (p * (p / q).log()).sum(dim=1).mean())
    assert float(distance_consistency(wanted * 5, wanted)) == pytest.approx(0, abs=1e-6)
    assert float(distance_consistency(found[:2], wanted[:2])) == 0


def test_path_lengths_are_regularised_with_a_frozen_mapping() -> None:
    which = task(freeze_mapping=True)
    terms = which.losses("Greg", batches(0, BATCH), Update())
    trained = next(phase.params for phase in which.phases if phase.name == "Greg")
    grads = torch.autograd.grad(terms["path_length"], trained, allow_unused=True)
    assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0
    assert float(which.pl_mean) > 0


def test_frozen_discriminator_layers_are_counted_from_the_image(tmp_path) -> None:
    names = moved({"freeze_d": 3}, tmp_path, lambda t: t.discriminator)
    frozen = ("b16.fromrgb.", "b16.conv0.", "b16.conv1.")
    assert names and not any(name.startswith(frozen) for name in names)
    assert "b16.skip.weight" in names and "b4.out.weight" in names


@pytest.mark.parametrize("recipe", [{"freeze_g": 16, "freeze_mapping": True}, {"freeze_d": 99}])
def test_nothing_left_to_train_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(TristyleError, match="nothing to train"):
        task(**recipe)


@pytest.mark.parametrize(
    "bad", [{"freeze_g": 12}, {"freeze_g": 2}, {"freeze_g": -4}, {"consistency": -1.0}, {"ladder": -1}]
)
def test_settings_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Recipe(r1_gamma=1.0, **bad)


def test_rungs_double_and_end_with_the_training() -> None:
    assert rungs(6000, 16, 4) == [752, 1504, 3008, 6000]
    assert rungs(100, 16, 1) == [112]  # the last update completes its batch
    assert rungs(32, 16, 9) == [16, 32]
    assert rungs(6000, 16, 0) == []


def test_a_rung_draws_what_the_averaged_generator_draws(whole) -> None:
    reference, folder = whole
    kept = load_network(folder / "ladder" / "0000048.safetensors")
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = (net(z, noise_mode="const") for net in (kept, reference.ema))
    assert float((a - b).abs().max()) < 0.02 * float(b.abs().max())
