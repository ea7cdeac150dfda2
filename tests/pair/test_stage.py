"""Stage pair from artifacts to artifact, and what decides which pairs are kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.core.artifact import SCRATCH, Artifact, seal
from stages.core.files import read_jsonl, write_jsonl
from stages.core.images import read_image, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tensors import to_tensor, to_uint8
from stages.core.tracking import Tracker
from stages.core.weights import load_network
from stages.networks.face_reader import Reader, read_masks
from stages.pair import stage as module
from stages.pair.batches import check_sizes
from stages.pair.curate import Curate, Limit, composite, feathered, reasons
from stages.pair.stage import PairStage
from stages.pair.write import Write
from stages.training import fit as engine
from tests.tools.pair_toys import heads, translator, weights

SIZE = 32


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A small untrained reader in place of the shipped one: what is tested here is what surrounds it."""
    torch.manual_seed(0)
    small = Reader(widths=(8, 8, 8, 8, 8), lateral=8).eval()
    small.id = "reader-test"
    monkeypatch.setattr(module, "load_reader", lambda device: small)
    return small


def stage(**changes: object) -> PairStage:
    small = translator(weights=weights(cam=10.0, mask=1.0, mask_tv=0.2))
    return PairStage(translator=small, train=Train(images=16, batch=4, lr=1e-3, checkpoint_images=4), **changes)


def inputs(folder: Path, twins: bool = True, style_size: int = SIZE) -> dict[str, Artifact]:
    data, style = folder / "data", folder / "style"
    records = []
    for split, place, count, seed in (("train", "", 12, 0), ("heldout", "heldout/", 6, 1)):
        images, masks = heads(count, seed, False, SIZE)
        for i in range(count):
            name = f"{i:06d}.png"
            write_image(data / place / "photo" / name, images[i])
            write_image(data / place / "mask" / name, masks[i])
            if split == "heldout" and twins:
                write_image(data / "heldout/twin/comic" / name, heads(count, seed, True, SIZE)[0][i])
            records.append({"id": name[:-4], "split": split, "photo": f"{place}photo/{name}"})
    images, masks = heads(8, 2, True, SIZE)
    for i in range(8 if twins else 0):
        write_image(data / f"heldout/style/comic/{i:06d}.png", images[i])
        write_image(data / f"heldout/style_mask/comic/{i:06d}.png", masks[i])
    write_jsonl(data / "records.jsonl", records)
    images, _ = heads(10, 3, True, style_size)
    rows = []
    for i in range(10):
        write_image(style / f"images/{i:06d}.png", images[i])
        rows.append({"id": f"{i:06d}", "image": f"images/{i:06d}.png", "style": "comic"})
    write_jsonl(style / "records.jsonl", rows)
    return {
        "data": seal(data, "data", config={}, inputs={}, metrics={}),
        "style": seal(style, "style", config={}, inputs={}, metrics={}),
    }


def runtime(out: Path) -> Runtime:
    out.mkdir(parents=True, exist_ok=True)
    return Runtime("cpu", 1, Tracker(out))


def test_the_artifact_holds_what_the_next_stage_reads(tmp_path: Path) -> None:
    given, out = inputs(tmp_path), tmp_path / "pair"
    metrics = stage(curate=Curate(clarity=Limit(worst=0.25))).run(given, out, runtime(out))
    rows = read_jsonl(out / "records.jsonl")
    kept = [row for row in rows if row["kept"]]
    assert len(rows) == 12 and len(kept) == 9 == metrics["pairs"] and metrics["kept"] == 0.75
    for row in rows:
        raw = read_image(out / "raw" / f"{row['id']}.png")
        assert raw.shape == (SIZE, SIZE, 3) and row["raw"] == f"raw/{row['id']}.png"
        assert row["photo"] == f"{'photo' if row['kept'] else 'rejects'}/{row['id']}.png"
        assert (out / "style" / f"{row['id']}.png").exists() == row["kept"]
        assert (row["reason"] is None) == row["kept"]
        if row["kept"]:
            photo = read_image(given["data"].path / row["photo"])
            mask = read_image(given["data"].path / "mask" / f"{row['id']}.png")
            pair = read_image(out / row["style"])
            far = feathered(mask[..., 0], 0.015, 0.015) == 0
            assert np.array_equal(pair[far], photo[far]) and not np.array_equal(pair, photo)
            assert np.array_equal(read_image(out / row["photo"]), photo)
            assert np.array_equal(read_image(out / "mask" / f"{row['id']}.png"), mask)
    assert len(list((out / "heldout").glob("*.png"))) == 6 and (out / "rejects.png").exists()
    assert metrics["reader"] == "reader-test" and metrics["size"] == SIZE
    for name in ("identity", "background_error", "face_error", "photo_face_error", "face_ratio", "kid", "photo_kid"):
        assert np.isfinite(metrics[name]), name
    generator = load_network(out / "translator.safetensors")
    photo = to_tensor(read_image(given["data"].path / "heldout/photo/000000.png"))
    with torch.no_grad():
        again = to_uint8(generator(photo).image)[0]
    difference = again.astype(int) - read_image(out / "heldout/000000.png").astype(int)
    assert np.abs(difference).max() <= 1  # the file is the network that painted


