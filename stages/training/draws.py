"""Random draws of one micro-batch, cut from those of the whole batch.

A batch that is cut into P micro-batches must see the random numbers that the batch in one piece would see. So each
micro-batch draws for the whole batch, from the same state of torch's generator, and keeps its own rows ``p::P``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Which part of an update's batch draws: micro-batch `index` of `count` over all processes.

    Args:
        index: of this micro-batch, 0 .. count - 1. It holds the rows ``index::count`` of the batch.
        count: micro-batches of the update. With 1 every draw is plainly torch's.
    """

    index: int = 0
    count: int = 1

    def own(self, draw: Callable[[int], Tensor], n: int) -> Tensor:
        """This micro-batch's rows of a draw for the whole batch.

        Args:
            draw: draws that many rows from torch's generator, [rows, ...].
            n: rows of this micro-batch.

        Returns:
            [n, ...]. With one micro-batch this is ``draw(n)``.
        """
        return draw(n) if self.count == 1 else draw(n * self.count)[self.index :: self.count]

    def normal_like(self, images: Tensor) -> Tensor:
        """N(0, 1) in the shape and memory layout of `images` [N, ...]; the layout decides which number goes where."""

        def draw(n: int) -> Tensor:
            whole = images if n == len(images) else torch.cat([images.detach()] * self.count)
            return torch.randn_like(whole)

        return self.own(draw, len(images))
