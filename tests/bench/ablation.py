"""Which term of the student's training earns its place? Arms at equal budget on the same pairs, side by side.

    python -m tests.bench.ablation runs/pair/<key> --out ablation --arms base no_blurred gram     # see ARMS for all
    python -m tests.bench.ablation pairs.npz --out ... --arm "soft: weights.l1=10, train.lr=1e-3, extra.gram=2"

PAIRS is a pair artifact (its translator is then the teacher that clarity is measured against) or an .npz of `photo`,
`style` uint8 [N, S, S, 3] and `mask` uint8 [N, S, S] (the true twins are the target then). Arms run as processes of
their own, `--jobs` at a time; each leaves `<arm>-<seed>/student.safetensors` and `arm.json`, and is not run again.

Scored on rendered people of no data set: photos of people from 900,000 on, KID to style pictures of people from
2,900,000 on. The declared score of an arm is the mean of three shares of the base arm's value: the face error to the
true twin, KID, and the distance of edge clarity from its target, 1 + |ln edge_clarity_ratio|. A term stays in the tree
when the score gains at least 3 % over the seeds' mean. KID in it is `kid_blind`, by readers of random weights:
the gram and the perceptual term learn from the features of the face reader, by which they would be judged else.

The terms that were tried and not kept live here, in `Tried`.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.artifact import Artifact
from stages.core.files import write_json
from stages.core.images import write_image
from stages.core.runtime import Runtime
from stages.core.settings import Train
from stages.core.tensors import mask_tensor, to_tensor, to_uint8, unit
from stages.core.tracking import Silent
from stages.core.weights import load_network, save_network
from stages.datasets.people import open_people
from stages.metrics.heldout import HeldOut, StylePictures
from stages.metrics.kid import composite_grey, mmd2_cubic
from stages.networks.face_reader import Reader, load_reader
from stages.student.batches import load_pairs, pair_batches
from stages.student.pix2pix import Pix2Pix, Pix2PixTask, Pix2PixWeights
from stages.student.score import apply_student, score, steadiness
from stages.student.stage import comparison
from stages.training.fit import Update, fit
from stages.training.loading import Allowance, read_ahead

PHOTO_PEOPLE, STYLE_PEOPLE = 900_000, 2_900_000  # of no data set, and never the held-out ones
ARMS = {
    "base": "",
    "no_edge_promotion": "weights.edge_promotion=0",
    "no_equivariance": "weights.equivariance=0",
    "no_features": "weights.features=0",
    "no_chroma": "weights.chroma=0",
    "no_edge_gain": "weights.edge_gain=0",
    "gram": "extra.gram=20",
    "pyramid": "extra.pyramid=20",
    "perceptual": "extra.perceptual=2",
    "distill": "extra.distill=1",
    "cleaned": "extra.cleaned=1",
}
SHOWN = (
    "face_error",
    "edge_clarity_ratio",
    "edge_slope_ratio",
    "flat_energy_ratio",
    "checker_ratio",
    "kid",
    "kid_blind",
    "flicker",
)
BLIND = 3  # readers of random weights


# ------------------------------------------------------------------------------------------------- terms on trial


def pyramid(output: Tensor, target: Tensor, levels: int = 3) -> Tensor:
    """L1 of the first levels of the Laplacian pyramids, scalar."""
    total = output.new_zeros(())
    for _ in range(levels):
        small, small_target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
        fine = output - F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)
        wanted = target - F.interpolate(small_target, scale_factor=2.0, mode="bilinear", align_corners=False)
        total, output, target = total + F.l1_loss(fine, wanted), small, small_target
    return total / levels


def gram(features: Tensor) -> Tensor:
    """Gram matrices of [N, C, H, W] over H W C: [N, C, C]."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()


