"""`style=expanded`: the editor's parts add up, its training resumes bit for bit, its artifact serves style and pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from stages.core.artifact import Artifact, seal
from stages.core.files import read_jsonl, write_jsonl
from stages.core.images import load_images, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tensors import to_tensor, to_uint8
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.networks.expanded import EditOutput, ExpandedEditor, bands, rgb_levels, summed, warped
from stages.networks.latents import check_editor, load_editor
from stages.networks.ops.resample import setup_filter
from stages.networks.stylegan2 import FIR_TAPS
from stages.style.expanded import encode, stage
from stages.style.expanded.classifier import Classify, LabelledBatches, read_attributes, train_classifier
from stages.style.expanded.labels import Edits, known, read_edits, read_labels
from stages.style.expanded.score import change_sheet, edit_sheet, score_editor, score_true_edits, within
from stages.style.expanded.stage import ExpandedStage
from stages.style.expanded.training import EditBatches, Editing, Expand, first_directions, shifted
from stages.style.inversion.e4e import Encode
from stages.style.inversion.modes import ModeSettings, reconstruct
from stages.style.inversion.optimise import decode
from stages.style.inversion.restyle import invert_iteratively, train_iterative
from stages.style.sampling.candidates import Sampling
from stages.training.fit import Update, fit
from tests.bench import expanded as bench
from tests.tools import tiny_editor as tiny
from tests.tools.pair_toys import heads, small_reader


def photos(count: int = 3, seed: int = 1) -> torch.Tensor:
    return to_tensor(heads(count, seed, False, tiny.SIZE)[0])


def runtime(path: Path) -> Runtime:
    return Runtime("cpu", 1, Tracker(path))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny.data(tmp_path_factory.mktemp("data"))


# The network


def test_levels_and_bands_add_up() -> None:
    generator, taps = tiny.generator(), setup_filter(FIR_TAPS)
    ws = generator.mapping(torch.randn(2, 8))
    drawn = generator.synthesis(ws, "const")
    assert torch.equal(summed(rgb_levels(generator.synthesis, ws), taps), drawn)
    image = torch.randn(2, 3, 32, 32)
    parts = bands(image, 4, taps)
    assert [part.shape[-1] for part in parts] == [4, 8, 16, 32]
    torch.testing.assert_close(summed(parts, taps), image, rtol=0, atol=1e-5)


GATE = 0.952574  # what gates begin with, the sigmoid of 3


def opened(out: EditOutput, wanted: torch.Tensor) -> torch.Tensor:
    """What is wanted, through gates as they begin: those of coarse bands."""
    taps = setup_filter(FIR_TAPS)
    missed = bands(wanted - out.styled, 4, taps)
    return out.styled + summed([GATE * band for band in missed[:3]] + missed[3:], taps)


def test_an_untrained_editor_adds_the_style_branchs_change_to_the_photo() -> None:
    task, _, _ = tiny.training()
    editor, shown = task.editor.eval(), photos()
    out = editor.edit(shown, torch.tensor([[1.0, 0, 0]]).expand(3, -1))
    style_only = editor.edit(shown, torch.tensor([[1.0, 0, 0]]).expand(3, -1), content=0.0)
    assert torch.equal(style_only.edited, out.styled) and not torch.equal(out.styled, out.inverted)
    torch.testing.assert_close(out.edited, opened(out, shown + GATE * (out.styled - out.inverted)), rtol=0, atol=1e-3)
    unstyled = editor.edit(shown, torch.ones(3, 3), style=0.0)
    assert torch.equal(unstyled.styled, out.inverted) and not unstyled.change.any()


def test_a_flow_says_from_where_content_comes() -> None:
    """No flow, no change; a pixel to the right shows the right neighbour; beyond the border, the rim."""
    image, flow = torch.randn(2, 3, 8, 8), torch.zeros(2, 2, 8, 8)
    torch.testing.assert_close(warped(image, flow), image)
    flow[:, 0] = 1 / 8
    torch.testing.assert_close(warped(image, flow)[..., :-1], image[..., 1:])
    torch.testing.assert_close(warped(image, flow)[..., -1], image[..., -1])


def test_the_reconstruction_moves_with_the_photo() -> None:
    """Where a head turns, the style branch's change shows on the photo moved, less what the move alone gives."""
    editor, shown = tiny.training()[0].editor.eval(), photos()
    with torch.no_grad():
        editor.content.give[1].bias[3] = 1.0  # of the finest level that says a flow, in tenths of the side
    out = editor.edit(shown, torch.tensor([[1.0, 0, 0]]).expand(3, -1))
    flow = torch.zeros(3, 2, tiny.SIZE, tiny.SIZE)
    flow[:, 0] = 0.1
    torch.testing.assert_close(out.warped, warped(shown, flow))
    torch.testing.assert_close(out.change, out.styled - warped(out.inverted, flow))
    assert not editor.edit(shown, torch.ones(3, 3), style=0.0).change.any()
    torch.testing.assert_close(out.edited, opened(out, out.warped + GATE * out.change), rtol=0, atol=1e-3)


