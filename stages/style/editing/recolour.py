"""Recolouring iris, lips, skin or hair through masks, with the shading kept.

Works in CIE L*a*b*: a region's a* and b* are shifted so that their mean becomes the target's, which keeps every
pixel's difference from the mean; L* passes through a power curve that takes the mean to the target's and leaves black
and white where they are, so that lashes stay dark and highlights bright. Cf. the statistics transfer of Reinhard et
al. (2001), who shift and scale the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.settings import ConfigError, number
from stages.core.tensors import lab, unit
from stages.networks.face_labels import READER, READER_SKIN
from stages.networks.face_reader import FaceReading, Reader

REGIONS = ("skin", "hair", "lips", "iris")  # in this order: the later ones lie on the earlier
LABELS = {"skin": READER_SKIN, "hair": (READER["hair"],), "lips": (READER["mouth"],), "iris": (READER["eye"],)}
EYES = ((36, 42), (42, 48))  # landmarks of each eye, its corners the first and the fourth
INNER_LIPS = slice(60, 68)
SMALLEST = 5e-4  # share of the picture under which a region counts as not there
FEATHER = (0.15, 0.75)  # shares of a region between which its mask rises from exactly 0 to 1
BLUR = 0.8  # px, standard deviation: borders are as soft as an antialiased picture's
IRIS_RADIUS = (0.16, 0.36)  # of the eye's width; a real one has 0.2, a drawn one up to twice that
COLOUR_SPREAD = 6.0  # least standard deviation of a region's colours, in units of Lab
COLOUR_SAY = 4.0  # what a colour that does not fit costs at most, as a logarithm: the reader's certainty outweighs it
TEETH = (8.0, 22.0)  # units of L* above the lips' mean between which a pixel turns from lip to tooth
CURVES = (0.15, 6.0)  # exponents that lightness is bent with at most


@dataclass(kw_only=True)
class Recolour:
    """Colours to give to regions of the face, each [red, green, blue] of 0 to 255, or null to leave it.

    Args:
        iris, lips, skin, hair: what the region's mean becomes. Skin takes nose, ears and neck along; lips leave the
            open mouth out.
        strength: share of the way from the present colour, 0 to 1.
        lightness: share of the way that lightness goes; 0 changes hue and chroma alone, and black hair stays black.
    """

    iris: list[int] | None = None
    lips: list[int] | None = None
    skin: list[int] | None = None
    hair: list[int] | None = None
    strength: float = 1.0
    lightness: float = 1.0

    def __post_init__(self) -> None:
        for region, colour in self.targets.items():
            if not isinstance(colour, list) or len(colour) != 3:
                raise ConfigError(region, f"{colour!r} is not a colour", "Give [red, green, blue] of 0 to 255")
            for value in colour:
                number(region, value, 0, 255, integer=True)
        number("strength", self.strength, 0, 1)
        number("lightness", self.lightness, 0, 1)

    @property
    def targets(self) -> dict[str, list[int]]:
        """Region -> colour, in the order they are laid on."""
        return {region: getattr(self, region) for region in REGIONS if getattr(self, region) is not None}


# ---------------------------------------------------------------------------------------------------------------------
# Where


def region_masks(images: Tensor, reading: FaceReading, regions: Iterable[str] = REGIONS) -> dict[str, Tensor]:
    """Feathered masks [N, 1, H, W] in [0, 1] of `regions`, exactly 0 outside.

    Args:
        images: [N, 3, H, W] in [-1, 1], as they were read.
        reading: what the face reader says of them.
        regions: names of regions, of `REGIONS`.
    """
    from kornia.filters import gaussian_blur2d

    size = images.shape[-2:]
    shares = _by_colour(images, reading.parsing)
    masks = {}
    for region in regions:
        share = shares[:, LABELS[region]].sum(dim=1, keepdim=True)
        if region != "iris":  # an eye is a few pixels wide; what lies around it must not be washed in
            share = gaussian_blur2d(share, (3, 3), (BLUR, BLUR))
        mask = _smoothstep(share, *FEATHER)
        if region == "lips":
            mask = _without_teeth(images, mask * (1 - _polygon(reading.landmarks[:, INNER_LIPS], size)))
        if region == "iris":
            mask = _irises(images, mask, reading.landmarks)
        masks[region] = mask
    return masks


def _by_colour(images: Tensor, parsing: Tensor) -> Tensor:
    """Shares of the labels [N, 13, H, W] once the pixels' colours have had their say.

    The reader's borders are coarse, 64 px whatever the picture, and a mask that is off by a pixel leaves a rim of the
    old colour. Each label's colours are taken as a Gaussian in Lab; Bayes' rule moves the pixels that the reader is
    unsure of to the label that they look like.
    """
    size = images.shape[-2:]
    if parsing.shape[-2:] != size:
        parsing = F.interpolate(parsing, size, mode="bilinear", align_corners=False)
    prior = parsing.log_softmax(1)
    colours = lab(unit(images)).flatten(2)  # [N, 3, HW]
    sure = prior.exp().square().flatten(2)  # [N, 13, HW]; unsure pixels hardly count
    sure = sure / sure.sum(dim=2, keepdim=True).clamp(min=1e-6)
    mean = sure @ colours.transpose(1, 2)  # [N, 13, 3]
    spread = (sure @ colours.square().transpose(1, 2) - mean.square()).clamp(min=0) + COLOUR_SPREAD**2
    # sum over Lab of (x - mean)^2 / spread, expanded: no [N, 13, 3, HW] is built.
    weight = 1 / spread
    distance = weight @ colours.square() - 2 * (mean * weight) @ colours
    distance = distance + (mean.square() * weight).sum(dim=2, keepdim=True)
    fit = -0.5 * (distance + spread.log().sum(dim=2, keepdim=True))
    fit = (fit - fit.amax(dim=1, keepdim=True)).clamp(min=-COLOUR_SAY)
    return (prior + fit.view_as(prior)).softmax(1)


def _smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high` on, a smooth cubic between."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _polygon(points: Tensor, size: Sequence[int]) -> Tensor:
    """Coverage [N, 1, H, W] of polygons [N, K, 2] (x, y as shares of width and height); a closed mouth has none."""
    height, width = size
    finer = 4
    drawn = np.zeros((len(points), height, width), np.float32)
    for canvas, polygon in zip(drawn, points.cpu().numpy(), strict=True):
        fine = np.zeros((height * finer, width * finer), np.uint8)
        corners = np.rint(polygon * (width * finer, height * finer)).astype(np.int32)
        if cv2.contourArea(corners) > finer**2:
            cv2.fillPoly(fine, [corners], 255)
        canvas[:] = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA) / 255
    return torch.from_numpy(drawn)[:, None].to(points.device)


def _without_teeth(images: Tensor, mouth: Tensor) -> Tensor:
    """The mask without what is far brighter than its mean: at 64 px the landmarks alone do not keep teeth out."""
    light = lab(unit(images))[:, :1]
    mean = (light * mouth).sum(dim=(2, 3), keepdim=True) / mouth.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return mouth * (1 - _smoothstep(light - mean, *TEETH))


def _irises(images: Tensor, eyes: Tensor, landmarks: Tensor) -> Tensor:
    """Discs about the centre of what is not white within each eye, [N, 1, H, W].

    Their size follows the area of the coloured and the dark; white (sclera, catch-lights) is left out.
    """
    height, width = images.shape[-2:]
    colours = lab(unit(images))
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device) + 0.5, torch.arange(width, device=images.device) + 0.5, indexing="ij"
    )
    scale = torch.tensor([width, height], device=images.device)
    mask = torch.zeros_like(eyes)

    # Each eye by itself: what is coloured, where its middle is, and how far it reaches.
    for first, last in EYES:
        points = landmarks[:, first:last] * scale  # [N, 6, 2]
        span = (points[:, 3] - points[:, 0]).norm(dim=1).clamp(min=2)[:, None, None, None]
        middle = points.mean(dim=1)[:, :, None, None, None]  # [N, 2, 1, 1, 1]
        near = eyes * (((x - middle[:, 0]) ** 2 + (y - middle[:, 1]) ** 2).sqrt() < 0.6 * span)
        white = (colours[:, :1] * (near > 0.5)).amax(dim=(2, 3), keepdim=True)
        # How far each colour is from the white.
        apart = ((colours[:, :1] - white) ** 2 + colours[:, 1:].square().sum(dim=1, keepdim=True)).sqrt()
        apart = apart / (apart * (near > 0.5)).amax(dim=(2, 3), keepdim=True).clamp(min=1)
        coloured = near * _smoothstep(apart, 0.25, 0.6)
        # Lashes are as dark, but lie at the rim: what is near the middle line counts more.
        weight = coloured * torch.exp(-((y - middle[:, 1]) ** 2) / (2 * (0.15 * span) ** 2))
        total = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1e-3)
        centre_x, centre_y = ((weight * axis).sum(dim=(2, 3), keepdim=True) / total for axis in (x, y))
        radius = (coloured.sum(dim=(2, 3), keepdim=True) / torch.pi).sqrt()
        radius = radius.clamp(IRIS_RADIUS[0] * span, IRIS_RADIUS[1] * span)
        distance = ((x - centre_x) ** 2 + (y - centre_y) ** 2).sqrt()
        mask = torch.maximum(mask, (radius + 0.5 - distance).clamp(0, 1) * coloured)
    return mask


# ---------------------------------------------------------------------------------------------------------------------
# What colour


def recolour(images: Tensor, reading: FaceReading, settings: Recolour) -> Tensor:
    """Give regions new colours.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        reading: what the face reader says of them.
        settings: which regions, and their colours.

    Returns:
        [N, 3, H, W] in [-1, 1], equal to `images` wherever no mask reaches, and where a region is not to be seen.
    """
    masks = region_masks(images, reading, settings.targets)
    for region, colour in settings.targets.items():
        target = torch.tensor(colour, device=images.device).view(1, 3, 1, 1) / 255
        mask = masks[region]
        there = mask.mean(dim=(2, 3), keepdim=True) > SMALLEST
        painted = _shift(images, mask, lab(target), settings.lightness)
        share = mask * (settings.strength * there)
        images = torch.where(share > 0, images.lerp(painted, share), images)
    return images


def finisher(reader: Reader, settings: Recolour) -> Callable[[Tensor], Tensor]:
    """A function that recolours batches [N, 3, H, W] in [-1, 1] as they are drawn."""

    @torch.no_grad()
    def finish(images: Tensor) -> Tensor:
        return recolour(images, reader.read(images), settings) if settings.targets else images

    return finish


def _shift(images: Tensor, mask: Tensor, target: Tensor, lightness: float) -> Tensor:
    """The whole picture moved so that the mean under `mask` becomes `target` [1, 3, 1, 1] in Lab; [-1, 1]."""
    from kornia.color import lab_to_rgb

    colours = lab(unit(images))
    weight = mask / mask.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)

    def mean(values: Tensor) -> Tensor:
        return (values * weight).sum(dim=(2, 3), keepdim=True)

    light, chroma = colours[:, :1], colours[:, 1:]
    wanted = torch.lerp(mean(light), target[:, :1].expand(len(images), -1, -1, -1), lightness)
    light = 100 * _bend(light / 100, weight, wanted / 100)
    # The same paint in less light: X, Y and Z shrink alike, and with their cube roots L* + 16, a* and b* (CIE 1976).
    paint = target[:, 1:] * ((wanted + 16) / (target[:, :1] + 16)).clamp(max=1)
    # The darkest and the brightest can hold little chroma; shifted in full, pupils and shines would glow.
    room = (light / (0.5 * wanted + 1e-3)).clamp(max=1) * ((100 - light) / (0.5 * (100 - wanted) + 1e-3)).clamp(max=1)
    chroma = chroma + (paint - mean(chroma)) * room / mean(room).clamp(min=0.5)
    return lab_to_rgb(torch.cat([light, chroma], dim=1), clip=True) * 2 - 1


def _bend(light: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
    """Raise light to the power g, by Newton's method, for which its weighted mean is `wanted`; all in [0, 1]."""
    light = light.clamp(1e-3, 1)
    wanted = wanted.clamp(0.01, 0.99)
    log = light.log()
    g = wanted.log() / (light * weight).sum(dim=(2, 3), keepdim=True).clamp(0.01, 0.99).log()
    for _ in range(5):
        bent = (g * log).exp() * weight
        slope = (bent * log).sum(dim=(2, 3), keepdim=True).clamp(max=-1e-3)
        g = (g - (bent.sum(dim=(2, 3), keepdim=True) - wanted) / slope).clamp(*CURVES)
    return (g * log).exp()
