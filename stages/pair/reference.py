"""U-GAT-IT's training iteration as published, and the public PyTorch project's checkpoint files.

    python -m stages.pair.reference FILE.pt translator.safetensors     # genA2B, photo -> style
    python -m stages.pair.reference translator.safetensors FILE.pt

Kim et al. (arXiv 1907.10830, eq. 3-7) with the order and the details of the authors' PyTorch code: the yardstick for
the task that is trained here (`stages/pair/ugatit.py`), in numbers and in cost, and no more than that. Here and in the
files A is the photo, B the style; G, L are the global and the local discriminator of a domain:

  * the discriminators step first. They look at real pictures, then at fakes of their own, in two passes (each pass
    moves the spectral norm's estimates by one power iteration). The gradient runs on into the generators, where it is
    thrown away: `detach=True` spares that and changes no number;
  * the generators step on fresh fakes; then every rho is clipped to [0, 1];
  * Adam with 1e-4, betas (0.5, 0.999) and a weight decay of 1e-4 for both.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.config import TristyleError
from stages.io import load_network, save_network, write_bytes
from stages.losses import cam_classification, lsgan
from stages.networks.ugatit import Discriminator, ResnetGenerator, clip_rho

GENERATORS = ("genA2B", "genB2A")
DISCRIMINATORS = ("disGA", "disGB", "disLA", "disLB")
GENERATOR_WEIGHTS = {"ad": 1.0, "cam": 1.0, "cyc": 10.0, "idt": 10.0, "camcls": 1000.0}
DEEPEST = 8  # published: 5 and 7

# ---------------------------------------------------------------------------------------------------------------------
# The training iteration


class Reference(nn.Module):
    """The six networks under their published names and their two optimisers.

    Args:
        networks: `GENERATORS` and `DISCRIMINATORS` by name, e.g. of `published` or `read_reference`.
        detach: cut the discriminators' fakes off from the generators; the same numbers for less work.
    """

    def __init__(self, networks: Mapping[str, nn.Module], detach: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(dict(networks))
        self.detach = detach
        self.optimizers = [
            torch.optim.Adam(
                chain.from_iterable(self.networks[name].parameters() for name in names),
                lr=1e-4,
                betas=(0.5, 0.999),
                weight_decay=1e-4,
            )
            for names in (DISCRIMINATORS, GENERATORS)
        ]

    def iteration(self, photo: Tensor, style: Tensor) -> dict[str, Tensor]:
        """One step of the discriminators, one of the generators.

        Args:
            photo, style: [N, 3, H, W] in [-1, 1], of the type of the networks.

        Returns:
            The unweighted terms, scalars: `D_ad_*` and `D_cam_*` of each discriminator (GA, LA, GB, LB) and `D_total`;
            `G_ad_*`, `G_cam_*`, `G_cyc_*`, `G_idt_*`, `G_camcls_*` and the weighted `G_total`.
        """
        discriminators, generators = self.optimizers
        terms = self._discriminator_terms(photo, style)
        terms["D_total"] = torch.stack(list(terms.values())).sum()
        _step(discriminators, terms["D_total"])
        more = self._generator_terms(photo, style)
        more["G_total"] = torch.stack([GENERATOR_WEIGHTS[key.split("_")[1]] * more[key] for key in more]).sum()
        _step(generators, more["G_total"])
        for name in GENERATORS:
            clip_rho(self.networks[name])
        return {key: value.detach() for key, value in {**terms, **more}.items()}

    def _discriminator_terms(self, photo: Tensor, style: Tensor) -> dict[str, Tensor]:
        fake_style, fake_photo = self.networks["genA2B"](photo).image, self.networks["genB2A"](style).image
        if self.detach:
            fake_style, fake_photo = fake_style.detach(), fake_photo.detach()
        terms = {}
        for name in DISCRIMINATORS:
            judge, (real, fake) = self.networks[name], (photo, fake_photo) if name[-1] == "A" else (style, fake_style)
            of_real, of_fake = judge(real), judge(fake)
            terms[f"D_ad_{name[3:]}"] = lsgan(of_real.logit, 1.0) + lsgan(of_fake.logit, 0.0)
            terms[f"D_cam_{name[3:]}"] = lsgan(of_real.cam_logit, 1.0) + lsgan(of_fake.cam_logit, 0.0)
        return terms

    def _generator_terms(self, photo: Tensor, style: Tensor) -> dict[str, Tensor]:
        to_style, to_photo = self.networks["genA2B"], self.networks["genB2A"]
        fake_style, fake_photo = to_style(photo), to_photo(style)
        again_photo, again_style = to_photo(fake_style.image).image, to_style(fake_photo.image).image
        same_photo, same_style = to_photo(photo), to_style(style)
        terms = {}
        for name in DISCRIMINATORS:
            verdict = self.networks[name]((fake_photo if name[-1] == "A" else fake_style).image)
            terms[f"G_ad_{name[3:]}"] = lsgan(verdict.logit, 1.0)
            terms[f"G_cam_{name[3:]}"] = lsgan(verdict.cam_logit, 1.0)
        terms["G_cyc_A"], terms["G_cyc_B"] = (again_photo - photo).abs().mean(), (again_style - style).abs().mean()
        terms["G_idt_A"] = (same_photo.image - photo).abs().mean()
        terms["G_idt_B"] = (same_style.image - style).abs().mean()
        for domain, source, target in (("A", fake_photo, same_photo), ("B", fake_style, same_style)):
            terms[f"G_camcls_{domain}"] = cam_classification(source.cam_logit, True) + cam_classification(
                target.cam_logit, False
            )
        return terms


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def published(
    ngf: int = 64,
    n_blocks: int = 4,
    img_size: int = 256,
    light: bool = True,
    n_layers: tuple[int, int] = (7, 5),
    max_width: int | None = None,
) -> dict[str, nn.Module]:
    """Newly drawn networks under their published names; `n_layers` are the depths of the global and local scale.

    The first layer of the discriminators is as wide as the generators'. `max_width` caps them (None: as published).
    """
    networks: dict[str, nn.Module] = {name: ResnetGenerator(ngf, n_blocks, img_size, light) for name in GENERATORS}
    for name in DISCRIMINATORS:
        networks[name] = Discriminator(ngf, n_layers[name[3] == "L"], max_width)
    return networks


# ---------------------------------------------------------------------------------------------------------------------
# The public project's files: a torch archive of six state dicts


def read_reference(path: Path | str) -> dict[str, nn.Module]:
    """The six networks of a file of the public PyTorch project, in eval mode; sizes are read off the tensors' shapes.

    Only tensors are read: code in the file is never executed. A light generator's file does not say its image size
    (any is accepted by the network); 256 is noted.

    Raises:
        TristyleError: no such file, damaged, something other than tensors in it, a network or key that is missing,
            unknown or of a shape that does not fit; one line naming file, network and key.
    """
    file = _open(Path(path))
    networks = {}
    for name in (*GENERATORS, *DISCRIMINATORS):
        state = file.get(name)
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise _refusal(path, f"{name} is missing or no state dict")
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
            raise ValueError(f"{key} holds what is no finite number")
    network.load_state_dict({key: value.float().contiguous() for key, value in state.items()}, assign=True)
    return network.eval()


def _generator(state: Mapping[str, Tensor], img_size: int) -> ResnetGenerator:
    ngf = _shape(state, "DownBlock.1.weight", 4)[0]
    blocks = sum(key.startswith("UpBlock1_") and key.endswith(".conv1.weight") for key in state)
    _, features = _shape(state, "FC.0.weight", 2)
    cells = round((features / (4 * ngf)) ** 0.5)
    return ResnetGenerator(ngf, blocks, 4 * cells if cells > 1 else img_size, light=cells <= 1)


def _discriminator(state: Mapping[str, Tensor]) -> Discriminator:
    ndf = _shape(state, "model.1.weight_orig", 4)[0]
    depth = 1 + sum(key.startswith("model.") and key.endswith(".weight_orig") for key in state)
    last = _shape(state, f"model.{3 * (depth - 2) + 1}.weight_orig", 4)[0]
    if depth > DEEPEST:  # before so much is allocated: every layer doubles the width
        raise ValueError(f"model.{3 * (depth - 2) + 1}.weight_orig: more than {DEEPEST - 1} convolutions")
    return Discriminator(ndf, depth, None if last == ndf * 2 ** (depth - 2) else last)


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
    """A published file -> its photo -> style generator as safetensors, or back; what was written, in a sentence.

    On the way back the five other networks are drawn anew: the public code asks for six.

    Raises:
        TristyleError: unreadable, or not convertible; one line.
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
