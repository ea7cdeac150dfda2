"""What a network asks of its caller for random numbers: rows for the pictures that it is given.

A network draws by torch's generator unless its caller hands it something else, such as rows of a larger batch's draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class RandomRows(Protocol):
    """Random numbers for a batch of pictures."""

    def own(self, draw: Callable[[int], Tensor], n: int) -> Tensor:
        """`n` rows [n, ...] of what `draw` draws when it is asked for that many rows or more."""
        ...

    def normal_like(self, images: Tensor) -> Tensor:
        """N(0, 1) in the shape and memory layout of `images` [N, ...]."""
        ...


class WholeBatch:
    """Random numbers for a batch that stands alone: plainly torch's."""

    def own(self, draw: Callable[[int], Tensor], n: int) -> Tensor:
        """``draw(n)``, [n, ...]."""
        return draw(n)

    def normal_like(self, images: Tensor) -> Tensor:
        """N(0, 1) in the shape and memory layout of `images` [N, ...]."""
        return torch.randn_like(images)


WHOLE = WholeBatch()
