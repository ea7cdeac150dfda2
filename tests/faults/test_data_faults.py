"""Faulty data sets, one test a fault, D1 to D24: refused or listed with a remedy, or accepted and noted; nothing lost.

Every test stands under one oracle (`unharmed`, `plain`): what goes wrong is a TristyleError or a line of rejects.jsonl,
names the path and the remedy on one line, leaves the user's files as they were and no temporary ones, and costs little.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from stages.apply import main as stylize
from stages.apply.picture import read_photo
from stages.core import decode
from stages.core.artifact import hash_path, open_artifact, seal
from stages.core.files import read_jsonl, sha256_file
from stages.core.images import read_image, write_image
from stages.core.runtime import Runtime
from stages.core.settings import TristyleError
from stages.core.shards import Shards, write_tar
from stages.core.tracking import Tracker
from stages.datasets.folders import stage as folder_module
from stages.datasets.folders.photo_quality import Limits
from stages.datasets.folders.stage import FolderData
from stages.datasets.pictures import read_square
from stages.pair.given import couples, on_disk
from tests.tools import odd_pictures as odd
from tests.tools.portraits import portrait

SIDE = 32
MOST_MEBI, MOST_SECONDS = 200, 60  # far above what anything here takes, far below what a bomb does
IMPORTS_MEBI = 2000  # the command line imports torch
GOLDEN = "56699dcfac1f1f98"


# ---------------------------------------------------------------------------------------------------- the common oracle


def contents(folder: Path) -> dict[str, str]:
    """Digests of all regular files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and os.access(path, os.R_OK))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def memory(name: str) -> float:
    """MiB of this process now (VmRSS) or at most since `unharmed` began (VmHWM)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(name))


@contextmanager
def unharmed(own: Path, mebi: float = MOST_MEBI, seconds: float = MOST_SECONDS) -> Iterator[None]:
    """The body leaves the files below `own` as they are and no temporary one beside it, and costs little.

    It may raise nothing but what its test expects, so neither a traceback nor another type of error passes.
    """
    before = contents(own)
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    resident, cpu = memory("VmRSS"), time.process_time()
    signal.alarm(5 * MOST_SECONDS)  # what blocks would block for ever
    try:
        yield
    finally:
        signal.alarm(0)
    assert time.process_time() - cpu < seconds and memory("VmHWM") - resident < mebi
    assert contents(own) == before
    assert not list(own.parent.rglob("*.tmp"))


def plain(message: str) -> str:
    """A message for users: one line, what is wrong and a sentence on what to do."""
    assert "\n" not in message and ". " in message, message
    return message


def stylize_says(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    """The line that `stylize` refuses a picture with; nothing is written."""
    out = path.parent.parent.parent / "out.png"
    capsys.readouterr()
    with unharmed(path.parent.parent), pytest.raises(SystemExit) as stop:
        stylize([str(path), "-o", str(out)])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith(f"stylize: {path}: ") and not out.exists()
    return plain(line)


def refused(call: Callable[[], object]) -> str:
    """The message of the TristyleError that a call ends with."""
    with pytest.raises(TristyleError) as caught:
        call()
    return plain(str(caught.value))


# ------------------------------------------------------------------------------------------------------------- the data


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Six people and four style pictures, with masks, so that no network is needed."""
    root = tmp_path / "own"
    for index in range(6):
        put(root, f"p{index}.png", odd.encode(odd.portrait(index, SIDE, SIDE), "PNG"))
    for index in range(4):
        put(root, f"s{index}.png", odd.encode(odd.portrait(50 + index, SIDE, SIDE), "PNG"), "style/ink")
    return root


def put(root: Path, name: str, data: bytes, place: str = "photo", width: int = SIDE) -> Path:
    """A picture file and a mask under its stem."""
    path = root / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    mask = np.zeros((SIDE, width), np.uint8)
    mask[8:24, 8:24] = 255
    masks = root / ("mask" if place == "photo" else place.replace("style", "style_mask")) / f"{path.stem}.png"
    masks.parent.mkdir(parents=True, exist_ok=True)
    masks.write_bytes(odd.encode(mask, "PNG"))
    return path


