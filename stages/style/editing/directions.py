"""Editing by moving w along directions of meaning: unsupervised ones of the weights, supervised ones of a face reader.

Sources: closed-form factorisation, SeFa (Shen & Zhou, arXiv 2007.06600, eq. 4-6: eigenvectors of A A^T); separating
hyperplanes in w and conditional manipulation, InterFaceGAN (Shen et al., arXiv 2005.09635, sec. 2.2-2.4). What differs:
eigenvectors are sorted by their eigenvalue; a boundary is a ridge regression on the ranks of all samples instead of a
support vector machine on the extreme ones (closed form, repeatable, and the rarer the attribute, the more it gains);
several conditions are projected out together, since boundaries are not orthogonal to each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.files import read_json, write_bytes, write_json
from stages.core.settings import ConfigError, TristyleError, choice, number
from stages.metrics.attributes import NAMES, attributes, check_name
from stages.networks.face_reader import Reader
from stages.networks.latents import decode, latents
from stages.networks.stylegan2 import Generator
from stages.style.sampling.candidates import Candidates

RENAMED = {"hair": "hair_area", "hair_tone": "hair_lightness", "skin_tone": "skin_lightness"}
FEWEST = 20  # samples that show an attribute, to find its direction by
HIGHEST = 1024
SHRINKAGE = 0.5  # ridge of a boundary, in mean variances of w times w_dim / samples: what noise weighs against them
FITTED = 0.7  # share of the samples that a boundary is fitted to; the others measure its accuracy
EXTREME = 0.2  # of the held-out samples, at either end, that accuracy is counted on: the middle has no clear side


@dataclass(kw_only=True)
class Edit:
    """One movement of w.

    Args:
        direction: an attribute of `stages.metrics.attributes`, or the rank of a closed-form direction (0: changes the
            layers most).
        alpha: how far to move, in standard deviations of w along the direction.
        low, high: resolutions in px whose layers move; for a closed-form direction also the layers that it is of.
        conditioned_on: attributes to keep meanwhile: their directions are projected out.
    """

    direction: str | int
    alpha: float
    low: int = 4
    high: int = HIGHEST
    conditioned_on: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.direction, str):
            check_name("direction", self.direction, NAMES, RENAMED)
        else:
            number("direction", self.direction, 0, 4095, integer=True)
        number("alpha", self.alpha, -20, 20)
        for key in ("low", "high"):
            choice(key, getattr(self, key), [2**i for i in range(2, 11)])
        if self.low > self.high:
            raise ConfigError("low", f"{self.low} px is above high={self.high} px", "Give low at most high")
        for name in self.conditioned_on:
            check_name("conditioned_on", name, NAMES, RENAMED)
        if self.direction in self.conditioned_on:
            raise ConfigError("conditioned_on", f"{self.direction} is what the edit moves", "Leave it out of the list")

    @property
    def key(self) -> str:
        """Name of its direction: the attribute, or ``sefa<rank>_<low>_<high>``."""
        is_name = isinstance(self.direction, str)
        return str(self.direction) if is_name else f"sefa{self.direction}_{self.low}_{self.high}"


@dataclass(frozen=True)
class Direction:
    """A unit direction in w.

    Attributes:
        normal: float32 [w_dim] of unit length, towards more of the attribute.
        std: standard deviation of w along it; one unit of alpha.
        accuracy: share of held-out samples (the fifth with most and the fifth with least of the attribute) on the right
            side of the boundary, 0.5 chance; None for a closed-form direction.
    """

    normal: Tensor
    std: float
    accuracy: float | None = None


# ---------------------------------------------------------------------------------------------------------------------
# Closed-form directions


@torch.no_grad()
def sefa(
    generator: Generator, low: int = 4, high: int = HIGHEST, count: int = 5, to_rgb: bool = False
) -> tuple[Tensor, Tensor]:
    """Directions that change the styles of a range of layers most (SeFa, eq. 6).

    Args:
        generator: whose styles are meant.
        low: least resolution whose affine layers are factorised, px.
        high: greatest one, px.
        count: directions wanted, at most w_dim.
        to_rgb: count the affine layers of toRGB, too.

    Returns:
        directions [count, w_dim] of unit length, strongest first, the largest component of each positive; and their
        eigenvalues [count], falling.

    Raises:
        TristyleError: the generator has no layer in the range, or fewer directions than `count`.
    """
    weights = [
        module.weight.double()  # [I, w_dim]
        for name, module in generator.synthesis.named_modules()
        if (found := re.fullmatch(r"b(\d+)\.(conv\d|torgb)\.affine", name))
        and low <= int(found[1]) <= high
        and (to_rgb or found[2] != "torgb")
    ]

    w_dim = generator.mapping.w_avg.numel()
    if not weights or count > w_dim:
        problem = f"only {w_dim} directions" if weights else f"no layer from {low} to {high} px"
        raise TristyleError(f"edit: a generator of {generator.img_resolution} px has {problem}. Ask for less.")

    # Eigenvectors of A A^T, the strongest first; their sign is free and is fixed here.
    a = F.normalize(torch.cat(weights), dim=1).t()  # [w_dim, channels], columns of unit length
    values, vectors = torch.linalg.eigh(a @ a.t())  # rising
    directions = vectors.flip(1).t()[:count]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * largest.sign()).float(), values.flip(0)[:count].float()


# ---------------------------------------------------------------------------------------------------------------------
# Supervised boundaries


@torch.no_grad()
def boundaries(
    generator: Generator,
    reader: Reader,
    count: int = 1000,
    psi: float = 0.7,
    seed: int = 0,
    names: Sequence[str] = NAMES,
) -> dict[str, Direction]:
    """The direction of each attribute, from samples of the generator as the face reader sees them.

    Args:
        generator: draws the samples.
        reader: the face reader, which measures them.
        count: samples, at least 20. From a few hundred on the accuracy stands.
        psi: truncation of the samples. The directions hold for w, whatever its truncation.
        seed: of the first sample.
        names: attributes, of `stages.metrics.attributes.NAMES`.

    Raises:
        TristyleError: too few samples show an attribute.
    """
    number("count", count, FEWEST, integer=True)
    w, seen = _samples(generator, reader, count, psi, seed, names)
    found = {}
    for name, values in seen.items():
        shown = ~values.isnan()
        if shown.sum() < FEWEST:
            raise TristyleError(
                f"edit: {int(shown.sum())} of {count} samples show {name}, {FEWEST} are needed. Name another attribute."
            )
        found[name] = boundary(w[shown], values[shown])
    return found


def boundary(w: Tensor, values: Tensor) -> Direction:
    """Ridge regression of an attribute's ranks on w.

    Args:
        w: [N, w_dim].
        values: [N], the attribute. Its first 70 % are fitted, the others measure the accuracy.
    """
    # Normal scores of the ranks: a few outliers do not decide.
    w, values = w.double().cpu(), values.double().cpu()
    fitted = int(len(w) * FITTED)
    ranks = values[:fitted].argsort().argsort().double()
    scores = torch.special.ndtri((ranks + 0.5) / fitted)

    # The ridge is scaled to the noise of a covariance that is estimated from few samples.
    mean = w[:fitted].mean(dim=0)
    centred = w[:fitted] - mean
    covariance = centred.t() @ centred / fitted
    ridge = SHRINKAGE * covariance.trace() / fitted + 1e-12
    normal = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance)).double(), centred.t() @ scores)
    normal = F.normalize(normal, dim=0)

    # Accuracy is counted on both ends of the held-out samples, for the middle has no clear side.
    side, order = (w[fitted:] - mean) @ normal, values[fitted:].argsort()
    extreme = max(int(len(order) * EXTREME), 1)
    right = torch.cat([side[order[:extreme]] < 0, side[order[-extreme:]] > 0])
    return Direction(normal.float(), float((centred @ normal).std()), float(right.double().mean()))


def _samples(
    generator: Generator, reader: Reader, count: int, psi: float, seed: int, names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw w [count, w_dim] on the CPU, and the attributes of their pictures."""
    generator.eval()
    codes, parts = [], []
    for z in latents(generator.z_dim, range(seed, seed + count)).split(32):
        ws = generator.mapping(z.to(generator.mapping.w_avg.device), psi)
        images = generator.synthesis(ws, noise_mode="const").clamp(-1, 1)
        codes.append(ws[:, 0].cpu())
        parts.append(attributes(reader.read(images), images, names))
    return torch.cat(codes), {name: torch.cat([part[name].cpu() for part in parts]) for name in names}


