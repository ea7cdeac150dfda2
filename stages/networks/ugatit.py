"""U-GAT-IT: generator and discriminator with class-activation attention and AdaLIN.

Kim, Kim, Kang, Lee: "U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance Normalization
for Image-to-Image Translation", ICLR 2020 (arXiv 1907.10830). Generator: fig. 1 and table 4/5; AdaLIN: eq. 1-2;
attention by class activation maps: section 2.1.1; discriminator: section 2.1.2 and table 6.

State-dict names are those of the authors' PyTorch code, so its weights load as they are. What differs from it:
  * ``full`` is free of the image size where ``full_pool`` averages the map to a fixed grid before its MLP, which as
    published holds 268 of 279 M parameters and takes one size only;
  * an optional mask head: out = m R + (1 - m) x (the photo passes where m = 0 bit for bit). Beside it the content R is
    tanh(head + artanh x) with a small initial head, so that a short training starts from the picture and not from grey;
  * the two normalisations share their passes over the feature map, and the blend of eq. 2 becomes one multiply-add per
    value: the same numbers to rounding, in any memory format, without ``torch.var``'s cost. Together with the padded
    convolutions of `stages/networks/ops/fused_norms.py` half of the memory of a training iteration;
  * spectral normalisation is written out (buffers under the names of the hook based version), one power iteration per
    forward pass in training mode, and divides what the convolution gives instead of its weight;
  * the discriminator's width can be capped (``max_width``): most of its 53 M parameters sit in the last two layers;
  * its depth follows from the image size (`discriminator_layers`): as published, 7 layers fail below 96 px.
As in that code the discriminator's attention multiplies by the *un-normalised* ``weight_orig``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.networks.ops.fused_norms import LayerInstanceNorm, reflect_conv, row_order, rows, spectral_conv

CONTRAST = 0.97  # of the input within the painted content: keeps its inverse tanh finite
START = 0.005  # greatest initial weight of the content head beside a mask head: it begins as the input


class GeneratorOutput(NamedTuple):
    """What a generator returns; ``mask`` is None without a mask head (then ``content`` is ``image``)."""

    image: Tensor  # [N, 3, H, W] in [-1, 1]
    cam_logit: Tensor  # [N, 2] from average and maximum pooling
    heatmap: Tensor  # [N, 1, H/4, W/4]
    mask: Tensor | None  # [N, 1, H, W] in [0, 1]
    content: Tensor  # [N, 3, H, W] the repainted picture before it is laid over the input


class DiscriminatorOutput(NamedTuple):
    """What a discriminator returns."""

    logit: Tensor  # [N, 1, h, w] one per patch
    cam_logit: Tensor  # [N, 2]
    heatmap: Tensor  # [N, 1, h + 1, w + 1]


def _normalise(x: Tensor, rho: Tensor | None, gamma: Tensor, beta: Tensor, eps: float, relu: bool) -> Tensor:
    out: Tensor = LayerInstanceNorm.apply(x, rho, gamma, beta, eps, relu)
    return out


class InstanceNorm(nn.Module):
    """Instance normalisation without parameters (biased variance), followed by ReLU if `relu`."""

    def __init__(self, relu: bool = False) -> None:
        super().__init__()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return _normalise(x, None, x.new_empty(0), x.new_empty(0), 1e-5, self.relu)


class ReflectConv(nn.Conv2d):
    """Convolution over a reflection-padded map that keeps its size (halves it with stride 2).

    `doubles`: the map is first doubled by nearest neighbours.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False, doubles: bool = False
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=bias)
        self.doubles = doubles

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride], or twice that."""
        out = reflect_conv(x, self.weight, self.stride[0], self.kernel_size[0] // 2, self.doubles)
        return out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]


class AdaILN(nn.Module):
    """Adaptive layer-instance normalisation (eq. 1); gamma and beta [N, C] come from the attention features."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.rho = nn.Parameter(torch.full((1, channels, 1, 1), 0.9))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor, relu: bool = False) -> Tensor:
        """[N, C, H, W], [N, C], [N, C] -> [N, C, H, W], followed by ReLU if `relu`."""
        return _normalise(x, self.rho.flatten(1), gamma, beta, self.eps, relu)


