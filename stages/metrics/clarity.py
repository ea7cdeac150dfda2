"""Clarity: is the student's picture as sharp as its target, and sharp for the right reason?

"The sum of Laplace gradient values" (Alibaba's article on the three-stage stylizer) rewards noise, checkerboards and
plain texture as readily as clean edges: blur plus noise scores above the sharp original. So the sum and mean are
reported as in the article, on one fixed definition, and beside them measures that separate edges from the rest:

* Laplacian: Rec. 601 grey 0..255, 4-neighbour kernel, border reflect-101, no normalisation.
* `edge_clarity`: RMS Laplacian on the target's edges less what noise contributes there. Noise of deviation s adds
  20 s^2 to L^2 (20 = the sum of the squared kernel weights); s from the MAD of the diagonal Haar detail
  (Donoho & Johnstone 1994).
* `flat_energy`: RMS Laplacian away from the edges: noise, ringing, artefacts.
* `edge_slope`: median Sobel slope over local contrast on the edges: acuity that contrast cannot buy.
* `checker`: the grey signal at the Nyquist frequency in 8x8 blocks: what careless upsampling leaves.

Compare only at one size, and only as ratios to the target of the same picture. Whoever quotes one ratio means
edge_clarity.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
NOISE_GAIN = 20.0  # sum of squared weights of the 4-neighbour Laplacian


@dataclass(frozen=True)
class Clarity:
    """All clarity measures of one picture; grey levels 0..255 as the unit (edge_slope has none)."""

    clarity_sum: float
    clarity_mean: float
    edge_clarity: float
    flat_energy: float
    edge_slope: float
    checker: float

    def as_dict(self) -> dict[str, float]:
        """Name -> value."""
        return asdict(self)


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] RGB -> float32 [H, W], Rec. 601, 0..255."""
    return image.astype(np.float32) @ GREY


def laplacian(image_grey: np.ndarray) -> np.ndarray:
    """4-neighbour Laplacian of float32 [H, W], reflect-101 borders."""
    return cv2.Laplacian(image_grey, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT_101)


def edges(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The target's edges: Canny of the blurred grey, one pixel wide and dilated. uint8 [H, W, 3] -> two bool [H, W]."""
    smooth = cv2.GaussianBlur(grey(target), (5, 5), 1.0)
    found = cv2.Canny(np.clip(np.rint(smooth), 0, 255).astype(np.uint8), 50, 100)
    return found > 0, cv2.dilate(found, np.ones((3, 3), np.uint8)) > 0


def noise(image_grey: np.ndarray) -> float:
    """Standard deviation of white noise in float32 [H, W], from the MAD of the diagonal Haar detail."""
    height, width = (side // 2 * 2 for side in image_grey.shape)
    x = image_grey[:height, :width]
    detail = (x[::2, ::2] - x[1::2, ::2] - x[::2, 1::2] + x[1::2, 1::2]) / 2
    return float(np.median(np.abs(detail)) / 0.6745)


def checker(image_grey: np.ndarray) -> float:
    """RMS over 8x8 blocks of the mean of x * (-1)^(i+j) of a picture [H, W].

    A checkerboard of +-a gives a, a smooth picture about 0.
    """
    height, width = (side // 8 * 8 for side in image_grey.shape)
    rows, columns = np.indices((height, width))
    signed = image_grey[:height, :width] * (1 - 2 * ((rows + columns) & 1))
    blocks = signed.reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3))
    return float(np.sqrt(np.mean(blocks**2)))


def edge_slope(image_grey: np.ndarray, where: np.ndarray) -> float:
    """Median over `where` (bool [H, W]) of Sobel slope per pixel / local 9x9 range of [H, W]; 0 without edges."""
    slope = np.hypot(cv2.Sobel(image_grey, cv2.CV_32F, 1, 0), cv2.Sobel(image_grey, cv2.CV_32F, 0, 1)) / 8
    window = np.ones((9, 9), np.uint8)
    spread = cv2.dilate(image_grey, window) - cv2.erode(image_grey, window)
    return float(np.median(slope[where] / np.maximum(spread[where], 1.0))) if where.any() else 0.0


def edge_clarity(image: np.ndarray, region: np.ndarray) -> float:
    """`clarity(image, image, region).edge_clarity` without the other measures: a picture on its own edges.

    image: uint8 [H, W, 3] RGB; region: bool [H, W].
    """
    luma = grey(image)
    return _above_noise(luma, laplacian(luma), edges(image)[1] & region)


def _above_noise(luma: np.ndarray, second: np.ndarray, on_edges: np.ndarray) -> float:
    """RMS of the Laplacian `second` on the edges, less what the noise of `luma` adds there."""
    squares = float(np.mean(second[on_edges] ** 2)) if on_edges.any() else 0.0
    return float(np.sqrt(max(squares - NOISE_GAIN * noise(luma) ** 2, 0.0)))


def clarity(image: np.ndarray, target: np.ndarray, region: np.ndarray | None = None) -> Clarity:
    """All measures of a picture whose edges are the target's.

    Args:
        image: uint8 [H, W, 3] RGB.
        target: uint8 [H, W, 3], what the picture should look like; pass the picture itself for the target's own values.
        region: bool [H, W] to measure in (the head), the whole frame when None. `checker` is always of the whole frame.

    Raises:
        ValueError: shapes differ.
    """
    if image.shape != target.shape or image.ndim != 3:
        raise ValueError(f"clarity needs two [H, W, 3] pictures of one shape, not {image.shape} and {target.shape}")
    inside = np.ones(image.shape[:2], bool) if region is None else region

    luma = grey(image)
    second = laplacian(luma)
    thin, wide = edges(target)
    on_edges = wide & inside
    flat = inside & ~on_edges

    return Clarity(
        clarity_sum=float(np.abs(second[inside]).sum()),
        clarity_mean=float(np.abs(second[inside]).mean()) if inside.any() else 0.0,
        edge_clarity=_above_noise(luma, second, on_edges),
        flat_energy=float(np.sqrt(np.mean(second[flat] ** 2))) if flat.any() else 0.0,
        edge_slope=edge_slope(luma, thin & inside),
        checker=checker(luma),
    )


def paired_ratios(images: np.ndarray, targets: np.ndarray, regions: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Picture / target of each pair for each measure: `edge_clarity_ratio` and so on, float64 [N].

    images, targets: uint8 [N, H, W, 3]. regions: bool [N, H, W] or None. NaN where the target scores 0.
    """
    rows = []
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        region = None if regions is None else regions[index]
        own = clarity(image, target, region).as_dict()
        wanted = clarity(target, target, region).as_dict()
        rows.append({name: own[name] / wanted[name] if wanted[name] > 1e-6 else float("nan") for name in own})
    return {f"{name}_ratio": np.array([row[name] for row in rows]) for name in rows[0]}


def clarity_ratios(images: np.ndarray, targets: np.ndarray, regions: np.ndarray | None = None) -> dict[str, float]:
    """Median over pairs [N, H, W, 3] of `paired_ratios`.

    A pair whose target scores 0 is left out; NaN when no pair is left.
    """
    return {name: median_defined(values) for name, values in paired_ratios(images, targets, regions).items()}


def median_defined(values: np.ndarray) -> float:
    """Median over the entries of [N] that are not NaN; NaN when there is none."""
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")
