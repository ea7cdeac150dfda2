"""Does what the discriminator's augmentation does to pictures leak into the pictures that the generator draws?

ADA keeps augmentations out of the generator as long as they are rare enough (arXiv 2006.06676, sec. 2.2); beyond, it
draws shifted, shrunken or discoloured faces. The detector reads statistics from every picture (where the face stands,
how large, how bright, ...) and asks which mixture of real pictures and of real pictures *augmented* in one kind each
explains the generated ones best. With the distribution functions F of all statistics side by side:

    F_generated - F_real = sum over kinds of share * (F_augmented_in_this_kind - F_real),   share >= 0, least squares

A share of 0: as the real ones; 1: as if augmented as often as what the discriminator sees. A difference that no
augmentation would make counts only as far as it looks like one, and every statistic is taken from its set's median: a
leak scatters the pictures, while a style not yet reached moves all of them together. The score is the share less its
uncertainty by a bootstrap over both sets, so that noise raises no alarm. Mirroring is not a leak; noise, filters
and cut-outs have no reading here.

The face's place, size, aspect and turn come from registering the picture's edges with the mean real edges: the peaks of
the cross-correlation with shifted, scaled, stretched and turned copies of the mean, at `SIDE` px.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.tensors import to_tensor
from stages.networks.augment import AugmentPipe

KINDS: dict[str, frozenset[str]] = {  # kind -> operations of the pipe
    "translation": frozenset({"xint", "xfrac"}),
    "scale": frozenset({"scale"}),
    "aspect": frozenset({"aniso"}),
    "rotation": frozenset({"rotate", "rotate90"}),
    "brightness": frozenset({"brightness", "lumaflip"}),
    "contrast": frozenset({"contrast"}),
    "saturation": frozenset({"saturation"}),
    "hue": frozenset({"hue"}),
}
ALARM = 0.05  # score from which a kind leaks
SIDE, REACH = 32, 8  # px at which pictures are read; largest shift that is looked for
STEPS = (-0.6, -0.35, -0.15, 0.15, 0.35, 0.6)  # log2 of scale and of aspect, radians of turn
MOST = 300  # pictures of a set that are read
ROUNDS, CONFIRMED = 200, 3.0  # of the bootstrap; the score is the share less this many standard deviations
LEVELS = 64  # places at which distribution functions are compared


def detect(generated: np.ndarray, real: np.ndarray, pipe: str, p: float, seed: int = 0) -> dict[str, float]:
    """How far each kind of augmentation in `pipe` has leaked into generated pictures.

    Args:
        generated: uint8 [N, H, W, 3], at the truncation psi = 1 of the training for an exact answer; lower is milder.
        real: uint8 [M, H, W, 3], what the generator was trained on (un-augmented). Few pictures make a mild detector.
        pipe: a name in `stages.networks.augment.PIPES`.
        p: probability of each augmentation at the end of the training, 0 to 1.
        seed: of the augmentations and of the bootstrap.

    Returns:
        kind -> score >= 0 (see above) for the kinds that the pipe has; all 0 at p = 0.

    Raises:
        ValueError: fewer than two pictures in a set.
    """
    if min(len(generated), len(real)) < 2:
        raise ValueError(f"{len(generated)} generated and {len(real)} real pictures: two of each are needed")

    # The kinds of this pipe.
    augment = AugmentPipe(pipe)
    kinds = {kind: augment.operations & operations for kind, operations in KINDS.items()}
    kinds = {kind: operations for kind, operations in kinds.items() if operations}
    if p <= 0 or not kinds:
        return dict.fromkeys(kinds, 0.0)

    # Statistics of both sets, and of the real pictures augmented in one kind each.
    pictures, drawn = _shrunk(real), _shrunk(generated)
    registration = Registration(pictures)
    base, found = (np.hstack([registration(images), colours(images)]) for images in (pictures, drawn))
    augment.p.fill_(p)
    augmented = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for operations in kinds.values():
            augment.operations = operations
            images = augment(pictures).clamp(-1, 1)
            # Colours do not move edges: what registration says of them holds.
            moved = registration(images) if augment.sample_geometry(images[:1]) is not None else base[:, : len(NAMES)]
            augmented.append(np.hstack([moved, colours(images)]))
    return dict(zip(kinds, _confirmed_shares(found, base, augmented, seed).tolist(), strict=True))


def leaking(scores: dict[str, float], alarm: float = ALARM) -> list[str]:
    """The kinds whose score of `detect` reaches `alarm`, worst first."""
    return sorted((kind for kind, score in scores.items() if score >= alarm), key=lambda kind: -scores[kind])


# Statistics

NAMES = ("x", "y", "scale", "aspect", "turn")


class Registration:
    """Where the face stands in pictures, how large and how turned, relative to the mean of real ones.

    Args:
        real: [N, 3, SIDE, SIDE] in [-1, 1].
    """

    def __init__(self, real: Tensor) -> None:
        mean = edges(real).mean(dim=0)
        maps = [[[1.0, 0, 0], [0, 1.0, 0]]]
        maps += [[[2**-s, 0, 0], [0, 2**-s, 0]] for s in STEPS]
        maps += [[[2**-s, 0, 0], [0, 2**s, 0]] for s in STEPS]
        maps += [[[np.cos(s), -np.sin(s), 0], [np.sin(s), np.cos(s), 0]] for s in STEPS]
        grid = F.affine_grid(torch.tensor(maps, dtype=torch.float32), [len(maps), 1, SIDE, SIDE], align_corners=False)
        copies = F.grid_sample(mean.expand(len(maps), 1, SIDE, SIDE), grid, align_corners=False)[:, 0]
        copies = copies - copies.mean(dim=(1, 2), keepdim=True)
        copies = F.pad(copies / copies.norm(dim=(1, 2), keepdim=True), (0, REACH, 0, REACH))
        self.copies = torch.fft.rfft2(copies.roll((-REACH, -REACH), dims=(1, 2))).conj()  # shifts count from -REACH

    def __call__(self, images: Tensor) -> np.ndarray:
        """[N, 5] (NAMES: px, px, log2, log2, radians; soft maxima, so compressed) of images [N, 3, SIDE, SIDE]."""
        spectrum = torch.fft.rfft2(edges(images), s=(SIDE + REACH,) * 2)
        found = torch.fft.irfft2(spectrum[:, None] * self.copies, s=(SIDE + REACH,) * 2)
        span = 2 * REACH + 1
        found = found[..., :span, :span]  # [N, copies, shifts down, shifts right]
        places = _sharpened(found[:, 0].flatten(1), 4.0).view(-1, span, span)
        shift = torch.arange(span, dtype=torch.float32) - REACH
        out = [places.sum(dim=1) @ shift, places.sum(dim=2) @ shift]
        best, steps = found.flatten(2).amax(dim=2), torch.tensor([0.0, *STEPS])
        for family in best[:, 1:].split(len(STEPS), dim=1):
            out.append(_sharpened(torch.cat([best[:, :1], family], dim=1), 2.0) @ steps)
        return torch.stack(out, dim=1).numpy()


def edges(images: Tensor) -> Tensor:
    """Strength of the gradient, standardised per picture: [N, 3, H, W] -> [N, H, W]."""
    down, right = torch.gradient(images, dim=(2, 3))
    strength = (down.square() + right.square()).sum(dim=1).sqrt()
    centred = strength - strength.mean(dim=(1, 2), keepdim=True)
    return centred / (strength.std(dim=(1, 2), keepdim=True) + 1e-3)


def _sharpened(match: Tensor, sharpness: float) -> Tensor:
    """Weights [N, K] of candidates by how well they match, in standard deviations over the candidates."""
    return (match * (sharpness / (match.std(dim=1, keepdim=True) + 1e-6))).softmax(dim=1)


def colours(images: Tensor) -> np.ndarray:
    """[N, 5] of [N, 3, H, W] in [-1, 1]: brightness, log contrast (of edges), log saturation, mean hue (2).

    The grey axis is the mean of R, G and B, about which the augmentations turn, not the luma of Rec. 601.
    """
    grey = images.mean(dim=1)
    chroma = images - grey[:, None]
    red, green, blue = chroma.mean(dim=(2, 3)).t()
    strength = (chroma.square().sum(dim=1).mean(dim=(1, 2)) + 1e-4).sqrt()
    hue = torch.stack([(2 * red - green - blue) / 6**0.5, (green - blue) / 2**0.5]) / strength
    down, right = torch.gradient(grey, dim=(1, 2))
    contrast = ((down.square() + right.square()).sqrt().mean(dim=(1, 2)) + 1e-2).log()  # outlines vary least
    saturation = (chroma.square().mean(dim=(1, 2, 3)) + 1e-4).log() / 2
    return torch.stack([grey.mean(dim=(1, 2)), contrast, saturation, *hue], dim=1).numpy()


def _shrunk(images: np.ndarray) -> Tensor:
    """[N, 3, SIDE, SIDE] in [-1, 1] of at most MOST of uint8 [N, H, W, 3], evenly spread over the set."""
    chosen = images[np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(int)]
    return F.interpolate(to_tensor(chosen), (SIDE, SIDE), mode="area")


# Shares


def _confirmed_shares(found: np.ndarray, base: np.ndarray, augmented: list[np.ndarray], seed: int) -> np.ndarray:
    """Lower ends [kinds] of the bootstrapped shares. Rows of the sets are pictures, columns statistics."""
    from scipy.optimize import nnls  # half a second, where a start need not wait for it

    # A style not yet reached moves all pictures together: each set is read from its own median.
    rng = np.random.default_rng(seed)
    found, base, *augmented = (values - np.median(values, axis=0) for values in (found, base, *augmented))
    marks = np.linspace(0, 1, LEVELS + 2)[1:-1]
    levels = np.quantile(np.concatenate([base, *augmented]), marks, axis=0)  # [LEVELS, statistics]

    def below(values: np.ndarray) -> np.ndarray:
        """Indicators [N, statistics * LEVELS] whose means are the distribution functions."""
        out: np.ndarray = (values[:, None] <= levels).reshape(len(values), -1).astype(np.float32)
        return out

    def resampled(n: int) -> np.ndarray:
        """Weights [ROUNDS, n] of a bootstrap."""
        return (rng.multinomial(n, np.full(n, 1 / n), size=ROUNDS) / n).astype(np.float32)

    weights = resampled(len(base))  # an augmented picture goes with its original
    reals = weights @ below(base)
    design = np.stack([weights @ below(values) - reals for values in augmented], axis=2)  # [ROUNDS, rows, kinds]
    wanted = resampled(len(found)) @ below(found) - reals

    # Least squares with shares >= 0, once for each round of the bootstrap.
    shares = [nnls(d.astype(np.float64), w.astype(np.float64))[0] for d, w in zip(design, wanted, strict=True)]
    out: np.ndarray = np.maximum(np.mean(shares, axis=0) - CONFIRMED * np.std(shares, axis=0), 0)
    return out
