"""Files of weights that are hostile, damaged or of another network: one line that names the file, and nothing runs."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.files import sha256_file
from stages.core.settings import TristyleError
from stages.style.weights import convert as formats
from stages.style.weights import rosinality_pt as rosinality
from stages.style.weights.strict import Checkpoint
from tests.tools.foreign_weights import official_file, pickled, snapshot, tiny_networks, torch_bytes


def refused(path: Path, match: str | None = None) -> str:
    """The one line that refuses the file."""
    with pytest.raises(TristyleError, match=match) as error:
        formats.read(path)
    line = str(error.value)
    assert path.name in line and line.isprintable() and len(line) < 600
    return line


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def word(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def called(module: str, name: str, arguments: bytes, stack_global: bool = True) -> bytes:
    """A pickle that calls module.name with the tuple that `arguments` builds."""
    names = word(module) + word(name) + b"\x93" if stack_global else f"c{module}\n{name}\n".encode()
    return b"\x80\x04" + names + arguments + b"R."


# ---------------------------------------------------------------------------------------------------------------------
# Hostile files


@pytest.fixture
def marker(tmp_path) -> Path:
    """The file that every payload would create."""
    return tmp_path / "marker"


# How a torch file of before 1.6 begins: three pickles, and then the one that counts.
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def payloads(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> a pickle that would create `marker`, or reach for what could, and what the refusal names."""
    touch = word(f"touch {marker}") + b"\x85"
    code = word(f"open({str(marker)!r}, 'w').close()") + b"\x85"
    system = called("os", "system", touch)
    nested = b"B" + struct.pack("<I", len(system)) + system + b"\x85"
    chain = MAGIC + system
    storage = b"B" + struct.pack("<I", len(chain)) + chain + b"\x85"
    return {
        "os.system": (system, "os.system"),
        "posix.system": (called("posix", "system", touch, stack_global=False), "posix.system"),
        "eval": (called("builtins", "eval", code), "builtins.eval"),
        "exec": (called("builtins", "exec", code, stack_global=False), "builtins.exec"),
        "getattr": (called("builtins", "getattr", word("a") + word("b") + b"\x86"), "builtins.getattr"),
        "in a storage": (called("torch.storage", "_load_from_bytes", nested), "os.system"),
        "in a storage's chain": (called("torch.storage", "_load_from_bytes", storage), "os.system"),
        "dotted name": (called("torch.storage", "_load_from_bytes.__globals__", b")"), "__globals__"),
        "dotted module": (called("torch_utils", "persistence._reconstruct_persistent_obj", b")"), "torch_utils.pers"),
        "through numpy": (called("numpy", "core.multiarray.scalar", b")"), "numpy.core.multiarray.scalar"),
        "spaces": (called("collections OrderedDict", "", b")"), "collections OrderedDict"),
        "torch.load": (called("torch", "load", word("x") + b"\x85"), "torch.load"),
        "storage class": (called("torch", "FloatStorage", b")"), "torch.FloatStorage"),
        "instance opcode": (b"(" + word(f"touch {marker}") + b"ios\nsystem\n.", "opcode INST"),
        "object opcode": (b"\x80\x04(cos\nsystem\n" + word("x") + b"o.", "os.system"),
        "extension": (b"\x80\x04\x82\x01)R.", "opcode EXT1"),
        "persistent id": (b"\x80\x04" + word("x") + b"Q.", "opcode BINPERSID"),
        "keywords": (called("os", "system", b")")[:-2] + b"}\x92.", "os.system"),
    }


@pytest.mark.parametrize("name", payloads(Path("marker")))
@pytest.mark.parametrize("place", ["alone", "in a snapshot", "in a torch file", "in an old torch file"])
def test_a_payload_is_refused_by_name_and_does_not_run(tmp_path, marker, name, place):
    data, named = payloads(marker)[name]
    if place == "in a snapshot":  # as the first value of the dict, before anything else is looked at
        data = b"\x80\x04}" + word("G_ema") + data.removeprefix(b"\x80\x04")[:-1] + b"s."
    elif place == "in an old torch file":
        data, named = MAGIC + data, "x.pkl"
    elif place == "in a torch file":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x/data.pkl", data)
        data, named = buffer.getvalue(), "x.pkl"  # what it reaches for is unknown to torch files anyway
    refused(write(tmp_path / "x.pkl", data), re.escape(named))
    assert not marker.exists()


