"""How near the writing of pairs comes to what it cannot do without: `python -m tests.bench.write [--size 64]`.

Arms, each over the same photos on disk, with one thread, alternating, best of several, in CPU seconds a pair (which
other work on the machine hardly moves; what runs beside what in wall time gets no credit):

  * forward: the translator's pass over each photo and the face reader's over each crop of photo and translation;
  * codec: photo and mask decoded; photo, raw, style and mask encoded and written;
  * writer: `write_pairs` as a whole, to the sealed records, its pilot included.

Then two processes that share out the shards against one that writes them all, by wall time (which wants two idle
cores) and by CPU time (what two cores of their own would give).
Targets: writer >= 0.8 of the slower of forward and codec; two processes >= 1.8 of one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stages.core.artifact import Artifact  # noqa: E402
from stages.core.files import write_jsonl
from stages.core.images import write_image
from stages.core.runtime import Runtime  # noqa: E402
from stages.core.shards import encode, put  # noqa: E402
from stages.core.tensors import to_tensor  # noqa: E402
from stages.core.tracking import Silent  # noqa: E402
from stages.networks.face_reader import SIZE as READ  # noqa: E402
from stages.networks.face_reader import load_reader  # noqa: E402
from stages.networks.ugatit import ResnetGenerator  # noqa: E402
from stages.pair.curate import Curate, Limit  # noqa: E402
from stages.pair.inputs import Translated  # noqa: E402
from stages.pair.photo_sets import CHUNK, StoredPhotos  # noqa: E402
from stages.pair.ugatit import translator_painter  # noqa: E402
from stages.pair.write import Write, write_pairs  # noqa: E402
from tests.tools.pair_toys import heads  # noqa: E402

CURATE = Curate(identity=Limit(worst=0.05), background=Limit(worst=0.02), clarity=Limit(worst=0.03))


class Bench:
    """Photos on disk, an untrained translator of the shipped width and the shipped reader."""

    def __init__(self, folder: Path, size: int, count: int) -> None:
        self.folder, self.count = folder, count
        images, masks = heads(count, 0, False, size)
        if not (folder / "records.jsonl").exists():
            for i in range(count):
                write_image(folder / f"photo/{i:06d}.png", images[i])
                write_image(folder / f"mask/{i:06d}.png", masks[i])
            rows = [{"split": "train", "photo": f"photo/{i:06d}.png"} for i in range(count)]
            write_jsonl(folder / "records.jsonl", rows)
        torch.manual_seed(0)
        generator = ResnetGenerator(16, 4, size, light=True, mask=True).eval()
        self.photos = StoredPhotos(Artifact(folder, {}), "train", "photo", "mask")
        self.reader = load_reader().to(memory_format=torch.channels_last)
        self.candidates = Translated(self.photos, translator_painter(generator, "cpu"))
        self.images, self.masks = images, masks
        self.chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
        self.crops = to_tensor(heads(2 * CHUNK, 1, False, READ)[0]).contiguous(memory_format=torch.channels_last)

    def forward(self) -> None:
        """All passes that the writer runs, and nothing else."""
        for numbers in self.chunks:
            self.candidates.painter(self.images[numbers.start : numbers.stop])
            with torch.inference_mode():
                self.reader.recognise(self.crops[: 2 * len(numbers)])

    def codec(self) -> None:
        """All pictures that the writer reads and writes, and nothing else."""
        for numbers in self.chunks:
            read = self.photos(numbers)
            for i, number in enumerate(numbers):
                for kind, image in (("photo", 0), ("raw", 0), ("style", 0), ("mask", 1)):
                    put(self.folder / f"codec/{kind}/{number}.png", encode((read.images, read.masks)[image][i]))

    def writer(self, form: str = "tar", out: Path | None = None, part: str | None = None) -> None:
        """All of it, anew."""
        place = out or self.folder / "pairs"
        if part is None:
            shutil.rmtree(place, ignore_errors=True)
        write = Write(format=form, per_shard=min(256, self.count // 2))
        place.mkdir(exist_ok=True)
        curate = CURATE if part is None else Curate()  # no pilot, whose pictures one part would find and another not
        write_pairs(self.candidates, place, curate, write, self.reader, Runtime("cpu", 1, Silent(), part))


def best(arms: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of each arm, the least of `rounds`, in turn."""
    found = dict.fromkeys(arms, float("inf"))
    for _ in range(rounds):
        for name, arm in arms.items():
            begun = time.process_time()
            arm()
            found[name] = min(found[name], time.process_time() - begun)
    return found


def side_by_side(bench: Bench, parts: list[list[str]]) -> tuple[float, float]:
    """Wall and CPU seconds of one forked process for each list of shards; limits are there already."""
    out = bench.folder / "shared"
    for path in (out / "shards").glob("*"):
        path.unlink()
    begun, children = time.perf_counter(), []
    for names in parts:
        child = os.fork()
        if child == 0:
            for name in names:
                bench.writer(out=out, part=name)
            os._exit(0)
        children.append(child)
    used = [os.wait4(child, 0)[2] for child in children]
    return time.perf_counter() - begun, sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.size, options.count)
        found = best({"forward": bench.forward, "codec": bench.codec, "writer": bench.writer}, options.rounds)
        for name, seconds in found.items():
            print(f"{name:<8} {1000 * seconds / options.count:7.2f} CPU ms a pair  {options.count / seconds:7.1f} /s")
        slower = max(found["forward"], found["codec"])
        print(f"writer at {slower / found['writer']:.0%} of the slower of forward and codec (target 80 %)")
        print(f"forward and codec are {(found['forward'] + found['codec']) / found['writer']:.0%} of the writer's work")
        bench.writer(out=bench.folder / "shared", part="train")
        one, two = ([], [])
        for _ in range(options.rounds):
            one.append(side_by_side(bench, [["0", "1"]]))
            two.append(side_by_side(bench, [["0"], ["1"]]))
        for place, kind in enumerate(("wall", "CPU")):
            first, second = (min(arm[place] for arm in arms) for arms in (one, two))
            speed = (
                first / second * (1 if kind == "wall" else 2)
            )  # CPU seconds of two add up; cores of their own halve them
            print(f"two processes {speed:.2f} times one by {kind} time: {first:.2f} s and {second:.2f} s (target 1.8)")


if __name__ == "__main__":
    main()
