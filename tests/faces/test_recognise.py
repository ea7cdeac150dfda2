"""Recognisers: the photo's crop serves both pictures, gradients reach the picture alone, odd files are refused."""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from stages.core.files import data_file
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.faces.recognise import (
    SPHEREFACE,
    AlignedRecogniser,
    MobileFaceNet,
    Recogniser,
    align,
    arcface,
    five_points,
    open_recogniser,
    similarity,
)
from stages.metrics.identity import identity_cosine
from stages.networks.face_reader import load_reader

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TRISTYLE_SHARED", ROOT.parent / "shared"))
PHOTOS = (SHARED if SHARED.is_absolute() else ROOT / SHARED) / "data"
WEIGHTS = PHOTOS / "weights" / "mobilefacenet_068.ckpt"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "face.ckpt"
    torch.save({"epoch": 1, "net_state_dict": MobileFaceNet().state_dict()}, path)
    return path


def pictures(count: int = 2, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.interpolate(torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1, size, mode="bicubic").clamp(-1, 1)


def test_similarity_undoes_a_known_motion() -> None:
    template = torch.tensor(SPHEREFACE)
    for angle, scale in ((0.0, 1.0), (0.3, 2.5), (-1.2, 0.4)):
        turn = scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        points = template @ turn.T + torch.tensor([31.0, -7.0])
        where = similarity(points[None], template)[0]
        torch.testing.assert_close(
            where, torch.cat([turn, torch.tensor([[31.0], [-7.0]])], dim=1), rtol=1e-4, atol=1e-3
        )
    assert similarity(torch.zeros(1, 5, 2), template).isfinite().all(), "five points in one place"


def test_align_brings_the_points_of_a_picture_onto_the_template() -> None:
    size, points = 128, torch.tensor([[50.0, 60.0], [80.0, 55.0], [66.0, 75.0], [56.0, 92.0], [82.0, 90.0]])
    template = torch.tensor(SPHEREFACE)
    where = similarity(points[None], template)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ramp = torch.stack([x, y, x * 0]).float()[None]  # a picture of its own coordinates
    seen = align(ramp, where, (112, 96))[0, :2]
    for i, j in ((0, 0), (50, 40), (111, 95)):
        expected = (where[0] @ torch.tensor([float(j), float(i), 1.0])).clamp(0, size - 1)
        torch.testing.assert_close(seen[:, i, j], expected, rtol=0, atol=0.6)


@pytest.mark.parametrize("kind", ["reader", "mobilefacenet"])
def test_gradient_reaches_the_output_and_neither_photo_nor_recogniser(kind: str, drawn: Path) -> None:
    recogniser = open_recogniser(kind if kind == "reader" else str(drawn))
    assert recogniser.id.startswith(f"{kind}-") and len(recogniser.id) == len(kind) + 9
    photo = pictures().requires_grad_()
    output = (pictures() * 0.9).detach().requires_grad_()
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 8:56, 12:52] = 1
    loss = (1 - recogniser.cosine(photo, output, mask)).mean()
    loss.backward()
    assert photo.grad is None and output.grad is not None and float(output.grad.abs().max()) > 0
    network = recogniser.network if isinstance(recogniser, AlignedRecogniser) else recogniser.reader
    assert not network.training and all(p.grad is None and not p.requires_grad for p in network.parameters())
    torch.testing.assert_close(recogniser.cosine(photo, photo.detach(), mask), torch.ones(2))


def test_a_task_neither_trains_nor_stores_a_recogniser(drawn: Path) -> None:
    task = torch.nn.Module()
    task.recogniser = open_recogniser(str(drawn))
    task.train()
    assert not task.state_dict() and not task.recogniser.network.training


def test_one_crop_serves_both_pictures(drawn: Path) -> None:
    looked: list[torch.Tensor] = []

    class Spy(Recogniser):
        id = "spy"

        def find(self, photo, mask=None, landmarks=None):
            looked.append(photo)
            return photo.new_zeros(len(photo), 4)

        def embed(self, images, where):
            assert where is not None
            return F.normalize(images.flatten(1), dim=1)

    photo = pictures()
    likeness = Spy().cosine(photo, photo.flip(3))
    assert len(looked) == 1 and looked[0] is photo and float(likeness.max()) < 1
    shifted = open_recogniser(str(drawn))
    where = shifted.find(photo)
    assert not torch.allclose(shifted.embed(photo, where), shifted.embed(photo.roll(6, 3), where), atol=1e-3)