def test_the_payloads_would_run_elsewhere(marker):
    """Otherwise the test above could not fail."""
    pickle.loads(payloads(marker)["eval"][0])
    assert marker.exists()
    marker.unlink()
    pickle.loads(payloads(marker)["posix.system"][0])
    assert marker.exists()


def test_source_text_in_a_snapshot_stays_text(tmp_path, marker):
    held = snapshot(*tiny_networks())
    held["G_ema"].source = f"open({str(marker)!r}, 'w').close()"
    assert formats.read(write(tmp_path / "x.pkl", pickled(held))).generator.img_resolution == 16
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("torch._utils", "_rebuild_tensor_v2", word("a") + b"K\x00)t"),
        ("torch._utils", "_rebuild_tensor_v2", b"]K\x00))\x89)t"),
        ("torch._utils", "_rebuild_parameter", b"}\x88}t"),
        ("torch.storage", "_load_from_bytes", word("text") + b"t"),
        ("numpy", "dtype", word("O") + b"t"),
        ("numpy._core.multiarray", "scalar", word("O8") + b"C\x00t"),
        ("collections", "OrderedDict", b"]t"),
        ("builtins", "set", b"]]at"),  # a list in a set
        ("dnnlib.util", "EasyDict", word("a") + b"t"),
        ("torch_utils.persistence", "_reconstruct_persistent_obj", b"}t"),
        ("torch_utils.persistence", "_reconstruct_persistent_obj", b"]t"),
    ],
)
def test_allowed_globals_take_no_wrong_arguments(tmp_path, module, name, arguments):
    data = called(module, name, b"(" + arguments)
    assert "damaged" in refused(write(tmp_path / "x.pkl", data))


def test_no_state_is_set_on_a_function_or_class(tmp_path):
    for module, name in (
        ("dnnlib.util", "EasyDict"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "OrderedDict"),
    ):
        state = b"N}" + word("__setitem__") + word("x") + b"s\x86"
        data = b"\x80\x04" + word(module) + word(name) + b"\x93" + state + b"b."
        assert "is given a state" in refused(write(tmp_path / "x.pkl", data))


def test_a_name_from_the_file_cannot_break_the_line(tmp_path):
    line = refused(write(tmp_path / "x.pkl", called("os\n\x1b[31m", "system\r\nall is well", b")")))
    assert "\x1b" not in line


# ---------------------------------------------------------------------------------------------------------------------
# Files that claim more than they hold


def bombs() -> dict[str, bytes]:
    """Name -> a small file that asks for a lot of memory or time."""
    legacy = torch_bytes(torch.zeros(1000).untyped_storage(), legacy=True)
    huge = torch_bytes({"g_ema": {"x": torch.zeros(1000)}}, legacy=True).replace(b"M\xe8\x03", b"\x8a\x05\0\0\0\0\x10")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02N.")
        archive.writestr("x/data/0", bytes(2**23))
    tower = b"".join(b"(" + b"h\x00" * 2 + b"tq\x00" for _ in range(60))  # pairs of pairs of pairs ...
    return {
        "legacy length": huge,
        "tail": legacy + b"x",
        "memo": b"\x80\x02Nr\xff\xff\xff\x7f0.",
        "frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x00N.",
        "bytes": b"\x80\x04\x8e" + b"\xff" * 6 + b"\x00\x00N.",
        "bytearray": b"\x80\x05\x96" + b"\xff" * 6 + b"\x00\x00N.",
        "packed": packed.getvalue(),
        "tuple as key": b"\x80\x02}Nq\x00" + tower + b"h\x00Ns.",
    }


@pytest.mark.parametrize("name", bombs())
def test_claims_beyond_the_file_cost_nothing(tmp_path, name):
    path = write(tmp_path / "x.pt", bombs()[name])
    refused(path)  # once before, so that no import counts
    tracemalloc.start()
    refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21 + 4 * path.stat().st_size


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("img_resolution", 2**20), ("w_dim", 2**30), ("z_dim", 2**30), ("mapping_kwargs__num_layers", 10**9),
        ("synthesis_kwargs__channel_base", 2**30), ("synthesis_kwargs__channel_max", 0), ("img_channels", 2**30),
        ("img_resolution", -16), ("img_resolution", 17), ("w_dim", True), ("z_dim", 10**30), ("img_resolution", "16"),
        ("synthesis_kwargs__conv_clamp", float("nan")),
    ],
)  # fmt: skip
def test_arguments_beyond_the_tensors_build_nothing(tmp_path, key, value):
    refused(changed(tmp_path, f"G_ema__{key}", value), "G_ema")


