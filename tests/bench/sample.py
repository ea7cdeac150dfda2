"""How fast a style set is drawn, encoded and written, and whether the writers hold the generator up.

    python -m tests.bench.sample                  # 64 px (the shipped base), 256 px and 1024 px; about two minutes

Arms, alternating, best of several: the generator alone, the writers alone (1 and 2 threads), and both as the style
stage couples them. The pipeline can be no faster than the slower of its halves: its share of min(generation, writing)
is what is to be near 1. Torch has one thread. Wall time is what counts here, so the machine must have a core for each
thread; the CPU time beside it shows what coupling itself costs where it has not. Above 64 px the weights are random.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from stages.core.files import data_file
from stages.core.weights import load_network
from stages.networks.stylegan2 import Generator
from stages.style.sampling.candidates import Painter, Sampling, Seeds
from stages.style.sampling.write import BatchWriter

PICTURES = {64: 512, 256: 32, 1024: 8}
Arm = Callable[[], object]


def painter(resolution: int) -> Painter:
    """The shipped base at 64 px; else random weights of a usual width (32 channels at 256 px, 8 at 1024 px)."""
    sampling = Sampling(count=1)
    if resolution == 64:
        generator = load_network(data_file("base64_generator.safetensors"))
        assert isinstance(generator, Generator)
    else:
        torch.manual_seed(0)
        generator = Generator(128, 128, resolution, channel_base=8192, channel_max=128)
    return Painter(generator, Seeds(sampling), sampling)


def batches(paint: Painter, count: int) -> list[range]:
    return [range(start, min(start + paint.batch, count)) for start in range(0, count, paint.batch)]


def paths(folder: str, numbers: range) -> list[Path]:
    return [Path(folder) / f"{i:06d}.png" for i in numbers]


def arms(paint: Painter, count: int, folder: str) -> dict[str, Arm]:
    """The things to time; each handles `count` pictures."""
    drawn: list[np.ndarray] = [paint(numbers) for numbers in batches(paint, count)]

    def generate() -> None:
        for numbers in batches(paint, count):
            paint(numbers)

    def write(threads: int) -> None:
        with BatchWriter(threads) as writer:
            for numbers, images in zip(batches(paint, count), drawn, strict=True):
                writer.put(images, paths(folder, numbers))

    def both(threads: int) -> None:
        with BatchWriter(threads) as writer:
            for numbers in batches(paint, count):
                writer.put(paint(numbers), paths(folder, numbers))

    return {
        "generate": generate,
        "write 1": lambda: write(1),
        "write 2": lambda: write(2),
        "both 1": lambda: both(1),
        "both 2": lambda: both(2),
    }


def measure(resolution: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Per arm the images per second of wall time and per second of CPU time, each the best of `repeats`."""
    count = PICTURES[resolution]
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        every = arms(painter(resolution), count, folder)
        for _ in range(repeats):
            for name, arm in every.items():
                wall, cpu = time.perf_counter(), time.process_time()
                arm()
                rate = count / (time.perf_counter() - wall), count / (time.process_time() - cpu)
                best[name] = tuple(map(max, best.get(name, (0.0, 0.0)), rate))  # type: ignore[assignment]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(PICTURES), choices=PICTURES)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for size in asked.sizes:
        best = measure(size, asked.repeats)
        print(f"{size} px: " + "  ".join(f"{name} {wall:.1f}/s" for name, (wall, _) in best.items()))
        for threads in (1, 2):
            bound = min(best["generate"][0], best[f"write {threads}"][0])
            ideal = 1 / (1 / best["generate"][1] + 1 / best["write 1"][1])
            share, cpu = best[f"both {threads}"][0] / bound, best[f"both {threads}"][1] / ideal
            print(f"  {threads} writer(s): {share:.0%} of min(generation, writing); CPU {cpu:.0%} of the arms' sum")


if __name__ == "__main__":
    main()
