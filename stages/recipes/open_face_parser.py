"""A face parser without label masks of photos: painted people, and photos of which only some things are known.

    python -m stages.recipes.open_face_parser --photos DIR --persons DIR --meshes FILE.npz --out parser.safetensors

Painted people come with all their labels. Of a photo are known where the person is (`--persons`: soft masks, PNG under
the photo's stem) and 468 points of the face (`--meshes`: Face Mesh's, see `load_photos`). That tells sets of labels:
what is outside the person is background, what of it lies above the nose is head, the face's oval is no neck... The loss
asks only that the shares of the set sum to one (Cour et al., JMLR 2011, "Learning from partial labels"); within the set
the averaged network teaches itself where it is sure (Sohn et al., 2020, arXiv 2001.07685: weak view -> strong view).

What is trained so may be shipped wherever photos, person masks and points may be: no label of CelebAMask-HQ is used.
`--judge-images DIR --judge-masks DIR` scores the result on labelled portraits, and does nothing else with them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.files import sha256_file, write_json
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.datasets.painted import paint as painter
from stages.datasets.painted.person import READER_PEOPLE, sample_person, sample_view
from stages.datasets.pictures import read_mask, read_whole
from stages.faces.parse import load_parser
from stages.networks.face_labels import PARSER_FACE, PARSER_HEAD, PARSER_LABELS, PARSER_MIRROR, PARSER_MOUTH, numbers
from stages.networks.parser import FaceParser
from stages.recipes.augment import affine, recolour, soften
from stages.recipes.face_parser import (
    SCALE,
    SHIFT,
    STORED,
    TURN,
    WEIGHTS,
    Labelled,
    ParserTask,
    cut,
    load_labelled,
    occlude,
    relight,
    score,
    training_options,
)
from stages.training.fit import Batches, Update, fit

SURE = 0.75  # share from which the averaged network is believed

# ---------------------------------------------------------------------------------------------------------------------
# Sets of labels: a pixel's code is a label, 0..18, or one of these, meaning one of its labels

_SETS: dict[str, tuple[int, ...]] = {
    "anything": tuple(range(19)),
    "person": tuple(range(1, 19)),
    "head": tuple(PARSER_HEAD),
    "face": PARSER_FACE,  # within the face's oval: skin, nose, glasses, a fringe, a brim
    "mouths": PARSER_MOUTH,  # the painter's mouth, lips and all
    # Points do not show glasses, or hair, before them.
    "l_eye": numbers(PARSER_LABELS, "l_eye", "glasses"),
    "r_eye": numbers(PARSER_LABELS, "r_eye", "glasses"),
    "l_brow": numbers(PARSER_LABELS, "l_brow", "glasses", "hair"),
    "r_brow": numbers(PARSER_LABELS, "r_brow", "glasses", "hair"),
}
CODES = {name: len(PARSER_LABELS) + number for number, name in enumerate(_SETS)}
_OTHER_SIDE = {"l_eye": "r_eye", "r_eye": "l_eye", "l_brow": "r_brow", "r_brow": "l_brow"}
MIRRORED = (*PARSER_MIRROR, *(CODES[_OTHER_SIDE.get(name, name)] for name in _SETS))  # codes of a mirrored picture
# [codes, labels]: 1 where a label is in the set.
MEMBERS = torch.eye(len(PARSER_LABELS) + len(_SETS), len(PARSER_LABELS))
for _name, _labels in _SETS.items():
    MEMBERS[CODES[_name], list(_labels)] = 1
_IN_HEAD = torch.tensor([label in PARSER_HEAD for label in range(len(PARSER_LABELS))]).float()
SURELY_HEAD = (MEMBERS * (1 - _IN_HEAD)).sum(1) == 0  # [codes]
MAYBE_HEAD = (MEMBERS * _IN_HEAD).sum(1) > 0

# Face Mesh's points around things, from its canonical model. Right and left are the person's.
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
PARTS = {
    "r_brow": (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    "l_brow": (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
    "r_eye": (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    "l_eye": (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
    "u_lip": OUTER_LIPS,
    "l_lip": (*OUTER_LIPS[:11], *INNER_LIPS[10::-1]),
    "mouth": INNER_LIPS,
}
NOSE, CHIN, FOREHEAD = 1, 152, 10
SURE_MESH = 0.9  # Face Mesh's score under which its points are not used (profiles, covered faces)


def weak_labels(person: np.ndarray, points: np.ndarray | None) -> np.ndarray:
    """What a person mask and Face Mesh tell of a photo.

    Args:
        person: float [S, S] in [0, 1], how surely each pixel is the person.
        points: [468, 2] x, y in pixels, pixel (0, 0) with its centre at 0, 0; None where there are none.

    Returns:
        codes, uint8 [S, S]
    """
    codes = np.full(person.shape, CODES["anything"], np.uint8)
    codes[person < 0.15], codes[person > 0.85] = 0, CODES["person"]
    if points is None:
        return codes
    up = points[FOREHEAD] - points[CHIN]
    y, x = np.mgrid[: person.shape[0], : person.shape[1]]
    above = (x - points[NOSE, 0]) * up[0] + (y - points[NOSE, 1]) * up[1] > 0
    codes[(codes == CODES["person"]) & above] = CODES["head"]
    oval = _filled(codes.shape, points[list(OVAL)])
    inside = cv2.erode(oval, np.ones((3, 3), np.uint8)) > 0
    codes[inside] = CODES["face"]
    for name, outline in PARTS.items():
        part = _filled(codes.shape, points[list(outline)]) > 0
        codes[part & inside] = CODES[name] if name in CODES else PARSER_LABELS.index(name)
    return codes


def _filled(shape: tuple[int, ...], outline: np.ndarray) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, shift=4)
    return mask


def painted_labels(painting: painter.PaintedImage) -> np.ndarray:
    """All that the painter tells, as codes: uint8 [S, S]; a beard is face, lips and mouth are not told apart."""
    middle = painting.landmarks[27:31, 0].mean()  # the bridge of the nose
    table = [0, 1, 7, 5, 2, CODES["mouths"], 13, 9, 17, 18, 3, 14, CODES["face"]]
    codes = np.array(table, np.uint8)[painting.parsing]
    left = np.arange(codes.shape[1])[None] > middle  # the person's left
    return np.where(left & np.isin(codes, (5, 7, 9)), codes - 1, codes)


def _paint(job: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    cv2.setNumThreads(1)
    who, view = job
    number = READER_PEOPLE + who
    painting = painter.paint(sample_person(number), sample_view(number, view), STORED)
    return painting.image, painted_labels(painting)


def paint_labelled(people: int, views: int, workers: int) -> Labelled:
    """Painted photos of the face reader's own people, `views` of each, with their codes."""
    jobs = [(who, view) for who in range(people) for view in range(views)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pairs = pool.map(_paint, jobs, chunksize=16)
    return _stacked([image for image, _ in pairs], [codes for _, codes in pairs])


def load_photos(photos: Path, persons: Path, meshes: Path) -> Labelled:
    """Square photos that have a person mask of their stem, with their codes.

    Args:
        meshes: npz of `files` (their stems count), `xy` [N, 468, 2] in shares of the frame, `score` [N].

    Raises:
        TristyleError: no photo has a mask, or something is unreadable.
    """
    with np.load(meshes) as stored:
        points = {Path(str(name)).stem: n for n, name in enumerate(stored["files"]) if stored["score"][n] >= SURE_MESH}
        xy = stored["xy"].astype(np.float64)
    images, codes = [], []
    for path in sorted(photos.iterdir()):
        mask = persons / f"{path.stem}.png"
        if not mask.is_file():
            continue
        shape = (STORED, STORED)
        images.append(cv2.resize(read_whole(path), shape, interpolation=cv2.INTER_AREA))
        person = cv2.resize(read_mask(mask).astype(np.float32) / 255, shape, interpolation=cv2.INTER_LINEAR)
        known = points.get(path.stem)
        codes.append(weak_labels(person, None if known is None else xy[known] * STORED - 0.5))
    if not images:
        raise TristyleError(f"{photos}: no picture has a mask of its name in {persons}. Give person masks as PNG.")
    return _stacked(images, codes)


def _stacked(images: list[np.ndarray], codes: list[np.ndarray]) -> Labelled:
    pictures = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Labelled(pictures, torch.from_numpy(np.stack(codes)))


# ---------------------------------------------------------------------------------------------------------------------
# Training


def mixed_batches(painted: Labelled, photos: Labelled, seed: int) -> Batches:
    """Batches whose first half is painted."""
    first, second = painted.batches(seed), photos.batches(seed + 1)

    def batches(start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        half = count // 2
        places = range(2 * half)[rows]  # of the rows: those below the half are painted
        border = sum(place < half for place in places)
        parts = [
            first(start // 2, half, slice(places[:border].start, places[:border].stop, places.step)),
            second(start // 2, half, slice(places[border:].start - half, places[border:].stop - half, places.step)),
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return batches


class OpenTask(ParserTask):
    """Training on codes.

    Args:
        images: length of the training.
    """

    def __init__(self, parser: FaceParser, lr: float, images: int) -> None:
        super().__init__(parser, lr)
        self.images = images

    def losses(self, phase: str, batch: dict[str, Tensor], update: Update) -> dict[str, Tensor]:
        device, half = batch["image"].device, len(batch["image"]) // 2
        theta, mirrored = affine(2 * half, device, SCALE, SHIFT, TURN)
        plain, codes = cut(batch["image"], batch["labels"], theta, self.parser.size)
        codes = torch.where(mirrored[:, None, None], torch.tensor(MIRRORED, device=device)[codes], codes)
        plain, codes = occlude(plain, codes)
        image = soften(relight(recolour(plain)), 24, 96).clamp(-1, 1)
        allowed = MEMBERS.to(device)[codes].permute(0, 3, 1, 2)  # [N, 19, H, W]
        with torch.autocast(device.type, torch.bfloat16, enabled=image.is_cuda):
            logits = self.parser(image.contiguous(memory_format=torch.channels_last)).float()
            with torch.no_grad():
                known = self.ema.eval()(plain[half:].clamp(-1, 1)).float().softmax(1) * allowed[half:]
        sure, label = (known / known.sum(1, keepdim=True).clamp_min(1e-6)).max(1)
        taught = F.cross_entropy(logits[half:], label, reduction="none") * (sure > SURE)
        ramp = min(max((update.images / self.images - 0.15) / 0.25, 0.0), 1.0)  # the averaged network learns first
        return partial_loss(logits.softmax(1), codes, allowed, half) | {"self": 0.5 * ramp * taught.mean()}


def partial_loss(share: Tensor, codes: Tensor, allowed: Tensor, half: int) -> dict[str, Tensor]:
    """Cross entropy with the sets, soft Dice of the painted half's labels, and of the head wherever it is known."""
    weights = torch.tensor([*WEIGHTS, *([1.0] * len(_SETS))], device=share.device)
    cross = ((share * allowed).sum(1).clamp_min(1e-6).log() * -weights[codes]).mean()
    exact = (codes[:half] < len(PARSER_LABELS))[:, None]
    target, painted = allowed[:half] * exact, share[:half]
    area = target.sum(dim=(0, 2, 3))
    dice = 1 - (2 * (painted * target).sum(dim=(0, 2, 3)) + 1) / ((painted * exact).sum(dim=(0, 2, 3)) + area + 1)
    surely, maybe = SURELY_HEAD.to(share.device)[codes], MAYBE_HEAD.to(share.device)[codes]
    head, truth = share[:, PARSER_HEAD.start : PARSER_HEAD.stop].sum(1) * (surely | ~maybe), surely.float()
    whole = 1 - (2 * (head * truth).sum() + 1) / (head.sum() + truth.sum() + 1)
    return {"cross": cross, "dice": 0.5 * dice[area > 0].mean(), "head": whole}


def train_open_parser(options: argparse.Namespace) -> dict[str, object]:
    """Paint, load, train, save in half precision, score what was saved, write the card; the scores.

    Raises:
        TristyleError: unusable folders.
    """
    begun, work, out = time.time(), Path(options.work), Path(options.out)
    work.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    photos = load_photos(Path(options.photos), Path(options.persons), Path(options.meshes))
    judged = load_labelled(Path(options.judge_images), Path(options.judge_masks))[0] if options.judge_images else None
    painted = paint_labelled(options.people, options.views, options.workers)
    torch.manual_seed(options.seed)
    parser = FaceParser() if options.start is None else load_parser(Path(options.start))
    task = OpenTask(parser, options.lr, options.length)
    train = Train(images=options.length, batch=options.batch, lr=options.lr, seed=options.seed)
    runtime = Runtime(options.device, options.workers, Tracker(work))
    fit(task, mixed_batches(painted, photos, options.seed), train=train, scratch=work, runtime=runtime, label="parser")
    save_network(out, task.ema, half=True)
    digest = sha256_file(out)
    recipe = {name: getattr(options, name) for name in ("start", "people", "views", "length", "batch", "lr", "seed")}
    card: dict[str, object] = {"id": f"parser-{digest[:8]}", "sha256": digest, "photos": len(photos)}
    card |= {"recipe": {"command": "python -m stages.recipes.open_face_parser"} | recipe}
    card |= {"minutes": round((time.time() - begun) / 60, 1)}
    if judged is not None:
        card |= {"judged": score(load_parser(out), judged)}
    write_json(out.with_suffix(".json"), card)
    return card


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.recipes.open_face_parser",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--photos", required=True, help="folder of square portraits")
    parser.add_argument("--persons", required=True, help="folder of soft person masks")
    parser.add_argument("--meshes", required=True, help="npz of Face Mesh's points: files, xy, score")
    parser.add_argument("--out", required=True, help="weights to write; the card lies beside them")
    parser.add_argument("--start", help="weights to go on from (default: drawn ones)")
    parser.add_argument("--judge-images", help="labelled portraits to score on")
    parser.add_argument("--judge-masks", help="their label masks")
    parser.add_argument("--work", default="runs/open_parser", help="folder for log and training state")
    parser.add_argument("--people", type=int, default=2000, help="people painted")
    parser.add_argument("--views", type=int, default=4, help="pictures of each")
    training_options(parser)
    parser.add_argument("--workers", type=int, default=1, help="painting processes, and training threads on a CPU")
    try:
        print(json.dumps(train_open_parser(parser.parse_args(arguments)), indent=1))
    except TristyleError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
