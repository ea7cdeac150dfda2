"""Tar shards: their bytes, who can read them, and pictures read from them by place."""

from __future__ import annotations

import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stages.core.files import write_jsonl
from stages.core.images import write_image
from stages.core.settings import TristyleError
from stages.core.shards import Pictures, Shards, TarWriter, decode, encode, pictures, put, write_tar
from tests.tools.pair_toys import heads

SAMPLES = [
    ("000000", {"photo.png": b"p" * 700, "json": b"{}"}),
    ("000001", {"photo.png": b"", "json": b"{}"}),
    ("p000000017", {"photo.png": bytes(range(256)) * 2, "json": b'{"a": 1}'}),
]


def test_a_shard_is_the_same_bytes_every_time_and_a_plain_tar(tmp_path: Path) -> None:
    first, again = tmp_path / "a" / "000000.tar", tmp_path / "000001.tar"
    write_tar(first, SAMPLES)
    write_tar(again, iter(SAMPLES))
    assert first.read_bytes() == again.read_bytes()
    assert first.stat().st_size % tarfile.RECORDSIZE == 0
    with tarfile.open(first) as tar:
        members = tar.getmembers()
        assert [m.name for m in members][:3] == ["000000.photo.png", "000000.json", "000001.photo.png"]
        assert all((m.mtime, m.uid, m.gid, m.uname, m.mode) == (0, 0, 0, "", 0o644) for m in members)
        assert tar.extractfile(members[4]).read() == SAMPLES[2][1]["photo.png"]
    assert subprocess.run(["tar", "-tf", first], capture_output=True, check=True).stdout.count(b"\n") == 6


def test_samples_come_back_by_number_key_and_place_from_many_threads(tmp_path: Path) -> None:
    places = write_tar(tmp_path / "0.tar", SAMPLES[:2]) + write_tar(tmp_path / "1.tar", SAMPLES[2:])
    shards = Shards([tmp_path / "0.tar", tmp_path / "1.tar"])
    assert len(shards) == 3 and shards.keys == [key for key, _ in SAMPLES]
    assert list(shards) == SAMPLES
    assert shards[2] == shards["p000000017"] == SAMPLES[2][1]
    start, size = places[2]["photo.png"]
    assert (tmp_path / "1.tar").read_bytes()[start : start + size] == SAMPLES[2][1]["photo.png"]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: shards[i % 3], range(300))) == [SAMPLES[i % 3][1] for i in range(300)]
    with pytest.raises(KeyError):
        shards["nobody"]


def test_keys_are_all_before_the_first_dot_as_others_read_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "foreign.tar", "w") as tar:
        for name in ("a.0/b.x.png", "a.0/b.y", "c.x.png"):
            (tmp_path / "blob").write_bytes(name.encode())
            tar.add(tmp_path / "blob", name)
    assert list(Shards([tmp_path / "foreign.tar"])) == [
        ("a.0/b", {"x.png": b"a.0/b.x.png", "y": b"a.0/b.y"}),
        ("c", {"x.png": b"c.x.png"}),
    ]


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "000000"])
def test_names_that_would_be_read_as_another_key_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(TristyleError, match=r"0\.tar: the name") as refused:
        write_tar(tmp_path / "0.tar", [SAMPLES[0], (key, {"json": b""})])
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_a_cut_or_foreign_file_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", SAMPLES[::2])
    shards = Shards([tmp_path / "0.tar"])
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[:2700])
    with pytest.raises(TristyleError, match=r"0\.tar: ends at byte 2700"):
        shards[1]
    with pytest.raises(TristyleError, match=r"0\.tar: ends at byte 2700"):
        Shards([tmp_path / "0.tar"])
    (tmp_path / "0.tar").unlink()
    with pytest.raises(TristyleError, match=r"0\.tar: cannot be read"):
        shards[0]
    (tmp_path / "1.tar").write_bytes(b"<html>" * 200)
    with pytest.raises(TristyleError, match=r"1\.tar: not a whole tar shard"):
        Shards([tmp_path / "1.tar"])


