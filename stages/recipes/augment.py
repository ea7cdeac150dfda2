"""What the recipes' trainings do to their pictures: geometry, backgrounds, occluders, light, colour, softness, wobble.

The face reader meets generated pictures (soft, wobbly, off-colour) and other people's crops, the face parser any
camera's. Their training pictures show none of that. `wild` and `rough_camera` go further: with them networks that have
only seen people of nobody are to read photographs. Randomness comes from torch's global generator, which `fit` seeds
from the images seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.tensors import unit
from stages.networks.face_labels import LANDMARK_MIRROR, READER

MOST_SCALE, MOST_SHIFT, MOST_TURN = 0.20, 0.07, 12.0  # log scale, share of the width, degrees
PARSER_SCALE, PARSER_SHIFT, PARSER_TURN = 0.30, 0.12, 25.0  # the same for the face parser
OCCLUDED = 0.2  # share of the parser's pictures that something is held before
BARRED, SHADED = 0.15, 0.05  # shares of the pictures of people of nobody with a bar before them, with dark glasses
WOBBLE = 0.022  # bends of generated pictures, deviation as a share of the width


def chance(n: int, p: float, device: torch.device) -> Tensor:
    """Bool [n], true with probability `p`."""
    return torch.rand(n, device=device) < p


def affine(
    n: int, device: torch.device, scale: float = MOST_SCALE, shift: float = MOST_SHIFT, turn: float = MOST_TURN
) -> tuple[Tensor, Tensor]:
    """Random similarity transforms with a mirror in half of them, up to these amounts.

    Returns:
        (theta [n, 2, 3]: output position -> input position in -1..1, mirrored: bool [n])
    """
    factor = torch.exp((torch.rand(n, device=device) * 2 - 1) * scale)
    angle = (torch.rand(n, device=device) * 2 - 1) * math.radians(turn)
    move = (torch.rand(n, 2, device=device) * 2 - 1) * 2 * shift
    mirrored = chance(n, 0.5, device)
    sign = torch.where(mirrored, -1.0, 1.0)
    cos, sin = angle.cos() / factor, angle.sin() / factor
    linear = torch.stack([torch.stack([cos * sign, -sin * sign], 1), torch.stack([sin, cos], 1)], 1)  # [n, 2, 2]
    return torch.cat([linear, -(linear @ move[:, :, None])], dim=2), mirrored


def move_landmarks(landmarks: Tensor, theta: Tensor, mirrored: Tensor) -> Tensor:
    """Landmarks [N, 68, 2] (shares of the frame) where the picture warped by `theta` shows them."""
    inward = (landmarks * 2 - 1 - theta[:, None, :, 2]) @ torch.linalg.inv(theta[:, :, :2]).transpose(1, 2)
    order = torch.tensor(LANDMARK_MIRROR, device=landmarks.device)
    return torch.where(mirrored[:, None, None], inward[:, order], inward) / 2 + 0.5


def warp(images: Tensor, labels: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, H, W] and labels int64 [N, H, W] through `theta`, with a small bend of the picture in some.

    Labels bend along with the picture; landmarks do not (the bend is about a pixel). What comes into view from outside
    the frame is mirrored.
    """
    n, _, height, width = images.shape
    grid = F.affine_grid(theta, [n, 3, height, width], align_corners=False)
    bend = torch.randn(n, 2, 6, 6, device=images.device) * WOBBLE * chance(n, 0.3, images.device)[:, None, None, None]
    bend = F.interpolate(bend, (height, width), mode="bicubic", align_corners=False)
    grid = grid + bend.permute(0, 2, 3, 1)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    tags = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return moved, tags[:, 0].round().long()


