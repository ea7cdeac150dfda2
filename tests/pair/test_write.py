"""Writing pairs: shards that any number of processes may share out, limits settled once, any folder of photos."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stages.core.artifact import SCRATCH, Artifact, locked
from stages.core.files import read_jsonl
from stages.core.images import read_image, write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.shards import Shards, decode, pictures
from stages.core.tensors import mask_tensor, to_tensor, unit
from stages.core.tracking import Tracker
from stages.metrics.geometry import landmark_error
from stages.metrics.identity import crop, head_boxes, identity_cosine
from stages.metrics.pixel import background_error
from stages.networks.face_reader import Reader
from stages.pair.curate import Curate, Limit, score
from stages.pair.gather import Rejects, sheet
from stages.pair.inputs import Translated
from stages.pair.photo_sets import FolderPhotos, Joined, Photos
from stages.pair.translator import Translation
from stages.pair.write import Write, write_pairs
from stages.student.batches import load_pairs, pair_batches
from stages.training.loading import Allowance, Kept, read_ahead
from tests.tools.pair_toys import heads
from tests.tools.tiny_pairs import toys

SIZE, COUNT = 32, 75  # three shards of 30, each of one chunk: 30, 30, 15
CURATE = Curate(clarity=Limit(worst=0.2), identity=Limit(worst=0.1))


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader(widths=(8, 8, 8, 8, 8), lateral=8).eval()


class Brush:
    """A painter that counts what it paints: each picture's colours turned, its mask where it is bright."""

    def __init__(self) -> None:
        self.painted = 0

    def __call__(self, photos: np.ndarray) -> Translation:
        self.painted += len(photos)
        return Translation(photos[..., ::-1] // 2 + 40, (photos.mean(3) > 100).astype(np.uint8) * 255)


def candidates(count: int = COUNT) -> Translated:
    images, masks = heads(count, 0, False, SIZE)
    return Translated(Photos([f"{i:06d}" for i in range(count)], images, masks), Brush())


def runtime(out: Path, part: str | None = None, workers: int = 1) -> Runtime:
    out.mkdir(parents=True, exist_ok=True)
    return Runtime("cpu", workers, Tracker(out), part)


def files(out: Path) -> dict[str, bytes]:
    """Everything that will be sealed."""
    found = (path for path in out.rglob("*") if path.is_file() and SCRATCH not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


TAR = Write(format="tar", per_shard=30)


# ---------------------------------------------------------------------------------------------------------- shards


def test_files_and_tars_hold_the_same_pairs(tmp_path: Path, reader: Reader) -> None:
    loose, packed = tmp_path / "files", tmp_path / "tar"
    metrics = [
        write_pairs(candidates(), out, CURATE, replace(TAR, format=name), reader, runtime(out))
        for out, name in ((loose, "files"), (packed, "tar"))
    ]
    assert metrics[0] == metrics[1] and metrics[0]["shards"] == 3
    assert 50 < metrics[0]["pairs"] < 70 and metrics[0]["kept"] == metrics[0]["pairs"] / COUNT
    rows = [read_jsonl(out / "records.jsonl") for out in (loose, packed)]
    assert len(rows[0]) == COUNT
    places = {"photo", "style", "mask", "raw", "shard", "members"}
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if k not in places} == {k: v for k, v in other.items() if k not in places}
    assert metrics[0]["rejected_clarity"] == sum("clarity" in (row["reason"] or "") for row in rows[0]) == 15
    for kept, kinds in ((True, ("photo", "style", "mask", "raw")), (False, ("photo", "raw"))):
        for one, other in zip(*(pictures(out, kinds, kept=kept) for out in (loose, packed)), strict=True):
            assert len(one) == len(other) > 0 and np.array_equal(one[:], other[:])
    assert (loose / "rejects.png").read_bytes() == (packed / "rejects.png").read_bytes()
    assert not list(packed.rglob("*/*.png")) and sorted(path.name for path in (packed / "shards").glob("*.tar"))
    shards = Shards(sorted((packed / "shards").glob("*.tar")))
    assert shards.keys == [row["id"] for row in rows[1] if row["kept"]]
    assert set(shards[0]) == {"photo.png", "style.png", "mask.png", "raw.png", "json"}
    assert np.array_equal(decode(shards[0]["raw.png"]), read_image(loose / rows[0][int(shards.keys[0])]["raw"]))


def test_parts_in_any_order_of_any_process_give_the_bytes_of_one_go(tmp_path: Path, reader: Reader) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    write_pairs(candidates(), whole, CURATE, TAR, reader, runtime(whole))

    def part(name: str | None, workers: int = 1) -> dict[str, float]:
        return write_pairs(candidates(), parts, CURATE, TAR, reader, runtime(parts, name, workers))

    with pytest.raises(TristyleError, match="part=train first"):
        part("1")
    assert part("train") == {"done": 0, "shards": 3} and (parts / "limits.json").exists()
    assert part("2", workers=3) == {"done": 1, "shards": 3}
    assert part("0")["done"] == 2 and part("0")["done"] == 2  # done is done
    with pytest.raises(ConfigError, match="part: '3' is not a shard. Choose train, or 0 to 2"):
        part("3")
    assert not (parts / "records.jsonl").exists()
    part(None, workers=2)
    assert files(whole) == files(parts)


def test_a_shard_that_another_process_writes_is_refused_in_one_line(tmp_path: Path, reader: Reader) -> None:
    write_pairs(candidates(), tmp_path, CURATE, TAR, reader, runtime(tmp_path, "train"))
    with (
        locked(tmp_path / SCRATCH / "shards" / "000001"),
        pytest.raises(TristyleError, match=r"000001: in use by process \d+") as refused,
    ):
        write_pairs(candidates(), tmp_path, CURATE, TAR, reader, runtime(tmp_path, "1"))
    assert "\n" not in str(refused.value)


def test_only_what_is_missing_is_painted_and_each_photo_once(tmp_path: Path, reader: Reader) -> None:
    made = candidates()
    write_pairs(made, tmp_path, CURATE, TAR, reader, runtime(tmp_path))
    assert made.painter.painted == COUNT  # the pilot's pictures are the shards'
    before = files(tmp_path)
    untouched = (tmp_path / "shards/000000.tar").stat().st_mtime_ns
    (tmp_path / "shards/000001.jsonl").unlink()
    (tmp_path / "shards/.000001.tar.tmp").write_bytes(b"torn")
    again = candidates()
    write_pairs(again, tmp_path, CURATE, TAR, reader, runtime(tmp_path))
    assert again.painter.painted == 30 and files(tmp_path) == before
    assert (tmp_path / "shards/000000.tar").stat().st_mtime_ns == untouched


def test_shares_become_values_on_the_pilot_alone(tmp_path: Path, reader: Reader) -> None:
    made = candidates()
    write_pairs(made, tmp_path, CURATE, replace(TAR, pilot=20), reader, runtime(tmp_path, "train"))
    settled = json.loads((tmp_path / "limits.json").read_text())
    assert settled["pilot"] == made.painter.painted == 30  # a whole chunk
    write_pairs(candidates(), tmp_path, CURATE, replace(TAR, pilot=20), reader, runtime(tmp_path))
    rows = read_jsonl(tmp_path / "records.jsonl")
    limit = settled["limits"]["clarity"]
    assert limit == pytest.approx(np.quantile([row["clarity"] for row in rows[:30]], 0.2), abs=1e-4)
    for row in rows:
        assert ("clarity" in (row["reason"] or "")) == (row["clarity"] < limit)


def test_values_need_no_pilot(tmp_path: Path, reader: Reader) -> None:
    made = candidates()
    curate = Curate(background=Limit(value=0.9), landmarks=Limit(value=1.5))
    write_pairs(made, tmp_path, curate, TAR, reader, runtime(tmp_path, "train"))
    assert made.painter.painted == 0
    none = dict.fromkeys(("identity", "clarity", "agreement"))
    assert json.loads((tmp_path / "limits.json").read_text())["limits"] == {"background": 0.9, "landmarks": 1.5, **none}


def test_limits_that_nothing_meets_are_told_before_the_shards(tmp_path: Path, reader: Reader) -> None:
    curate = replace(CURATE, clarity=Limit(value=1e6))
    with pytest.raises(TristyleError, match="pair.curate"):
        write_pairs(candidates(), tmp_path, curate, TAR, reader, runtime(tmp_path, "train"))
    assert not (tmp_path / "limits.json").exists() and not (tmp_path / "shards").exists()


def test_values_that_nothing_meets_are_told_with_the_sheet_of_rejects(tmp_path: Path, reader: Reader) -> None:
    with pytest.raises(TristyleError, match=r"pair.curate .*rejects\.png shows them") as refused:
        write_pairs(candidates(4), tmp_path, Curate(clarity=Limit(value=1e6)), TAR, reader, runtime(tmp_path))
    assert (tmp_path / "rejects.png").exists() and "\n" not in str(refused.value)


@pytest.mark.parametrize(("codec", "suffix"), [("jpeg", "jpg"), ("webp", "webp")])
def test_a_lossy_codec_leaves_the_masks_exact(tmp_path: Path, reader: Reader, codec: str, suffix: str) -> None:
    write = Write(codec=codec, quality=90)
    made = candidates(4)
    write_pairs(made, tmp_path, Curate(), write, reader, runtime(tmp_path))
    row = read_jsonl(tmp_path / "records.jsonl")[1]
    assert row["style"] == f"style/000001.{suffix}" and row["mask"] == "mask/000001.png"
    photo, mask = pictures(tmp_path, ("photo", "mask"))
    assert np.array_equal(mask[:], made.photos.masks)
    assert 0 < np.abs(photo[:].astype(int) - made.photos.images).mean() < 10


def test_names_that_no_tar_takes_are_refused(tmp_path: Path, reader: Reader) -> None:
    made = candidates(2)
    made.photos.ids[1] = "anna.1"
    with pytest.raises(TristyleError, match="'anna.1'"):
        write_pairs(made, tmp_path, Curate(), TAR, reader, runtime(tmp_path))
    write_pairs(made, tmp_path / "files", Curate(), Write(), reader, runtime(tmp_path / "files"))


@pytest.mark.parametrize(
    "change", [{"format": "zip"}, {"codec": "gif"}, {"per_shard": 0}, {"quality": 101}, {"pilot": 0}]
)
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        Write(**change)
    assert refused.value.key in change


# ---------------------------------------------------------------------------------------------------------- scores


def test_scores_are_those_of_the_metrics_and_cost_one_look_at_each_picture(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, mask = heads(5, 3, False, 48)
    raw, _ = heads(5, 3, True, 48)
    painted = np.roll(mask, 6, axis=2)
    looks: list[int] = []
    encode = Reader.encode
    monkeypatch.setattr(Reader, "encode", lambda self, images: looks.append(len(images)) or encode(self, images))
    found = score(photo, raw, mask, painted, reader, "cpu")
    assert sum(looks) == 10 and all(values.dtype == np.float64 for values in found.values())
    before, after, cover = unit(to_tensor(photo)), unit(to_tensor(raw)), mask_tensor(mask)
    boxes = head_boxes(cover)
    points, moved = (reader.read(crop(images, boxes) * 2 - 1).landmarks for images in (before, after))
    assert found["identity"] == pytest.approx(identity_cosine(reader, before, after, cover).numpy(), abs=1e-5)
    assert found["landmarks"] == pytest.approx(landmark_error(moved, points).numpy(), abs=1e-4)
    assert found["background"] == pytest.approx(background_error(after, before, cover).numpy(), abs=1e-6)
    inside = [((a > 127) & (b > 127)).sum() / ((a > 127) | (b > 127)).sum() for a, b in zip(painted, mask, strict=True)]
    assert found["agreement"] == pytest.approx(inside, abs=1e-6) and 0.3 < found["agreement"].min() < 0.95
    same = score(photo, photo, mask, None, reader, "cpu")
    assert np.isnan(same["agreement"]).all() and same["landmarks"].max() < 1e-6 and same["identity"].min() > 1 - 1e-6


# ---------------------------------------------------------------------------------------------------- any photo set


def folder(root: Path) -> Path:
    """Photos of several sizes and formats, in folders, one broken, one with a mask; returns their folder."""
    photos = root / "photo"
    images, _ = heads(4, 5, False, 96)
    (photos / "more").mkdir(parents=True)
    cv2.imwrite(str(photos / "wide.jpg"), images[0][16:80])
    cv2.imwrite(str(photos / "more/tall.webp"), images[1][:, 10:70])
    write_image(photos / "Large.PNG", images[2])
    write_image(photos / "tiny.png", images[3][:12, :12])
    (photos / "broken.png").write_bytes(b"<html>")
    (photos / "notes.txt").write_text("no picture")
    (photos / ".hidden.png").write_bytes(b"")
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 40:60] = 255
    write_image(root / "mask/wide.png", mask)
    return photos


def test_a_folder_of_any_pictures_is_read_lazily_by_number(tmp_path: Path, reader: Reader) -> None:
    photos = FolderPhotos(folder(tmp_path), tmp_path / "index", SIZE, reader, "cpu")
    assert list(photos.ids) == [f"p{i:09d}" for i in range(5)]
    assert photos.ids[-1] == "p000000004" and photos.ids[1:3] == ["p000000001", "p000000002"]
    read = photos(range(5))
    assert [note["source"] for note in read.notes] == [
        "Large.PNG", "broken.png", "more/tall.webp", "tiny.png", "wide.jpg"
    ]  # fmt: skip
    assert set(read.broken) == {1, 3} and "a web page" in read.broken[1] and "12x12 px" in read.broken[3]
    assert read.images.shape == (5, SIZE, SIZE, 3) and not read.images[1].any()
    assert 0.25 < (read.masks[4] > 127).mean() < 0.4 and read.masks[4].max() == 255  # given: 20 of 64 columns
    expected = reader.read(to_tensor(read.images[[0, 2]])).mask[:, 0].numpy()
    assert np.abs(read.masks[[0, 2]] / 255 - expected).max() < 0.01  # drawn by the reader
    (tmp_path / "photo/aaa.png").write_bytes((tmp_path / "photo/Large.PNG").read_bytes())
    later = FolderPhotos(tmp_path / "photo", tmp_path / "index", SIZE, reader, "cpu")
    assert later.name(0) == "Large.PNG" and len(later.ids) == 5  # a number means the same picture for good


def test_a_folder_without_pictures_is_said(tmp_path: Path, reader: Reader) -> None:
    (tmp_path / "photo").mkdir()
    with pytest.raises(TristyleError, match="holds no pictures"):
        FolderPhotos(tmp_path / "photo", tmp_path / "index", SIZE, reader, "cpu")


def test_sets_of_photos_follow_one_another(tmp_path: Path, reader: Reader) -> None:
    first = candidates(7).photos
    both = Joined([first, FolderPhotos(folder(tmp_path), tmp_path / "index", SIZE, reader, "cpu")])
    assert len(both.ids) == 12 and both.ids[6:9] == ["000006", "p000000000", "p000000001"] and both.ids[-1][0] == "p"
    across = both(range(5, 9))
    assert across.ids == ["000005", "000006", "p000000000", "p000000001"] and set(across.broken) == {3}
    assert across.notes == [{}, {}, {"source": "Large.PNG"}, {"source": "broken.png"}]
    assert np.array_equal(across.images[:2], first.images[5:])
    assert both(range(8, 12)).ids[0] == "p000000001"


@pytest.mark.parametrize("form", ["files", "tar"])
def test_what_cannot_be_read_is_in_the_records_and_nowhere_else(tmp_path: Path, reader: Reader, form: str) -> None:
    photos = FolderPhotos(folder(tmp_path), tmp_path / "index", SIZE, reader, "cpu")
    out = tmp_path / "out"
    write = Write(format=form, per_shard=2)
    curate = Curate(clarity=Limit(worst=0.1))
    metrics = write_pairs(Translated(photos, Brush()), out, curate, write, reader, runtime(out))
    rows = {row["source"]: row for row in read_jsonl(out / "records.jsonl")}
    assert metrics["unreadable"] == 2 and metrics["pairs"] == 2
    broken = rows["broken.png"]
    assert not broken["kept"] and "a web page" in broken["unreadable"] and broken["identity"] is None
    assert "photo" not in broken and "shard" not in broken and "unreadable" not in rows["wide.jpg"]
    assert len(pictures(out, ("style",))[0]) == 2 and len(pictures(out, ("raw",), kept=False)[0]) == 1


# --------------------------------------------------------------------------------------------------------- rejects


def test_the_sheet_shows_the_worst_of_each_reason_first(tmp_path: Path) -> None:
    limits = {"identity": 0.5, "landmarks": None, "background": 0.1, "clarity": None, "agreement": None}
    rejects = Rejects(limits)
    rng = np.random.default_rng(0)
    for i, (identity, background) in enumerate(rng.uniform(0, 1, (200, 2))):
        why = [*["identity"] * bool(identity < 0.5), *["background"] * bool(background > 0.1)]
        row = {"id": f"{i:06d}", "kept": not why, "reason": " ".join(why) or None, "identity": identity}
        rejects.add(row | {"background": background, "photo": "photo.png", "raw": "raw.png"})
    worst = rejects.worst("identity")
    assert len(worst) == 8 and [row["identity"] for row in worst] == sorted(row["identity"] for row in worst)
    assert max(row["identity"] for row in worst) < 0.1
    others = [row["background"] for row in rejects.worst("background")]
    assert others == sorted(others, reverse=True) and min(others) > 0.8
    assert 80 < rejects.counts["identity"] < 120 and rejects.counts["background"] > 150
    colours = {"photo": (0, 0, 255), "raw": (255, 0, 0)}
    for name, colour in colours.items():
        write_image(tmp_path / f"{name}.png", np.full((SIZE, SIZE, 3), colour, np.uint8))
    drawn = sheet(tmp_path, rejects)
    assert [(drawn == colour).all(2).sum() for colour in colours.values()] == 2 * [16 * 96 * 96]
    assert sheet(tmp_path, Rejects(limits)).shape[1] == drawn.shape[1]


# --------------------------------------------------------------------------------------------------------- student


@pytest.mark.parametrize("form", ["files", "tar"])
def test_the_student_sees_the_same_batches_from_files_tars_memory_and_disk(
    tmp_path: Path, reader: Reader, form: str
) -> None:
    photo, _, mask = toys(0, 12, SIZE)
    made = Translated(Photos([f"{i:06d}" for i in range(12)], photo, mask), Brush())
    for name in ("files", form):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        write = Write(format=name, per_shard=5)
        write_pairs(made, tmp_path / name, CURATE, write, reader, runtime(tmp_path / name))
    held = load_pairs(Artifact(tmp_path / "files", {}), 1, Allowance())
    streamed = load_pairs(Artifact(tmp_path / form, {}), 2, Allowance(1000))
    assert all(isinstance(kind, Kept) for kind in (*held, *streamed))
    assert held[0].shape == streamed[0].shape and len(held[0]) < 12
    one = pair_batches(*held, seed=3, blurred=True)
    other = read_ahead(pair_batches(*streamed, seed=3, blurred=True))
    for start, count in ((0, 4), (4, 4), (8, 4), (100, 3), (103, 3)):
        for key, value in one(start, count).items():
            assert torch.equal(value, other(start, count)[key]), (key, start)
