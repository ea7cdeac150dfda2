"""Reading and writing weights against files of the reference implementations (facts/stylegan.md 1.1, 1.3).

Sizes come from the files in $TRISTYLE_SHARED/golden/stylegan; an absent folder skips.
"""

from __future__ import annotations

import json
import os
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.style.weights import convert as formats
from stages.style.weights import rosinality_pt as rosinality
from stages.style.weights import safe_pickle as pickles

SHARED = Path(os.environ.get("TRISTYLE_SHARED", Path(__file__).resolve().parents[2] / "../shared"))
FOLDER = SHARED / "golden" / "stylegan"
OFFICIAL, ROSINALITY = FOLDER / "network.pkl", FOLDER / "rosinality_small.npz"
if not OFFICIAL.is_file() or not ROSINALITY.is_file():
    pytest.skip(f"no golden files at {FOLDER}", allow_module_level=True)
CONFIG = json.loads((FOLDER / "config.json").read_text())


def arrays(name: str, prefix: str = "") -> dict[str, np.ndarray]:
    with np.load(FOLDER / name, allow_pickle=False) as file:
        return {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}


def same(network: torch.nn.Module, expected: dict[str, np.ndarray]) -> None:
    """Every tensor bit for bit, under the same names."""
    state = network.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(state[name].numpy(), value), name


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=2e-4)


@pytest.fixture(scope="module")
def official():
    return formats.read(OFFICIAL)


def test_the_official_file_gives_its_tensors_and_arguments(official):
    same(official.generator, arrays("g_ema_state.npz"))
    same(official.discriminator, arrays("d_state.npz"))
    init = CONFIG["G_init_kwargs"]
    ours = official.generator.arguments
    flat = {**init, **init["mapping_kwargs"], **init["synthesis_kwargs"]}
    assert ours == {key: flat[key] for key in ours}
    assert official.discriminator.arguments["mbstd_group_size"] == CONFIG["config"]["mbstd"]


def test_networks_of_the_official_file_draw_and_discriminate_as_the_reference(official):
    io = {key: torch.from_numpy(value) for key, value in arrays("g_io.npz").items()}
    resolution = official.generator.img_resolution
    with torch.no_grad():
        drawn = official.generator(io["z"], noise_mode="const")
        truncated = official.generator(io["z"], truncation_psi=0.7, noise_mode="const")
        raw = official.raw(io["z"][:1], noise_mode="const")
        logits = official.discriminator(torch.from_numpy(arrays("d_io.npz")["img"]))
    close(drawn, io[f"const_psi1/img_b{resolution}"])
    close(truncated, io["const_psi0.7/img"])
    close(raw, io["G_raw_const_psi1/img"])
    close(logits, torch.from_numpy(arrays("d_io.npz")["logits_all"]))


def test_the_file_names_no_global_beyond_the_allowed_ones():
    allowed = {name for name in pickles.OFFICIAL}
    assert set(CONFIG["pickle_globals"]) <= allowed
    assert allowed - set(CONFIG["pickle_globals"]) == {"builtins set", "numpy.core.multiarray scalar"}
    words = [arg for op, arg, _ in pickletools.genops(OFFICIAL.read_bytes()) if op.name == "SHORT_BINUNICODE"]
    assert "Generator" in words  # class names are words in the file, not globals


def test_pkl_to_safetensors_to_pt_and_back_keeps_every_bit(tmp_path, official):
    first = formats.write(tmp_path / "a.safetensors", official)
    formats.write(tmp_path / "a.pt", formats.read(first[0]))
    second = formats.write(tmp_path / "b.safetensors", formats.read(tmp_path / "a.pt"))
    assert len(first) == len(second) == 2
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    again = formats.open_pair(second[0])
    same(again.generator, arrays("g_ema_state.npz"))
    same(again.discriminator, arrays("d_state.npz"))
    assert again.generator.arguments == official.generator.arguments


# ---------------------------------------------------------------------------------------------------------------------
# rosinality


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """The golden state dicts as a training checkpoint of theirs, mean w beside them."""
    import argparse

    path = tmp_path_factory.mktemp("rosinality") / "000001.pt"
    g = {key: torch.from_numpy(value) for key, value in arrays(ROSINALITY.name, "ros_g/").items()}
    d = {key: torch.from_numpy(value) for key, value in arrays(ROSINALITY.name, "ros_d/").items()}
    mean = torch.from_numpy(arrays(ROSINALITY.name)["nv_g/mapping.w_avg"])
    args = argparse.Namespace(size=CONFIG["rosinality_small"]["resolution"], batch=16, path="data")
    torch.save({"g_ema": g, "g": g, "d": d, "latent_avg": mean, "args": args, "ada_aug_p": 0.25}, path)
    return path


def test_rosinality_to_ours(theirs):
    found = formats.read(theirs)
    same(found.generator, arrays(ROSINALITY.name, "nv_g/"))
    same(found.discriminator, arrays(ROSINALITY.name, "nv_d/"))
    size = CONFIG["rosinality_small"]
    ours = found.generator.arguments
    assert (ours["z_dim"], ours["w_dim"], ours["num_layers"]) == (size["z_dim"], size["w_dim"], size["mapping_layers"])
    assert {
        str(r): min(ours["channel_base"] // r, ours["channel_max"]) for r in found.generator.synthesis.block_resolutions
    } == size["channels"]
    assert found.notes["augmentation"] == "p = 0.25"
    gold = {key: torch.from_numpy(value) for key, value in arrays(ROSINALITY.name).items()}
    with torch.no_grad():
        drawn = found.generator(gold["z"], truncation_psi=0.7, noise_mode="const")
        logits = found.discriminator(gold["img_in"])
    close(drawn, gold["out/img_psi0.7_const_noise"])
    close(logits, gold["out/logits"])


def test_ours_to_rosinality(theirs):
    payload = rosinality.payload(formats.read(theirs))
    for key, prefix in (("g_ema", "ros_g/"), ("g", "ros_g/"), ("d", "ros_d/")):
        gold = arrays(ROSINALITY.name, prefix)
        assert payload[key].keys() == gold.keys()
        for name, value in gold.items():
            assert payload[key][name].shape == value.shape, name
            np.testing.assert_allclose(payload[key][name].numpy(), value, rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(payload["latent_avg"], arrays(ROSINALITY.name)["nv_g/mapping.w_avg"])
