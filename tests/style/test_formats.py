"""Weights in and out: other people's files as we write them here, round trips, the pair for a training, the command."""

from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np
import pytest
import torch

from stages.core.files import sha256_file
from stages.core.settings import TristyleError
from stages.core.weights import load_network, save_network
from stages.networks.stylegan2 import Generator
from stages.style.weights import convert as formats
from stages.style.weights import rosinality_pt as rosinality
from stages.style.weights.strict import Checkpoint
from tests.tools.foreign_weights import official_file, persistent, pickled, snapshot, tiny_networks, torch_bytes


def same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Equal arguments, names and tensors, bit for bit."""
    assert one.arguments == other.arguments
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def saved(tmp_path, name: str = "x.pkl", **changes):
    """A tiny official snapshot whose generator's or discriminator's arguments got `changes`, dotted with __."""
    held = snapshot(*tiny_networks())
    for place, value in changes.items():
        network, *keys = place.split("__")
        target = held[network].state["_init_kwargs"]
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value
    path = tmp_path / name
    path.write_bytes(pickled(held))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_an_official_snapshot_gives_its_networks(tmp_path, protocol):
    found = formats.read(official_file(tmp_path / "x.pkl", protocol))
    generator, discriminator = tiny_networks()
    same(found.generator, generator)
    same(found.discriminator, discriminator)
    assert found.raw is None
    assert found.notes["augmentation"] == "p = 0.25"
    assert found.notes["training set"] == "path=portraits.zip, xflip=True"
    assert not found.generator.training


def test_arguments_that_change_nothing_are_accepted(tmp_path):
    spelled_out = {
        "G_ema__mapping_kwargs__layer_features": 8, "G_ema__mapping_kwargs__embed_features": None,
        "G_ema__mapping_kwargs__w_avg_beta": 0.995, "G_ema__synthesis_kwargs__architecture": "skip",
        "G_ema__synthesis_kwargs__resample_filter": [1, 3, 3, 1], "D__block_kwargs__freeze_layers": 3,
        "D__epilogue_kwargs__mbstd_num_channels": 1, "D__cmap_dim": None,
    }  # fmt: skip
    found = formats.read(saved(tmp_path, **spelled_out))
    same(found.generator, tiny_networks()[0])


def test_frozen_layers_are_found_among_the_buffers(tmp_path):
    generator, discriminator = tiny_networks()
    held = snapshot(generator, discriminator)
    frozen = persistent(discriminator.b16, ("fromrgb", "conv0"))
    held["D"].state["_modules"]["b16"] = frozen
    (tmp_path / "x.pkl").write_bytes(pickled(held))
    same(formats.read(tmp_path / "x.pkl").discriminator, discriminator)


# ---------------------------------------------------------------------------------------------------------------------
# rosinality


def checkpoint() -> Checkpoint:
    generator, discriminator = tiny_networks()
    return Checkpoint(format="made here", generator=generator, raw=tiny_networks(1)[0], discriminator=discriminator)


def test_pt_round_trip_keeps_networks_and_arguments(tmp_path):
    (path,) = formats.write(tmp_path / "x.pt", checkpoint())
    found = formats.read(path)
    same(found.generator, checkpoint().generator)
    same(found.discriminator, checkpoint().discriminator)
    assert torch.equal(found.raw.synthesis.b16.conv1.weight, checkpoint().raw.synthesis.b16.conv1.weight)
    plain = torch.load(path, weights_only=True)
    assert plain["g_ema"]["convs.0.conv.weight"].shape == (1, 8, 8, 3, 3)
    assert set(plain) == {"g_ema", "g", "d", "latent_avg", "arguments"}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_training_checkpoint_of_theirs(tmp_path, legacy):
    """Both containers; their argparse.Namespace and optimiser's state are skipped, sizes are read off the tensors."""
    theirs = rosinality.payload(checkpoint())
    del theirs["arguments"], theirs["latent_avg"]
    adam = {
        "state": {0: {"step": 1, "exp_avg": torch.ones(2)}},
        "param_groups": [{"betas": (0.0, 0.99), "params": [0]}],
    }
    theirs |= {"args": argparse.Namespace(size=16, path="x"), "g_optim": adam, "ada_aug_p": 0.5}
    path = tmp_path / "000100.pt"
    path.write_bytes(torch_bytes(theirs, legacy))
    found = formats.read(path)
    generator = checkpoint().generator
    size = {"z_dim": 8, "w_dim": 8, "num_layers": 3, "channel_base": 64, "channel_max": 8, "conv_clamp": None}
    assert size.items() <= found.generator.arguments.items()
    assert torch.equal(found.generator.synthesis.b16.conv0.weight, generator.synthesis.b16.conv0.weight)
    z = torch.randn(4096, 8, generator=torch.Generator().manual_seed(1))
    mean = generator.mapping(z)[:, 0].mean(dim=0)
    spread = generator.mapping(z)[:, 0].std(dim=0)
    assert ((found.generator.mapping.w_avg - mean).abs() < 0.1 * spread).all()
    assert "mean of 4096" in found.notes["mean w"]
    assert ("integrity" in found.notes) == legacy


