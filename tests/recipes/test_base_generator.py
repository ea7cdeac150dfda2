"""A base as it ships: the files that a transfer starts from, measured as written."""

import json
from pathlib import Path

import pytest
import torch

from stages.core.artifact import Artifact, seal
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.core.weights import load_network, save_network
from stages.networks.stylegan2 import Discriminator, Generator
from stages.recipes import base_generator
from tests.tools.portraits import rendered_data

CONFIG = {"target": "photo", "start": "scratch", "train": {"images": 48}, "recipe": {}, "network": {}}


def style(out: Path, **config: object) -> Artifact:
    torch.manual_seed(0)
    sizes = {"channel_base": 128, "channel_max": 8}
    (out / "s").mkdir(parents=True)
    save_network(out / "s" / "transferred.safetensors", Generator(8, 8, 64, **sizes))
    save_network(out / "s" / "discriminator.safetensors", Discriminator(64, **sizes))
    return seal(out / "s", "style", config=CONFIG | config, inputs={}, metrics={})


def people(out: Path, heldout: int) -> Artifact:
    metrics = rendered_data(out / "d", count=4, heldout=heldout)
    return seal(out / "d", "data", config={"count": 4}, inputs={}, metrics=metrics)


def test_a_base_ships_with_samples_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_generator, "SHEET", 20)
    trained, data, out = style(tmp_path), people(tmp_path, 4), tmp_path / "base64"
    base_generator.main([str(trained.path), str(data.path), "--out", str(out)])
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["images_seen"] == 48 and card["photos"] == 4
    assert card["heldout"]["psi 1"]["kid"][0] > 0.1, "noise is far from people"
    assert set(card["heldout"]["psi 0.7"]["coverage"]) == {"pose, expression", base_generator.LOOKS}
    assert read_image(tmp_path / "base64_samples.png").shape == (2 * 64, 10 * 64, 3)

    # The files hold what was trained, rounded.
    for name, was in (("generator", "transferred"), ("discriminator", "discriminator")):
        shipped, given = (load_network(path).state_dict() for path in (
            out.with_name(f"base64_{name}.safetensors"), trained.path / f"{was}.safetensors"))  # fmt: skip
        for key, value in given.items():
            torch.testing.assert_close(shipped[key], value, rtol=1e-3, atol=1e-4)


def test_a_style_or_one_held_out_person_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = people(tmp_path / "few", 1)
    with pytest.raises(TristyleError, match=r"target=comic is a style.*experiment=base-64"):
        base_generator.write_base(style(tmp_path / "a", target="comic"), data, tmp_path / "x")
    with pytest.raises(SystemExit):
        base_generator.main([str(style(tmp_path / "b").path), str(data.path), "--out", str(tmp_path / "x")])
    assert "two held-out photos are needed, it has 1. Set data.heldout=600" in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))
