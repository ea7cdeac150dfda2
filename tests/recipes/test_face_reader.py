"""The face reader: its parts against known answers, its training on a few rendered people, and the shipped weights."""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.files import data_file, sha256_file
from stages.core.images import write_image
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tracking import Tracker
from stages.core.weights import save_network
from stages.datasets.people import READER_HELDOUT
from stages.metrics.geometry import landmark_error
from stages.networks.face_labels import LANDMARK_MIRROR, READER_HEAD
from stages.networks.face_reader import LANDMARKS, Reader, expectation, load_reader
from stages.recipes import augment, people
from stages.recipes import face_reader as train
from stages.recipes import reader_score as score
from stages.recipes.finetune import finetune
from stages.training.fit import Update, fit

SMALL = {"widths": [8, 12, 12, 16], "lateral": 8}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> people.ReaderPictures:
    """Six held-out people, all views."""
    return people.render_people(tmp_path_factory.mktemp("people"), READER_HELDOUT, 6, workers=1)


# parts


def test_expectation_finds_a_peak_between_pixels() -> None:
    heat = torch.full((1, 1, 8, 16), -50.0)
    heat[0, 0, 2, 5] = heat[0, 0, 2, 6] = 20
    assert torch.allclose(expectation(heat)[0, 0], torch.tensor([6 / 16, 2.5 / 8]), atol=1e-5)


def test_the_mirror_order_undoes_itself_and_keeps_the_middle() -> None:
    order = np.array(LANDMARK_MIRROR)
    assert np.array_equal(order[order], np.arange(LANDMARKS))
    middle = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert [k for k in range(LANDMARKS) if order[k] == k] == middle


def test_landmarks_labels_and_picture_move_together(few: people.ReaderPictures) -> None:
    """A dot painted at a landmark is found where the moved landmark says, in the picture and in the labels."""
    torch.manual_seed(3)
    spots = torch.tensor([[0.4, 0.35], [0.62, 0.55]])
    image = torch.full((16, 3, 64, 64), -1.0)
    labels = torch.zeros(16, 64, 64, dtype=torch.long)
    for x, y in (spots * 64).long().tolist():
        image[:, :, y - 1 : y + 1, x - 1 : x + 1] = 1
        labels[:, y - 2 : y + 2, x - 2 : x + 2] = 3
    landmarks = torch.zeros(16, 68, 2) + 0.5
    landmarks[:, 36], landmarks[:, 45] = (spots * 64).floor()[0] / 64, (spots * 64).floor()[1] / 64
    theta, mirrored = augment.affine(16, image.device)
    augment_bend = augment.WOBBLE
    try:
        augment.WOBBLE = 0.0
        moved, tags = augment.warp(image, labels, theta)
    finally:
        augment.WOBBLE = augment_bend
    found = augment.move_landmarks(landmarks, theta, mirrored)
    assert mirrored.any() and not mirrored.all()
    for n in range(16):
        for k in (36, 45):
            x, y = (found[n, k] * 64).tolist()
            assert moved[n, 0, int(y), int(x)] > 0 and tags[n, int(y), int(x)] == 3
    # A mirrored left corner is a right one: 36 stays the one nearer the picture's left edge.
    assert (found[:, 36, 0] < found[:, 45, 0]).all()


