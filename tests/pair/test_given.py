"""`pair=given`: a folder's own couples of photo and style picture, as an artifact like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.core.artifact import Artifact, hash_path, seal
from stages.core.files import read_jsonl
from stages.core.images import load_images, load_masks, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tracking import Tracker
from stages.datasets.folders.stage import FolderData
from stages.networks.face_reader import Reader
from stages.pair import given as module
from stages.pair.curate import Curate, Limit, feathered
from stages.pair.given import GivenPairs, couples
from stages.pair.write import Write
from tests.tools.pair_toys import heads, small_reader

SIZE, PAIRS = 32, 12


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A small untrained reader in place of the shipped one."""
    small = small_reader()
    monkeypatch.setattr(module, "load_reader", lambda device: small)
    return small


def own(root: Path, twins: bool = True) -> Path:
    """Twelve photos with masks, their twins (or pictures of other names) in ink, and four more photos without any."""
    photos, masks = heads(PAIRS + 4, 0, False, SIZE)
    styled, covers = heads(PAIRS, 1, True, SIZE)
    for i in range(PAIRS + 4):
        write_image(root / f"photo/ann{i:02d}.png", photos[i])
        write_image(root / f"mask/ann{i:02d}.png", masks[i])
    for i in range(PAIRS):
        name = f"ann{i:02d}" if twins else f"drawing{i:02d}"
        write_image(root / f"style/ink/{name}.png", styled[i])
        write_image(root / f"style_mask/ink/{name}.png", covers[i])
    return root


def ingested(root: Path, out: Path) -> Artifact:
    out.mkdir()
    metrics = FolderData(path=str(root), size=SIZE, heldout=0.25).run({}, out, Runtime("cpu", 1, Tracker(out)))
    return seal(out, "data", config={}, inputs={}, metrics=metrics)


@pytest.fixture
def data(tmp_path: Path) -> Artifact:
    return ingested(own(tmp_path / "own"), tmp_path / "data")


def run(folder: Path, data: Artifact, **settings: object) -> tuple[Path, dict, list[dict]]:
    folder.mkdir()
    stage = GivenPairs(target="ink", **settings)  # type: ignore[arg-type]
    metrics = stage.run({"data": data}, folder, Runtime("cpu", 1, Tracker(folder)))
    return folder, metrics, read_jsonl(folder / "records.jsonl")


def picture(path: Path) -> np.ndarray:
    return load_images([path])[0]


def test_each_pair_is_a_photo_and_its_own_twin_over_its_background(tmp_path: Path, data: Artifact) -> None:
    out, metrics, rows = run(tmp_path / "pair", data)
    pairs = [pair for pair in couples(data, "ink") if pair.split == "train"]
    assert [row["id"] for row in rows] == [pair.id for pair in pairs] and all(row["kept"] for row in rows)
    assert len(rows) == PAIRS - 3 == metrics["pairs"] and metrics["heldout_pairs"] == 3
    sources = {row["photo"]: Path(row["source"]) for row in data.records()}
    for pair in pairs:
        assert sources[pair.photo].stem == sources[pair.twin].stem
        photo, twin = picture(data.path / pair.photo), picture(data.path / pair.twin)
        mask = load_masks([data.path / pair.mask])[0]
        assert np.array_equal(picture(out / f"photo/{pair.id}.png"), photo)
        assert np.array_equal(picture(out / f"raw/{pair.id}.png"), twin)
        assert np.array_equal(load_masks([out / f"mask/{pair.id}.png"])[0], mask)
        alpha = feathered(mask, 0.015, 0.015)
        made = picture(out / f"style/{pair.id}.png")
        for expected, region in ((photo, alpha == 0), (twin, alpha == 1)):
            assert np.array_equal(made[region], expected[region])
    assert metrics["reader"] == "reader-test" and metrics["size"] == SIZE
    assert np.isfinite(metrics["identity"]) and metrics["background_error"] > 0.01  # toy twins have walls of their own
    again, _, _ = run(tmp_path / "again", data)
    assert GivenPairs(target="ink", write=Write(per_shard=4)).shards({"data": data}) == 3
    for kind in ("photo", "style", "mask", "raw", "heldout", "records.jsonl"):
        assert hash_path(out / kind) == hash_path(again / kind)


def test_held_out_people_are_in_no_pair_and_their_twins_are_the_truth(tmp_path: Path, data: Artifact) -> None:
    out, _, rows = run(tmp_path / "pair", data)
    held = {row["id"]: row for row in data.records() if row["split"] == "heldout"}
    assert held and not held.keys() & {row["id"] for row in rows}
    unseen = {file.read_bytes() for file in (data.path / "heldout").rglob("*.png")}
    assert not unseen & {file.read_bytes() for kind in ("photo", "raw") for file in (out / kind).glob("*.png")}
    shown = sorted((out / "heldout").glob("*.png"))
    assert len(shown) == 3 and {file.stem for file in shown} < held.keys()  # one held-out photo has no twin
    for file in shown:
        assert file.read_bytes() == (data.path / "heldout/twin/ink" / file.name).read_bytes()


def test_pictures_may_be_taken_as_they_are(tmp_path: Path, data: Artifact) -> None:
    out, _, rows = run(tmp_path / "pair", data, keep_background=False)
    for row in rows:
        assert (out / row["style"]).read_bytes() == (out / f"raw/{row['id']}.png").read_bytes()
        assert (load_masks([out / f"mask/{row['id']}.png"]) == 255).all() and row["background"] is None


def test_limits_apply_where_they_are_set(tmp_path: Path, data: Artifact) -> None:
    _, metrics, rows = run(tmp_path / "pair", data, curate=Curate(background=Limit(worst=0.3)))
    reasons = [row["reason"] for row in rows if not row["kept"]]
    assert 0 < len(reasons) < len(rows) and set(reasons) == {"background"} and metrics["kept"] < 1


def test_refusals_name_what_there_is(tmp_path: Path, data: Artifact) -> None:
    with pytest.raises(TristyleError, match=r"no style picture of comic is a photo's twin\. Say style\.target=ink\."):
        couples(data, "comic")
    single = ingested(own(tmp_path / "unlike", twins=False), tmp_path / "unlike_data")
    with pytest.raises(TristyleError, match=r"holds no pairs of photo and ink.*DIR/style/ink/.*data=folders"):
        couples(single, "ink")


@pytest.mark.parametrize("change", [{"target": ""}, {"keep_background": "no"}, {"write": Write(photos="somewhere")}])
def test_settings_are_checked(change: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        GivenPairs(**({"target": "ink"} | change))


def test_no_style_set_is_read() -> None:
    assert GivenPairs.reads == ("data",) and list(GivenPairs(target="ink").files()) == ["reader"]
