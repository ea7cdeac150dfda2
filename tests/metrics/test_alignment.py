"""MLD, Art-FID and the perceptual distance that ships: values, gradients, names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision

from stages.core.files import data_file, sha256_file
from stages.core.settings import TristyleError
from stages.metrics.backbones import LPIPS_TAPS, load_perceptual
from stages.metrics.fid import art_fid
from stages.metrics.geometry import landmark_error, mean_landmark_distance
from stages.recipes import perceptual as recipe


def test_art_fid_is_the_product() -> None:
    assert art_fid(0, 0) == 1 and art_fid(0.5, 3) == 6


def test_mld_is_in_distances_of_the_eyes_and_names_its_reader() -> None:
    truth = torch.rand(3, 68, 2)
    truth[:, 36], truth[:, 45] = torch.tensor([0.3, 0.4]), torch.tensor([0.7, 0.4])
    off = truth + torch.tensor([0.04, 0.0])
    found = mean_landmark_distance(landmark_error(off, truth), "reader-1")
    assert found["mld"] == pytest.approx(0.1, rel=1e-4) and found["mld_extractor"] == "reader-1"


def test_the_shipped_network_is_a_distance_with_gradients() -> None:
    torch.manual_seed(0)
    network = load_perceptual()
    first, second = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    first.requires_grad_(True)
    found = network.distance(first, second)
    found.sum().backward()
    assert (found > 0.1).all() and first.grad is not None and first.grad.abs().sum() > 0
    torch.testing.assert_close(network.distance(second, second), torch.zeros(2))
    nearer = network.distance(second, 0.9 * second + 0.1 * first.detach())
    assert (nearer < found).all()
    digest = sha256_file(data_file("perceptual.safetensors"))
    assert network.id == f"perceptual-squeezenet1_0-{digest[:8]}"
    card = json.loads(data_file("perceptual.json").read_text())
    assert card["sha256"] == digest and card["licence"].startswith("BSD") and card["bytes"] < 1.2e6
    text = data_file("perceptual.LICENSE.txt").read_text()  # which must go wherever the weights go
    assert "Redistributions in binary form must reproduce" in text and "perceptual.LICENSE.txt" in card["licence"]
    assert all(card[key] == value for key, value in recipe.ABOUT.items())


def test_fewer_taps_are_a_smaller_stack() -> None:
    small, large = load_perceptual(taps=2), load_perceptual()
    assert small.taps == (1, 4) and len(small.layers) == 5 < len(large.layers)


@pytest.mark.parametrize("kind", ["squeezenet1_0", "squeezenet1_1"])
def test_a_network_of_ones_own_is_known_by_its_layers(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    file = tmp_path / "own.pth"
    torch.save(getattr(torchvision.models, kind)(weights=None).state_dict(), file)
    network = load_perceptual(str(file))
    assert network.id.startswith(f"perceptual-{kind}-") and network.taps == LPIPS_TAPS[kind][1]
    assert float(network.distance(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))) > 0


def test_the_recipe_converts_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    for kind in ("squeezenet1_0", "squeezenet1_1"):
        torch.save(getattr(torchvision.models, kind)(weights=None).state_dict(), tmp_path / f"{kind}.pth")
    target = tmp_path / "out.safetensors"
    recipe.main([str(tmp_path / "squeezenet1_0.pth"), str(target)])
    card = json.loads(target.with_suffix(".json").read_text())
    assert 0 < card["recipe"]["moved"] < 0.01 and target.stat().st_size == card["bytes"]
    with pytest.raises(TristyleError, match=r"squeezenet1_1\.pth: not SqueezeNet 1\.0\. Give weights"):
        recipe.convert(tmp_path / "squeezenet1_1.pth", target)
    with pytest.raises(SystemExit):
        recipe.main([str(tmp_path / "none.pth"), str(target)])
    assert "none.pth: no such weights file" in capsys.readouterr().err