def test_contrast_falls_when_people_separate() -> None:
    person = torch.arange(6).repeat_interleave(4)
    apart = torch.nn.functional.one_hot(person, 8).float()
    mixed = torch.nn.functional.normalize(torch.randn(24, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    near = apart @ apart.T / 0.1
    expected = np.mean([np.log(np.exp([float(near[i, j]) for j in range(24) if j != i]).sum()) - 10 for i in range(24)])
    assert float(train.contrast(apart, person)) == pytest.approx(expected, abs=1e-5)
    assert float(train.contrast(mixed, person)) > 2


def test_label_iou_matches_sets() -> None:
    source = np.random.default_rng(0)
    got, truth = source.integers(0, 12, (2, 3, 20, 20))
    expected = [np.sum((got == k) & (truth == k)) / np.sum((got == k) | (truth == k)) for k in range(12)]
    iou = score.label_iou(torch.from_numpy(got), torch.from_numpy(truth))
    assert np.allclose(iou[:12].numpy(), expected) and torch.isnan(iou[12])


def test_every_parameter_learns(few: people.ReaderPictures) -> None:
    torch.manual_seed(0)
    task = train.ReaderTask(Reader(**SMALL), 1e-3, few.batch(np.arange(2))["image"])
    batch = train.people_batches(few, 0)(0, 16)
    assert sorted(batch["person"].unique(return_counts=True)[1].tolist()) == [4, 4, 4, 4]
    sum(task.losses("read", batch, Update()).values()).backward()
    still = [name for name, value in task.reader.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []


def test_the_background_does_not_train_identity(few: people.ReaderPictures) -> None:
    """Identity's own gradient does not reach the parsing head: it may not bend what counts as a region."""
    reader = Reader(**SMALL)
    reader.identity(few.batch(np.arange(4))["image"])[:, 0].sum().backward()
    assert reader.parse[0].weight.grad is None and reader.who[0].weight.grad is not None


# training


def test_training_resumes_bit_equal(few: people.ReaderPictures, tmp_path: Path) -> None:
    def run(work: Path, lengths: list[int]) -> dict[str, torch.Tensor]:
        for length in lengths:
            torch.manual_seed(0)
            task = train.ReaderTask(Reader(**SMALL), 1e-3, few.batch(np.arange(2))["image"])
            settings = Train(images=length, batch=8, lr=1e-3, checkpoint_images=8, preview_images=1000)
            task.lr_factor = lambda images, total: 1.0  # type: ignore[method-assign]
            runtime = Runtime("cpu", 1, Tracker(work))
            fit(task, train.people_batches(few, 0), train=settings, scratch=work, runtime=runtime, label="reader")
        return task.state_dict()

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, parts = run(tmp_path / "a", [32]), run(tmp_path / "b", [16, 32])
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_rendering_is_cached_and_repeatable(few: people.ReaderPictures, tmp_path: Path) -> None:
    again = people.render_people(tmp_path, READER_HELDOUT, 2, workers=1)
    written = list(tmp_path.iterdir())
    stamp = written[0].stat().st_mtime_ns
    cached = people.render_people(tmp_path, READER_HELDOUT, 2, workers=1)
    assert len(written) == 1 and written[0].stat().st_mtime_ns == stamp
    assert np.array_equal(again.images, cached.images) and np.array_equal(again.images, few.images[: 2 * people.VIEWS])
    assert np.isfinite(few.pose).all() and (few.landmarks > -0.2).all() and (few.landmarks < 1.2).all()


def options(tmp_path: Path, **given: object) -> argparse.Namespace:
    values = {"images": str(tmp_path / "photo"), "masks": str(tmp_path / "mask"), "start": None, "lr": 2e-3, "seed": 0}
    values |= {"out": str(tmp_path / "tuned.safetensors"), "work": str(tmp_path / "work"), "length": 640, "workers": 1}
    return argparse.Namespace(**(values | given))


def test_finetuning_learns_a_shifted_mask(few: people.ReaderPictures, tmp_path: Path) -> None:
    """Masks that leave the hair out: something the shipped reader cannot know beforehand."""
    for row in range(40):
        write_image(tmp_path / f"photo/{row}.png", few.images[row])
        write_image(tmp_path / f"mask/{row}.png", np.isin(few.labels[row], (1, 2, 3, 4, 5)).astype(np.uint8) * 255)
    finetune(options(tmp_path))
    card = json.loads((tmp_path / "tuned.json").read_text())
    assert card["heldout"]["pictures"] == 4 and card["trained_on"] == 36
    assert card["heldout"]["head_iou"] > card["heldout"]["head_iou_before"] + 0.1
    tuned = load_reader(path=str(tmp_path / "tuned.safetensors"))
    image = few.batch(np.arange(8))["image"]
    kept, before = tuned.read(image), load_reader().read(image)
    assert float(landmark_error(kept.landmarks, before.landmarks).mean()) < 0.1


def test_finetuning_refuses_what_it_cannot_use(few: people.ReaderPictures, tmp_path: Path) -> None:
    (tmp_path / "photo").mkdir()
    (tmp_path / "mask").mkdir()
    with pytest.raises(TristyleError, match="0 pictures have a mask"):
        finetune(options(tmp_path))
    with pytest.raises(TristyleError, match="never overwritten"):
        finetune(options(tmp_path, out="data/reader.safetensors"))


# the shipped reader


def test_the_shipped_reader_matches_its_card() -> None:
    path = data_file("reader.safetensors")
    card = json.loads(path.with_suffix(".json").read_text())
    reader = load_reader()
    assert card["sha256"] == sha256_file(path) and reader.id == card["id"] == f"reader-{card['sha256'][:8]}"
    assert path.stat().st_size == card["bytes"] <= 2_000_000
    assert not any(value.requires_grad for value in reader.parameters())


def test_the_shipped_reader_reads_held_out_people(few: people.ReaderPictures) -> None:
    scores = score.score(load_reader(), few)
    for name in people.DOMAINS:
        assert scores[name]["head_iou"] > 0.9 and scores[name]["landmark_nme"] < 0.1, (name, scores[name])
    assert scores["photo"]["yaw"] < 5
    assert scores["identity photo-photo auc"] > 0.9
    assert scores["identity photo-comic auc"] > 0.85


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 256, 256), (70, 3, 48, 80)])
def test_any_size_is_read(few: people.ReaderPictures, shape: tuple[int, ...]) -> None:
    images = few.batch(np.arange(shape[0]) % 40)["image"]
    images = torch.nn.functional.interpolate(images, shape[2:], mode="bilinear")
    reading = load_reader().read(images)
    n = shape[0]
    assert reading.mask.shape == (n, 1, *shape[2:]) and 0 <= float(reading.mask.min()) <= float(reading.mask.max()) <= 1
    assert reading.parsing.shape == (n, 13, 64, 64) and reading.landmarks.shape == (n, 68, 2)
    assert reading.pose.shape == (n, 2) and reading.expression.shape == (n, 3)
    assert torch.allclose(reading.identity.norm(dim=1), torch.ones(n), atol=1e-5)
    assert torch.allclose(load_reader().features(images[:1]), reading.features[:1], atol=1e-4)


def test_features_are_well_scaled_for_kid(few: people.ReaderPictures) -> None:
    rows = np.arange(len(few) * people.VIEWS)
    grey = few.batch(rows)["image"] * few.head_mask(rows)
    features = load_reader().features(grey)
    assert 0.3 < float((features * features).mean()) < 3


def test_only_a_reader_is_loaded_as_reader(tmp_path: Path) -> None:
    other = torch.nn.Linear(2, 2)
    other.arguments = {}  # type: ignore[assignment]
    save_network(tmp_path / "other.safetensors", other)
    with pytest.raises(TristyleError, match="torch.nn"):
        load_reader(path=str(tmp_path / "other.safetensors"))


def test_head_labels_leave_neck_and_clothes_out() -> None:
    assert sorted({*range(13)} - {*READER_HEAD}) == [0, 8, 9]


def test_facexlib_can_be_imported() -> None:
    """The faces issue builds on it: the locked torch and torchvision must fit each other."""
    assert importlib.util.find_spec("facexlib") is not None
    import facexlib.detection
    import facexlib.parsing

    assert callable(facexlib.detection.init_detection_model) and callable(facexlib.parsing.init_parsing_model)
