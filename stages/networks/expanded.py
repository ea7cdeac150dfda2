"""The editor of real faces: a style branch of sparse directions and a content branch of 2-D features, fused by level.

Source: "Expanding the Latent Space of StyleGAN for Real Face Editing" (arXiv 2204.12530): a frozen encoder's W+ codes
and one learned direction per attribute (style branch); features of the photograph that know the target attributes
(content branch), added to the generator's RGB at every resolution (fusion). What differs: the content branch sees what
the inversion missed and what the style branch changes, as HFGI's consultation does (arXiv 2109.06590, sec. 3.2). Per
level it paints a correction of its own, and gates the coarse bands of what was missed (gates of fine ones learn to
close where an edit is uncertain, and blur it); per pixel it gates the style branch's change, and says from where in the
photograph its content comes: a turned head is the photograph's, moved. So an untrained editor gives the photograph back
plus that change. Attributes scale and shift its features in the place of a modulated convolution, so a strength of 0 is
an attribute like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.tensors import TensorSpec
from stages.networks.encoder import Encoder, Tier, trunk_maps, trunk_of
from stages.networks.ops.resample import downsample2d, setup_filter, upsample2d
from stages.networks.stylegan2 import FIR_TAPS, LRELU_SLOPE, Generator, SynthesisNetwork, resolutions

STRONGEST = 2.0  # strength of an edit, at most, in either direction
OPEN = 3.0  # logit of a gate at first: 95 % of what the inversion missed comes through
QUICK = 5.0  # a gate's logit moves so many times what its layer gives: it has far to go
SWAY = 0.1  # of the picture's side: what a layer's 1 moves the photo's content by
LIGHT = 16  # px: bands up to this hold light and the tones of hair and skin; they are gated
MARGIN = 0.03  # room around a region, and the width of its rim, as a share of the picture's side
SURE = (0.4, 0.6)  # probabilities between which a pixel comes to belong to a region

# ---------------------------------------------------------------------------------------------------------------------
# What is seen in a face


class AttributeClassifier(nn.Module):
    """Reads attributes off a face: [N, 3, H, W] in [-1, 1] -> [N, K].

    The trunk is the face reader's, as the encoder's is. An attribute of two kinds is given as a logit, one of numbers
    in standard deviations from the mean of the data that it learned from.

    Args:
        names: of the K attributes.
        binary: of each, whether it is of two kinds.
        mean, deviation: of each over the data: share and deviation of a kind, or of the numbers in their own unit.
        size: px a side that it sees, a power of two from 32.
        widths: channels at 32, 16, 8 and 4 px.
    """

    is_binary: Tensor

    def __init__(
        self,
        names: Sequence[str],
        binary: Sequence[bool],
        mean: Sequence[float],
        deviation: Sequence[float],
        size: int = 64,
        widths: tuple[int, ...] | list[int] = (24, 64, 96, 112),
    ) -> None:
        super().__init__()
        self.arguments = {
            "names": list(names), "binary": list(binary), "mean": list(mean), "deviation": list(deviation),
            "size": size, "widths": list(widths),
        }  # fmt: skip
        self.names, self.size = tuple(names), size
        self.mean, self.deviation = tuple(mean), tuple(deviation)
        self.stem, self.levels = trunk_of(size, widths)
        self.head = Tier(((widths[3], 4), (widths[2], 8)), (48, 12), 128, 1, len(names))
        self.register_buffer("is_binary", torch.tensor(list(binary)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits and standardised numbers [N, K] of pictures [N, 3, H, W] in [-1, 1]."""
        maps = trunk_maps(self.stem, self.levels, images, self.size)
        out: Tensor = self.head((maps[3], maps[2]))[:, 0]
        return out

    def values(self, seen: Tensor) -> Tensor:
        """What `forward` gave [N, K] -> probabilities of kinds, and standardised numbers as they are."""
        return torch.where(self.is_binary, seen.sigmoid(), seen)


