"""From the arguments and tensors that a foreign file holds to our networks, strictly, and the words of a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from stages.core.settings import TristyleError
from stages.networks.stylegan2 import Discriminator, Generator, resolutions

LARGEST = 1e6  # no weight of a trained network comes near; a float whose highest exponent bit flipped lies far beyond
DAMAGED = "Get the file again"
UNFIT = "Only StyleGAN2 as published is read: skip generator, residual discriminator, unconditional"
Network = TypeVar("Network", Generator, Discriminator)


@dataclass(kw_only=True)
class Checkpoint:
    """What a file of weights holds.

    Args:
        format: its name, for people.
        generator: the averaged weights (G_ema), which draw the pictures; eval mode.
        raw: the generator as trained, where the file has it; a training goes on from the average all the same.
        discriminator: where the file has it.
        notes: what else is known or was assumed, name -> sentence.
    """

    format: str
    generator: Generator
    raw: Generator | None = None
    discriminator: Discriminator | None = None
    notes: dict[str, str] = field(default_factory=dict)


def refusal(path: Path, problem: str, remedy: str) -> TristyleError:
    """One printable line: file, problem (which may quote the file), remedy."""
    line = " ".join(problem.split())
    shown = "".join(c if c.isprintable() else "?" for c in line)
    return TristyleError(f"{path}: {shown if len(shown) <= 300 else shown[:300] + ' ...'}. {remedy}.")


def _outline(kind: type, arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that make nearly all of the network, from its arguments alone."""
    channels = {
        r: min(arguments["channel_base"] // r, arguments["channel_max"])
        for r in resolutions(arguments["img_resolution"])
    }

    # A generator: mapping, then each resolution.
    outline: dict[str, tuple[int, ...]] = {}
    if kind is Generator:
        outline["mapping.fc0.weight"] = (arguments["w_dim"], arguments["z_dim"])
        for r, width in channels.items():
            block = f"synthesis.b{r}"
            outline[f"{block}.conv1.weight"] = (width, width, 3, 3)
            outline[f"{block}.conv1.affine.weight"] = (width, arguments["w_dim"])
            outline[f"{block}.conv1.noise_const"] = (r, r)
            outline[f"{block}.torgb.weight"] = (arguments["img_channels"], width, 1, 1)
        return outline

    # A discriminator, from the picture down.
    first = arguments["img_resolution"]
    outline[f"b{first}.fromrgb.weight"] = (channels[first], arguments["img_channels"], 1, 1)
    outline |= {f"b{r}.conv0.weight": (width, width, 3, 3) for r, width in channels.items() if r > 4}
    return outline | {
        "b4.conv.weight": (channels[4], channels[4] + 1, 3, 3),
        "b4.fc.weight": (channels[4], channels[4] * 16),
    }


def _fit(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, np.ndarray], path: Path, name: str) -> None:
    for key, shape in expected.items():
        if key not in state:
            raise refusal(path, f"{name} lacks {key}", UNFIT)
        if state[key].shape != shape:
            problem = f"{key} is {list(state[key].shape)}, where its arguments demand {list(shape)}"
            raise refusal(path, f"{name}: {problem}", DAMAGED)


def build(
    kind: type[Network], arguments: Mapping[str, Any], state: Mapping[str, np.ndarray], path: Path, name: str
) -> Network:
    """The network with these weights; float32, eval mode.

    The large shapes are compared before anything is built: wrong arguments must not allocate what the file lacks.

    Args:
        kind: class of the network.
        arguments: of its construction.
        state: under the official names, float16, float32 or float64.
        path: of the file, for the message.
        name: of the network in it, for the message.

    Raises:
        TristyleError: names, shapes or types differ, or values are not finite or beyond any weight.
    """
    layers = sum(key.startswith("mapping.fc") and key.endswith(".weight") for key in state)
    if "num_layers" in arguments and arguments["num_layers"] != layers:
        problem = f"{name} states {arguments['num_layers']} mapping layers and holds {layers}"
        raise refusal(path, problem, DAMAGED)

    # The large shapes first: wrong arguments must not allocate what the file lacks.
    try:
        _fit(_outline(kind, arguments), state, path, name)
        network = kind(**arguments)
    except (ValueError, TypeError, KeyError, RuntimeError, ArithmeticError) as error:
        raise refusal(path, f"{name} cannot be built from its arguments ({error})", UNFIT) from None

    # Then every tensor, name by name, and its values.
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    _fit(expected, state, path, name)
    for key in state.keys() - expected.keys():
        raise refusal(path, f"{name} has a tensor too many, {key}", UNFIT)
    for key, value in state.items():
        if value.dtype.kind != "f":
            raise refusal(path, f"{name}: {key} holds {value.dtype}, not floating-point numbers", DAMAGED)
        if not np.abs(value).max() <= LARGEST:  # false for NaN, too
            raise refusal(path, f"{name}: {key} holds values that no network has (NaN, infinite or huge)", DAMAGED)

    network.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, strict=True)
    return network.eval()
