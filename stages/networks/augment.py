"""Adaptive discriminator augmentation: the differentiable, invertible-in-distribution image augmentations of ADA.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data" (arXiv 2006.06676), appendix B: the
pipeline and its probabilities; geometry is one resampling with a sym6 lowpass at twice the resolution, colour one 4x4
matrix, image-space filtering four octave bands of sym2. Orders and conventions agree with the official code
(tests/golden). What differs: the matrices are sampled apart from being applied, so that either can be tested. A
`portrait` pipeline leaves out what turns or recolours faces (rotations, hue, luma flip): leaks of these into the
generated images are what users of ADA complain of most.
"""

from __future__ import annotations

from math import ceil, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.ops.random_rows import WHOLE, RandomRows
from stages.networks.ops.resample import downsample2d, grid_sample, setup_filter, upsample2d

# Daubechies' least asymmetric wavelets, decomposition lowpass (unit norm).
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)

BLIT = ("xflip", "rotate90", "xint")
GEOM = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
PIPES: dict[str, tuple[str, ...]] = {
    "blit": BLIT,
    "geom": GEOM,
    "color": COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": BLIT + GEOM,
    "bgc": BLIT + GEOM + COLOR,
    "bgcf": (*BLIT, *GEOM, *COLOR, "imgfilter"),
    "bgcfn": (*BLIT, *GEOM, *COLOR, "imgfilter", "noise"),
    "bgcfnc": (*BLIT, *GEOM, *COLOR, "imgfilter", "noise", "cutout"),
    "portrait": ("xint", "scale", "aniso", "xfrac", "brightness", "contrast", "saturation"),
}
_BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of natural images, 1/f


def filter_bank() -> Tensor:
    """Four octave bands [4, 43] that sum to the identity, by recursion on sym2 (appendix B.3)."""
    low = torch.tensor(SYM2, dtype=torch.float64)
    high = low * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    low2, high2 = (_convolve(h[None], h.flip(0))[0] / 2 for h in (low, high))
    bank = torch.zeros(4, 1, dtype=torch.float64)
    bank[0] = 1
    for band in range(1, 4):
        spread = torch.zeros(4, 2 * bank.shape[1] - 1, dtype=torch.float64)
        spread[:, ::2] = bank
        bank = _convolve(spread, low2)
        start = (bank.shape[1] - len(high2)) // 2
        bank[band, start : start + len(high2)] += high2
    return bank.float()


def _convolve(rows: Tensor, taps: Tensor) -> Tensor:
    """Full convolution of each row with `taps`."""
    return F.conv1d(rows[:, None], taps.flip(0)[None, None], padding=len(taps) - 1)[:, 0]


# Homogeneous matrices, [N, 3, 3] in the plane and [N, 4, 4] on colours


def _plane(n: int, entries: dict[tuple[int, int], Tensor | float], like: Tensor) -> Tensor:
    m = torch.eye(3, device=like.device).repeat(n, 1, 1)
    for (row, column), value in entries.items():
        m[:, row, column] = value
    return m


def _scale2d(x: Tensor | float, y: Tensor | float, n: int, like: Tensor) -> Tensor:
    return _plane(n, {(0, 0): x, (1, 1): y}, like)


def _translate2d(x: Tensor | float, y: Tensor | float, n: int, like: Tensor) -> Tensor:
    return _plane(n, {(0, 2): x, (1, 2): y}, like)


def _rotate2d(theta: Tensor, like: Tensor) -> Tensor:
    c, s = theta.cos(), theta.sin()
    return _plane(len(theta), {(0, 0): c, (0, 1): -s, (1, 0): s, (1, 1): c}, like)


