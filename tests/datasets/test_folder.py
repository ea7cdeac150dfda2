"""`data=folders`: what people's own pictures look like in the wild, and what becomes of each kind."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.decode import ImageError
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tracking import Tracker
from stages.datasets.folders.stage import FolderData, heldout
from stages.datasets.pictures import read_mask, read_whole, square

SIDE = 96


def portrait(seed: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """A picture whose four corners differ, so that a turn or a flip shows. uint8 [height, width, 3]."""
    ys, xs = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    red, green = 40 + 180 * xs, 30 + 150 * ys
    return np.stack([red, green, np.full_like(xs, 20 + seed * 7 % 200)], axis=2).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def head(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 255
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty people with masks and ten style pictures with masks: no face reader is needed."""
    root = tmp_path / "own"
    for index in range(20):
        save(root / "photo" / f"p{index:02d}.png", portrait(index))
        save(root / "mask" / f"p{index:02d}.png", head())
    for index in range(10):
        save(root / "style" / "ink" / f"s{index}.png", 255 - portrait(index))
        save(root / "style_mask" / "ink" / f"s{index}.png", head())
    return root


def run(root: Path, **options: object) -> tuple[Path, dict[str, float], list[dict], list[dict]]:
    out = root.parent / "out"
    out.mkdir(exist_ok=True)
    stage = FolderData(path=str(root), size=32, **options)  # type: ignore[arg-type]
    metrics = stage.run({}, out, Runtime("cpu", 1, Tracker(out)))
    lines = [
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("records.jsonl", "rejects.jsonl")
    ]
    return out, metrics, lines[0], lines[1]


def test_layout_follows_the_contract(folder: Path) -> None:
    out, metrics, records, rejects = run(folder)
    assert not rejects
    assert metrics["count"] == 18 and metrics["heldout"] == 2
    assert metrics["style_count"] == 9 and metrics["heldout_style"] == 1
    for record in records:
        for key in ("photo", "mask"):
            assert np.array(Image.open(out / record[key])).shape[:2] == (32, 32)
    places = {
        "train": "photo/",
        "heldout": "heldout/photo/",
        "style": "style/ink/",
        "heldout_style": "heldout/style/ink/",
    }
    assert all(record["photo"].startswith(places[record["split"]]) for record in records)
    masks = {record["split"]: record["mask"].rsplit("/", 1)[0] for record in records}
    assert masks == {
        "train": "mask",
        "heldout": "heldout/mask",
        "style": "style_mask/ink",
        "heldout_style": "heldout/style_mask/ink",
    }
    assert not list((out / ".scratch").rglob("*.png"))


