"""The face parser's recipe: augmentation, what is known of a pixel, both trainings, and scores."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stages.core.images import write_image
from stages.core.settings import TristyleError
from stages.core.tensors import mask_tensor
from stages.faces.parse import open_parser
from stages.metrics.pixel import head_iou
from stages.networks.face_labels import PARSER_HEAD, PARSER_LABELS, PARSER_MIRROR
from stages.networks.parser import FaceParser
from stages.recipes import augment
from stages.recipes import face_parser as recipe
from stages.recipes import parser_labels as data
from stages.recipes.parser_labels import CODES, MEMBERS, MIRRORED
from stages.training.fit import Update
from tests.tools.portraits import portrait

PORTRAITS = [portrait(number) for number in range(700, 708)]
LARGE = [portrait(number, 192) for number in range(900, 904)]


# ---------------------------------------------------------------------------------------------------------------------
# With label masks


def test_views_move_pictures_and_labels_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that show their own labels as brightness still do after every change of geometry."""
    for name in ("recolour", "relight"):
        monkeypatch.setattr(augment, name, lambda images: images)
    monkeypatch.setattr(augment, "soften", lambda images, low, high: images)
    monkeypatch.setattr(augment, "OCCLUDED", 0.0)
    labels = np.zeros((16, 96, 96), np.uint8)
    labels[:, 20:80, 24:72] = 1
    labels[:, 35:45, 30:42], labels[:, 35:45, 54:66] = 5, 4  # the person's right eye on the left
    images = torch.from_numpy(labels * 40)[:, None].expand(-1, 3, -1, -1).contiguous()
    torch.manual_seed(0)
    picture, label = augment.parser_views(images, torch.from_numpy(labels), 64, PARSER_MIRROR)
    picture = augment.camera(picture)
    shown = ((picture[:, 0] + 1) * 127.5 / 40).round().long()
    mirrored = torch.tensor(PARSER_MIRROR)[label]
    same = [max(float((shown[n] == x[n]).float().mean()) for x in (label, mirrored)) for n in range(16)]
    assert min(same) > 0.93  # but for seams, where colours mix
    x = torch.arange(64.0)
    for n in range(16):  # in mirrored ones too
        places = [((label[n] == side) * x).sum() / (label[n] == side).sum() for side in (4, 5)]
        assert places[0] > places[1]


def test_an_occluder_is_background() -> None:
    images, labels = torch.rand(64, 3, 32, 32) * 2 - 1, torch.full((64, 32, 32), 13)
    torch.manual_seed(0)
    covered, kept = augment.occlude(images, labels)
    changed = (covered != images).any(1)
    assert 3 < int(changed.flatten(1).any(1).sum()) < 30
    assert torch.equal(changed, kept == 0)


def test_labels_are_read_as_stored_and_reduced_by_area(tmp_path: Path) -> None:
    values = np.zeros((40, 40), np.uint8)
    values[:, 20:] = 18
    values[::4, 20:] = 3  # a quarter of the right half
    palette = Image.fromarray(values, "P")
    palette.putpalette([7] * 768)
    palette.save(tmp_path / "a.png")
    assert np.array_equal(data.read_labels(tmp_path / "a.png"), values)
    assert data.reduce_labels(values, 10).tolist() == [[0] * 5 + [18] * 5] * 10
    for bad in (values + 2, np.stack([values] * 3, axis=2)):
        Image.fromarray(bad).save(tmp_path / "b.png")
        with pytest.raises(TristyleError, match=r"b\.png: is not a mask of labels 0 to 18"):
            data.read_labels(tmp_path / "b.png")


def test_who_is_held_out(tmp_path: Path) -> None:
    share = np.mean([data.heldout(f"person {n}") for n in range(2000)])
    assert 0.17 < share < 0.23
    table = tmp_path / "people.csv"
    table.write_text("file,person_group\nimages/a.jpg,p1\nimages/b.jpg,p1\n")
    assert data.people_of(table, ["b", "a"]) == ["p1", "p1"]
    assert data.people_of(None, ["b", "a"]) == ["b", "a"]
    with pytest.raises(TristyleError, match=r"people\.csv: names no person for 'c'"):
        data.people_of(table, ["c"])


