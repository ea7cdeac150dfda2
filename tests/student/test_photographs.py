"""Photographs without twins in a student's training: their batches, their terms, and whose they may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.core.artifact import Artifact, seal
from stages.core.files import write_jsonl
from stages.core.images import write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tracking import Silent
from stages.core.weights import save_network
from stages.networks.face_reader import Reader
from stages.networks.mobile import MobileStudent
from stages.student.photographs import (
    Photographs,
    neck,
    open_photographs,
    parted,
    photograph_terms,
    with_photographs,
)
from stages.student.pix2pix import Pix2Pix
from stages.training.fit import Update
from stages.training.loading import Allowance
from tests.tools.tiny_pairs import STYLE, pair_artifact, toy

SIZE = 32


def pictures(path: Path, licence: str = "open", style: str = STYLE, size: int = SIZE) -> Artifact:
    """A sealed data set of five toy photographs with masks, and five style pictures of other people."""
    rows = []
    for i in range(5):
        for split, folder, number, kind in (("train", "photo", i, 0), ("style", f"style/{style}", 50 + i, 1)):
            masks = folder.replace("style/", "style_mask/").replace("photo", "mask")
            shown = toy(number, size)
            write_image(path / folder / f"{i:06d}.png", shown[kind])
            write_image(path / masks / f"{i:06d}.png", shown[2])
            row = {"id": f"{i:06d}", "split": split, "style": style if kind else None, "licence_class": licence}
            rows.append(row | {"photo": f"{folder}/{i:06d}.png", "mask": f"{masks}/{i:06d}.png"})
    write_jsonl(path / "records.jsonl", rows)
    return seal(path, "data", config={"size": size}, inputs={}, metrics={"size": size})


@pytest.fixture
def pairs(tmp_path: Path) -> Artifact:
    found = pair_artifact(tmp_path / "pair", SIZE, pairs=6)
    return Artifact(found.path, {**found.manifest, "config": {"target": STYLE}})


def student(tmp_path: Path, **settings: float) -> Pix2Pix:
    photographs = Photographs(path=str(tmp_path / "photographs"), **settings)  # type: ignore[arg-type]
    return Pix2Pix(tier="nano", discriminator_width=4, warm_up=0.0, photographs=photographs)


def test_batches_follow_from_their_numbers_and_carry_both_kinds(tmp_path: Path) -> None:
    data = pictures(tmp_path / "photographs")
    found = open_photographs(Photographs(path=str(data.path)), data, STYLE, SIZE, Allowance())
    batches = with_photographs(lambda start, count, rows=slice(None): {"photo": torch.zeros(1)}, found, 3)
    whole, again, other = batches(8, 4), batches(8, 4), batches(12, 4)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not torch.equal(whole["real"], other["real"])
    part = batches(8, 4, slice(1, None, 2))
    assert all(torch.equal(whole[name][1::2], part[name]) for name in whole if name != "photo")
    assert not torch.equal(whole["real"], whole["real_again"])
    rest, added = parted(whole)
    assert list(rest) == ["photo"] and added["real"].shape == added["drawn"].shape == (4, 3, SIZE, SIZE)
    assert (added["inside"] <= added["real_head"]).all() and (added["real_head"] <= added["free"]).all()
    assert parted(rest) == (rest, {})


def test_the_neck_is_free_and_the_rest_is_background() -> None:
    head = torch.zeros(1, 1, 20, 20)
    head[..., 4:14, 6:12] = 1
    free = neck(head)[0, 0]
    assert free[13:, 6:12].all() and not free[:9].any() and not free[:, :6].any() and not free[:, 12:].any()


def test_terms_by_hand() -> None:
    """A drawing that paints the head alone, and keeps still, loses nothing; one that does not loses its share."""
    head = torch.zeros(1, 1, 16, 16)
    head[..., 4:12, 4:12] = 1
    maps = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    real, output = {"free": head, "inside": head, "maps": maps}, torch.rand(1, 3, 16, 16)
    settings = Photographs(background=2, mask=3, equivariance=4)
    assert sum(map(float, photograph_terms(settings, real, output, output, head).values())) < 1e-5
    lost = photograph_terms(settings, real, output, output + 0.5, 1 - head)
    wanted = {"real_background": 2 * 0.75, "real_mask": 3 * 0.25, "real_equivariance": 4 * 0.5 * 0.25}
    assert {name: float(value) for name, value in lost.items()} == pytest.approx(wanted, rel=1e-3)


def test_a_student_learns_from_pairs_and_photographs(
    pairs: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    small = Reader(widths=(8, 8, 8, 8), lateral=8).eval().requires_grad_(False)
    monkeypatch.setattr("stages.student.pix2pix.load_reader", lambda device: small)
    data, train = pictures(tmp_path / "photographs"), Train(images=8, batch=4, lr=1e-3)
    training = student(tmp_path).training({"pair": pairs, "data": data}, train, Runtime("cpu", 1, Silent()))
    assert training.metrics == {"pairs": 5, "photographs": 5}
    assert training.further["licence_class"] == ["open"]  # the model will name their sources
    update, batch = Update(0), training.batches(0, 4)
    terms = training.task.losses("student", batch, update)
    names = {"real_background", "real_mask", "real_equivariance", "real_identity", "real_adversarial"}
    assert names <= terms.keys() and all(torch.isfinite(terms[name]) and terms[name] != 0 for name in names)
    sum(terms[name] for name in names).backward()
    moved = [p.grad is not None and bool(p.grad.any()) for p in training.task.phases[0].params]
    assert sum(moved) > len(moved) / 2  # residual blocks begin as the identity, without a gradient within
    hinge = training.task.losses("discriminator", batch, update)
    assert "real_hinge" in hinge and len(training.task.phases[1].params) > len(
        list(training.task.discriminator.parameters())  # type: ignore[union-attr]
    )

    # ... and those of the student that it began with
    first = tmp_path / "first.safetensors"
    save_network(first, MobileStudent("nano"), notes={"licence": "CC-BY-4.0", "licence_class": "open"})
    begun = replace(student(tmp_path), start=str(first))
    said = begun.training({"pair": pairs, "data": data}, train, Runtime("cpu", 1, Silent())).further
    assert "CC-BY-4.0" in said["licence"] and "unknown" in said["source"] and said["licence_class"] == ["open"]

    none = student(tmp_path, background=0, mask=0, equivariance=0, identity=0, adversarial=0)
    quiet = none.training({"pair": pairs, "data": data}, train, Runtime("cpu", 1, Silent()))
    terms = quiet.task.losses("student", batch, Update(0))
    assert all(not torch.as_tensor(terms.get(name, 0)).any() for name in names)
    late = Pix2Pix(tier="nano", warm_up=1.0, photographs=student(tmp_path).photographs)
    warm = late.training({"pair": pairs, "data": data}, train, Runtime("cpu", 1, Silent()))
    assert not names & warm.task.losses("student", batch, Update(0)).keys()


def test_what_may_not_be_trained_on_is_refused_in_one_line(tmp_path: Path) -> None:
    own = pictures(tmp_path / "own")
    research = pictures(tmp_path / "research", "research/non-commercial")
    large = pictures(tmp_path / "large", size=64)
    key = r"^student\.model\.photographs\.path: "
    for path, target, why in (
        (
            research,
            STYLE,
            r"holds pictures of licence class research/non-commercial\. Make it with data\.only=\[open\]",
        ),
        (large, STYLE, r"has 64 px, the pairs 32\. Make it with data\.size=32"),
        (own, "ink", r"there are no ink pictures in"),
    ):
        with pytest.raises(TristyleError, match=key + ".*" + why):
            open_photographs(Photographs(path=str(path.path)), own, target, SIZE, Allowance())
    with pytest.raises(TristyleError, match="no finished data artifact"):
        open_photographs(Photographs(path=str(tmp_path)), own, STYLE, SIZE, Allowance())
    allowed = Photographs(path=str(research.path), only=["open", "research/non-commercial"])
    assert len(open_photographs(allowed, own, STYLE, SIZE, Allowance()).photo) == 5
    for wrong in ({"only": []}, {"identity": -1.0}):
        with pytest.raises(ConfigError):
            Photographs(**wrong)  # type: ignore[arg-type]
    (tmp_path / "sources.csv").write_text("pattern,consent\nresearch/photo/000003.png,no\n")
    assert len(open_photographs(allowed, own, STYLE, SIZE, Allowance()).photo) == 4
    assert Photographs().files() == {} and list(allowed.files()) == ["model.photographs.path"]
