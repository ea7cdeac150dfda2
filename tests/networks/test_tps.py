"""Thin-plate splines against the golden oracle, scipy and kornia's evaluation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from stages.networks.tps import (
    Spline,
    basis,
    cell_centres,
    evaluate,
    fit,
    fold_fraction,
    refined,
    sampling_grid,
    warp,
    with_border,
)

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TRISTYLE_SHARED", ROOT.parent / "shared"))
GOLDEN = sorted(((SHARED if SHARED.is_absolute() else ROOT / SHARED) / "golden" / "ugatit").glob("tps*.npz"))


def face(count: int = 1, seed: int = 0, move: float = 0.03) -> tuple[Tensor, Tensor]:
    """68 points in the order of iBUG 300-W in the normalised frame, and the same moved as a cartoon moves them."""
    arc = torch.linspace(0.05, 0.95, 17, dtype=torch.float64) * torch.pi
    jaw = torch.stack([-0.62 * arc.cos(), 0.1 + 0.62 * arc.sin()], 1)

    def row(count: int, x0: float, x1: float, y: float, bend: float) -> Tensor:
        x = torch.linspace(x0, x1, count, dtype=torch.float64)
        u = torch.linspace(-1, 1, count, dtype=torch.float64)
        return torch.stack([x, y + bend * (1 - u * u)], 1)

    def ring(count: int, x: float, y: float, width: float, height: float) -> Tensor:
        angle = torch.arange(count, dtype=torch.float64) / count * 2 * torch.pi + torch.pi
        return torch.stack([x + width * angle.cos(), y + height * angle.sin()], 1)

    brows = torch.cat([row(5, -0.5, -0.12, -0.3, -0.06), row(5, 0.12, 0.5, -0.3, -0.06)])
    nose = torch.cat([row(4, 0.0, 0.0, -0.15, 0.0) + torch.tensor([[0, i * 0.09] for i in range(4)]),
                      row(5, -0.12, 0.12, 0.2, 0.03)])  # fmt: skip
    eyes = torch.cat([ring(6, -0.3, -0.14, 0.1, 0.045), ring(6, 0.3, -0.14, 0.1, 0.045)])
    mouth = torch.cat([ring(12, 0, 0.42, 0.22, 0.09), ring(8, 0, 0.42, 0.15, 0.04)])
    points = torch.cat([jaw, brows, nose, eyes, mouth])
    moved = points.clone()
    moved[36:48] = eyes + 0.5 * (eyes - torch.cat([eyes[:6].mean(0).expand(6, 2), eyes[6:].mean(0).expand(6, 2)]))
    moved[:17] = jaw * torch.tensor([0.92, 0.96])  # larger eyes, a smaller chin
    noise = torch.randn(count, 68, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert points.shape == (68, 2)
    return points.expand(count, -1, -1), moved + move / 3 * noise


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_the_oracle_is_met(path: Path) -> None:
    with np.load(path) as file:
        data = {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind == "f"}
        assert "frame" in json.loads(str(file["meta"]))

    def close(actual: Tensor, name: str) -> None:
        torch.testing.assert_close(actual, data[name], rtol=1e-9, atol=1e-9, msg=lambda text: f"{name}: {text}")

    spline = fit(data["points_out"], data["points_in"])
    close(spline.weights, "kernel_weights")
    close(spline.affine, "affine_weights")
    close(evaluate(spline, data["query"]), "mapped")
    close(sampling_grid(spline, *data["image"].shape[2:]).flatten(1, 2), "mapped")
    close(warp(data["image"], spline), "warped")
    smooth = fit(data["points_out"], data["points_in"], smoothing=float(data["smoothing"]))
    close(evaluate(smooth, data["query"]), "mapped_smooth")


@pytest.mark.parametrize("smoothing", [0.0, 1e-4, 0.1])
def test_scipy_agrees_on_other_points(smoothing: float) -> None:
    rng = np.random.default_rng(5)
    source, target = rng.uniform(-1, 1, (2, 3, 40, 2))
    query = rng.uniform(-1.2, 1.2, (3, 300, 2))
    ours = evaluate(fit(torch.tensor(source), torch.tensor(target), smoothing), torch.tensor(query))
    for i in range(3):
        oracle = RBFInterpolator(source[i], target[i], kernel="thin_plate_spline", degree=1, smoothing=smoothing)
        np.testing.assert_allclose(ours[i], oracle(query[i]), rtol=1e-9, atol=1e-9)


def test_kornia_evaluates_alike() -> None:
    from kornia.geometry.transform import warp_image_tps, warp_points_tps

    source, target = face()
    spline = fit(with_border(source), with_border(target))
    query = torch.rand(1, 200, 2, dtype=torch.float64) * 2 - 1
    theirs = warp_points_tps(query, spline.centres, spline.weights, spline.affine)
    torch.testing.assert_close(evaluate(spline, query), theirs, rtol=1e-9, atol=1e-9)
    image = torch.rand(1, 2, 20, 24, dtype=torch.float64)
    inside = warp_image_tps(image, *spline)[..., 3:-3, 3:-3]  # beyond the frame it has zeros where we have the border
    torch.testing.assert_close(warp(image, spline)[..., 3:-3, 3:-3], inside, rtol=1e-9, atol=1e-9)


def test_an_affine_motion_needs_no_kernels() -> None:
    source, _ = face(2)
    turn = torch.tensor([[0.8, -0.3], [0.25, 1.1]], dtype=torch.float64)
    spline = fit(source, source @ turn + torch.tensor([0.1, -0.2]))
    assert float(spline.weights.abs().max()) < 1e-9
    torch.testing.assert_close(spline.affine[1, 1:], turn)
    same = warp(image := torch.rand(2, 1, 16, 16), fit(source, source))
    torch.testing.assert_close(same, image, rtol=0, atol=1e-5)


def test_a_template_folds_nowhere_and_the_frame_stays() -> None:
    source, target = face(8, seed=1)
    spline = fit(with_border(source), with_border(target))
    grid = sampling_grid(spline, 64, 64)
    assert fold_fraction(grid).tolist() == [0.0] * 8
    assert float(grid.abs().max()) < 1.05
    assert float(fold_fraction(grid.flip(2)).min()) == 1.0
    crossed = fit(with_border(source[:1]), with_border(source[:1] * torch.tensor([-1.0, 1.0])))  # left and right swap
    assert float(fold_fraction(sampling_grid(crossed, 64, 64))) > 0.1


def test_points_that_coincide_need_smoothing() -> None:
    source, target = (with_border(points) for points in face())
    source, target = torch.cat([source, source[:, :1]], 1), torch.cat([target, target[:, :1] + 0.01], 1)
    with pytest.raises(ValueError, match="smoothing above 0"):
        fit(source, target)
    spline = fit(source, target, smoothing=1e-6)
    middle = (target[:, :1] + target[:, -1:]) / 2
    torch.testing.assert_close(evaluate(spline, source[:, :1]), middle, rtol=0, atol=1e-3)
    assert fold_fraction(sampling_grid(fit(source, target, smoothing=1e-3), 64, 64)) == 0


def test_what_is_no_fit_is_refused() -> None:
    line = torch.linspace(-1, 1, 5)[None, :, None].expand(1, 5, 2)
    for source, target in ((line, line), (line[:, :2], line[:, :2]), (line, line[:, :4]), (line[0], line[0])):
        with pytest.raises(ValueError, match="spline"):
            fit(source, target)


@pytest.mark.parametrize(("height", "width", "reduce"), [(64, 64, 2), (50, 37, 2), (64, 64, 4)])
def test_a_reduced_grid_is_near_at_the_border_too(height: int, width: int, reduce: int) -> None:
    source, target = face(2, seed=3)
    spline = fit(with_border(source), with_border(target))
    full, quick = (sampling_grid(spline, height, width, r, torch.float32) for r in (1, reduce))
    assert quick.shape == full.shape and quick.dtype == torch.float32
    pixels = (full - quick).abs() * torch.tensor([width, height]) / 2
    assert float(pixels.mean()) < 0.02 * reduce and float(pixels.max()) < 0.25 * reduce
    edge = torch.cat([pixels[:, 0], pixels[:, -1]], 1)
    assert float(edge.max()) < 0.1 * reduce


def test_gradients_reach_points_and_image() -> None:
    source, target = face()
    source, target = source[:, ::6].clone().requires_grad_(), target[:, ::6].clone().requires_grad_()
    query = torch.rand(1, 5, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s, t: evaluate(fit(s, t), query), (source, target))
    image = torch.rand(1, 1, 16, 16, requires_grad=True)
    for reduce in (1, 2):
        source.grad = image.grad = None
        warp(image, fit(source, target), reduce).square().sum().backward()
        for gradient in (source.grad, target.grad, image.grad):
            assert gradient is not None and bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0
    on_points = evaluate(fit(source, target), source.detach().clone().requires_grad_())
    assert bool(torch.autograd.grad(on_points.sum(), source)[0].isfinite().all())


def test_features_warp_like_the_picture() -> None:
    source, target = face()
    spline: Spline = fit(with_border(source), with_border(target))
    y = torch.linspace(-1, 1, 128)[None, None, :, None].expand(1, 1, 128, 128)
    small, large = F.avg_pool2d(y, 4), warp(y.contiguous(), spline)
    torch.testing.assert_close(warp(small, spline), F.avg_pool2d(large, 4), rtol=0, atol=0.05)


def test_a_basis_gives_every_spline_from_its_points() -> None:
    torch.manual_seed(3)
    source, target = torch.rand(2, 9, 2).double() * 2 - 1, torch.rand(2, 9, 2).double() * 2 - 1
    query = cell_centres(16, 16, 4, source).flatten(0, 1)
    for smoothing in (0.0, 1e-3):
        found = basis(source, query, smoothing) @ target
        wanted = evaluate(fit(source, target, smoothing), query.expand(2, -1, -1))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_refined_grid_is_the_sampling_grid() -> None:
    torch.manual_seed(4)
    points = with_border(torch.rand(1, 6, 2).double() - 0.5)
    spline = fit(points, points + 0.05 * torch.randn_like(points))
    cells = cell_centres(32, 32, 4, points)
    coarse = evaluate(spline, cells.flatten(0, 1)[None]).unflatten(1, cells.shape[:2])
    torch.testing.assert_close(refined(coarse, 4), sampling_grid(spline, 32, 32, reduce=4))
    torch.testing.assert_close(refined(coarse, 1), sampling_grid(spline, 8, 8))