def test_channels_that_follow_no_table_are_refused(tmp_path):
    theirs = rosinality.payload(checkpoint())
    generator = Generator(8, 8, 16, channel_base=128, channel_max=16)  # 16, 16, 8 channels
    wide = rosinality.payload(Checkpoint(format="", generator=generator))["g_ema"]
    wide["input.input"] = wide["input.input"][:, :4].clone()
    (tmp_path / "x.pt").write_bytes(torch_bytes({"g_ema": wide, "latent_avg": theirs["latent_avg"]}))
    with pytest.raises(TristyleError, match=r"channels \[4, 16, 8\] do not follow min"):
        formats.read(tmp_path / "x.pt")


def test_what_their_code_cannot_compute_is_said():
    generator = Generator(8, 4, 16, conv_clamp=2.0, lr_multiplier=0.1)
    said = " / ".join(rosinality.differences(Checkpoint(format="", generator=generator)))
    assert "at 2" in said and "not 0.1" in said and "z_dim 8 with w_dim 4" in said and "table" not in said
    assert rosinality.differences(Checkpoint(format="", generator=Generator(8, 8, 16))) == []


# ---------------------------------------------------------------------------------------------------------------------
# Ours, and the pair that a training goes on from


def test_every_format_opens_as_the_same_pair(tmp_path):
    official_file(tmp_path / "x.pkl")
    found = formats.read(tmp_path / "x.pkl")
    formats.write(tmp_path / "x.pt", found)
    formats.write(tmp_path / "cartoon_generator.safetensors", found)
    assert (tmp_path / "cartoon_discriminator.safetensors").exists()
    folder = tmp_path / "artifact"
    save_network(folder / "transferred.safetensors", found.generator)
    save_network(folder / "source.safetensors", found.generator)
    save_network(folder / "discriminator.safetensors", found.discriminator)
    places = ("x.pkl", "x.pt", "cartoon_generator.safetensors", "artifact", "artifact/source.safetensors")
    for pair in (formats.open_pair(tmp_path / place) for place in places):
        same(pair.generator, found.generator)
        same(pair.discriminator, found.discriminator)
        assert pair.notes["format"]


def test_a_missing_discriminator_is_refused_where_one_is_needed(tmp_path):
    generator, _ = tiny_networks()
    formats.write(tmp_path / "x.safetensors", Checkpoint(format="", generator=generator))
    assert formats.open_pair(tmp_path / "x.safetensors", discriminator=False).discriminator is None
    with pytest.raises(TristyleError, match="holds no discriminator.*x_discriminator.safetensors"):
        formats.open_pair(tmp_path / "x.safetensors")


def test_nothing_is_written_beside_another_generators_discriminator(tmp_path):
    generator, discriminator = tiny_networks()
    save_network(tmp_path / "x_discriminator.safetensors", discriminator)
    with pytest.raises(TristyleError, match="belongs to another generator"):
        formats.write(tmp_path / "x.safetensors", Checkpoint(format="", generator=generator))
    assert not (tmp_path / "x.safetensors").exists()


def test_a_digest_is_written_and_files_without_one_still_load(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    generator, _ = tiny_networks()
    for name in ("a", "b"):
        save_network(tmp_path / f"{name}.safetensors", generator)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        notes = file.metadata()
    assert len(notes.pop("sha256")) == 64
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "old.safetensors", metadata=notes)
    same(load_network(tmp_path / "old.safetensors"), generator)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def test_the_command_says_what_a_file_holds_and_converts_it(tmp_path, capsys):
    source = official_file(tmp_path / "x.pkl")
    formats.main([str(source), str(tmp_path / "y.pt")])
    said = capsys.readouterr().out
    for part in ("16 px", "8, 8 (6 ws)", "3 (learning-rate", "4: 8, 8: 8, 16: 4", "p = 0.25", sha256_file(source)):
        assert part in said
    assert "does not clamp activations at 256" in said
    same(formats.open_pair(tmp_path / "y.pt").generator, tiny_networks()[0])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["absent.pkl"], "no such file"),
        (["x.pkl", "x.onnx"], "unknown kind of file"),
        (["x.pt", "x.pt"], "is the file to read"),
        (["text.pkl"], "not a file of StyleGAN2 weights"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, monkeypatch, arguments, problem):
    monkeypatch.chdir(tmp_path)
    official_file(tmp_path / "x.pkl")
    (tmp_path / "x.pt").touch()
    (tmp_path / "text.pkl").write_text("weights\n" * 9)
    with pytest.raises(SystemExit) as stop:
        formats.main(arguments)
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(said) == 1 and problem in said[0] and arguments[-1] in said[0]


def test_help_needs_no_torch(root):
    code = "import sys; from stages.style.weights import convert as f\n"
    code += "try: f.main(['-h'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "IN" in done.stdout and done.stdout.endswith("False\n")


def test_numbers_keep_their_type_through_numpy_scalars(tmp_path):
    held = snapshot(*tiny_networks())
    held["G_ema"].state["num_ws"] = np.int64(6)
    (tmp_path / "x.pkl").write_bytes(pickled(held))
    assert formats.read(tmp_path / "x.pkl").generator.num_ws == 6
