"""The ablation's arithmetic, and the terms that are on trial in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.bench.ablation import Arm, cleaned, declared, gram, pyramid, table
from tests.tools.tiny_pairs import toys

ROW = {"edge_slope_ratio": 1.0, "flat_energy_ratio": 1.0, "checker_ratio": 1.0, "flicker": 0.01, "seconds": 1.0}


def row(arm: str, **changes: float) -> dict[str, float | str]:
    return {"arm": arm, "face_error": 0.1, "kid": 2.0, "kid_blind": 4.0, "edge_clarity_ratio": 1.0} | ROW | changes


def test_settings_are_read_into_their_groups() -> None:
    arm = Arm("x", 0).read("warm_up=0.3, tier=nano").read("weights.l1=10, train.lr=1e-3, extra.gram=2, warm_up=0.4")
    assert (arm.model, arm.weights) == ({"warm_up": 0.4, "tier": "nano"}, {"l1": 10})
    assert (arm.train, arm.extra) == ({"lr": 1e-3}, {"gram": 2})


def test_the_declared_score_is_a_mean_of_three_shares() -> None:
    base = row("base")
    assert declared(base, base) == pytest.approx(1)  # type: ignore[arg-type]
    better = row("better", face_error=0.07, kid_blind=2.8)
    assert declared(better, base) == pytest.approx((0.7 + 0.7 + 1) / 3)  # type: ignore[arg-type]
    for ratio in (np.e, 1 / np.e):  # too sharp is as bad as too soft
        assert declared(row("off", edge_clarity_ratio=ratio), base) == pytest.approx(4 / 3)  # type: ignore[arg-type]
    shown = table([base, better, row("better", face_error=0.07, kid_blind=2.8)]).splitlines()
    assert len(shown) == 4 and shown[2].endswith("| +0.0% |") and shown[3].endswith("| +20.0% |")


def test_the_terms_on_trial() -> None:
    picture = torch.rand(1, 3, 16, 16)
    assert float(pyramid(picture, picture)) == 0 == float(pyramid(picture, picture.clone()))
    assert float(pyramid(picture + 0.5, picture)) < 1e-6 < float(pyramid(picture.flip(3), picture))  # details alone
    assert torch.allclose(gram(picture), gram(picture.flip(3)))  # where things are does not matter
    style, _, mask = toys(0, 2, 32)  # noisy heads
    smooth = cleaned(style, mask)
    assert np.array_equal(smooth[mask == 0], style[mask == 0]) and not np.array_equal(smooth, style)