def test_views_of_one_storage_do_not_multiply_it(tmp_path):
    base = torch.zeros(64)
    stretched = {"x": base.as_strided((8, 8, 8), (0, 8, 1))}
    assert "dense" in refused(write(tmp_path / "x.pt", torch_bytes({"g_ema": stretched})))
    shared = {str(i): base[:] for i in range(9)}
    assert "share" in refused(write(tmp_path / "x.pt", torch_bytes({"g_ema": shared})))
    twice = dict.fromkeys("ab", base)
    assert "twice" in refused(write(tmp_path / "x.pt", torch_bytes({"g_ema": {**rosinality_state(), **twice}})))


def test_modules_that_form_no_tree_are_refused(tmp_path):
    held = snapshot(*tiny_networks())
    modules = held["G_ema"].child("synthesis").state["_modules"]
    modules["b32"] = modules["b16"]
    assert "do not form a tree" in refused(write(tmp_path / "x.pkl", pickled(held)))
    modules["b32"] = held["G_ema"]  # a ring
    refused(write(tmp_path / "x.pkl", pickled(held)))


# ---------------------------------------------------------------------------------------------------------------------
# Other networks


def changed(tmp_path: Path, place: str, value: object) -> Path:
    """A snapshot with one constructor's argument changed."""
    held = snapshot(*tiny_networks())
    network, *keys = place.split("__")
    target = held[network].state["_init_kwargs"]
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    return write(tmp_path / "x.pkl", pickled(held))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("G_ema__mapping_kwargs__num_layers", 2, "states 2 mapping layers and holds 3"),
        ("G_ema__c_dim", 10, "c_dim"),
        ("G_ema__mapping_kwargs__activation", "relu", "activation is 'relu'"),
        ("G_ema__mapping_kwargs__lr_multiplier", 0.1, "bias_gain|weight_gain"),
        ("G_ema__synthesis_kwargs__architecture", "resnet", "architecture is 'resnet'"),
        ("G_ema__synthesis_kwargs__resample_filter", [1, 2, 1], "resample_filter"),
        ("G_ema__synthesis_kwargs__conv_clamp", 2.0, "conv_clamp is 256 where its arguments say 2.0"),
        ("G_ema__synthesis_kwargs__num_fp16_res", 2, "num_fp16_res|use_fp16"),
        ("G_ema__synthesis_kwargs__use_noise", False, "use_noise"),
        ("G_ema__magnitude_ema_beta", 0.999, "the argument magnitude_ema_beta is unknown"),
        ("D__architecture", "orig", "architecture is 'orig'"),
        ("D__epilogue_kwargs__mbstd_group_size", 8, "group_size is 4"),
        ("D__epilogue_kwargs__mbstd_num_channels", 2, "mbstd_num_channels"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(tmp_path, place, value, said):
    line = refused(changed(tmp_path, place, value), said)
    assert place.split("__")[0] in line


def test_layers_that_compute_something_else_are_refused(tmp_path):
    for names, key, value in (
        (("synthesis", "b16", "conv0"), "activation", "relu"),
        (("synthesis", "b8", "conv1", "affine"), "weight_gain", 1.0),
        (("mapping",), "w_avg_beta", 0.9),
    ):
        held = snapshot(*tiny_networks())
        held["G_ema"].child(*names).state[key] = value
        assert key in refused(write(tmp_path / "x.pkl", pickled(held)))
    held["G_ema"].child("mapping").name = "OtherMapping"
    assert "OtherMapping is unknown" in refused(write(tmp_path / "x.pkl", pickled(held)))


def test_a_tensorflow_pickle_is_refused_with_the_way_out(tmp_path):
    data = b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81}b."
    assert "TensorFlow" in refused(write(tmp_path / "x.pkl", data), "legacy.py")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_weights_that_no_network_has_are_refused(tmp_path, value):
    generator, discriminator = tiny_networks()
    with torch.no_grad():
        generator.synthesis.b8.conv0.weight[0, 0, 0, 0] = value
    path = write(tmp_path / "x.pkl", pickled(snapshot(generator, discriminator)))
    assert "G_ema: synthesis.b8.conv0.weight" in refused(path)


