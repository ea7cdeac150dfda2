"""Networks of general pictures as feature extractors, from weights that the user has; one small one is shipped.

* `inception`: torchvision's `inception_v3`, 2048 features after the last pooling, as FID and KID take them.
* `vgg16`: torchvision's `vgg16`, 4096 features after the second fully connected layer's ReLU, as improved precision and
  recall take them (Kynkaanniemi et al., 2019, section 3).
* LPIPS (Zhang et al., 2018, eq. 1) of a torchvision backbone and the public linear heads.
* The same distance with every channel weighing alike, of any of those backbones, or of the shipped SqueezeNet 1.0.

torchvision's Inception is not the network of the published FIDs. That one is an older training of 1008 classes: it
averages pools without their padding, takes a maximum in the last block's pooling branch, and reduces pictures without
antialiasing. Numbers of ours compare with each other only, so the id says `inception-torchvision`. The kernel of KID
takes the features as they come: the reader's are standardised, Inception's are raw, as in the paper.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.files import data_file, sha256_file
from stages.core.settings import TristyleError, choice
from stages.metrics.features import FeatureExtractor, squared_distances
from stages.networks.face_reader import load_reader

CHUNK = 16  # pictures through a backbone at a time
EMBEDDED = 1 << 26  # numbers of LPIPS's embeddings held at a time for each side: 256 MB
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pictures in [0, 1]
LPIPS_MEAN, LPIPS_STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]
# Backbone -> (channels of the tapped layers, their places in torchvision's `features`): every block's last activation.
LPIPS_TAPS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "vgg16": ((64, 128, 256, 512, 512), (3, 8, 15, 22, 29)),
    "alexnet": ((64, 192, 384, 256, 256), (1, 4, 7, 9, 11)),
    "squeezenet1_1": ((64, 128, 256, 384, 384, 512, 512), (1, 4, 7, 9, 10, 11, 12)),
    "squeezenet1_0": ((96, 128, 256, 384, 512), (1, 4, 7, 9, 10)),
}
SHIPPED = "squeezenet"  # the name of data/perceptual.safetensors in settings
EXTRACTORS = ("reader", "inception", "vgg16")
State = dict[str, Tensor]


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def read_state(path: Path | str) -> State:
    """Tensors of a .safetensors file or a torch file, float32 on the CPU; nothing but tensors is unpickled.

    Raises:
        TristyleError: missing, damaged, or holding anything but named tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise TristyleError(f"{path}: no such weights file. Check the path.") from None
    except pickle.UnpicklingError:
        raise TristyleError(
            f"{path}: not a file of plain tensors. Save the network's state dict and give that."
        ) from None
    except (SafetensorError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TristyleError(f"{path}: not a file of weights ({reason[:120]}). Copy it again.") from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise TristyleError(f"{path}: holds no named tensors. Give the state dict of a torchvision network.")
    return {str(name): value.float() if value.is_floating_point() else value for name, value in state.items()}


def _fill(network: nn.Module, state: State, path: Path | str, what: str, device: str) -> nn.Module:
    """Put weights into a network built on the meta device (which skips torchvision's slow initialisation)."""
    try:
        missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise TristyleError(f"{path}: does not fit {what} ({reason[:160]}). Give torchvision's weights.") from None
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        odd = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}"
        raise TristyleError(f"{path}: does not fit {what} ({odd}). Give torchvision's weights.")
    for module in network.modules():
        counts = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
        if counts and module.num_batches_tracked is not None:  # absent from old files; unused in eval mode
            module.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return network.to(device).eval().requires_grad_(False)


