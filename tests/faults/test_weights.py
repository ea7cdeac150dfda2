"""A weights file runs nothing and costs what it weighs: classes from a list, shapes seen before anything is built."""

from __future__ import annotations

import ast
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from stages.core.files import data_file
from stages.core.settings import TristyleError
from stages.core.weights import NETWORKS, load_network, save_network
from stages.networks.mobile import MobileStudent
from stages.style.weights.convert import read

SMALL = {"x": torch.zeros(1)}


def headed(path: Path, kind: str, arguments: Any, state: dict[str, torch.Tensor] = SMALL) -> Path:
    """A safetensors file that names a class and arguments."""
    path.write_bytes(save(state, metadata={"class": kind, "arguments": json.dumps(arguments)}))
    return path


def cheaply(call: Callable[[], Any], match: str) -> str:
    """The line of a refusal that takes under two seconds and 200 MiB."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(TristyleError, match=match) as caught:
        call()
    assert time.process_time() - begun < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_list_holds_every_network_that_notes_its_arguments(root: Path) -> None:
    found = set()
    for path in sorted((root / "stages" / "networks").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and "self.arguments" in ast.unparse(node).replace("self.arguments[", ""):
                found.add(f"stages.networks.{path.stem}.{node.name}")
    assert found == NETWORKS


@pytest.mark.parametrize(
    "kind",
    [
        "stages.faces.weights.main", "stages.faces.train.main", "stages.networks.stylegan2.torch", "os.system",
        "stages.networks.stylegan2.nn.Linear", "stages.networks.latents.load_network",
        "stages.networks.stylegan2.SynthesisNetwork", "stages.networks.ugatit.nn.Linear", "", "stages.networks.",
    ],
)  # fmt: skip
def test_a_name_that_is_not_on_the_list_calls_nothing(tmp_path: Path, kind: str) -> None:
    path = headed(tmp_path / "evil.safetensors", kind, {"arguments": [str(tmp_path)]})
    cheaply(lambda: load_network(path), "is not a network of this project")


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("stylegan2.Generator", {"channel_base": 2**22, "channel_max": 2**22, "img_resolution": 1024}),
        ("stylegan2.Generator", {"img_resolution": 2**24}),
        ("stylegan2.Generator", {"num_layers": 2**24}),
        ("stylegan2.Generator", {"z_dim": 2**24, "w_dim": 2**24}),
        ("stylegan2.Generator", {"img_resolution": 10**30}),
        ("stylegan2.Generator", {"img_resolution": 0}),
        ("stylegan2.Generator", {"img_resolution": -4}),
        ("stylegan2.Generator", {"channel_base": 0}),
        ("stylegan2.Discriminator", {"img_resolution": 1024, "channel_base": 2**24, "channel_max": 2**24}),
        ("ugatit.ResnetGenerator", {"n_blocks": 2**24}),
        ("ugatit.ResnetGenerator", {"ngf": 2**20}),
        ("ugatit.CamDiscriminator", {"n_layers": 2**24}),
        ("patchgan.PatchGAN", {"layers": 2**24}),
        ("parser.FaceParser", {"widths": [2**20] * 5}),
        ("parser.FaceParser", {"blocks": [2**24] * 5}),
        ("face_reader.Reader", {"widths": [0, 0, 0, 0]}),
        ("face_reader.Reader", {"widths": "abcd"}),
        ("encoder.Encoder", {"num_ws": 2**24, "w_dim": 2**20}),
        ("encoder.Encoder", {"num_ws": 1, "w_dim": 1, "size": 0}),
        ("mobile.MobileStudent", {"tier": {"a": 1}}),
        ("mobile.MobileStudent", {"tier": "x" * 100_000}),
        ("mobile.MobileStudent", {"other": 1}),
        ("mobile.MobileStudent", ["mid"]),
        ("mobile.MobileStudent", float("nan")),
    ],
)
def test_arguments_cost_nothing_before_they_fit(tmp_path: Path, kind: str, arguments: Any) -> None:
    path = headed(tmp_path / "evil.safetensors", f"stages.networks.{kind}", arguments)
    line = cheaply(lambda: load_network(path), "does not fit")
    assert line.startswith(f"{path}: ")


def test_a_deep_header_is_one_line(tmp_path: Path) -> None:
    deep = "[" * 200_000
    (tmp_path / "deep.safetensors").write_bytes(
        save(SMALL, metadata={"class": "stages.networks.mobile.MobileStudent", "arguments": deep})
    )
    cheaply(lambda: load_network(tmp_path / "deep.safetensors"), "does not fit")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    student = MobileStudent("nano")
    with torch.no_grad():
        student.paint.weight[0, 0, 0, 0] = float("nan")
    save_network(tmp_path / "s.safetensors", student)
    cheaply(lambda: load_network(tmp_path / "s.safetensors"), "not finite")


@pytest.mark.parametrize("name", ["reader", "parser", "base64_generator", "base64_discriminator", "encoder64"])
def test_what_is_shipped_still_loads(name: str) -> None:
    state = torch.get_rng_state()
    load_network(data_file(f"{name}.safetensors"))
    assert not torch.equal(state, torch.get_rng_state())  # built once for real, as before


@pytest.mark.parametrize("opcode", [b"\x8f", b"]", b"}", b")", b"(", b"N\x94"])
def test_pickles_of_opcodes_alone_are_cheap(tmp_path: Path, opcode: bytes) -> None:
    path = tmp_path / "sets.pkl"
    path.write_bytes(b"\x80\x04" + opcode * (6_000_000 // len(opcode)) + b".")
    begun = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TristyleError) as caught:
        read(path)
    assert time.process_time() - begun < 6 and "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 6_000_000 / 1024 + 200 * 1024
    assert np.isfinite(path.stat().st_size)