class ILN(nn.Module):
    """Layer-instance normalisation with its own affine parameters (the up-sampling path); ReLU follows if `relu`."""

    def __init__(self, channels: int, eps: float = 1e-5, relu: bool = False) -> None:
        super().__init__()
        self.eps, self.relu = eps, relu
        self.rho = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        affine = self.gamma.flatten(1), self.beta.flatten(1)
        return _normalise(x, self.rho.flatten(1), *affine, self.eps, self.relu)


@torch.no_grad()
def clip_rho(module: nn.Module) -> None:
    """Keep every rho of ``module`` in [0, 1] (eq. 2); called after each step of the generators."""
    for m in module.modules():
        if isinstance(m, (AdaILN, ILN)):
            m.rho.clamp_(0.0, 1.0)


def _published(layers: dict[int, nn.Module]) -> nn.Sequential:
    """Layers at their positions in the published code, whose paddings and activations they do themselves."""
    return nn.Sequential(*(layers.get(position, nn.Identity()) for position in range(max(layers) + 1)))


class ResnetBlock(nn.Module):
    """Residual block of the encoder: two padded 3x3 convolutions with instance normalisation, no ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = _published(
            {1: ReflectConv(channels, channels, 3), 2: InstanceNorm(relu=True)}
            | {5: ReflectConv(channels, channels, 3), 6: InstanceNorm()}
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        out: Tensor = x + self.conv_block(x)
        return out


class ResnetAdaILNBlock(nn.Module):
    """Residual block of the decoder; both normalisations share one gamma and beta."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ReflectConv(channels, channels, 3)
        self.norm1 = AdaILN(channels)
        self.conv2 = ReflectConv(channels, channels, 3)
        self.norm2 = AdaILN(channels)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """[N, C, H, W], [N, C], [N, C] -> [N, C, H, W]."""
        out = self.norm1(self.conv1(x), gamma, beta, relu=True)
        result: Tensor = x + self.norm2(self.conv2(out), gamma, beta)
        return result


def _attend(x: Tensor, gap_logit: nn.Module, gmp_logit: nn.Module, gap: Tensor, gmp: Tensor) -> tuple[Tensor, Tensor]:
    """Class activation attention (section 2.1.1): logits [N, 2], and the maps times the classifiers [N, 2C, H, W]."""
    logit = torch.cat([gap_logit(x.mean((2, 3))), gmp_logit(x.amax((2, 3)))], 1)
    return logit, torch.cat([x * gap[..., None, None], x * gmp[..., None, None]], 1)