def replace_background(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Some people before other backgrounds (another picture's corner, stretched, or a flat colour), some heads alone.

    A reader that knew people by their backgrounds would praise a stylizer for keeping the background.
    """
    n, _, height, width = images.shape
    device = images.device
    alone = chance(n, 0.15, device)
    body = (labels == READER["neck"]) | (labels == READER["cloth"])
    labels = torch.where(alone[:, None, None] & body, torch.zeros_like(labels), labels)
    corner = images.roll(1, 0)[:, :, : height // 4, : width // 4]  # mostly background: heads stand in the middle
    other = F.interpolate(corner, (height, width), mode="bilinear", align_corners=False).flip(3)
    grey = torch.rand(n, 3, 1, 1, device=device) * 2 - 1
    grey = torch.where(chance(n, 0.5, device)[:, None, None, None], grey[:, :1] * 0.3, grey).expand_as(images)
    flat = alone | chance(n, 0.3, device)
    behind = torch.where(flat[:, None, None, None], grey, other)
    person = F.avg_pool2d((labels > 0).float()[:, None], 3, stride=1, padding=1, count_include_pad=False)
    replaced = images * person + behind * (1 - person)
    chosen = alone | chance(n, 0.35, device)
    return torch.where(chosen[:, None, None, None], replaced, images), labels


def cut(images: Tensor, labels: Tensor, theta: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pictures and labels at the positions `theta`; what comes into view from outside the frame is mirrored.

    Pictures are sampled at twice the size and averaged. Otherwise reduced ones would be rougher than in use.

    Args:
        images: uint8 [N, 3, S, S].
        labels: uint8 [N, S, S].
        theta: [N, 2, 3], see `affine`.
        size: side of the result, px.

    Returns:
        float32 [N, 3, size, size] in [-1, 1] and int64 [N, size, size].
    """
    n = len(images)
    fine = F.affine_grid(theta, [n, 3, 2 * size, 2 * size], align_corners=False)
    image = F.grid_sample(images.float() / 127.5 - 1, fine, padding_mode="reflection", align_corners=False)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    label = F.grid_sample(labels[:, None].float(), grid, "nearest", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(image, 2), label[:, 0].round().long()


def occlude(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Hold an ellipse with a piece of another picture before some heads: background, as hands and microphones are."""
    n, _, height, width = images.shape
    device = images.device
    y = (torch.arange(height, device=device) + 0.5)[:, None] / height
    x = (torch.arange(width, device=device) + 0.5)[None] / width
    centre, half = torch.rand(2, n, 1, 1, device=device), 0.05 + 0.15 * torch.rand(2, n, 1, 1, device=device)
    inside = ((x - centre[0]) / half[0]).square() + ((y - centre[1]) / half[1]).square() < 1
    inside &= chance(n, OCCLUDED, device)[:, None, None]
    other = images.roll(1, 0).flip(2)
    return torch.where(inside[:, None], other, images), labels.masked_fill(inside, 0)


def recolour(images: Tensor) -> Tensor:
    """Brightness, contrast, saturation, white balance and, rarely, grey: [N, 3, H, W] in [-1, 1]."""
    n, device = len(images), images.device

    def normal(sd: float, channels: int = 1) -> Tensor:
        return torch.randn(n, channels, 1, 1, device=device) * sd

    luma = images.mean(dim=1, keepdim=True)
    saturation = torch.exp(normal(0.22))
    saturation = torch.where(chance(n, 0.04, device)[:, None, None, None], torch.zeros_like(saturation), saturation)
    images = luma + (images - luma) * saturation
    return images * torch.exp(normal(0.13)) * torch.exp(normal(0.04, 3)) + normal(0.09)


def relight(images: Tensor) -> Tensor:
    """Gamma, and light from one side in some: [N, 3, H, W] in about [-1, 1]."""
    n, _, height, width = images.shape
    device = images.device
    angle = torch.rand(n, 1, 1, 1, device=device) * 2 * math.pi
    strength = torch.randn(n, 1, 1, 1, device=device) * 0.5 * chance(n, 0.3, device)[:, None, None, None]
    y, x = torch.linspace(-1, 1, height, device=device)[:, None], torch.linspace(-1, 1, width, device=device)[None]
    light = torch.exp(strength * (x * angle.cos() + y * angle.sin()))
    gamma = torch.exp(torch.randn(n, 1, 1, 1, device=device) * 0.25)
    return (unit(images).pow(gamma) * light) * 2 - 1


def soften(images: Tensor, low: int = 16, high: int = 48) -> Tensor:
    """Loss of detail and noise: some pictures reduced to low..high pixels and back (one size a batch), some noisy."""
    n, device = len(images), images.device
    side = int(torch.randint(low, high + 1, ()))
    small = F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)
    soft = F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)
    images = torch.where(chance(n, 0.4, device)[:, None, None, None], soft, images)
    amount = torch.rand(n, 1, 1, 1, device=device) * 0.12 * chance(n, 0.4, device)[:, None, None, None]
    return images + torch.randn_like(images) * amount


def parser_views(images: Tensor, labels: Tensor, size: int, mirror: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One random view of each picture as a parser is trained on it: mirrored, turned, scaled, shifted, occluded.

    Args:
        images: uint8 [N, 3, S, S].
        labels: uint8 [N, S, S].
        size: side of the view, px.
        mirror: what each label becomes in a mirrored picture.

    Returns:
        float32 [N, 3, size, size] in [-1, 1] and int64 [N, size, size].
    """
    theta, mirrored = affine(len(images), images.device, PARSER_SCALE, PARSER_SHIFT, PARSER_TURN)
    image, label = cut(images, labels, theta, size)
    label = torch.where(mirrored[:, None, None], torch.tensor(mirror, device=label.device)[label], label)
    return occlude(image, label)


def camera(images: Tensor) -> Tensor:
    """Other colours, light and sharpness, as another camera would have it: [N, 3, H, W] in [-1, 1]."""
    return soften(relight(recolour(images)), 24, 96).clamp(-1, 1)


# ---------------------------------------------------------------------------------------------------------------------
# From people of nobody to photographs


def noise(n: int, size: int, device: torch.device) -> Tensor:
    """Coloured noise from coarse to fine, each picture's own mixture: [n, 3, size, size] in [-1, 1].

    Some of its layers are squares with edges, as windows, shelves and letters have them.
    """
    total = (torch.rand(n, 3, 1, 1, device=device) * 2 - 1).expand(n, 3, size, size)
    falling = torch.rand(n, 1, 1, 1, device=device) * 1.2  # how much weaker each finer layer is
    side, step = 2, 0
    while side <= size:
        layer = torch.randn(n, 3, side, side, device=device)
        grey = chance(n, 0.5, device)[:, None, None, None]
        layer = torch.where(grey, layer[:, :1], layer) * 0.5 * torch.exp(-falling * step)
        if torch.rand(()) < 0.3:
            total = total + F.interpolate(layer, (size, size), mode="nearest")
        else:
            total = total + F.interpolate(layer, (size, size), mode="bilinear", align_corners=False)
        side, step = 2 * side, step + 1
    return total.clamp(-1, 1)


def clutter(images: Tensor, labels: Tensor) -> Tensor:
    """Busy backgrounds behind half of the people: noise, or another picture upside down."""
    n, _, height, _ = images.shape
    person = F.avg_pool2d((labels > 0).float()[:, None], 3, stride=1, padding=1, count_include_pad=False)
    upside = chance(n, 0.4, images.device)[:, None, None, None]
    behind = torch.where(upside, images.roll(1, 0).flip(2), noise(n, height, images.device))
    chosen = chance(n, 0.5, images.device)[:, None, None, None]
    return torch.where(chosen, images * person + behind * (1 - person), images)


def bars(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Hold a bar before some people, as arms, microphones and straps are: background that reaches the border."""
    n, _, height, width = images.shape
    device = images.device
    y = (torch.arange(height, device=device) + 0.5)[:, None] / height
    x = (torch.arange(width, device=device) + 0.5)[None] / width
    tip, half = torch.rand(2, n, 1, 1, device=device), 0.02 + 0.08 * torch.rand(n, 1, 1, device=device)
    angle = torch.rand(n, 1, 1, device=device) * 2 * math.pi
    along = (x - tip[0]) * angle.cos() + (y - tip[1]) * angle.sin()
    across = (y - tip[1]) * angle.cos() - (x - tip[0]) * angle.sin()
    inside = (along > 0) & (across.abs() < half) & chance(n, BARRED, device)[:, None, None]
    return torch.where(inside[:, None], noise(n, height, device), images), labels.masked_fill(inside, 0)


def dark_glasses(images: Tensor, labels: Tensor, eyes: Tensor, glasses: int) -> tuple[Tensor, Tensor]:
    """Put dark glasses on some people.

    Args:
        images: [N, 3, S, S] in [-1, 1].
        labels: int64 [N, S, S].
        eyes: [N, 2, 2], where both eyes are, in shares of the frame; NaN for a picture that shows none.
        glasses: the label of glasses.
    """
    n, _, size, _ = images.shape
    device = images.device
    middle, between = eyes.mean(1), eyes[:, 1] - eyes[:, 0]
    distance = between.norm(dim=1).clamp_min(1e-3)[:, None, None]
    along = (between / distance[:, 0])[:, :, None, None]
    place = (torch.arange(size, device=device) + 0.5) / size
    x, y = place[None, None] - middle[:, 0, None, None], place[None, :, None] - middle[:, 1, None, None]
    right = (x * along[:, 0] + y * along[:, 1]) / distance
    down = (y * along[:, 0] - x * along[:, 1]) / distance

    # Two lenses, from round to square, and the bridge; in eye distances.
    wide, high = 0.32 + 0.12 * torch.rand(2, n, 1, 1, device=device)
    power = 2 + 4 * torch.rand(n, 1, 1, device=device)
    lens = ((right.abs() - 0.5).abs() / wide).pow(power) + ((down - 0.05).abs() / high).pow(power) < 1
    bridge = (right.abs() < 0.2) & (down.abs() < 0.05)
    worn = (lens | bridge) & chance(n, SHADED, device)[:, None, None] & (labels > 0)
    dark = -1 + 0.5 * torch.rand(n, 3, 1, 1, device=device)
    clear = 0.3 * torch.rand(n, 1, 1, 1, device=device)
    return torch.where(worn[:, None], dark + (images - dark) * clear, images), labels.masked_fill(worn, glasses)


def wild(images: Tensor, labels: Tensor, eyes: Tensor, glasses: int) -> tuple[Tensor, Tensor]:
    """What people of nobody lack before a camera: busy backgrounds, things in the way, dark glasses.

    Arguments as for `dark_glasses`.
    """
    images, labels = dark_glasses(clutter(images, labels), labels, eyes, glasses)
    return bars(images, labels)


def mix_colours(images: Tensor) -> Tensor:
    """Other sensors' colours: each channel takes a little of the others."""
    device = images.device
    matrix = torch.eye(3, device=device) + 0.07 * torch.randn(len(images), 3, 3, device=device)
    return torch.einsum("nij,njhw->nihw", matrix, images)


def shake(images: Tensor, side: int = 7) -> Tensor:
    """Blur some pictures along a line, as a camera that moves does."""
    n, _, height, width = images.shape
    device = images.device
    angle, length = torch.rand(n, 1, 1, device=device) * math.pi, torch.rand(n, 1, 1, device=device) * side / 2
    place = torch.arange(side, device=device) - side // 2
    along = place[None, None] * angle.cos() + place[None, :, None] * angle.sin()
    across = place[None, :, None] * angle.cos() - place[None, None] * angle.sin()
    line = (1 - across.abs()).clamp_min(0) * (along.abs() <= length.clamp_min(0.5))
    line = line / line.sum(dim=(1, 2), keepdim=True)
    weights = line.repeat_interleave(3, 0)[:, None]
    padded = F.pad(images, [side // 2] * 4, mode="reflect").flatten(0, 1)[None]
    moved = F.conv2d(padded, weights, groups=3 * n).view(n, 3, height, width)
    return torch.where(chance(n, 0.15, device)[:, None, None, None], moved, images)


def compress(images: Tensor) -> Tensor:
    """Some pictures as a JPEG of any quality leaves them; [N, 3, H, W] in [-1, 1]."""
    out = images.clone()
    for row in torch.where(chance(len(images), 0.4, images.device))[0].tolist():
        picture = ((images[row].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        quality = int(torch.randint(12, 90, ()))
        _, file = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.ascontiguousarray(np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1])
        out[row] = torch.from_numpy(decoded).to(images.device).permute(2, 0, 1).float() / 127.5 - 1
    return out


def rough_camera(images: Tensor, low: int = 24, high: int = 96) -> Tensor:
    """`camera` with other sensors, shaking hands and JPEG; the arguments are those of `soften`."""
    images = relight(mix_colours(recolour(images)))
    return compress(soften(shake(images), low, high)).clamp(-1, 1)


def augment(batch: dict[str, Tensor], rough: bool = False) -> dict[str, Tensor]:
    """One random version of a batch.

    Args:
        batch: `image` [N, 3, 64, 64] in [-1, 1], `labels` int64 [N, 64, 64], `landmarks` [N, 68, 2] in shares of the
            frame, `pose` [N, 2]; whatever else there is passes through.
        rough: towards photographs, by `wild` and `rough_camera`.

    Returns:
        The same keys, and `seen` [N, 68]: 1 for landmarks that are still within the frame.
    """
    image, labels = replace_background(batch["image"], batch["labels"])
    theta, mirrored = affine(len(image), image.device)
    image, labels = warp(image, labels, theta)
    landmarks = move_landmarks(batch["landmarks"], theta, mirrored)

    # What a camera does to the picture: mildly, or as roughly as in photographs of strangers.
    if rough:
        eyes = torch.stack([landmarks[:, 36:42].mean(1), landmarks[:, 42:48].mean(1)], dim=1)
        image, labels = wild(image, labels, eyes, READER["glasses"])
        image = rough_camera(image, 16, 56)
    else:
        image = soften(recolour(image)).clamp(-1, 1)

    yaw = torch.where(mirrored, -batch["pose"][:, 0], batch["pose"][:, 0])
    return {
        **batch,
        "image": image,
        "labels": labels,
        "landmarks": landmarks,
        "seen": ((landmarks > 0.01) & (landmarks < 0.99)).all(dim=2).float(),
        "pose": torch.stack([yaw, batch["pose"][:, 1]], dim=1),
    }
