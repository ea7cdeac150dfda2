"""The parts of one update: several processes of a `torchrun`, and the micro-batches of gradient accumulation.

An update's batch is cut into P parts, one for each micro-batch of each process; part p takes the rows ``p::P``, so that
a discriminator's minibatch groups, which lie N / G apart, stay whole. What a loss draws at random it draws for the
whole batch from one seed and keeps its own rows (`own`), so that P parts see what one batch would have seen. Processes
meet in one all-reduce of one flat buffer (no DDP: it refuses the double backward of R1). Without `torchrun` every
function here is the identity and touches neither torch nor a network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A process waits at a barrier while the first one writes an artifact; should that one die, torchrun ends all.
PATIENCE = timedelta(days=7)

_part, _parts = 0, 1
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
    """Mean of a tensor over the processes, without gradient; its shape must be the same in all."""
    if world() == 1:
        return tensor
    return _reduced(tensor.detach().clone())


def average(tensors: Sequence[Tensor]) -> None:
    """Replace floating-point tensors by their means over the processes: one all-reduce of one flat buffer."""
    if world() == 1 or not tensors:
        return
    import torch

    with torch.no_grad():
        flat = _reduced(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))


def average_gradients(params: Sequence[torch.nn.Parameter]) -> None:
    """Replace gradients by their means over the processes. A parameter without one must lack it in all of them."""
    average([parameter.grad for parameter in params if parameter.grad is not None])


def share(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's `tensors`, so that weights start equal on unlike machines, too."""
    if world() == 1:
        return
    import torch
    from torch import distributed

    with torch.no_grad():
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            distributed.broadcast(sent, 0)
            tensor.copy_(sent)


def _reduced(tensor: Tensor) -> Tensor:
    from torch import distributed

    distributed.all_reduce(tensor)
    return tensor.div_(world())


# Parts of an update


@contextmanager
def part(index: int, count: int) -> Iterator[None]:
    """Within the context, this process computes part `index` of the `count` parts of an update."""
    global _part, _parts
    before = _part, _parts
    _part, _parts = index, count
    try:
        yield
    finally:
        _part, _parts = before


def parts() -> int:
    """P, the number of parts of the update at work; 1 outside of a training and where nothing is divided."""
    return _parts


def own(draw: Callable[[int], Tensor], count: int) -> Tensor:
    """A random draw of which each part of the update gets its rows: [count, ...].

    `draw(n)` draws n rows from torch's generator, which is in the same state in every part. It is asked for the whole
    batch, ``count * P`` rows; where nothing is divided that is ``draw(count)``.
    """
    return draw(count) if _parts == 1 else draw(count * _parts)[_part::_parts]


def threads(workers: int) -> int:
    """This process's share of a machine's `workers` threads, 1 at least."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world() > 1 else 1
    return max(workers // beside, 1)
