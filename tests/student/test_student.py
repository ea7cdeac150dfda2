"""A student of one's own, which learns from a style artifact and not from pairs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from stages.core.artifact import Artifact, said_of, seal
from stages.core.files import write_jsonl
from stages.core.images import load_images, write_image
from stages.core.runtime import Runtime
from stages.core.settings import Train
from stages.core.tensors import to_tensor
from stages.core.tracking import Tracker
from stages.export.stage import further, origin, pictures
from stages.networks.face_reader import Reader
from stages.student import stage as module
from stages.student.stage import StudentStage
from stages.student.student import StudentTraining
from stages.training.fit import Phase, Task, Update
from tests.tools.tiny_pairs import STYLE, data_artifact, toys


class Scale(nn.Module):
    """A 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, object] = {}
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, photo: Tensor) -> Tensor:
        return torch.tanh(self.layer(photo))


class Distilled(Task):
    """Learns the mean colour of the style pictures."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = Scale()
        parameters = list(self.student.parameters())
        self.phases = [Phase("student", parameters, torch.optim.Adam(parameters, lr))]

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        return {"l1": (self.student(batch["style"]).mean((2, 3)) - batch["style"].mean((2, 3))).abs().mean()}


class ToyStudent:
    """What the protocol asks."""

    reads: ClassVar[tuple[str, ...]] = ("style",)

    def files(self) -> dict[str, Path]:
        return {}

    def training(self, inputs: dict[str, Artifact], train: Train, runtime: Runtime) -> StudentTraining:
        pictures = load_images(sorted((inputs["style"].path / "images").glob("*.png")))

        def batch(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
            return {"style": to_tensor(pictures[np.arange(start, start + count)[rows] % len(pictures)])}

        count, others = {"styles": float(len(pictures))}, said_of(inputs["style"].records())
        return StudentTraining(Distilled(train.lr), batch, pictures.shape[1], count, others)

    def network(self, task: Task) -> nn.Module:
        assert isinstance(task, Distilled)
        return task.student


def test_a_student_reads_what_it_says_and_goes_through_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("stages.core.weights._packages", ["stages.networks", "tests"])  # as allow=[tests] does
    monkeypatch.setattr(module, "load_reader", lambda: Reader((4, 4, 8, 8, 8), 4).eval())
    style = tmp_path / "style"
    for i, picture in enumerate(toys(0, 4, 32)[1]):
        write_image(style / "images" / f"{i}.png", picture)
    write_jsonl(style / "records.jsonl", [{"licence": "CC-BY-4.0", "licence_class": "open", "source": "a museum"}])
    given = {
        "data": data_artifact(tmp_path / "data", 32),
        "style": seal(style, "style", config={}, inputs={}, metrics={}),
    }
    stage = StudentStage(model=ToyStudent(), train=Train(images=32, batch=4, lr=0.05), target=STYLE)
    assert stage.reads == ("data", "style")

    out = tmp_path / "student"
    out.mkdir()
    metrics = stage.run(given, out, Runtime("cpu", 1, Tracker(out)))
    assert metrics["styles"] == 4 and metrics["size"] == 32 and metrics["parameters"] == 12
    assert {"face_error", "identity", "kid", "flicker"} <= set(metrics)
    assert not {"pairs", "teacher_face_error", "ssim_target", "edge_clarity_ratio"} & set(metrics)
    assert (out / "student.safetensors").exists() and len(list((out / "heldout").glob("*.png"))) == 6

    # The model names whatever else it learnt from: in its weights, in an exported file and on the card.
    with safe_open(out / "student.safetensors", "pt") as file:
        assert "CC-BY-4.0" in file.metadata()["licence"] and "a museum" in file.metadata()["sources"]
    more = further(Artifact(out, {}))
    assert "a museum" in origin(given["data"], more)["tristyle.sources"]
    assert "CC-BY-4.0" in pictures(given["data"], more)["licences"] and further(given["data"]) == {}
