"""Colours as people see them: turns, transfer curves, ranges and transparency of pictures and videos."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.apply import video
from stages.apply.picture import read_photo
from stages.core import colour, decode
from stages.core.decode import ImageError
from tests.tools.tiny_student import write_clip

RED, GREEN, BLUE, YELLOW = (220, 40, 40), (40, 200, 60), (50, 60, 220), (240, 230, 80)


def chart(height: int = 64, width: int = 96) -> np.ndarray:
    """R G over B Y, uint8 [height, width, 3]."""
    found = np.empty((height, width, 3), np.uint8)
    found[: height // 2, : width // 2], found[: height // 2, width // 2 :] = RED, GREEN
    found[height // 2 :, : width // 2], found[height // 2 :, width // 2 :] = BLUE, YELLOW
    return found


def png(values: np.ndarray, *chunks: tuple[bytes, bytes], depth: int = 8) -> bytes:
    """A PNG of uint8 or uint16 [H, W] or [H, W, 3] with chunks before its pixels; depths under 8 are packed."""
    height, width = values.shape[:2]
    if depth < 8:
        bits = np.unpackbits(values[..., None].astype(np.uint8), axis=2)[..., -depth:].reshape(height, -1)
        rows = np.packbits(bits, axis=1)
    else:
        rows = values.astype(">u2" if depth == 16 else "u1").reshape(height, -1).view(np.uint8)
    body = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    head = struct.pack(">IIBBBBB", width, height, depth, 2 if values.ndim == 3 else 0, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", body), (b"IEND", b"")]
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        found += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return found


def shown(data: bytes) -> np.ndarray:
    return decode.decode(data, "x.png").pixels


def near(found: np.ndarray, wanted: np.ndarray, most: float = 2) -> bool:
    return float(np.abs(found.astype(float) - wanted).max()) <= most


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP"])
def test_every_turn_of_every_kind_is_made_once(tmp_path: Path, turn: int, kind: str) -> None:
    upright = chart()
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[turn]
    stored = np.ascontiguousarray(decode._turned(upright, back))
    tags = Image.Exif()
    tags[0x0112] = turn
    path = tmp_path / f"x.{kind.lower()}"
    Image.fromarray(stored).save(path, kind, exif=tags, **({"lossless": True} if kind == "WEBP" else {}))
    assert near(read_photo(path)[8::16, 8::16], upright[8::16, 8::16], 12 if kind == "JPEG" else 0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("gamma", [1.0, 0.55, 0.2])
def test_a_png_of_another_gamma_looks_as_in_a_browser(gamma: float, bits: int) -> None:
    ramp = np.repeat(np.linspace(0, 1, 256)[None, :, None], 3, axis=2)
    top = 255 if bits == 8 else 65535
    stored = np.rint(ramp * top).astype(np.uint16)
    light = (stored / top) ** (1 / gamma)
    wanted = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    gama = (b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    assert near(shown(png(stored, gama, depth=bits)), wanted)
    grey = shown(png(stored[..., 0], gama, depth=bits))
    assert near(grey, wanted)
    plain = png(stored, depth=bits)
    assert np.array_equal(shown(png(stored, gama, (b"sRGB", b"\0"), depth=bits)), shown(plain)), "sRGB beats gAMA"
    usual = (b"gAMA", struct.pack(">I", 45455))
    assert np.array_equal(shown(png(stored, usual, depth=bits)), shown(plain))


def test_cicp_is_obeyed_and_what_it_means_otherwise_refused() -> None:
    flat = np.full((16, 16, 3), 128, np.uint16)
    plain = shown(png(flat))
    assert np.array_equal(shown(png(flat, (b"cICP", bytes((1, 13, 0, 1))))), plain)
    assert near(shown(png(flat, (b"cICP", bytes((1, 8, 0, 1))))), np.array([188]))
    red = np.zeros((16, 16, 3), np.uint16)
    red[..., 0] = 128
    p3 = shown(png(red, (b"cICP", bytes((12, 13, 0, 1)))))[0, 0]
    assert p3[0] > 132 and p3[1] == 0
    pq = shown(png(np.full((16, 16, 3), 0.5806 * 65535).astype(np.uint16), (b"cICP", bytes((9, 16, 0, 1))), depth=16))
    assert 225 < pq.mean() < 250, "white paper of 203 cd/m2 stays nearly white"
    limited = shown(png(np.full((16, 16, 3), 235, np.uint16), (b"cICP", bytes((1, 13, 0, 0)))))
    assert near(limited, np.array([255]), 0)
    with pytest.raises(ImageError, match="coded as 9, 11"):
        shown(png(flat, (b"cICP", bytes((9, 11, 0, 1)))))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("colours", [False, True])
def test_one_transparent_colour_at_every_depth(depth: int, colours: bool) -> None:
    if colours and depth < 8:
        return
    top = (1 << depth) - 1
    values = np.full((16, 16, 3) if colours else (16, 16), top // 3 if depth > 1 else 0, np.uint16)
    values[:8] = top
    hidden = values[-1, -1]
    trns = struct.pack(f">{3 if colours else 1}H", *np.atleast_1d(hidden))
    found = shown(png(values, (b"tRNS", trns), depth=depth))
    assert (found[8:] == 255).all() and (found[:8] == 255).all()
    values[0, 0] = top // 2 if depth > 1 else 1
    if depth == 16:  # a neighbour within the same 8 bits is not transparent
        values[0, 0] = hidden + 1
        assert shown(png(values, (b"tRNS", trns), depth=depth))[0, 0, 0] in (85, 86)


def tiff(path: Path, values: np.ndarray) -> np.ndarray:
    Image.fromarray(values).save(path)
    return read_photo(path)


def test_ranges_of_tiffs_are_known_or_refused(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
    wanted = np.rint(ramp * 255)[..., None]
    for number, values in enumerate((ramp, ramp * 255, np.rint(ramp * 65535).astype(np.uint16))):
        assert near(tiff(tmp_path / f"{number}.tif", values), wanted, 1)
    for number, values in enumerate(
        (ramp * 4, ramp * 40_000, ramp - 0.5, ramp + np.nan, (ramp * 2**30).astype(np.int32))
    ):
        with pytest.raises(ImageError, match="may mean anything"):
            tiff(tmp_path / f"bad{number}.tif", values)


@pytest.mark.parametrize("scans", [101, 3000])
def test_a_jpeg_of_many_scans_is_refused_at_once(scans: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(chart()).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    repeated = data[:last] + data[last:-2] * scans + b"\xff\xd9"
    with pytest.raises(ImageError, match="scans, far more"):
        decode.decode(repeated, "x.jpg")
    assert decode.decode(data, "x.jpg").pixels.shape == (64, 96, 3)
    assert decode.decode(data + repeated, "x.jpg").pixels.shape == (64, 96, 3), "what follows its end does not count"


# -------------------------------------------------------------------------------------------------------------- videos

av = pytest.importorskip("av")


def first(path: Path) -> np.ndarray:
    """The first frame as `stylize` takes it."""
    module = video._av()
    with video._opened(module, path) as container:
        frame = next(container.decode(video._pictures(container, path)))
        return video._upright(frame)


def clip(path: Path, image: np.ndarray, kind: str = "yuv420p", tags: tuple[int, int, int] = (2, 2, 2)) -> Path:
    """A lossless video of one picture in BT.709 or as `tags` say: matrix, primaries, transfer."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt, stream.time_base = *image.shape[:2], kind, Fraction(1, 10)
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = tags
        frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.dtype == np.uint8 else "rgb48le")
        matrix = "ITU601" if tags[0] in (5, 6) or tags[0] == 2 and image.shape[0] < 577 else "ITU709"
        container.mux(stream.encode(frame.reformat(format=kind, dst_colorspace=matrix, dst_color_range="MPEG")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("height", "width"), [(64, 96), (720, 1280), (480, 1280), (640, 360)])
def test_untagged_videos_are_guessed_as_players_do(tmp_path: Path, height: int, width: int) -> None:
    found = first(
        clip(tmp_path / "x.mp4", chart(height, width)) if height < 577 and width < 1280 else hd(tmp_path, height, width)
    )
    assert near(found[4, 4], np.array(RED), 4) and near(found[4, -4], np.array(GREEN), 4)


def hd(folder: Path, height: int, width: int) -> Path:
    """BT.709 without a tag."""
    image = chart(height, width)
    with av.open(str(folder / "x.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")))
        container.mux(stream.encode(None))
    return folder / "x.mp4"


