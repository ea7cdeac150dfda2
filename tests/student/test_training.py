"""The student's batches, its losses, its training task and its stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tensors import mask_tensor, to_tensor
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.metrics.heldout import read_heldout
from stages.networks.face_reader import Reader
from stages.networks.mobile import MobileStudent, count_parameters
from stages.student import stage as student_stage
from stages.student.batches import load_pairs, paintable, pair_batches, prepared
from stages.student.pix2pix import Pix2Pix, Pix2PixWeights
from stages.student.score import read_teacher, score
from stages.training.fit import Update
from stages.training.loading import Allowance
from stages.training.losses import (
    chroma_l1,
    edge_strength,
    edge_weighted_l1,
    equivariance,
    feature_matching,
    matte_loss,
    moved,
    patch_hinge,
    random_similarities,
)
from tests.tools.tiny_pairs import STYLE, data_artifact, pair_artifact, toys


def test_losses_by_hand() -> None:
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1.0
    edges = edge_strength(step)
    assert edges[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 1, 1, 0, 0, 0])
    assert float(edge_weighted_l1(step + 0.1, step, gain=4.0)) == pytest.approx(0.1 * (6 * 1 + 2 * 5) / 8)
    assert float(patch_hinge(torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), -0.5))) == pytest.approx(0.5)
    real, fake = [torch.zeros(1, 2), torch.zeros(1, 4)], [torch.ones(1, 2), torch.full((1, 4), 3.0)]
    assert float(feature_matching(real, fake)) == pytest.approx(2.0)
    change = torch.tensor([[[[1.0, 0.0]]]])
    assert float(matte_loss(torch.tensor([[[[0.9, 0.4]]]]), change)) == pytest.approx(0.2)


def test_chroma_is_that_of_yuv() -> None:
    """U = 0.492 (B - Y), V = 0.877 (R - Y) with Rec. 601's Y, on [-1, 1]; an equal offset is no colour."""
    output, target = torch.rand(2, 1, 3, 4, 4) * 2 - 1
    red, green, blue = (output - target).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    by_hand = torch.stack([0.492 * (blue - luma), 0.877 * (red - luma)]).abs().mean()
    assert float(chroma_l1(output, target)) == pytest.approx(float(by_hand), rel=2e-3)
    assert float(chroma_l1(target + 0.3, target)) < 1e-3


def test_a_whole_pixel_motion_is_exact_and_half_of_the_draws_are() -> None:
    maps = random_similarities(torch.rand(400, 5), 8.0, 0.05, 0.05)
    whole = (maps[:, :, :2] == torch.eye(2)).all(dim=(1, 2)) & (maps[..., 2] == maps[..., 2].round()).all(dim=1)
    assert 160 < whole.sum() < 240 and maps[..., 2].abs().max() <= 8
    assert ((torch.linalg.det(maps[:, :, :2]).sqrt() - 1).abs() <= 0.0501).all()
    picture = torch.rand(1, 3, 16, 24) * 2 - 1
    seen, valid = moved(picture, torch.tensor([[[1.0, 0.0, 3.0], [0.0, 1.0, -2.0]]]))
    assert torch.allclose(seen[..., 2:, :-3], picture[..., :-2, 3:], atol=1e-5)
    assert valid[0, 0, 2:, :-3].all() and not valid[0, 0, :2].any() and not valid[..., -3:].any()


def test_a_motion_turns_about_the_centre_and_keeps_its_shape() -> None:
    """A quarter turn of a square is torch's; in a frame that is not square a turn does not shear."""
    picture = torch.rand(1, 3, 8, 8)
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    assert torch.allclose(moved(picture, quarter)[0], picture.rot90(1, (2, 3)), atol=1e-5)
    wide = torch.zeros(1, 1, 9, 25)
    wide[..., 4, 16] = 1.0  # 4 px right of the centre
    assert moved(wide, quarter)[0][0, 0].argmax() == 0 * 25 + 12  # 4 px above it


def test_equivariance_is_kept_by_what_moves_along_and_not_by_what_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    photo = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8, generator=generator), (64, 64), mode="bicubic")
    maps = random_similarities(torch.rand(4, 5, generator=generator), 8.0, 0.05, 0.05)
    along = moved(photo, maps)[0]
    assert float(equivariance(photo, along, maps)) < 1e-6
    assert float(equivariance(1 - photo, 1 - along, maps)) < 1e-6  # any change of each pixel by itself
    assert float(equivariance(photo, photo, maps)) > 0.02  # a picture that stays behind