def test_the_default_is_the_measure(drawn: Path) -> None:
    photo, mask = pictures(), torch.zeros(2, 1, 64, 64)
    mask[:, :, 10:50, 10:50] = 1
    output = photo.flip(2)
    ours = open_recogniser().cosine(photo, output, mask)
    measured = identity_cosine(load_reader(), (photo + 1) / 2, (output + 1) / 2, mask)
    torch.testing.assert_close(ours, measured, rtol=1e-4, atol=1e-5)
    by_path = open_recogniser(str(data_file("reader.safetensors")))
    assert by_path.id == open_recogniser().id and torch.equal(by_path.cosine(photo, output, mask), ours)


def test_given_landmarks_replace_the_readers(drawn: Path) -> None:
    recogniser, photo = open_recogniser(str(drawn)), pictures()
    read = recogniser.reader.read(photo).landmarks
    torch.testing.assert_close(recogniser.find(photo, landmarks=read), recogniser.find(photo))
    assert not torch.allclose(recogniser.find(photo, landmarks=read * 0.8), recogniser.find(photo))
    assert five_points(read).shape == (2, 5, 2)


def test_arcface_of_facexlib_is_wrapped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(arcface().half().state_dict(), tmp_path / "recognition_arcface_ir_se50.pth")
    recogniser = open_recogniser(str(tmp_path / "recognition_arcface_ir_se50.pth"))
    output = pictures(1).requires_grad_()
    embedded = recogniser.embed(output, recogniser.find(pictures(1)))
    embedded[:, 0].sum().backward()
    assert recogniser.id.startswith("arcface-") and embedded.shape == (1, 512) and float(output.grad.abs().max()) > 0
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(1))


def test_wrong_files_are_refused_in_one_line(tmp_path: Path, drawn: Path) -> None:
    state = MobileFaceNet().state_dict()
    odd = {
        "strange.pth": {"a": torch.zeros(2)},
        "list.pth": [1, 2],
        "number.pth": {"net_state_dict": 3},
        "short.ckpt": {"net_state_dict": {k: v for k, v in state.items() if "blocks.7.conv.0" not in k}},
        "shape.ckpt": {"net_state_dict": {**state, "linear1.conv.weight": torch.zeros(64, 512, 1, 1)}},
    }
    for name, content in odd.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "cut.ckpt").write_bytes(drawn.read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("no weights")
    words = {"short.ckpt": "blocks.7.conv.0", "shape.ckpt": "linear1.conv.weight", "cut.ckpt": "damaged"}
    for name in (*odd, "cut.ckpt", "text.pth", "absent.pth", "absent.safetensors"):
        with pytest.raises(TristyleError) as error:
            open_recogniser(str(tmp_path / name))
        line = str(error.value)
        assert "\n" not in line and name in line and words.get(name, "") in line, line


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no weights at {WEIGHTS}")
def test_mobilefacenet_knows_people_on_real_photos() -> None:
    groups = defaultdict(list)
    with open(PHOTOS / "manifest.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["person_group"] and row["subset"].startswith(("studio", "ytfaces")):
                groups[row["person_group"]].append(PHOTOS / row["file"])
    people = [paths[:2] for _, paths in sorted(groups.items()) if len(paths) > 1][:5]
    if len(people) < 2:
        pytest.skip("no two people with two photos each")
    photos = torch.cat([F.interpolate(to_tensor(read_image(p)), 256, mode="area") for pair in people for p in pair])
    recogniser = open_recogniser(str(WEIGHTS))
    embedded = recogniser.embed(photos, recogniser.find(photos))
    cosines = embedded @ embedded.T
    person = torch.arange(len(photos)) // 2
    same = person[:, None] == person[None]
    pairs = cosines[same & ~torch.eye(len(photos), dtype=torch.bool)]
    others = cosines[~same]
    assert float(pairs.mean()) > 0.5 > float(others.mean()) + 0.3
    assert float((pairs[:, None] > others[None]).float().mean()) > 0.95  # two photos of one person win nearly always