# ---------------------------------------------------------------------------------------------------------------------
# Pieces of pictures


def rgb_levels(synthesis: SynthesisNetwork, ws: Tensor) -> list[Tensor]:
    """What each resolution adds to the picture, with the stored noise.

    Args:
        synthesis: the generator's.
        ws: [N, num_ws, w_dim].

    Returns:
        [N, 3, r, r] for r of 4, 8, ..., R; `summed` makes the picture of them.
    """
    x: Tensor | None = None
    out, start = [], 0
    for r in synthesis.block_resolutions:
        block = getattr(synthesis, f"b{r}")
        x, rgb = block(x, None, ws[:, start : start + block.num_conv + 1], "const", torch.float32)
        start += block.num_conv
        out.append(rgb)
    return out


def summed(levels: Sequence[Tensor], taps: Tensor) -> Tensor:
    """The picture [N, C, R, R] of its levels [N, C, r, r], enlarged as the generator does."""
    image = levels[0]
    for level in levels[1:]:
        image = upsample2d(image, taps) + level
    return image


def bands(image: Tensor, count: int, taps: Tensor) -> list[Tensor]:
    """Cut a picture [N, C, R, R] into `count` levels [N, C, r, r], coarse ones first, that `summed` puts together."""
    out: list[Tensor] = []
    for _ in range(count - 1):
        small = downsample2d(image, taps)
        out.append(image - upsample2d(small, taps))
        image = small
    return [image, *reversed(out)]


def soft_region(share: Tensor) -> Tensor:
    """A region with some room around it and a rim that fades.

    Args:
        share: [N, 1, R, R], its probability at each place.

    Returns:
        [N, 1, R, R] in [0, 1]: 1 up to the region's edge, 0 from two margins beyond it.
    """
    low, high = SURE
    core = ((share - low) / (high - low)).clamp(0, 1)
    room = max(1, round(MARGIN * share.shape[-1]))
    wide = F.max_pool2d(core, 2 * room + 1, 1, room)
    return F.avg_pool2d(wide, 2 * room + 1, 1, room, count_include_pad=False)


# ---------------------------------------------------------------------------------------------------------------------
# Content branch


