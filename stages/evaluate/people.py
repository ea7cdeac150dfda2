"""What does a model make of people? Scores, groups and sheets on the portraits that a data set holds out.

    python -m stages.evaluate people --data runs/data/KEY --model runs/pair/KEY --model photo --weights DIR -o OUT
    python -m stages.evaluate people --data DIR --labels TABLE.csv --model data/faces.onnx --size 256 -o OUT

DIR is a data artifact or a folder with a `manifest.csv` (`stages.evaluate.portraits`). MODEL is an exported student
(.onnx), a translator or student (.safetensors, or the folder of a pair artifact), `whitebox` (White-box Cartoonization)
or `photo` (the untouched photo: what a measure says of no change at all). Several share one run; LABEL=MODEL names one.

Outputs are scored raw, before any compositing with the photo. Written are results.json, results.md, sheet.png (a row a
model), failures-<label>.png (a row a kind, worst likeness first) and others-<folder>.png for faces that are not photos.
The sheets show the data's people: keep real ones outside of the repository.

Every measure is stages.metrics'; KID stands beside the photos' own; intervals are 95 % over people. Groups are those of
`stages.evaluate.kinds`; one without members is written with 0 pictures.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.apply.model import open_model, run_padded
from stages.core.consent import usable
from stages.core.files import write_bytes, write_json
from stages.core.images import encode_png, read_image
from stages.core.mark import marked
from stages.core.tensors import mask_tensor, to_tensor, to_uint8, unit
from stages.core.weights import load_network
from stages.evaluate import whitebox
from stages.evaluate.groups import GroupScore, group_scores
from stages.evaluate.kinds import FRONTAL, kinds, sources
from stages.evaluate.portraits import Portraits, load_portraits, resized, style_pictures, styles_of
from stages.evaluate.tables import AUC, GROUPED, MEASURES, failures, report, sheet, typical
from stages.faces.align import crop, ffhq_quad
from stages.faces.detect import Detector, open_detector
from stages.faces.landmarks import MESH, MeshLandmarks
from stages.faces.parse import open_parser
from stages.faces.recognise import AlignedRecogniser, open_recogniser, similarity
from stages.metrics.backbones import IMAGENET_MEAN, IMAGENET_STD, BackboneFeatures, read_state
from stages.metrics.bootstrap import Interval, draw, interval, mean_interval
from stages.metrics.clarity import paired_ratios
from stages.metrics.features import FeatureExtractor
from stages.metrics.geometry import landmark_error
from stages.metrics.identity import person_pairs, resampled_auc
from stages.metrics.kid import composite_grey, mmd2_cubic, resampled_kid
from stages.metrics.pixel import background_error, background_ssim, face_error
from stages.networks.face_reader import Reader, load_reader, read_masks
from stages.networks.mobile import MobileStudent
from stages.pair.ugatit import translator_painter
from stages.student.score import apply_student

RECOGNISER = "mobilefacenet_068.ckpt"
STYLES = ("anime256", "noto_emoji256")  # of a folder with a manifest, unless others are named
BATCH = 32
Painter = Callable[[np.ndarray], np.ndarray]  # uint8 [N, S, S, 3] -> the same


# ------------------------------------------------------------------------------------------------------------- models


def open_painter(given: str, weights: Path) -> Painter:
    """What paints: `photo`, `whitebox`, an .onnx, a .safetensors or the folder of a pair artifact."""
    if given == "photo":
        return lambda photos: photos
    if given == "whitebox":
        peer = whitebox.open_whitebox(weights / "whitebox_cartoon_unet_fp16.pth")
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
    out: np.ndarray = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return out


# ------------------------------------------------------------------------------------------------------------- scores


class PeopleScorer:
    """The networks that look, and what they saw of the photos; one for all models of a run."""

    def __init__(
        self,
        people: Portraits,
        data: Path,
        weights: Path,
        styles: Sequence[str],
        reader: Reader,
        second: bool = False,
        resamples: int = 1000,
    ) -> None:
        self.people, self.reader = people, reader
        recogniser = open_recogniser(str(weights / RECOGNISER))
        assert isinstance(recogniser, AlignedRecogniser)
        self.recogniser = recogniser
        self.where = similarity(torch.from_numpy(people.points).float(), recogniser.template)
        self.known = self.embed(people.photo)
        self.mesh = MeshLandmarks(weights / MESH)
        self.landmarks, _ = self.landmarks_of(people.photo)
        self.draws = draw(people.people, resamples)
        self.once = np.ones((1, len(people.names)), int)
        self.ceiling = {name: self.auc(self.known, apart=apart)[0] for name, apart in AUC.items()}
        self.extractors: list[FeatureExtractor] = [self.reader, *([squeezenet(weights)] if second else [])]
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
        pictures = style_pictures(data, style, self.people.photo.shape[1])
        cover = read_masks(self.reader, pictures, "cpu")
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

    def score(self, output: np.ndarray, groups: dict[str, np.ndarray]) -> dict[str, Any]:
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

        # Distances to the styles, beside the photos' own.
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


def squeezenet(weights: Path) -> BackboneFeatures:
    """SqueezeNet 1.0 of ImageNet, averaged over the picture before its classifier: [N, 512]; another eye for KID."""
    from torchvision.models import squeezenet1_0

    path = weights / "squeezenet1_0_deepcompress_fp16.pth"
    network = squeezenet1_0(weights=None)
    network.load_state_dict(read_state(path))
    pooled = nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().requires_grad_(False)
    name = f"squeezenet1.0-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    return BackboneFeatures(pooled, name, 224, IMAGENET_MEAN, IMAGENET_STD)


# --------------------------------------------------------------------------------------------------------- command


def _some(folder: Path, size: int, detector: Detector, count: int = 14) -> np.ndarray:
    """Pictures of a folder, drawn by seed, cut to the FFHQ square where a face is found: uint8 [n, size, size, 3]."""
    files = usable(sorted(folder.iterdir()))
    found = []
    for i in np.random.default_rng(0).permutation(len(files))[:count]:
        picture = read_image(files[i])
        faces = detector(picture)
        found.append(crop(picture, ffhq_quad(faces[0].points), size)[0] if faces else resized(picture, size))
    return np.stack(found)


def options_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.evaluate people", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a data artifact, or a folder with a manifest.csv")
    parser.add_argument("--labels", type=Path, help="table of what is seen on the portraits: columns sha256, kinds")
    parser.add_argument("--weights", type=Path, help="folder of the faces' weights (default: DATA/weights)")
    parser.add_argument("--model", action="append", required=True, help="MODEL or LABEL=MODEL, as often as there are")
    parser.add_argument("--size", type=int, default=128, choices=(64, 128, 256))
    parser.add_argument("--parser", type=Path, help="weights of a face parser; the shipped face reader without it")
    parser.add_argument("--styles", nargs="*", help="styles that KID is measured to (default: those of the data)")
    parser.add_argument("--squeezenet", action="store_true", help="KID by SqueezeNet's features beside the reader's")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="folders of other faces, painted on a sheet")
    parser.add_argument("-o", "--out", type=Path, required=True)
    return parser


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Score all models, write tables and sheets, return what results.json holds.

    Raises:
        TristyleError: unusable data, weights or models.
    """
    weights = options.weights or options.data / "weights"
    face_parser, reader = open_parser(options.parser), load_reader()
    people = load_portraits(options.data, options.size, face_parser, weights, options.labels)
    groups = kinds(people, reader)
    styles = styles_of(options.data, options.styles, STYLES)
    scorer = PeopleScorer(people, options.data, weights, styles, reader, options.squeezenet)

    models, shown, chosen = {}, [people.photo], typical(groups)
    others = [[_some(folder, options.size, open_detector(weights))] for folder in options.others]
    for given in options.model:
        label, _, model = given.rpartition("=")
        label = label or Path(model).stem
        painter = open_painter(model, weights)
        output = painter(people.photo)
        for rows in others:
            rows.append(painter(rows[0]))
        models[label] = scorer.score(output, groups)
        worst = failures(people, output, models[label].pop("rows")["identity"], groups)
        write_bytes(options.out / f"failures-{label}.png", marked(encode_png(worst)))
        shown.append(output)
        print(label, "scored", flush=True)

    for folder, rows in zip(options.others, others, strict=True):
        write_bytes(options.out / f"others-{folder.name}.png", marked(encode_png(sheet(rows))))
    results = {
        "command": "python -m stages.evaluate people " + " ".join(sys.argv[2:]),
        "size": options.size,
        "pictures": len(people.names),
        "people": len(set(people.people)),
        "kinds": sources(people),
        "parser": face_parser.id,
        "recogniser": scorer.recogniser.id,
        "landmarks": scorer.mesh.id,
        "models": models,
    }
    write_json(options.out / "results.json", results)
    write_bytes(options.out / "results.md", report(results).encode())
    write_bytes(options.out / "sheet.png", marked(encode_png(sheet([images[chosen] for images in shown]))))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see `--help`."""
    evaluate(options_parser().parse_args(arguments))
