"""Training speed of stage style against the same network in the reference formulation.

    python -m tests.bench.style            # about two minutes, one thread
    python -m tests.bench.style --wide     # channel_base 8192, channel_max 256 as well, whatever the CPU

Both arms run the same `StyleGAN2` task on the same weights: Gmain and Dmain every update, Greg every 4th, Dreg every
16th. The reference arm differs in two ways. In formulation: demodulation from the full per-sample weight
[N, O, I, k, k] with scaled activations, FIR filters after zero insertion, separate passes for noise, bias, activation
and gain, torch's own derivatives of convolutions, NCHW, float32. And in what it does: like the official training it
draws new fakes, without gradient, for Dmain, where ours judges those that Gmain has just made (a reference spared that
work would be no reference). Augmentation, where on, is ours in both arms: bgc at p = 0.5.

Setting: 64 px, batch 16, channel_base 4096, channel_max 128, z = w = 512; on CPUs that multiply bfloat16 also in
bfloat16, and at 8192 and 256, where the convolutions weigh more. CPU seconds of one thread, the arms alternating, best
of several. The share of the peak counts the convolutions and products that the arm has to do, by the reference
formulation, against the best of several convolutions measured in the same process in the arm's type.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.networks import stylegan2 as sg
from stages.networks.ops.random_rows import RandomRows
from stages.style.stylegan2_ada import Ada, Recipe, StyleGAN2
from stages.training.fit import Update, only
from stages.training.precision import compute_dtype
from tests.bench.formulation import formulated

NARROW = {"channel_base": 4096, "channel_max": 128}
WIDE = {"channel_base": 8192, "channel_max": 256}
RESOLUTION, BATCH = 64, 16
MAIN = ("Gmain", "Dmain")


# The reference formulation


def reference_upfirdn2d(x, f, up=1, down=1, padding=(0, 0, 0, 0), gain=1.0) -> Tensor:
    """Insert zeros, pad, filter depthwise with the 2-D kernel, decimate."""
    n, c, h, w = x.shape
    if f is None:
        return x
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    x = F.pad(x, [max(p, 0) for p in padding])
    x0, x1, y0, y1 = (max(-p, 0) for p in padding)
    x = x[:, :, y0 : x.shape[2] - y1, x0 : x.shape[3] - x1]
    x = F.conv2d(x, (f * gain).flip([0, 1])[None, None].repeat(c, 1, 1, 1), groups=c)
    return x[:, :, ::down, ::down]


def reference_conv(x: Tensor, w: Tensor, f: Tensor | None, up: int, down: int, padding: int) -> Tensor:
    """The official order: transposed convolution, then blur; blur, then strided convolution; blur first for 1x1."""
    if up > 1:
        return reference_upfirdn2d(
            F.conv_transpose2d(x, w.transpose(0, 1), stride=2), f, padding=(1, 1, 1, 1), gain=4.0
        )
    if down > 1 and w.shape[-1] == 1:
        return F.conv2d(reference_upfirdn2d(x, f, down=2, padding=(1, 1, 1, 1)), w)
    if down > 1:
        return F.conv2d(reference_upfirdn2d(x, f, padding=(2, 2, 2, 2)), w, stride=2)
    return F.conv2d(x, w, padding=padding)


def reference_bias_act(x: Tensor, b: Tensor | None, act: str, gain: float) -> Tensor:
    """Bias, activation and gain one after the other."""
    if b is not None:
        x = x + b.reshape(1, -1, 1, 1)
    if act == "lrelu":
        x = F.leaky_relu(x, 0.2)
    return x * gain if gain != 1 else x


def reference_synthesis_layer(
    self: sg.SynthesisLayer, x: Tensor, w: Tensor, noise_mode: str, draws: RandomRows
) -> Tensor:
    styles = self.affine(w)
    full = self.weight[None] * styles[:, None, :, None, None]  # [N, O, I, k, k]
    scale = (full.square().sum(dim=(2, 3, 4)) + 1e-8).rsqrt()
    x = reference_conv(x * styles[:, :, None, None], self.weight, self.resample_filter, self.up, 1, 1)
    noise = self.noise(len(x), noise_mode, draws)
    x = x * scale[:, :, None, None]
    x = x if noise is None else x + noise
    return reference_bias_act(x, self.bias, "lrelu", sqrt(2))


def reference_torgb(self: sg.ToRGBLayer, x: Tensor, w: Tensor) -> Tensor:
    styles = self.affine(w) * self.weight_gain
    return reference_bias_act(F.conv2d(x * styles[:, :, None, None], self.weight), self.bias, "linear", 1.0)


def reference_block(self: sg.SynthesisBlock, x, img, ws, noise_mode, dtype, draws):
    if self.first:
        x = self.const[None].repeat(len(ws), 1, 1, 1)
    else:
        x = self.conv0(x, ws[:, 0], noise_mode, draws)
    x = self.conv1(x, ws[:, self.num_conv - 1], noise_mode, draws)
    rgb = self.torgb(x, ws[:, self.num_conv])
    if img is None:
        return x, rgb
    return x, rgb + reference_upfirdn2d(img, self.resample_filter, up=2, padding=(2, 1, 2, 1), gain=4.0)


def reference_conv_layer(self: sg.Conv2dLayer, x: Tensor, gain: float = 1.0) -> Tensor:
    weight = self.weight * self.weight_gain
    x = reference_conv(x, weight, self.resample_filter, 1, self.down, self.padding)
    return reference_bias_act(x, self.bias, self.act, gain * (sqrt(2) if self.act == "lrelu" else 1.0))


def reference_discriminator(self: sg.Discriminator, img: Tensor) -> Tensor:
    x = img.contiguous()
    for r in self.block_resolutions:
        x = getattr(self, f"b{r}")(x)
    return self.b4(x)


def reference_formulation() -> AbstractContextManager[None]:
    """Within the block, the networks compute as the reference does; their parameters are untouched."""
    return formulated(
        (sg.SynthesisLayer, reference_synthesis_layer),
        (sg.ToRGBLayer, reference_torgb),
        (sg.SynthesisBlock, reference_block),
        (sg.Conv2dLayer, reference_conv_layer),
        (sg.Discriminator, reference_discriminator),
    )


# Measuring


def task(
    precision: str, memory_format: torch.memory_format, channels: dict[str, int] = NARROW, pipe: str | None = None
) -> StyleGAN2:
    """A training task; with `pipe` augmented at p = 0.5."""
    torch.manual_seed(0)
    generator = sg.Generator(512, 512, RESOLUTION, **channels)
    discriminator = sg.Discriminator(RESOLUTION, **channels)
    recipe = Recipe(noise=True, precision=precision)
    ada = None if pipe is None else Ada(pipe=pipe, p_start=0.5, p_max=0.8, images=100_000)
    model = StyleGAN2(generator, discriminator, lr=0.002, recipe=recipe, ada=ada)
    return model.to(memory_format=memory_format).train()


def losses(model: StyleGAN2, phase: str, images: Tensor, update: Update, redraw: bool) -> Tensor:
    """The sum that a phase minimises. `redraw`: Dmain makes its own fakes."""
    terms = model.losses(phase, {"images": images}, Update() if redraw else update)
    return torch.stack([value for name, value in terms.items() if not name.startswith("_")]).sum()


def phase_seconds(model: StyleGAN2, images: Tensor, redraw: bool = False) -> dict[str, float]:
    """CPU seconds of one call of each phase: losses, backward, optimiser step."""
    seconds = {}
    everything, update = list(model.parameters()), Update()
    for phase in model.phases:
        begun = time.process_time()
        phase.optimizer.zero_grad(set_to_none=True)
        with only(phase.params, everything):
            losses(model, phase.name, images, update, redraw).backward()
        phase.optimizer.step()
        seconds[phase.name] = time.process_time() - begun
    return seconds


def main_gflop(model: StyleGAN2, redraw: bool) -> float:
    """GFLOP of Gmain and Dmain of one update, forward and backward, counted by torch (convolutions and matrices)."""
    part = 4  # counted on a quarter of the batch; the work is proportional to it
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.randn(BATCH // part, 3, RESOLUTION, RESOLUTION)
    total, update = 0.0, Update()
    for phase in model.phases:
        if phase.name in MAIN:
            with FlopCounterMode(display=False) as counter, only(phase.params, list(model.parameters())):
                losses(model, phase.name, images, update, redraw).backward()
            total += part * counter.get_total_flops() / 1e9
    return total


def best_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        function()
        times.append(time.process_time() - begun)
    return min(times)


def conv_peak(dtype: torch.dtype) -> float:
    """GFLOP/s of the fastest of several 3x3 convolutions of batch 16, forward, in both layouts."""
    rates = []
    for channels, size in ((64, 64), (128, 32), (128, 16), (256, 16)):
        for memory_format in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(BATCH, channels, size, size).to(dtype).to(memory_format=memory_format)
            w = torch.randn(channels, channels, 3, 3).to(dtype).to(memory_format=memory_format)
            with torch.no_grad():
                seconds = best_seconds(lambda x=x, w=w: F.conv2d(x, w, padding=1))
            rates.append(2 * BATCH * channels**2 * 9 * size**2 / seconds / 1e9)
    return max(rates)


def update_cost(seconds: dict[str, float], model: StyleGAN2) -> float:
    """Of one update, the lazy phases spread over the updates between them."""
    return sum(seconds[phase.name] / phase.every for phase in model.phases)


def measure(
    repeats: int, arms: tuple[str, ...], channels: dict[str, int] = NARROW, pipe: str | None = None
) -> dict[str, dict[str, float]]:
    """Per arm (``reference`` or a precision) the best CPU seconds of every phase, the arms alternating."""
    images = torch.randn(BATCH, 3, RESOLUTION, RESOLUTION)
    models = {
        arm: task("float32", torch.contiguous_format, channels, pipe)
        if arm == "reference"
        else task(arm, torch.channels_last, channels, pipe)
        for arm in arms
    }
    best: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    for repeat in range(repeats + 1):
        for arm, model in models.items():
            if arm == "reference":
                with reference_formulation():
                    seconds = phase_seconds(model, images, redraw=True)
            else:
                seconds = phase_seconds(model, images)
            if repeat:  # the first round warms up
                best[arm] = {name: min(value, best[arm].get(name, value)) for name, value in seconds.items()}
    return best


def report(repeats: int, arms: tuple[str, ...], channels: dict[str, int], peaks: dict[str, float]) -> None:
    """Print speed, share of the peak and ratio of every arm at one size, and the speed with augmentation."""
    model = task("float32", torch.contiguous_format, channels)
    with reference_formulation():
        work = {True: main_gflop(model, redraw=True), False: main_gflop(model, redraw=False)}
    best = measure(repeats, arms, channels)
    augmented = measure(1, arms, channels, pipe="bgc")
    print(f"channel_base {channels['channel_base']}, channel_max {channels['channel_max']}; images per CPU second")
    rates = {}
    for arm, seconds in best.items():
        rates[arm] = BATCH / update_cost(seconds, model)
        main_seconds = sum(seconds[name] for name in MAIN)
        peak = peaks["bfloat16" if arm == "bfloat16" else "float32"]
        parts = "  ".join(f"{name} {value:.3f}" for name, value in seconds.items())
        print(
            f"{arm:<10} {rates[arm]:6.2f} ({rates[arm] / rates['reference']:.2f}x)  "
            f"with bgc {BATCH / update_cost(augmented[arm], model):6.2f}  "
            f"without Greg, Dreg {BATCH / main_seconds:6.2f} = {work[arm == 'reference'] / main_seconds / peak:.0%} "
            f"of the peak  seconds: {parts}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wide", action="store_true", help="measure 8192 and 256 without bfloat16 hardware, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hardware = compute_dtype("auto", torch.device("cpu")) is torch.bfloat16
    arms = ("reference", "float32", *(["bfloat16"] if hardware else []))
    peaks = {"float32": conv_peak(torch.float32)}
    if hardware:
        peaks["bfloat16"] = conv_peak(torch.bfloat16)
    print("convolution peak, one thread: " + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in peaks.items()))
    if not hardware:
        print("this CPU does not multiply bfloat16: float32 only")
    report(arguments.repeats, arms, NARROW, peaks)
    if hardware or arguments.wide:
        report(arguments.repeats, arms, WIDE, peaks)


if __name__ == "__main__":
    main()
