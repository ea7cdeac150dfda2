"""Which layers of a generator colour which region of the face, by measurement.

One layer at a time is taken from a relative; the same latents are drawn; the change of the mean colour within each
region, as the face reader parses the source's picture, says what that layer is answerable for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.settings import choice
from stages.core.tensors import to_tensor, unit
from stages.networks.face_labels import READER
from stages.networks.face_reader import SIZE, Reader
from stages.networks.latents import latents
from stages.networks.stylegan2 import Generator
from stages.style.fusion.fuse import REGIONS, Part, check_family, layer_names, lookup
from stages.style.sampling.candidates import draw

LEAST_AREA = 6  # pixels of 64 x 64 below which a region is not counted in a picture

Influence = dict[str, dict[str, float]]  # layer -> region -> change of the mean colour


def region_influence(
    source: Generator, other: Generator, reader: Reader, count: int = 48, psi: float = 0.8, seed: int = 0
) -> Influence:
    """Change of each region's mean colour when one layer of `source` is swapped for that of `other`.

    Args:
        source: the generator whose layers are swapped.
        other: one with a common ancestor, which gives the layers.
        reader: parses the source's pictures; its regions hold for the swapped pictures too.
        count: latents drawn.
        psi: their truncation.
        seed: of the first of them.

    Returns:
        layer (``mapping``, ``b4.const``, ``b4.conv1``, ``b4.torgb``, ...) -> region -> L1 between the mean colours in
        [0, 1] RGB, averaged over the pictures that show the region; 0 for a region that none shows.

    Raises:
        TristyleError: generators that do not go together.
    """
    check_family([source, other])
    z = latents(source.z_dim, list(range(seed, seed + count)))
    device = next(reader.parameters()).device
    images = draw(source, z, psi)
    parsing = reader.read(to_tensor(images).to(device)).parsing.cpu()
    masks = F.one_hot(parsing.argmax(dim=1), parsing.shape[1]).float()  # [N, 64, 64, labels]
    before = _region_colours(images, masks)
    visible = masks.sum(dim=(1, 2)) >= LEAST_AREA  # [N, labels]
    out: Influence = {}
    for layer in ["mapping", *layer_names(source)]:
        swapped = _with_layer(source, other, layer)
        change = (_region_colours(draw(swapped, z, psi), masks) - before).abs().mean(dim=2)  # [N, labels]
        means = (change * visible).sum(dim=0) / visible.sum(dim=0).clamp(min=1)
        out[layer] = {region: float(means[READER[region]]) for region in REGIONS}
    return out


def _region_colours(images: np.ndarray, masks: Tensor) -> Tensor:
    """Mean colour per region: uint8 [N, H, W, 3], [N, 64, 64, labels] -> [N, labels, 3] in [0, 1]."""
    small = F.adaptive_avg_pool2d(unit(to_tensor(images)), (SIZE, SIZE))
    return torch.einsum("nchw,nhwl->nlc", small, masks) / masks.sum(dim=(1, 2)).clamp(min=1)[..., None]


@torch.no_grad()
def _with_layer(source: Generator, other: Generator, layer: str) -> Generator:
    swapped, state = copy.deepcopy(source), other.state_dict()
    for name, value in swapped.state_dict().items():
        if lookup({layer: True}, name):
            value.copy_(state[name])
    return swapped


def answerable(influence: Mapping[str, Mapping[str, float]], region: str, count: int) -> list[str]:
    """The layers that change the colour of `region` most for what they change elsewhere, the strongest first.

    A layer counts for its change within the region, times the region's share in the sum of its changes: a coarse layer
    moves everything, and would win for every region by the change alone.
    """
    choice("region", region, REGIONS)

    def weight(layer: str) -> float:
        changes = influence[layer]
        return changes[region] ** 2 / max(sum(changes.values()), 1e-12)

    return sorted((layer for layer in influence if layer != "mapping"), key=weight, reverse=True)[:count]


def resolve_part(part: Part, generator: Generator, other: Generator, reader: Reader) -> tuple[Part, Influence | None]:
    """A part with its layers: as given, or those that are answerable for its region; and what was measured for that."""
    if part.region is None:
        return part, None
    influence = region_influence(generator, other, reader)
    layers = {layer: part.share for layer in answerable(influence, part.region, part.count)}
    return replace(part, region=None, layers=layers), influence
