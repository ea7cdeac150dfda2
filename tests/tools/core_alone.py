"""The three trainings, tiny, on a machine that has torch, NumPy and safetensors and nothing else.

    python -m tests.tools.core_alone FOLDER [--stop 16] [--device cuda]

Trains each on IMAGES pictures, or goes on with what another machine left in FOLDER; with --stop each is asked to stop
(SIGTERM) after so many. Prints one JSON line: torch's version, and for each training its checkpoint's bytes and the
norms of its weights. What else is installed is hidden, so that it fails where something reaches for more.
"""

from __future__ import annotations

import argparse
import importlib.abc
import json
import os
import signal
import sys
from contextlib import suppress
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

TORCH_NEEDS = ("filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy")
ALLOWED = {"stages", "torch", "torchgen", "numpy", "safetensors", "typing_extensions", "triton", *TORCH_NEEDS}
MODULES = (
    "core.runtime", "core.tracking", "training.fit", "training.checkpoint", "training.distributed", "training.losses",
    "training.draws", "training.ema", "training.precision", "style.stylegan2_ada", "pair.ugatit", "student.pix2pix",
    "faces.recognise",
)  # fmt: skip
SIZE, BATCH, IMAGES = 32, 4, 32


class Alone(importlib.abc.MetaPathFinder):
    """Finds files as Python does, but none that is neither Python's own nor in ALLOWED."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        known = top in ALLOWED or top in sys.stdlib_module_names or top.startswith("_")
        return PathFinder.find_spec(name, path, target) if known else None


def import_everything() -> None:
    """Every module of the core, networks included."""
    from importlib import import_module

    import stages

    networks = sorted(file.stem for file in (Path(stages.__path__[0]) / "networks").glob("[!_]*.py"))
    for name in (*MODULES, *(f"networks.{name}" for name in networks)):
        import_module(f"stages.{name}")


def trainings() -> dict[str, tuple[Any, Any, Any]]:
    """Task, batches and length of each stage's training, with every term that its default has."""
    import numpy as np
    import torch

    from stages.core.settings import Train
    from stages.networks.stylegan2 import Discriminator, Generator
    from stages.pair.batches import unpaired_batches
    from stages.pair.ugatit import TranslatorWeights as PairWeights
    from stages.pair.ugatit import UgatitTranslator
    from stages.student.pix2pix import Pix2Pix
    from stages.student.pix2pix import Pix2PixWeights as StudentWeights
    from stages.style.stylegan2_ada import Ada, Recipe, StyleGAN2

    random = np.random.default_rng(0)
    faces = [random.integers(0, 256, (8, SIZE, SIZE, 3), np.uint8) for _ in range(4)]
    heads = [random.integers(0, 256, (8, SIZE, SIZE), np.uint8) for _ in range(2)]
    train = Train(images=IMAGES, batch=BATCH, lr=1e-3, checkpoint_images=8, preview_images=16)

    torch.manual_seed(0)
    sizes = {"channel_base": 128, "channel_max": 8}
    pair = Generator(8, 8, SIZE, num_layers=2, **sizes), Discriminator(SIZE, **sizes)
    recipe = Recipe(r1_gamma=1.0, r1_every=4, pl_every=2, consistency=10.0, freeze_d=1)
    style = StyleGAN2(*pair, 1e-3, recipe, Ada(images=200, every=2))

    weights = PairWeights(cam=1.0, mask=3.0, mask_tv=0.2, latent=10.0, face_identity=1.0, edge_promotion=0.5)
    translator = UgatitTranslator(width=4, blocks=1, discriminator_width=4, warm_up=0.25, weights=weights)
    domains = unpaired_batches(faces[0], heads[0], faces[1], heads[1], seed=0, source=faces[2], blurred=faces[3])

    photo, picture = (torch.from_numpy(faces[i][:2]).permute(0, 3, 1, 2).float() / 127.5 - 1 for i in range(2))
    student = Pix2Pix(tier="nano", discriminator_width=8, warm_up=0.25, weights=StudentWeights())
    task = student.task(train, {"photo": photo, "style": picture})

    def portraits(start: int, count: int, rows: slice = slice(None)) -> dict[str, Any]:
        chosen = np.arange(start, start + count)[rows] % len(faces[0])
        return {"images": torch.from_numpy(faces[0][chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1}

    def pairs(start: int, count: int, rows: slice = slice(None)) -> dict[str, Any]:
        chosen = np.arange(start, start + count)[rows] % len(faces[0])
        names = {"photo": faces[0], "style": faces[1], "blurred": faces[3]}
        found = {name: torch.from_numpy(array[chosen]).permute(0, 3, 1, 2) for name, array in names.items()}
        flip = torch.from_numpy(chosen % 2 == 0)
        return found | {"mask": torch.from_numpy(heads[0][chosen])[:, None], "flip": flip}

    return {
        "style": (style, portraits, train),
        "pair": (translator.task(SIZE, train), domains, train),
        "student": (task, pairs, train),
    }


def stopped(task: Any, images: int) -> Any:
    """The task, which asks this process to stop after `images` images."""
    after_update = task.after_update

    def asking(seen: int, batch: int) -> dict[str, float]:
        if seen == images:
            os.kill(os.getpid(), signal.SIGTERM)
        found: dict[str, float] = after_update(seen, batch)
        return found

    task.after_update = asking
    return task


def run(folder: Path, stop: int, device: str) -> dict[str, Any]:
    """Train all three in `folder`; see the module's text for what is returned."""
    import torch

    from stages.core.runtime import Runtime
    from stages.core.tracking import Tracker
    from stages.training.fit import fit

    report: dict[str, Any] = {"torch": torch.__version__, "device": device}
    for label, (task, batches, train) in trainings().items():
        place = folder / label
        place.mkdir(parents=True, exist_ok=True)
        runtime = Runtime(device, 1, Tracker(place))
        with suppress(SystemExit):
            fit(stopped(task, stop), batches, train=train, scratch=place / ".scratch", runtime=runtime, label=label)
        report[label] = {
            "bytes": (place / ".scratch" / f"{label}.ckpt").stat().st_size,
            "weights": {name: float(value.detach().double().norm()) for name, value in task.named_parameters()},
        }
    return report


def main() -> None:
    """Hide, import, train, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop", type=int, default=IMAGES)
    parser.add_argument("--device", default="cpu")
    settings = parser.parse_args()
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Alone()]
    import_everything()
    report = run(settings.folder, settings.stop, settings.device)
    tops = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
    report["third_party"] = sorted(top for top in tops if not top.startswith("_") and top != "tests")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
