"""Ways to reconstruct photos with one generator, side by side: four of inversion, and pivotal tuning.

Sources: W+ optimisation (`optimise`), an encoder (`e4e`), an iterative encoder (`restyle`), and pivotal tuning (Roich
et al., arXiv 2106.05744): the generator's own weights follow the photo while the latent, its pivot, stays (eq. 3; the
locality regulariser is left out, as each generator serves one photo).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stages.core.settings import number
from stages.networks.encoder import Encoder, IterativeEncoder
from stages.networks.stylegan2 import Generator
from stages.style.inversion.optimise import Distance, Features, Project, decode, project
from stages.style.inversion.restyle import invert_iteratively

MODES = ("optimise", "encoder", "iterative", "pivotal")  # in the order of every table


@dataclass(kw_only=True)
class ModeSettings:
    """How long the modes work.

    Args:
        steps: of W+ optimisation.
        pivot: of the projection that finds the pivot, in W.
        tuning: of the generator's weights afterwards.
        tuning_lr: their learning rate; published 3e-4.
    """

    steps: int = 500
    pivot: int = 200
    tuning: int = 350
    tuning_lr: float = 3e-4

    def __post_init__(self) -> None:
        for key in ("steps", "pivot", "tuning"):
            number(key, getattr(self, key), 1, 100_000, integer=True)
        number("tuning_lr", self.tuning_lr, 0, 1, open_low=True)


@dataclass
class Reconstructions:
    """Photos as latents of a generator.

    Attributes:
        ws: [N, num_ws, w_dim].
        generator: draws them all.
        own: generators of single photos, in their order, in its place; empty where there are none.
    """

    ws: Tensor
    generator: Generator
    own: list[Generator] = field(default_factory=list)

    @torch.no_grad()
    def draw(self, move: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Pictures [N, 3, R, R] in [-1, 1].

        Args:
            move: an edit of the latents [N, num_ws, w_dim]; None: none.
        """
        ws = self.ws if move is None else move(self.ws)
        if not self.own:
            return decode(self.generator, ws).clamp(-1, 1)
        return torch.cat([decode(own, one) for own, one in zip(self.own, ws.split(1), strict=True)]).clamp(-1, 1)


def reconstruct(
    mode: str,
    generator: Generator,
    photos: Tensor,
    settings: ModeSettings,
    features: Features,
    encoder: Encoder | None = None,
    iterative: IterativeEncoder | None = None,
) -> Reconstructions:
    """Reconstruct photos by one of `MODES`.

    Args:
        mode: which.
        generator: never changed.
        photos: [N, 3, R, R] in [-1, 1].
        settings: how long.
        features: of the perceptual distance, where a mode optimises.
        encoder: for ``encoder``.
        iterative: for ``iterative``.

    Raises:
        ValueError: the mode's encoder is not given.
    """
    if mode == "optimise":
        return Reconstructions(project(generator, photos, Project(steps=settings.steps), features=features), generator)
    if mode == "pivotal":
        pivots = project(generator, photos, Project(steps=settings.pivot, space="w"), features=features)
        pairs = zip(photos.split(1), pivots.split(1), strict=True)
        return Reconstructions(pivots, generator, [tuned(generator, *pair, settings, features) for pair in pairs])

    if mode == "encoder" and encoder is not None:
        with torch.no_grad():
            return Reconstructions(encoder(photos), generator)
    if mode == "iterative" and iterative is not None:
        return Reconstructions(invert_iteratively(iterative, generator, photos), generator)
    raise ValueError(f"{mode}: there is no such mode, or its encoder is missing")


def tuned(generator: Generator, photo: Tensor, pivot: Tensor, settings: ModeSettings, features: Features) -> Generator:
    """A copy of the generator whose picture of one pivot is a photo.

    Args:
        generator: left alone.
        photo: [1, 3, R, R] in [-1, 1].
        pivot: [1, num_ws, w_dim].
        settings: steps and rate.
        features: of the perceptual distance.
    """
    own = copy.deepcopy(generator).requires_grad_(False)
    weights = list(own.synthesis.requires_grad_(True).parameters())
    optimizer = torch.optim.Adam(weights, lr=settings.tuning_lr)
    distance = Distance(photo, features)
    for _ in range(settings.tuning):
        optimizer.zero_grad(set_to_none=True)
        distance(decode(own, pivot)).sum().backward()
        optimizer.step()
    return own.requires_grad_(False)