def warped(image: Tensor, flow: Tensor) -> Tensor:
    """A picture [N, C, R, R] whose pixel at x shows what was at x + flow(x), bilinear; beyond the border, its rim.

    Args:
        image: the picture.
        flow: [N, 2, R, R], to the right and down, in sides of the picture.
    """
    n, _, rows, columns = image.shape
    still = torch.eye(2, 3, device=image.device, dtype=image.dtype).expand(n, 2, 3)
    places = F.affine_grid(still, [n, 1, rows, columns], align_corners=False) + 2 * flow.permute(0, 2, 3, 1)
    return F.grid_sample(image, places, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Weighed:
    """What a content branch gives of N photos.

    Attributes:
        levels: a gate [N, 1, r, r] in [0, 1], 1 above 16 px, and a correction [N, 3, r, r] for r of 4, 8, ..., R.
        shown: the gate of the style branch's change [N, 1, R, R].
        flow: [N, 2, R, R], from where the photo's content comes, see `warped`; None: from where it is.
    """

    levels: list[tuple[Tensor, Tensor]]
    shown: Tensor
    flow: Tensor | None


class ContentBranch(nn.Module):
    """Photo, inversion, the style branch's change and strengths -> gates, corrections and a flow.

    A U-Net from the picture's resolution down to 4 px. From 32 px down it reads the encoder's maps of the photo and of
    the style branch's edit, too, which know where a head is.

    Args:
        resolution: R, px.
        attributes: K.
        width: channels at R; they double with every halving.
        widest: channels at most.
        gated: False leaves every gate open.
        warp: False leaves the photo's content where it is.
        maps: channels of the encoder's maps at 32, 16, 8 and 4 px.
    """

    def __init__(
        self,
        resolution: int,
        attributes: int,
        width: int = 16,
        widest: int = 64,
        gated: bool = True,
        warp: bool = True,
        maps: Sequence[int] = (24, 64, 96, 112),
    ) -> None:
        super().__init__()
        self.gated, self.warp = gated, warp
        sizes = resolutions(resolution)[::-1]  # R, ..., 8, 4
        widths = [min(width * resolution // r, widest) for r in sizes]

        # Down: each level's features are scaled and shifted by the strengths.
        self.enter = nn.Conv2d(9, widths[0], 3, padding=1)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs)
        self.film = nn.ModuleList(nn.Linear(attributes, 2 * w) for w in widths)
        self.read = nn.ModuleList(nn.Conv2d(2 * c, w, 1) for c, w in zip(maps, widths[-len(maps) :], strict=True))

        # Up: a sum with what came down, and what the level gives.
        self.lift = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.mix = nn.ModuleList(nn.Conv2d(a, a, 3, padding=1) for a, _ in pairs)
        # a correction, a flow (the finest level: how much of the change shows), a gate
        given = [3 + (2 if i else 1) + (r <= LIGHT) for i, r in enumerate(sizes)]
        self.give = nn.ModuleList(nn.Conv2d(w, count, 1) for w, count in zip(widths, given, strict=True))
        for name, value in self.named_parameters():
            if name.startswith("give."):
                nn.init.zeros_(value)  # nothing of its own at first, gates open
            elif name.startswith("film."):
                nn.init.normal_(value, std=0.1 if name.endswith("weight") else 0.0)

    def forward(
        self, photo: Tensor, inverted: Tensor, change: Tensor, strengths: Tensor, maps: Sequence[Tensor]
    ) -> Weighed:
        """What both branches weigh.

        Args:
            photo: [N, 3, R, R] in [-1, 1].
            inverted: what the style branch makes of it without an edit, the same shape.
            change: what its edit changes, the same shape.
            strengths: [N, K].
            maps: of photo and edit side by side, [N, 2 C, r, r] for r of 32, 16, 8 and 4.
        """
        x = self.enter(torch.cat([photo, inverted, change], dim=1))
        came: list[Tensor] = []
        first = len(self.film) - len(maps)
        for i in range(len(self.film)):
            x = self.down[i - 1](x) if i else x
            x = x + self.read[i - first](maps[i - first]) if i >= first else x
            x = self._level(i, x, strengths)
            came.append(x)

        given = [self.give[-1](x)]
        for i in range(len(self.down) - 1, -1, -1):
            x = F.interpolate(self.lift[i](x), scale_factor=2.0, mode="nearest") + came[i]
            x = F.leaky_relu(self.mix[i](x), LRELU_SLOPE)
            given.append(self.give[i](x))
        gates = [self._gate(out[:, -1:]) if out.shape[-1] <= LIGHT else torch.ones_like(out[:, :1]) for out in given]
        levels = [(gate, out[:, :3]) for gate, out in zip(gates, given, strict=True)]
        return Weighed(levels, self._gate(given[-1][:, 3:4]), self._flow(given[:-1]) if self.warp else None)

    @staticmethod
    def _flow(given: Sequence[Tensor]) -> Tensor:
        """The sum of what all levels but the finest say, coarse ones enlarged: [N, 2, R, R]."""
        flow = torch.zeros_like(given[0][:, 3:5])
        for out in given:
            if out.shape[-1] != flow.shape[-1]:
                flow = F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)
            flow = flow + SWAY * out[:, 3:5]
        return F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)

    def _level(self, index: int, x: Tensor, strengths: Tensor) -> Tensor:
        scale, shift = self.film[index](strengths)[:, :, None, None].chunk(2, dim=1)
        return F.leaky_relu(x * (1 + scale) + shift, LRELU_SLOPE)

    def _gate(self, logits: Tensor) -> Tensor:
        return (OPEN + QUICK * logits).sigmoid() if self.gated else torch.ones_like(logits)


# ---------------------------------------------------------------------------------------------------------------------
# The editor