def _without(state: State, *prefixes: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def _resize(images: Tensor, size: int) -> Tensor:
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def _normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


# ---------------------------------------------------------------------------------------------------------------------
# Extractors


class BackboneFeatures:
    """Features of a whole torchvision network, without gradients, a few pictures at a time.

    Args:
        network: maps prepared pictures [n, 3, size, size] to [n, d].
        identity: the extractor's id.
        size: pixels a side that pictures are resized to (bilinear, antialiased).
        mean, std: of the channels of pictures in [0, 1], as the network was trained.
    """

    def __init__(
        self, network: nn.Module, identity: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.network, self.id, self.size, self.mean, self.std = network, identity, size, mean, std

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1], any size -> [N, d]."""
        device = next(self.network.parameters()).device
        parts = [
            self.network(_normalised((_resize(chunk.to(device), self.size) + 1) / 2, self.mean, self.std))
            for chunk in images.split(CHUNK)
        ]
        return torch.cat(parts)


def load_inception(path: Path | str, device: str = "cpu") -> BackboneFeatures:
    """Inception v3 of torchvision (Szegedy et al., 2016): [N, 2048], id ``inception-torchvision-<sha256, 8 digits>``.

    Raises:
        TristyleError: the file is missing, damaged or of another network, the 1008-class one of published FIDs too.
    """
    from torchvision.models import inception_v3

    state = read_state(path)
    if "fc.weight" in state and len(state["fc.weight"]) == 1008:
        raise TristyleError(
            f"{path}: Inception of 1008 classes, which pools otherwise. Give torchvision's inception_v3."
        )
    with torch.device("meta"):
        network = inception_v3(weights=None, init_weights=False, aux_logits=False, transform_input=False)
    network.fc = cast(nn.Linear, nn.Identity())
    _fill(network, _without(state, "fc.", "AuxLogits."), path, "inception_v3", device)
    half = (0.5, 0.5, 0.5)  # these weights were trained on pictures in [-1, 1]
    return BackboneFeatures(network, f"inception-torchvision-{sha256_file(path)[:8]}", 299, half, half)


def load_vgg16(path: Path | str, device: str = "cpu") -> BackboneFeatures:
    """VGG-16 of torchvision (Simonyan & Zisserman, 2015): [N, 4096], id ``vgg16-<sha256, 8 digits>``.

    Raises:
        TristyleError: the file is missing, damaged or of another network.
    """
    from torchvision.models import vgg16

    with torch.device("meta"):
        network = vgg16(weights=None, init_weights=False)
    network.classifier = network.classifier[:5]  # up to the second ReLU
    _fill(network, _without(read_state(path), "classifier.6."), path, "vgg16", device)
    return BackboneFeatures(network, f"vgg16-{sha256_file(path)[:8]}", 224, IMAGENET_MEAN, IMAGENET_STD)


def load_extractor(kind: str = "reader", path: Path | str | None = None, device: str = "cpu") -> FeatureExtractor:
    """The extractor of a name in `EXTRACTORS`, with weights from `path`; the shipped reader needs none.

    Raises:
        ConfigError: an unknown name.
        TristyleError: no path for Inception or VGG, or a file that does not fit.
    """
    choice("extractor", kind, EXTRACTORS)
    if kind == "reader":
        return load_reader(device, None if path is None else str(path))
    if path is None:
        raise TristyleError(f"extractor={kind}: no weights are shipped. Give the path of torchvision's weights file.")
    return load_inception(path, device) if kind == "inception" else load_vgg16(path, device)


# ---------------------------------------------------------------------------------------------------------------------
# LPIPS


class Lpips:
    """Learned perceptual distance (Zhang et al., 2018, eq. 1); lower is nearer, 0 for equal pictures.

        d(x, y) = sum over layers l of the mean over pixels of sum over channels c of w_lc (x_lc - y_lc)^2

    with the backbone's activations scaled to unit length over the channels at every pixel. Since w >= 0, it is a
    squared Euclidean distance of weighted activations, which is how many pairs are compared at once (`pairwise`).

    Args:
        layers: the backbone's `features`, up to the last tapped layer.
        taps: places of the tapped layers.
        heads: weight [C] of each.
        identity: the id.
    """

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...], heads: list[Tensor], identity: str) -> None:
        self.layers, self.taps, self.heads, self.id = layers, taps, heads, identity

    def embed(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> [N, D] whose squared distances are LPIPS; D grows with H W. Differentiable."""
        parts = []
        for x, head in zip(self.maps(images.to(self.heads[0].device)), self.heads, strict=True):
            unit = x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            weight = (head / unit[0, 0].numel()).sqrt()
            parts.append((unit * weight[:, None, None]).flatten(1))
        return torch.cat(parts, dim=1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The tapped layers' activations [N, C, h, w] of [N, 3, H, W] in [-1, 1]. Differentiable."""
        x, found = _normalised(images, LPIPS_MEAN, LPIPS_STD), []
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place in self.taps:
                found.append(x)
        return found

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """LPIPS of each pair: twice [N, 3, H, W] in [-1, 1] -> [N]. Differentiable."""
        return (self.embed(first) - self.embed(second)).square().sum(dim=1)

    @torch.no_grad()
    def pairwise(self, first: Tensor, second: Tensor) -> Tensor:
        """LPIPS of all pairs: [N, 3, H, W] and [M, 3, H, W] in [-1, 1] -> float32 [N, M] on the CPU."""
        step = max(1, EMBEDDED // self.embed(first[:1]).shape[1])
        rows = []
        for part in first.split(step):
            a = self._embedded(part)
            row = [squared_distances(a, self._embedded(other)).cpu() for other in second.split(step)]
            rows.append(torch.cat(row, dim=1))
        return torch.cat(rows)

    def _embedded(self, images: Tensor) -> Tensor:
        return torch.cat([self.embed(chunk) for chunk in images.split(CHUNK)])


def load_lpips(heads: Path | str, backbone: Path | str, device: str = "cpu") -> Lpips:
    """LPIPS from the public linear heads (keys ``lin0.model.1.weight`` [1, C, 1, 1], ...) and a torchvision backbone.

    The heads' widths determine the backbone: VGG-16, AlexNet or SqueezeNet 1.1. Its classifier is not needed.

    Args:
        heads: .pth or .safetensors of the heads, version 0.1.
        backbone: .pth or .safetensors of torchvision's network.
        device: where it runs.

    Returns:
        id ``lpips-<backbone>-<sha256 of heads, 8 digits>-<of backbone>``.

    Raises:
        TristyleError: a file is missing, damaged or does not fit.
    """
    import torchvision

    state = read_state(heads)
    weights = [
        state[f"lin{i}.model.1.weight"].flatten() for i in range(len(state)) if f"lin{i}.model.1.weight" in state
    ]
    widths = tuple(len(weight) for weight in weights)
    kind = next((name for name, (channels, _) in LPIPS_TAPS.items() if channels == widths), None)
    if kind is None or len(state) != len(weights):
        raise TristyleError(
            f"{heads}: no LPIPS heads (widths {widths}). Give vgg.pth, alex.pth or squeeze.pth of LPIPS."
        )
    if any(bool((weight < 0).any()) for weight in weights):
        raise TristyleError(f"{heads}: LPIPS heads below 0 give no distance. Give the published ones.")
    taps = LPIPS_TAPS[kind][1]
    with torch.device("meta"):
        layers = getattr(torchvision.models, kind)(weights=None).features[: taps[-1] + 1]
    places = tuple(f"features.{place}." for place in range(taps[-1] + 1))
    wanted = {
        name.removeprefix("features."): value for name, value in read_state(backbone).items() if name.startswith(places)
    }
    _fill(layers, wanted, backbone, f"{kind}, the backbone of {Path(heads).name}", device)
    name = f"lpips-{kind}-{sha256_file(heads)[:8]}-{sha256_file(backbone)[:8]}"
    return Lpips(layers, taps, [weight.to(device) for weight in weights], name)


def perceptual_file(source: str = SHIPPED) -> Path:
    """The file of a perceptual network: the shipped one, or the path itself."""
    return data_file("perceptual.safetensors") if source == SHIPPED else Path(source)


def load_perceptual(source: str = SHIPPED, device: str = "cpu", taps: int | None = None) -> Lpips:
    """LPIPS without learned heads: the distance of a backbone's activations, every channel alike.

    Args:
        source: `squeezenet`, the shipped one, or the path of torchvision's vgg16, alexnet, squeezenet1_0 or 1_1.
        device: where it runs.
        taps: how many of its tapped layers count, from the first; None for all.

    Returns:
        id ``perceptual-<backbone>-<sha256, 8 digits>``.

    Raises:
        TristyleError: the file is missing, damaged, or of another network.
    """
    import torchvision

    file = perceptual_file(source)
    state = read_state(file)
    kind = _backbone_of(state)
    if kind is None:
        known = ", ".join(LPIPS_TAPS)
        raise TristyleError(f"{file}: none of the known backbones. Give torchvision's weights of one of: {known}.")
    widths, places = (column[:taps] for column in LPIPS_TAPS[kind])
    with torch.device("meta"):
        layers = getattr(torchvision.models, kind)(weights=None).features[: places[-1] + 1]
    wanted = {
        name.removeprefix("features."): value
        for name, value in state.items()
        if name.startswith("features.") and int(name.split(".")[1]) <= places[-1]
    }
    _fill(layers, wanted, file, kind, device)
    heads = [torch.ones(width, device=device) for width in widths]
    return Lpips(layers, places, heads, f"perceptual-{kind}-{sha256_file(file)[:8]}")


def _backbone_of(state: State) -> str | None:
    """Which of `LPIPS_TAPS` weights belong to, by the shape of their first layer and what follows it."""
    first = tuple(state["features.0.weight"].shape) if "features.0.weight" in state else ()
    if first == (64, 3, 3, 3):
        return "squeezenet1_1" if "features.3.squeeze.weight" in state else "vgg16"
    others: dict[tuple[int, ...], str] = {(64, 3, 11, 11): "alexnet", (96, 3, 7, 7): "squeezenet1_0"}
    return others.get(first)