def test_pictures_without_twins_or_held_out_styles_are_measured_as_far_as_they_go(tmp_path: Path) -> None:
    out = tmp_path / "pair"
    metrics = stage().run(inputs(tmp_path, twins=False), out, runtime(out))
    assert "identity" in metrics and not {"face_error", "kid"} & set(metrics)


def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(tmp_path)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    stage().run(given, whole, runtime(whole))
    real, calls = engine.step, []

    def dies(*arguments: Any) -> object:
        calls.append(1)
        if len(calls) == 5:  # in the third update, which has two phases as all have
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(engine, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        stage().run(given, torn, runtime(torn))
    monkeypatch.setattr(engine, "step", real)
    assert (torn / SCRATCH / "pair.ckpt").exists()
    stage().run(given, torn, runtime(torn))
    assert (whole / "translator.safetensors").read_bytes() == (torn / "translator.safetensors").read_bytes()
    assert (whole / "records.jsonl").read_bytes() == (torn / "records.jsonl").read_bytes()


def test_the_stage_in_parts_is_the_stage_in_one_go_over_any_photos(tmp_path: Path) -> None:
    given, whole, parts = inputs(tmp_path), tmp_path / "whole", tmp_path / "parts"
    more, masks = heads(5, 7, False, 48)
    for i in range(5):
        write_image(tmp_path / f"own/photo/{i}.png", more[i])
        write_image(tmp_path / f"own/mask/{i}.png", masks[i])
    made = stage(write=Write(format="tar", per_shard=8, photos=str(tmp_path / "own/photo")))
    assert set(made.files()) == {"reader", "write.photos", "write.masks"} and made.shards(given) == 3
    metrics = made.run(given, whole, runtime(whole))

    def part(name: str | None) -> dict[str, object]:
        parts.mkdir(exist_ok=True)
        return made.run(given, parts, replace(runtime(parts), part=name))

    with pytest.raises(TristyleError, match="no translator yet. Run with part=train first"):
        part("0")
    assert part("train") == {"done": 0, "shards": 3}
    assert [part(name)["done"] for name in ("2", "0", "1")] == [1, 2, 3]
    assert part(None) == metrics and metrics["pairs"] == 17
    assert {row["id"]: row.get("source") for row in read_jsonl(parts / "records.jsonl")}["p000000004"] == "4.png"
    for file in (*whole.glob("shards/*"), *whole.glob("*.*"), *whole.glob("heldout/*.png")):
        if file.is_file() and file.name != "log.jsonl":
            assert (parts / file.relative_to(whole)).read_bytes() == file.read_bytes(), file


def test_style_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "pair"
    with pytest.raises(TristyleError, match="style pictures of 48 px"):
        stage().run(inputs(tmp_path, style_size=48), out, runtime(out))


def test_pictures_below_32_px_are_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="data.size: 16x16 px"):
        check_sizes((1, 16, 16, 3), (1, 16, 16, 3), Path("style"))


def test_limits_that_no_pair_meets_are_named(tmp_path: Path) -> None:
    out = tmp_path / "pair"
    with pytest.raises(TristyleError, match="pair.curate"):
        stage(curate=Curate(clarity=Limit(value=1e6))).run(inputs(tmp_path), out, runtime(out))


