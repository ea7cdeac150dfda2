"""The moving average of weights and how fast it forgets; the number type of a training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.training.ema import early_decay, ema_update, half_life_decay
from stages.training.precision import compute_dtype


def test_ema_formula() -> None:
    a, b = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        b.weight.fill_(3.0)
        b.running_mean.fill_(7.0)  # type: ignore[union-attr]
    ema_update(a, b, 0.9)
    torch.testing.assert_close(a.weight.detach(), torch.full([2], 0.9 + 0.3))
    assert torch.equal(a.running_mean, torch.full([2], 7.0))  # type: ignore[arg-type]


def test_a_decay_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="decay"):
        ema_update(nn.Linear(1, 1), nn.Linear(1, 1), 1.5)


def test_after_the_half_life_half_is_left() -> None:
    decay = half_life_decay(batch=10, images=10**6, half_life=100)
    assert decay**10 == pytest.approx(0.5)
    assert half_life_decay(10, 200, 100, ramp=0.05) == pytest.approx(0.5)  # 5 % of 200 images
    assert half_life_decay(10, 10**6, 100, ramp=0.05) == decay
    assert half_life_decay(10, 0, 100, ramp=0.05) == 0 == half_life_decay(10, 50, 0)


def test_the_decay_of_an_update_rises_to_its_limit() -> None:
    assert early_decay(1, 0.99) == pytest.approx(1 / 11) and early_decay(1, 0.99, lead=1) == pytest.approx(2 / 11)
    assert early_decay(10**6, 0.99) == 0.99
    rising = [early_decay(updates, 0.99) for updates in range(1, 100)]
    assert rising == sorted(rising)


@pytest.mark.parametrize("fast", [True, False])
def test_on_a_gpu_the_gpu_decides(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast and not including_emulation)
    assert compute_dtype("auto", torch.device("cuda")) is (torch.bfloat16 if fast else torch.float32)
