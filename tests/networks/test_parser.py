"""The face parsers: one order of labels whoever speaks, and refusals in one line."""

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stages.core.files import sha256_file
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.core.weights import save_network
from stages.faces.parse import BiSeNetParser, Parser, bisenet, one_piece, open_parser
from stages.metrics.pixel import head_iou
from stages.networks.face_labels import PARSER_HEAD, PARSER_LABELS, PARSER_MIRROR
from stages.networks.parser import FaceParser
from stages.networks.patchgan import PatchGAN
from stages.recipes.parser_labels import read_labels, reduce_labels
from tests.tools.portraits import portrait

PEOPLE = [portrait(number) for number in range(700, 708)]
PICTURES = np.stack([one.image for one in PEOPLE])
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
    truth = np.stack([np.isin(one.parsing, PARSER_HEAD) for one in PEOPLE])
    masks = [torch.from_numpy(mask)[:, None].float() for mask in (head / 255.0, truth)]
    assert head_iou(*masks).mean() > 0.9
    for left, right in ((4, 5), (6, 7)):  # the person's left is on the right of the picture
        x = [np.nonzero(labels == label)[2].mean() for label in (left, right)]
        assert x[0] > 32 > x[1]
    hair = np.stack([one.parsing == PARSER_LABELS.index("hair") for one in PEOPLE])
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
    path = tmp_path / "misfit" / path.name  # a new folder: the digest of a folder's first file is noted
    path.parent.mkdir()
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


def test_mirrored_labels_change_sides() -> None:
    assert [PARSER_MIRROR[label] for label in PARSER_MIRROR] == list(range(19))
    swapped = {(PARSER_LABELS[a], PARSER_LABELS[b]) for a, b in enumerate(PARSER_MIRROR) if a < b}
    assert swapped == {("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")}
    assert [PARSER_LABELS[label] for label in PARSER_HEAD] == [
        name for name in PARSER_LABELS[1:] if name not in ("necklace", "neck", "cloth")
    ]


def test_the_reader_parses_real_portraits(shared: Path) -> None:
    folder = shared / "data" / "parsing_gt" / "celebamask512"
    if not folder.is_dir():
        pytest.skip("no labelled portraits")
    names = sorted(path.stem for path in (folder / "mask").iterdir())[::80]
    found, truth = [], []
    parser = open_parser(None)
    for name in names:
        picture = cv2.resize(read_image(folder / "image" / f"{name}.jpg"), (128, 128), interpolation=cv2.INTER_AREA)
        values = reduce_labels(read_labels(folder / "mask" / f"{name}.png"), 128)
        found.append(parser.head(picture[None])[0] / 255.0)
        truth.append(np.isin(values, list(PARSER_HEAD)))
    masks = [torch.from_numpy(np.stack(part))[:, None].float() for part in (found, truth)]
    assert head_iou(*masks).mean() > 0.75  # measured: 0.82 over the held-out fifth
