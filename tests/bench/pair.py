"""Cost of one training iteration of stage pair against U-GAT-IT as published.

    python -m tests.bench.pair                  # about ten minutes, one thread
    python -m tests.bench.pair --sizes 64 --widths 16

Light generators, float32, one picture of each domain an iteration. The reference arm is `tests.golden.ugatit_iteration`
(own fakes for the discriminators, not detached; real and generated judged in separate passes; uncapped discriminators)
with the networks in the published formulation: normalisation by `torch.var` step by step, NCHW, torch's Adam. Our arm
is the training task with the settings of `pair=plain` at the same widths and a cap of 512 channels. At 64 px both take
the deepest global discriminator that works there, 6 layers; above, 7.

CPU seconds of one thread, the arms alternating in one process, the best of several. Memory: peak resident size of a
process that does nothing but two iterations of one arm; torch itself is a large part of it at small widths.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.settings import Train
from stages.networks import ugatit as networks
from stages.pair.ugatit import TranslationTask
from stages.pair.ugatit_checkpoints import published
from stages.training import fit as engine
from tests.bench.formulation import formulated
from tests.golden.ugatit_iteration import Reference
from tests.tools.pair_toys import translator

CAP = 512
ARMS = ("reference", "ours")


# The reference formulation


def by_steps(x: Tensor, rho: Tensor, eps: float) -> Tensor:
    """rho IN(x) + (1 - rho) LN(x), each operation a pass of its own over the map."""
    mean, var = torch.mean(x, dim=[2, 3], keepdim=True), torch.var(x, dim=[2, 3], keepdim=True)
    instance = (x - mean) / torch.sqrt(var + eps)
    mean, var = torch.mean(x, dim=[1, 2, 3], keepdim=True), torch.var(x, dim=[1, 2, 3], keepdim=True)
    layer = (x - mean) / torch.sqrt(var + eps)
    rho = rho.expand(x.shape[0], -1, -1, -1)
    return rho * instance + (1 - rho) * layer


def reference_adailn(self: networks.AdaILN, x: Tensor, gamma: Tensor, beta: Tensor, relu: bool = False) -> Tensor:
    x = by_steps(x, self.rho, self.eps) * gamma[:, :, None, None] + beta[:, :, None, None]
    return F.relu(x, inplace=True) if relu else x


def reference_iln(self: networks.ILN, x: Tensor) -> Tensor:
    shape = (x.shape[0], -1, -1, -1)
    x = by_steps(x, self.rho, self.eps) * self.gamma.expand(shape) + self.beta.expand(shape)
    return F.relu(x, inplace=True) if self.relu else x


def reference_instance_norm(self: networks.InstanceNorm, x: Tensor) -> Tensor:
    x = F.instance_norm(x)
    return F.relu(x, inplace=True) if self.relu else x


def reference_conv(self: networks.ReflectConv, x: Tensor) -> Tensor:
    x = F.interpolate(x, scale_factor=2.0) if self.doubles else x
    return F.conv2d(F.pad(x, (self.kernel_size[0] // 2,) * 4, mode="reflect"), self.weight, self.bias, self.stride)


def reference_spectral_conv(self: networks.SpectralConv2d, x: Tensor) -> Tensor:
    """The hook based spectral norm: a normalised weight of its own for every pass."""
    flat = self.weight_orig.flatten(1)
    with torch.no_grad():
        self.weight_v.copy_(F.normalize(flat.t().mv(self.weight_u), dim=0, eps=1e-12))
        self.weight_u.copy_(F.normalize(flat.mv(self.weight_v), dim=0, eps=1e-12))
    weight = self.weight_orig / torch.dot(self.weight_u.clone(), flat.mv(self.weight_v.clone()))
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, self.bias, self.stride)


def reference_formulation() -> AbstractContextManager[None]:
    """Within the block, the networks compute as published; their parameters are untouched."""
    return formulated(
        (networks.AdaILN, reference_adailn),
        (networks.ILN, reference_iln),
        (networks.InstanceNorm, reference_instance_norm),
        (networks.ReflectConv, reference_conv),
        (networks.SpectralConv2d, reference_spectral_conv),
    )


# Measuring


def reference_iteration(size: int, width: int) -> Callable[[], object]:
    """An iteration as published, ready to be called."""
    torch.manual_seed(0)
    depths = networks.discriminator_layers(size), networks.discriminator_layers(size, 5)
    task = Reference(published(width, img_size=size, n_layers=depths)).train()
    photo, style = (torch.rand(1, 3, size, size) * 2 - 1 for _ in range(2))

    def iteration() -> None:
        with reference_formulation():
            task.iteration(photo, style)

    return iteration


def plain_task(size: int, width: int) -> TranslationTask:
    """The task of `pair=plain` in float32 at this width."""
    model = translator(
        width=width,
        blocks=4,
        discriminator_width=width,
        discriminator_max_width=CAP,
        mask_head=False,
        composite=False,
    )
    task: TranslationTask = model.task(size, Train(images=1000, batch=1, lr=1e-4)).train()
    return task


def our_iteration(size: int, width: int) -> Callable[[], object]:
    """An update as `stages.training.fit` makes it: every phase with its optimiser's step, average and clipping."""
    task = plain_task(size, width)
    batch = {name: torch.rand(1, 3, size, size) * 2 - 1 for name in ("photo", "style")}
    batch |= {f"{name}_mask": torch.ones(1, 1, size, size) for name in ("photo", "style")}

    def iteration() -> None:
        update = engine.Update()
        for phase in task.phases:
            engine.step(task, phase, [(batch, update)])
        task.after_update(1, 1)

    return iteration