def test_no_photos_at_all_is_said(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    write_jsonl(given["data"].path / "records.jsonl", [])
    out = tmp_path / "pair"
    with pytest.raises(TristyleError, match="no train photos"):
        stage().run(given, out, runtime(out))


# ----------------------------------------------------------------------------------------------- curation


def dropped(limit: Limit, scores: np.ndarray, better: int) -> list[bool]:
    bound = limit.bound(scores, better)
    return [bound is not None and value * better < bound * better for value in scores]


def test_limits_drop_the_worst_share_and_what_is_beyond_the_value() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.7])
    assert dropped(Limit(worst=0.25), scores, 1) == [True, False, False, False]
    assert dropped(Limit(worst=0.25), scores, -1) == [False, True, False, False]
    assert dropped(Limit(value=0.6), scores, 1) == [True, False, True, False]
    assert dropped(Limit(value=0.6), scores, -1) == [False, True, False, True]
    assert Limit().bound(scores, 1) is None and Limit(worst=0.5).bound(np.full(3, np.nan), 1) is None
    assert dropped(Limit(worst=0.5, value=0.2), np.array([np.nan, 0.1, 0.3]), 1) == [False, True, False]


def test_every_reason_is_given() -> None:
    curate = Curate(
        identity=Limit(value=0.5), background=Limit(value=0.1), clarity=Limit(value=10), agreement=Limit(value=0.8)
    )
    scores = {
        "identity": np.array([0.9, 0.1, 0.9]),
        "landmarks": np.array([9.0, 9.0, 9.0]),
        "background": np.array([0.0, 0.5, 0.5]),
        "clarity": np.array([20.0, 1.0, 20.0]),
        "agreement": np.array([np.nan, np.nan, 0.7]),
    }
    limits = curate.limits(scores)
    assert limits == {"identity": 0.5, "landmarks": None, "background": 0.1, "clarity": 10.0, "agreement": 0.8}
    assert reasons(scores, limits) == ["", "identity background clarity", "background agreement"]


@pytest.mark.parametrize("change", [{"worst": 1.0}, {"worst": -0.1}, {"value": float("nan")}])
def test_a_bad_limit_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Limit(**change)


def test_feathering_covers_the_head_and_ends() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    alpha = feathered(mask, 0.03, 0.03)
    assert (alpha[20:40, 20:40] == 1).all() and alpha.max() == 1
    assert not alpha[:14].any() and 0 < alpha[30, 18] < 1 or alpha[30, 17] > 0
    assert np.array_equal(feathered(mask, 0, 0) * 255, mask)


def test_a_composites_background_is_the_photos_to_the_bit() -> None:
    photo, mask = heads(1, 0, False, 64)
    raw = 255 - photo[0]
    pair = composite(raw, photo[0], mask[0], Curate())
    alpha = feathered(mask[0], 0.015, 0.015)
    assert np.array_equal(pair[alpha == 0], photo[0][alpha == 0]) and np.array_equal(pair[alpha == 1], raw[alpha == 1])


def test_the_reader_gives_masks_in_the_pictures_size(reader: Reader) -> None:
    images, _ = heads(3, 0, True, 48)
    masks = read_masks(reader, images, "cpu")
    assert masks.shape == (3, 48, 48) and masks.dtype == np.uint8
    expected = reader.read(to_tensor(images)).mask[:, 0]
    assert np.abs(masks / 255 - expected.numpy()).max() < 0.5 / 255 + 1e-6


def test_settings_are_plain_arguments() -> None:
    changed = replace(stage(), seed=3)
    assert list(changed.files()) == ["reader"] and changed.reads == ("data", "style") and changed.seed == 3
    with pytest.raises(ConfigError, match="seed"):
        stage(seed=-1)


def test_nothing_is_left_in_the_way(tmp_path: Path) -> None:
    given, out = inputs(tmp_path), tmp_path / "pair"
    stage().run(given, out, runtime(out))
    shutil.rmtree(out / SCRATCH)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "photo", "style", "mask", "raw", "shards", "heldout", "preview", "limits.json", "records.jsonl", "rejects.png",
        "translator.safetensors", "log.jsonl",
    }  # fmt: skip
