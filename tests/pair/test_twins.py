"""`pair=twins`: rendered people and their true twins, as an artifact like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.artifact import Artifact, seal
from stages.core.files import read_jsonl
from stages.core.images import load_masks, read_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tracking import Tracker
from stages.datasets.rendered.stage import RenderedData
from stages.metrics.heldout import read_heldout
from stages.pair import given
from stages.pair.twins import TwinPairs, twin_couples
from stages.pair.write import Write
from tests.tools.pair_toys import small_reader


def rendered(out: Path, **settings: Any) -> Artifact:
    out.mkdir()
    stage = RenderedData(size=32, count=4, views=2, style_count=1, heldout=2, heldout_style=2, **settings)
    metrics = stage.run({}, out, Runtime("cpu", 1, Tracker(out)))
    return seal(out, "data", config={}, inputs={}, metrics=metrics)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return rendered(tmp_path_factory.mktemp("twins") / "data", twins="all")


def test_pairs_are_photo_and_true_twin_and_the_background_stays(
    data: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given, "load_reader", lambda device: small_reader())
    metrics = TwinPairs(target="comic").run({"data": data}, tmp_path, Runtime("cpu", 1, Tracker(tmp_path)))
    assert (metrics["pairs"], metrics["heldout_pairs"], metrics["kept"], metrics["size"]) == (4, 2, 1, 32)
    assert metrics["background_error"] == metrics["train_background"] == 0
    for number in range(4):
        name = f"{number:06d}.png"
        photo, style = (read_image(tmp_path / kind / name) for kind in ("photo", "style"))
        mask, head = load_masks([tmp_path / "mask" / name, data.path / "mask" / name])
        assert np.array_equal(photo, read_image(data.path / "photo" / name))
        assert np.array_equal(style, read_image(data.path / "twin/comic" / name))
        assert np.array_equal(style[mask == 0], photo[mask == 0])
        cover = read_image(tmp_path / "cover" / name)
        assert np.array_equal(cover[..., 2], mask) and (cover[..., :2].min(axis=2) >= (mask == 0) * cover[..., 0]).all()
        assert (mask >= head).all() and mask.sum() > 1.05 * head.sum()  # and the neck
    eyes = [row["eyes"] for row in read_jsonl(tmp_path / "records.jsonl")]
    with np.load(data.path / "landmarks.npz") as stored:
        middle = stored["photo"][:, 36:48].mean(axis=1)
    assert np.allclose(np.mean(eyes, axis=1), (middle + 0.5) / 32, atol=1e-3)
    assert np.array_equal(
        read_image(tmp_path / "heldout/000001.png"), read_image(data.path / "heldout/twin/comic/000001.png")
    )


def test_the_neck_of_held_out_people_is_not_background(data: Artifact) -> None:
    people = read_heldout(data, "comic", 1)
    assert people.painted is not None and people.twin is not None
    assert np.array_equal(people.twin[people.painted == 0], people.photo[people.painted == 0])
    assert (people.twin[people.mask == 0] != people.photo[people.mask == 0]).any()


def test_what_has_no_twins_is_refused_in_one_line(data: Artifact, tmp_path: Path) -> None:
    assert [pair.split for pair in twin_couples(data, "comic")] == ["heldout"] * 2 + ["train"] * 4
    assert TwinPairs(target="comic", write=Write(per_shard=3)).shards({"data": data}) == 2
    with pytest.raises(TristyleError, match=r"no twins in the style ink\. Say style\.target=comic\.$"):
        twin_couples(data, "ink")
    plain = rendered(tmp_path / "plain")
    with pytest.raises(TristyleError, match=r"holds no twins of training people\. Say data=rendered data\.twins=all"):
        twin_couples(plain, "comic")
    with pytest.raises(ConfigError, match="target: '' is not a style"):
        TwinPairs(target="")
    with pytest.raises(ConfigError, match=r"write\.photos: twins are of the data's photos alone"):
        TwinPairs(target="comic", write=Write(photos="there"))
