"""What every style stage does with its finished generators, tried with a stage of its own."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.artifact import Artifact
from stages.core.files import read_jsonl
from stages.core.images import load_images
from stages.core.runtime import Runtime
from stages.core.settings import TristyleError
from stages.core.tracking import Tracker
from stages.core.weights import load_network
from stages.networks.stylegan2 import Generator
from stages.style.editing.directions import Edit
from stages.style.finish import Augmented, StyleNetworks, finish, target_pictures
from stages.style.sampling.candidates import Sampling
from stages.style.sampling.filters import Filters
from tests.tools import tiny_runs

PLAIN = Sampling(count=4, seed=2, reject=Filters(quality=False, memorised=False, duplicates=False))


@dataclass
class BrighterStyle:
    """A style stage in a dozen lines: the source with another colour, trained by nobody."""

    target: str = "comic"

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, object]:
        torch.manual_seed(0)
        source = Generator(8, 8, 32, channel_base=256, channel_max=8).eval()
        brighter = copy.deepcopy(source)
        with torch.no_grad():
            brighter.synthesis.b32.torgb.bias += 0.2
        pictures = load_images(target_pictures(inputs["data"], "photo"))
        networks = StyleNetworks(
            generator=brighter, transferred=brighter, source=source, how="transfer", parents=[],
            settings={"shift": 0.2}, columns=[("source", source), ("brighter", brighter)],
            augmented=Augmented(images=pictures, pipe="portrait", p=0.5),
        )  # fmt: skip
        edit = {"first": Edit(direction=0, alpha=1.0)}
        return finish(networks, inputs["data"], self.target, PLAIN, out, runtime, edit=edit)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Artifact:
    return tiny_runs.data(tmp_path_factory.mktemp("data"))


def test_a_third_style_needs_its_generators_only(data, tmp_path) -> None:
    metrics = BrighterStyle().run({"data": data}, tmp_path, Runtime("cpu", 1, Tracker(tmp_path)))
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names >= {"generator.safetensors", "source.safetensors", "transferred.safetensors", "latents.safetensors"}
    assert names >= {"fusion.png", "edits.png", "lineage.json", "records.jsonl", "images", "source"}
    assert "inversion.png" not in names and "discriminator.safetensors" not in names

    # The pictures are the generator's own, beside the source's of the same latents.
    rows = read_jsonl(tmp_path / "records.jsonl")
    drawn, before = (load_images(sorted((tmp_path / name).glob("*.png"))) for name in ("images", "source"))
    assert [row["seed"] for row in rows] == [2, 3, 4, 5] and rows[0]["style"] == "comic"
    assert np.mean(drawn.astype(float) - before) > 5
    assert load_network(tmp_path / "source.safetensors").img_resolution == 32

    found = json.loads((tmp_path / "lineage.json").read_text())
    assert (found["how"], found["target"], found["settings"]) == ("transfer", "comic", {"shift": 0.2})
    assert {"images", "distance", "kid", "coverage", "intra", "background_spread", "reader"} <= metrics.keys()
    assert any(name.startswith("leak_") for name in metrics)


def test_a_target_that_the_data_do_not_hold_is_refused(data) -> None:
    with pytest.raises(TristyleError, match="style.target=oil: .* Choose one of: photo, comic"):
        target_pictures(data, "oil")
