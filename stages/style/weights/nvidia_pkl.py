"""The official StyleGAN2-ADA PyTorch `.pkl`: a dict with G, D, G_ema, training_set_kwargs and augment_pipe.

Format: Karras et al., "Training Generative Adversarial Networks with Limited Data" (arXiv 2006.06676), its release's
snapshots. Every module is an object of the release's persistence module with its constructor's arguments and its
`__dict__`. The networks are built from those arguments, and every attribute that says how a layer computes is compared
with ours, so that neither a fork's other layer nor a damaged number passes for the published network.
"""

from __future__ import annotations

import io
from math import isclose, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from stages.networks.stylegan2 import Discriminator, Generator
from stages.style.weights.safe_pickle import OFFICIAL, Damaged, Forbidden, Instance, TensorView, run
from stages.style.weights.strict import DAMAGED, UNFIT, Checkpoint, Network, build, refusal

FORMAT = "StyleGAN2-ADA PyTorch (.pkl)"
KEYS = ("G", "D", "G_ema", "training_set_kwargs", "augment_pipe", "progress")  # the last: forks that resume
DEPTH = 8  # modules within modules; the release's go to 4
FIR = (1, 3, 3, 1)


def read(data: bytes, path: Path) -> Checkpoint:
    """The networks of an official `.pkl`, given its bytes.

    Raises:
        TristyleError: an architecture that is not StyleGAN2 as published, or no such file.
        Damaged, ValueError, LookupError, TypeError: broken bytes (see `pickles.run`).
    """
    stream = io.BytesIO(data)
    try:
        root = run(stream, OFFICIAL)
    except Forbidden as error:
        if error.name.startswith("dnnlib.tflib"):
            remedy = "Convert it with legacy.py of NVIDIA's PyTorch release, or get that release's .pkl of the model"
            raise refusal(path, "is a TensorFlow network pickle", remedy) from None
        raise

    # Nothing but a snapshot's own entries, and nothing after them.
    if stream.read(1):
        raise Damaged("bytes follow the pickle's end")
    if not isinstance(root, dict) or not isinstance(root.get("G_ema"), Instance):
        raise refusal(path, "is a pickle without the network G_ema", "Name a network-snapshot-*.pkl")
    for key in root:
        if key not in KEYS:
            raise refusal(path, f"has an entry {_brief(key)} that no snapshot has", DAMAGED)

    checkpoint = Checkpoint(format=FORMAT, generator=_network(Generator, root["G_ema"], path, "G_ema"))
    if isinstance(root.get("G"), Instance):
        checkpoint.raw = _network(Generator, root["G"], path, "G")
    if isinstance(root.get("D"), Instance):
        checkpoint.discriminator = _network(Discriminator, root["D"], path, "D")
    if isinstance(root.get("training_set_kwargs"), dict):
        settings = root["training_set_kwargs"].items()
        shown = [f"{key}={value}" for key, value in settings if isinstance(value, str | int | float)]
        checkpoint.notes["training set"] = ", ".join(shown)
    if isinstance(root.get("augment_pipe"), Instance):
        p = _tensors(root["augment_pipe"]).get("p")
        checkpoint.notes["augmentation"] = "p = unknown" if p is None else f"p = {float(p):g}"
    return checkpoint


def _network(kind: type[Network], root: Instance, path: Path, name: str) -> Network:
    wanted = kind.__name__
    if root.name != wanted:
        raise refusal(path, f"{name} is a {root.name}, not a {wanted}", UNFIT)
    try:
        arguments = _generator(root) if kind is Generator else _discriminator(root)
    except Unfit as error:
        raise refusal(path, f"{name}: {error}", UNFIT) from None
    network = build(kind, arguments, _tensors(root), path, name)
    for prefix, node in _walk(root).items():
        try:
            _compare(node, prefix, network)
        except Unfit as error:
            raise refusal(path, f"{name}{prefix and '.' + prefix}: {error}", DAMAGED) from None
    return network


# ---------------------------------------------------------------------------------------------------------------------
# Constructor arguments


class Unfit(Exception):
    """Another network than the one that we compute."""


