"""How fast own pictures come in: photos a second of the whole ingest against its slowest necessary part.

    python -m tests.bench.ingest DIR [--size 256] [--count 200]

DIR holds photos of any size. In one process, on one thread, in CPU seconds, arms alternating, best of five: decoding
photos and masks, cutting and reducing them, encoding what is written; and the whole, from the files to an artifact's
folders, with a cache that is empty at first: it also hashes, scores, looks for copies, stores and lists. Once with
masks given, once with masks drawn by the shipped parser. On one thread the parts come one after the other: the most
that their sum allows is printed beside.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from stages.core import decode
from stages.core.files import data_file, write_jsonl
from stages.core.images import encode_png, write_image
from stages.datasets.folders.cache import Cache
from stages.datasets.folders.choose import UsablePicture, without_repeats
from stages.datasets.folders.ingest import IngestJob, Treatment, work
from stages.datasets.folders.sources import Listed, PictureSource, listed
from stages.datasets.folders.stage import place
from stages.datasets.pictures import read_mask, square
from tests.bench.write import best

ROUNDS = 5
WANTED = 0.6


def arms(files: list[Listed], masks: Path, scratch: Path, recipe: Treatment) -> dict[str, Callable[[], object]]:
    """The parts alone, each on what the part before leaves, and the whole with masks given and drawn."""
    given = [masks / f"{file.path.stem}.png" for file in files]
    photos = [decode.read(file.path).pixels for file in files]
    heads = [read_mask(path) for path in given]
    squares = [square(picture, recipe.size) for picture in photos + heads]

    def ingest(with_masks: bool) -> None:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        tasks = [IngestJob(file, mask if with_masks else None, recipe) for file, mask in zip(files, given, strict=True)]
        entries = [entry for start in range(0, len(tasks), 16) for entry in work(tasks[start : start + 16], folder)]
        assert all(entry.crops for entry in entries), [entry.reason for entry in entries if entry.reason]
        found = [
            UsablePicture(t, "photo", e, 0, t.file.stem, PictureSource()) for t, e in zip(tasks, entries, strict=True)
        ]
        cache = Cache(folder)
        kept, _ = without_repeats(found, 4, cache)
        records = place(kept, [False] * len(kept), folder / "out", cache)
        write_jsonl(folder / "records.jsonl", records)

    return {
        "decode": lambda: [decode.read(file.path) for file in files] + [read_mask(path) for path in given],
        "warp": lambda: [square(picture, recipe.size) for picture in photos + heads],
        "encode": lambda: [encode_png(picture) for picture in squares],
        "ingest": lambda: ingest(True),
        "ingest, masks drawn": lambda: ingest(False),
    }


def prepare(folder: Path, count: int, size: int, scratch: Path) -> tuple[list[Listed], Path]:
    """Photos of a folder, evenly spread, that are large enough; and a mask for each, an ellipse of the written size."""
    everything = [file for file in listed(folder) if not file.fault]
    chosen = [everything[i] for i in np.linspace(0, len(everything) - 1, min(count, len(everything))).astype(int)]
    masks = scratch / "masks"
    mask_of: dict[tuple[int, int], np.ndarray] = {}
    for file in chosen:
        height, width = decode.read(file.path).pixels.shape[:2]
        if (height, width) not in mask_of:
            mask = np.zeros((height, width), np.uint8)
            cv2.ellipse(mask, (width // 2, height // 2), (width // 4, height // 3), 0, 0, 360, 255, -1)
            mask_of[height, width] = mask
        write_image(masks / f"{file.path.stem}.png", mask_of[height, width])
    return chosen, masks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    scratch = Path(tempfile.mkdtemp())
    try:
        files, masks = prepare(asked.folder, asked.count, asked.size, scratch)
        seconds = best(
            arms(files, masks, scratch, Treatment(asked.size, parser=data_file("parser.safetensors"))), asked.rounds
        )
    finally:
        shutil.rmtree(scratch)
    slowest = max(seconds[name] for name in ("decode", "warp", "encode"))
    print(f"{len(files)} photos to {asked.size} px, photos a CPU second on one thread:")
    for name, spent in seconds.items():
        share = f"{slowest / spent:6.0%} of the slowest part" if name.startswith("ingest") else ""
        print(f"{name:<22}{len(files) / spent:8.0f}  {share}")
    most = slowest / sum(seconds[name] for name in ("decode", "warp", "encode"))
    print(f"the parts one after the other: {most:.0%}; wanted: ingest at least {WANTED:.0%}")


if __name__ == "__main__":
    main()