def test_the_recipe_trains_and_scores_what_it_saved(tmp_path: Path) -> None:
    for name in ("image", "mask"):
        (tmp_path / name).mkdir()
    for n, one in enumerate(PORTRAITS):
        write_image(tmp_path / "image" / f"p{n}.png", one.image)
        cv2.imwrite(str(tmp_path / "mask" / f"p{n}.png"), one.parsing)
    people = [*(name for name in map(str, range(99)) if data.heldout(name))][:1] + ["trained on"]
    assert not data.heldout("trained on")
    table = "".join(f"image/p{n}.png,{people[n > 1]}\n" for n in range(8))  # two pictures of the one, six of the other
    (tmp_path / "people.csv").write_text("file,person_group\n" + table)
    out = tmp_path / "out" / "parser.safetensors"
    given = {"images": tmp_path / "image", "masks": tmp_path / "mask", "out": out, "work": tmp_path / "work"}
    given["people"] = tmp_path / "people.csv"
    command = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    recipe.main([*command, "--length", "16", "--batch", "4"])
    card = json.loads(out.with_suffix(".json").read_text())
    assert (card["heldout"]["pictures"], card["trained_on"]) == (2, 6)
    assert card["id"] == open_parser(out).id
    rows = [json.loads(line) for line in (tmp_path / "work" / "log.jsonl").read_text().splitlines()]
    losses = [row["cross"] for row in rows if row["phase"] == "parser/parse"]
    assert losses[-1] < losses[0]


def test_a_score_counts_pictures_and_labels() -> None:
    """A parser that sees the labels scores 1; of one that calls all of it skin every number is known."""
    labels = torch.zeros(2, 128, 128, dtype=torch.uint8)
    labels[0, :64], labels[1, :32] = 1, 13
    images = (labels * 10)[:, None].expand(-1, 3, -1, -1).contiguous()

    class Sees(torch.nn.Module):
        size = 128

        def __init__(self, always: int | None) -> None:
            super().__init__()
            self.always, self.weight = always, torch.nn.Parameter(torch.zeros(1))

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            seen = ((picture[:, 0] + 1) * 12.75).round().long() if self.always is None else picture[:, 0].long() * 0 + 1
            return torch.nn.functional.one_hot(seen, 19).permute(0, 3, 1, 2).float() * 20

    pair = data.Labelled(images, labels)
    perfect = recipe.score(Sees(None), pair)  # type: ignore[arg-type]
    assert perfect["head_iou"] > 0.98 and perfect["iou"]["hair"] > 0.95 and perfect["iou"]["hat"] is None  # type: ignore[operator,index]
    skin = recipe.score(Sees(1), pair)  # type: ignore[arg-type]
    assert skin["head_iou"] == pytest.approx((0.5 + 0.25) / 2) and skin["right"] == pytest.approx(0.25)
    assert skin["iou"]["skin"] == pytest.approx(0.25)  # type: ignore[index]


# ---------------------------------------------------------------------------------------------------------------------
# Without label masks


def points() -> np.ndarray:
    """An upright face of 468 points, middle at 48, 48: only those that are used lie where they should."""
    xy = np.full((468, 2), 48.0)

    def around(numbers: tuple[int, ...], x: float, y: float, width: float, height: float, top: bool = False) -> None:
        turn = np.linspace(0, 2 * np.pi, len(numbers), endpoint=False)  # from the left by way of what is below
        turn = 1.5 * np.pi - turn if top else turn  # or from the top by way of the right
        xy[list(numbers)] = np.stack([x - width * np.cos(turn), y + height * np.sin(turn)], axis=1)

    around(data.OVAL, 48, 50, 20, 28, top=True)
    for side, x in (("r", 40), ("l", 56)):
        around(data.PARTS[f"{side}_eye"], x, 44, 4, 2)
        around(data.PARTS[f"{side}_brow"], x, 37, 5, 1.5)
    around(data.OUTER_LIPS, 48, 66, 8, 5)
    around(data.INNER_LIPS, 48, 66, 6, 2)
    xy[data.NOSE] = (48, 54)
    return xy


def test_what_a_mask_and_points_tell() -> None:
    person = np.zeros((96, 96))
    person[10:, 20:76] = 1.0
    person[:, 18:20] = 0.5
    codes = data.weak_labels(person, points())
    told = {
        (5, 50): 0, (50, 5): 0, (50, 19): CODES["anything"], (15, 48): CODES["head"], (40, 22): CODES["head"],
        (80, 48): CODES["person"], (70, 22): CODES["person"], (52, 48): CODES["face"], (44, 40): CODES["r_eye"],
        (44, 56): CODES["l_eye"], (37, 40): CODES["r_brow"], (66, 48): 10, (70, 48): 12, (62, 48): 11,
    }  # fmt: skip
    assert {place: int(codes[place]) for place in told} == told
    alone = data.weak_labels(person, None)
    assert set(np.unique(alone)) == {0, CODES["anything"], CODES["person"]}


def test_sets_of_a_mirrored_picture() -> None:
    assert torch.equal(MEMBERS[list(MIRRORED)][:, list(PARSER_MIRROR)], MEMBERS)
    assert torch.equal(MEMBERS[:19], torch.eye(19))
    for code, members in enumerate(MEMBERS.bool()):
        labels = {label for label in range(19) if members[label]}
        assert bool(data.SURELY_HEAD[code]) == (labels <= set(PARSER_HEAD))
        assert bool(data.MAYBE_HEAD[code]) == bool(labels & set(PARSER_HEAD))