def test_a_body_that_fails_leaves_no_shard_and_the_old_one(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", SAMPLES[:1])
    before = (tmp_path / "0.tar").read_bytes()
    with pytest.raises(KeyboardInterrupt), TarWriter(tmp_path / "0.tar") as tar:
        tar.add(*SAMPLES[1])
        raise KeyboardInterrupt
    with TarWriter(tmp_path / "1.tar", empty=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar"] and (tmp_path / "0.tar").read_bytes() == before


def test_put_takes_bytes_or_pieces_and_overwrites_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"torn and longer than what comes")
    put(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    put(tmp_path / "file", (piece for piece in (b"in ", b"pieces")), sync=True)
    assert (tmp_path / "file").read_bytes() == b"in pieces" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("codec", ["png", "jpeg", "webp"])
def test_codecs_keep_the_picture(codec: str) -> None:
    image = heads(1, 0, True, 64)[0][0]
    back = decode(encode(image, codec, 95))
    assert back is not None and back.shape == image.shape
    error = np.abs(back.astype(int) - image).mean()
    assert error == 0 if codec == "png" else 0 < error < 8
    rough = decode(encode(image, codec, 30))
    assert codec == "png" or np.abs(rough.astype(int) - image).mean() > error


def pair_folder(folder: Path, tar: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Six pairs, the third not kept, in files or two shards; returns (photos, masks) of the kept ones."""
    photos, masks = heads(6, 0, False, 32)
    rows = []
    for i in range(6):
        name, kept = f"{i:06d}", i != 2
        row: dict[str, object] = {"id": name, "kept": kept}
        shown = {"photo": photos[i], "style": 255 - photos[i], "mask": masks[i]} if kept else {"photo": photos[i]}
        if not tar:
            for kind, image in shown.items():
                write_image(folder / (kind if kept else "rejects") / f"{name}.png", image)
            row |= {} if kept else {"photo": f"rejects/{name}.png"}
        rows.append((row, {f"{kind}.png": encode(image) for kind, image in shown.items()}))
    if tar:
        for number, shard in enumerate((rows[:4], rows[4:])):
            places = write_tar(folder / f"shards/{number:06d}.tar", [(row["id"], members) for row, members in shard])
            for (row, _), place in zip(shard, places, strict=True):
                row |= {"shard": f"shards/{number:06d}.tar", "members": place}
    write_jsonl(folder / "records.jsonl", [row for row, _ in rows] + [{"id": "x", "kept": False, "unreadable": "y"}])
    kept = [0, 1, 3, 4, 5]
    return [photos[i] for i in kept], [masks[i] for i in kept]


@pytest.mark.parametrize("tar", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_pictures_are_indexed_like_the_array_they_stand_for(tmp_path: Path, tar: bool, workers: int) -> None:
    photos, masks = map(np.stack, pair_folder(tmp_path, tar))
    photo, mask = pictures(tmp_path, ("photo", "mask"), workers)
    assert len(photo) == 5 and photo.shape == photos.shape and mask.shape == masks.shape
    assert photo.nbytes == photos.nbytes and mask.nbytes == masks.nbytes
    for which in (slice(None), slice(1, 3), slice(0, 0), np.array([4, 0, 4]), -1, 2):
        assert np.array_equal(photo[which], photos[which]) and np.array_equal(mask[which], masks[which])
    with pytest.raises(IndexError):
        photo[5]
    (rejected,) = pictures(tmp_path, ("photo",), workers, kept=False)
    assert len(rejected) == 1 and np.array_equal(rejected[0], heads(6, 0, False, 32)[0][2])


def test_pictures_that_are_damaged_or_of_another_size_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    write_image(tmp_path / "b.png", np.zeros((9, 8, 3), np.uint8))
    (tmp_path / "c.png").write_bytes(b"<html>")
    found = Pictures(tmp_path)
    for name in ("a.png", "b.png", "c.png", "d.png"):
        found.add(name)
    for number, problem in ((1, "differs from"), (2, "lacks a whole picture"), (3, "d.png")):
        with pytest.raises(TristyleError, match=problem) as refused:
            found[np.array([0, number])]
        assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(TristyleError, match="its records keep no picture. Run the stage that wrote it again"):
        Pictures(tmp_path)[:]