@torch.no_grad()
def find_directions(
    generator: Generator, reader: Reader, edits: Iterable[Edit], count: int = 1000, psi: float = 0.7, seed: int = 0
) -> dict[str, Direction]:
    """The directions that `edits` name, those they are conditioned on included; {} where there are no edits.

    Nothing is drawn unless an attribute is among them.
    """
    edits = list(edits)
    names = {edit.key for edit in edits if isinstance(edit.direction, str)}
    names |= {name for edit in edits for name in edit.conditioned_on}
    directions = boundaries(generator, reader, count, psi, seed, sorted(names)) if names else {}
    for edit in edits:
        if isinstance(edit.direction, int):
            normal = sefa(generator, edit.low, edit.high, edit.direction + 1)[0][-1]
            z = latents(generator.z_dim, range(seed, seed + 256)).to(normal.device)
            directions[edit.key] = Direction(normal.cpu(), float((generator.mapping(z, psi)[:, 0] @ normal).std()))
    return directions


# ---------------------------------------------------------------------------------------------------------------------
# Moving


def moved(low: int, high: int, num_ws: int) -> slice:
    """The ws of the layers from `low` to `high` px; toRGB goes with the next block's, whose w it shares.

    Raises:
        TristyleError: the generator ends below `low`.
    """
    last = num_ws // 2 - 1  # blocks are numbered from 4 px on
    first, end = int(log2(low)) - 2, min(int(log2(high)) - 2, last)
    if first > last:
        raise TristyleError(f"edit: no layer from {low} px in a generator of {4 << last} px. Give a lower one.")
    return slice(max(2 * first - 1, 0), num_ws if end == last else 2 * end + 1)