def test_without_a_warp_the_content_branch_moves_nothing() -> None:
    for warp in (True, False):
        branch = tiny.editor(warp=warp).content
        maps = [torch.randn(2, 16, r, r) for r in (32, 16, 8, 4)]
        found = branch(*torch.randn(3, 2, 3, tiny.SIZE, tiny.SIZE), torch.ones(2, 3), maps)
        assert (found.flow is None) == (not warp)
        assert not warp or (found.flow.shape == (2, 2, tiny.SIZE, tiny.SIZE) and found.flow.abs().max() > 0)


def test_a_local_edit_stays_in_its_region() -> None:
    editor, shown = tiny.editor(), photos()
    region = torch.zeros(3, 1, 32, 32)
    region[..., 20:28, 10:22] = 1
    strengths = torch.tensor([[2.0, -1.0, 1.0]]).expand(3, -1)
    kept, edited = editor(shown, torch.zeros(3, 3)), editor.local(shown, strengths, region)
    change = (edited - kept).abs()
    assert (change * (1 - region)).max() == 0 and (change * region).max() > 1e-3


def test_restyled_photos_keep_their_background() -> None:
    editor, shown, fused = tiny.editor(), photos(), tiny.generator(seed=9)
    head = torch.zeros(3, 1, 32, 32)
    head[..., 8:24, 8:24] = 1
    made = editor.restyle(shown, head, fused, editor.encoder(shown))
    assert torch.equal(made * (1 - head), shown * (1 - head))
    assert ((made - shown).abs() * head).mean() > 0.01


def test_an_editor_survives_its_file_and_knows_its_generator(tmp_path: Path) -> None:
    editor, shown = tiny.editor(), photos(1)
    save_network(tmp_path / "editor.safetensors", editor)
    again = load_editor(tmp_path)
    strengths = torch.tensor([[1.0, 0.5, -1.0]])
    assert torch.equal(again(shown, strengths), editor(shown, strengths))
    check_editor(again, tiny.generator(), "style.sampling.editor", "KEY")
    with pytest.raises(TristyleError, match="style.sampling.editor: KEY edits the photos of another generator. Train"):
        check_editor(again, tiny.generator(seed=1), "style.sampling.editor", "KEY")
    with pytest.raises(TristyleError, match="no such editor. Name the folder"):
        load_editor(tmp_path / "none")
    save_network(tmp_path / "editor.safetensors", tiny.generator())
    with pytest.raises(TristyleError, match="holds Generator, not an editor"):
        load_editor(tmp_path)


def test_what_moves_learns_from_the_true_edit() -> None:
    """Heads that went right ask for content from the left, by more than a pixel: coarse scales see where they went."""
    task, _, _ = tiny.training(motion=1.0)
    pull = task.editor.content.give[1].bias  # of the finest level that says a flow, to the right
    images = to_tensor(heads(8, 0, False, tiny.SIZE)[0])
    for step in (-5, 5):
        batch = {"images": images, "edited": images.roll(step, 3), "strengths": torch.eye(3)[[2]].expand(8, -1)}
        terms = task.losses("editor", batch, Update())
        (gradient,) = torch.autograd.grad(terms["motion"], pull)
        assert gradient[3] * step > 0


# Labels and classifier


def test_labels_are_numbers_and_kinds(data: Artifact) -> None:
    labels = read_labels(data, ["gender", "age", "yaw"])
    assert labels.binary == (True, False, False) and labels.raw[:4, 0].tolist() == [0, 1, 0, 1]
    assert np.allclose(labels.values[:, 1:].mean(axis=0), 0, atol=1e-6) and np.allclose(
        labels.values[:, 1:].std(axis=0), 1
    )
    assert labels.signs.tolist() == [1, 1, -1]
    held = read_labels(data, ["gender", "age", "yaw"], "heldout", labels)
    assert len(held.raw) == 6 and held.mean is labels.mean
    assert known([row for row in data.records() if row["split"] == "train"]) == ["age", "gender", "yaw", "glasses"]


