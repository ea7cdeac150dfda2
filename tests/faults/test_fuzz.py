"""Seeded mutations of all that is read from elsewhere: a success, or one line of our own; seconds, not gigabytes.

A case is a valid sample and one to four changes drawn from (seed, kind, number). `make soak` runs thousands of them
(SOAK=cases of each kind, SEED=first seed); here are a few of each.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.apply.model import model_path, open_model
from stages.apply.picture import paint_whole, read_photo
from stages.core.artifact import open_artifact, seal
from stages.core.files import data_file, read_jsonl, write_bytes, write_jsonl
from stages.core.images import encode_png
from stages.core.mark import encode_marked, read_mark
from stages.core.settings import TristyleError
from stages.core.shards import Shards, pictures, write_tar
from stages.core.weights import load_network, save_network
from stages.datasets.folders.cache import Cache
from stages.datasets.folders.sources import PictureSource, Sources
from stages.datasets.pictures import read_mask
from stages.networks.mobile import MobileStudent
from stages.training.checkpoint import load_checkpoint, save_checkpoint
from tests.tools.tiny_student import half_bright, tiny_model, write_clip

CASES, SEED = int(os.environ.get("SOAK", "12")), int(os.environ.get("SEED", "1"))
SECONDS, MEBI = 10, 1024
ODD = (None, True, -1, 0, 1e308, 2**70, "", "x" * 5000, "../../../etc/hostname", "/etc/hostname", "²", "1e9", [], {},
       [[]], {"a": None}, float("nan"), "\0", "\ud800")  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at = rng.randrange(max(len(data), 1))
        match rng.choice(("bit", "number", "cut", "drop", "twice", "insert", "zeros", "head", "head")):
            case "bit":
                data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if data else data
            case "number":
                value = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**16, 0x7FFF, 64_000_001))
                data = data[:at] + struct.pack(rng.choice(("<I", ">I")), value) + data[at + 4 :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[at + rng.choice((1, 4, 37, 512)) :]
            case "twice":
                data = data[:at] + data[at : at + rng.choice((1, 12, 200))] * rng.choice((2, 3, 40)) + data[at + 1 :]
            case "insert":
                data = data[:at] + rng.randbytes(rng.choice((1, 3, 64, 2000))) + data[at:]
            case "zeros":
                data = data[:at] + bytes(rng.choice((1, 8, 300))) + data[at + 8 :]
            case "head":  # headers are where parsers are
                at = rng.randrange(min(len(data), 64) or 1)
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data


def mutate_tree(value: Any, rng: random.Random) -> Any:
    """One value somewhere in a JSON tree replaced, dropped or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key, changed = rng.choice(list(value)), dict(value)
        if rng.random() < 0.12:
            del changed[key]
        elif rng.random() < 0.06:
            changed[rng.choice(("", "..", "extra", "/etc/hostname"))] = changed.pop(key)
        else:
            changed[key] = mutate_tree(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], mutate_tree(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """JSON or JSON lines: half by structure, half by bytes."""
    if rng.random() < 0.4:
        return mutate(data, rng)
    lines = data.decode().splitlines() if b"\n{" in data else [data.decode()]
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutate_tree(json.loads(lines[at]), rng), ensure_ascii=rng.random() < 0.5)
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(half_bright(48, 48)).save(buffer, kind, **options)
    return buffer.getvalue()


def read_picture(path: Path) -> None:
    read_photo(path)
    read_mask(path)


def picture_kind(kind: str, suffix: str, **options: Any) -> Callable[[Path], tuple[bytes, Path, Callable[[Path], Any]]]:
    return lambda work: (encoded(kind, **options), work / f"x{suffix}", read_picture)


