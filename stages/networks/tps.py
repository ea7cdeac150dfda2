"""Thin-plate splines: the smoothest map that takes one set of points onto another, and warps by it.

Duchon (1977); Bookstein: "Principal Warps", PAMI 1989, eq. 1-6; with smoothing Wahba (1990), sec. 2.4. The map f(q) =
a + A q + sum_i w_i U(|q - s_i|) with U(r) = r^2 log r solves

    [ K + lambda I   P ] [ w ]   [ t ]        K_ij = U(|s_i - s_j|),  rows of P = (1, x, y)
    [ P^T            0 ] [ a ] = [ 0 ]

Solved in float64: in float32 a face's 68 points lose five digits. Points live in the normalised frame of `grid_sample`
with `align_corners=False`: the centre of pixel x of W is at (2 x + 1) / W - 1. To warp an image, fit from the points of
the *output* to those of the input: every output pixel then asks where it comes from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Spline(NamedTuple):
    """A fitted map, float64."""

    centres: Tensor  # [N, K, 2]
    weights: Tensor  # [N, K, 2] of the kernels
    affine: Tensor  # [N, 3, 2] constant, x, y


def with_border(points: Tensor) -> Tensor:
    """Points and the frame's corners and mid-edges, [N, K, 2] -> [N, K + 8, 2]; fixed there, the frame stays put."""
    ring = [(-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0)]
    return torch.cat([points, points.new_tensor(ring).expand(len(points), -1, -1)], dim=1)


def fit(source: Tensor, target: Tensor, smoothing: float = 0.0) -> Spline:
    """Fit the spline that takes `source` onto `target`, differentiable in both.

    Args:
        source: points [N, K, 2], K >= 3.
        target: points [N, K, 2], where they go.
        smoothing: lambda above; 0 meets every target exactly. Above 0 points may coincide.

    Raises:
        ValueError: shapes differ, fewer than three points, points that coincide (without smoothing) or lie on a line.
    """
    if source.shape != target.shape or source.ndim != 3 or source.shape[2] != 2 or source.shape[1] < 3:
        shapes = f"{tuple(source.shape)} and {tuple(target.shape)}"
        raise ValueError(f"a spline needs two sets of at least three points [N, K, 2], not {shapes}")

    s, k = source.double(), source.shape[1]
    solution = _solved(s, target.double(), smoothing)
    return Spline(s, solution[:, :k], solution[:, k:])


def _solved(s: Tensor, t: Tensor, smoothing: float) -> Tensor:
    """Solution [N, K + 3, D] of the system of the module's text for points [N, K, 2] and right sides [N, K, D]."""
    n, k = s.shape[:2]
    kernel = _kernel(s, s)
    if smoothing:
        kernel = kernel + smoothing * torch.eye(k, dtype=s.dtype, device=s.device)
    p = torch.cat([s.new_ones(n, k, 1), s], dim=2)
    system = torch.cat([torch.cat([kernel, p], 2), torch.cat([p.mT, s.new_zeros(n, 3, 3)], 2)], 1)
    solution, singular = torch.linalg.solve_ex(system, torch.cat([t, t.new_zeros(n, 3, t.shape[2])], 1))
    if not _solvable(s.detach(), smoothing > 0) or bool(singular.any()) or not bool(solution.isfinite().all()):
        raise ValueError(
            "the points of a spline coincide or lie on one line; give a smoothing above 0, or other points"
        )
    found: Tensor = solution
    return found


def basis(source: Tensor, query: Tensor, smoothing: float = 0.0) -> Tensor:
    """What the spline from `source` needs of a query, whatever its target.

    With B = basis(s, q) and any t, evaluate(fit(s, t), q) = B @ t.

    Of a picture whose points do not move it is computed once, and every spline from it is one product.

    Args:
        source: points [N, K, 2].
        query: where the spline is asked, [P, 2].
        smoothing: as in `fit`.

    Returns:
        float64 [N, P, K].

    Raises:
        ValueError: as `fit` does.
    """
    s, k = source.double(), source.shape[1]
    q = query.double().expand(len(s), -1, -1)
    unit = torch.eye(k, dtype=s.dtype, device=s.device).expand(len(s), -1, -1)
    solution = _solved(s, unit, smoothing)
    found: Tensor = _kernel(q, s) @ solution[:, :k] + q @ solution[:, k + 1 :] + solution[:, k : k + 1]
    return found