def test_every_broken_file_is_listed_and_never_used(folder: Path) -> None:
    photo = folder / "photo"
    good = (save(folder.parent / "good.jpg", portrait(3), quality=95)).read_bytes()
    png = (photo / "p00.png").read_bytes()
    lying = [b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0"), b"IEND"]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in lying
    )
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0x40
    broken = {
        "empty.jpg": b"",
        "page.png": b"<!DOCTYPE html><html>404",
        "drawing.png": b"<svg xmlns='x'/>",
        "cut.jpg": good[: len(good) // 2],
        "cut.png": png[: len(png) // 2],
        "noend.png": png[:-12],
        "crc.png": bytes(flipped),
        "bomb.png": bomb,
        "notes.txt": b"hello",
        "same.png": png,
    }
    for name, data in broken.items():
        (photo / name).write_bytes(data)
    save(photo / "tiny.png", portrait(0, 1, 1))
    save(photo / "sliver.png", portrait(0, 1, 400))
    (photo / "folder.png").mkdir()
    (photo / "dangling.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(photo / "pipe.png")
    save(photo / "badmask.png", portrait(77))
    (folder / "mask" / "badmask.png").write_bytes(b"\x89PNG")
    save(photo / "nohead.png", portrait(78))
    save(folder / "mask" / "nohead.png", np.zeros((SIDE, SIDE), np.uint8))
    save(photo / "wide.png", portrait(79))
    save(folder / "mask" / "wide.png", head(SIDE, 2 * SIDE))
    out, metrics, records, rejects = run(folder)
    listed = {Path(row["path"]).name: row["reason"] for row in rejects}
    assert set(listed) == {
        *broken,
        "tiny.png",
        "sliver.png",
        "folder.png",
        "dangling.png",
        "pipe.png",
        "badmask.png",
        "nohead.png",
        "wide.png",
    }
    assert "web page" in listed["page.png"] and "empty" in listed["empty.jpg"] and "vector" in listed["drawing.png"]
    assert "pixels" in listed["bomb.png"] and "regular file" in listed["pipe.png"]
    assert "shape" in listed["wide.png"] and "no head" in listed["nohead.png"]
    assert "same bytes" in listed["same.png"] and metrics["rejected"] == len(rejects) == len(listed)
    assert not {Path(record["source"]).name for record in records} & set(listed)
    assert len(list((out / "photo").glob("*.png"))) + len(list((out / "heldout/photo").glob("*.png"))) == 20


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turn_is_applied(tmp_path: Path, turn: int) -> None:
    upright = Image.fromarray(portrait(1))
    # The stored pixels that a camera writes for each orientation tag: the inverse of what the viewer applies.
    inverse = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}
    stored = upright
    for move in inverse.get(turn, []):
        stored = stored.transpose(Image.Transpose(move))
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_whole(tmp_path / "a.png"), np.array(upright))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif"])
def test_formats_read_alike(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(np.full((64, 64, 3), (200, 120, 40), np.uint8))
    image.save(tmp_path / name)
    assert np.abs(read_whole(tmp_path / name).astype(int) - (200, 120, 40)).max() <= 4


def test_depths_and_alpha(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    Image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "grey.png")
    assert abs(read_whole(tmp_path / "deep.png").mean() - read_whole(tmp_path / "grey.png").mean()) < 1
    hidden = np.zeros((64, 64, 4), np.uint8)
    hidden[:32] = (10, 200, 10, 255)
    Image.fromarray(hidden).save(tmp_path / "alpha.png")
    shown = read_whole(tmp_path / "alpha.png")
    assert (shown[40] == 255).all() and tuple(shown[0, 0]) == (10, 200, 10)


def test_masks_of_every_kind(tmp_path: Path) -> None:
    expected = head() > 0
    labels = np.where(expected, 13, 17).astype(np.uint8)
    palette = Image.new("P", labels.shape)
    palette.putpalette([value for index in range(256) for value in (index * 37 % 256, index * 91 % 256, index)])
    palette.putdata(labels.reshape(-1).tolist())
    palette.save(tmp_path / "labels.png")
    assert np.array_equal(read_mask(tmp_path / "labels.png", [1, 13]) > 0, expected)
    save(tmp_path / "ones.png", (head() > 0).astype(np.uint8))
    save(tmp_path / "soft.png", head() // 2 + 10)
    Image.fromarray(head()).convert("1").save(tmp_path / "bits.png")
    assert np.array_equal(read_mask(tmp_path / "ones.png"), head())
    assert np.array_equal(read_mask(tmp_path / "bits.png"), head())
    assert set(np.unique(read_mask(tmp_path / "soft.png"))) == {10, 137}
    with pytest.raises(ImageError, match="none of data.mask_labels"):
        read_mask(tmp_path / "labels.png", [5])


def test_square_keeps_the_centre_and_the_mean() -> None:
    image = np.zeros((40, 100), np.uint8)
    image[:, 30:70] = 200
    assert (square(image, 10) == 200).all()
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert abs(square(noise, 16).mean() - noise.mean()) < 1


def test_people_are_held_out_whole(folder: Path) -> None:
    for index in range(20):
        save(folder / "photo" / f"p{index:02d}_second.png", portrait(index + 100))
        save(folder / "mask" / f"p{index:02d}_second.png", head())
    _, _, records, _ = run(folder, person_pattern="^([^_-]+)", heldout=0.2)
    sides = [{record["person"] for record in records if record["split"] == split} for split in ("train", "heldout")]
    assert len(sides[1]) == 4 and not sides[0] & sides[1]
    assert len([record for record in records if record["split"] == "heldout"]) == 8
    grown = heldout([f"p{index}" for index in range(40)], 0.5, 0)
    assert heldout([f"p{index}" for index in range(40)], 0.25, 0) <= grown


def test_refusals_name_the_place_and_the_remedy(tmp_path: Path, folder: Path) -> None:
    def message(root: Path) -> str:
        with pytest.raises(TristyleError) as caught:
            run(root)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "nowhere: no such folder" in message(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    (empty / "photo").mkdir(parents=True)
    assert "style/<name>/" in message(empty)
    (empty / "style" / "ink").mkdir(parents=True)
    assert "photo: 0 usable pictures" in message(empty) and "it is empty" in message(empty)
    for index in range(5):
        (empty / "photo" / f"{index}.jpg").write_text(f"no picture {index}")
    assert "not a picture" in message(empty)
    for index in range(30):
        (folder / "photo" / f"bad{index}.jpg").write_text(f"no picture {index}")
    assert "30 of 50 files are unusable" in message(folder) and "data.max_rejected" in message(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 63),
        ("heldout", 0.0),
        ("heldout", float("nan")),
        ("person_pattern", "("),
        ("mask_labels", [300]),
        ("max_rejected", 2),
    ],
)
def test_config_is_checked(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        FolderData(**{"path": "x", key: value})  # type: ignore[arg-type]
    assert caught.value.key == key


def test_no_path_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="data.path=DIR"):
        FolderData().files()


def couples(root: Path, stems: list[str], style: str = "ink") -> None:
    """Style pictures, with masks, under the stems of photos."""
    for index, stem in enumerate(stems):
        save(root / "style" / style / f"{stem}.png", 255 - portrait(200 + index + 20 * len(style)))
        save(root / "style_mask" / style / f"{stem}.png", head())


def test_a_style_picture_under_a_photos_stem_is_its_twin_and_shares_its_side(folder: Path) -> None:
    couples(folder, [f"p{index:02d}" for index in range(0, 20, 2)])
    out, metrics, records, _ = run(folder, heldout=0.2)
    photos = {row["id"]: row for row in records if row["style"] is None}
    twins = [row for row in records if row.get("twin_of")]
    assert len(twins) == metrics["twins"] == 10
    sides = {(photos[row["twin_of"]]["split"], row["split"]) for row in twins}
    assert sides == {("train", "style"), ("heldout", "heldout_style")}
    for row in twins:
        assert Path(row["source"]).stem == Path(photos[row["twin_of"]]["source"]).stem
        assert row["person"] == photos[row["twin_of"]]["person"]
    held = [row for row in twins if row["split"] == "heldout_style"]
    assert len(held) == 2  # a fifth of the ten who have twins; of the others a fifth, too
    assert [photo["split"] for photo in photos.values()].count("heldout") == 4
    truth = sorted(path.stem for path in (out / "heldout/twin/ink").iterdir())
    assert truth == sorted(row["twin_of"] for row in held)
    for row in held:
        copy = out / "heldout/twin/ink" / f"{row['twin_of']}.png"
        assert copy.read_bytes() == (out / row["photo"]).read_bytes()


def test_nobody_is_trained_on_in_another_picture_of_theirs(folder: Path) -> None:
    for index in range(20):
        save(folder / "photo" / f"p{index:02d}_b.png", portrait(index + 100))
        save(folder / "mask" / f"p{index:02d}_b.png", head())
    couples(folder, [f"p{index:02d}_b" for index in range(10)])
    _, _, records, _ = run(folder, person_pattern="^([^_-]+)", heldout=0.3)
    trained = {row["person"] for row in records if row["split"] == "train" or row["split"] == "style"}
    held = {row["person"] for row in records if row["split"].startswith("heldout")}
    assert not trained & held and len([row for row in records if "twin_of" in row]) == 10


def test_names_in_common_by_chance_can_be_declared_so(folder: Path) -> None:
    alone = run(folder)[2]
    assert not any("twin_of" in row for row in alone)
    assert {row["person"] for row in alone if row["split"] == "heldout"} == heldout(
        [f"p{index:02d}" for index in range(20)], 0.1, 0
    )
    couples(folder, [f"p{index:02d}" for index in range(20)])
    out, metrics, records, _ = run(folder, twins=False)
    assert "twins" not in metrics and not (out / "heldout" / "twin").exists()
    assert [row for row in records if row["style"] is None] == [row for row in alone if row["style"] is None]


def test_of_two_pictures_under_one_stem_the_first_is_the_twin(folder: Path) -> None:
    couples(folder, ["p00", "p01", "p02"])
    save(folder / "style" / "ink" / "p01.webp", portrait(99))
    records = run(folder, heldout=0.4)[2]
    again = [(row["source"], row["twin_of"]) for row in records if "twin_of" in row]
    assert again == [(f"style/ink/p0{index}.png", f"{index:06d}") for index in range(3)]


@pytest.mark.parametrize(("share", "side"), [(0.1, "trained on"), (0.9, "held out")])
def test_twins_that_all_fall_on_one_side_are_refused(folder: Path, share: float, side: str) -> None:
    couples(folder, ["p04", "p05"], style="oil paint")
    couples(folder, ["p00", "p01", "p02", "p03"])
    with pytest.raises(TristyleError, match=f"oil paint: its pictures .* all {side}.*data.twins=false"):
        run(folder, heldout=share)