def ingested(own: Path, **options: object) -> SimpleNamespace:
    """`stage=data data=folders` in this process: out, metrics, records by source name, reasons of rejects by name."""
    out = own.parent / "runs" / "data" / hashlib.sha256(repr(sorted(options.items())).encode()).hexdigest()[:8]
    out.mkdir(parents=True, exist_ok=True)
    stage = FolderData(path=str(own), **{"size": SIDE, "duplicates": None, **options})  # type: ignore[arg-type]
    metrics = stage.run({}, out, Runtime("cpu", 1, Tracker(out)))
    records = {row["source"]: row for row in read_jsonl(out / "records.jsonl")}
    rejects = {row["path"]: row["reason"] for row in read_jsonl(out / "rejects.jsonl")}
    return SimpleNamespace(out=out, metrics=metrics, records=records, rejects=rejects)


def listed(own: Path, names: list[str], **options: object) -> list[str]:
    """The reasons for which these photos are listed as rejects, none of them used, and all others used."""
    with unharmed(own):
        made = ingested(own, **options)
    assert set(made.rejects) == {f"photo/{name}" for name in names} and not set(made.rejects) & set(made.records)
    assert len([name for name in made.records if name.startswith("photo/")]) == 6
    return [plain(f"photo/{name}: {made.rejects[f'photo/{name}']}") for name in names]


def accepted(own: Path, name: str, **options: object) -> SimpleNamespace:
    """The photo as it was taken in: pixels, notes, record."""
    with unharmed(own):
        made = ingested(own, **options)
    assert not made.rejects
    record = made.records[f"photo/{name}"]
    pixels = np.asarray(Image.open(made.out / record["photo"]))
    return SimpleNamespace(pixels=pixels, notes=record.get("notes", []), record=record, metrics=made.metrics)


SHOWN = odd.portrait(90, SIDE, SIDE)
JPEG = odd.encode(SHOWN, "JPEG", quality=95)
PNG = odd.encode(SHOWN, "PNG")


def test_D1_zero_bytes(own: Path, tristyle) -> None:
    put(own, "empty.jpg", b"")
    (reason,) = listed(own, ["empty.jpg"])
    assert "an empty file" in reason
    for index in range(20):
        put(own, f"empty{index}.jpg", b"")
    with unharmed(own, IMPORTS_MEBI):
        message = refused(lambda: ingested(own))
        line = tristyle("stage=data", "data=folders", f"data.path={own}", "data.size=32", "style.target=ink").line
    assert message.startswith(f"{own / 'photo'}: 21 of 27 files are unusable, the first photo/empty.jpg (an empty")
    assert message in line and "data.max_rejected" in line


def test_D2_text_under_a_pictures_name(own: Path) -> None:
    put(own, "page.png", b"<!DOCTYPE html><html><title>404")
    put(own, "note.jpg", b"I meant to download this later")
    page, note = listed(own, ["page.png", "note.jpg"])
    assert "web page" in page and "download" in page and "not a picture" in note


