"""How true a converted file is: agreement with torch, sharpness, time. The same for every runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.core.tensors import to_uint8
from stages.export.contract import Exportable, Run, Signature
from stages.export.onnx import Traced
from stages.metrics.clarity import clarity, median_defined

EQUAL_DB = 999.0  # dB, the PSNR of pictures that do not differ
WARM_UP = 3  # runs before the first one that counts

Sample = Sequence[Tensor]  # the inputs of one call, in the order of the signature
Arrays = Sequence[np.ndarray]


@torch.inference_mode()
def expected(network: Exportable, samples: Sequence[Sample], signature: Signature) -> list[tuple[np.ndarray, ...]]:
    """The network's outputs in torch, float32.

    Args:
        network: in eval mode.
        samples: inputs of each call, pictures as [1, C, H, W] of any sizes.
        signature: the outputs that are wanted.
    """
    traced = Traced(network, signature)
    return [tuple(output.numpy() for output in traced(*sample)) for sample in samples]


def agreement(run: Run, samples: Sequence[Sample], truth: Sequence[Arrays], signature: Signature) -> dict[str, float]:
    """Measure how far an opened model is from torch.

    Args:
        run: the opened model.
        samples: inputs of each call.
        truth: torch's outputs for them, see `expected`.
        signature: of the file.

    Returns:
        max_error: largest |difference| over all outputs, in their own units;
        psnr: dB of the first output over all samples together, by its range (999 where they are equal);
        edge_clarity, flat_energy: where the first output is a picture, the median over the samples of the runtime's
        over torch's, on torch's edges (stages.metrics.clarity); else NaN.

        Values that are not finite make max_error and psnr NaN.
    """
    first = signature.outputs[0]
    is_picture = first.spatial and first.channels == 3
    worst, squares, count = 0.0, 0.0, 0
    ratios: dict[str, list[float]] = {"edge_clarity": [], "flat_energy": []}
    for sample, wanted in zip(samples, truth, strict=True):
        found = run(*(values.numpy() for values in sample))

        # Errors of all outputs, and the squares of the first.
        differences = [np.abs(own - true) for own, true in zip(found, wanted, strict=True)]
        worst = float(np.max([worst, *(values.max() for values in differences)]))  # NaN where one is
        squares += float(np.square(differences[0], dtype=np.float64).sum())
        count += differences[0].size

        for name, ratio in (_clarity_ratios(found[0], wanted[0]) if is_picture else {}).items():
            ratios[name].append(ratio)

    medians = {name: median_defined(np.array(values)) if values else math.nan for name, values in ratios.items()}
    return {"max_error": worst, "psnr": _decibels(squares, count, first.high - first.low)} | medians


def _clarity_ratios(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """edge_clarity and flat_energy of a picture [1, 3, H, W] in [-1, 1] over those of torch's, on torch's edges."""
    own, true = (to_uint8(torch.from_numpy(np.nan_to_num(values)))[0] for values in (found, wanted))
    made, target = clarity(own, true).as_dict(), clarity(true, true).as_dict()
    names = ("edge_clarity", "flat_energy")
    return {name: made[name] / target[name] if target[name] > 1e-6 else math.nan for name in names}


def _decibels(squares: float, count: int, span: float) -> float:
    """PSNR of `count` values with this sum of squared errors, for a range of `span`."""
    if squares == 0:
        return EQUAL_DB
    return 10 * math.log10(span**2 * count / squares) if math.isfinite(squares) else math.nan


def drawn_inputs(signature: Signature, side: int) -> list[np.ndarray]:
    """One set of inputs for pictures of side x side px: float32, drawn evenly from each input's range, always equal."""
    draw = np.random.default_rng(0)
    pairs = zip(signature.inputs, signature.shapes(side, side), strict=True)
    return [draw.uniform(spec.low, spec.high, shape).astype(np.float32) for spec, shape in pairs]


def milliseconds(run: Run, inputs: Arrays, threads: int, repeats: int) -> float | None:
    """Least time of one run in ms, after a warm-up: CPU time on one thread, wall time on several.

    The least counts, since other work on the machine can only add to it. CPU time of several threads would include
    their waiting for each other. None where the model's time on this machine does not count.
    """
    times = run.times(inputs, WARM_UP + repeats)[WARM_UP:]
    return 1000 * min(cpu if threads == 1 else wall for cpu, wall in times) if times else None