def test_batches_are_a_pure_function_and_flip_pairs_together() -> None:
    photo, style, mask = toys(0, 10, 32)
    batches = pair_batches(photo, style, mask, seed=3)
    one, again, other = (prepared(batches(start, 4)) for start in (8, 8, 12))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["photo"], other["photo"])
    originals = torch.cat([to_tensor(photo), to_tensor(photo[:, :, ::-1])])
    styles = torch.cat([to_tensor(style), to_tensor(style[:, :, ::-1])])
    masks = paintable(torch.cat([mask_tensor(mask), mask_tensor(mask[:, :, ::-1])]))
    flipped = 0
    for start in range(0, 40, 4):
        batch = prepared(batches(start, 4))
        for index in range(4):
            match = [i for i in range(20) if torch.equal(batch["photo"][index], originals[i])]
            assert len(match) == 1
            assert torch.equal(batch["style"][index], styles[match[0]])
            assert torch.equal(batch["mask"][index], masks[match[0]])
            flipped += match[0] >= 10
    assert 8 < flipped < 32
    with pytest.raises(ValueError, match="not pairs"):
        pair_batches(photo, style[:3], mask, seed=0)


def test_every_parameter_gets_a_gradient() -> None:
    photo, style, mask = toys(0, 4, 32)
    batch = pair_batches(photo, style, mask, seed=0, blurred=True)(0, 4)
    task = Pix2Pix(tier="nano", warm_up=0.0, weights=Pix2PixWeights()).task(Train(images=8, batch=4, lr=1e-3), batch)
    with torch.no_grad():
        for name, value in task.student.named_parameters():
            if name.endswith("second.1.weight"):
                value.fill_(0.5)  # zero at the start by design, which hides the block behind it
    update = Update()
    for phase in task.phases:
        torch.stack(list(task.losses(phase.name, batch, update).values())).sum().backward()
    for name, value in task.named_parameters():
        if not name.startswith("student_ema."):
            assert value.grad is not None and value.grad.abs().sum() > 0, name
    assert all(value.grad is None for value in task.student_ema.parameters())


def test_the_warm_up_knows_no_discriminator() -> None:
    photo, style, mask = toys(0, 4, 32)
    batch = pair_batches(photo, style, mask, seed=0, blurred=True)(0, 4)
    task = Pix2Pix(tier="nano", warm_up=0.5, weights=Pix2PixWeights()).task(Train(images=16, batch=4, lr=1e-3), batch)
    assert "adversarial" not in task.losses("student", batch, Update(images=4))
    assert {"adversarial", "features"} <= set(task.losses("student", batch, Update(images=8)))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, object]]:
    """A tiny student stage, run; its folder and metrics."""
    torch.manual_seed(0)
    monkeypatch.setattr(student_stage, "load_reader", lambda: Reader((4, 4, 8, 8, 8), 4).eval())
    inputs = {"data": data_artifact(tmp_path / "data", 32), "pair": pair_artifact(tmp_path / "pair", 32)}
    stage = student_stage.StudentStage(
        model=Pix2Pix(tier="nano", weights=Pix2PixWeights()), train=Train(images=64, batch=8, lr=1e-3), target=STYLE
    )
    out = tmp_path / "student"
    (out / ".scratch").mkdir(parents=True)
    return out, stage.run(inputs, out, Runtime("cpu", 1, Tracker(out)))


def test_the_stage_writes_weights_pictures_and_scores(run: tuple[Path, dict[str, object]]) -> None:
    out, metrics = run
    student = load_network(out / "student.safetensors")
    assert isinstance(student, MobileStudent)
    assert sorted(path.name for path in (out / "heldout").iterdir()) == [f"{i:06d}.png" for i in range(6)]
    wanted = {"face_error", "photo_face_error", "face_ratio", "background_error", "kid", "photo_kid", "ssim_twin"}
    wanted |= {"frame_edge_clarity_ratio", "frame_flat_energy_ratio", "teacher_face_error", "flicker"}
    wanted |= {"edge_clarity_ratio", "clarity_sum_ratio", "identity", "parameters", "macs_256", "size", "reader"}
    assert wanted <= set(metrics)
    assert (metrics["parameters"], metrics["size"]) == (count_parameters(MobileStudent("nano")), 32)
    assert metrics["pairs"] == 23  # the pair that was not kept is not learnt from
    assert metrics["face_ratio"] == pytest.approx(metrics["face_error"] / metrics["photo_face_error"])  # type: ignore[operator]
    assert len((out / "records.jsonl").read_text().splitlines()) == 6


