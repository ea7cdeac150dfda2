"""Measures of sets against the reference implementation's numbers (metrics.npz)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.metrics import fid, kid, richness

SHARED = Path(os.environ.get("TRISTYLE_SHARED", Path(__file__).resolve().parents[2] / "../shared"))
FILE = SHARED / "golden" / "stylegan" / "metrics.npz"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"no golden vectors at {FILE}")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(FILE))


@pytest.fixture(scope="module")
def sets(golden: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(golden["real_features"]), torch.from_numpy(golden["gen_features"])


def test_frechet_distance(golden: dict[str, np.ndarray], sets: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, fake = sets
    for features, name in ((real, "sigma_real"), (fake, "sigma_gen")):
        assert np.allclose(fid.moments(features).covariance, golden[name], rtol=1e-9, atol=1e-12)
    assert fid.frechet_distance(real, fake) == pytest.approx(float(golden["fid"]), rel=1e-8)


def test_kernel_distance(golden: dict[str, np.ndarray], sets: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, fake = sets
    first = min(len(real), len(fake), 200)
    assert kid.mmd2_cubic(real[:first], fake[:first]) == pytest.approx(float(golden["kid_first200"]), rel=1e-8)


def test_precision_and_recall(golden: dict[str, np.ndarray], sets: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, fake = sets
    expected = float(golden["precision_k3"]), float(golden["recall_k3"])
    rounded = richness.precision_recall(real, fake, half_precision=True)
    assert rounded == pytest.approx(expected, abs=1e-6)  # the shares are stored in single precision
    # Without the rounding a picture near a radius may fall on its other side.
    exact = richness.precision_recall(real, fake)
    assert abs(exact[0] - expected[0]) <= 2 / len(fake) + 1e-6 and abs(exact[1] - expected[1]) <= 2 / len(real) + 1e-6
