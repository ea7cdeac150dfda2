"""The numbers of style=expanded, arm by arm, with intervals over people; a killed bench goes on where it was.

    python -m tests.bench.expanded runs/style/KEY runs/data/KEY --out bench
    python -m tests.bench.expanded runs/style/KEY runs/data/KEY --out bench --others no_alignment=runs/style/KEY2
    python -m tests.bench.expanded runs/style/KEY runs/data/KEY --out bench --photos london=DIR --face-api DIR

Arms: `judge` (trains a classifier of another shape on rendered people of no data set; it judges rendered people, and
says what it sees in true edits), `modes` (reconstruction by every mode, and on held-out people by --others), `edits`
(attributes, leak, identity and background of every method), `truth` (likeness of every method's edits to the true ones,
of data with `data.edits=true`; `photo` stands for no edit), `local` (the mouth), `photos` (the same of folders of
photographs, judged by face-api's networks), `speed`. Each leaves `<arm>.json` in --out; table.md is made of what there
is.

An edit goes against what the photo shows, as in training. Changes are in deviations of the data; a judge that is not
sure reads less of a change than there is, so the share of people who move by a deviation of its own readings stands
beside that. A turned head covers what was behind it: so the background is also compared outside both heads, the photo's
and the edit's (as the face reader sees it). Between the strengths of GRID a table interpolates to the change that the
editor makes at a strength of 1. Methods: `editor`; `styled` (its style branch alone: the encoder and the learned
directions), `iterative`, `optimise`, `pivotal` (the learned directions on other inversions), `boundary` and `sefa` (the
encoder with other directions). `modes` also takes held-out people in hats and in hard light, the same people as another
painter draws them, and --photos. Sameness is of face-api's descriptor; without --face-api it is of the face reader,
which the training has seen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.apply.face_squares import open_finder
from stages.apply.picture import read_photo
from stages.core.artifact import Artifact, open_artifact
from stages.core.files import write_json
from stages.core.images import load_images, load_masks, write_image
from stages.core.runtime import Runtime
from stages.core.settings import Train
from stages.core.tensors import mask_tensor, to_tensor, to_uint8, unit
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.datasets.rendered.people import RenderedPeople
from stages.metrics.attributes import attributes
from stages.metrics.bootstrap import draw, mean_interval
from stages.metrics.pixel import background_error
from stages.networks.expanded import AttributeClassifier, ExpandedEditor, soft_region
from stages.networks.face_labels import PARSER_MOUTH, READER
from stages.networks.face_reader import load_reader
from stages.networks.latents import load_editor
from stages.style.editing.directions import boundary, sefa
from stages.style.expanded.classifier import Classify, Classifying, LabelledBatches, accuracy
from stages.style.expanded.encode import by_mode
from stages.style.expanded.labels import ABSENT, OTHER_NAMES, Edits, Labels, photo_rows, read_edits, read_labels
from stages.style.expanded.likeness import MEASURES, independent_features, likeness_rows
from stages.style.expanded.score import edit_sheet, edited, within
from stages.style.expanded.stage import load_classifier, load_iterative
from stages.style.inversion.modes import ModeSettings, Reconstructions, reconstruct
from stages.style.inversion.optimise import decode
from stages.training.fit import fit

JUDGE_PEOPLE = 700_000  # first person that the judge learns from: of no data set
GRID = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # strengths of a method, between which an equal change is sought
METHODS = ("editor", "styled", "iterative", "optimise", "pivotal", "boundary", "sefa")
SLOW = ("optimise", "pivotal")
ABOUT = (0.7, 1.5)  # strengths of true edits that count as about 1
FACTORS = 10  # of SeFa, of which the best for each attribute counts
HARD = ("sun", "rim", "flash")
COLUMNS = ("change", "same", "background")  # of a row, a person each


@dataclass
class People:
    """Photos uint8 [N, R, R, 3], who they show, head masks [N, 1, R, R] and parsing (19 labels) where known."""

    photos: np.ndarray
    ids: list[str]
    masks: np.ndarray | None = None
    parsing: np.ndarray | None = None

    def first(self, count: int) -> People:
        cut = [None if part is None else part[:count] for part in (self.masks, self.parsing)]
        return People(self.photos[:count], self.ids[:count], *cut)


def held_out(data: Artifact, wanted: Callable[[dict[str, Any]], bool] = lambda _: True, twin: str = "") -> People:
    """The held-out people whose records are wanted; their drawn twins where `twin` names a style."""
    rows = [row for row in photo_rows(data, "heldout") if wanted(row["attributes"])]
    if not rows:
        return People(np.empty((0, 1, 1, 3), np.uint8), [])
    names = [Path(row["photo"]).name for row in rows]
    folder = data.path / "heldout"
    photos = load_images([folder / (f"twin/{twin}" if twin else "photo") / name for name in names])
    masks = mask_tensor(load_masks([folder / "mask" / name for name in names])).numpy()
    parsing = load_masks([folder / "parsing" / name for name in names])
    return People(photos, [str(row["person"]) for row in rows], masks, parsing)


def squares(folder: Path, size: int, count: int) -> People:
    """The largest face of each picture below a folder, as `stylize` cuts it."""
    find, photos, ids = open_finder(), [], []
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")):
        photo = read_photo(file)
        faces = find(photo)
        if not faces:
            continue
        face, scale = faces[0], faces[0].side / size
        small = cv2.resize(photo, None, fx=min(1, 1 / scale), fy=min(1, 1 / scale), interpolation=cv2.INTER_AREA)
        ratio = small.shape[1] / photo.shape[1]
        cos, sin = np.cos(face.tilt) * scale * ratio, np.sin(face.tilt) * scale * ratio
        half = (size - 1) / 2
        back = np.array(
            [[cos, -sin, face.x * ratio - half * (cos - sin)], [sin, cos, face.y * ratio - half * (sin + cos)]]
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        photos.append(cv2.warpAffine(small, back, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101))
        ids.append(file.stem)
        if len(ids) == count:
            break
    if not ids:
        raise SystemExit(f"{folder}: no face found in any picture. Name a folder of portraits.")
    return People(np.stack(photos), ids)


# ------------------------------------------------------------------------------------------------------------- judges


def judge_of(bench: Bench) -> AttributeClassifier:
    """A classifier that no editor has seen: other people, another shape, drawn from nothing."""
    path = bench.out / "judge.safetensors"
    if path.exists():
        judge = load_network(path)
        assert isinstance(judge, AttributeClassifier)
        return judge
    size, count = bench.editor.generator.img_resolution, bench.options.judge_people
    cache = bench.out / f"judge-{size}-{count}.npz"
    people = RenderedPeople()
    if not cache.exists():
        shown = [people.photo(JUDGE_PEOPLE + i, 0, size).image for i in range(count)]
        np.savez(cache, photo=np.stack(shown))
    facts = [people.attributes(JUDGE_PEOPLE + i, 0) for i in range(count)]
    raw = np.array([_values(bench.labels, fact) for fact in facts])
    labels = Labels(bench.labels.names, bench.labels.binary, raw, bench.labels.mean, bench.labels.deviation)

    torch.manual_seed(99)
    judge = AttributeClassifier(
        labels.names, labels.binary, labels.mean.tolist(), labels.deviation.tolist(), 64, (32, 56, 80, 96)
    )
    plan = Classify(train=Train(images=bench.options.judge_images, batch=16, lr=1.5e-3, seed=99))
    with np.load(cache) as file:
        batches = LabelledBatches(file["photo"], labels, 99, True)
    (bench.out / ".judge").mkdir(exist_ok=True)
    runtime = Runtime("cpu", 1, Tracker(bench.out / ".judge"))
    fit(
        Classifying(judge, plan),
        batches,
        train=plan.train,
        scratch=bench.out / ".judge",
        runtime=runtime,
        label="judge",
    )
    save_network(path, judge.cpu().eval())
    return judge


def _values(labels: Labels, fact: dict[str, Any]) -> list[float]:
    found = []
    for name, binary in zip(labels.names, labels.binary, strict=True):
        value = fact[OTHER_NAMES.get(name, name)]
        found.append(float(str(value) not in ABSENT) if binary else float(value))
    return found


@dataclass(frozen=True)
class Judge:
    """Who says what pictures show.

    Attributes:
        names: of the K attributes.
        read: pictures [N, 3, R, R] in [-1, 1] -> [N, K] in deviations of the data.
        middle: [K]; what shows more than this is edited down.
    """

    names: tuple[str, ...]
    read: Callable[[Tensor], Tensor]
    middle: Tensor


def judge_of_rendered(bench: Bench) -> Judge:
    """`judge_of` as a judge: kinds by their probability."""
    network = judge_of(bench)
    scale = torch.where(network.is_binary, torch.tensor(bench.labels.deviation).float(), 1.0)

    @torch.no_grad()
    def read(images: Tensor) -> Tensor:
        return torch.cat([network.values(network(part)) for part in images.split(64)]) / scale

    return Judge(tuple(bench.editor.attributes), read, torch.where(network.is_binary, 0.5 / scale, 0.0))


def judge_of_photos(bench: Bench, images: Tensor) -> Judge:
    """face-api's networks as a judge; deviations are those of the photos [N, 3, R, R] themselves."""
    assert bench.api is not None
    api = bench.api
    names = tuple(name for name in bench.editor.attributes if name in ("age", "gender", "smile"))

    def values(images: Tensor) -> Tensor:
        seen = api(images)
        return torch.from_numpy(np.stack([seen[name] for name in names], axis=1)).float()

    before = values(images)
    scale = before.std(dim=0).clamp(min=1e-6)
    middle = torch.stack(
        [before[:, i].median() if name == "age" else torch.tensor(0.5) for i, name in enumerate(names)]
    )
    return Judge(names, lambda pictures: values(pictures) / scale, middle / scale)


