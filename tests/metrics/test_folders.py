"""Two folders of pictures compared from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from stages.core.images import write_image
from stages.metrics.__main__ import main
from tests.tools import tiny_runs


def folder(place: Path, seeds: range, style: str = "photo") -> Path:
    place.mkdir()
    for seed in seeds:
        write_image(place / f"{seed:03d}.png", tiny_runs.face(seed, style))
    return place


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    main([str(argument) for argument in arguments])
    return json.loads(capsys.readouterr().out)


def test_a_set_is_near_itself_and_far_from_another(tmp_path, capsys) -> None:
    real = folder(tmp_path / "real", range(12))
    same = run(capsys, real, real, "--size", 64)
    assert same["real"] == same["fake"] == 12
    (name,) = set(same) - {"real", "fake"}
    assert name.startswith("reader-")
    assert same[name]["fid"] == pytest.approx(0, abs=1e-6) and same[name]["precision"] == same[name]["recall"] == 1

    other = run(capsys, real, folder(tmp_path / "comic", range(12), "comic"), "--size", 64, "--half")
    assert other[name]["fid"] > 1 and other[name]["kid"] > same[name]["kid"] and other[name]["intra"] > 0


def test_given_weights_measure_beside_the_reader(tmp_path, capsys) -> None:
    real = folder(tmp_path / "real", range(6))
    torch.manual_seed(0)
    layers = torchvision.models.squeezenet1_1(weights=None).features
    save_file({f"features.{key}": value for key, value in layers.state_dict().items()}, tmp_path / "back.safetensors")
    widths = (64, 128, 256, 384, 384, 512, 512)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(widths)}
    save_file(heads, tmp_path / "heads.safetensors")
    weights = ("--lpips", tmp_path / "heads.safetensors", tmp_path / "back.safetensors")
    found = run(capsys, real, real, "--size", 64, *weights)
    (name,) = (key for key in found if key.startswith("lpips-squeezenet1_1-"))
    assert found[name]["intra"] >= 0


def test_mistakes_end_in_one_line(tmp_path, capsys) -> None:
    real = folder(tmp_path / "real", range(5))
    (tmp_path / "wide").mkdir()
    for index in range(4):
        write_image(tmp_path / "wide" / f"{index}.png", np.zeros((4, 8, 3), np.uint8))
    for arguments, said in (
        ((real, tmp_path / "nowhere"), "0 pictures, 4 are needed"),
        ((real, tmp_path / "wide"), "8x4 px is not square"),
        ((real, real, "--inception", tmp_path / "none.pth"), "no such weights file"),
        ((real, real, "--size", 8), "--size"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr().err
        assert stopped.value.code == 2 and said in shown and len(shown.splitlines()) == 1