@pytest.mark.parametrize("transfer", [colour.PQ, colour.HLG])
def test_hdr_is_tone_mapped(tmp_path: Path, transfer: int) -> None:
    curve = colour._curve(transfer, 65535)
    image = np.full((64, 96, 3), int(np.searchsorted(curve, 0.2)), np.uint16)  # a fifth of paper's light
    image[:, 48:] = int(np.searchsorted(curve, 3.0))  # a lamp
    path = clip(tmp_path / "x.mp4", image, "yuv420p10le", (9, 9, transfer))
    found = first(path)
    assert near(found[32, 8], np.array([124]), 4), "grey is the grey of an SDR picture"
    assert 235 < found[32, -8].mean() < 255


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_display_matrices_turn_and_mirror(degrees: int, mirrored: bool) -> None:
    turn = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]  # clockwise
    a, b, c, d = turn
    if mirrored:
        a, c = -a, -c  # shown mirrored after the turn

    class Data:
        type = "Type.DISPLAYMATRIX"

        def __bytes__(self) -> bytes:
            return struct.pack("<9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    class Frame:
        side_data, rotation = [Data()], -degrees

    wanted = np.rot90(chart(), -degrees // 90)
    assert np.array_equal(video._displayed(chart(), Frame()), wanted[:, ::-1] if mirrored else wanted)
    assert video._sideways(Frame()) == (degrees in (90, 270))


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_transparent_animations_lie_on_white(tmp_path: Path, suffix: str) -> None:
    frames = []
    for step in range(3):
        image = np.zeros((64, 96, 4), np.uint8)
        image[8:40, 8 + step : 48] = (*RED, 255)
        frames.append(Image.fromarray(image))
    path = tmp_path / f"x.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, **options)
    found = first(path)
    assert near(found[2, 2], np.array([255] * 3), 4) and near(found[20, 20], np.array(RED), 10)


@pytest.mark.parametrize("name", ["file:one.mp4", "a%03d.mp4", "*.mp4", "-x.mp4", "ü ?#&.mp4", "http:x.mp4", "x\n.mp4"])
def test_a_clips_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    write_clip(tmp_path / "plain.mp4", [chart()] * 2, sound=None).rename(tmp_path / name)
    assert first(tmp_path / name).shape == (64, 96, 3)


def test_the_new_maths_is_a_round_trip_for_srgb() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(colour.to_srgb(ramp, colour.BT709, colour.SRGB), ramp)