def rosinality_state() -> dict[str, torch.Tensor]:
    return rosinality.payload(Checkpoint(format="", generator=tiny_networks()[0]))["g_ema"]


def test_another_blur_and_other_names_are_refused(tmp_path):
    for key, value, said in (
        ("convs.0.conv.blur.kernel", torch.ones(4, 4), "blur"),
        ("strange", torch.ones(1), "too many"),
        ("convs.1.noise.weight", None, "lacks"),
    ):
        state = rosinality_state() | {key: value}
        state = {name: tensor for name, tensor in state.items() if tensor is not None}
        assert said in refused(write(tmp_path / "x.pt", torch_bytes({"g_ema": state})))
    refused(write(tmp_path / "x.pt", torch_bytes({"model": state})), "without the state dict g_ema")


# ---------------------------------------------------------------------------------------------------------------------
# Damage


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> dict[str, Path]:
    """The same pair in every format."""
    folder = tmp_path_factory.mktemp("intact")
    found = formats.read(official_file(folder / "x.pkl"))
    formats.write(folder / "x.pt", found)
    formats.write(folder / "x.safetensors", found)
    legacy = torch_bytes(torch.load(folder / "x.pt", weights_only=True), legacy=True)
    files = {name: folder / name for name in ("x.pkl", "x.pt", "x.safetensors")}
    return files | {"legacy.pt": write(folder / "legacy.pt", legacy)}


@pytest.mark.parametrize("name", ["x.pkl", "x.pt", "legacy.pt", "x.safetensors"])
def test_a_truncated_file_is_refused(tmp_path, intact, name):
    data = intact[name].read_bytes()
    rng = random.Random(1)
    for length in [0, 1, 2, 8, 30, 100, len(data) - 1, *(rng.randrange(len(data)) for _ in range(20))]:
        refused(write(tmp_path / name, data[:length]))
    if name != "x.pt":  # a zip file may be followed by anything
        refused(write(tmp_path / name, data + b"\0"))


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_flipped_bit_never_changes_what_is_read(tmp_path, intact, name):
    """Checksums show it; where none covers the bit (padding, dates in a zip file), what is read is the same."""
    whole, caught = formats.read(intact[name]), 0
    rng = random.Random(2)
    for _ in range(50):
        data = bytearray(intact[name].read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path = write(tmp_path / name, data)
        try:
            found = formats.read(path)
        except TristyleError as error:
            assert name in str(error) and str(error).isprintable()
            caught += 1
            continue
        assert found.generator.arguments == whole.generator.arguments
        state = whole.generator.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in found.generator.state_dict().items())
    assert caught > 25


@pytest.mark.parametrize("name", ["x.pkl", "legacy.pt"])
def test_a_flipped_bit_without_a_checksum_never_changes_the_architecture(tmp_path, intact, name):
    """A flip among weights of possible size cannot be seen; everything else is refused or means the same."""
    whole, caught = formats.read(intact[name]), 0
    data = intact[name].read_bytes()
    rng = random.Random(3)
    for place in [rng.randrange(len(data)) for _ in range(40)] + list(range(0, 700, 17)):
        broken = bytearray(data)
        broken[place] ^= 1 << rng.randrange(8)
        try:
            found = formats.read(write(tmp_path / name, broken))
        except TristyleError as error:
            assert name in str(error) and str(error).isprintable()
            caught += 1
            continue
        for one, other in ((found.generator, whole.generator), (found.discriminator, whole.discriminator)):
            assert one.arguments == pytest.approx(other.arguments, rel=1e-8)
        assert all(torch.isfinite(value).all() for value in found.generator.state_dict().values())
    assert caught > 15


def test_a_digest_beside_any_file_is_verified(tmp_path, intact):
    data = bytearray(intact["x.pkl"].read_bytes())
    path = write(tmp_path / "x.pkl", data)
    (tmp_path / "x.pkl.sha256").write_text(f"{sha256_file(path)}  x.pkl\n")
    assert "integrity" not in formats.read(path).notes
    middle = data.index(np.float32(tiny_networks()[0].synthesis.b8.conv1.weight[0, 0, 0, 0].item()).tobytes())
    data[middle] ^= 1
    write(path, data)
    refused(path, "differs from its digest")
    os.remove(tmp_path / "x.pkl.sha256")
    assert "no checksum" in formats.read(path).notes["integrity"]
