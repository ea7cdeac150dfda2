"""The public U-GAT-IT project's checkpoint files (PyTorch): a torch archive of six state dicts.

    python -m stages.pair.ugatit_checkpoints FILE.pt translator.safetensors     # genA2B, photo -> style
    python -m stages.pair.ugatit_checkpoints translator.safetensors FILE.pt

In the files A is the photo, B the style; G, L are the global and the local discriminator of a domain.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.core.files import write_bytes
from stages.core.settings import TristyleError
from stages.core.weights import load_network, save_network
from stages.networks.ugatit import CamDiscriminator, ResnetGenerator

GENERATORS = ("genA2B", "genB2A")
DISCRIMINATORS = ("disGA", "disGB", "disLA", "disLB")
DEEPEST = 8  # published: 5 and 7


def published(
    ngf: int = 64,
    n_blocks: int = 4,
    img_size: int = 256,
    light: bool = True,
    n_layers: tuple[int, int] = (7, 5),
    max_width: int | None = None,
) -> dict[str, nn.Module]:
    """Newly drawn networks under their published names.

    Args:
        ngf: channels of the first layer, of generators and discriminators alike.
        n_blocks: residual blocks of a generator.
        img_size: side of the pictures, px.
        light: the light version of the generators.
        n_layers: depths of the global and the local discriminators.
        max_width: most channels of a discriminator's layer; None as published.
    """
    networks: dict[str, nn.Module] = {name: ResnetGenerator(ngf, n_blocks, img_size, light) for name in GENERATORS}
    for name in DISCRIMINATORS:
        networks[name] = CamDiscriminator(ngf, n_layers[name[3] == "L"], max_width)
    return networks


def read_reference(path: Path | str) -> dict[str, nn.Module]:
    """The six networks of a file of the public PyTorch project, in eval mode.

    Sizes follow from the tensors' shapes. Only tensors are read: code in the file is never executed. A light
    generator's file does not say its image size, and its network accepts any; 256 is noted.

    Raises:
        TristyleError: the file does not exist, is damaged or holds other things than tensors, or a network or key is
            missing, unknown or of another shape; one line that names file, network and key.
    """
    file = _open(Path(path))
    networks = {}
    for name in (*GENERATORS, *DISCRIMINATORS):
        state = file.get(name)
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise _refusal(path, f"{name} is missing or not a state dict")
        try:
            networks[name] = network_of(name, state)
        except ValueError as error:
            raise _refusal(path, f"{name}: {error}") from None
    return networks


def write_reference(path: Path | str, networks: Mapping[str, nn.Module]) -> None:
    """Write the six networks as the public project saves and loads them; atomic.

    Raises:
        TristyleError: a network that the public code cannot hold (mask head, pooled full MLP, capped width).
    """
    for name in (*GENERATORS, *DISCRIMINATORS):
        arguments: Any = networks[name].arguments
        uncapped = arguments.get("ndf", 0) * 2 ** (arguments.get("n_layers", 2) - 2)
        if arguments.get("mask") or arguments.get("full_pool") or (arguments.get("max_width") or uncapped) < uncapped:
            raise TristyleError(
                f"{path}: {name} has a mask head, a pooled MLP or a capped width, which the public code does not know. "
                "Train it with pair=plain and without them."
            )
    buffer = io.BytesIO()
    states = {name: networks[name].state_dict() for name in (*GENERATORS, *DISCRIMINATORS)}
    torch.save(
        {name: {k: v.detach().cpu().contiguous() for k, v in state.items()} for name, state in states.items()}, buffer
    )
    write_bytes(path, buffer.getvalue())


def network_of(name: str, state: Mapping[str, Tensor], img_size: int = 256) -> nn.Module:
    """The network that a published state dict describes, with its weights in float32, in eval mode.

    Args:
        name: one of `GENERATORS` or `DISCRIMINATORS`.
        state: the published names and weights.
        img_size: noted for a light generator.

    Raises:
        ValueError: names the key that is missing, unknown, of another shape than the rest, or not finite.
    """
    network = _generator(state, img_size) if name in GENERATORS else _discriminator(state)
    expected = network.state_dict()
    for key in (*expected, *state):
        if key not in state:
            raise ValueError(f"{key} is missing")
        if key not in expected:
            raise ValueError(f"{key} is unknown")
        if state[key].shape != expected[key].shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
            raise ValueError(f"{key} has the shape {shapes}")
        if not state[key].is_floating_point() or not state[key].isfinite().all():
            raise ValueError(f"{key} holds a value that is not a finite number")
    network.load_state_dict({key: value.float().contiguous() for key, value in state.items()}, assign=True)
    return network.eval()


def _generator(state: Mapping[str, Tensor], img_size: int) -> ResnetGenerator:
    ngf = _shape(state, "DownBlock.1.weight", 4)[0]
    blocks = sum(key.startswith("UpBlock1_") and key.endswith(".conv1.weight") for key in state)
    _, features = _shape(state, "FC.0.weight", 2)
    cells = round((features / (4 * ngf)) ** 0.5)
    return ResnetGenerator(ngf, blocks, 4 * cells if cells > 1 else img_size, light=cells <= 1)


def _discriminator(state: Mapping[str, Tensor]) -> CamDiscriminator:
    ndf = _shape(state, "model.1.weight_orig", 4)[0]
    depth = 1 + sum(key.startswith("model.") and key.endswith(".weight_orig") for key in state)
    last = _shape(state, f"model.{3 * (depth - 2) + 1}.weight_orig", 4)[0]
    if depth > DEEPEST:  # before so much is allocated: every layer doubles the width
        raise ValueError(f"model.{3 * (depth - 2) + 1}.weight_orig: more than {DEEPEST - 1} convolutions")
    return CamDiscriminator(ndf, depth, None if last == ndf * 2 ** (depth - 2) else last)


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int) -> torch.Size:
    if key not in state or state[key].ndim != dimensions or not state[key].numel():
        raise ValueError(f"{key} is missing, empty, or not of {dimensions} dimensions")
    return state[key].shape


def _open(path: Path) -> dict[str, Any]:
    try:
        file = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TristyleError(f"{path}: no such file. Check the path.") from None
    except Exception:  # torch raises a dozen types for damaged archives and for pickles that hold more than tensors
        raise _refusal(path, "damaged, or it holds more than tensors, which is never executed") from None
    if not isinstance(file, dict):
        raise _refusal(path, f"holds {type(file).__name__}, not six networks")
    return file


def _refusal(path: Path | str, problem: str) -> TristyleError:
    return TristyleError(f"{path}: {problem}. Give a parameter file of the public U-GAT-IT for PyTorch.")


def convert(source: Path, target: Path) -> str:
    """Convert a published file to a safetensors file of its photo -> style generator, or back.

    On the way back the five other networks are drawn anew, because the public code asks for six.

    Args:
        source: the file to read; its suffix decides the direction.
        target: the file to write.

    Returns:
        What was written, in a sentence.

    Raises:
        TristyleError: the file is unreadable or cannot be converted; one line.
    """
    if source.suffix != ".safetensors":
        generator = read_reference(source)["genA2B"]
        save_network(target, generator)
        return f"{target}: the photo -> style generator of {source}, {generator.arguments}"
    generator = load_network(source)
    if not isinstance(generator, ResnetGenerator):
        raise TristyleError(f"{source}: holds {type(generator).__name__}, not a U-GAT-IT generator. Give another file.")
    size: dict[str, Any] = {key: generator.arguments[key] for key in ("ngf", "n_blocks", "img_size", "light")}
    write_reference(target, {**published(**size), "genA2B": generator})
    return f"{target}: the generator as genA2B; genB2A and the discriminators are untrained"


def main() -> None:
    """Command line: two paths; a line on stderr and exit code 2 when they do not work out."""
    parser = argparse.ArgumentParser(description="Convert between the public U-GAT-IT files (.pt) and safetensors.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    try:
        print(convert(arguments.source, arguments.target))
    except TristyleError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
