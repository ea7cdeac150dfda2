"""What does a model make of real people? Table, subgroups and sheets on the development portraits that are held out.

    python -m stages.evaluate.people --data ../shared/data --model data/student.onnx --model whitebox --model photo \\
        --size 128 [--parser parser.safetensors] -o judged

MODEL is an exported student (.onnx), a translator or student (.safetensors, or the folder of a pair artifact),
`whitebox` (White-box Cartoonization) or `photo` (the untouched photo: what a measure says of no change at all); several
share one run, and LABEL=MODEL names one. Outputs are raw, before any compositing with the photo. Out of it come
results.json, results.md, sheet.png (a row a model), failures-<label>.png (a row a kind, worst likeness first) and
others-<folder>.png for faces that are no photos. The sheets show real people: keep them outside of the repository.

Who is held out: a fifth of the people, by hash (`heldout`), and a third of each style's pictures; nothing that is
judged may have been trained on them. Every measure is stages.metrics' (docs of each there); KID stands beside the
photos' own; intervals are 95 % over people. Kinds: the head's turn by five points, skin tone by the typology angle,
side light by the cheeks' luminance, the rest as seen by eye (`SEEN`).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from stages.apply.model import open_model, run_padded
from stages.core.files import write_bytes, write_json
from stages.core.images import encode_png, read_image
from stages.core.tensors import mask_tensor, to_tensor, to_uint8, unit
from stages.core.weights import load_network
from stages.datasets.painted.paint import paint
from stages.datasets.painted.person import HELDOUT_PEOPLE, sample_person, sample_view
from stages.evaluate import whitebox
from stages.evaluate.groups import TONES, GroupScore, group_scores, side_light, tone_of, typology_angle
from stages.faces.align import crop, ffhq_quad
from stages.faces.detect import Detector, open_detector, yaw_of
from stages.faces.landmarks import MeshLandmarks
from stages.faces.parse import Parser, open_parser
from stages.faces.recognise import AlignedRecogniser, open_recogniser, similarity
from stages.metrics.backbones import IMAGENET_MEAN, IMAGENET_STD, BackboneFeatures, read_state
from stages.metrics.bootstrap import Interval, draw, interval, mean_interval
from stages.metrics.clarity import paired_ratios
from stages.metrics.features import FeatureExtractor
from stages.metrics.geometry import landmark_error
from stages.metrics.identity import person_pairs, resampled_auc
from stages.metrics.kid import composite_grey, mmd2_cubic, resampled_kid
from stages.metrics.pixel import background_error, background_ssim, face_error
from stages.networks.face_labels import PARSER_HEAD, PARSER_SKIN
from stages.networks.face_reader import load_reader
from stages.networks.mobile import MobileStudent
from stages.pair.photo_sets import translator_painter
from stages.recipes.face_parser import heldout
from stages.student.score import apply_student

PARSED = "parsing_gt/celebamask512/image/"  # portraits with ground-truth masks
SETS = ("portraits_hr/wild512/", "portraits_hr/studio512/", "photos/misc256/", "photos/ytfaces256/", PARSED)
STYLES = ("anime256", "noto_emoji256")
FULL = 256  # px a side at which masks are read
BATCH = 32
PAINTED = 192  # px a side at which a painted style's held-out pictures are painted
STOPS = 1.0  # of luminance from cheek to cheek: side light
TURNS = {"turned 0-15": (0, 15), "turned 15-30": (15, 30), "turned 30-60": (30, 60)}
FRONTAL = "frontal, clear"  # the reference: turned less than 15 degrees, nothing seen on it, no side light
# What was seen by eye on the held-out portraits; a picture is its sha256's first 8 digits in the manifest, for the
# files' names are people's. hard: hard shadows, or skin blown out; dark: little light on the face; hand: a hand, a
# microphone or another thing before the head; mask: chin and mouth covered; hat: a hat or a headscarf; a beard is more
# than stubble.
SEEN = {
    "hand": (
        "1bdb589a 21dc18dc 2b229bcc 349d0b28 4c048062 510b710e 598e8964 63216f24 69b73a3d a05463d8 a17d0ab8 "
        "a1f884fe adacb0b4 af95d1ff c498dab9 c4cef91e c6f98acb d21795ff d4fbd0b0 d67179a5 d8f8737f eb7d138d "
        "ec9709a3 ed40c94e f97e10ed"
    ),
    "beard": (
        "041bbafb 08333e46 15e33c7e 210633bb 21dc18dc 32d7a5c7 384fc6ce 4e3dd7d0 585572b7 590839a2 62119038 "
        "67a31ce7 757185fb 7768518f 7ab4b4dd 7def6f70 83d96959 893e3895 97a17dd8 9829d5a4 9882c59d 9f8f70b4 "
        "a69cfd06 ac46b1e6 b033b90d b17a78f1 b1b0ab3f c21496d9 c498dab9 c9b9243f ce458d9a d8539513 d9a5cc77 "
        "db8ef157 dffb20c1 e0c2bf42 e2ff39a7 eee003a4 f70d686b"
    ),
    "hard": (
        "03e417d5 0a2e71f6 1be64350 3136f19f 324fc3bc 3c8a237d 3fa867d6 4898d487 4e1d2221 5b011ca4 62119038 "
        "6308a517 70d6dec9 81e984e4 97a17dd8 990e35bb a4d65951 ac707fd6 b16aac6f bad1579e bb6d3898 bce4f8ee "
        "c498dab9 c6f98acb ceedc528 d4fbd0b0 d5184bd6 db01ac81 dc4a11c2 dcfeba9f ded5c3cd e75f4a4d f007b9ca "
        "f4530e89 fc668fef fe75fafc"
    ),
    "dark": "4e1d2221 585572b7 6a6c1d8f 71bd8561 9580ce5d 97a17dd8 a644032b cc15c7dd d5184bd6 f63bddb9",
    "mask": "9998c41c ded5c3cd",
    "hat": "088f176b 0f593975 15e33c7e 21dc18dc 353f061e 44f317b4 83d96959 9b13efd1 9f8f70b4",
    "glasses": (
        "07c5cd3f 08333e46 0f593975 1e7d40d3 230cbe5d 2bd88ee4 3479b7ad 3dd75a3f 42cff673 487082b5 533c5e53 "
        "5c88b5e9 6678fd4b 7522e034 7ab4b4dd 8415ed76 97f11d7b 9f194a79 9f8f70b4 a445261f a8e760c4 abcb22e5 "
        "ac707fd6 c21496d9 c26eb5f3 d22378f9 d8539513 d9a5cc77 db8ef157 dd95d9dc eee003a4 f63bddb9 f63cf0b3"
    ),
}
Painter = Callable[[np.ndarray], np.ndarray]  # uint8 [N, S, S, 3] -> the same
# measure -> (+1 where more is better, digits)
MEASURES = {
    "identity": (1, 3),
    "background_error": (-1, 4),
    "background_ssim": (1, 3),
    "person_error": (-1, 4),
    "edge_clarity_ratio": (1, 2),
    "edge_slope_ratio": (1, 2),
    "flat_energy_ratio": (-1, 2),
    "checker_ratio": (-1, 2),
    "landmark_error": (-1, 4),
    "face_seen": (1, 3),
    "head_change": (1, 4),  # L1 to the photo within the head: likeness is cheap where little is painted
}
AUC = {"same_person_auc": False, "same_person_auc_other_clip": True}  # measure -> whether one clip's pairs are left out
GROUPED = ("identity", "background_error", "background_ssim", "edge_clarity_ratio", "landmark_error", "head_change")


def heldout_style(name: str) -> bool:
    """Whether a style picture (its file's name) is judged against and never trained on: a third of them."""
    return int(hashlib.sha256(f"tristyle/style/{name}".encode()).hexdigest()[:8], 16) % 3 == 0


# ------------------------------------------------------------------------------------------------------------- people


@dataclass
class HeldOutPortraits:
    """N held-out portraits at one size, and what is known of them.

    `points` [N, 5, 2] px, `head` and `person` coverage uint8 [N, S, S] (person: with the body), `skin` bool [N, S, S];
    `names` are the manifest's hashes, `sessions` who was filmed in which clip.
    """

    names: list[str]
    people: list[str]
    sessions: list[str]
    photo: np.ndarray
    points: np.ndarray
    head: np.ndarray
    person: np.ndarray
    skin: np.ndarray


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A square picture or mask made smaller by areas, or larger by cubic interpolation."""
    if picture.shape[0] == size:
        return picture
    way = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=way)


def _session(file: str, person: str) -> str:
    """Frames of one video clip (te|tr_<name>_<clip><frame>.jpg) are one session, every other photo its own."""
    return f"{person}/{Path(file).stem[-2]}" if "ytfaces" in file else file


def load_people(data: Path, size: int, parser: Parser) -> HeldOutPortraits:
    """The held-out portraits of `SETS`, FFHQ-aligned as they lie there."""
    with open(data / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith(SETS) and heldout(row["person_group"])]
    pictures = [read_image(data / row["file"]) for row in rows]
    points = []
    for row, picture in zip(rows, pictures, strict=True):
        five = np.array(row["landmarks5"].split(), np.float64).reshape(5, 2)
        points.append((five + 0.5) * size / picture.shape[0] - 0.5)
    full = np.stack([resized(picture, FULL) for picture in pictures])
    labels, heads = parser.labels(full), parser.head(full)
    for index, row in enumerate(rows):
        truth = data / row["file"].replace("/image/", "/mask/").replace(".jpg", ".png")
        if row["file"].startswith(PARSED) and truth.is_file():
            exact = _labels(truth)
            labels[index] = cv2.resize(exact, (FULL, FULL), interpolation=cv2.INTER_NEAREST)
            heads[index] = resized(np.isin(exact, PARSER_HEAD).astype(np.uint8) * 255, FULL)
    skin = np.isin(labels, PARSER_SKIN).astype(np.uint8) * 255
    return HeldOutPortraits(
        names=[row["sha256"][:8] for row in rows],
        people=[row["person_group"] for row in rows],
        sessions=[_session(row["file"], row["person_group"]) for row in rows],
        photo=np.stack([resized(picture, size) for picture in pictures]),
        points=np.stack(points),
        head=np.stack([resized(mask, size) for mask in heads]),
        person=np.stack([resized(_person(data, row["file"]), size) for row in rows]),
        skin=np.stack([resized(one, size) for one in skin]) > 127,
    )


def _labels(path: Path) -> np.ndarray:
    """Ground truth as it lies in a palette PNG: uint8 [H, W] of CelebAMask-HQ's labels."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def _person(data: Path, file: str) -> np.ndarray:
    """Coverage of the whole person [256, 256]; everything, so that nothing is background, where no mask is at hand."""
    path = data / "labels" / "person_mask" / f"{Path(file).with_suffix('')}.png".replace("/", "__")
    return read_image(path)[..., 0] if path.is_file() else np.full((FULL, FULL), 255, np.uint8)


def kinds(people: HeldOutPortraits) -> dict[str, np.ndarray]:
    """Group -> bool [N]; the first is the reference."""
    yaw = np.abs([yaw_of(points) for points in people.points])
    side = np.abs(np.nan_to_num(side_light(people.photo, people.points, people.skin))) >= STOPS
    tones = [tone_of(angle) for angle in typology_angle(people.photo, people.skin)]
    seen = {tag: np.array([name in names.split() for name in people.names]) for tag, names in SEEN.items()}
    anything = side | np.any(list(seen.values()), axis=0)
    found = {FRONTAL: (yaw < 15) & ~anything}
    found |= {name: (yaw >= low) & (yaw < high) for name, (low, high) in TURNS.items()}
    found |= {"side light": side, "hard light": seen["hard"], "dark": seen["dark"]}
    found["side, hard or dark"] = uneven = side | seen["hard"] | seen["dark"]
    covers = ("glasses", "beard", "hat", "hand", "mask")
    found |= {name: seen[name] for name in covers}
    found["glasses, hat, hand or mask"] = seen["glasses"] | seen["hat"] | seen["hand"] | seen["mask"]
    # The angle takes a face in the shade for a dark one, so tones are told in even light alone.
    found |= {f"skin {tone}": np.array([one == tone for one in tones]) & ~uneven for tone in TONES}
    return found | {"all": np.ones(len(yaw), bool)}


# ------------------------------------------------------------------------------------------------------------- models


def open_painter(given: str, data: Path) -> Painter:
    """What paints: `photo`, `whitebox`, an .onnx, a .safetensors or the folder of a pair artifact."""
    if given == "photo":
        return lambda photos: photos
    if given == "whitebox":
        peer = whitebox.open_whitebox(data / "weights/whitebox_cartoon_unet_fp16.pth")
        return lambda photos: whitebox.paint(peer, photos)
    path = Path(given) / "translator.safetensors" if Path(given).is_dir() else Path(given)
    if path.suffix == ".onnx":
        session = open_model(path, threads=1)
        return lambda photos: np.stack([_rounded(run_padded(session, photo)[0]) for photo in photos])
    network = load_network(path)
    if isinstance(network, MobileStudent):
        return lambda photos: to_uint8(apply_student(network, photos, "cpu"))
    painter = translator_painter(network, "cpu")
    return lambda photos: painter(photos).raw


def _rounded(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def painted(style: str, size: int, count: int = 500) -> np.ndarray:
    """Pictures of people that the painter held out, in a painted style, cut as FFHQ: uint8 [count, size, size, 3]."""
    found = []
    for person in range(HELDOUT_PEOPLE, HELDOUT_PEOPLE + count):
        made = paint(sample_person(person, 0), sample_view(person, 0, 0), PAINTED, style)
        found.append(crop(made.image, ffhq_quad(made.landmarks), size)[0])
    return np.stack(found)


# ------------------------------------------------------------------------------------------------------------- scores


class PeopleScorer:
    """The networks that look, and what they saw of the photos; one for all models of a run."""

    def __init__(
        self, people: HeldOutPortraits, data: Path, styles: Sequence[str], second: bool, resamples: int = 1000
    ) -> None:
        self.people, self.reader = people, load_reader()
        recogniser = open_recogniser(str(data / "weights/mobilefacenet_068.ckpt"))
        assert isinstance(recogniser, AlignedRecogniser)
        self.recogniser = recogniser
        self.where = similarity(torch.from_numpy(people.points).float(), recogniser.template)
        self.known = self.embed(people.photo)
        self.mesh = MeshLandmarks(data / "weights/facemesh.pth")
        self.landmarks, _ = self.landmarks_of(people.photo)
        self.draws = draw(people.people, resamples)
        self.once = np.ones((1, len(people.names)), int)
        self.ceiling = {name: self.auc(self.known, apart=apart)[0] for name, apart in AUC.items()}
        self.extractors: list[FeatureExtractor] = [self.reader, *([squeezenet(data)] if second else [])]
        self.own = [self.features(extractor, people.photo, people.head) for extractor in self.extractors]
        self.real = {style: self._real(data, style) for style in styles}
        self.photo_kid = self.distances(self.own)

    def embed(self, images: np.ndarray) -> Tensor:
        """Embeddings [N, 128] through the photos' crops: uint8 [N, S, S, 3]."""
        with torch.no_grad():
            return self.recogniser.embed(to_tensor(images), self.where)

    def landmarks_of(self, images: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """68 landmarks [N, 68, 2] px by Face Mesh in the photos' squares, and how surely a face is seen [N] 0..1."""
        found = [self.mesh(image, [five]) for image, five in zip(images, self.people.points, strict=True)]
        return torch.from_numpy(np.concatenate([one[0] for one in found])), np.concatenate([one[1] for one in found])

    def features(self, extractor: FeatureExtractor, images: np.ndarray, cover: np.ndarray) -> Tensor:
        """Features [N, d] of heads on grey: uint8 [N, S, S, 3] and coverage uint8 [N, S, S]."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                part = slice(start, start + BATCH)
                head = composite_grey(unit(to_tensor(images[part])), mask_tensor(cover[part]))
                parts.append(extractor.features(head * 2 - 1))
        return torch.cat(parts)

    def _real(self, data: Path, style: str) -> list[Tensor]:
        """Features of the style's held-out pictures, by each extractor; heads by the face reader."""
        size = self.people.photo.shape[1]
        if (data / "styles" / style).is_dir():
            files = [file for file in sorted((data / "styles" / style).iterdir()) if heldout_style(file.name)]
            pictures = np.stack([resized(read_image(file), size) for file in files])
        else:
            pictures = painted(style, size)
        cover = np.rint(self.reader.read(to_tensor(pictures)).mask[:, 0].numpy() * 255).astype(np.uint8)
        return [self.features(extractor, pictures, cover) for extractor in self.extractors]

    def distances(self, found: Sequence[Tensor]) -> dict[tuple[str, str], tuple[float, np.ndarray]]:
        """(style, extractor's id) -> KID of features [N, d] (by each extractor) to the style's, and in each resample.

        SqueezeNet's features are scaled by the mean and deviation of photos and style pictures together, each half; the
        reader's already are, by those of its training set.
        """
        kids = {}
        for style, reals in self.real.items():
            for extractor, photo, real, fake in zip(self.extractors, self.own, reals, found, strict=True):
                if extractor is not self.reader:
                    mean = (photo.mean(0) + real.mean(0)) / 2
                    deviation = ((photo - mean).square().mean(0) + (real - mean).square().mean(0)).div(2).sqrt() + 1e-6
                    real, fake = (real - mean) / deviation, (fake - mean) / deviation
                kids[style, extractor.id] = mmd2_cubic(real, fake), resampled_kid(real, fake, self.draws)
        return kids

    def rows(self, output: np.ndarray, seen: Tensor) -> dict[str, np.ndarray]:
        """Every measure that has one value a picture: float64 [N]; `seen` are the outputs' embeddings."""
        people = self.people
        parts: list[dict[str, Tensor]] = []
        for start in range(0, len(output), BATCH):
            part = slice(start, start + BATCH)
            photo, painted = (unit(to_tensor(images[part])) for images in (people.photo, output))
            head, person = mask_tensor(people.head[part]), mask_tensor(people.person[part])
            parts.append(
                {
                    "background_error": background_error(painted, photo, head),
                    "background_ssim": background_ssim(painted, photo, head),
                    "person_error": background_error(painted, photo, person),
                    "head_change": face_error(painted, photo, head),
                }
            )
        found = {name: torch.cat([part[name] for part in parts]).double().numpy() for name in parts[0]}
        found["identity"] = (seen * self.known).sum(1).double().numpy()
        landmarks, found["face_seen"] = self.landmarks_of(output)
        found["landmark_error"] = landmark_error(landmarks, self.landmarks).numpy()
        return found | paired_ratios(output, people.photo, people.head > 127)

    def auc(self, seen: Tensor, probes: np.ndarray | None = None, apart: bool = False) -> tuple[Interval, int]:
        """Photo A against the painting of photo B (embeddings `seen`), and how many pairs; `apart`: of two clips."""
        same, different = person_pairs(self.people.people, self.people.sessions if apart else None, probes)
        scores = (self.known @ seen.T).double().numpy()
        if not same.any():
            return Interval(float("nan"), float("nan"), float("nan")), 0
        value = resampled_auc(scores, same, different, self.once)[0]
        return interval(float(value), resampled_auc(scores, same, different, self.draws)), int(same.sum())

    def judge(self, output: np.ndarray, groups: dict[str, np.ndarray]) -> dict[str, Any]:
        """Everything about one model's outputs, plain for JSON but for the scores of single pictures in `rows`."""
        seen = self.embed(output)
        rows = self.rows(output, seen)
        found: dict[str, Any] = {"rows": rows, "measures": {}, "kid": {}, "groups": {}}
        for name in MEASURES:
            between = median_interval if name.endswith("ratio") else mean_interval
            found["measures"][name] = vars(between(rows[name], self.draws))
        for name, apart in AUC.items():
            score, pairs = self.auc(seen, apart=apart)
            found["measures"][name] = vars(score) | {"pairs": pairs, "ceiling": vars(self.ceiling[name])}
        made = [self.features(extractor, output, self.people.head) for extractor in self.extractors]
        for key, (value, spread_of) in self.distances(made).items():
            own, own_spread = self.photo_kid[key]
            found["kid"][" ".join(key)] = {
                "kid": vars(interval(value, spread_of)),
                "photo_kid": own,
                "ratio": vars(interval(value / own, spread_of / own_spread)),
                "style_images": len(self.real[key[0]][0]),
            }
        for name in GROUPED:
            people = np.array(self.people.people)
            scores = group_scores(rows[name], MEASURES[name][0], groups, groups[FRONTAL], people, self.draws)
            for group, score_of in scores.items():
                found["groups"].setdefault(group, {})[name] = plain(score_of)
        for group, probes in groups.items():
            score, pairs = self.auc(seen, probes)
            found["groups"][group]["same_person_auc"] = vars(score) | {"pairs": pairs}
        return found


def plain(score: GroupScore) -> dict[str, Any]:
    """A group's score as JSON takes it."""
    counts = {"pictures": score.pictures, "people": score.people}
    return counts | {"score": vars(score.score), "ratio": vars(score.ratio)}


def median_interval(values: np.ndarray, draws: np.ndarray) -> Interval:
    """Median of one score a picture [N] and its interval over people; NaN scores are left out."""
    known = np.isfinite(values)
    order = np.argsort(values[known])
    counted = draws[:, known][:, order].cumsum(axis=1)
    middle = (counted * 2 >= counted[:, -1:]).argmax(axis=1)
    return interval(float(np.median(values[known])), values[known][order][middle])


def squeezenet(data: Path) -> BackboneFeatures:
    """SqueezeNet 1.0 of ImageNet, averaged over the picture before its classifier: [N, 512]; another eye for KID."""
    from torchvision.models import squeezenet1_0

    path = data / "weights/squeezenet1_0_deepcompress_fp16.pth"
    network = squeezenet1_0(weights=None)
    network.load_state_dict(read_state(path))
    pooled = nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().requires_grad_(False)
    name = f"squeezenet1.0-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    return BackboneFeatures(pooled, name, 224, IMAGENET_MEAN, IMAGENET_STD)


# ------------------------------------------------------------------------------------------------------------- report


def spread(found: dict[str, float], digits: int) -> str:
    """0.912 (0.88-0.94)"""
    value, low, high = (f"{found[key]:.{digits}f}" for key in ("value", "low", "high"))
    return "-" if value == "nan" else f"{value} ({low}..{high})"


def table(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *lines])


def report(results: dict[str, Any]) -> str:
    """Markdown: a table of all models, and one of groups for each."""
    models = results["models"]
    head = ["", *models]
    lines = []
    for name, (_, digits) in MEASURES.items():
        lines.append([name, *(spread(model["measures"][name], digits) for model in models.values())])
    for name in AUC:
        found = [model["measures"][name] for model in models.values()]
        ceiling = spread(found[0]["ceiling"], 3)
        lines.append([f"{name} (ceiling {ceiling}, {found[0]['pairs']} pairs)", *(spread(one, 3) for one in found)])
    for key in next(iter(models.values()))["kid"]:
        found = [model["kid"][key] for model in models.values()]
        own = f"{key} (photos {found[0]['photo_kid']:.3f}, {found[0]['style_images']} style pictures)"
        lines.append([f"KID {own}", *(spread(one["kid"], 3) for one in found)])
        lines.append([f"KID over photos', {key}", *(spread(one["ratio"], 2) for one in found)])
    text = f"# {results['pictures']} portraits of {results['people']} held-out people at {results['size']} px\n\n"
    text += f"{results['command']}\n\nHeads by {results['parser']}, identity by {results['recogniser']}, "
    text += f"landmarks by {results['landmarks']}.\n\n"
    text += table(head, lines)
    for label, model in models.items():
        text += f"\n\n## {label} by kind (ratio to '{FRONTAL}' in brackets)\n\n"
        text += table(["kind", "pictures", "people", *GROUPED, "same_person_auc (pairs)"], _kind_lines(model["groups"]))
    return text + "\n"


def _kind_lines(groups: dict[str, Any]) -> list[list[str]]:
    lines = []
    for group, scores in groups.items():
        first, auc = scores["identity"], scores["same_person_auc"]
        cells = [group, str(first["pictures"]), str(first["people"])]
        for name in GROUPED:
            value, ratio = scores[name]["score"]["value"], scores[name]["ratio"]
            shown = f"{value:.{MEASURES[name][1]}f}"
            if name != "background_error":  # it is near 0, where a ratio says nothing; SSIM's does
                shown += f" ({ratio['value']:.2f}: {ratio['low']:.2f}..{ratio['high']:.2f})"
            cells.append(shown)
        lines.append([*cells, f"{spread(auc, 3)} ({auc['pairs']})"])
    return lines


def sheet(rows: list[np.ndarray], side: int = 128) -> np.ndarray:
    """Rows of equally many pictures, one below the other, nearest-neighbour to `side` px or more."""
    shown = [[_enlarged(picture, side) for picture in row] for row in rows]
    return np.vstack([np.hstack(row) for row in shown])


def _enlarged(picture: np.ndarray, side: int) -> np.ndarray:
    times = max(1, round(side / picture.shape[0]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def typical(groups: dict[str, np.ndarray], count: int = 16) -> list[int]:
    """Which pictures the sheet shows: drawn by seed, a few of each kind."""
    rng, chosen = np.random.default_rng(0), []
    wanted = [FRONTAL, "turned 30-60", "glasses", "beard", "side, hard or dark", "hat", "skin dark", "skin brown"]
    for name in wanted:
        members = [int(i) for i in rng.permutation(np.flatnonzero(groups[name])) if i not in chosen]
        chosen += members[: count // len(wanted)]
    return chosen


SHOWN = ("turned 30-60", "side light", "hard light", "dark", "glasses", "beard", "hat", "hand", "skin dark", "all")


def failures(
    people: HeldOutPortraits, output: np.ndarray, identity: np.ndarray, groups: dict[str, np.ndarray]
) -> np.ndarray:
    """A row of photos above a row of outputs for each kind, the eight of the worst likeness."""
    blank = np.full_like(output[0], 255)
    rows = []
    for name in SHOWN:
        members = [int(i) for i in np.argsort(identity) if groups[name][i]][:8]
        for images in (people.photo, output):
            picked = [images[i].copy() for i in members] + [blank] * (8 - len(members))
            rows.append(np.stack(picked))
        cv2.putText(rows[-2][0], name, (2, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (255, 255, 0), 1, cv2.LINE_AA)
    return sheet(rows)


def _some(folder: Path, size: int, detector: Detector, count: int = 14) -> np.ndarray:
    """Pictures of a folder, drawn by seed, cut to the FFHQ square where a face is found: uint8 [n, size, size, 3]."""
    files = sorted(folder.iterdir())
    found = []
    for i in np.random.default_rng(0).permutation(len(files))[:count]:
        picture = read_image(files[i])
        faces = detector(picture)
        found.append(crop(picture, ffhq_quad(faces[0].points), size)[0] if faces else resized(picture, size))
    return np.stack(found)


def main() -> None:
    """Score and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--size", type=int, default=128, choices=(64, 128, 256))
    parser.add_argument("--parser", type=Path, help="weights of a face parser; the shipped face reader without it")
    parser.add_argument("--styles", nargs="*", default=STYLES, help="folders of DATA/styles, or painted styles")
    parser.add_argument("--squeezenet", action="store_true", help="KID by SqueezeNet's features beside the reader's")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="folders of other faces, painted on a sheet")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    face_parser = open_parser(options.parser)
    people = load_people(options.data, options.size, face_parser)
    groups, judge = kinds(people), PeopleScorer(people, options.data, options.styles, options.squeezenet)
    models, shown, chosen = {}, [people.photo], typical(groups)
    detector = open_detector(options.data / "weights")
    others = [[_some(folder, options.size, detector)] for folder in options.others]
    for given in options.model:
        label, _, model = given.rpartition("=")
        label = label or Path(model).stem
        painter = open_painter(model, options.data)
        output = painter(people.photo)
        for rows in others:
            rows.append(painter(rows[0]))
        models[label] = judge.judge(output, groups)
        worst = failures(people, output, models[label].pop("rows")["identity"], groups)
        write_bytes(options.out / f"failures-{label}.png", encode_png(worst))
        shown.append(output)
        print(label, "judged", flush=True)
    for folder, rows in zip(options.others, others, strict=True):
        write_bytes(options.out / f"others-{folder.name}.png", encode_png(sheet(rows)))
    results = {
        "command": "python -m stages.evaluate.people " + " ".join(sys.argv[1:]),
        "size": options.size,
        "pictures": len(people.names),
        "people": len(set(people.people)),
        "parser": face_parser.id,
        "recogniser": judge.recogniser.id,
        "landmarks": judge.mesh.id,
        "models": models,
    }
    write_json(options.out / "results.json", results)
    write_bytes(options.out / "results.md", report(results).encode())
    write_bytes(options.out / "sheet.png", encode_png(sheet([images[chosen] for images in shown])))


if __name__ == "__main__":
    main()