MAKERS = {"reference": reference_iteration, "ours": our_iteration}


def seconds(size: int, width: int, repeats: int) -> dict[str, float]:
    """Best CPU seconds of an iteration of each arm, alternating; the first round warms up."""
    iterations = {arm: MAKERS[arm](size, width) for arm in ARMS}
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(repeats + 1):
        for arm, iteration in iterations.items():
            begun = time.process_time()
            iteration()
            times[arm].append(time.process_time() - begun)
    return {arm: min(values[1:]) for arm, values in times.items()}


def peak_of_this_process() -> float:
    """MiB. Not `ru_maxrss`, which a child inherits from its parent across fork and exec."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return float(line.split()[1]) / 1024


def peak_mib(arm: str, size: int, width: int) -> tuple[float, float]:
    """Peak resident size of a process of its own that makes two iterations, and what its imports alone take."""
    command = [sys.executable, "-m", "tests.bench.pair", "--peak", arm, str(size), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, peak = map(float, done.stdout.split())
    return peak, before


def report(size: int, width: int, repeats: int) -> None:
    """Print both costs of both arms at one size and width, and their ratios."""
    cost = seconds(size, width, repeats)
    peak = {arm: peak_mib(arm, size, width) for arm in ARMS}
    (theirs, _), (ours, before) = peak["reference"], peak["ours"]
    print(
        f"{size} px, width {width}: "
        f"reference {cost['reference']:.3f} s, ours {cost['ours']:.3f} s, {cost['reference'] / cost['ours']:.2f}x;  "
        f"peak {theirs:.0f} MiB, ours {ours:.0f} MiB, {ours / theirs:.2f}x "
        f"({(ours - before) / (theirs - before):.2f}x without the {before:.0f} MiB of torch)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", nargs=3, metavar=("ARM", "SIZE", "WIDTH"), help="print an arm's peak memory in MiB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        arm, size, width = arguments.peak
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which imports a quarter of torch
        before = peak_of_this_process()
        iteration = MAKERS[arm](int(size), int(width))
        for _ in range(2):
            iteration()
        print(before, peak_of_this_process())
        return
    for size in arguments.sizes:
        for width in arguments.widths:
            report(size, width, arguments.repeats)


if __name__ == "__main__":
    main()