def test_a_perfect_student_scores_perfectly(tmp_path: Path) -> None:
    """The true twins as outputs: no face error, no background error, clarity 1 beside a perfect translator."""
    data, pair = data_artifact(tmp_path / "data", 64), pair_artifact(tmp_path / "pair", 64)
    people = read_heldout(data, STYLE, 1)
    teacher = read_teacher(pair, people, 1)
    assert people.twin is not None
    torch.manual_seed(0)
    means, rows = score(to_tensor(people.twin), people, teacher, Reader((4, 4, 8, 8, 8), 4).eval())
    assert means["face_error"] == 0 and means["background_error"] == 0
    assert means["photo_face_error"] > 0.03
    assert means["ssim_twin"] == pytest.approx(1, abs=1e-5)
    assert means["edge_clarity_ratio"] == pytest.approx(1, abs=0.02)
    assert np.isfinite(rows["face_error"]).all()
    photos, _ = score(to_tensor(people.photo), people, teacher, Reader((4, 4, 8, 8, 8), 4).eval())
    assert photos["face_ratio"] == pytest.approx(1)


def test_the_discriminator_refuses_blurred_edges_and_the_steadiness_rises_late() -> None:
    photo, style, mask = toys(0, 4, 32)
    batch = pair_batches(photo, style, mask, seed=0, blurred=True)(0, 4)
    train = Train(images=80, batch=4, lr=1e-3)
    task = Pix2Pix(tier="nano", warm_up=0.0, weights=Pix2PixWeights()).task(train, batch)
    update = Update()
    assert "equivariance" not in task.losses("student", batch, update)
    assert set(task.losses("discriminator", batch, update)) == {"hinge", "edge_promotion"}
    steady = {}
    for images in (40, 44, 60, 76):
        torch.manual_seed(0)
        steady[images] = task.losses("student", batch, Update(images)).get("equivariance", torch.zeros(())).item()
    assert steady[40] == 0 < steady[44] < steady[60] == pytest.approx(steady[76])
    plain = Pix2Pix(tier="nano", warm_up=0.0, weights=Pix2PixWeights(edge_promotion=0, equivariance=0)).task(
        train, batch
    )
    batch = pair_batches(photo, style, mask, seed=0)(0, 4)
    update = Update(images=76)
    assert "equivariance" not in plain.losses("student", batch, update)
    assert set(plain.losses("discriminator", batch, update)) == {"hinge"}


def test_a_training_begins_with_another_student_of_its_tier(tmp_path: Path) -> None:
    torch.manual_seed(7)
    other = MobileStudent("nano")
    save_network(tmp_path / "student.safetensors", other)
    train, batch = Train(images=8, batch=4, lr=1e-3), pair_batches(*toys(0, 4, 32), seed=0, blurred=True)(0, 4)
    for start in (tmp_path, tmp_path / "student.safetensors"):
        settings = Pix2Pix(tier="nano", start=str(start))
        assert settings.files() == {"model.start": tmp_path / "student.safetensors"}
        task = settings.task(train, batch)
        for network in (task.student, task.student_ema):
            assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    with pytest.raises(TristyleError, match="is of tier nano, not mid. Say student.model.tier=nano"):
        Pix2Pix(start=str(tmp_path)).task(train, batch)
    save_network(tmp_path / "reader.safetensors", Reader((4, 4, 8, 8, 8), 4))
    with pytest.raises(TristyleError, match="holds Reader, not a mobile student"):
        Pix2Pix(start=str(tmp_path / "reader.safetensors")).task(train, batch)


def test_bfloat16_computes_nearly_the_same_losses() -> None:
    batch, train = pair_batches(*toys(0, 4, 32), seed=0, blurred=True)(0, 4), Train(images=16, batch=4, lr=1e-3)
    exact, rounded = (
        Pix2Pix(tier="nano", warm_up=0.0, precision=kind).task(train, batch).losses("student", batch, Update(images=16))
        for kind in ("float32", "bfloat16")
    )
    assert exact.keys() == rounded.keys()
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert rounded[name].item() == pytest.approx(value.item(), rel=0.05, abs=0.01), name
    assert any(rounded[name] != value for name, value in exact.items())


def test_nothing_kept_is_said_in_one_line(tmp_path: Path) -> None:
    pair = pair_artifact(tmp_path / "pair", 32, pairs=1)
    with pytest.raises(TristyleError, match="no pair was kept"):
        load_pairs(pair, 1, Allowance())


@pytest.mark.parametrize(("settings", "key"), [({"tier": "huge"}, "tier"), ({"warm_up": 2.0}, "warm_up")])
def test_settings_out_of_range_are_refused(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Pix2Pix(weights=Pix2PixWeights(), **settings)  # type: ignore[arg-type]
    assert refused.value.key == key
    with pytest.raises(ConfigError) as refused:
        Pix2PixWeights(l1=float("nan"))
    assert refused.value.key == "l1"