def test_held_out_people_may_all_be_of_one_kind(tmp_path: Path) -> None:
    data = tiny.data(tmp_path)
    rows = read_jsonl(data.path / "records.jsonl")
    for row in rows:
        row["attributes"]["sex"] = "male" if row["split"] == "heldout" else row["attributes"]["sex"]
    write_jsonl(data.path / "records.jsonl", rows)
    labels = read_labels(data, ["gender"])
    assert read_labels(data, ["gender"], "heldout", labels).raw.tolist() == [[1]] * 6
    with pytest.raises(TristyleError, match="does not label shoe"):
        read_labels(data, ["shoe"], "heldout", labels)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["shoe"], "does not label shoe. Choose of: age, gender, yaw, glasses"),
        (["hair"], "does not label hair"),  # of more than two kinds
        (["glasses"], "fewer than 8 photos differ in glasses. Use more photos, or leave it out"),
    ],
)
def test_attributes_that_cannot_be_learned_are_refused(data: Artifact, names: list[str], said: str) -> None:
    with pytest.raises(TristyleError, match=said):
        read_labels(data, names)


def test_mirrored_photos_turn_the_other_way(data: Artifact) -> None:
    labels = read_labels(data, ["age", "yaw"])
    shown = heads(24, 0, False, tiny.SIZE)[0]
    plain, mirrored = (LabelledBatches(shown, labels, 0, mirror)(0, 24) for mirror in (False, True))
    flipped = (plain["images"] != mirrored["images"]).flatten(1).any(dim=1)
    assert 4 < flipped.sum() < 20
    assert torch.equal(plain["labels"][:, 0], mirrored["labels"][:, 0])
    assert torch.equal(plain["labels"][flipped, 1], -mirrored["labels"][flipped, 1])
    assert torch.equal(plain["images"][flipped], mirrored["images"][flipped].flip(3))


