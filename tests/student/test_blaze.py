"""The blaze students through their stage: distilled, encoded, taught by few pictures; stopped, resumed, refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.artifact import Artifact, seal
from stages.core.files import write_jsonl
from stages.core.images import load_images, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tensors import to_tensor
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.networks.augment import AugmentPipe, softened
from stages.networks.blaze import BlazeEncoder, BlazeFaces, BlazePicture, BlazeStylizer, fitted
from stages.networks.latents import generator_id
from stages.student import blaze, blaze_fewshot
from stages.student import stage as student_stage
from stages.student.batches import photo_batches
from stages.student.blaze import Blaze, BlazeTask, check_groups
from stages.student.blaze_fewshot import BlazeFewShot, FewShotTask, FewShotWeights, finish_few_shot, open_start
from stages.student.blaze_finish import drawn
from stages.student.stage import StudentStage
from stages.student.teacher import open_teacher
from stages.style.few_pictures import FewPictures
from stages.training.draws import Draws
from stages.training.fit import Batches, Update, fit
from stages.training.losses import grid_error, perceptual_distance
from tests.tools import tiny_blaze
from tests.tools.tiny_pairs import STYLE, data_artifact, toys

SIZE = 32
PHOTOS = toys(0, 16, SIZE)[0]
MODEL = Blaze(channel_base=256, encoder_width=0.1, warm_up=0.0, ema_images=20, encoder_share=0.5)


@pytest.fixture(autouse=True)
def small_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of few channels everywhere."""
    for module in (blaze, blaze_fewshot, student_stage):
        monkeypatch.setattr(module, "load_reader", lambda *_: tiny_blaze.reader())


def settings(images: int = 32, batch: int = 8, **further: int) -> Train:
    return Train(images=images, batch=batch, lr=2e-3, seed=1, preview_images=10**6, **further)


def task(train: Train, model: Blaze = MODEL) -> BlazeTask:
    torch.manual_seed(1)
    return model.task(train, *tiny_blaze.teacher(SIZE), tiny_blaze.reader(), to_tensor(PHOTOS[:2]))


def trained(made: BlazeTask | FewShotTask, train: Train, folder: Path, batches: Batches) -> None:
    scratch = folder / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    fit(made, batches, train=train, scratch=scratch, runtime=Runtime("cpu", 1, Tracker(folder)), label="student")


def saved_teacher(folder: Path, size: int = 64) -> Path:
    for name, network in zip(("generator", "discriminator"), tiny_blaze.teacher(size), strict=True):
        save_network(folder / f"{name}.safetensors", network)
    return folder


def style_artifact(folder: Path, count: int = 3, size: int = 64) -> Artifact:
    pictures = folder / "pictures"
    for index, picture in enumerate(toys(50, count, size)[1]):
        write_image(pictures / f"{index}.png", picture)
    out = folder / "style"
    stage = FewPictures(pictures=str(pictures), size=size, target=STYLE, faces="square")
    stage.check()
    stage.run({}, out, Runtime("cpu", 1, Tracker(folder)))
    return seal(out, "style", config={}, inputs={}, metrics={})