@dataclass(frozen=True)
class EditOutput:
    """What an editor makes of N photos, each [N, 3, R, R], about [-1, 1].

    Attributes:
        inverted: the style branch's reconstruction, without an edit.
        styled: the style branch's edit.
        edited: both branches' edit.
        warped: the photo, its content where the edit has it.
        change: what the style branch's edit changes of its reconstruction, which is warped alike.
        shown: [N, 1, R, R] in [0, 1], where that change comes through; None: no content branch.
    """

    inverted: Tensor
    styled: Tensor
    edited: Tensor
    warped: Tensor
    change: Tensor
    shown: Tensor | None = None


class ExpandedEditor(nn.Module):
    """Photo and strengths of attributes -> the edited photo, through a frozen generator and its frozen encoder.

    Args:
        attributes: names of the K attributes.
        z_dim, w_dim, img_resolution, num_layers, lr_multiplier: of the `Generator`.
        channel_base, channel_max, conv_clamp: likewise.
        size, widths, hidden, generator: of its `Encoder`.
        width, widest, gated, warp: of the content branch.
        content: False leaves the content branch out: the style branch alone.
        unit: what a direction's numbers are counted in, the deviation of one number of w.
    """

    taps: Tensor

    def __init__(
        self,
        attributes: Sequence[str],
        z_dim: int = 512,
        w_dim: int = 512,
        img_resolution: int = 64,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        size: int = 64,
        widths: tuple[int, ...] | list[int] = (24, 64, 96, 112),
        hidden: int = 128,
        generator: str = "",
        width: int = 16,
        widest: int = 64,
        gated: bool = True,
        warp: bool = True,
        content: bool = True,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.arguments = given | {"attributes": list(attributes), "widths": list(widths)}
        self.attributes, self.has_content, self.unit = tuple(attributes), content, unit
        self.generator = Generator(
            z_dim, w_dim, img_resolution, 3, num_layers, lr_multiplier, channel_base, channel_max, conv_clamp
        )
        self.encoder = Encoder(self.generator.num_ws, w_dim, size, widths, hidden, generator)
        self.multiple_of = img_resolution
        self.directions = nn.Parameter(torch.zeros(len(attributes), self.generator.num_ws, w_dim))
        self.content = ContentBranch(img_resolution, len(attributes), width, widest, gated, warp, widths)
        self.register_buffer("taps", setup_filter(FIR_TAPS), persistent=False)

        note = f"strengths of {', '.join(attributes)}"
        vector = TensorSpec("attributes", len(attributes), -STRONGEST, STRONGEST, spatial=False, note=note)
        self.inputs = (TensorSpec("photo", 3), vector)
        self.outputs = (TensorSpec("output", 3),)

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Edit photos [N, 3, R, R] by strengths [N, K]: ([N, 3, R, R],)."""
        return (self(*inputs),)

    def forward(self, photos: Tensor, strengths: Tensor) -> Tensor:
        """Edit photos.

        Args:
            photos: [N, 3, R, R] in [-1, 1].
            strengths: [N, K], 1 for as much as one step of the training, 0 for no edit.

        Returns:
            [N, 3, R, R] in [-1, 1].
        """
        return self.edit(photos, strengths).edited.clamp(-1, 1)

    def moved(self, ws: Tensor, strengths: Tensor) -> Tensor:
        """Latents [N, num_ws, w_dim] after an edit of strengths [N, K]."""
        return ws + self.unit * torch.einsum("nk,klw->nlw", strengths, self.directions)

    def edit(self, photos: Tensor, strengths: Tensor, style: float = 1.0, content: float = 1.0) -> EditOutput:
        """What both branches make of photos.

        Args:
            photos: [N, 3, R, R] in [-1, 1].
            strengths: [N, K].
            style: influence of the style branch's change; 0: no edit by it.
            content: influence of the content branch; 0: the style branch alone.
        """
        synthesis = self.generator.synthesis
        with torch.no_grad():
            ws = self.encoder(photos)
            levels = rgb_levels(synthesis, ws)
            inverted = summed(levels, self.taps)
        after = rgb_levels(synthesis, self.moved(ws, strengths))
        if style != 1:
            after = [torch.lerp(one, other, style) for one, other in zip(levels, after, strict=True)]
        styled = summed(after, self.taps)

        change = styled - inverted
        if not self.has_content or not content:
            return EditOutput(inverted, styled, styled, photos, change)

        # The content branch says where the photo's content goes and where the style's change shows on it. The
        # reconstruction moves with the photo: of a turned head the change is what the turn alone does not give, and
        # where it shows, the photo's own is what the inversion missed. A closed gate shows what the style branch made
        # of the edit, not the face before it.
        found = self.content(photos, inverted, change, strengths, self._maps(photos, styled))
        moved = photos
        if found.flow is not None:
            moved, before = warped(torch.cat([photos, inverted], dim=1), content * found.flow).chunk(2, dim=1)
            change = change + style * (inverted - before)
        wanted = moved + (1 + content * (found.shown - 1)) * change
        kept = self._with_missed(after, wanted - styled, found.levels, content)
        return EditOutput(inverted, styled, summed(kept, self.taps), moved, change, found.shown)

    @torch.no_grad()
    def _maps(self, photos: Tensor, styled: Tensor) -> list[Tensor]:
        """The encoder's maps of photos and of their edits [N, 3, R, R], side by side."""
        pairs = zip(self.encoder.trunk(photos), self.encoder.trunk(styled), strict=True)
        return [torch.cat(pair, dim=1) for pair in pairs]

    def _with_missed(
        self, levels: list[Tensor], missed: Tensor, given: list[tuple[Tensor, Tensor]], content: float = 1.0
    ) -> list[Tensor]:
        """Levels with what the content branch gives them of what their picture missed [N, 3, R, R]."""
        parts = zip(levels, bands(missed, len(levels), self.taps), given, strict=True)
        return [level + content * (gate * band + own) for level, band, (gate, own) in parts]

    @torch.no_grad()
    def local(self, photos: Tensor, strengths: Tensor, region: Tensor) -> Tensor:
        """Edit photos within a region alone.

        Args:
            photos: [N, 3, R, R] in [-1, 1].
            strengths: [N, K].
            region: [N, 1, R, R] in [0, 1].

        Returns:
            [N, 3, R, R] in [-1, 1]: the reconstruction where the region is 0.
        """
        kept: Tensor = self(photos, torch.zeros_like(strengths))
        edited: Tensor = self(photos, strengths)
        return kept + region * (edited - kept)

    @torch.no_grad()
    def restyle(self, photos: Tensor, head: Tensor, fused: Generator, ws: Tensor) -> Tensor:
        """What a generator fused from this one makes of photos, with the photos' own background and light.

        Outside the head the photo stays. Inside, the coarse bands of what the inversion missed are added: the light,
        and the tones of hair and skin. The finer bands would bring the photo's texture back.

        Args:
            photos: [N, 3, R, R] in [-1, 1].
            head: [N, 1, R, R] in [0, 1], coverage.
            fused: of this editor's generator, whose latents it takes.
            ws: [N, num_ws, w_dim], the photos' latents as the fused generator should draw them.

        Returns:
            [N, 3, R, R] in [-1, 1].
        """
        inverted = summed(rgb_levels(self.generator.synthesis, self.encoder(photos)), self.taps)
        drawn = rgb_levels(fused.synthesis, ws)
        none = torch.zeros(len(photos), len(self.attributes), device=photos.device)
        found = self.content(photos, inverted, torch.zeros_like(photos), none, self._maps(photos, inverted))
        lit = self._with_missed(drawn, photos - inverted, found.levels)
        lit = [own if own.shape[-1] <= LIGHT else level for own, level in zip(lit, drawn, strict=True)]
        return (photos + head * (summed(lit, self.taps) - photos)).clamp(-1, 1)