def network(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    save_network(work / "n.safetensors", MobileStudent("nano"))
    return (work / "n.safetensors").read_bytes(), work / "x.safetensors", load_network


def header(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    """The header without a digest, so that what it says is looked at."""
    import torch
    from safetensors.torch import save

    notes = {
        "class": "stages.networks.stylegan2.Generator",
        "arguments": json.dumps({"img_resolution": 32, "z_dim": 8}),
    }
    return save({"x": torch.zeros(2)}, metadata=notes), work / "x.safetensors", load_network


def model(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    pytest.importorskip("onnxruntime")
    photo = half_bright(40, 40)
    return tiny_model(work / "m.onnx").read_bytes(), work / "x.onnx", lambda path: paint_whole(open_model(path), photo)


def card(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    write_bytes(work / "student.onnx", data_file("faces.onnx").read_bytes())
    return data_file("faces.json").read_bytes(), work / "card.json", lambda path: model_path(work)


def manifest(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    write_jsonl(work / "art" / "records.jsonl", [{"id": "0"}, {"id": "1"}])
    seal(work / "art", "export", config={"a": 1}, inputs={}, metrics={"size": 1.0})

    def read(path: Path) -> None:
        found = open_artifact(path.parent, "export")
        found.records(), found.digest, found.config, found.metrics  # noqa: B018 - what callers ask for

    return (work / "art" / "manifest.json").read_bytes(), work / "art" / "manifest.json", read


def records(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    for kind in ("photo", "style", "mask"):
        for number in range(2):
            image = half_bright(32, 32)
            write_bytes(work / "pairs" / kind / f"{number}.png", encode_png(image[..., 0] if kind == "mask" else image))
    rows = [{"id": str(n), "kept": True, "photo": f"photo/{n}.png", "score": 0.5} for n in range(2)]
    write_jsonl(work / "pairs" / "records.jsonl", rows)

    def read(path: Path) -> None:
        for part in pictures(path.parent, ("photo", "style", "mask")):
            part[:]

    return (work / "pairs" / "records.jsonl").read_bytes(), work / "pairs" / "records.jsonl", read


def shard(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    samples = [(f"{n:04d}", {"photo.png": encode_png(half_bright(32, 32)), "json": b'{"a": 1}'}) for n in range(4)]
    write_tar(work / "a.tar", samples)
    return (work / "a.tar").read_bytes(), work / "x.tar", lambda path: [sample for _, sample in Shards([path])]


def sources(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    text = "pattern,licence,licence_class,consent,author\nphoto/*,CC0,open,yes,A\nphoto/a*,,open,unknown,\n"

    def read(path: Path) -> None:
        found = Sources(path.parent, PictureSource())
        for name in ("photo/a.png", "photo/anna/1.png", "style/ink/x.jpg"):
            found.of(name)
        found.idle()

    (work / "csv").mkdir()
    return text.encode(), work / "csv" / "sources.csv", read


def index(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    rows = b"".join(
        json.dumps({"out": f"{n}.png", "of": f"{n}.png", "key": "0" * 64}).encode() + b"\n" for n in range(4)
    )
    return rows, work / ".stylize.jsonl", lambda path: read_jsonl(path, lenient=True)


def checkpoint(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    import torch

    save_checkpoint(work / "c.ckpt", {"images": 4, "weights": torch.zeros(8)})
    return (work / "c.ckpt").read_bytes(), work / "x.ckpt", load_checkpoint


def cache(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    (work / "0").mkdir()
    text = json.dumps({"key": "0abc", "crops": [{"picture": "0", "mask": "1", "scores": {"face": 1.0}}], "notes": []})
    return text.encode(), work / "0" / "0abc.json", lambda path: Cache(work).load("0abc")


def origin(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    return encode_marked(half_bright(32, 32), ".png", "ab" * 32), work / "x.png", read_mark


def clip(work: Path) -> tuple[bytes, Path, Callable[[Path], Any]]:
    pytest.importorskip("av")
    from stages.apply import video

    def read(path: Path) -> None:
        module = video._av()
        with video._opened(module, path) as container:
            stream = video._pictures(container, path)
            for frame in video._frames(module, path, container, stream, video._Writer(module, path, container, stream)):
                video._upright(frame)

    return write_clip(work / "c.mp4", [half_bright(32, 32)] * 3).read_bytes(), work / "x.mp4", read


KINDS: dict[str, Callable[[Path], tuple[bytes, Path, Callable[[Path], Any]]]] = {
    "png": picture_kind("PNG", ".png"), "jpeg": picture_kind("JPEG", ".jpg", progressive=True),
    "webp": picture_kind("WEBP", ".webp"), "gif": picture_kind("GIF", ".gif"), "bmp": picture_kind("BMP", ".bmp"),
    "tiff": picture_kind("TIFF", ".tif"), "network": network, "header": header, "model": model, "card": card,
    "manifest": manifest, "records": records, "shard": shard, "sources": sources, "index": index,
    "checkpoint": checkpoint, "cache": cache, "origin": origin, "clip": clip,
}  # fmt: skip
TREES = {"card", "manifest", "records", "index", "cache"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    whole, path, read = KINDS[kind](tmp_path)
    path.write_bytes(whole)
    for _ in range(0 if kind in ("header", "cache") else 1):
        try:
            read(path)
        except TristyleError:  # a photo is no mask, and the like
            pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for number in range(CASES):
        rng = random.Random(f"{SEED} {kind} {number}")
        data = (mutate_json if kind in TREES else mutate)(whole, rng)
        path.write_bytes(data)
        begun = time.process_time()
        signal.alarm(3 * SECONDS)  # three times, as the machine may be busy
        try:
            read(path)
        except TristyleError as error:
            assert "\n" not in str(error) and ". " in str(error), (number, str(error))
        except Exception as error:
            raise AssertionError(f"{kind} {SEED} {number}: {type(error).__name__}: {error}") from error
        finally:
            signal.alarm(0)
        assert time.process_time() - begun < SECONDS, number
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEBI * 1024