def _generator(root: Instance) -> dict[str, Any]:
    """Our constructor's arguments for the file's. Defaults are the release's."""
    given = _init(root)
    mapping, synthesis = _part(given, "mapping_kwargs"), _part(given, "synthesis_kwargs")
    arguments = _taken(given, z_dim=512, w_dim=512, img_resolution=None, img_channels=3)
    _fixed(given, c_dim=(0,))
    arguments |= _taken(mapping, num_layers=8, lr_multiplier=0.01)
    same_width = (None, arguments["w_dim"])
    _fixed(mapping, layer_features=same_width, activation=("lrelu",), w_avg_beta=(0.995,), embed_features=ANY)
    arguments |= _taken(synthesis, channel_base=32768, channel_max=512, num_fp16_res=0, conv_clamp=False)
    _fixed(
        synthesis, architecture=("skip",), resample_filter=(FIR,), use_noise=(True,), activation=("lrelu",),
        kernel_size=(3,), fp16_channels_last=ANY,
    )  # fmt: skip
    return arguments


def _discriminator(root: Instance) -> dict[str, Any]:
    given = _init(root)
    block, epilogue = _part(given, "block_kwargs"), _part(given, "epilogue_kwargs")
    arguments = _taken(
        given, img_resolution=None, img_channels=3, channel_base=32768, channel_max=512, num_fp16_res=0,
        conv_clamp=False,
    )  # fmt: skip
    _fixed(given, c_dim=(0,), architecture=("resnet",), cmap_dim=ANY, mapping_kwargs=ANY)  # both only with labels
    # A frozen layer's weights are buffers: another place in the file, the same function.
    _fixed(block, activation=("lrelu",), resample_filter=(FIR,), fp16_channels_last=ANY, freeze_layers=ANY)
    arguments |= _taken(epilogue, mbstd_group_size=4)
    _fixed(epilogue, mbstd_num_channels=(1,), activation=("lrelu",))
    return arguments


ANY = None


def _init(root: Instance) -> dict[str, Any]:
    """A copy of the keyword arguments, from which each reader takes what it knows."""
    positional, keyword = root.state.get("_init_args"), root.state.get("_init_kwargs")
    if positional != () or not isinstance(keyword, dict):
        raise Unfit("its constructor's arguments are missing or positional")
    return dict(keyword)


def _part(given: dict[str, Any], key: str) -> dict[str, Any]:
    part = given.pop(key, {})
    if not isinstance(part, dict):
        raise Unfit(f"{key} is not a dict")
    return dict(part)