def test_the_chain_from_teacher_to_style(tmp_path: Path) -> None:
    """A teacher is distilled and encoded, three pictures teach the result a style, and every network is kept."""
    data = data_artifact(tmp_path / "data", 64)
    model = Blaze(teacher=str(saved_teacher(tmp_path / "teacher")), channel_base=256, encoder_width=0.1)
    stage = StudentStage(model=model, train=settings(16, 4), target=STYLE)
    assert stage.reads == ("data",) and {"model.teacher", "model.teacher.discriminator"} <= set(stage.files())
    out = tmp_path / "students" / "first"
    out.mkdir(parents=True)
    metrics = stage.run({"data": data}, out, Runtime("cpu", 1, Tracker(tmp_path)))
    assert metrics["distance_ratio"] > 0 and metrics["photos"] > 0 and metrics["size"] == 64
    assert "macs_64" in metrics and "macs_256" not in metrics  # it takes pictures of 64 px only
    for name in ("teacher", "pyramid", "encoding"):
        assert (out / "preview" / f"{name}.png").exists()
    student, faces = (load_network(out / f"{name}.safetensors") for name in ("student", "faces"))
    assert isinstance(student, BlazeStylizer) and isinstance(faces, BlazeFaces)
    assert student.encoder.generator == generator_id(student.generator) == generator_id(faces.generator)

    # Few-shot: found by itself, since it is the newest blaze student; the encoder is the same, the generator is not.
    seal(out, "student", config={"model": {}}, inputs={}, metrics={})
    weights = FewShotWeights(style=100, content=0, identity=0, grid=0)  # so that a toy learns at once
    few = BlazeFewShot(students=str(out.parent), check_images=8, neighbours=1, weights=weights)
    second = StudentStage(model=few, train=settings(32, 4), target=STYLE)
    second.check()
    assert second.reads == ("data", "style") and few.files()["model.start.faces"] == out / "faces.safetensors"
    taught = tmp_path / "taught"
    taught.mkdir()
    inputs = {"data": data, "style": style_artifact(tmp_path / "style")}
    metrics = second.run(inputs, taught, Runtime("cpu", 1, Tracker(taught)))
    assert metrics["pictures"] == 3 and {"diversity", "style_distance", "start_style_distance"} <= set(metrics)
    result = load_network(taught / "student.safetensors")
    assert isinstance(result, BlazeStylizer) and (taught / "preview" / "few-shot.png").exists()
    for name, value in student.encoder.state_dict().items():
        assert torch.equal(value, result.encoder.state_dict()[name]), name
    assert generator_id(result.generator) != generator_id(student.generator)

    for index in range(11):
        write_image(tmp_path / "whole" / f"images/{index}.png", toys(index, 1, 64)[1][0])
    rows = [{"id": str(index), "image": f"images/{index}.png", "style": STYLE} for index in range(11)]
    write_jsonl(tmp_path / "whole" / "records.jsonl", rows)
    whole = seal(tmp_path / "whole", "style", config={}, inputs={}, metrics={})
    with pytest.raises(TristyleError, match="whole: 11 pictures, more than 10. Say style=pictures"):
        few.training(inputs | {"style": whole}, settings(16, 4), Runtime("cpu", 1, Tracker(tmp_path)))

    # What was taught a style lacks what the next would need, and holds an encoder of another generator.
    with pytest.raises(TristyleError, match="does not hold student, faces, discriminator.*the one that it was made"):
        open_start(taught)
    for name in ("faces", "discriminator"):
        shutil.copy(out / f"{name}.safetensors", taught / f"{name}.safetensors")
    with pytest.raises(TristyleError, match="holds an encoder of another generator.*Name the student"):
        open_start(taught)


@pytest.mark.parametrize("stop", [1, 3])  # in the distillation, in the encoder's part
def test_a_stopped_training_resumes_bit_for_bit(stop: int, tmp_path: Path) -> None:
    train = settings(checkpoint_images=8)
    assert_resumes(lambda: task(train), train, photo_batches(PHOTOS, 1), stop * 8, tmp_path)


