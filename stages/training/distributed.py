"""Several processes of a `torchrun` that train together.

They meet in one all-reduce of one flat buffer (no DDP: it refuses the double backward of R1). Without `torchrun` every
function here is the identity and imports nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A process waits at a barrier while the first one writes an artifact; should that one die, torchrun ends all.
PATIENCE = timedelta(days=7)

_alone = False


def world() -> int:
    """How many processes train together: those of `torchrun`, else 1."""
    if _alone or not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return 1
    return int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """Which of them this is; 0 is the one that writes."""
    return int(os.environ["RANK"]) if world() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """Within the context this process is the only one: for a training that the first one does while others wait."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def start(device: str | torch.device) -> None:
    """Meet the other processes: gloo on CPU, NCCL on CUDA, where this process takes the GPU of its local rank.

    Afterwards the device name `cuda` means that GPU. Called again it does nothing.
    """
    if world() == 1:
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)


def barrier() -> None:
    """Wait until all processes are here. `start` comes first."""
    first(0)


def first(value: int) -> int:
    """The first process's `value`, in every process. `start` comes first."""
    if world() == 1:
        return value
    import torch
    from torch import distributed

    box = torch.tensor([value if rank() == 0 else 0])  # on the CPU: gloo waits asleep, NCCL would keep the GPU busy
    distributed.all_reduce(box)
    return int(box)


def mean(tensor: Tensor) -> Tensor:
    """Mean of a tensor over the processes, without gradient; one shape in all."""
    if world() == 1:
        return tensor
    return _reduced(tensor.detach().clone())


class Processes:
    """The processes of a training, each with a part of the batch: what a loss is handed for means over all of them.

    Attributes:
        count: how many there are.
    """

    def __init__(self) -> None:
        self.count = world()

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of a tensor over the processes, one shape in all; gradients flow back to every process.

        The gradient of the processes' mean loss is the mean of their gradients; so is it in the backward pass here.
        """
        import torch

        class Mean(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, value: Tensor) -> Tensor:
                return _reduced(value.clone())

            @staticmethod
            def backward(ctx: Any, *grads: Tensor) -> Tensor:
                return _reduced(grads[0].clone())

        mean: Tensor = Mean.apply(tensor)
        return mean


def average(tensors: Sequence[Tensor]) -> None:
    """Replace floating-point tensors by their means over the processes: one all-reduce of one flat buffer."""
    if world() > 1 and tensors:
        _spread(_reduced(_flat(tensors)), tensors)


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's `tensors`, so that weights start equal on unlike machines, too."""
    if world() == 1:
        return
    from torch import distributed

    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = _flat(alike)
        distributed.broadcast(flat, 0)
        _spread(flat, alike)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    pieces = flat.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.detach().copy_(piece.view(tensor.shape))


def _reduced(tensor: Tensor) -> Tensor:
    from torch import distributed

    distributed.all_reduce(tensor)
    return tensor.div_(world())


def threads(workers: int) -> int:
    """This process's share of a machine's `workers` threads, 1 at least."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world() > 1 else 1
    return max(workers // beside, 1)
