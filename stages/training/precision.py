"""The number type of a training's convolutions: one rule for all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type to convolve in: `precision` itself, or for ``auto`` bfloat16 where the hardware multiplies it.

    Hardware that does not multiply bfloat16 emulates it, 8 times slower than float32. Capability flags decide, not
    timing: a training resumed on a busy machine must compute in the type it began with.

    Args:
        precision: one of `PRECISIONS`.
        device: where the training computes. A CPU needs AVX-512 BF16 or AMX.

    Returns:
        torch.float32 or torch.bfloat16.
    """
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            flags: Mapping[str, Any] = torch.cpu.get_capabilities()
            fast = bool(flags.get("amx_bf16") or flags.get("avx512_bf16"))
        precision = "bfloat16" if fast else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The block in which networks that know no number type of their own convolve in that of `compute_dtype`."""
    dtype = compute_dtype(precision, device)
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)