def assert_resumes(
    make: Callable[[], BlazeTask | FewShotTask], train: Train, batches: Batches, killed: int, folder: Path
) -> None:
    """A training that is killed after so many images ends bit for bit like one that is not."""
    whole, resumed = make(), make()
    trained(whole, train, folder / "whole", batches)

    def failing(start: int, count: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
        if start >= killed:
            raise RuntimeError("killed")
        return batches(start, count, rows)

    with pytest.raises(RuntimeError, match="killed"):
        trained(make(), train, folder / "cut", failing)
    trained(resumed, train, folder / "cut", batches)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_micro_batches_train_as_the_whole_batch(tmp_path: Path) -> None:
    """Draws, groups and means are the whole batch's: what several processes of a torchrun rest on."""
    found = []
    for accumulate in (1, 2):
        train = settings(16, accumulate=accumulate)
        model = replace(MODEL, ema_images=0, encoder_share=0.0, precision="float32")
        made = task(train, model)
        trained(made, train, tmp_path / str(accumulate), photo_batches(PHOTOS, 1))
        found.append(made.generator.state_dict())
    # On the mean: Adam makes steps of rounding where a weight's gradient is almost none, differently on each processor.
    most = 0.0
    for name, value in task(settings()).generator.state_dict().items():
        moved, apart = (float((found[0][name] - other).abs().mean()) for other in (value, found[1][name]))
        assert apart <= 0.02 * moved, name
        most = max(most, moved)
    assert most > 1e-3


def test_bfloat16_computes_nearly_the_same_losses() -> None:
    batch = photo_batches(PHOTOS, 1)(0, 8)
    for images in (8, 24):  # the generator learns, then the encoder
        found = []
        for precision in ("float32", "bfloat16"):
            made = task(settings(), replace(MODEL, precision=precision)).train()
            torch.manual_seed(2)
            update = Update(images=images)
            found.append({name: v for p in made.phases for name, v in made.losses(p.name, batch, update).items()})
        exact, rounded = found
        assert exact.keys() == rounded.keys() and any(rounded[name] != value for name, value in exact.items())
        for name, value in exact.items():
            assert rounded[name].dtype == torch.float32
            assert rounded[name].item() == pytest.approx(value.item(), rel=0.05, abs=0.01), name


def test_only_one_part_learns_at_a_time() -> None:
    train = settings()
    made = task(train).train()
    batch = photo_batches(PHOTOS, 1)(0, 8)
    early, late = Update(images=0), Update(images=16)
    assert set(made.losses("generator", batch, early)) >= {"l1", "perceptual", "matte", "adversarial"}
    assert made.losses("encoder", batch, early) == {} and made.losses("discriminator", batch, early)
    assert made.losses("generator", batch, late) == {} and made.losses("r1", batch, late) == {}
    assert set(made.losses("encoder", batch, late)) == {"pixel", "perceptual", "identity", "regression", "delta"}
    soft = softened(batch["images"], 0.8)  # real pictures, not the teacher's, as soft as those
    assert torch.equal(made.real(batch["images"], early), soft)


def test_a_grid_is_an_error_and_hair_is_none() -> None:
    """A grid of 1 % in step with the sub-pixels counts in full; what points to all sides does not."""
    target = torch.rand(2, 3, 32, 32) * 2 - 1
    assert grid_error(target, target) == 0
    for rows, columns in ((1, 0), (0, 1), (1, 1)):
        step = (rows * torch.arange(32)[:, None] + columns * torch.arange(32)) % 2
        grid = 0.02 * (step.float() - 0.5)
        assert grid_error(target + grid, target).item() == pytest.approx(0.01 / 3, rel=1e-3)
    noise = 0.02 * (torch.randint(0, 2, (2, 3, 32, 32)).float() - 0.5)
    assert grid_error(target + noise, target) < 0.001


def test_styles_are_single_or_mixed() -> None:
    always = task(settings(), Blaze(channel_base=256, encoder_width=0.1, mixing=1.0)).styles(8, Draws())
    never = task(settings(), Blaze(channel_base=256, encoder_width=0.1, mixing=0.0)).styles(8, Draws())
    assert bool((never == never[:, :1]).all())
    assert bool((always[:, 0] != always[:, -1]).any(dim=1).all())


def few_shot(**given: object) -> tuple[FewShotTask, Train]:
    stylizer, faces = tiny_blaze.networks(64)
    train = settings(48, 4)
    pictures = to_tensor(toys(60, 3, 64)[1])
    model = BlazeFewShot(**{"check_images": 8, "neighbours": 2} | given)  # type: ignore[arg-type]
    return model.task(train, stylizer, faces, tiny_blaze.teacher(64)[1], tiny_blaze.reader(), pictures), train


def test_a_stopped_few_shot_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    train = replace(few_shot()[1], checkpoint_images=12)
    assert_resumes(lambda: few_shot()[0], train, photo_batches(toys(60, 3, 64)[1], 1), 28, tmp_path)


def test_codes_of_pictures_come_nearer_and_each_picture_gets_its_own() -> None:
    made, _ = few_shot(refine=20)
    known = torch.cat([made.pictures, made.pictures.flip(3)])
    with torch.no_grad():
        wanted, begun = made.reader.encode(known), made.encoder(known)
    codes = made.coded(known[[4, 1]])
    assert torch.equal(codes, made.codes[[4, 1]]) and not made.codes.requires_grad
    before, after = (
        perceptual_distance(made.reader.encode(drawn(made.start, ws)), wanted) for ws in (begun, made.codes)
    )
    assert bool((after < before).all())
    untouched, _ = few_shot(refine=0)
    assert torch.equal(untouched.coded(known), begun)


def test_the_discriminator_learns_from_all_that_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drawings of the pictures' own codes, and those of their neighbours."""
    (made, _), judged = few_shot(), []
    monkeypatch.setattr(AugmentPipe, "forward", lambda _, images, draws: judged.append(images) or images)
    update = Update()
    made.losses("generator", {"images": made.pictures}, update)
    generated = len(judged)
    made.losses("discriminator", {"images": made.pictures}, update)
    assert generated == 2 and torch.equal(judged[-1], softened(made.pictures, made.settings.soften))
    for drawing, fake in zip(judged[:2], judged[2:4], strict=True):
        assert torch.equal(drawing, fake)


def test_the_check_stops_before_faces_become_one(tmp_path: Path) -> None:
    made, train = few_shot()
    with torch.no_grad():  # a generator that draws one face only
        for parameter in (*made.generator.parameters(), *made.ema.parameters()):
            parameter.zero_()
    trained(made, train, tmp_path, photo_batches(toys(60, 3, 64)[1], 1))
    assert bool(made.stopped)
    for name, value in made.start.state_dict().items():
        assert torch.equal(value, made.kept.state_dict()[name]), name  # the best state was the start
    with pytest.raises(TristyleError, match="student.train: no check found .* nothing was learnt. Raise student.train"):
        finish_few_shot(made, tmp_path)
    assert not (tmp_path / "faces.safetensors").exists()


def test_a_state_farther_from_the_style_than_the_start_is_not_kept() -> None:
    made, _ = few_shot(floor=0.0)
    start = made.best.item()
    assert start == made.style_of(drawn(made.start, made.checked))
    with torch.no_grad():
        made.ema.load_state_dict({name: value + 0.3 for name, value in made.start.state_dict().items()})
    assert made._check()["style"] > start
    assert made.best.item() == start and made.checks.item() == 1
    assert all(torch.equal(value, made.kept.state_dict()[name]) for name, value in made.start.state_dict().items())


def test_every_picture_and_every_layer_counts() -> None:
    made, _ = few_shot()
    rows = made.look(made.pictures)
    assert len(rows) == len(made.perceptual.taps)
    for index in range(len(rows)):
        changed = [row + (0.5 if place == index else 0.0) for place, row in enumerate(rows)]
        assert float(made.style_loss(changed, rows)) > 0
    images = drawn(made.start, made.checked)
    before = made.style_of(images)
    made.pictures[2] = -made.pictures[2]  # the last one, in negative
    assert made.style_of(images) != before
    codes = made.encoder(made.pictures)
    mixed = made.mixed(codes, Draws())
    assert mixed.shape == (6, *codes.shape[1:])
    same = (mixed.unflatten(0, (2, 3)) == codes).all(dim=-1)
    assert same.any() and not same.all()


def test_the_adversary_of_a_drawn_style_learns_from_the_style(tmp_path: Path) -> None:
    """Photos beside a comic teacher would pull its student back to photographs."""
    data, run = data_artifact(tmp_path / "data", 64), Runtime("cpu", 1, Tracker(tmp_path))
    sealed = {
        target: seal(saved_teacher(tmp_path / target), "style", config={"target": target}, inputs={}, metrics={})
        for target in (STYLE, "photo", "other")
    }
    drawn_people = toys(30, 8, 64)[1]
    for index, picture in enumerate(drawn_people):
        write_image(data.path / "style" / STYLE / f"{index}.png", picture)
    pictures = to_tensor(drawn_people)
    known = torch.cat([pictures, pictures.flip(3)])
    for teacher, further in (("style", {"style": sealed[STYLE]}), (str(sealed[STYLE].path), {})):
        training = replace(MODEL, teacher=teacher).training({"data": data} | further, settings(), run)
        batch = training.batches(0, 8)
        real = batch["real"]
        assert all((known == one).flatten(1).all(1).any() for one in real)

        # the discriminator is shown them, and no photo
        task, update = training.task, Update(10)
        update.memory["fakes"] = batch["images"]
        shown, other = (
            task.losses("discriminator", batch | {"real": given}, update)["real"] for given in (real, -real)
        )
        same = task.losses("discriminator", batch | {"images": -batch["images"]}, update)["real"]
        assert shown == same != other

    plain = replace(MODEL, teacher=str(sealed["photo"].path)).training({"data": data}, settings(), run)
    assert set(plain.batches(0, 8)) == {"images"}
    with pytest.raises(TristyleError, match="draws other, and .* holds no pictures of that style. Give the data that"):
        replace(MODEL, teacher="style").training({"data": data, "style": sealed["other"]}, settings(), run)


def test_crops_at_full_size_are_the_same_in_both_pictures() -> None:
    """The reader sees 64 px: of 128 px it sees a crop, so a picture is like itself and unlike its neighbour."""
    torch.manual_seed(1)
    made = MODEL.task(settings(), *tiny_blaze.teacher(128), tiny_blaze.reader(), torch.zeros(2, 3, 128, 128))
    target = made.drawn(made.styles(4, Draws()))
    sizes = (32, 64, 128)

    def pyramid(of: torch.Tensor) -> list[BlazePicture]:
        return [BlazePicture(fitted(of, size), torch.zeros(4, 1, size, size)) for size in sizes]

    own, other = (made._held(pyramid(of), target) for of in (target, target.roll(1, 0)))
    assert own["l1"] < 1e-6 and own["perceptual"] < 1e-6 < 1e-3 < other["perceptual"]


def test_the_encoder_of_larger_photos_sees_what_the_small_one_sees() -> None:
    codes = BlazeEncoder(14, 16, 256, 0.1)(torch.zeros(2, 3, 256, 256))
    assert codes.shape == (2, 14, 16) and bool(codes.isfinite().all())


@pytest.mark.parametrize("name", ["generator", "base64_generator", "network"])
def test_a_teacher_brings_its_discriminator_by_whatever_name(tmp_path: Path, name: str) -> None:
    """Of a style artifact, of the shipped bases, and of a converted official file."""
    generator, discriminator = tiny_blaze.teacher(64)
    save_network(tmp_path / f"{name}.safetensors", generator)
    beside = tmp_path / f"{name.removesuffix('generator').removesuffix('_')}_discriminator.safetensors"
    beside = tmp_path / "discriminator.safetensors" if name == "generator" else beside
    save_network(beside, discriminator)
    teacher = str(tmp_path / f"{name}.safetensors")
    assert Blaze(teacher=teacher).files()["model.teacher.discriminator"] == beside
    opened = open_teacher(teacher, 64, {})[1].state_dict()
    assert all(torch.equal(value, opened[key]) for key, value in discriminator.state_dict().items())


def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_artifact(tmp_path / "data", 64)
    run = Runtime("cpu", 1, Tracker(tmp_path))
    cases: list[tuple[Blaze, Artifact, str]] = [
        (Blaze(teacher=str(saved_teacher(tmp_path / "small", 32))), data, "draws 32 px, the data has 64 px. Set data"),
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    nobody = seal(empty, "data", config={}, inputs={}, metrics={})
    cases.append((Blaze(), nobody, "holds no photos to train on. Set data.count"))
    for model, given, said in cases:
        with pytest.raises(TristyleError, match=said):
            model.training({"data": given}, settings(), run)

    with pytest.raises(
        TristyleError, match=r"ffhq.pkl holds foreign weights. Run: python -m stages.style.weights.conv"
    ):
        Blaze(teacher="ffhq.pkl").files()
    with pytest.raises(TristyleError, match="no base of 32 px is shipped. Set data.size to 64 or 128"):
        Blaze().training({"data": data_artifact(tmp_path / "d32", 32)}, settings(), run)
    with pytest.raises(ConfigError, match=r"train\.batch: 6 is not a multiple of 8"):
        check_groups(Train(images=8, batch=6, lr=1e-3, accumulate=2), 4)


def test_what_decides_about_few_pictures_enters_the_key(tmp_path: Path) -> None:
    """A refusal in a table above the folder, and other weights that find faces, make another style set."""
    write_image(tmp_path / "ink" / "0.png", np.full((64, 64, 3), 90, np.uint8))
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "detection_mobilenet0.25_Final.pth").touch()

    def files(faces: str) -> dict[str, Path]:
        stage = FewPictures(pictures=str(tmp_path / "ink"), size=64, target="ink", faces=faces, weights=str(weights))
        return stage.files()

    assert list(files("square")) == ["pictures"] and "detector" in files("aligned")
    (tmp_path / "sources.csv").write_text("pattern,consent\nink,yes\n")
    assert files("square")["sources.0"] == tmp_path / "sources.csv"


def test_few_pictures_are_counted_and_need_a_face(tmp_path: Path) -> None:
    for index in range(11):
        write_image(tmp_path / "many" / f"{index}.png", np.full((64, 64, 3), 90 + index, np.uint8))
    (tmp_path / "none").mkdir()

    def stage(folder: str, faces: str = "aligned") -> FewPictures:
        return FewPictures(pictures=str(tmp_path / folder), size=64, target="ink", faces=faces)

    with pytest.raises(TristyleError, match="holds 11 pictures, more than 10. Take the best"):
        stage("many").check()
    with pytest.raises(TristyleError, match="holds no picture that may be used. Put 1 to 10"):
        stage("none").check()
    (tmp_path / "many" / "sources.csv").write_text("pattern,licence,licence_class,consent,author\n*.png,,,no,\n")
    with pytest.raises(TristyleError, match="holds no picture that may be used"):
        stage("many").check()
    (tmp_path / "many" / "sources.csv").unlink()
    one = stage("many/3.png")
    one.check()
    with pytest.raises(TristyleError, match="3.png: no face was found. Leave it out, or say style.faces=square"):
        one.run({}, tmp_path / "out", Runtime("cpu", 1, Tracker(tmp_path)))
    assert not (tmp_path / "out" / "images").exists()
    done = stage("many/3.png", "square").run({}, tmp_path / "out", Runtime("cpu", 1, Tracker(tmp_path)))
    assert done["count"] == 1 and load_images([tmp_path / "out/images/000000.png"]).shape == (1, 64, 64, 3)
