"""`pair=tps` from a data artifact to sealed pairs, without a style stage; and the generator as the student."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.core.artifact import Artifact, hash_path, seal
from stages.core.files import read_jsonl
from stages.core.images import read_image, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.networks.mobile import MobileStudent
from stages.networks.ugatit import ResnetGenerator
from stages.pair import stage as pair_stage
from stages.pair.tps import stage as module
from stages.pair.tps.landmarks import FaceLandmarks
from stages.pair.tps.stage import AlignedPairs
from stages.report.pair import alignment
from stages.student.adopted import AdoptedTranslator
from tests.pair.tps.test_task import UNALIGNED, translator
from tests.tools.aligned_toys import STYLE, data_artifact
from tests.tools.pair_toys import small_reader


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_reader()
    for place in (module, pair_stage):
        monkeypatch.setattr(place, "load_reader", lambda device: small)


def made(data: Artifact, out: Path, **changes: object) -> tuple[dict, AlignedPairs]:
    out.mkdir(exist_ok=True)
    settings = {"translator": translator(), "train": Train(images=8, batch=4, lr=1e-3), "target": STYLE} | changes
    stage = AlignedPairs(**settings)  # type: ignore[arg-type]
    return stage.run({"data": data}, out, Runtime("cpu", 1, Tracker(out))), stage


def test_pairs_are_made_of_data_alone(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data")
    metrics, stage = made(data, tmp_path / "pair")
    out = tmp_path / "pair"
    assert stage.reads == ("data",) and list(stage.files()) == ["reader", "translator.perceptual"]
    assert metrics["pairs"] == 12 and metrics["photos_aligned"] == 12 and metrics["styles_left_out"] == 0
    assert metrics["photo_landmarks"] == metrics["style_landmarks"] == "truth"
    assert isinstance(load_network(out / "translator.safetensors"), MobileStudent)
    for measure in ("mld", "fid", "art_fid"):
        assert np.isfinite(metrics[measure]) and "reader-test" in metrics[f"{measure}_extractor"]
    assert metrics["art_fid_extractor"].startswith("perceptual-squeezenet1_0-")
    sheet = read_image(out / module.SHEET)
    assert sheet.shape[0] >= 5 * 128 and sheet.shape[1] >= 6 * 128
    assert {path.name for path in out.iterdir()} >= {"photo", "style", "mask", "records.jsonl", "heldout"}

    sealed = seal(out, "pair", config={}, inputs={"data": data}, metrics=metrics)
    shown = str(alignment(sealed))
    assert "12 photos took part, 0 did not; landmarks: truth" in shown and "Pictures left out" not in shown

    # the same again is the same
    again, _ = made(data, tmp_path / "again")
    for kind in ("photo", "style", "raw", "translator.safetensors", module.SHEET, "records.jsonl"):
        assert hash_path(out / kind) == hash_path(tmp_path / "again" / kind), kind
    assert str(again) == str(metrics)  # a few are not defined


def test_without_alignment_no_landmarks_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaceLandmarks, "__call__", lambda *_: pytest.fail("landmarks are read"))
    plain = translator(align=False, weights=UNALIGNED)
    metrics, _ = made(data_artifact(tmp_path / "data", known=False), tmp_path / "pair", translator=plain)
    assert metrics["pairs"] == 12 and "style_landmarks" not in metrics
    assert not any((tmp_path / "pair" / name).exists() for name in (module.SHEET, "left_out.jsonl"))


def test_pictures_without_a_face_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_artifact(tmp_path / "data")
    with np.load(data.path / "landmarks.npz") as stored:
        known = {kind: stored[kind].copy() for kind in stored}
    known["photo"][4] += 40  # px, beyond the frame
    np.savez(data.path / "landmarks.npz", **known)
    metrics, _ = made(data, tmp_path / "pair")
    [row] = read_jsonl(tmp_path / "pair" / "left_out.jsonl")
    assert row == {"kind": "photo", "picture": "photo/000004.png", "why": "landmarks lie outside the frame"}
    assert metrics["photos_left_out"] == 1 and metrics["photos_aligned"] == 11 and metrics["pairs"] == 12
    sealed = seal(tmp_path / "pair", "pair", config={}, inputs={}, metrics=metrics)
    assert "photo/000004.png" in str(alignment(sealed))


def test_too_few_style_pictures_end_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(TristyleError, match=r"style/toy: 7 pictures show a face, 8 are needed\. Add upright faces"):
        made(data_artifact(tmp_path / "data", styles=7), tmp_path / "pair")
    assert not (tmp_path / "pair" / "translator.safetensors").exists()


@pytest.mark.parametrize("numbers", [[3], range(10)])
def test_a_mask_of_another_size_is_named(tmp_path: Path, numbers: list[int]) -> None:
    data = data_artifact(tmp_path / "data")
    for number in numbers:
        write_image(data.path / f"style_mask/{STYLE}/{number:06d}.png", np.zeros((48, 48), np.uint8))
    with pytest.raises(TristyleError, match=r"style_mask/toy/00000.\.png: .*48.*\. Run "):
        made(data, tmp_path / "pair", train=Train(images=24, batch=4, lr=1e-3))


def test_pictures_too_small_for_the_light_generator_end_before_the_training(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data")
    with pytest.raises(
        ConfigError, match=r"data\.size: 32x32 px photos do not fit the generator light\. Use squares of 64"
    ):
        made(data, tmp_path / "pair", translator=translator(generator="light"))


def test_discriminators_that_are_too_deep_end_before_the_training(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"discriminator_layers: 4 leave nothing of 32 px\. Choose fewer"):
        made(data, tmp_path / "pair", translator=translator(discriminator_layers=4))
    made(data, tmp_path / "deep", translator=translator(discriminator_layers=3))


def test_a_target_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="target"):
        AlignedPairs(translator=translator(), train=Train(images=4, batch=4, lr=1e-3), target="")


def test_the_generator_may_be_the_student(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data")
    metrics, _ = made(data, tmp_path / "pair")
    pair = seal(tmp_path / "pair", "pair", config={}, inputs={"data": data}, metrics=metrics)
    out = tmp_path / "student"
    out.mkdir()
    stage = AdoptedTranslator(target=STYLE)
    found = stage.run({"data": data, "pair": pair}, out, Runtime("cpu", 1, Tracker(out)))
    kept = load_network(out / "student.safetensors").state_dict()
    translated = load_network(pair.path / "translator.safetensors").state_dict()
    assert all((value == kept[name]).all() for name, value in translated.items())
    assert found["size"] == 32 and found["parameters"] > 0 and found["identity"] > 0
    assert len(list((out / "heldout").glob("*.png"))) == 4 and json.dumps(found)


def test_a_translator_that_cannot_be_exported_is_no_student(tmp_path: Path) -> None:
    data = data_artifact(tmp_path / "data")
    save_network(tmp_path / "pair" / "translator.safetensors", ResnetGenerator(2, 1, 32))
    pair = seal(tmp_path / "pair", "pair", config={}, inputs={}, metrics={"size": 32})
    runtime = Runtime("cpu", 1, Tracker(tmp_path))
    with pytest.raises(TristyleError, match=r"holds ResnetGenerator, which cannot be exported\. Say student=pix2pix"):
        AdoptedTranslator(target=STYLE).run({"data": data, "pair": pair}, tmp_path, runtime)
    (pair.path / "translator.safetensors").unlink()
    with pytest.raises(TristyleError, match=r"these pairs have no translator\. Say student=pix2pix\."):
        AdoptedTranslator(target=STYLE).run({"data": data, "pair": pair}, tmp_path, runtime)
