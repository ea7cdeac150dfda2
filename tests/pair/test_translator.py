"""A translator of one's own: thirty lines that PairStage trains, paints with and seals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.core.artifact import open_artifact, seal
from stages.core.settings import Train
from stages.core.tensors import to_tensor, to_uint8
from stages.core.weights import load_network
from stages.networks.face_reader import Reader
from stages.pair import stage as module
from stages.pair.batches import training_photos
from stages.pair.stage import PairStage
from stages.pair.translator import Painter, TrainingInputs, Translation
from stages.training.fit import Batches, Phase, Task, Update
from tests.pair.test_stage import inputs, runtime
from tests.tools.pair_toys import small_reader


class Tint(nn.Module):
    """A photo with one colour added."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, object] = {}
        self.colour = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, photo: Tensor) -> Tensor:
        return (photo + self.colour).clamp(-1, 1)


class TintTask(Task):
    """Learns to brighten the left half of the photos, which its batches hold."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.tint = Tint()
        parameters = list(self.tint.parameters())
        self.phases = [Phase("tint", parameters, torch.optim.SGD(parameters, lr))]

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        return {"l2": (self.tint(batch["half"]) - batch["half"] - 0.5).square().mean()}


class ToyTranslator:
    """What the protocol asks, and batches that no other translator has."""

    def files(self) -> dict[str, Path]:
        return {}

    def batches(self, inputs: TrainingInputs, seed: int) -> Batches:
        photo, _ = training_photos(inputs.data, 1)

        def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
            numbers = np.arange(start, start + count)[rows] % len(photo)
            return {"half": to_tensor(photo[numbers][:, :, : photo.shape[2] // 2])}

        return batch

    def task(self, size: int, train: Train, device: str) -> Task:
        return TintTask(train.lr)

    def network(self, task: Task) -> nn.Module:
        assert isinstance(task, TintTask)
        return task.tint

    def painter(self, network: nn.Module, device: str) -> Painter:
        return lambda photos: Translation(to_uint8(network(to_tensor(photos).to(device)).detach()))


def test_a_translator_of_ones_own_goes_through_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader: Reader = small_reader()
    monkeypatch.setattr(module, "load_reader", lambda device: reader)
    monkeypatch.setattr("stages.core.weights._packages", [__name__])  # the user's package, as if allowed
    given, out = inputs(tmp_path), tmp_path / "pair"
    stage = PairStage(translator=ToyTranslator(), train=Train(images=32, batch=4, lr=0.5))
    metrics = stage.run(given, out, runtime(out))
    sealed = seal(out, "pair", config={}, inputs=given, metrics=metrics)

    network = load_network(open_artifact(sealed.path, "pair").path / "translator.safetensors")
    assert isinstance(network, Tint) and 0.3 < network.colour.mean().item() < 0.6
    assert metrics["pairs"] == 12 and np.isfinite(metrics["identity"]) and "mask_iou" not in metrics
    assert {path.name for path in out.iterdir()} >= {"photo", "style", "mask", "records.jsonl", "heldout"}