class ResnetGenerator(nn.Module):
    """U-GAT-IT's generator: [N, 3, H, W] in [-1, 1] -> :class:`GeneratorOutput`.

    Args:
        ngf: channels of the first layer.
        n_blocks: residual blocks on each side.
        img_size: px, a multiple of 4.
        light: feed the MLP pooled features, else the map itself.
        mask: add the mask head.
        full_pool: for ``light=False``: the map is averaged to that many cells a side before the MLP, so that any size
            is accepted. None: as published, bound to `img_size`; a pool of ``img_size / 4`` is the same network.

    Raises:
        ValueError: an image size that the two stride-2 convolutions cannot halve, or that a bound MLP refuses.
    """

    def __init__(
        self,
        ngf: int = 64,
        n_blocks: int = 4,
        img_size: int = 256,
        light: bool = True,
        mask: bool = False,
        full_pool: int | None = None,
    ) -> None:
        super().__init__()
        if img_size % 4 or img_size < 16:
            raise ValueError(f"img_size: {img_size} is not a multiple of 4 of at least 16")
        if full_pool is not None and (light or full_pool < 1):
            raise ValueError(f"full_pool: {full_pool} is for light=False and at least 1")
        self.arguments: dict[str, Any] = {
            "ngf": ngf,
            "n_blocks": n_blocks,
            "img_size": img_size,
            "light": light,
            "mask": mask,
            "full_pool": full_pool,
        }
        self.cells = 1 if light else full_pool or img_size // 4  # a side of the map that the MLP sees

        # Encoder: two halvings, then residual blocks.
        c = 4 * ngf
        down: dict[int, nn.Module] = {1: ReflectConv(3, ngf, 7), 2: InstanceNorm(relu=True)}
        for at, width in ((5, ngf), (9, 2 * ngf)):
            down |= {at: ReflectConv(width, 2 * width, 3, stride=2), at + 1: InstanceNorm(relu=True)}
        self.DownBlock = _published(down | {12 + i: ResnetBlock(c) for i in range(n_blocks)})

        # Attention by two classifiers of the domain, and the MLP that gives the modulation.
        self.gap_fc = nn.Linear(c, 1, bias=False)
        self.gmp_fc = nn.Linear(c, 1, bias=False)
        self.conv1x1 = nn.Conv2d(2 * c, c, 1)
        self.FC = nn.Sequential(
            nn.Linear(self.cells**2 * c, c, bias=False), nn.ReLU(True), nn.Linear(c, c, bias=False), nn.ReLU(True)
        )
        self.gamma = nn.Linear(c, c, bias=False)
        self.beta = nn.Linear(c, c, bias=False)

        # Decoder: modulated residual blocks, two doublings, the heads.
        for i in range(n_blocks):
            setattr(self, f"UpBlock1_{i + 1}", ResnetAdaILNBlock(c))  # the published names
        up: dict[int, nn.Module] = {}
        for at, width in ((2, c), (7, c // 2)):
            up |= {at: ReflectConv(width, width // 2, 3, doubles=True), at + 1: ILN(width // 2, relu=True)}
        self.trunk_end = 10
        head = ReflectConv(ngf, 3, 7)
        self.UpBlock2 = _published(up | {11: head, 12: nn.Tanh()})
        self.mask = _published({1: ReflectConv(ngf, 1, 3, bias=True)}) if mask else None
        if mask:
            nn.init.uniform_(head.weight, -START, START)

    def forward(self, x: Tensor) -> GeneratorOutput:
        """[N, 3, H, W] in [-1, 1] -> :class:`GeneratorOutput`."""
        h = self.DownBlock(x)  # [N, 4 ngf, H/4, W/4]

        # Attend, and find the modulation of the decoder.
        cam_logit, h = _attend(h, self.gap_fc, self.gmp_fc, self.gap_fc.weight, self.gmp_fc.weight)
        h = F.relu(self.conv1x1(h))
        heatmap = h.sum(1, keepdim=True)
        code = self.FC(self._condense(h))
        gamma, beta = self.gamma(code), self.beta(code)  # [N, 4 ngf], shared by all AdaILN layers

        for i in range(self.arguments["n_blocks"]):
            h = getattr(self, f"UpBlock1_{i + 1}")(h, gamma, beta)
        trunk = self.UpBlock2[: self.trunk_end](h)  # [N, ngf, H, W]
        if self.mask is None:
            image = self.UpBlock2[self.trunk_end :](trunk).to(x.dtype)
            return GeneratorOutput(image, cam_logit, heatmap, None, image)

        # The content starts as the input, and is laid over it where the mask says so.
        change = self.UpBlock2[self.trunk_end : -1](trunk).to(x.dtype)
        content = torch.tanh(change + torch.atanh(CONTRAST * x))
        mask = torch.sigmoid(self.mask(trunk).to(x.dtype))  # [N, 1, H, W]
        return GeneratorOutput(mask * content + (1 - mask) * x, cam_logit, heatmap, mask, content)

    def _condense(self, h: Tensor) -> Tensor:
        """What the MLP sees of the attended map [N, C, H/4, W/4]: [N, cells * cells * C]."""
        if self.arguments["light"]:
            return h.mean((2, 3))
        if self.arguments["full_pool"] is not None:
            return F.adaptive_avg_pool2d(h, self.cells).flatten(1)
        if h.shape[2:] != (self.cells, self.cells):
            size = 4 * self.cells
            raise ValueError(f"a full generator without full_pool takes {size}x{size} pictures only, as published")
        return h.flatten(1)


class _Spectral(nn.Module):
    """A weight over its largest singular value (Miyato et al. 2018, algorithm 1); one power iteration a pass."""

    weight_u: Tensor
    weight_v: Tensor

    def _register(self, weight: Tensor) -> None:
        self.weight_orig = nn.Parameter(weight)
        flat = weight.detach().flatten(1)
        self.register_buffer("weight_u", F.normalize(torch.randn(flat.shape[0]), dim=0, eps=1e-12))
        self.register_buffer("weight_v", F.normalize(torch.randn(flat.shape[1]), dim=0, eps=1e-12))

    @torch.no_grad()
    def estimate(self) -> tuple[Tensor, Tensor, Tensor]:
        """u, v and the spectral norm u^T W v; in training mode first updates the estimates u and v."""
        w: Tensor = self.weight_orig
        if w.ndim == 2:
            flat, v = w, self.weight_v
        else:
            flat, v = rows(w), row_order(self.weight_v, w)
        if self.training:
            v = F.normalize(flat.t().mv(self.weight_u), dim=0, eps=1e-12)
            self.weight_v.copy_(v if w.ndim == 2 else v.view(*w.shape[2:], w.shape[1]).permute(2, 0, 1).flatten())
        product = flat.mv(v)
        if self.training:
            self.weight_u.copy_(F.normalize(product, dim=0, eps=1e-12))
        # clones: a later forward pass overwrites the buffers before this one's backward pass has read them
        return self.weight_u.clone(), self.weight_v.clone(), torch.dot(self.weight_u, product)

    def normalised(self) -> Tensor:
        """The weight over its norm, differentiable; a power iteration like any other pass."""
        u, v, _ = self.estimate()
        return self.weight_orig / torch.dot(u, self.weight_orig.flatten(1).mv(v))


class SpectralConv2d(_Spectral):
    """4x4 convolution over a map padded by one reflected pixel, with a spectrally normalised weight."""

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool = True) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, 4, stride=stride, bias=bias)
        self._register(conv.weight.detach().clone())
        self.stride = stride
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, outputs, (H - 2) // stride + 1, ...]."""
        return spectral_conv(x, self.weight_orig, self.bias, *self.estimate(), stride=self.stride)


class SpectralLinear(_Spectral):
    """Linear layer without bias, spectrally normalised."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self._register(nn.Linear(inputs, outputs, bias=False).weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        return F.linear(x, self.normalised())


def discriminator_layers(img_size: int, most: int = 7) -> int:
    """The greatest published depth up to ``most`` (7 global, 5 local) whose last map still allows reflection padding.

    After n - 2 halvings and one 4x4 convolution at least 2 pixels must be left: 7 layers need 96 px, 6 need 48.
    Raises ValueError below 32 px, where the two scales would see the same few patches.
    """
    if img_size < 32:
        raise ValueError(f"image size {img_size} px is too small for U-GAT-IT's discriminators; use 32 px or more")
    return max(n for n in range(3, most + 1) if img_size >> (n - 2) >= 3)


class CamDiscriminator(nn.Module):
    """Patch discriminator with class activation attention: [N, 3, H, W] in [-1, 1] -> :class:`DiscriminatorOutput`.

    Args:
        ndf: channels of the first layer.
        n_layers: 5 is the local scale, 6 or 7 the global one.
        max_width: the most channels of any layer; None: as published.

    Raises:
        ValueError: fewer than three layers.
    """

    def __init__(self, ndf: int = 64, n_layers: int = 5, max_width: int | None = None) -> None:
        super().__init__()
        if n_layers < 3:
            raise ValueError(f"n_layers: {n_layers} is less than 3")
        self.arguments = {"ndf": ndf, "n_layers": n_layers, "max_width": max_width}

        # Convolutions that halve, and a last one that does not.
        widths = [ndf * 2**i for i in range(n_layers - 1)]
        if max_width is not None:
            widths = [min(width, max_width) for width in widths]
        layers: dict[int, nn.Module] = {}
        before = 3
        for i, width in enumerate(widths):
            stride = 1 if i == len(widths) - 1 else 2
            layers |= {3 * i + 1: SpectralConv2d(before, width, stride), 3 * i + 2: nn.LeakyReLU(0.2, True)}
            before = width
        self.model = _published(layers)

        self.gap_fc = SpectralLinear(before, 1)
        self.gmp_fc = SpectralLinear(before, 1)
        self.conv1x1 = nn.Conv2d(2 * before, before, 1)
        self.conv = SpectralConv2d(before, 1, stride=1, bias=False)

    def forward(self, x: Tensor) -> DiscriminatorOutput:
        """[N, 3, H, W] in [-1, 1] -> :class:`DiscriminatorOutput`."""
        h = self.model(x)
        cam_logit, h = _attend(h, self.gap_fc, self.gmp_fc, self.gap_fc.weight_orig, self.gmp_fc.weight_orig)
        h = F.leaky_relu(self.conv1x1(h), 0.2)
        return DiscriminatorOutput(self.conv(h), cam_logit, h.sum(1, keepdim=True))