def test_a_classifier_learns_what_is_to_be_seen(data: Artifact, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    light = rng.uniform(60, 200, 96)
    shown = np.clip(light[:, None, None, None] + rng.normal(0, 8, (96, 32, 32, 3)), 0, 255).astype(np.uint8)
    rows = [
        {
            "id": f"{i:03d}",
            "split": "train",
            "photo": "",
            "attributes": {"age": float(v), "hat": ("none", "cap")[int(v > 130)]},
        }
        for i, v in enumerate(light)
    ]
    write_jsonl(tmp_path / "records.jsonl", rows)
    labels = read_labels(seal(tmp_path, "data", config={}, inputs={}, metrics={}), ["age", "hat"])
    settings = Classify(train=Train(images=768, batch=16, lr=3e-3), light=0.0)
    (tmp_path / "scratch").mkdir()
    made = train_classifier(shown, labels, settings, tmp_path / "scratch", runtime(tmp_path), small_reader())
    seen = read_attributes(made, shown)
    assert np.corrcoef(seen[:, 0], light)[0, 1] > 0.9
    assert ((seen[:, 1] > 0.5) == (light > 130)).mean() > 0.85


class Colours(torch.nn.Module):
    """Reads the mean of red, green and blue."""

    is_binary = torch.zeros(3, dtype=torch.bool)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def test_first_directions_move_one_reading_each() -> None:
    generator, seer = tiny.generator(), Colours()
    moves = first_directions(generator, seer, 0.05)  # type: ignore[arg-type]
    w = generator.mapping(torch.randn(200, 8, generator=torch.Generator().manual_seed(5)))
    before = seer(decode(generator, w))
    for k in range(3):
        change = (seer(decode(generator, w + moves[k])) - before).mean(dim=0)
        others = [float(change[i].abs()) for i in range(3) if i != k]
        assert 0.02 < change[k] < 0.12 and change[k] > 2 * max(others)


def test_wanted_attributes_follow_the_strengths() -> None:
    seen = torch.tensor([[0.2, 0.9, -1.0]])
    binary = torch.tensor([False, True, False])
    wanted = shifted(seen, torch.tensor([[1.0, -1.0, 0.0]]), binary, 1.5)
    assert wanted.tolist() == [pytest.approx([1.7, 0.03, -1.0])]
    assert torch.equal(shifted(seen, torch.zeros(1, 3), binary, 1.5), seen)


# The training


def test_training_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(folder: Path) -> dict[str, torch.Tensor]:
        task, batches, length = tiny.training()
        folder.mkdir(exist_ok=True)
        fit(task, batches, train=length, scratch=folder, runtime=runtime(folder), label="editor")
        return task.finished().state_dict()

    whole, after_update = train(tmp_path / "a"), Editing.after_update

    def stop(self: Editing, images: int, batch: int) -> dict[str, float]:
        if images >= 16:
            raise KeyboardInterrupt
        return after_update(self, images, batch)

    monkeypatch.setattr(Editing, "after_update", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b")
    monkeypatch.setattr(Editing, "after_update", after_update)
    resumed = train(tmp_path / "b")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    before = tiny.generator().state_dict()
    assert all(torch.equal(value, whole[f"generator.{name}"]) for name, value in before.items())


def test_true_edits_count_in_steps_and_turn_with_a_mirrored_photo(tmp_path: Path) -> None:
    source = tiny.data(tmp_path)
    rows = read_jsonl(source.path / "records.jsonl")
    wanted = {"age": 60, "sex": "male", "yaw": -12.0, "hat": "cap"}  # the last one no editor here knows
    for i, row in enumerate(rows):
        name = list(wanted)[i % 4]
        row["edit"] = {"attribute": name, "value": wanted[name], "photo": row["photo"]}
    write_jsonl(source.path / "records.jsonl", rows)
    labels, edits = read_labels(source, tiny.NAMES), read_edits(source, tiny.NAMES, 1.5)
    assert edits is not None
    assert edits.strengths[0] == pytest.approx([(60 - labels.raw[0, 0]) / labels.deviation[0] / 1.5, 0, 0], rel=1e-5)
    assert edits.strengths[1].tolist() == [0, 1 - labels.raw[1, 1], 0] and not edits.strengths[3].any()

    given = load_images(edits.files)
    for start in (0, 24):
        batch = EditBatches(given, given[:, ::-1], edits, 5, True)(start, 24)
        turned = batch["strengths"][:, 2].sort().values
        assert torch.equal(batch["edited"], batch["images"].flip(2))
        assert len(turned[turned > 0]) and len(turned[turned < 0])  # both ways, as photos are mirrored

    # An edit that is stronger than an editor's strongest is not scored.
    strong = np.array([[0, 2, 0], [-2.1, 0, 0], [0, 0, 1.9]], np.float32)
    assert within(Edits(edits.files[:3], strong, edits.signs), 2).tolist() == [0]

    del rows[0]["edit"]
    write_jsonl(source.path / "records.jsonl", rows)
    with pytest.raises(TristyleError, match=r"only some photos have a true edit\. Make the data again"):
        read_edits(source, tiny.NAMES, 1.5)


def test_an_editor_learns_true_edits(tmp_path: Path) -> None:
    """Trained on heads that redden with age, edits come near the true ones; with truth=0 they do not."""
    batches, shown, changed = tiny.true_edits()
    names = [tmp_path / f"{i}.png" for i in range(len(shown))]
    for name, picture in zip(names, changed, strict=True):
        write_image(name, picture)
    errors = {}
    for weight in (20.0, 0.0):
        task, _, length = tiny.training(320, 1e-2, truth=weight, attribute=0.0, alignment=0.0, pixel=0.0, identity=0.0)
        (tmp_path / str(weight)).mkdir()
        fit(task, batches, train=length, scratch=tmp_path / str(weight), runtime=runtime(tmp_path), label="editor")
        edits = Edits(names, batches.edits.strengths, batches.edits.signs)
        errors[weight] = score_true_edits(task.finished(), shown, edits)["edit_error_age"]
    assert errors[20.0] < 0.7 < 0.9 < errors[0.0]


def test_shrinkage_makes_zeros(tmp_path: Path) -> None:
    shares = {}
    for weight in (0.0, 1.0):
        task, batches, length = tiny.training(48, direction_lr=0.02, sparsity=weight)
        (tmp_path / str(weight)).mkdir()
        fit(task, batches, train=length, scratch=tmp_path / str(weight), runtime=runtime(tmp_path), label="editor")
        shares[weight] = float((task.finished().directions == 0).float().mean())
    assert shares[0.0] == 0 and shares[1.0] > 0.05


def test_no_content_branch_is_the_style_branch() -> None:
    editor = tiny.editor(content=False)
    out = editor.edit(photos(), torch.ones(3, 3))
    assert torch.equal(out.edited, out.styled)


@pytest.mark.parametrize("changes", [{"step": 0}, {"sparsity": 2}, {"alignment": -1}, {"width": 8, "widest": 4}])
def test_bad_settings_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError):
        Expand(**changes)


# The stage


def settings(generator: Path, **changes: object) -> ExpandedStage:
    short = Train(images=8, batch=4, lr=1e-3)
    given = {
        "start": str(generator), "attributes": ["age", "gender", "yaw"], "train": short, "encode": Encode(train=short),
        "sampling": Sampling(count=3), "expand": Expand(width=4, widest=8), "classify": Classify(train=short),
        "modes": ModeSettings(steps=2, pivot=2, tuning=2), "shown": 2,
    }  # fmt: skip
    return ExpandedStage(**given | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(data: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A whole stage, tiny, that scores fewer photos than are held out."""
    root = tmp_path_factory.mktemp("made")
    save_network(root / "start.safetensors", tiny.generator())
    out = root / "style"
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "MOST_SCORED", 5)
        metrics = settings(root / "start.safetensors", iterative=True).run({"data": data}, out, runtime(out))
    return seal(out, "style", config={"target": "photo"}, inputs={"data": data}, metrics=metrics)


def test_the_stage_writes_editor_classifier_and_sheets(made: Artifact) -> None:
    names = {path.name for path in made.path.iterdir()}
    assert names >= {f"{name}.safetensors" for name in ("editor", "encoder", "classifier", "iterative", "generator")}
    assert names >= {"editing.png", "change.png", "modes.png", "records.jsonl", "lineage.json"}
    wanted = {
        "editor_psnr",
        "editor_ssim",
        "encoder_psnr",
        "moved_age",
        "moved_yaw",
        "leak",
        "edit_background_error",
        "directions_used",
    }
    assert wanted | {"classifier_age", "classifier_gender"} <= made.metrics.keys()
    assert made.metrics["editor_psnr"] > made.metrics["encoder_psnr"] + 10
    assert all(np.isfinite(value) for value in made.metrics.values() if not isinstance(value, str))


def test_the_stage_learns_from_true_edits_and_measures_against_them(tmp_path: Path) -> None:
    save_network(tmp_path / "start.safetensors", tiny.generator())
    source = tiny.data(tmp_path / "data")
    rows = read_jsonl(source.path / "records.jsonl")
    for row in rows:
        picture = load_images([source.path / row["photo"]])[0]
        row["edit"] = {"attribute": "age", "value": 90, "photo": row["photo"].replace("photo/", "edit/")}
        write_image(source.path / row["edit"]["photo"], picture[::-1])
    write_jsonl(source.path / "records.jsonl", rows)
    for name, classifier in (("own", None), ("another's", str(tmp_path / "own"))):
        out = tmp_path / name
        out.mkdir()
        which = settings(tmp_path / "start.safetensors", classifier=classifier)
        metrics = which.run({"data": source}, out, runtime(out))
        assert metrics["edit_error"] == metrics["edit_error_age"] > 0
        assert "edit_error_yaw" not in metrics
    assert "truth" in next(row for row in read_jsonl(out / "log.jsonl") if row["phase"] == "editor/editor")


def test_another_editor_can_use_its_classifier(
    made: Artifact, data: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = made.path / "generator.safetensors"
    which = settings(start, classifier=str(made.path))
    assert which.files()["classifier"] == made.path
    which.run({"data": data}, tmp_path, runtime(tmp_path))
    assert (tmp_path / "classifier.safetensors").read_bytes() == (made.path / "classifier.safetensors").read_bytes()
    monkeypatch.setattr(stage, "load_encoder", None)  # what cannot be is said before any training
    with pytest.raises(TristyleError, match=r"reads age, gender, yaw. Set style.attributes=\[age,gender,yaw\]"):
        settings(start, classifier=str(made.path), attributes=["age"]).run({"data": data}, tmp_path, runtime(tmp_path))


def test_what_the_stage_refuses(data: Artifact, tmp_path: Path) -> None:
    for changes, said in (
        ({"attributes": []}, "attributes: .* is not a list of attributes"),
        ({"attributes": ["age", "age"]}, "names one twice"),
        ({"start": "scratch"}, "start: an editor needs a trained generator"),
        ({"train": Train(images=8, batch=5, lr=1e-3)}, "train.batch: 5 is not a multiple of 2"),
        ({"target": "comic"}, "target: 'comic' is unknown. Choose one of: photo"),
        ({"sampling": Sampling(source="invert")}, "sampling.source: the editor's own set"),
    ):
        with pytest.raises(ConfigError, match=said):
            settings(tmp_path, **changes)
    with pytest.raises(TristyleError, match="draws 64 px, the data has 32 px. Set data.size=64"):
        settings("base").run({"data": data}, tmp_path, runtime(tmp_path))  # type: ignore[arg-type]


def test_an_editor_of_another_generator_is_refused_before_the_training(
    made: Artifact, data: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "train_encoder", lambda *_: pytest.fail("trained"))
    save_network(tmp_path / "other.safetensors", tiny.generator(seed=3))
    sampling = Sampling(count=2, source="expanded", editor=str(made.path))
    with pytest.raises(TristyleError, match="style.sampling.editor: .* edits the photos of another generator. Train"):
        settings(tmp_path / "other.safetensors", sampling=sampling).run({"data": data}, tmp_path, runtime(tmp_path))


def test_sampling_through_an_editor_needs_one() -> None:
    with pytest.raises(ConfigError, match="editor: source=expanded needs one. Name the folder of a style=expanded"):
        Sampling(source="expanded")
    with pytest.raises(ConfigError, match="editor: only source=expanded takes one, not random"):
        Sampling(editor="runs/style/KEY")
    with pytest.raises(ConfigError, match="mix_from: latents of source=expanded are mixed with nothing"):
        Sampling(source="expanded", editor="runs/style/KEY", mix_from=16)


def test_a_style_set_through_the_editor_follows_the_photos(made: Artifact, data: Artifact, tmp_path: Path) -> None:
    sampling = Sampling(count=4, source="expanded", editor=str(made.path))
    which = settings(made.path / "generator.safetensors", sampling=sampling, classifier=str(made.path))
    which.run({"data": data}, tmp_path, runtime(tmp_path))
    rows = read_jsonl(tmp_path / "records.jsonl")
    assert [set(row) >= {"photo", "image"} and "seed" not in row for row in rows] == [True] * 4
    assert load_file(tmp_path / "latents.safetensors")["ws"].shape == (4, 8, 8)
    for row in rows:  # corners are background, and stay
        true, own = load_images([data.path / "photo" / f"{row['photo']}.png", tmp_path / row["image"]]).astype(int)
        assert np.abs(true - own)[0, 0].max() <= 40 and np.abs(true - own).mean() > 0.5


# Modes


def test_modes_reconstruct_and_tuning_comes_nearest(tmp_path: Path) -> None:
    generator, shown = tiny.generator(), photos(2)
    pooled = lambda images: [images, F.avg_pool2d(images, 4)]  # noqa: E731
    errors = {}
    for mode in ("optimise", "pivotal", "encoder"):
        plan = ModeSettings(steps=30, pivot=20, tuning=60, tuning_lr=3e-3)
        found = reconstruct(mode, generator, shown, plan, pooled, tiny.encoder(generator))
        errors[mode] = float((found.draw() - shown).square().mean())
        assert len(found.own) == (2 if mode == "pivotal" else 0)
        assert not torch.equal(found.draw(lambda ws: ws + 1), found.draw())
    assert errors["pivotal"] < errors["optimise"] < errors["encoder"]
    with pytest.raises(ValueError, match="iterative"):
        reconstruct("iterative", generator, shown, ModeSettings(), pooled)


def test_an_iterative_encoder_comes_nearer_with_every_step(tmp_path: Path) -> None:
    generator = tiny.generator()
    with torch.no_grad():
        samples = decode(generator, generator.mapping(torch.randn(32, 8, generator=torch.Generator().manual_seed(1))))
    plan = Encode(train=Train(images=160, batch=4, lr=2e-3), identity=0.0)
    made = train_iterative(generator, to_uint8(samples), plan, tmp_path, runtime(tmp_path), small_reader())
    errors = [
        float((decode(generator, invert_iteratively(made, generator, samples, steps)) - samples).square().mean())
        for steps in (0, 1, 5)
    ]
    assert errors[0] > errors[1] and errors[2] < errors[0]


def test_encode_compares_modes_and_refuses_in_one_line(
    made: Artifact, data: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [str(made.path), str(data.path), "-o", str(tmp_path / "out"), "--count", "2"]
    encode.main([*common, "--compare", "--steps", "2", "--tuning", "2"])
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:]] == [
        "editor",
        "optimise",
        "encoder",
        "iterative",
        "pivotal",
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"modes.json", "modes.png"}
    encode.main(common)
    assert load_file(tmp_path / "out/latents.safetensors")["ws"].shape == (2, 8, 8)
    for words, line in (
        ([*common, "--compare", "magic"], "encode: --compare: 'magic' is unknown. Choose one of: editor, optimise"),
        ([str(tmp_path), str(data.path)], "no such editor"),
        ([str(made.path), str(tmp_path / "nothing")], "no pictures here"),
        ([*common[:3], str(data.path / "records.jsonl")], "records.jsonl"),
    ):
        with pytest.raises(SystemExit) as stop:
            encode.main(words)
        text = capsys.readouterr().err
        assert stop.value.code == 2 and line in text and text.count("\n") == 1


def test_sheets_show_every_attribute_and_where_it_changes() -> None:
    editor, shown = tiny.editor(), heads(2, 4, False, tiny.SIZE)[0]
    edits, changes = edit_sheet(editor, shown), change_sheet(editor, shown)
    assert edits.shape == changes.shape and edits.std() > 10 and changes.std() > 1
    found = score_editor(editor, tiny.classifier(), shown, np.zeros((2, 1, 32, 32), np.float32))
    assert {"moved_age", "moved_gender", "moved_yaw", "leak", "edit_background_error"} <= found.keys()


def test_a_network_of_another_kind_is_not_a_classifier(made: Artifact) -> None:
    with pytest.raises(TristyleError, match="holds no classifier. Name a folder of style=expanded"):
        stage.load_classifier(made.path / "generator.safetensors", ["age"])
    assert isinstance(load_network(made.path / "editor.safetensors"), ExpandedEditor)
    assert stage.load_iterative(made.path / "none") is None


def test_the_bench_compares_methods_at_equal_changes() -> None:
    rows = [
        {"attribute": 0, "strength": s, "change": [[s], [3 * s], [9.0]], "same": [1 - s / 4] * 3}
        for s in (0.5, 1.0, 2.0)
    ]
    found = bench.matched({"rows": rows}, 0, 3.0, [0, 1])
    assert found["change"][:, 0].tolist() == [1.5, 4.5] and found["same"].tolist() == [0.625] * 2
    assert bench.matched({"rows": rows}, 0, 99.0, [0, 1])["change"][:, 0].tolist() == [2, 6]  # as near as it comes
    arm = {"ids": ["a", "b", "c"], "attributes": ["age"], "rows": rows}
    table = list(
        bench.edit_table({"edits-editor": arm, "edits-styled": arm | {"ids": ["c", "b", "a"]}}, "edits-editor")
    )
    assert len(table) == 4 and table[2].startswith("| editor | 3 | 4.33 (") and table[3].startswith("| styled | 3 |")


def test_the_table_keeps_true_edits_apart_from_the_judges(tmp_path: Path) -> None:
    value = {"mean": 0.5, "low": 0.4, "high": 0.6}
    rows = [{"attribute": 0, "strength": s, "change": [[s], [2 * s]], "same": [1.0, 0.9]} for s in (0.5, 1.0, 2.0)]
    truth = {"count": 2, "attributes": ["age"], "age": value} | dict.fromkeys(bench.MEASURES, value)
    arms = {"edits-editor": {"ids": ["a", "b"], "attributes": ["age"], "deviations": [1.5], "rows": rows}}
    for name, found in (arms | {"truth-editor": truth, "truth-photo": truth | {"age": None}}).items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"arm": name, "found": found}))
    bench.write_table(tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| editor ")] == ["editor", "editor"]
    [moved] = [line for line in lines if line.startswith("| age |")]  # by 1 and 2 deviations: one of them by 1.5
    assert [cell.split(" ")[1] for cell in moved.split("|")[3:5]] == ["100", "50"]
    assert lines[4].startswith("| photo | 2 | 0.5 (0.4 to 0.6) |") and lines[4].endswith("|  |")