def conditional(normal: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The unit direction nearest `normal` that is orthogonal to all `others` (InterFaceGAN, sec. 2.4), [w_dim].

    Raises:
        TristyleError: `normal` lies in the others' span.
    """
    if not others:
        return normal
    basis, _ = torch.linalg.qr(torch.stack(list(others), dim=1).double())  # [w_dim, K]
    rest = normal.double() - basis @ (basis.t() @ normal.double())
    if rest.norm() < 1e-3 * normal.norm():
        raise TristyleError("edit: conditioned_on leaves nothing of the direction. Name fewer attributes.")
    return F.normalize(rest, dim=0).float()


def apply(ws: Tensor, edits: Iterable[Edit], directions: Mapping[str, Direction]) -> Tensor:
    """Move ws along every edit's direction.

    Args:
        ws: [N, num_ws, w_dim].
        edits: what to move, and how far.
        directions: of `find_directions` or `load_directions`.

    Returns:
        [N, num_ws, w_dim], a new tensor.

    Raises:
        TristyleError: a direction is missing or of another w_dim, or an edit's layers are.
    """
    ws = ws.clone()
    for edit in edits:
        names = [edit.key, *edit.conditioned_on]
        missing = [name for name in names if name not in directions]
        if missing:
            raise TristyleError(f"edit: no direction {missing[0]}; there are {', '.join(directions) or 'none'}.")
        normal, *others = (directions[name].normal for name in names)
        if len(normal) != ws.shape[-1]:
            raise TristyleError(f"edit: {edit.key} has {len(normal)} components, w has {ws.shape[-1]}. Find it anew.")
        step = conditional(normal, others) * (edit.alpha * directions[edit.key].std)
        ws[:, moved(edit.low, edit.high, ws.shape[1])] += step.to(ws)
    return ws


@torch.no_grad()
def draw_edited(
    generator: Generator,
    z: Tensor,
    edits: Iterable[Edit],
    directions: Mapping[str, Direction],
    psi: float = 0.7,
    batch: int = 32,
) -> np.ndarray:
    """Images uint8 [N, R, R, 3] of latents z [N, z_dim] after the edits, with the stored noise."""
    generator.eval()
    edits = list(edits)
    parts = []
    for part in z.split(batch):
        ws = generator.mapping(part.to(generator.mapping.w_avg.device), psi)
        parts.append(decode(generator, apply(ws, edits, directions)))
    return np.concatenate(parts)


class Edited:
    """Candidates of a style set, moved: what `stages.style.sampling.candidates` draws in place of the ones given.

    The source generator's pictures of the same numbers are moved alike, so that they stay the same faces.
    """

    def __init__(self, candidates: Candidates, edits: Mapping[str, Edit], directions: Mapping[str, Direction]) -> None:
        self.candidates, self.edits, self.directions = candidates, dict(edits), directions
        self.most = candidates.most

    def ws(self, generator: Generator, numbers: Sequence[int]) -> Tensor:
        """[n, num_ws, w_dim] on the generator's device, after the edits."""
        return apply(self.candidates.ws(generator, numbers), self.edits.values(), self.directions)

    def record(self, number: int) -> dict[str, Any]:
        """Where the latent comes from, and how far along which edit it was moved."""
        return self.candidates.record(number) | {"edit": {name: edit.alpha for name, edit in self.edits.items()}}

    def tensors(self, generator: Generator, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Give ws after the edits, and z, where there is one, before them."""
        kept = self.candidates.tensors(generator, numbers)
        moved_ws = {"ws": self.ws(generator, numbers).cpu().contiguous()}
        return {name: value for name, value in kept.items() if name == "z"} | moved_ws


# ---------------------------------------------------------------------------------------------------------------------
# On disk


def save_directions(folder: Path, directions: Mapping[str, Direction]) -> None:
    """Write `directions.safetensors` (the normals) and `directions.json` (std and accuracy) into a folder."""
    from safetensors.torch import save

    normals = {name: item.normal.contiguous() for name, item in sorted(directions.items())}
    write_bytes(folder / "directions.safetensors", save(normals))
    notes = {name: {"std": item.std, "accuracy": item.accuracy} for name, item in sorted(directions.items())}
    write_json(folder / "directions.json", notes)


def load_directions(folder: Path) -> dict[str, Direction]:
    """What `save_directions` wrote.

    Raises:
        TristyleError: a file is missing, damaged, or the two do not name the same directions.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        normals = load((folder / "directions.safetensors").read_bytes())
        notes = read_json(folder / "directions.json", {})
        return {name: Direction(normals.pop(name), **notes.pop(name)) for name in list(notes) or list(normals)}
    except FileNotFoundError as error:
        raise TristyleError(f"{error.filename}: no such directions. Run stage=style with an edit first.") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TristyleError(f"{folder / 'directions.json'}: damaged ({error}). Delete both, find them anew.") from None