class FaceApi:
    """The judges of photographs: age, P(male), P(happy) and a descriptor, by face-api's networks."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        names = ("age_gender", "face_expression", "face_recognition")
        self.run = {name: onnxruntime.InferenceSession(str(folder / f"{name}.onnx")) for name in names}

    def _asked(self, name: str, images: Tensor, side: int) -> list[np.ndarray]:
        size = images.shape[-1]
        cut = images[..., round(0.26 * size) : round(0.96 * size), round(0.15 * size) : round(0.85 * size)]
        shown = F.interpolate(unit(cut) * 255, (side, side), mode="bilinear", align_corners=False, antialias=True)
        found: list[np.ndarray] = self.run[name].run(None, {"image": shown.numpy()})
        return found

    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        """age, gender, smile [N] and descriptor [N, 128] of [N, 3, R, R] in [-1, 1]."""
        named = dict(
            zip(
                [o.name for o in self.run["age_gender"].get_outputs()],
                self._asked("age_gender", images, 112),
                strict=True,
            )
        )
        age = next(value for name, value in named.items() if "age" in name).reshape(-1)
        male = next(value for name, value in named.items() if "age" not in name)
        male = male[:, 0] if male.ndim == 2 else male
        mood = self._asked("face_expression", images, 112)[0]
        descriptor = self._asked("face_recognition", images, 150)[0]
        return {"age": age, "gender": male.reshape(-1), "smile": mood[:, 1], "descriptor": descriptor}


# --------------------------------------------------------------------------------------------------------- arms


class Bench:
    """What all arms share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.editor = load_editor(options.editor)
        self.data = open_artifact(options.data, "data", verify=False)
        self.classifier = load_classifier(options.editor, list(self.editor.attributes))
        self.labels = read_labels(self.data, list(self.editor.attributes))
        self.settings = ModeSettings(steps=options.steps, pivot=options.pivot, tuning=options.tuning)
        self.api = None if options.face_api is None else FaceApi(options.face_api)
        self.reader = load_reader()

    def arm(self, name: str, make: Callable[[], Any]) -> None:
        """Run an arm unless its file is there."""
        path = self.out / f"{name}.json"
        if path.exists():
            return
        begun = time.process_time()
        found = make()
        write_json(path, {"arm": name, "cpu_seconds": round(time.process_time() - begun, 1), "found": found})
        print(f"{name}: {time.process_time() - begun:.0f} CPU s", flush=True)

    def same_person(self, before: Tensor, after: Tensor) -> np.ndarray:
        """[N], higher is likelier the same person: face-api's distance, negative; without it the reader's cosine."""
        if self.api is not None:
            a, b = (self.api(images)["descriptor"] for images in (before, after))
            return -np.linalg.norm(a - b, axis=1)
        with torch.no_grad():
            found: np.ndarray = (self.reader.identity(before) * self.reader.identity(after)).sum(dim=1).numpy()
        return found