def test_D3_half_a_jpeg(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for name, options in (("plain", {}), ("progressive", {"progressive": True}), ("grey", {})):
        whole = odd.encode(SHOWN[..., 0] if name == "grey" else SHOWN, "JPEG", quality=95, **options)
        names.append(put(own, f"{name}.jpg", whole[: len(whole) // 2]).name)
    for reason in listed(own, names):
        assert "broken" in reason
    assert "broken" in stylize_says(capsys, own / "photo" / "plain.jpg")


def test_D4_a_jpeg_without_its_last_two_bytes(own: Path) -> None:
    put(own, "p9.jpg", JPEG[:-2])
    made = accepted(own, "p9.jpg")
    assert "last bytes are missing" in made.notes[0] and made.metrics["noted"] == 1
    assert np.array_equal(made.pixels, decode.decode(JPEG, "x").pixels)


def test_D5_a_png_cut_without_its_end_or_with_a_flipped_bit(own: Path) -> None:
    flipped = bytearray(PNG)
    flipped[len(PNG) // 2] ^= 0x20
    sums = bytearray(PNG)
    sums[8 + 25 - 1] ^= 1  # IHDR's checksum, all else being right
    faults = {"cut.png": PNG[: len(PNG) // 2], "end.png": PNG[:-12], "flip.png": bytes(flipped), "sum.png": bytes(sums)}
    for name, data in faults.items():
        put(own, name, data)
    for reason in listed(own, list(faults)):
        assert "broken" in reason


def test_D6_a_bit_flipped_in_a_jpeg_since_it_was_indexed(own: Path, tmp_path: Path, tristyle) -> None:
    path = put(own, "p9.jpg", JPEG)
    words = ("data=folders", f"data.path={own}", "data.size=32", "style.target=ink")
    before = hash_path(own)
    assert tristyle("stage=data", *words).code == 0
    (manifest,) = tmp_path.glob("runs/data/*/manifest.json")
    sealed = manifest.parent
    record = next(row for row in read_jsonl(sealed / "records.jsonl") if row["source"] == "photo/p9.jpg")
    assert record["sha256"] == hashlib.sha256(JPEG).hexdigest()
    flipped = bytearray(JPEG)
    flipped[len(JPEG) * 2 // 3] ^= 0x08
    decode.decode(bytes(flipped), "x")  # no decoder sees it
    path.write_bytes(flipped)
    with unharmed(own, IMPORTS_MEBI):
        assert hash_path(own) != before and sha256_file(path) != record["sha256"]
        assert "stage=data" in plain(tristyle("stage=style", *words).line)  # the old data set is not taken for the new
    path.write_bytes(JPEG)
    stored = sealed / record["photo"]
    os.chmod(stored, 0o644)
    data = bytearray(stored.read_bytes())
    stored.unlink()
    data[len(data) // 2] ^= 0x08
    stored.write_bytes(data)
    with unharmed(own, IMPORTS_MEBI):
        line = plain(tristyle("stage=style", *words).line)
    assert stored.name in line and "changed since the artifact was sealed" in line


def test_D7_a_wrong_extension(own: Path) -> None:
    put(own, "p8.png", JPEG)
    put(own, "p9.jpg", PNG)
    with unharmed(own):
        made = ingested(own)
    assert not made.rejects
    for name, told, data in (("p8.png", "a JPEG file", JPEG), ("p9.jpg", "a PNG file", PNG)):
        record = made.records[f"photo/{name}"]
        assert told in record["notes"][0]
        with Image.open(made.out / record["photo"]) as stored:
            assert stored.format == "PNG" and np.array_equal(stored, decode.decode(data, name).pixels)


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("WEBP", "webp"), ("JPEG", "jpg")])
def test_D8_every_orientation_through_every_loader(kind: str, suffix: str, own: Path) -> None:
    ys, xs = np.mgrid[:SIDE, :SIDE]
    upright = np.stack([xs * 8, ys * 8, (xs + ys) * 4], axis=2).astype(np.uint8)
    assert hashlib.sha256(upright).hexdigest()[:16] == GOLDEN
    exact = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}[kind]
    turns = [*range(1, 9), 99]
    for turn in turns:
        put(own, f"turn{turn}.{suffix}", odd.turned(upright, turn, kind, **exact))
    with unharmed(own):
        made = ingested(own, max_rejected=1.0)
    for turn in turns:
        path = own / "photo" / f"turn{turn}.{suffix}"
        seen = [read(path) for read in (read_image, read_photo, lambda file: read_square(file, None, SIDE)[0])]
        if f"photo/{path.name}" in made.records:  # with JPEG alone no two files are of the same bytes
            seen.append(np.asarray(Image.open(made.out / made.records[f"photo/{path.name}"]["photo"])))
        for pixels in seen:
            assert np.array_equal(pixels, seen[0])
        if kind == "JPEG":
            assert np.abs(seen[0].astype(int) - upright).max() <= 6
        else:
            assert hashlib.sha256(seen[0]).hexdigest()[:16] == GOLDEN
    assert {name for name in made.rejects} == set()


@pytest.mark.parametrize("mode", ["CMYK", "L", "LA", "P", "1"])
def test_D9_other_modes(mode: str, own: Path) -> None:
    image = Image.fromarray(SHOWN)
    changed = image.convert("L").convert(mode) if mode in ("1", "LA") else image.convert(mode)
    name = "p9.jpg" if mode == "CMYK" else "p9.png"
    put(
        own,
        name,
        odd.encode(changed, "JPEG" if mode == "CMYK" else "PNG", **{"quality": 100} if mode == "CMYK" else {}),
    )
    made = accepted(own, name)
    assert not made.notes and np.abs(made.pixels.astype(int) - np.asarray(changed.convert("RGB"))).max() <= 2


def test_D10_sixteen_bits(own: Path) -> None:
    grey = SHOWN[..., 1].astype(np.uint16) * 257
    put(own, "p8.png", odd.encode(Image.fromarray(grey), "PNG"))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SHOWN.astype(np.uint32) * 257)
    put(own, "p9.png", odd.png(SIDE, SIDE, 16, 2, rows))
    assert abs(accepted(own, "p8.png").pixels.mean() - SHOWN[..., 1].mean()) < 1
    assert abs(accepted(own, "p9.png").pixels.mean() - SHOWN.mean()) < 1


def test_D11_transparency(own: Path) -> None:
    hidden = np.dstack([SHOWN, np.full((SIDE, SIDE), 255, np.uint8)])
    hidden[:16, :, :3], hidden[:16, :, 3] = (255, 0, 255), 0
    put(own, "p9.png", odd.encode(hidden, "PNG"))
    assert (accepted(own, "p9.png").pixels[:16] == 255).all()
    made = accepted(own, "p9.png", background=[10, 120, 30])
    assert (made.pixels[:16] == (10, 120, 30)).all() and np.array_equal(made.pixels[16:], SHOWN[16:])


@pytest.mark.parametrize(("kind", "suffix"), [("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png")])
def test_D12_an_animation(kind: str, suffix: str, own: Path) -> None:
    frames = [Image.fromarray(odd.portrait(seed, SIDE, SIDE)) for seed in (90, 91, 92)]
    exact = {"lossless": True} if kind == "WEBP" else {}
    data = odd.encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=80, **exact)
    put(own, f"p9.{suffix}", data)
    made = accepted(own, f"p9.{suffix}")
    assert made.record["source"] == f"photo/p9.{suffix}" and "animated, 3 frames; the first" in made.notes[0]
    assert np.abs(made.pixels.astype(int) - SHOWN).mean() < (6 if kind == "GIF" else 0.5)


def test_D13_bombs(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bombs = odd.bombs()
    (tmp_path / "bombs").mkdir()
    for name, data in bombs.items():
        (tmp_path / "bombs" / name).write_bytes(data)
    told = {"wide.png": "20000x20000 pixels", "lying.png": "60000x60000 pixels", "text.png": "decompression bomb"}
    read_image(own / "photo" / "p0.png")  # the libraries' own memory is none of theirs
    for name in bombs:
        with unharmed(tmp_path / "bombs", mebi=64, seconds=1):
            message = refused(lambda name=name: decode.read(tmp_path / "bombs" / name))
        assert name in message and told[name] in message
    put(own, "wide.png", bombs["wide.png"])
    assert told["wide.png"] in listed(own, ["wide.png"])[0]
    assert told["wide.png"] in stylize_says(capsys, own / "photo" / "wide.png")


def test_D14_too_small(own: Path) -> None:
    put(own, "dot.png", odd.encode(SHOWN[:1, :1], "PNG"))
    put(own, "strip.png", odd.encode(np.tile(SHOWN[:1], (1, 125, 1)), "PNG"))
    dot, strip = listed(own, ["dot.png", "strip.png"])
    assert "1x1 px is under half of data.size" in dot and "4000x1 px" in strip


def test_D15_what_is_no_file_of_the_folder(own: Path, tmp_path: Path, tristyle) -> None:
    photo, names = own / "photo", ["away.png", "dangling.png", "folder.png", "pipe.png"]
    (tmp_path / "elsewhere.png").write_bytes(PNG)
    (photo / "away.png").symlink_to(tmp_path / "elsewhere.png")
    (photo / "dangling.png").symlink_to(photo / "nowhere.png")
    (photo / "folder.png").mkdir()
    os.mkfifo(photo / "pipe.png")
    secret = photo / "secret.png"
    secret.write_bytes(odd.encode(odd.portrait(77, SIDE, SIDE), "PNG"))
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        secret.unlink()  # root reads everything
    else:
        names.append("secret.png")
    reasons = listed(own, names)
    assert "link out of the folder" in reasons[0] and all("not a regular file" in reason for reason in reasons[1:4])
    assert len(names) == 4 or "cannot be read" in reasons[4]
    with unharmed(own, IMPORTS_MEBI):
        words = ("stage=data", "data=folders", f"data.path={own}", "data.size=32", "style.target=ink")
        assert tristyle(*words).code == 0  # which hashes all files first


def test_D16_names_of_every_kind(own: Path) -> None:
    names = [
        "Zoë.png",
        "Zoe\u0308.png",
        "日本語 ☺.png",
        "-rf.png",
        "two\nlines.png",
        "$(x);'\".png",
        "a" * 251 + ".png",
    ]
    names.append(os.fsdecode(b"latin\xe9.png"))  # no UTF-8
    for number, name in enumerate(names):
        put(own, name, odd.encode(odd.portrait(200 + number, SIDE, SIDE), "PNG"))
    with unharmed(own):
        made = ingested(own)
    assert not made.rejects and {f"photo/{name}" for name in names} <= set(made.records)
    for name in names:
        record = made.records[f"photo/{name}"]
        assert np.array_equal(Image.open(made.out / record["photo"]), read_image(own / "photo" / name))
        assert record["sha256"] == sha256_file(own / "photo" / name)
    for number in range(30):
        put(own, f"bro\nken{number}.png", b"nothing")
    with unharmed(own):
        assert r"bro\nken" in refused(lambda: ingested(own)) and "30 of 44" in refused(lambda: ingested(own))
        assert r"bro\nken0.png: not a picture" in refused(lambda: read_image(own / "photo" / "bro\nken0.png"))


def test_D17_the_same_picture_twice(own: Path) -> None:
    put(own, "q0.png", (own / "photo" / "p0.png").read_bytes())
    again = put(own, "q1.jpg", odd.encode(odd.portrait(1, SIDE, SIDE), "JPEG", quality=97))
    for options, rejected in (({"duplicates": None}, ["q0.png"]), ({"duplicates": 3}, ["q0.png", again.name])):
        with unharmed(own):
            made = ingested(own, **options)
        assert sorted(made.rejects) == [f"photo/{name}" for name in rejected]
        assert "same bytes as photo/p0.png" in made.rejects["photo/q0.png"]
    assert "photo/p1.png" in made.rejects["photo/q1.jpg"]


def test_D18_an_empty_folder_and_a_single_picture(own: Path, tristyle) -> None:
    words = ("stage=data", "data=folders", f"data.path={own}", "data.size=32", "style.target=ink")
    for path in sorted((own / "photo").iterdir())[1:]:
        path.unlink()
    with unharmed(own, IMPORTS_MEBI):
        line = plain(tristyle(*words).line)
    assert f"{own / 'photo'}: 1 usable pictures of 1 files, at least 2 are needed" in line
    next((own / "photo").iterdir()).unlink()
    with unharmed(own, IMPORTS_MEBI):
        line = plain(tristyle(*words).line)
    assert f"{own / 'photo'}: 0 usable pictures of 0 files" in line and "it is empty" in line


def test_D19_no_face_two_faces_one_at_the_border_one_upside_down(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRISTYLE_WEIGHTS", raising=False)
    faces = [portrait(number, 256).image for number in (0, 1, 3, 5, 10, 22)]  # who look ahead
    shutil.rmtree(own / "photo")
    shutil.rmtree(own / "mask")
    wall = np.tile(np.linspace(90, 140, 256, dtype=np.uint8)[:, None, None], (1, 256, 3))
    found = {"a.png": faces[0], "b.png": faces[1], "two.png": np.hstack(faces[2:4]), "border.png": faces[4][40:, 30:]}
    (own / "photo").mkdir()
    for name, pixels in {**found, "wall.png": wall, "upside.png": faces[5][::-1, ::-1]}.items():
        (own / "photo" / name).write_bytes(odd.encode(pixels, "PNG"))
    with unharmed(own, IMPORTS_MEBI):
        made = ingested(own, faces="aligned", heldout=0.2)
        strict = ingested(own, faces="aligned", heldout=0.2, limits=Limits(outside=0.1))
        every = ingested(own, faces="all", heldout=0.2)
    assert "no face found" in plain(f"wall: {made.rejects['photo/wall.png']}")
    assert {f"photo/{name}" for name in found} <= set(made.records)
    assert ("photo/upside.png" in made.rejects) != ("photo/upside.png" in made.records)
    assert made.records["photo/two.png"]["faces"] == 2 and made.records["photo/a.png"]["faces"] == 1
    outside = {name: made.records[f"photo/{name}"]["scores"]["outside"] for name in ("a.png", "border.png")}
    assert outside["a.png"] < 0.1 < outside["border.png"]
    assert "cut by the border" in strict.rejects["photo/border.png"] and "photo/a.png" in strict.records
    assert every.metrics["count"] + every.metrics["heldout"] == made.metrics["count"] + made.metrics["heldout"] + 1


def test_D20_a_file_gone_or_replaced_between_listing_and_reading(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, read = own / "photo" / "p3.png", folder_module.ingest
    for change in (victim.unlink, lambda: victim.write_bytes(JPEG)):

        def later(*arguments: object, change: Callable[[], object] = change) -> object:
            change()
            return read(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(folder_module, "ingest", later)
        message = refused(lambda: ingested(own))
        assert message.startswith(f"{victim}: ") and "Run again" in message and "listed anew" in message
        monkeypatch.setattr(folder_module, "ingest", read)
        victim.write_bytes(PNG)
        with unharmed(own):
            assert "photo/p3.png" in ingested(own).records


def test_D21_colour_profiles(own: Path) -> None:
    put(own, "p8.png", odd.encode(SHOWN, "PNG", icc_profile=odd.profile(odd.P3)))
    wide = accepted(own, "p8.png").pixels
    assert np.abs(wide - odd.as_srgb(SHOWN, odd.P3)).max() <= 2 < np.abs(wide.astype(int) - SHOWN).max()
    put(own, "p8.png", odd.encode(SHOWN, "PNG", icc_profile=b"\0garbage" * 40))
    made = accepted(own, "p8.png")
    assert np.array_equal(made.pixels, SHOWN) and "colour profile is broken" in made.notes[0]


def test_D22_pairs_with_a_side_missing_of_another_size_or_in_another_order(own: Path) -> None:
    def twin(number: int, width: int = SIDE) -> bytes:
        return odd.encode(255 - odd.portrait(number, SIDE, width), "PNG" if number % 2 else "JPEG")

    with unharmed(own):
        made = ingested(own)
        data = seal(made.out, "data", config={}, inputs={}, metrics=made.metrics)
        assert "holds no pairs of photo and ink" in refused(lambda: couples(data, "ink"))
    shutil.rmtree(own / "style")
    for number in (5, 3, 4, 0, 2):  # written in another order, under other suffixes; p1 has no twin
        put(own, f"p{number}.{'png' if number % 2 else 'jpg'}", twin(number), "style/ink")
    put(own, "p10.png", odd.encode(odd.portrait(10, SIDE, SIDE), "PNG"))
    put(own, "p10.jpg", twin(10), "style/ink")
    put(own, "p2.jpg", twin(2, 2 * SIDE), "style/ink", 2 * SIDE)
    put(own, "p77.png", twin(77), "style/ink")  # has no photo
    with unharmed(own):
        made = ingested(own, heldout=0.3)
        data = seal(made.out, "data", config={}, inputs={}, metrics=made.metrics)
        pairs = couples(data, "ink")
    reason = plain(made.rejects["style/ink/p2.jpg"])
    assert list(made.rejects) == ["style/ink/p2.jpg"] and "64x32 px where photo/p2.png has 32x32" in reason
    sources = {row["photo"]: name for name, row in made.records.items()}
    stems = {Path(sources[pair.photo]).stem: Path(sources[pair.twin]).stem for pair in pairs}
    assert stems == {stem: stem for stem in ("p0", "p3", "p4", "p5", "p10")}
    assert "no photo of its name" in made.records["style/ink/p77.png"]["notes"][0]
    assert "no picture of its name in style/ink" in made.records["photo/p1.png"]["notes"][0]
    victim = data.path / pairs[1].twin
    write_image(victim, odd.portrait(1, 48, 48))
    with unharmed(own):
        assert str(victim) in refused(lambda: on_disk(data.path, pairs)(range(len(pairs))))
        assert victim.name in refused(lambda: open_artifact(data.path, "data"))
    victim.unlink()
    with unharmed(own):
        assert f"{victim}: no such file" in refused(lambda: on_disk(data.path, pairs)(range(len(pairs))))
        assert f"{victim}: missing" in refused(lambda: open_artifact(data.path, "data"))


def test_D23_shards(tmp_path: Path) -> None:
    def samples(first: int) -> list[tuple[str, dict[str, bytes]]]:
        return [(f"{number:06d}", {"photo.png": PNG, "style.png": PNG}) for number in range(first, first + 4)]

    folder = tmp_path / "shards"
    for number in range(3):
        write_tar(folder / f"{number}.tar", samples(10 * number))
    paths = sorted(folder.iterdir())
    artifact = tmp_path / "pair"
    artifact.mkdir()
    (artifact / "1.tar").write_bytes(paths[1].read_bytes())
    seal(artifact, "pair", config={}, inputs={}, metrics={})
    for place in (paths[1], artifact / "1.tar"):
        place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])
    with unharmed(folder):
        assert str(paths[1]) in refused(lambda: Shards(paths))
        assert "1.tar: changed since" in refused(lambda: open_artifact(artifact, "pair"))
        assert len(Shards([paths[0], paths[2]])) == 8  # the others are whole
        assert f"{paths[0]}: is given twice" in refused(lambda: Shards([paths[0], paths[2], paths[0]]))
    with tarfile.open(paths[1], "w") as tar:
        for name in ("000010.photo.png", "000011.photo.png", "000010.style.png", "000011.style.png"):
            (tmp_path / "member").write_bytes(PNG)
            tar.add(tmp_path / "member", name)
    with unharmed(folder):
        message = refused(lambda: Shards(paths))
    assert message.startswith(f"{paths[1]}: ") and "'000010'" in message and "out of order" in message


def test_D24_formats_that_are_not_read(own: Path) -> None:
    files = {
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "vector drawing"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "PostScript"),
        "psd": (b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x40\0\0\0\x40\0\x08\0\3" + bytes(20), "Photoshop"),
        "tiff": (odd.encode(SHOWN, "TIFF"), "TIFF"),
    }
    names = [name for suffix in files for name in (f"a.{suffix}", f"disguised_{suffix}.png")]
    for name in names:
        suffix = name.split("_")[-1].removesuffix(".png").removeprefix("a.")
        put(own, name, files[suffix][0])
    put(own, "p9.png", PNG)
    (own / "photo" / "p5.png").unlink()
    for name, reason in zip(names, listed(own, names, max_rejected=0.9), strict=True):
        suffix = name.split("_")[-1].removesuffix(".png").removeprefix("a.")
        assert files[suffix][1] in reason and "Convert it to JPEG or PNG" in reason
