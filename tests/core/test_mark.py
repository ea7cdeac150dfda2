"""The mark of what is synthetic: kept by every encoder, read in every form, believed nowhere else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.apply.verify import verify
from stages.core.mark import DRAWN, IPTC, RDF, SOURCE_TYPES, TRAINED, Mark, marked, read_mark, xmp
from stages.core.shards import encode

HEAD = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="{RDF}" xmlns:i="{IPTC}">'
TAIL = "</r:RDF></x:xmpmeta>"
AI = SOURCE_TYPES + TRAINED


def picture(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (33, 46, channels), np.uint8)


def with_packet(path: Path, packet: str) -> Path:
    Image.fromarray(picture()).save(path, xmp=packet.encode())
    return path


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "lossless", "alpha", "alpha lossless"])
def test_a_mark_leaves_the_pixels_alone(kind: str, tmp_path: Path) -> None:
    plain, options = io.BytesIO(), {"lossless": True} if "lossless" in kind else {}
    form = kind if kind.isupper() else "WEBP"
    Image.fromarray(picture(channels=4 if "alpha" in kind else 3)).save(plain, form, **options)
    (tmp_path / "x").write_bytes(marked(plain.getvalue(), DRAWN, "ab" * 32))
    assert read_mark(tmp_path / "x") == Mark(DRAWN, "tristyle", "sha256:" + "ab" * 32)
    with Image.open(tmp_path / "x") as found, Image.open(plain) as wanted:
        assert found.mode == wanted.mode and np.array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("codec", ["png", "jpeg", "webp"])
def test_shards_pictures_carry_it(codec: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encode(picture(), codec, source=TRAINED))
    mark = read_mark(tmp_path / "x")
    assert mark is not None and mark.synthetic
    (tmp_path / "y").write_bytes(encode(picture(), codec))
    assert read_mark(tmp_path / "y") is None


@pytest.mark.parametrize(
    "body",
    [
        f'<r:Description i:DigitalSourceType="{AI}"/>',
        f"<r:Description i:DigitalSourceType='{AI}'/>",
        f"<r:Description><i:DigitalSourceType>\n {AI} </i:DigitalSourceType></r:Description>",
        f'<r:Description><i:DigitalSourceType r:resource="{AI}"/></r:Description>',
        f'<r:Description><i:DigitalSourceType r:parseType="Resource"><r:value>{AI}</r:value></i:DigitalSourceType>'
        "</r:Description>",
        f'<r:Description/><r:Description><i:DigitalSourceType r:resource="{AI}"></i:DigitalSourceType></r:Description>',
        f'<!-- i:DigitalSourceType="{SOURCE_TYPES}digitalCapture" --><r:Description i:DigitalSourceType="{AI}"/>',
    ],
)
def test_every_form_of_the_property_is_read(body: str, tmp_path: Path) -> None:
    assert read_mark(with_packet(tmp_path / "x.jpg", HEAD + body + TAIL)) == Mark(TRAINED)


@pytest.mark.parametrize(
    "packet",
    [
        f'{HEAD}<r:Description xmlns:d="d"><d:caption>:DigitalSourceType="{AI}"</d:caption></r:Description>{TAIL}',
        f'{HEAD}<r:Description xmlns:d="d" d:caption=\'i:DigitalSourceType="{AI}"\'/>{TAIL}',
        f'{HEAD}<!-- <r:Description i:DigitalSourceType="{AI}"/> -->{TAIL}',
        f'{HEAD}<r:Description xmlns:d="d" d:DigitalSourceType="{AI}"/>{TAIL}',
        f'{HEAD}<r:Description><d:of xmlns:d="d"><r:Description i:DigitalSourceType="{AI}"/></d:of></r:Description>'
        f"{TAIL}",
        f'<!DOCTYPE x [<!ENTITY a "{AI}">]>{HEAD}<r:Description i:DigitalSourceType="&a;"/>{TAIL}',
    ],
)
def test_what_stands_elsewhere_is_not_believed(packet: str, tmp_path: Path) -> None:
    assert read_mark(with_packet(tmp_path / "x.jpg", packet)) is None


def test_a_packet_behind_the_pixels_is_read(tmp_path: Path) -> None:
    plain = encode(picture())
    whole = marked(plain)
    head = 8 + 25
    text = whole[head : head + int.from_bytes(whole[head : head + 4], "big") + 12]
    end = plain.rindex(b"IEND") - 4
    (tmp_path / "x.png").write_bytes(plain[:end] + text + plain[end:])
    assert read_mark(tmp_path / "x.png") == Mark(TRAINED, "tristyle")


def test_a_second_packet_does_not_hide_the_first(tmp_path: Path) -> None:
    camera = xmp(source="digitalCapture")
    for suffix in (".jpg", ".webp"):
        other = io.BytesIO()
        Image.fromarray(picture()).save(other, "JPEG" if suffix == ".jpg" else "WEBP", xmp=camera)
        (tmp_path / f"x{suffix}").write_bytes(marked(other.getvalue()))
        mark = read_mark(tmp_path / f"x{suffix}")
        assert mark is not None and mark.synthetic


def test_nothing_of_a_file_reaches_the_terminal_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = f'i:AISystemUsed="a&#10;b.png: synthetic\u202e\u200b\x9b" i:AISystemVersionUsed="{"v" * 999}"'
    file = with_packet(tmp_path / "x.jpg", f'{HEAD}<r:Description i:DigitalSourceType="{AI}" {said}/>{TAIL}')
    strange = tmp_path / "y\x1b[2J\n.jpg"
    file.rename(strange)
    assert verify([strange]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.rstrip("\n").isprintable() and len(out) < 700
