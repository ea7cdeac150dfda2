"""Training a parser on sets of labels: what a person mask and points tell, and losses that ask no more than that."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.images import write_image
from stages.core.settings import TristyleError
from stages.core.tensors import mask_tensor
from stages.datasets.painted import paint as painter
from stages.metrics.pixel import head_iou
from stages.networks.face_labels import PARSER_HEAD, PARSER_LABELS, PARSER_MIRROR
from stages.networks.parser import FaceParser
from stages.recipes import open_face_parser as recipe
from stages.recipes.open_face_parser import CODES, MEMBERS, MIRRORED
from stages.training.fit import Update

PAINTED = [painter.paint(painter.sample_person(n), painter.sample_view(n, 0), 192) for n in range(900, 904)]


def points() -> np.ndarray:
    """An upright face of 468 points, middle at 48, 48: only those that are used lie where they should."""
    xy = np.full((468, 2), 48.0)

    def around(numbers: tuple[int, ...], x: float, y: float, width: float, height: float, top: bool = False) -> None:
        turn = np.linspace(0, 2 * np.pi, len(numbers), endpoint=False)  # from the left by way of what is below
        turn = 1.5 * np.pi - turn if top else turn  # or from the top by way of the right
        xy[list(numbers)] = np.stack([x - width * np.cos(turn), y + height * np.sin(turn)], axis=1)

    around(recipe.OVAL, 48, 50, 20, 28, top=True)
    for side, x in (("r", 40), ("l", 56)):
        around(recipe.PARTS[f"{side}_eye"], x, 44, 4, 2)
        around(recipe.PARTS[f"{side}_brow"], x, 37, 5, 1.5)
    around(recipe.OUTER_LIPS, 48, 66, 8, 5)
    around(recipe.INNER_LIPS, 48, 66, 6, 2)
    xy[recipe.NOSE] = (48, 54)
    return xy


def test_what_a_mask_and_points_tell() -> None:
    person = np.zeros((96, 96))
    person[10:, 20:76] = 1.0
    person[:, 18:20] = 0.5
    codes = recipe.weak_labels(person, points())
    told = {
        (5, 50): 0, (50, 5): 0, (50, 19): CODES["anything"], (15, 48): CODES["head"], (40, 22): CODES["head"],
        (80, 48): CODES["person"], (70, 22): CODES["person"], (52, 48): CODES["face"], (44, 40): CODES["r_eye"],
        (44, 56): CODES["l_eye"], (37, 40): CODES["r_brow"], (66, 48): 10, (70, 48): 12, (62, 48): 11,
    }  # fmt: skip
    assert {place: int(codes[place]) for place in told} == told
    alone = recipe.weak_labels(person, None)
    assert set(np.unique(alone)) == {0, CODES["anything"], CODES["person"]}


def test_sets_of_a_mirrored_picture() -> None:
    assert torch.equal(MEMBERS[list(MIRRORED)][:, list(PARSER_MIRROR)], MEMBERS)
    assert torch.equal(MEMBERS[:19], torch.eye(19))
    for code, members in enumerate(MEMBERS.bool()):
        labels = {label for label in range(19) if members[label]}
        assert bool(recipe.SURELY_HEAD[code]) == (labels <= set(PARSER_HEAD))
        assert bool(recipe.MAYBE_HEAD[code]) == bool(labels & set(PARSER_HEAD))


def test_painted_people_are_told_in_full() -> None:
    codes = np.stack([recipe.painted_labels(painting) for painting in PAINTED])
    surely = recipe.SURELY_HEAD[torch.from_numpy(codes).long()].float()[:, None]
    masks = mask_tensor(np.stack([painting.mask for painting in PAINTED]))
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
    task = recipe.OpenTask(FaceParser((8, 8, 8, 8, 8), (1, 1, 1, 1, 1), 8), 1e-3, 100)
    images = torch.from_numpy(np.stack([painting.image for painting in PAINTED])).permute(0, 3, 1, 2)
    codes = torch.from_numpy(np.stack([recipe.painted_labels(painting) for painting in PAINTED]))
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
    write_image(given[0] / "a.png", PAINTED[0].image)
    with pytest.raises(TristyleError, match="no picture has a mask"):
        recipe.load_photos(*given)
    write_image(given[1] / "a.png", np.full((96, 96, 3), 255, np.uint8))
    loaded = recipe.load_photos(*given)
    assert loaded.images.shape == (1, 3, 192, 192) and int(loaded.labels[0, 88, 80]) == CODES["r_eye"]