def test_people_with_truth_have_all_labels() -> None:
    codes = np.stack([data.true_labels(one.parsing, one.landmarks) for one in LARGE])
    surely = data.SURELY_HEAD[torch.from_numpy(codes).long()].float()[:, None]
    masks = mask_tensor(np.stack([one.mask for one in LARGE]))
    assert head_iou(surely, masks).min() > 0.97
    for left, right in ((4, 5), (6, 7)):
        x = [np.nonzero(codes == label)[2].mean() for label in (left, right)]
        assert x[0] > 96 > x[1]
    assert {PARSER_LABELS[code] for code in np.unique(codes) if code < 19} >= {"skin", "nose", "hair", "neck", "cloth"}


def test_the_loss_asks_for_the_set_alone() -> None:
    codes = torch.full((2, 4, 4), CODES["person"])
    allowed = MEMBERS[codes].permute(0, 3, 1, 2)
    logits = torch.zeros(2, 19, 4, 4)
    logits[:, 0] = -30.0  # anything but background
    within = recipe.partial_loss(logits.softmax(1), codes, allowed, 1)
    assert float(within["cross"]) == pytest.approx(0, abs=1e-5)
    logits[:, 0] = 30.0
    assert float(recipe.partial_loss(logits.softmax(1), codes, allowed, 1)["cross"]) > 5
    codes = torch.full((2, 4, 4), CODES["head"])
    allowed = MEMBERS[codes].permute(0, 3, 1, 2)
    for label, missed in ((13, 0.0), (18, 1.0)):
        share = torch.nn.functional.one_hot(torch.full((2, 4, 4), label), 19).permute(0, 3, 1, 2).float()
        assert float(recipe.partial_loss(share, codes, allowed, 1)["head"]) == pytest.approx(missed, abs=0.05)


def test_the_averaged_network_teaches_late_and_within_the_set() -> None:
    torch.manual_seed(0)
    task = recipe.PartialLabelsTask(FaceParser((8, 8, 8, 8, 8), (1, 1, 1, 1, 1), 8), 1e-3, 100)
    images = torch.from_numpy(np.stack([one.image for one in LARGE])).permute(0, 3, 1, 2)
    codes = torch.from_numpy(np.stack([data.true_labels(one.parsing, one.landmarks) for one in LARGE]))
    batch = {"image": images, "labels": codes}
    assert task.ema.split.bias is not None
    task.ema.split.bias.data[13] = 30.0  # sure of hair, wherever that is allowed
    taught = {}
    for images in (0, 100):
        torch.manual_seed(1)
        terms = task.losses("parse", batch, Update(images=images))
        assert all(bool(torch.isfinite(value)) for value in terms.values())
        taught[images] = float(terms["self"].detach())
    assert taught[0] == 0 and taught[100] > 0.1


def test_photos_need_masks(tmp_path: Path) -> None:
    for name in ("photo", "person"):
        (tmp_path / name).mkdir()
    xy = (points() / 96)[None]
    np.savez(tmp_path / "mesh.npz", files=np.array(["x/a.jpg"]), xy=xy, score=np.ones(1))
    given = (tmp_path / "photo", tmp_path / "person", tmp_path / "mesh.npz")
    write_image(given[0] / "a.png", LARGE[0].image)
    with pytest.raises(TristyleError, match="no picture has a mask"):
        data.load_photos(*given)
    write_image(given[1] / "a.png", np.full((96, 96, 3), 255, np.uint8))
    loaded = data.load_photos(*given)
    assert loaded.images.shape == (1, 3, 192, 192) and int(loaded.labels[0, 88, 80]) == CODES["r_eye"]


def test_the_recipe_trains_without_label_masks(tmp_path: Path) -> None:
    for name, image in (("photo", LARGE[0].image), ("person", np.full((96, 96, 3), 255, np.uint8))):
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png", image)
    files = np.array(["0.jpg", "1.jpg"])
    np.savez(tmp_path / "mesh.npz", files=files, xy=np.stack([points() / 96] * 2), score=np.ones(2))
    out = tmp_path / "parser.safetensors"
    given = {"photos": "photo", "persons": "person", "meshes": "mesh.npz", "out": out.name, "work": "work"}
    command = [word for name, path in given.items() for word in (f"--{name}", str(tmp_path / path))]
    recipe.main([*command, "--portraits", "2", "--views", "1", "--length", "8", "--batch", "4"])
    card = json.loads(out.with_suffix(".json").read_text())
    assert (card["photos"], card["portraits"], card["id"]) == (2, 2, open_parser(out).id)
    assert "heldout" not in card and card["parameters"] > 1e6


@pytest.mark.parametrize("words", ["", "--images a", "--photos a --persons b", "--images a --masks b --photos c"])
def test_one_of_two_ways_is_asked_for(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recipe.main(["--out", "x.safetensors", *words.split()])
    assert "give --images and --masks, or --photos" in capsys.readouterr().err
