"""What the tiers cost beside two published stylisers: `python -m tests.bench.student [--sizes 256,512] [--rounds 5]`.

Every arm is a network with random weights in the same onnxruntime, exported the same way, on one thread; arms
alternate, best of several rounds, in CPU milliseconds (which other work on the machine hardly moves).
Targets for `mid` at 512 px: at most 30 ms, AnimeGANv2's structure at least 40 times that, FacialCartoonization's at
least 3 times.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.export.contract import Signature  # noqa: E402
from stages.export.onnx import OPSET, Traced, open_session, quiet  # noqa: E402
from stages.networks.mobile import TIERS, MobileStudent, count_macs, count_parameters  # noqa: E402
from tests.bench.peers import PEERS  # noqa: E402

STEP = 16  # sizes are multiples of this for every arm


class Arm(nn.Module):
    """A network whose `forward` has the one signature that the exporter wants."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, photo: Tensor) -> Any:
        return self.network(photo)


def exported(network: nn.Module, path: Path) -> Path:
    """Write a network as ONNX with dynamic height and width."""
    rows, columns = (STEP * torch.export.Dim(name, min=2, max=256) for name in ("rows", "columns"))
    with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Arm(network).eval(), (torch.zeros(1, 3, 64, 96),), str(path), dynamo=True, opset_version=OPSET,
            input_names=["photo"], dynamic_shapes={"photo": {2: rows, 3: columns}}, external_data=False, verbose=False,
        )  # fmt: skip
    return path


def networks() -> dict[str, nn.Module]:
    """The tiers and the peers, seeded."""
    torch.manual_seed(0)
    students = {tier: MobileStudent(tier) for tier in TIERS}
    tiers: dict[str, nn.Module] = {tier: Traced(student, Signature.of(student)) for tier, student in students.items()}
    return tiers | {name: kind() for name, kind in PEERS.items()}


def best(sessions: dict[str, Any], side: int, rounds: int) -> dict[str, float]:
    """CPU milliseconds of one picture of each arm, the least of `rounds` x 2, in turn, after a warm-up each."""
    photo = np.random.default_rng(0).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    found = dict.fromkeys(sessions, float("inf"))
    for session in sessions.values():
        session.run(None, {"photo": photo})
    for _ in range(rounds):
        for name, session in sessions.items():
            for _ in range(2):
                begun = time.process_time()
                session.run(None, {"photo": photo})
                found[name] = min(found[name], 1000 * (time.process_time() - begun))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    # Measure all arms side by side.
    sides = [int(side) for side in options.sizes.split(",")]
    arms = networks()
    with tempfile.TemporaryDirectory() as folder:
        sessions = {name: open_session(exported(arm, Path(folder) / f"{name}.onnx")) for name, arm in arms.items()}
        found = {side: best(sessions, side, options.rounds) for side in sides}

    print(f"{'':<21}{'M params':>9}{'GMAC 256':>9}" + "".join(f"{f'ms {side}':>9}" for side in sides))
    for name, arm in arms.items():
        cost = f"{count_parameters(arm) / 1e6:9.3f}{count_macs(arm, 256) / 1e9:9.3f}"
        print(f"{name:<21}{cost}" + "".join(f"{found[side][name]:9.1f}" for side in sides))
    for side in sides:
        ratios = [f"{peer} / mid {found[side][peer] / found[side]['mid']:.1f}" for peer in PEERS]
        print(f"{side} px: " + ", ".join(ratios) + " (targets at 512: 40, 3)")


if __name__ == "__main__":
    main()
