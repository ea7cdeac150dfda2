"""The face parsers: one order of labels whoever speaks, refusals in one line, and the recipe that trains our own."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stages.core.files import sha256_file
from stages.core.images import read_image, write_image
from stages.core.settings import TristyleError
from stages.core.weights import save_network
from stages.datasets.painted import paint as painter
from stages.faces.parse import BiSeNetParser, Parser, bisenet, one_piece, open_parser
from stages.metrics.pixel import head_iou
from stages.networks.face_labels import PARSER_HEAD, PARSER_LABELS, PARSER_MIRROR, READER_HEAD
from stages.networks.parser import FaceParser
from stages.networks.patchgan import PatchGAN
from stages.recipes import face_parser as recipe

PAINTED = [painter.paint(painter.sample_person(n), painter.sample_view(n, 0), 64) for n in range(700, 708)]
PICTURES = np.stack([painting.image for painting in PAINTED])
# facexlib's order, written down from its authors' table and not from the module under test.
BISENET = (
    "background skin l_brow r_brow l_eye r_eye glasses l_ear r_ear earring nose mouth u_lip l_lip neck necklace cloth "
    "hair hat"
).split()


class Fixed(Parser):
    """Answers with given shares."""

    id, device = "fixed", "cpu"

    def __init__(self, shares: torch.Tensor) -> None:
        self.given = shares

    def shares(self, images: torch.Tensor) -> torch.Tensor:
        return self.given.expand(len(images), *self.given.shape[1:])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("parser") / "parser.safetensors"
    save_network(path, FaceParser(), half=True)
    return path


def test_labels_and_head_follow_the_shares() -> None:
    shares = torch.zeros(1, 19, 2, 2)
    for label, (y, x) in zip((13, 17, 16, 15), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        shares[0, label, y, x] = 0.75
        shares[0, 1 if label == 17 else 0, y, x] = 0.25
    parser, images = Fixed(shares), np.zeros((33, 2, 2, 3), np.uint8)  # 33: more than are parsed at a time
    assert parser.labels(images).shape == (33, 2, 2)
    assert parser.labels(images)[32].tolist() == [[13, 17], [16, 15]]
    assert parser.head(images)[32].tolist() == [[191, 64], [0, 191]]  # hair, skin under neck, necklace, earring
    with pytest.raises(ValueError, match="uint8"):
        parser.labels(images.astype(np.float32))


def test_a_head_is_one_piece_without_holes() -> None:
    head = np.zeros((32, 32), np.uint8)
    head[4:20, 4:20], head[8:12, 8:12], head[8, 4:8] = 200, 10, 60  # a hole that a line joins to the outside...
    head[6:9, 14:17] = 20  # ...one within
    head[26:30, 26:30] = 255
    head[20, 4:20] = 90  # a soft edge stays
    whole = one_piece(head)
    assert whole[6:9, 14:17].min() == 255 and whole[8:12, 8:12].max() == 10
    assert whole[26:30, 26:30].max() == 0
    rest = np.ones_like(head, bool)
    rest[6:9, 14:17] = rest[26:30, 26:30] = False
    assert np.array_equal(whole[rest], head[rest])
    assert np.array_equal(one_piece(np.zeros_like(head)), np.zeros_like(head))
    assert one_piece(np.full_like(head, 255)).min() == 255


def test_every_parser_answers_at_the_pictures_size(own: Path) -> None:
    for path in (None, own):
        parser = open_parser(path)
        for images in (PICTURES, PICTURES[:1, :48, :40]):
            labels, head = parser.labels(images), parser.head(images)
            assert labels.shape == head.shape == images.shape[:3]
            assert labels.dtype == head.dtype == np.uint8
    assert open_parser(own).id == f"parser-{sha256_file(own)[:8]}"


def test_the_reader_speaks_celebamask() -> None:
    labels, head = open_parser(None).labels(PICTURES), open_parser(None).head(PICTURES)
    truth = np.stack([np.isin(painting.parsing, READER_HEAD) for painting in PAINTED])
    masks = [torch.from_numpy(mask)[:, None].float() for mask in (head / 255.0, truth)]
    assert head_iou(*masks).mean() > 0.9
    for left, right in ((4, 5), (6, 7)):  # the person's left is on the right of the picture
        x = [np.nonzero(labels == label)[2].mean() for label in (left, right)]
        assert x[0] > 32 > x[1]
    hair = np.stack([painting.parsing == painter.LABELS["hair"] for painting in PAINTED])
    assert ((labels == PARSER_LABELS.index("hair")) & hair).sum() > 0.75 * hair.sum()


def test_bisenet_is_put_in_order() -> None:
    assert sorted(BISENET) == sorted(PARSER_LABELS)

    def network(images: torch.Tensor) -> tuple[torch.Tensor]:  # a picture of brightness n is all BiSeNet's label n
        logits = torch.zeros(len(images), 19, 4, 4)
        for row, image in enumerate(images):
            red = float(image[0].mean()) * BiSeNetParser.STD[0] + BiSeNetParser.MEAN[0]
            logits[row, round(red * 255 / 10)] = 20.0
        return (logits,)

    images = np.stack([np.full((8, 8, 3), 10 * n, np.uint8) for n in range(19)])
    said = BiSeNetParser(network, "bisenet", "cpu").labels(images)  # type: ignore[arg-type]
    assert [PARSER_LABELS[label] for label in said[:, 0, 0]] == BISENET


def test_bisenet_loads_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, loaded = tmp_path / "parsing_bisenet.pth", "facexlib" in sys.modules
    torch.manual_seed(0)
    torch.save(bisenet().state_dict(), path)
    parser = open_parser(path)
    assert parser.id == f"bisenet-{sha256_file(path)[:8]}"
    assert parser.labels(PICTURES[:2]).shape == (2, 64, 64)
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(TristyleError, match="does not fit BiSeNet"):
        open_parser(path)
    assert ("facexlib" in sys.modules) == loaded  # it takes seconds to import
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TristyleError, match="pip install facexlib"):
        open_parser(path)


def test_what_is_no_parser_is_refused(tmp_path: Path) -> None:
    broken, other = tmp_path / "bisenet.pth", tmp_path / "other.safetensors"
    broken.write_bytes(b"PK no archive")
    save_network(other, PatchGAN())
    for path, message in (
        (broken, "damaged"),
        (other, "not a face parser"),
        (tmp_path / "none.pth", "no such file"),
        (tmp_path / "parsing_bisenet.pth", "no such file.*https://github.com/xinntao/facexlib"),
        (tmp_path / "none.safetensors", "no such"),
    ):
        with pytest.raises(TristyleError, match=message) as refused:
            open_parser(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)


# ---------------------------------------------------------------------------------------------------------------------
# The recipe


def test_mirrored_labels_change_sides() -> None:
    assert [PARSER_MIRROR[label] for label in PARSER_MIRROR] == list(range(19))
    swapped = {(PARSER_LABELS[a], PARSER_LABELS[b]) for a, b in enumerate(PARSER_MIRROR) if a < b}
    assert swapped == {("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")}
    assert [PARSER_LABELS[label] for label in PARSER_HEAD] == [
        name for name in PARSER_LABELS[1:] if name not in ("necklace", "neck", "cloth")
    ]


def test_views_move_pictures_and_labels_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that show their own labels as brightness still do after every change of geometry."""
    for name in ("recolour", "relight"):
        monkeypatch.setattr(recipe, name, lambda images: images)
    monkeypatch.setattr(recipe, "soften", lambda images, low, high: images)
    monkeypatch.setattr(recipe, "OCCLUDED", 0.0)
    labels = np.zeros((16, 96, 96), np.uint8)
    labels[:, 20:80, 24:72] = 1
    labels[:, 35:45, 30:42], labels[:, 35:45, 54:66] = 5, 4  # the person's right eye on the left
    images = torch.from_numpy(labels * 40)[:, None].expand(-1, 3, -1, -1).contiguous()
    torch.manual_seed(0)
    picture, label = recipe.views(images, torch.from_numpy(labels), 64)
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
    covered, kept = recipe.occlude(images, labels)
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
    assert np.array_equal(recipe.read_labels(tmp_path / "a.png"), values)
    assert recipe.reduce_labels(values, 10).tolist() == [[0] * 5 + [18] * 5] * 10
    for bad in (values + 2, np.stack([values] * 3, axis=2)):
        Image.fromarray(bad).save(tmp_path / "b.png")
        with pytest.raises(TristyleError, match=r"b\.png: no mask of labels 0 to 18"):
            recipe.read_labels(tmp_path / "b.png")