class _Sampler:
    """Draws [N], one a picture.

    Args:
        images: [N, C, H, W], of which the number and the device count.
        p: probability of each operation, scalar.
        percentile: as in `AugmentPipe.forward`.
        draws: as in `AugmentPipe.forward`.
    """

    def __init__(self, images: Tensor, p: Tensor, percentile: float | None, draws: RandomRows) -> None:
        self.n, self.device = len(images), images.device
        self.p, self.percentile, self.draws = p, percentile, draws

    def uniform(self) -> Tensor:
        """Uniform in [0, 1): [N]."""
        if self.percentile is not None:
            return torch.full([self.n], self.percentile, device=self.device)
        return self.draws.own(lambda n: torch.rand(n, device=self.device), self.n)

    def normal(self) -> Tensor:
        """N(0, 1): [N]."""
        if self.percentile is not None:  # the reference leaves out the factor sqrt(2) of the true quantile
            return torch.erfinv(torch.full([self.n], 2 * self.percentile - 1, device=self.device))
        return self.draws.own(lambda n: torch.randn(n, device=self.device), self.n)

    def gated(self, value: Tensor, neutral: float, p: Tensor | None = None) -> Tensor:
        """`value` [N] with probability `p` (default: the pipe's), else `neutral`."""
        drawn = self.draws.own(lambda n: torch.rand(n, device=self.device), self.n)
        return torch.where(drawn < (self.p if p is None else p), value, torch.full_like(value, neutral))