def rows_of(values: np.ndarray, ids: list[str]) -> dict[str, float]:
    """Mean and 95 % interval over people."""
    found = mean_interval(np.asarray(values, np.float64), draw(ids))
    return {"mean": found.value, "low": found.low, "high": found.high}


def modes_arm(people: People, draw_all: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Reconstruction by one mode, and its CPU seconds a photo."""
    images = to_tensor(people.photos)
    begun = time.process_time()
    drawn = draw_all(images)
    spent = (time.process_time() - begun) / len(images)
    rows = likeness_rows(drawn, images, independent_features())
    found = {name: rows_of(rows[name].numpy(), people.ids) for name in MEASURES}
    return {"count": len(images), "seconds": spent} | found


def directions_of(bench: Bench, method: str) -> Tensor:
    """Moves of w [K, num_ws, w_dim] for a strength of 1."""
    editor, generator = bench.editor, bench.editor.generator
    if method not in ("boundary", "sefa"):
        return editor.unit * editor.directions.detach()
    z = torch.randn(1000, generator.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ws = generator.mapping(z)
        seen = torch.cat([bench.classifier(decode(generator, part)) for part in ws.split(50)])
    w, moves = ws[:, 0], []
    normals = sefa(generator, count=min(FACTORS, generator.w_dim))[0] if method == "sefa" else None
    for k in range(len(editor.attributes)):
        if normals is None:
            found = boundary(w, seen[:, k])
            moves.append(found.normal * found.std)
            continue
        along = (w - w.mean(dim=0)) @ normals.t()  # [1000, FACTORS]
        fits = [float(np.corrcoef(along[:, i], seen[:, k])[0, 1]) for i in range(len(normals))]
        best = int(np.argmax(np.abs(fits)))
        moves.append(normals[best] * along[:, best].std() * np.sign(fits[best]))
    return torch.stack(moves).float()[:, None].expand(-1, generator.num_ws, -1)


def inversions_of(bench: Bench, method: str, images: Tensor) -> Reconstructions:
    mode = method if method in (*SLOW, "iterative") else "encoder"
    given = (bench.settings, bench.reader.encode, bench.editor.encoder, load_iterative(bench.options.editor))
    return reconstruct(mode, bench.editor.generator, images, *given)


def edits_by(bench: Bench, images: Tensor, method: str, editor: ExpandedEditor) -> Callable[[Tensor], Tensor]:
    """What makes of strengths [N, K] a method's edits of images [N, 3, R, R]; `editor` edits by the method editor."""
    if method == "editor":
        return lambda by: edited(editor, images, by)
    found, moves = inversions_of(bench, method, images), directions_of(bench, method)
    return lambda by: found.draw(lambda ws: ws + torch.einsum("nk,klw->nlw", by, moves))


def truth_arm(
    bench: Bench, people: People, edits: Edits, method: str, editor: ExpandedEditor | None = None
) -> dict[str, Any]:
    """Likeness of a method's edits to the true ones, over all people and those of each attribute."""
    chosen = within(edits, len(people.ids))
    everybody, images = [people.ids[i] for i in chosen], to_tensor(people.photos[chosen])
    truth, by = to_tensor(load_images([edits.files[i] for i in chosen])), torch.from_numpy(edits.strengths[chosen])
    drawn = images if method == "photo" else edits_by(bench, images, method, editor or bench.editor)(by)
    rows = likeness_rows(drawn, truth, independent_features())
    found: dict[str, Any] = {"count": len(chosen), "attributes": list(bench.editor.attributes)}
    found |= {name: rows_of(rows[name].numpy(), everybody) for name in MEASURES}
    for k, name in enumerate(bench.editor.attributes):
        some = (by[:, k] != 0).numpy()
        ids = [who for who, ok in zip(everybody, some.tolist(), strict=True) if ok]
        found[name] = rows_of(rows[MEASURES[0]].numpy()[some], ids) if ids else None
    return found


def judged_arm(bench: Bench, people: People, edits: Edits, judge: Judge) -> dict[str, Any]:
    """What the judge sees in the true edits of about a strength of 1, and how far these leave the background.

    No editor's edits can be asked for more.
    """
    strengths, out = torch.from_numpy(edits.strengths), dict[str, Any]()
    photos, true = to_tensor(people.photos), to_tensor(load_images(edits.files))
    before = judge.read(photos)
    change, deviations = judge.read(true) - before, before.std(dim=0).tolist()
    behind = behind_both(bench, people, true, photos)
    for k, name in enumerate(judge.names):
        some = (strengths[:, k].abs() > ABOUT[0]) & (strengths[:, k].abs() < ABOUT[1])
        ids = [who for who, ok in zip(people.ids, some.tolist(), strict=True) if ok]
        if ids:
            moved = (change[some, k] * strengths[some, k].sign()).numpy()
            found = {"people": len(ids), "strength": float(strengths[some, k].abs().mean())}
            found |= {"change": rows_of(moved, ids), "by_a_deviation": rows_of(moved >= 1, ids)}
            found |= {"by_one_of_its_own": rows_of(moved >= deviations[k], ids)}
            out[name] = found | {"outside_both_heads": rows_of(behind[some].numpy(), ids)}
    return out


def behind_both(bench: Bench, people: People, drawn: Tensor, photos: Tensor) -> Tensor:
    """L1 outside the photo's head and the edit's, as the face reader sees that: [N]."""
    assert people.masks is not None
    both = torch.maximum(torch.from_numpy(people.masks), bench.reader.read(drawn).mask)
    return background_error(unit(drawn), unit(photos), both)


def edits_arm(
    bench: Bench, people: People, method: str, judge: Judge, editor: ExpandedEditor | None = None
) -> dict[str, Any]:
    """For every attribute and strength: changes [N, K] in deviations, sameness and background error of each person."""
    images = to_tensor(people.photos)
    editor = bench.editor if editor is None else editor
    make = edits_by(bench, images, method, editor)
    before = judge.read(images)
    signs = torch.where(before > judge.middle, -1.0, 1.0)
    out: dict[str, Any] = {"ids": people.ids, "attributes": list(judge.names), "rows": []}
    out["deviations"] = before.std(dim=0).tolist()  # of what the judge reads in the photos
    for k, name in enumerate(judge.names):
        for strength in GRID:
            by = torch.zeros(len(images), len(editor.attributes))
            by[:, editor.attributes.index(name)] = strength * signs[:, k]
            drawn = make(by)
            change = (judge.read(drawn) - before) * signs[:, k : k + 1]
            row = {"attribute": k, "strength": strength, "change": change.numpy().round(4).tolist()}
            row["same"] = bench.same_person(images, drawn).round(5).tolist()
            if people.masks is not None:
                beside = background_error(unit(drawn), unit(images), torch.from_numpy(people.masks))
                row["background"] = beside.numpy().round(5).tolist()
                row["behind_both"] = behind_both(bench, people, drawn, images).numpy().round(5).tolist()
            out["rows"].append(row)
    return out


def local_arm(bench: Bench, people: People) -> dict[str, Any]:
    """Change outside the mouth as a share of that inside, by the region that `stylize edit` uses."""
    assert people.parsing is not None
    images, names = to_tensor(people.photos), bench.editor.attributes
    k = names.index("smile") if "smile" in names else 0
    by = torch.zeros(len(images), len(names))
    by[:, k] = 1.0
    parsing = F.interpolate(bench.reader.read(images).parsing, images.shape[-2:], mode="bilinear", align_corners=False)
    region = soft_region(parsing.softmax(dim=1)[:, READER["mouth"], None])
    change = (bench.editor.local(images, by, region) - bench.editor(images, 0 * by)).abs().mean(dim=1)
    room = max(1, round(0.05 * images.shape[-1]))
    mouth = np.isin(people.parsing, PARSER_MOUTH).astype(np.uint8)
    near = np.stack([cv2.dilate(one, np.ones((2 * room + 1, 2 * room + 1), np.uint8)) for one in mouth]) > 0
    inside = torch.from_numpy(near)
    within, beyond = (change * inside).sum(dim=(1, 2)), (change * ~inside).sum(dim=(1, 2))
    known = within > 0
    ids = [who for who, ok in zip(people.ids, known.tolist(), strict=True) if ok]
    return {"attribute": names[k], "outside_of_inside": rows_of((beyond / within)[known].numpy(), ids)}


def groups_arm(bench: Bench, people: People, name: str, judge: Judge) -> dict[str, Any]:
    """What a strength of 1 moves by skin tone and age of photographs; writes a sheet."""
    assert bench.api is not None
    images, age = to_tensor(people.photos), bench.api(to_tensor(people.photos))["age"]
    light = attributes(bench.reader.read(images), images, ["skin_lightness"])["skin_lightness"].numpy()
    groups = {"dark": light < 45, "middle": (light >= 45) & (light < 62), "light": light >= 62}
    groups |= {"under 35": age < 35, "35 and over": age >= 35}

    before, out = judge.read(images), {}
    for k, attribute in enumerate(judge.names):
        sign = torch.where(before[:, k] > judge.middle[k], -1.0, 1.0)
        by = torch.zeros(len(images), len(bench.editor.attributes))
        by[:, bench.editor.attributes.index(attribute)] = sign
        moved = ((judge.read(edited(bench.editor, images, by))[:, k] - before[:, k]) * sign).numpy()
        for group, inside in groups.items():
            if inside.any():
                ids = [who for who, ok in zip(people.ids, inside.tolist(), strict=True) if ok]
                out[f"{attribute}, {group}"] = {"count": len(ids)} | rows_of(moved[inside], ids)

    write_image(bench.out / f"photos-{name}.png", edit_sheet(bench.editor, people.photos[:4]))
    kept = edited(bench.editor, images[:8], torch.zeros(len(images[:8]), len(bench.editor.attributes)))
    write_image(bench.out / f"photos-{name}-kept.png", np.concatenate([*to_uint8(kept)], axis=1))
    return out


@torch.no_grad()
def speed_arm(bench: Bench) -> dict[str, float]:
    """CPU seconds a picture on one thread, best of ten."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    size, count = bench.editor.generator.img_resolution, len(bench.editor.attributes)
    photo, by, spent = torch.zeros(1, 3, size, size), torch.ones(1, count), []
    for _ in range(12):
        begun = time.process_time()
        bench.editor(photo, by)
        spent.append(time.process_time() - begun)
    torch.set_num_threads(threads)
    return {"size": size, "seconds": min(spent[2:])}


# ------------------------------------------------------------------------------------------------------------- table


def matched(arm: dict[str, Any], k: int, wanted: float, chosen: list[int]) -> dict[str, np.ndarray]:
    """What attribute k's rows hold of the chosen people where their mean change is `wanted`, or as near as it comes."""
    rows = [row for row in arm["rows"] if row["attribute"] == k]
    values = [{name: np.array(row[name])[chosen] for name in COLUMNS if name in row} for row in rows]
    means = np.array([value["change"][:, k].mean() for value in values])
    for i in range(len(rows) - 1):
        low, high = means[i : i + 2]
        if min(low, high) <= wanted <= max(low, high) and low != high:
            part = (wanted - low) / (high - low)
            return {name: (1 - part) * values[i][name] + part * values[i + 1][name] for name in values[i]}
    return values[int(np.argmin(np.abs(means - wanted)))]


def at_strength_1(arm: dict[str, Any], k: int) -> np.ndarray:
    """Changes [N, K] of attribute k's edit."""
    return np.array(next(r["change"] for r in arm["rows"] if r["attribute"] == k and r["strength"] == 1.0))


def edit_table(arms: dict[str, dict[str, Any]], first: str) -> Iterable[str]:
    """Each method at the change that the editor, arm `first`, makes of the same people at a strength of 1."""
    editor = arms[first]
    yield "| method | people | moved | by a deviation, % | leak / moved | same person | editor's lead | background |"
    yield "|---" * 8 + "|"
    for name, arm in arms.items():
        ids = [who for who in arm["ids"] if who in editor["ids"]]
        own, of_editor = ([one["ids"].index(who) for who in ids] for one in (arm, editor))
        found: dict[str, list[np.ndarray]] = {key: [] for key in ("moved", "reached", "leak", "same", "lead", "behind")}
        for k in range(len(editor["attributes"])):
            wanted = float(at_strength_1(editor, k)[of_editor, k].mean())
            row, best = matched(arm, k, wanted, own), matched(editor, k, wanted, of_editor)
            change = row["change"]
            found["moved"].append(change[:, k])
            found["reached"].append(100.0 * (change[:, k] >= 1))
            others = np.abs(np.delete(change, k, axis=1)).mean(axis=1) if change.shape[1] > 1 else 0 * change[:, 0]
            found["leak"].append(others / max(float(change[:, k].mean()), 1e-6))
            found["same"].append(row["same"])
            found["lead"].append(best["same"] - row["same"])
            found["behind"].append(row.get("background", np.full(len(ids), np.nan)))
        cells = [_cell(np.mean(found[key], axis=0), ids) for key in found]
        yield f"| {name.removeprefix(first.removesuffix('editor'))} | {len(ids)} | " + " | ".join(cells) + " |"


def _cell(values: np.ndarray, ids: list[str]) -> str:
    """Mean and interval over the people whose value is defined."""
    known = np.isfinite(values)
    if not known.any():
        return ""
    row = rows_of(values[known], [who for who, ok in zip(ids, known.tolist(), strict=True) if ok])
    return f"{row['mean']:.3g} ({row['low']:.3g} to {row['high']:.3g})"


def leak_matrix(arm: dict[str, Any]) -> Iterable[str]:
    """What the editor's edit of each attribute (rows) does to each (columns), at a strength of 1."""
    names = arm["attributes"]
    more = ("people moved by a deviation, %", "by one of the readings, %", "background", "outside both heads")
    yield f"| edit | {' | '.join((*names, *more))} |"
    yield "|---" * (len(names) + 5) + "|"
    for k, name in enumerate(names):
        change = at_strength_1(arm, k)
        cells = [_cell(change[:, i], arm["ids"]) for i in range(len(names))]
        cells += [_cell(100.0 * (change[:, k] >= least), arm["ids"]) for least in (1.0, arm["deviations"][k])]
        row = next(r for r in arm["rows"] if r["attribute"] == k and r["strength"] == 1.0)
        for key in ("background", "behind_both"):
            cells.append(_cell(np.array(row[key]), arm["ids"]) if key in row else "")
        yield f"| {name} | {' | '.join(cells)} |"


def write_table(out: Path) -> None:
    """table.md of all arms there are."""
    found = {path.stem: json.loads(path.read_bytes()) for path in sorted(out.glob("*.json"))}
    arms = {name: row["found"] for name, row in found.items() if isinstance(row, dict) and "arm" in row}
    lines: list[str] = []
    modes = {name: arm for name, arm in arms.items() if name.startswith("modes-")}
    if modes:
        lines += ["| reconstruction | people | " + " | ".join(MEASURES) + " | CPU s a photo |"]
        lines += ["|---" * (len(MEASURES) + 3) + "|"]
        for name, arm in modes.items():
            cells = [f"{arm[m]['mean']:.4g} ({arm[m]['low']:.4g} to {arm[m]['high']:.4g})" for m in MEASURES]
            cells = [name.removeprefix("modes-"), str(arm["count"]), *cells, f"{arm['seconds']:.3g}"]
            lines.append("| " + " | ".join(cells) + " |")

    truth = {name: arm for name, arm in arms.items() if name.startswith("truth-")}
    if truth:
        names = next(iter(truth.values()))["attributes"]
        lines += ["", f"| to the true edit | people | {' | '.join(MEASURES)} | {' | '.join(names)} |"]
        lines += ["|---" * (len(MEASURES) + len(names) + 2) + "|"]
        for name, arm in truth.items():
            cells = [f"{arm[m]['mean']:.4g} ({arm[m]['low']:.4g} to {arm[m]['high']:.4g})" for m in MEASURES]
            cells += [f"{arm[m]['mean']:.3g}" if arm[m] else "" for m in names]
            lines.append(f"| {name.removeprefix('truth-')} | {arm['count']} | {' | '.join(cells)} |")

    # Edits of rendered people, then those of each folder of photographs.
    shown = set(modes) | set(truth)
    for first in [name for name in arms if name.endswith("-editor") and name not in shown]:
        same = {name: arm for name, arm in arms.items() if name.startswith(first.removesuffix("editor"))}
        same = {first: arms[first]} | {name: arm for name, arm in same.items() if "rows" in arm}
        shown |= set(same)
        lines += ["", first.removesuffix("-editor") + ":", "", *edit_table(same, first), "", *leak_matrix(arms[first])]
    lines += [f"\n{name}: `{json.dumps(arms[name])}`" for name in arms if name not in shown]
    (out / "table.md").write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------------------------- running


def run(bench: Bench) -> None:
    """All arms that were asked for."""
    options = bench.options
    size, everybody = bench.editor.generator.img_resolution, held_out(bench.data).first(options.count)
    others = {name: load_editor(Path(place)) for name, place in options.others}
    photos = {name: squares(Path(place), size, options.count) for name, place in options.photos}
    for people in photos.values():
        people.masks = bench.reader.read(to_tensor(people.photos)).mask.numpy()

    if "speed" in options.arms:
        bench.arm("speed", lambda: speed_arm(bench))
    if {"judge", "edits"} & set(options.arms):
        held = held_out(bench.data)
        truth = read_labels(bench.data, list(bench.editor.attributes), "heldout", bench.labels)
        bench.arm("judge", lambda: accuracy(judge_of(bench), held.photos, truth))
    if "modes" in options.arms:
        modes_of(bench, everybody, photos, others)
    if "edits" in options.arms:
        edits_of(bench, "edits", everybody, judge_of_rendered(bench), others)
    known = read_edits(bench.data, list(bench.editor.attributes), options.step, "heldout", bench.labels)
    if "judge" in options.arms and known is not None:
        bench.arm("judge-edits", lambda: judged_arm(bench, held_out(bench.data), known, judge_of_rendered(bench)))
    if "truth" in options.arms and known is not None:
        for method, some in [("photo", everybody), *methods_of(bench, everybody)]:
            bench.arm(f"truth-{method}", lambda some=some, way=method: truth_arm(bench, some, known, way))
        for name, other in others.items():
            bench.arm(f"truth-{name}", lambda e=other: truth_arm(bench, everybody, known, "editor", e))
    if "local" in options.arms:
        bench.arm("local", lambda: local_arm(bench, everybody))
    if "photos" in options.arms and bench.api is not None:
        for name, people in photos.items():
            judge = judge_of_photos(bench, to_tensor(people.photos))
            edits_of(bench, f"photos-{name}", people, judge, {})
            bench.arm(f"groups-{name}", lambda args=(people, name, judge): groups_arm(bench, *args))
    write_table(bench.out)


def modes_of(bench: Bench, everybody: People, photos: dict[str, People], others: dict[str, ExpandedEditor]) -> None:
    """Reconstruction of every domain by every mode; of held-out people by the ablations too."""
    options = bench.options
    style = next((path.name for path in sorted((bench.data.path / "heldout/twin").glob("*"))), "")
    domains = {
        "heldout": everybody,
        "hats": held_out(bench.data, lambda fact: fact.get("hat", "none") != "none").first(options.count),
        "hard-light": held_out(bench.data, lambda fact: fact.get("light") in HARD).first(options.count),
    }
    domains |= {f"drawn-{style}": held_out(bench.data, twin=style).first(options.count)} if style else {}
    ways = by_mode(bench.editor, options.editor, bench.settings)
    for domain, people in ((name, some) for name, some in (domains | photos).items() if some.ids):
        for mode, way in ways.items():
            some = people.first(options.slow) if mode in SLOW else people
            bench.arm(f"modes-{domain}-{mode}", lambda some=some, way=way: modes_arm(some, way))
    for name, other in others.items():
        none = torch.zeros(len(everybody.ids), len(other.attributes))
        bench.arm(f"modes-heldout-{name}", lambda e=other, by=none: modes_arm(everybody, lambda x: edited(e, x, by)))


def methods_of(bench: Bench, everybody: People) -> Iterable[tuple[str, People]]:
    """The methods that there are, and whom each edits."""
    for method in METHODS:
        if method != "iterative" or load_iterative(bench.options.editor) is not None:
            yield method, everybody.first(bench.options.slow) if method in SLOW else everybody


def edits_of(bench: Bench, prefix: str, everybody: People, judge: Judge, others: dict[str, ExpandedEditor]) -> None:
    """Edits by every method and by the ablations."""
    for method, some in methods_of(bench, everybody):
        bench.arm(f"{prefix}-{method}", lambda some=some, method=method: edits_arm(bench, some, method, judge))
    for name, other in others.items():
        bench.arm(f"{prefix}-{name}", lambda other=other: edits_arm(bench, everybody, "editor", judge, other))


def named(word: str) -> tuple[str, str]:
    name, _, place = word.partition("=")
    if not place:
        raise argparse.ArgumentTypeError(f"{word}: not NAME=FOLDER")
    return name, place


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.expanded", description=__doc__)
    add = parser.add_argument
    add("editor", type=Path, help="folder of a style=expanded")
    add("data", type=Path, help="the rendered data artifact that it was trained on")
    add("--out", type=Path, default=Path("bench-expanded"))
    arms = ("speed", "judge", "modes", "edits", "truth", "local", "photos")
    add("--arms", nargs="+", choices=arms, default=list(arms))
    add("--others", nargs="*", type=named, default=[], metavar="NAME=FOLDER", help="editors of the ablations")
    add("--photos", nargs="*", type=named, default=[], metavar="NAME=FOLDER", help="photographs, out of domain")
    add("--face-api", type=Path, help="folder of face-api's networks")
    add("--count", type=int, default=128, help="people")
    add("--slow", type=int, default=24, help="people of W+ optimisation and of pivotal tuning")
    add("--judge-people", type=int, default=8000)
    add("--judge-images", type=int, default=80_000)
    add("--step", type=float, default=1.5, help="style.expand.step of the editor")
    add("--steps", type=int, default=500)
    add("--pivot", type=int, default=200)
    add("--tuning", type=int, default=350)
    run(Bench(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