def test_who_is_held_out(tmp_path: Path) -> None:
    share = np.mean([recipe.heldout(f"person {n}") for n in range(2000)])
    assert 0.17 < share < 0.23
    table = tmp_path / "people.csv"
    table.write_text("file,person_group\nimages/a.jpg,p1\nimages/b.jpg,p1\n")
    assert recipe.people_of(table, ["b", "a"]) == ["p1", "p1"]
    assert recipe.people_of(None, ["b", "a"]) == ["b", "a"]
    with pytest.raises(TristyleError, match=r"people\.csv: tells no person for 'c'"):
        recipe.people_of(table, ["c"])


def test_the_recipe_trains_and_scores_what_it_saved(tmp_path: Path) -> None:
    for name in ("image", "mask"):
        (tmp_path / name).mkdir()
    to_celeb = np.array([0, 1, 6, 4, 2, 10, 13, 8, 17, 18, 3, 14, 1], np.uint8)
    for n, painting in enumerate(PAINTED):
        write_image(tmp_path / "image" / f"p{n}.png", painting.image)
        cv2.imwrite(str(tmp_path / "mask" / f"p{n}.png"), to_celeb[painting.parsing])
    people = [*(name for name in map(str, range(99)) if recipe.heldout(name))][:1] + ["trained on"]
    assert not recipe.heldout("trained on")
    table = "".join(f"image/p{n}.png,{people[n > 1]}\n" for n in range(8))  # two pictures of the one, six of the other
    (tmp_path / "people.csv").write_text("file,person_group\n" + table)
    out = tmp_path / "out" / "parser.safetensors"
    given = {"images": tmp_path / "image", "masks": tmp_path / "mask", "out": out, "work": tmp_path / "work"}
    given["people"] = tmp_path / "people.csv"
    command = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    recipe.main([*command, "--length", "16", "--batch", "4"])
    card = json.loads(out.with_suffix(".json").read_text())
    assert (card["heldout"]["pictures"], card["recipe"]["trained_on"]) == (2, 6)
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

    pair = recipe.Labelled(images, labels)
    perfect = recipe.score(Sees(None), pair)  # type: ignore[arg-type]
    assert perfect["head_iou"] > 0.98 and perfect["iou"]["hair"] > 0.95 and perfect["iou"]["hat"] is None  # type: ignore[operator,index]
    skin = recipe.score(Sees(1), pair)  # type: ignore[arg-type]
    assert skin["head_iou"] == pytest.approx((0.5 + 0.25) / 2) and skin["right"] == pytest.approx(0.25)
    assert skin["iou"]["skin"] == pytest.approx(0.25)  # type: ignore[index]


def test_the_reader_parses_real_portraits(shared: Path) -> None:
    folder = shared / "data" / "parsing_gt" / "celebamask512"
    if not folder.is_dir():
        pytest.skip("no labelled portraits")
    names = sorted(path.stem for path in (folder / "mask").iterdir())[::80]
    found, truth = [], []
    parser = open_parser(None)
    for name in names:
        picture = cv2.resize(read_image(folder / "image" / f"{name}.jpg"), (128, 128), interpolation=cv2.INTER_AREA)
        values = recipe.reduce_labels(recipe.read_labels(folder / "mask" / f"{name}.png"), 128)
        found.append(parser.head(picture[None])[0] / 255.0)
        truth.append(np.isin(values, list(PARSER_HEAD)))
    masks = [torch.from_numpy(np.stack(part))[:, None].float() for part in (found, truth)]
    assert head_iou(*masks).mean() > 0.75  # measured: 0.82 over the held-out fifth