class AugmentPipe(nn.Module):
    """Augment [N, C, H, W] images in [-1, 1], each operation with probability `p` (a buffer, set by training).

    Args:
        pipe: a name in `PIPES`.
    """

    p: Tensor
    geometry_taps: Tensor
    bank: Tensor

    def __init__(self, pipe: str = "portrait") -> None:
        super().__init__()
        self.operations = frozenset(PIPES[pipe])
        self.register_buffer("p", torch.zeros([]))
        self.register_buffer("geometry_taps", setup_filter(SYM6), persistent=False)
        self.register_buffer("bank", filter_bank(), persistent=False)

    def forward(self, images: Tensor, percentile: float | None = None, draws: RandomRows = WHOLE) -> Tensor:
        """Augment pictures.

        Args:
            images: [N, C, H, W] in [-1, 1].
            percentile: every draw is that quantile of its distribution, in 0..1 (tests); None draws at random.
            draws: where random numbers come from, one row a picture.

        Returns:
            [N, C, H, W]; values may leave [-1, 1]. At p = 0 these are `images` themselves.
        """
        if percentile is None and float(self.p) == 0:
            return images

        inverse = self.sample_geometry(images, percentile, draws)
        if inverse is not None:
            images = self.apply_geometry(images, inverse)
        colour = self.sample_colour(images, percentile, draws)
        if colour is not None:
            images = apply_colour(images, colour)

        # What follows has no matrix.
        if "imgfilter" in self.operations:
            images = self.apply_filter(images, self.sample_bands(images, percentile, draws))
        sample = _Sampler(images, self.p, percentile, draws)
        if "noise" in self.operations:
            sigma = sample.gated(sample.normal().abs() * 0.1, 0.0)
            images = images + draws.normal_like(images) * sigma[:, None, None, None]
        if "cutout" in self.operations:
            images = self._cutout(images, sample)
        return images

    # Draws

    def sample_geometry(
        self, images: Tensor, percentile: float | None = None, draws: RandomRows = WHOLE
    ) -> Tensor | None:
        """Draw a transform for each picture.

        Args:
            images: [N, C, H, W], of which the size and the number count.
            percentile: as in `forward`.
            draws: as in `forward`.

        Returns:
            Inverse transforms [N, 3, 3] in pixels about the image centre (output -> input); None where the pipe has no
            geometry.
        """
        ops, (n, _, height, width) = self.operations, images.shape
        if not ops & {*BLIT, *GEOM}:
            return None
        sample = _Sampler(images, self.p, percentile, draws)
        inverse = torch.eye(3, device=images.device).repeat(n, 1, 1)

        # Pixel blitting: nothing is resampled.
        if "xflip" in ops:
            flip = sample.gated((sample.uniform() * 2).floor(), 0.0)
            inverse = inverse @ _scale2d(1 - 2 * flip, 1.0, n, images)
        if "rotate90" in ops:
            turns = sample.gated((sample.uniform() * 4).floor(), 0.0)
            inverse = inverse @ _rotate2d(turns * (pi / 2), images)
        if "xint" in ops:
            gate = sample.gated(torch.ones(n, device=images.device), 0.0)  # one decision moves both axes
            x, y = ((sample.uniform() * 2 - 1) * 0.125 * gate for _ in range(2))
            inverse = inverse @ _translate2d(-(x * width).round(), -(y * height).round(), n, images)

        # General geometry: a rotation, an anisotropic scale and a rotation back make a stretch along any axis.
        if "scale" in ops:
            scale = sample.gated((sample.normal() * 0.2).exp2(), 1.0)
            inverse = inverse @ _scale2d(1 / scale, 1 / scale, n, images)
        half = 1 - (1 - self.p).clamp(0, 1).sqrt()  # two rotations with this probability: at least one with p
        if "rotate" in ops:
            inverse = inverse @ _rotate2d(sample.gated((sample.uniform() * 2 - 1) * pi, 0.0, half), images)
        if "aniso" in ops:
            scale = sample.gated((sample.normal() * 0.2).exp2(), 1.0)
            inverse = inverse @ _scale2d(1 / scale, scale, n, images)
        if "rotate" in ops:
            theta = sample.gated((sample.uniform() * 2 - 1) * pi, 0.0, half)
            inverse = inverse @ _rotate2d(theta if percentile is None else torch.zeros_like(theta), images)
        if "xfrac" in ops:
            gate = sample.gated(torch.ones(n, device=images.device), 0.0)
            x, y = (sample.normal() * 0.125 * gate for _ in range(2))
            inverse = inverse @ _translate2d(-x * width, -y * height, n, images)
        return inverse

    def sample_colour(
        self, images: Tensor, percentile: float | None = None, draws: RandomRows = WHOLE
    ) -> Tensor | None:
        """Draw a change of colour for each picture. Grey pictures keep brightness, contrast and luma flip.

        Args:
            images: [N, 1 or 3, H, W], of which the channels and the number count.
            percentile: as in `forward`.
            draws: as in `forward`.

        Returns:
            Matrices [N, 4, 4] on homogeneous RGB; None where the pipe has no colour.
        """
        ops, n = self.operations, len(images)
        if not ops & set(COLOR):
            return None
        sample = _Sampler(images, self.p, percentile, draws)
        eye = torch.eye(4, device=images.device)
        colour = eye.repeat(n, 1, 1)
        grey = torch.tensor([1.0, 1.0, 1.0, 0.0], device=images.device) / sqrt(3)
        project = torch.outer(grey, grey)  # onto the grey axis

        # Along the grey axis.
        if "brightness" in ops:
            shift = sample.gated(sample.normal() * 0.2, 0.0)
            move = eye.repeat(n, 1, 1)
            move[:, :3, 3] = shift[:, None]
            colour = move @ colour
        if "contrast" in ops:
            factor = sample.gated((sample.normal() * 0.5).exp2(), 1.0)
            stretch = torch.diag_embed(torch.stack([factor, factor, factor, torch.ones_like(factor)], dim=1))
            colour = stretch @ colour
        if "lumaflip" in ops:
            flip = sample.gated((sample.uniform() * 2).floor(), 0.0)
            colour = (eye - 2 * project * flip[:, None, None]) @ colour

        # About the grey axis.
        if "hue" in ops and images.shape[1] > 1:
            theta = sample.gated((sample.uniform() * 2 - 1) * pi, 0.0)
            colour = _rotation_about_grey(theta) @ colour
        if "saturation" in ops and images.shape[1] > 1:
            factor = sample.gated(sample.normal().exp2(), 1.0)
            colour = (project + (eye - project) * factor[:, None, None]) @ colour
        return colour

    def sample_bands(self, images: Tensor, percentile: float | None = None, draws: RandomRows = WHOLE) -> Tensor:
        """Gains [N, 4] of the octave bands, each draw normalised to keep the power of a 1/f image."""
        sample = _Sampler(images, self.p, percentile, draws)
        gains = torch.ones(len(images), 4, device=images.device)
        power = torch.tensor(_BAND_POWER, device=images.device)
        for band in range(4):
            draw = torch.ones_like(gains)
            draw[:, band] = sample.gated(sample.normal().exp2(), 1.0)
            gains = gains * draw / (power * draw.square()).sum(dim=1, keepdim=True).sqrt()
        return gains

    # Applying

    def margins(self, shape: torch.Size, inverse: Tensor) -> list[int]:
        """Reflection padding [x0, x1, y0, y1] that covers what [N, 3, 3] `inverse` reads from images of `shape`."""
        height, width = shape[2:]
        cx, cy = (width - 1) / 2, (height - 1) / 2
        corners = inverse.new_tensor([[-cx, -cy, 1], [cx, -cy, 1], [cx, cy, 1], [-cx, cy, 1]])
        reach = inverse @ corners.t()  # [N, 3, 4]
        x, y = reach[:, 0], reach[:, 1]
        support = len(self.geometry_taps) // 4 * 2
        margin = torch.stack([(-x).max() - cx, x.max() - cx, (-y).max() - cy, y.max() - cy]) + support
        limit = margin.new_tensor([width - 1, width - 1, height - 1, height - 1])
        return [int(m) for m in margin.clamp(min=0).minimum(limit).ceil()]

    def apply_geometry(self, images: Tensor, inverse: Tensor) -> Tensor:
        """Resample images by `inverse` (see `sample_geometry`), with reflection beyond the border."""
        # Reflect and enlarge twofold, so that the lowpass can do its work at twice the resolution.
        n, channels, height, width = images.shape
        x0, x1, y0, y1 = self.margins(images.shape, inverse)
        images = self._enlarge(height, y0, y1).t() @ (images @ self._enlarge(width, x0, x1))

        # The same map in the frame of the enlarged image.
        inverse = _translate2d((x0 - x1) / 2, (y0 - y1) / 2, n, images) @ inverse
        inverse = _scale2d(2.0, 2.0, n, images) @ inverse @ _scale2d(0.5, 0.5, n, images)
        inverse = _translate2d(-0.5, -0.5, n, images) @ inverse @ _translate2d(0.5, 0.5, n, images)

        # Resample, and reduce again.
        pad = len(self.geometry_taps) // 4
        shape = [n, channels, (height + 2 * pad) * 2, (width + 2 * pad) * 2]
        # affine_grid wants the map between [-1, 1] squares.
        inverse = _scale2d(2 / images.shape[3], 2 / images.shape[2], n, images) @ inverse
        inverse = inverse @ _scale2d(shape[3] / 2, shape[2] / 2, n, images)
        grid = F.affine_grid(inverse[:, :2], shape, align_corners=False)
        images = grid_sample(images, grid)
        return self._reduce(shape[2]).t() @ (images @ self._reduce(shape[3]))

    # Along one axis the resampling steps are linear maps; as matrix products they cost a tenth of the convolutions.

    def _enlarge(self, size: int, low: int, high: int) -> Tensor:
        """Matrix [size, 2 (size + low + high)]: reflect by `low` and `high` pixels, then upsample twofold."""
        rows = torch.eye(size, device=self.geometry_taps.device)[:, None, None]
        rows = F.pad(rows, (low, high, 0, 0), mode="reflect")
        return upsample2d(rows, self.geometry_taps[None], up=(2, 1))[:, 0, 0]

    def _reduce(self, size: int) -> Tensor:
        """Matrix [size, size / 2 - 2 pad]: downsample twofold and drop the filter's margin."""
        rows = torch.eye(size, device=self.geometry_taps.device)[:, None, None]
        drop = -2 * (len(self.geometry_taps) // 4)
        rows = downsample2d(rows, self.geometry_taps[None], down=(2, 1), padding=(drop, drop, 0, 0), flip_filter=True)
        return rows[:, 0, 0]

    def apply_filter(self, images: Tensor, gains: Tensor) -> Tensor:
        """Amplify the octave bands of each image by `gains` [N, 4]."""
        n, channels, height, width = images.shape
        taps = (gains @ self.bank)[:, None].repeat(1, channels, 1).reshape(n * channels, 1, 1, -1)
        pad = taps.shape[-1] // 2
        x = F.pad(images, (pad, pad, pad, pad), mode="reflect").reshape(1, n * channels, height + 2 * pad, -1)
        x = F.conv2d(x, taps, groups=n * channels)
        x = F.conv2d(x, taps.transpose(2, 3), groups=n * channels)
        return x.reshape(n, channels, height, width)

    def _cutout(self, images: Tensor, sample: _Sampler) -> Tensor:
        """Zero a box of half the image's size, its centre anywhere."""
        _, _, height, width = images.shape
        size = sample.gated(torch.full([len(images)], 0.5, device=images.device), 0.0)[:, None]
        cx, cy = (sample.uniform()[:, None] for _ in range(2))
        x = (torch.arange(width, device=images.device) + 0.5) / width
        y = (torch.arange(height, device=images.device) + 0.5) / height
        outside_x = ((x - cx).abs() >= size / 2)[:, None, None, :]
        outside_y = ((y - cy).abs() >= size / 2)[:, None, :, None]
        return images * (outside_x | outside_y).to(images.dtype)


def _rotation_about_grey(theta: Tensor) -> Tensor:
    """Rotations [N, 4, 4] of RGB by `theta` [N] radians about the grey axis (Rodrigues)."""
    v = 1 / sqrt(3)
    cross = torch.tensor([[0, -v, v], [v, 0, -v], [-v, v, 0]], device=theta.device)
    outer = torch.full((3, 3), v * v, device=theta.device)
    c, s = theta.cos()[:, None, None], theta.sin()[:, None, None]
    m = torch.eye(4, device=theta.device).repeat(len(theta), 1, 1)
    m[:, :3, :3] = c * torch.eye(3, device=theta.device) + s * cross + (1 - c) * outer
    return m


def apply_colour(images: Tensor, matrices: Tensor) -> Tensor:
    """Multiply [N, 1 or 3, H, W] colours by homogeneous matrices [N, 4, 4]; grey images by their row mean."""
    n, channels, height, width = images.shape
    flat = images.reshape(n, channels, height * width)
    if channels == 3:
        flat = matrices[:, :3, :3] @ flat + matrices[:, :3, 3:]
    elif channels == 1:
        row = matrices[:, :3].mean(dim=1, keepdim=True)
        flat = flat * row[:, :, :3].sum(dim=2, keepdim=True) + row[:, :, 3:]
    else:
        raise ValueError(f"colour augmentation needs 1 or 3 channels, not {channels}")
    return flat.reshape(n, channels, height, width)


def softened(images: Tensor, sigma: float) -> Tensor:
    """Real pictures [N, 3, H, W] through a Gaussian of `sigma` px, 0 for none: what a small generator can answer.

    One with few channels answers strands of hair that it cannot draw with combs and grids; soft ones it draws whole.
    """
    if not sigma:
        return images
    from kornia.filters import gaussian_blur2d  # half a second, which a sharp training does not pay

    side = 2 * ceil(3 * sigma) + 1
    out: Tensor = gaussian_blur2d(images, (side, side), (sigma, sigma))
    return out
