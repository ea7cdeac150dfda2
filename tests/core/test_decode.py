"""Picture files to pixels: they look the same in every mode, turn, profile and format; a cut one is never whole."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.core import decode as decoding
from stages.core.decode import ImageError, decode
from stages.core.settings import TristyleError
from tests.tools import odd_pictures as odd

SHOWN = odd.portrait(0)


def gap(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(float) - second).max())


@pytest.mark.parametrize("turn", [*range(1, 9), 0, 99])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_turns_end_upright(turn: int, kind: str) -> None:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    pixels = decode(odd.turned(SHOWN, turn, kind, **options), "x").pixels
    assert pixels.flags.c_contiguous and gap(pixels, SHOWN) <= (8 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "I;16"])
def test_modes_follow_pillow_where_it_is_right(mode: str) -> None:
    image = Image.fromarray(SHOWN)
    if mode == "I;16":
        deep = (np.asarray(image.convert("L")).astype(np.uint16)) * 257
        pixels = decode(odd.encode(Image.fromarray(deep), "PNG"), "x").pixels
        assert gap(pixels, np.asarray(image.convert("L").convert("RGB"))) == 0
        return
    changed = image.convert("L").convert(mode) if mode in ("1", "LA") else image.convert(mode)
    data = odd.encode(changed, "JPEG" if mode == "CMYK" else "PNG", **({"quality": 100} if mode == "CMYK" else {}))
    assert gap(decode(data, "x").pixels, np.asarray(changed.convert("RGB"))) <= (2 if mode == "CMYK" else 0)


def test_sixteen_bits_of_colour_are_scaled() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SHOWN.astype(np.uint32) * 257)
    pixels = decode(odd.png(SHOWN.shape[1], SHOWN.shape[0], 16, 2, rows), "x").pixels
    assert abs(pixels.mean() - SHOWN.mean()) < 1 and gap(pixels, SHOWN) <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_shows_the_background_and_never_what_is_hidden(kind: str) -> None:
    hidden = np.dstack([SHOWN, np.full(SHOWN.shape[:2], 255, np.uint8)])
    hidden[:48, :, 3] = 0
    hidden[48:56, :, 3] = 128
    pixels = decode(
        odd.encode(hidden, kind, **({"lossless": True} if kind == "WEBP" else {})), "x", (0, 200, 100)
    ).pixels
    assert (pixels[:48] == (0, 200, 100)).all() and gap(pixels[56:], SHOWN[56:]) == 0
    assert gap(pixels[48:56], (SHOWN[48:56] * 128.0 + np.array([0, 200, 100]) * 127) / 255) <= 0.51
    assert (decode(odd.encode(hidden, "PNG"), "x").pixels[:48] == 255).all()


def test_one_colour_may_be_transparent() -> None:
    picture = SHOWN.copy()
    picture[:20] = (200, 30, 120)
    for pixels, colour in ((picture, (200, 30, 120)), (picture[..., 1], 30)):
        read = decode(odd.encode(pixels, "PNG", transparency=colour), "x", (7, 8, 9)).pixels
        assert (read[:20] == (7, 8, 9)).all() and (read[40:] != (7, 8, 9)).any(axis=2).all()


def test_transparency_of_a_palette_counts() -> None:
    image = Image.fromarray(SHOWN).quantize(16)
    image.info["transparency"] = int(np.asarray(image)[0, 0])
    clear = np.asarray(image) == image.info["transparency"]
    pixels = decode(odd.encode(image, "PNG", transparency=image.info["transparency"]), "x", (1, 2, 3)).pixels
    assert (pixels[clear] == (1, 2, 3)).all() and not (pixels[~clear] == (1, 2, 3)).all(axis=1).any()


@pytest.mark.parametrize(("colorants", "gamma"), [(odd.P3, None), (odd.ADOBE, 563 / 256)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_colour_profiles_are_turned_into_srgb(colorants: tuple, gamma: float | None, kind: str) -> None:
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = odd.encode(SHOWN, kind, icc_profile=odd.profile(colorants, gamma), **options)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    true = odd.as_srgb(stored, colorants, gamma)
    assert gap(true, stored) > 10  # the profile matters on this picture
    assert gap(decode(data, "x").pixels, true) <= 2


def test_a_profile_counts_under_transparency_too() -> None:
    clear = np.dstack([SHOWN, np.full(SHOWN.shape[:2], 255, np.uint8)])
    clear[:10, :, 3] = 0
    pixels = decode(odd.encode(clear, "PNG", icc_profile=odd.profile(odd.P3)), "x", (9, 99, 199)).pixels
    assert (pixels[:10] == (9, 99, 199)).all()  # the background is sRGB, whatever the picture is
    assert gap(pixels[10:], odd.as_srgb(SHOWN[10:], odd.P3)) <= 2


def test_srgb_costs_nothing_and_garbage_is_noted() -> None:
    plain = decode(odd.encode(SHOWN, "JPEG"), "x")
    same = decode(odd.encode(SHOWN, "JPEG", icc_profile=odd.profile(odd.SRGB)), "x")
    assert np.array_equal(plain.pixels, same.pixels) and plain.notes == same.notes == ()
    broken = decode(odd.encode(SHOWN, "JPEG", icc_profile=b"no profile"), "x")
    assert np.array_equal(broken.pixels, plain.pixels) and "colour profile" in broken.notes[0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_and_a_note(kind: str) -> None:
    picture = decode(odd.animated(kind), "x")
    assert picture.frames == 3 and "animated, 3 frames" in picture.notes[0]
    assert np.abs(picture.pixels.astype(float) - SHOWN).mean() < 8  # a GIF has 256 colours


def test_content_decides_and_a_misleading_name_is_noted() -> None:
    assert decode(odd.encode(SHOWN, "JPEG"), "a.png").notes == ("a JPEG file under a name that ends in .png",)
    assert decode(odd.encode(SHOWN, "PNG"), "a.JPG").notes == ("a PNG file under a name that ends in .JPG",)
    assert not decode(odd.encode(SHOWN, "JPEG"), "a.JPEG").notes + decode(odd.encode(SHOWN, "PNG"), "a").notes


KINDS = {
    "baseline": ("JPEG", {"quality": 80}),
    "grey": ("JPEG", {"quality": 80}),
    "restarts": ("JPEG", {"quality": 80, "restart_marker_blocks": 1}),
    "progressive": ("JPEG", {"quality": 80, "progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_cut_file_is_refused_wherever_it_is_cut(name: str) -> None:
    kind, options = KINDS[name]
    picture = odd.portrait(4, 40, 48)
    whole = odd.encode(picture if name != "grey" else picture[..., 0], kind, **options)
    reference = decode(whole, "x").pixels
    assert not decode(whole, "x").notes and np.array_equal(decode(whole + b"a trailer" * 9, "x").pixels, reference)
    restarts = (
        [len(whole) - found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole)] if kind == "JPEG" else []
    )
    assert len(restarts) >= 8 or name != "restarts"  # a cut before each of the eight markers
    for missing in [*range(1, 60), *range(60, len(whole), 7), *restarts]:
        cut = whole[:-missing]
        if kind == "JPEG" and missing <= 2:  # its end marker, or the half of it: all of the picture is there
            told = decode(cut, "x")
            assert np.array_equal(told.pixels, reference) and "last bytes" in told.notes[0]
            continue
        try:
            told = decode(cut, "x")
        except ImageError:
            continue
        # Zeros are what libjpeg puts for what is missing: where they were there, nothing is.
        assert kind == "JPEG" and missing < 8 and np.array_equal(told.pixels, reference), missing


def test_a_thumbnails_end_is_not_the_pictures() -> None:
    thumbnail = odd.encode(odd.portrait(1, 24, 20), "JPEG")
    whole = odd.encode(SHOWN, "JPEG", quality=97)
    with_thumbnail = whole[:2] + b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail + whole[2:]
    assert np.array_equal(decode(with_thumbnail, "x").pixels, decode(whole, "x").pixels)
    cut = with_thumbnail[: -len(whole) // 2]
    assert cut.rfind(b"\xff\xda") > len(thumbnail) + 20  # the scan has begun
    with pytest.raises(ImageError, match="broken"):
        decode(cut, "x")
    assert decoding._has_end(with_thumbnail) and not decoding._has_end(cut)  # not every OpenCV refuses a cut scan


def test_a_flipped_bit_anywhere_in_a_png_is_refused() -> None:
    whole = odd.encode(odd.portrait(2, 24, 24), "PNG")
    for place in range(8, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        with pytest.raises(ImageError):
            decode(bytes(flipped), "x")


def test_the_limit_of_pillow_is_left_as_it_was_by_many_threads() -> None:
    limit, files = Image.MAX_IMAGE_PIXELS, [*odd.bombs().values(), odd.encode(SHOWN, "PNG")]
    refused = []

    def work() -> None:
        for data in files * 5:
            try:
                decode(data, "x")
            except ImageError as error:
                refused.append(str(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert len(refused) == 4 * 5 * 3 and Image.MAX_IMAGE_PIXELS == limit
    assert sum("20000x20000 pixels" in line for line in refused) == 20


def damaged_tiffs() -> dict[str, bytes]:
    """TIFFs that Pillow warns of: a tag with more values than it may have, a cut directory, too many samples."""
    data = bytearray(odd.encode(SHOWN, "TIFF"))
    place = int.from_bytes(data[4:8], "little")
    tags = {int.from_bytes(data[at : at + 2], "little"): at for at in range(place + 2, len(data) - 12, 12)}

    def changed(tag: int, at: int, value: int) -> bytes:
        copy = bytearray(data)
        copy[tags[tag] + at : tags[tag] + at + 4] = value.to_bytes(4, "little")
        return bytes(copy)

    return {"many": changed(284, 4, 7), "long": changed(278, 4, 10**6), "samples": changed(277, 8, 54531),
            "cut": bytes(data[: place + 40])}  # fmt: skip


@pytest.mark.parametrize("kind", damaged_tiffs())
def test_pillow_prints_nothing_beside_our_line(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from stages.core.mark import read_mark

    path = tmp_path / "x.tif"
    path.write_bytes(damaged_tiffs()[kind])

    def through(door: Callable[[Path], object]) -> None:
        try:
            door(path)
        except TristyleError as error:
            assert "\n" not in str(error)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        threads = [
            threading.Thread(target=through, args=(door,))
            for door in (lambda file: decoding.read(file, formats=("TIFF",)), read_mark) * 8
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not said and not caplog.records and list(warnings.filters) == before
        logging.getLogger("PIL").setLevel(logging.NOTSET)  # alone Pillow does: else this test could not fail
        with suppress(Exception), Image.open(path) as opened:
            opened.load()
        assert said or caplog.records


def test_mutations_raise_only_image_errors() -> None:
    rng = np.random.default_rng(5)
    small = odd.portrait(6, 24, 24)
    files = [odd.encode(small, kind) for kind in decoding.FORMATS] + [odd.animated("GIF", 2), odd.animated("PNG", 2)]
    refused = 0
    for _ in range(400):
        data = bytearray(files[rng.integers(len(files))])
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        try:
            decode(bytes(data), "x")
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).count(". ") >= 1
    assert 50 < refused < 400


def test_files_that_are_none(tmp_path: Path) -> None:
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(decoding.MAX_BYTES + 2**20)  # sparse: takes no room
    for name, told in (
        ("huge.png", "513 MiB"),
        ("absent\n.png", r"absent\n.png: no such file"),
        ("", "not a regular file"),
    ):
        with pytest.raises(ImageError) as caught:
            decoding.read(tmp_path / name)
        assert told in str(caught.value) and "\n" not in str(caught.value)


def test_the_fast_path_shows_what_pillow_shows(shared: Path) -> None:
    """On real photographs, pixel by pixel."""
    files = sorted((shared / "data" / "portraits_hr").rglob("*.jpg"))[:12]
    if not files:
        pytest.skip("no portraits")
    for path in files:
        with Image.open(path) as opened:
            if opened.mode == "RGB" and "icc_profile" not in opened.info:
                assert np.array_equal(decoding.read(path).pixels, np.asarray(ImageOps.exif_transpose(opened)))