def evaluate(spline: Spline, query: Tensor) -> Tensor:
    """Where the spline takes `query` [N, P, 2], in its type; differentiable in everything."""
    centres, weights, affine = (part.to(query.dtype) for part in spline)
    return _kernel(query, centres) @ weights + query @ affine[:, 1:] + affine[:, :1]


def sampling_grid(spline: Spline, height: int, width: int, reduce: int = 1, dtype: torch.dtype | None = None) -> Tensor:
    """The map at all pixel centres: [N, height, width, 2] for `grid_sample`.

    Args:
        spline: from the output's points to the input's.
        height: of the output, px.
        width: of the output, px.
        reduce: evaluate at every `reduce`-th pixel and interpolate: `reduce` ** 2 times faster; at 2 wrong by a few
            hundredths of a pixel between strongly moved points. One row and column beyond the frame are evaluated, so
            that the border is interpolated like the rest.
        dtype: of evaluation and result; float32 suffices for pictures (None: float64).
    """
    like = spline.centres if dtype is None else spline.centres.to(dtype)
    points = cell_centres(height, width, reduce, like)
    coarse: Tensor = evaluate(spline, points.flatten(0, 1).expand(len(like), -1, -1)).unflatten(1, points.shape[:2])
    return coarse if reduce == 1 else refined(coarse, reduce)[:, :height, :width]


def cell_centres(height: int, width: int, reduce: int, like: Tensor) -> Tensor:
    """Every `reduce`-th pixel's place, and one row and column beyond each border where `reduce` is above 1.

    Args:
        height: of the frame, px.
        width: of the frame, px.
        reduce: pixels from one place to the next.
        like: a tensor whose type and device the result has.

    Returns:
        [rows, columns, 2] in the normalised frame.
    """
    rows, columns = -(-height // reduce), -(-width // reduce)
    margin = 0 if reduce == 1 else 1
    y, x = (
        (torch.arange(-margin, count + margin, device=like.device, dtype=like.dtype) + 0.5) * (2 * reduce / side) - 1
        for count, side in ((rows, height), (columns, width))
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def refined(coarse: Tensor, factor: int) -> Tensor:
    """A grid with a margin of one cell, [N, h + 2, w + 2, 2] -> without it and finer: [N, factor h, factor w, 2]."""
    if factor == 1:
        return coarse[:, 1:-1, 1:-1]
    fine = F.interpolate(coarse.permute(0, 3, 1, 2), scale_factor=float(factor), mode="bilinear", align_corners=False)
    return fine[:, :, factor:-factor, factor:-factor].permute(0, 2, 3, 1)


def sample(images: Tensor, grid: Tensor) -> Tensor:
    """Pictures or maps [N, C, H, W] where a grid [N, h, w, 2] says, bilinearly, the border repeated; differentiable.

    In float32 at least: half precision would move things by pixels.
    """
    seen = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return seen.to(images.dtype)


def warp(images: Tensor, spline: Spline, reduce: int = 1) -> Tensor:
    """Sample [N, C, H, W] where the spline says, bilinearly, the border repeated; differentiable in both."""
    grid = sampling_grid(spline, images.shape[2], images.shape[3], reduce, images.dtype)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def fold_fraction(grid: Tensor) -> Tensor:
    """Share of the cells of a sampling grid [N, H, W, 2] that are turned over or have no area: [N] in [0, 1]."""
    right, down = grid[:, :-1, 1:] - grid[:, :-1, :-1], grid[:, 1:, :-1] - grid[:, :-1, :-1]
    area = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
    return (area <= 0).to(grid.dtype).mean((1, 2))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """U(|a - b|) for [N, P, 2] and [N, K, 2]: [N, P, K]. By differences: squares multiplied out cancel."""
    square = (a[:, :, None] - b[:, None]).square().sum(-1)
    away = square > 0
    return torch.where(away, 0.5 * square * torch.where(away, square, 1.0).log(), 0.0)


def _solvable(points: Tensor, smooth: bool) -> bool:
    """Whether [N, K, 2] span the plane and, unless smoothed, no two coincide."""
    spread = torch.linalg.svdvals(points - points.mean(1, keepdim=True))  # [N, 2], descending
    spans = bool((spread[:, 1] > 1e-9 * spread[:, 0]).all())
    return spans and (smooth or all(len(torch.unique(one, dim=0)) == len(one) for one in points))
