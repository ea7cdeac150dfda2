"""The `.pt` of rosinality's stylegan2-pytorch: state dicts under g_ema, g, d, and the mean w as latent_avg.

Format: https://github.com/rosinality/stylegan2-pytorch. Same networks, other names; kernels are stored as in the
official release, so nothing is flipped. The file states no sizes: they are read off the tensors. What that code does
not know (a clamp, another learning-rate multiplier, z_dim other than w_dim) is kept beside the weights under
`arguments`, which that code ignores, and is said in `differences`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.networks.ops.resample import setup_filter
from stages.networks.stylegan2 import FIR_TAPS, Discriminator, Generator, resolutions
from stages.style.weights.safe_pickle import TensorView, torch_file
from stages.style.weights.strict import DAMAGED, UNFIT, Checkpoint, Network, build, refusal

FORMAT = "rosinality stylegan2-pytorch (.pt)"
REMEDY = "Name a .pt of rosinality's train.py or convert_weight.py"
MEAN_SAMPLES = 4096  # for the mean w of a file without latent_avg
State = dict[str, np.ndarray]


# ---------------------------------------------------------------------------------------------------------------------
# Names


def _layer(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """What every modulated convolution has: kernel and affine transform."""
    yield f"{theirs}.conv.weight", f"{ours}.weight"
    yield f"{theirs}.conv.modulation.weight", f"{ours}.affine.weight"
    yield f"{theirs}.conv.modulation.bias", f"{ours}.affine.bias"


def generator_names(img_resolution: int, mapping_layers: int) -> dict[str, str]:
    """Their name -> the official one, for everything in the module but the fixed kernels."""
    names = {"input.input": "synthesis.b4.const"}
    for i in range(mapping_layers):
        names |= {f"style.{i + 1}.{part}": f"mapping.fc{i}.{part}" for part in ("weight", "bias")}
    convolutions, images = [("conv1", "synthesis.b4.conv1")], [("to_rgb1", "synthesis.b4.torgb")]
    for k, r in enumerate(resolutions(img_resolution)[1:]):
        convolutions += [(f"convs.{2 * k + i}", f"synthesis.b{r}.conv{i}") for i in (0, 1)]
        images.append((f"to_rgbs.{k}", f"synthesis.b{r}.torgb"))
    for j, (theirs, ours) in enumerate(convolutions):
        names |= dict(_layer(theirs, ours))
        names |= {f"{theirs}.noise.weight": f"{ours}.noise_strength", f"{theirs}.activate.bias": f"{ours}.bias"}
        names[f"noises.noise_{j}"] = f"{ours}.noise_const"
    for theirs, ours in images:
        names |= {**dict(_layer(theirs, ours)), f"{theirs}.bias": f"{ours}.bias"}
    return names


def discriminator_names(img_resolution: int) -> dict[str, str]:
    """Their name -> the official one, for everything but the fixed kernels."""
    names = {
        "convs.0.0.weight": f"b{img_resolution}.fromrgb.weight",
        "convs.0.1.bias": f"b{img_resolution}.fromrgb.bias",
    }

    for j, r in enumerate(resolutions(img_resolution)[:0:-1], start=1):
        names |= {
            f"convs.{j}.conv1.0.weight": f"b{r}.conv0.weight",
            f"convs.{j}.conv1.1.bias": f"b{r}.conv0.bias",
            f"convs.{j}.conv2.1.weight": f"b{r}.conv1.weight",
            f"convs.{j}.conv2.2.bias": f"b{r}.conv1.bias",
            f"convs.{j}.skip.1.weight": f"b{r}.skip.weight",
        }

    names |= {"final_conv.0.weight": "b4.conv.weight", "final_conv.1.bias": "b4.conv.bias"}
    for i, ours in enumerate(("fc", "out")):
        names |= {f"final_linear.{i}.{part}": f"b4.{ours}.{part}" for part in ("weight", "bias")}
    return names


def _kernels(kind: type, img_resolution: int) -> dict[str, float]:
    """Names of the fixed blur kernels -> their sum: upsampling ones restore the brightness that zeros took."""
    blocks = range(len(resolutions(img_resolution)) - 1)
    if kind is Generator:
        return {
            name: 4.0 for k in blocks for name in (f"convs.{2 * k}.conv.blur.kernel", f"to_rgbs.{k}.upsample.kernel")
        }
    return {name: 1.0 for k in blocks for name in (f"convs.{k + 1}.conv2.0.kernel", f"convs.{k + 1}.skip.0.kernel")}


def _filters(names: Iterable[str]) -> set[str]:
    """Official names of the fixed resampling filters: one of each layer, one of each block."""
    layers = [re.fullmatch(r"((?:synthesis\.)?b(\d+)\.)(conv\d?|fromrgb|skip)\.weight", name) for name in names]
    found = {f"{layer[1]}{layer[3]}.resample_filter" for layer in layers if layer}
    blocks = {layer[1] for layer in layers if layer and not layer[0].startswith("b4.")}  # the epilogue has none
    return found | {f"{block}resample_filter" for block in blocks}


def _names(kind: type, img_resolution: int, mapping_layers: int) -> dict[str, str]:
    if kind is Generator:
        return generator_names(img_resolution, mapping_layers)
    return discriminator_names(img_resolution)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read(data: bytes, path: Path) -> Checkpoint:
    """The networks of a `.pt`, given its bytes.

    Raises:
        TristyleError: no such file, or an architecture that is not StyleGAN2 as published.
        Damaged, ValueError, LookupError, TypeError, BadZipFile: broken bytes (see `pickles.torch_file`).
    """
    root = torch_file(data)
    if not isinstance(root, dict) or not isinstance(root.get("g_ema"), dict):
        raise refusal(path, "is a torch file without the state dict g_ema", REMEDY)
    stated, mean = root.get("arguments", {}), root.get("latent_avg")
    stated = stated if isinstance(stated, dict) else {}
    w_avg = mean.array().reshape(-1) if isinstance(mean, TensorView) else None

    def network(kind: type[Network], key: str) -> Network:
        return _network(kind, _arrays(root[key], path, key), stated.get(key), w_avg, path, key)

    checkpoint = Checkpoint(format=FORMAT, generator=network(Generator, "g_ema"))
    if isinstance(root.get("g"), dict):
        checkpoint.raw = network(Generator, "g")
    if isinstance(root.get("d"), dict):
        checkpoint.discriminator = network(Discriminator, "d")
    if w_avg is None:
        checkpoint.notes["mean w"] = f"not in the file; the mean of {MEAN_SAMPLES} random ones"
        for generator in filter(None, (checkpoint.generator, checkpoint.raw)):
            generator.mapping.w_avg.copy_(_mean_w(generator))
    if isinstance(root.get("ada_aug_p"), int | float):
        checkpoint.notes["augmentation"] = f"p = {root['ada_aug_p']:g}"
    return checkpoint


def _arrays(state: Mapping[Any, Any], path: Path, name: str) -> State:
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, TensorView):
            raise refusal(path, f"{name} holds something else than named tensors", DAMAGED)
    if len(set(map(id, state.values()))) < len(state):
        raise refusal(path, f"{name} holds a tensor twice", DAMAGED)
    return {key: value.array() for key, value in state.items()}


def _network(
    kind: type[Network], theirs: State, stated: Any, w_avg: np.ndarray | None, path: Path, name: str
) -> Network:
    """One state dict of theirs as our network. `stated`: our arguments, where this project wrote the file."""
    arguments = _sizes(kind, theirs, path, name)
    if isinstance(stated, dict) and all(type(value) in (int, float, type(None)) for value in stated.values()):
        arguments = stated

    # Arguments decide how much is built: they are checked before anything is.
    resolution, layers = arguments.get("img_resolution"), arguments.get("num_layers", 0)
    if type(resolution) is not int or type(layers) is not int or layers > len(theirs):
        raise refusal(path, f"{name}: its arguments are not sizes", DAMAGED)
    try:
        names: dict[str, str] = _names(kind, resolution, layers)
        kernels: dict[str, float] = _kernels(kind, resolution)
    except ValueError as error:  # no power of two
        raise refusal(path, f"{name}: {error}", UNFIT) from None

    # Every tensor has a place, and the fixed blur kernels are the ones that we have.
    state: State = {}
    fir = setup_filter(FIR_TAPS).numpy()
    for key, value in theirs.items():
        if key in kernels:
            if value.shape != fir.shape or not np.allclose(value, fir * kernels[key], atol=1e-6):
                raise refusal(path, f"{name}: {key} is another blur than [1, 3, 3, 1]", UNFIT)
        elif key in names:
            state[names[key]] = _ours(names[key], value)
        else:
            raise refusal(path, f"{name} has a tensor too many, {key}", UNFIT)
    for key in (*kernels, *names):
        if key not in theirs:
            raise refusal(path, f"{name} lacks {key}", UNFIT)

    state |= dict.fromkeys(_filters(names.values()), fir)
    if kind is Generator:
        zeros = np.zeros(theirs["style.1.bias"].shape, np.float32)
        state["mapping.w_avg"] = zeros if w_avg is None else w_avg
    return build(kind, arguments, state, path, name)


def _ours(name: str, value: np.ndarray) -> np.ndarray:
    """The tensor in its official shape: theirs has one axis of length 1 more, or two."""
    if name.endswith(".noise_const") and value.ndim == 4:
        out: np.ndarray = value[0, 0]
        return out
    if name.endswith(".torgb.bias"):
        return value.reshape(-1)
    lead = name.endswith(".noise_strength") or name.endswith(".const") or _modulated(name)
    return value[0] if lead and value.ndim and len(value) == 1 else value


def _modulated(name: str) -> bool:
    """Whether this is the kernel of a modulated convolution."""
    return re.fullmatch(r"synthesis\.b\d+\.(conv\d|torgb)\.weight", name) is not None


def _sizes(kind: type, theirs: State, path: Path, name: str) -> dict[str, Any]:
    """Our constructor's arguments, read off the shapes.

    Raises:
        TristyleError: the channels do not follow ``min(base // resolution, max)``.
    """
    try:
        if kind is Generator:
            layers = sum(re.fullmatch(r"style\.\d+\.weight", key) is not None for key in theirs)
            blocks = sum(re.fullmatch(r"to_rgbs\.\d+\.bias", key) is not None for key in theirs)
            channels = [theirs["input.input"].shape[1]]
            channels += [theirs[f"to_rgbs.{k}.conv.weight"].shape[2] for k in range(blocks)]
            w_dim, z_dim = theirs["style.1.weight"].shape
            sizes = {
                "z_dim": z_dim, "w_dim": w_dim, "num_layers": layers,
                "img_channels": theirs["to_rgb1.conv.weight"].shape[1],
            }  # fmt: skip
        else:
            blocks = sum(re.fullmatch(r"convs\.\d+\.skip\.1\.weight", key) is not None for key in theirs)
            channels = [theirs["final_conv.0.weight"].shape[0]]
            channels += [theirs[f"convs.{j}.skip.1.weight"].shape[1] for j in range(blocks, 0, -1)]
            sizes = {"img_channels": theirs["convs.0.0.weight"].shape[1]}
    except (KeyError, IndexError, ValueError):
        raise refusal(path, f"{name} is not a state dict of StyleGAN2", UNFIT) from None

    # Channels follow a table `min(base // resolution, max)`, which is read back from them.
    if blocks > 20:
        raise refusal(path, f"{name} has {blocks} resolutions", UNFIT)
    widest = max(channels)
    base = max(width * 4 * 2**i for i, width in enumerate(channels))
    if [min(base // (4 * 2**i), widest) for i in range(len(channels))] != channels:
        raise refusal(path, f"{name}: its channels {channels} do not follow min(base / resolution, max)", UNFIT)
    return sizes | {"img_resolution": 4 * 2**blocks, "channel_base": base, "channel_max": widest}


@torch.no_grad()
def _mean_w(generator: Generator) -> torch.Tensor:
    """Mean w [w_dim] over MEAN_SAMPLES latents of a fixed seed, as that code takes it."""
    z = torch.randn(MEAN_SAMPLES, generator.z_dim, generator=torch.Generator().manual_seed(0))
    out: torch.Tensor = generator.mapping(z, update_w_avg=False)[:, 0].mean(dim=0)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def payload(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `torch.save` writes: g_ema, latent_avg, g and d where known, and our arguments."""
    networks = {"g_ema": checkpoint.generator, "g": checkpoint.raw, "d": checkpoint.discriminator}
    known = {key: network for key, network in networks.items() if network is not None}
    saved: dict[str, Any] = {key: _state(network) for key, network in known.items()}
    saved["latent_avg"] = checkpoint.generator.mapping.w_avg.clone()
    saved["arguments"] = {key: dict(network.arguments) for key, network in known.items()}
    return saved


def _state(network: Generator | Discriminator) -> dict[str, torch.Tensor]:
    kind, arguments = type(network), network.arguments
    ours = network.state_dict()
    names = _names(kind, arguments["img_resolution"], arguments.get("num_layers", 0))
    state = {theirs: _theirs(name, ours[name]) for theirs, name in names.items()}
    fir = setup_filter(FIR_TAPS)
    return state | {key: fir * gain for key, gain in _kernels(kind, arguments["img_resolution"]).items()}


def _theirs(name: str, value: torch.Tensor) -> torch.Tensor:
    value = value.detach().cpu()
    if name.endswith(".noise_const"):
        value = value[None, None]
    elif name.endswith(".torgb.bias"):
        value = value.reshape(1, -1, 1, 1)
    elif name.endswith((".noise_strength", ".const")) or _modulated(name):
        value = value[None]
    return value.clone(memory_format=torch.contiguous_format)


def differences(checkpoint: Checkpoint) -> list[str]:
    """Sentences about what rosinality's own code would compute differently from a file written by `payload`."""
    g, d = checkpoint.generator.arguments, checkpoint.discriminator
    said = []
    if g["conv_clamp"] is not None:
        said.append(f"it does not clamp activations at {g['conv_clamp']:g}")
    if g["lr_multiplier"] != 0.01:
        said.append(f"it multiplies the mapping network's weights by 0.01, not {g['lr_multiplier']:g}")
    if g["z_dim"] != g["w_dim"]:
        said.append(f"it cannot build z_dim {g['z_dim']} with w_dim {g['w_dim']}")
    if g["img_channels"] != 3:
        said.append("it cannot build images of other than 3 channels")
    if d is not None and d.arguments["mbstd_group_size"] != 4:
        said.append(f"its minibatch statistic has groups of 4, not {d.arguments['mbstd_group_size']}")

    ours = [min(g["channel_base"] // r, g["channel_max"]) for r in resolutions(g["img_resolution"])]
    tables = [[min(base // r, 512) for r in resolutions(g["img_resolution"])] for base in (16384, 32768)]
    if ours not in tables:
        said.append("it knows no such channels without a change to its table")
    return said