def cleaned(style: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Targets whose heads are smoothed between their edges (two bilateral filters): uint8 [N, H, W, 3]."""
    out = style.copy()
    for picture, head in zip(out, mask, strict=True):
        smooth = cv2.bilateralFilter(cv2.bilateralFilter(picture, 5, 30, 3), 5, 30, 3)
        picture[head > 0] = smooth[head > 0]
    return out


class Tried(Pix2PixTask):
    """The student's training with terms on trial: `extra` names and weighs them."""

    def __init__(self, settings: Pix2Pix, train: Train, samples: dict[str, Tensor], extra: dict[str, float]) -> None:
        super().__init__(settings, train, samples)
        self.extra = extra
        self.outside: dict[str, nn.Module] = {}  # frozen networks, kept out of the state

    def teach(self, translator: nn.Module | None, device: str) -> None:
        """Bring in the frozen networks that the extra terms ask."""
        if {"gram", "perceptual"} & set(self.extra):
            self.outside["reader"] = load_reader(device).requires_grad_(False)
        if "distill" not in self.extra:
            return
        if translator is None:
            raise SystemExit("distill needs a pair artifact, for its translator")
        self.outside["translator"] = translator.requires_grad_(False)
        blocks, wide = translator.arguments["n_blocks"], 4 * translator.arguments["ngf"]
        getattr(translator, f"UpBlock1_{blocks}").register_forward_hook(functools.partial(self._note, "teacher"))
        self.student.blocks.register_forward_hook(functools.partial(self._note, "student"))
        self.noted: dict[str, Tensor] = {}
        narrow = self.student.shrink4.in_channels
        self.project = nn.Conv2d(narrow, wide, 1).to(device)
        group = self.phases[0].optimizer.param_groups[0]
        group["params"] += list(self.project.parameters())
        self.phases[0].params += list(self.project.parameters())

    def _note(self, who: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.noted[who] = output

    def _features(self, pictures: Tensor) -> list[Tensor]:
        """Maps of the face reader's first three levels, at the picture's own size (128 px at most)."""
        reader: Any = self.outside["reader"]
        if pictures.shape[-1] > 128:
            pictures = F.interpolate(pictures, (128, 128), mode="bilinear", align_corners=False, antialias=True)
        maps = [reader.stem(pictures)]
        for level in reader.levels[:2]:
            maps.append(level(maps[-1]))
        return maps

    def _student_losses(self, pairs: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        terms = super()._student_losses(pairs, update)
        photo, style = pairs["photo"], pairs["style"]
        weight, output = self.extra, update.memory["output"]
        if "pyramid" in weight:
            terms["pyramid"] = weight["pyramid"] * pyramid(output, style)
        if "reader" in self.outside:
            own, wanted = self._features(output), self._features(style)
            scale = [b.abs().mean() for b in wanted]
            if "perceptual" in weight:
                parts = [F.l1_loss(a, b) / s for a, b, s in zip(own, wanted, scale, strict=True)]
                terms["perceptual"] = weight["perceptual"] * torch.stack(parts).mean()
            if "gram" in weight:
                parts = [
                    F.l1_loss(gram(a / s), gram(b / s)) * a.shape[1] for a, b, s in zip(own, wanted, scale, strict=True)
                ]
                terms["gram"] = weight["gram"] * torch.stack(parts).mean()
        if "distill" in weight:
            with torch.no_grad():
                self.outside["translator"](photo)
            teacher = F.avg_pool2d(self.noted["teacher"], 2)
            student = self.project(self.noted["student"][: len(photo)])
            terms["distill"] = weight["distill"] * F.mse_loss(student, teacher) / teacher.var()
        return terms


# ------------------------------------------------------------------------------------------------- people and pairs


def _render_some(job: tuple[str, int, int, int, str]) -> dict[str, np.ndarray]:
    """One run of people: photos, twins and masks, or style pictures and masks."""
    kind, first, count, size, style = job
    cv2.setNumThreads(1)
    source, rows = open_people(), []
    for number in range(first, first + count):
        shown = source.photo(number, 0, size) if kind == "people" else source.styled(number, 0, style, size)
        row = {"photo" if kind == "people" else "style": shown.image, "mask": shown.mask}
        rows.append(row | ({"twin": source.twin(number, 0, style, size).image} if kind == "people" else {}))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def people(size: int, count: int, style: str, cache: Path, jobs: int) -> HeldOut:
    """Validation people, rendered once and kept in `cache`."""
    path = cache / f"people-{style}-{size}-{count}.npz"
    if not path.exists():
        step = 16
        firsts = [("people", PHOTO_PEOPLE + at) for at in range(0, count, step)]
        firsts += [("style", STYLE_PEOPLE + at) for at in range(0, 2 * count, step)]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context) as pool:
            parts = list(pool.map(_render_some, [(kind, first, step, size, style) for kind, first in firsts]))
        shown = {name: [part[name] for part in parts if "photo" in part] for name in ("photo", "twin", "mask")}
        drawn = [part for part in parts if "style" in part]
        arrays = {name: np.concatenate(values)[:count] for name, values in shown.items()}
        arrays |= {"style": np.concatenate([part["style"] for part in drawn])}
        arrays |= {"style_mask": np.concatenate([part["mask"] for part in drawn])}
        np.savez(path, **arrays)
    with np.load(path) as found:
        arrays = dict(found)
    shown = StylePictures(images=arrays.pop("style"), mask=arrays.pop("style_mask"))
    names = [f"{index:06d}" for index in range(count)]
    return HeldOut(ids=names, people=names, style=shown, **arrays)


def read_pairs(path: Path) -> list[np.ndarray]:
    """photo, style, mask of a pair artifact or an .npz."""
    if path.suffix == ".npz":
        with np.load(path) as found:
            return [found[name] for name in ("photo", "style", "mask")]
    return [kind[:] for kind in load_pairs(Artifact(path, {}), os.cpu_count() or 1, Allowance(0))]


def translate(translator: nn.Module, photos: np.ndarray, device: str) -> np.ndarray:
    """The translator's raw pictures of photos uint8 [N, S, S, 3]."""
    chunks = np.array_split(photos, max(1, len(photos) // 8))
    with torch.no_grad():
        parts = [translator(to_tensor(part).to(device)).image.cpu() for part in chunks]
    return to_uint8(torch.cat(parts))


def kid_blind(output: Tensor, held: HeldOut) -> float:
    """KID of raw outputs [N, 3, S, S] to the style pictures by features that no term has seen: mean over the readers.

    Each feature is scaled by its mean and deviation over the style pictures; the estimate is that of all pictures.
    """
    assert held.style is not None and held.style.mask is not None
    heads = (
        composite_grey(unit(output), mask_tensor(held.mask)),
        composite_grey(unit(to_tensor(held.style.images)), mask_tensor(held.style.mask)),
    )
    values = []
    for seed in range(BLIND):
        torch.manual_seed(seed)
        reader = Reader().eval()
        with torch.no_grad():
            fake, real = (
                torch.cat([reader.raw_features(reader.encode(part * 2 - 1)) for part in shown.split(64)])
                for shown in heads
            )
        mean, deviation = real.mean(0), real.std(0).clamp_min(1e-6)
        values.append(mmd2_cubic((real - mean) / deviation, (fake - mean) / deviation))
    return float(np.mean(values))


# ------------------------------------------------------------------------------------------------- one arm


@dataclass
class Arm:
    """Settings of one training: of Pix2Pix, its weights, its length and the extra terms."""

    name: str
    seed: int
    model: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)

    def read(self, text: str) -> Arm:
        """Take settings from `key=value, weights.key=value, train.key=value, extra.key=value`."""
        groups = {"weights": self.weights, "train": self.train, "extra": self.extra}
        for item in filter(None, (part.strip() for part in text.split(","))):
            key, _, value = item.partition("=")
            group, _, name = key.rpartition(".")
            groups.get(group, self.model)[name] = value if name == "tier" else json.loads(value)
        return self


def run_arm(arm: Arm, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one arm; its row."""
    out = Path(options.out) / f"{arm.name}-{arm.seed}"
    done = out / "arm.json"
    if done.exists():
        return dict(json.loads(done.read_text()))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    pairs, device = Path(options.pairs), options.device
    photo, style, mask = (array[: options.most] for array in read_pairs(pairs))
    held = people(photo.shape[1], options.people, options.style, Path(options.out), 1)
    file = pairs / "translator.safetensors"
    translator = load_network(file, device) if file.exists() else None
    teacher = held.twin if translator is None else translate(translator, held.photo, device)
    if "cleaned" in arm.extra:
        style = cleaned(style, mask)
    length = {"images": options.images, "batch": options.batch, "lr": options.lr, "seed": arm.seed} | arm.train
    train = Train(checkpoint_images=10**9, preview_images=10**9, **length)
    settings = Pix2Pix(weights=Pix2PixWeights(**arm.weights), **arm.model)
    task = Tried(settings, train, {"photo": to_tensor(photo[:1]), "style": to_tensor(style[:1])}, arm.extra)
    task.to(device)
    task.teach(translator, device)
    batches = pair_batches(photo, style, mask, arm.seed, blurred=settings.weights.edge_promotion > 0)
    start, cpu = time.time(), time.process_time()
    batches = batches if device == "cpu" else read_ahead(batches)
    fit(task, batches, train=train, scratch=out, runtime=Runtime(device, 1, Silent()), label="student")
    took = {"seconds": time.time() - start, "cpu_seconds": time.process_time() - cpu}
    (out / "student.ckpt").unlink(missing_ok=True)
    student = task.student_ema.eval()
    save_network(out / "student.safetensors", student)
    output = apply_student(student, held.photo, device)
    means, _ = score(output, held, teacher, load_reader())
    means["kid_blind"] = kid_blind(output, held)
    means |= steadiness(student, photo.shape[1], device, PHOTO_PEOPLE)
    write_image(out / "sheet.png", comparison(held, teacher, to_uint8(output)))
    row = {"arm": arm.name, "seed": arm.seed} | means | took
    write_json(done, {key: value if not isinstance(value, float) else round(value, 6) for key, value in row.items()})
    return row


# ------------------------------------------------------------------------------------------------- all of them


def declared(row: dict[str, float], base: dict[str, float]) -> float:
    """The declared score of an arm: 1 for the base arm, lower is better."""
    miss = [1 + abs(math.log(max(values["edge_clarity_ratio"], 1e-3))) for values in (row, base)]
    return (row["face_error"] / base["face_error"] + row["kid_blind"] / base["kid_blind"] + miss[0] / miss[1]) / 3


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, one arm a line (means over the seeds), gains against the first arm."""
    names = list(dict.fromkeys(row["arm"] for row in rows))
    keys = [*SHOWN, *(key for key in ("face_to_teacher",) if key in rows[0]), "seconds"]
    means = {
        name: {key: float(np.mean([row[key] for row in rows if row["arm"] == name])) for key in keys} for name in names
    }
    lines = ["| arm | " + " | ".join(keys) + " | gain |", "|---" * (len(keys) + 2) + "|"]
    for name, row in means.items():
        gain = 1 - declared(row, means[names[0]])
        lines.append(f"| {name} | " + " | ".join(f"{row[key]:.4g}" for key in keys) + f" | {gain:+.1%} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="pair artifact or .npz")
    parser.add_argument("--out", required=True)
    parser.add_argument("--arms", nargs="*", default=[], metavar="NAME", help=", ".join(ARMS))
    parser.add_argument("--arm", action="append", default=[], help="NAME: settings")
    parser.add_argument("--also", default="", help="settings of all arms")
    parser.add_argument("--style", default="comic")
    parser.add_argument("--images", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--people", type=int, default=128)
    parser.add_argument("--most", type=int, default=10**9, help="pairs used")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Run all arms, print the table."""
    options = arguments()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    texts = {name: ARMS[name] for name in options.arms}
    texts |= {name.strip(): text for name, _, text in (given.partition(":") for given in options.arm)}
    arms = [Arm(name, seed).read(options.also).read(text) for name, text in texts.items() for seed in options.seeds]
    people(read_pairs(Path(options.pairs))[0].shape[1], options.people, options.style, out, max(options.jobs, 1))
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            rows = list(pool.map(run_arm, arms, [options] * len(arms)))
    else:
        rows = [run_arm(arm, options) for arm in arms]
    print(table(rows))


if __name__ == "__main__":
    main()
