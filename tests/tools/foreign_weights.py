"""Small weights in other people's formats, written here: no file and no code of theirs is needed.

An official snapshot is pickled with stand-ins for the release's two modules; only their names end up in the file.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.networks.stylegan2 import Discriminator, Generator

CHANNELS = {"channel_base": 64, "channel_max": 8, "conv_clamp": 256}


def tiny_networks(seed: int = 0, size: int = 16) -> tuple[Generator, Discriminator]:
    """A pair of `size` px with every parameter and the mean w away from its initial value."""
    torch.manual_seed(seed)
    networks = Generator(8, 8, size, num_layers=3, **CHANNELS).eval(), Discriminator(size, **CHANNELS).eval()
    with torch.no_grad():
        for tensor in [*networks[0].parameters(), *networks[1].parameters(), networks[0].mapping.w_avg]:
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return networks


class Persistent:
    """An object that pickles as the release's persistent objects do."""

    def __init__(self, name: str, state: dict[str, Any], source: str = "") -> None:
        self.name, self.state, self.source = name, state, source

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)

    def child(self, *names: str) -> Persistent:
        node = self
        for name in names:
            node = node.state["_modules"][name]
        return node


@contextmanager
def their_modules() -> Iterator[Callable[[dict], dict]]:
    """The release's module names, importable for as long as pickling takes; yields the EasyDict constructor."""

    def _reconstruct_persistent_obj(meta: dict) -> None:
        raise AssertionError("called by name")

    class EasyDict(dict):
        pass

    modules = {
        name: types.ModuleType(name) for name in ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")
    }
    for member, module in ((EasyDict, "dnnlib.util"), (_reconstruct_persistent_obj, "torch_utils.persistence")):
        member.__module__, member.__qualname__ = module, member.__name__
        setattr(modules[module], member.__name__, member)
    sys.modules.update(modules)
    try:
        yield lambda value: _easy(value, EasyDict)
    finally:
        for name in modules:
            del sys.modules[name]


def _easy(value: Any, kind: type) -> Any:
    return kind({key: _easy(item, kind) for key, item in value.items()}) if isinstance(value, dict) else value


def persistent(module: torch.nn.Module, frozen: tuple[str, ...] = ()) -> Persistent:
    """One of our networks as theirs, without its constructor's arguments; `frozen`: layers with buffers for weights."""
    name = type(module).__name__
    state: dict[str, Any] = {
        "training": False, "_parameters": dict(module._parameters), "_buffers": dict(module._buffers),
        "_non_persistent_buffers_set": set(), "_modules": {}, "_init_args": (), "_init_kwargs": {},
    }  # fmt: skip
    for key in ("resolution", "up", "down", "conv_clamp", "padding", "num_ws", "num_layers", "w_avg_beta", "num_conv"):
        if hasattr(module, key):
            state[key] = getattr(module, key)
    for key in ("weight_gain", "bias_gain"):
        if hasattr(module, key):
            state[key] = np.float64(getattr(module, key))
    if name in ("FullyConnectedLayer", "Conv2dLayer"):
        state["activation"] = module.act
    if name == "SynthesisLayer":
        state |= {"use_noise": True, "activation": "lrelu", "padding": 1, "act_gain": np.sqrt(2)}
    if name in ("SynthesisBlock", "DiscriminatorBlock"):
        state |= {"use_fp16": False, "architecture": "skip" if name == "SynthesisBlock" else "resnet"}
    for key, child in module.named_children():
        state["_modules"][key] = persistent(child)
        if key in frozen:
            node = state["_modules"][key].state
            node["_buffers"] |= {k: v.data for k, v in node.pop("_parameters").items() if v is not None}
            node["_parameters"] = {}
    return Persistent(name, state)


def snapshot(generator: Generator, discriminator: Discriminator | None) -> dict[str, Any]:
    """The dict that the release pickles."""
    g = generator.arguments
    synthesis = {key: g[key] for key in ("channel_base", "channel_max", "conv_clamp")} | {"num_fp16_res": 0}
    root = persistent(generator)
    root.state |= {"z_dim": g["z_dim"], "c_dim": 0, "w_dim": g["w_dim"], "num_ws": generator.num_ws}
    root.state["_init_kwargs"] = {
        "z_dim": g["z_dim"], "c_dim": 0, "w_dim": g["w_dim"], "img_resolution": g["img_resolution"], "img_channels": 3,
        "mapping_kwargs": {"num_layers": g["num_layers"], "lr_multiplier": 0.01}, "synthesis_kwargs": synthesis,
    }  # fmt: skip
    held = {"training_set_kwargs": {"path": "portraits.zip", "xflip": True}, "G": None, "D": None, "G_ema": root}
    if discriminator is not None:
        d = persistent(discriminator)
        group = discriminator.arguments["mbstd_group_size"]
        d.child("b4").state["_modules"]["mbstd"] = Persistent(
            "MinibatchStdLayer",
            {"_parameters": {}, "_buffers": {}, "_modules": {}, "group_size": group, "num_channels": 1},
        )
        d.state["_init_kwargs"] = {
            "c_dim": 0, "img_resolution": g["img_resolution"], "img_channels": 3, "architecture": "resnet", **synthesis,
            "block_kwargs": {}, "mapping_kwargs": {}, "epilogue_kwargs": {"mbstd_group_size": group},
        }  # fmt: skip
        held["D"] = d
    p = torch.tensor(0.25)
    state = {"_parameters": {}, "_buffers": {"p": p}, "_modules": {}}
    return held | {"augment_pipe": Persistent("AugmentPipe", state)}


def pickled(held: Any, protocol: int = 4) -> bytes:
    """An official `.pkl` of what `snapshot` gave. Protocol 3 with the scalars' old name is what the release wrote."""
    with their_modules() as easy:
        for node in held.values() if isinstance(held, dict) else ():
            if isinstance(node, Persistent) and "_init_kwargs" in node.state:
                node.state["_init_kwargs"] = easy(node.state["_init_kwargs"])
        data = pickle.dumps(held, protocol)
    return (
        data.replace(b"cnumpy._core.multiarray\nscalar\n", b"cnumpy.core.multiarray\nscalar\n")
        if protocol == 3
        else data
    )


def official_file(path: Path, protocol: int = 4, size: int = 16) -> Path:
    """A tiny official snapshot of `size` px at `path`."""
    path.write_bytes(pickled(snapshot(*tiny_networks(size=size)), protocol))
    return path


def torch_bytes(value: Any, legacy: bool = False) -> bytes:
    """What torch.save writes, in its zip file or its older container."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()