def _taken(given: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Numbers to pass on. A default of None: must be there; of False: may be None."""
    taken = {}
    for key, default in defaults.items():
        value = given.pop(key, default if default is not False else None)
        fractional = key in ("lr_multiplier", "conv_clamp")
        known = type(value) is int or (fractional and type(value) is float)
        if not (known and 0 <= value < 2**31) and not (value is None and default is False):
            raise Unfit(f"{key} is {_brief(value)}")
        taken[key] = value
    return taken


def _fixed(given: dict[str, Any], **accepted: tuple[Any, ...] | None) -> None:
    """Refuse what changes the function: these keys at other values than the accepted ones, and unknown keys."""
    for key, values in accepted.items():
        value = given.pop(key, None if values is ANY else values[0])
        value = tuple(value) if isinstance(value, list) else value
        if values is not ANY and value not in values:
            raise Unfit(f"{key} is {_brief(value)}; only {' or '.join(map(str, values))} is computed")
    if given:
        raise Unfit(f"the argument {next(iter(given))} is unknown")


def _brief(value: Any) -> str:
    """A scalar as it is, anything else by its type: a foreign value may nest without end."""
    return repr(value)[:40] if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"


# ---------------------------------------------------------------------------------------------------------------------
# Modules


def _walk(root: Instance) -> dict[str, Instance]:
    """All modules under their dotted names, the root under ''."""
    found: dict[str, Instance] = {}
    seen: set[int] = set()
    waiting = [("", root, 0)]
    while waiting:
        prefix, node, depth = waiting.pop()
        if id(node) in seen or depth > DEPTH or not isinstance(node, Instance):
            raise Damaged("its modules do not form a tree")
        seen.add(id(node))
        found[prefix] = node
        children = node.state["_modules"].items()
        waiting += [(f"{prefix}.{name}" if prefix else name, child, depth + 1) for name, child in children]
    return found


def _tensors(root: Instance) -> dict[str, np.ndarray]:
    """Parameters and persistent buffers under their dotted names, as views of the file's bytes."""
    state: dict[str, np.ndarray] = {}
    seen: set[int] = set()
    for prefix, node in _walk(root).items():
        passing = node.state.get("_non_persistent_buffers_set", set())
        for name, value in [*node.state["_parameters"].items(), *node.state["_buffers"].items()]:
            if isinstance(value, TensorView) and name not in passing and id(value) not in seen:
                seen.add(id(value))
                state[f"{prefix}.{name}" if prefix else name] = value.array()
            elif value is not None and name not in passing:
                raise Damaged(f"{prefix}.{name} is not a tensor of its own")
    return state


# How the release's layers compute, attribute by attribute: either the name of ours, or the only value that we compute.
_CONV = {"activation": "act", "conv_clamp": "conv_clamp", "weight_gain": "weight_gain", "down": "down"}
_ATTRIBUTES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "Generator": ({k: k for k in ("z_dim", "w_dim", "img_resolution", "num_ws")}, {"c_dim": 0}),
    "MappingNetwork": ({k: k for k in ("num_ws", "num_layers", "w_avg_beta")}, {"c_dim": 0}),
    "SynthesisNetwork": ({"block_resolutions": "block_resolutions", "num_ws": "num_ws"}, {}),
    "SynthesisBlock": ({"num_conv": "num_conv"}, {"architecture": "skip", "num_torgb": 1}),
    "SynthesisLayer": (
        {k: k for k in ("resolution", "up", "conv_clamp")},
        {"use_noise": True, "activation": "lrelu", "padding": 1, "act_gain": sqrt(2)},
    ),
    "ToRGBLayer": ({"conv_clamp": "conv_clamp", "weight_gain": "weight_gain"}, {}),
    "FullyConnectedLayer": ({"activation": "act", "weight_gain": "weight_gain", "bias_gain": "bias_gain"}, {}),
    "Discriminator": ({"block_resolutions": "block_resolutions"}, {"c_dim": 0}),
    "DiscriminatorBlock": ({}, {"architecture": "resnet"}),
    "Conv2dLayer": (_CONV | {"padding": "padding"}, {"up": 1}),
    "DiscriminatorEpilogue": ({}, {"architecture": "resnet", "resolution": 4, "cmap_dim": 0}),
}


def _compare(node: Instance, prefix: str, network: Generator | Discriminator) -> None:
    """Refuse a module of the file that computes something else than ours of the same name."""
    if node.name == "MinibatchStdLayer" and prefix == "b4.mbstd":  # no module of its own with us
        ours: Any = network.get_submodule("b4")
        expected: dict[str, Any] = {"group_size": ours.mbstd_group_size, "num_channels": 1}
    elif node.name in _ATTRIBUTES:
        try:
            ours = network.get_submodule(prefix)
        except AttributeError:
            raise Unfit(f"an unexpected {node.name}") from None
        names, fixed = _ATTRIBUTES[node.name]
        expected = fixed | {theirs: getattr(ours, name) for theirs, name in names.items()}
        if type(ours).__name__ != node.name:
            raise Unfit(f"a {node.name} where a {type(ours).__name__} belongs")
    else:
        raise Unfit(f"the class {node.name} is unknown")

    # Settings that follow from others.
    if node.name == "Conv2dLayer":
        expected = expected | {"act_gain": sqrt(2) if ours.act == "lrelu" else 1.0}
    elif node.name in ("SynthesisBlock", "DiscriminatorBlock"):
        expected = expected | {"use_fp16": _half(prefix, network)}

    for key, value in expected.items():
        stated = node.state.get(key, value)
        if not _same(stated, value):
            raise Unfit(f"{key} is {_brief(stated)} where its arguments say {_brief(value)}")


def _half(prefix: str, network: Generator | Discriminator) -> bool:
    """Whether the release computes this block in float16: the highest `num_fp16_res` resolutions, never 4 px."""
    resolution = int(prefix.rpartition("b")[2])
    found: bool = resolution >= max(
        (2 * network.arguments["img_resolution"]) >> network.arguments.get("num_fp16_res", 0), 8
    )
    return found


def _same(stated: Any, ours: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (stated, ours))
    return isclose(stated, ours, rel_tol=1e-9) if numbers else type(stated) is type(ours) and bool(stated == ours)
