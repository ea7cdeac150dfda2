"""Candidate pairs painted, scored, curated and written, in shards that any number of processes may share out.

A shard is a range of candidates' numbers. All that is in it follows from the candidates and the limits, so that every
process writes the same bytes, even after a kill. A shard is done when `shards/<number>.jsonl` exists, which is written
last, under a lock that dies with its process. In a process, threads take chunks of candidates through all steps, each
with one thread of torch, so that the bytes do not depend on the number of threads.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core.artifact import SCRATCH, locked
from stages.core.files import read_json
from stages.core.runtime import Runtime, one_thread
from stages.core.settings import ConfigError, TristyleError, choice, number
from stages.core.shards import SUFFIXES, TarWriter, encode, put
from stages.core.workers import in_order
from stages.networks.face_reader import Reader
from stages.pair.curate import SCORES, Curate, Limits, Scores, composite, reasons, score
from stages.pair.gather import gather
from stages.pair.inputs import Painted, PairCandidates
from stages.pair.photo_sets import CHUNK

NO_PAIR = "pair: no pair passed the limits. Loosen pair.curate or train longer (pair.train.images)."


@dataclass(kw_only=True)
class Write:
    """How pairs are stored on disk, and which photos they are made of.

    Args:
        format: `files`: one picture a file; `tar`: shards with WebDataset's keys, for millions of pairs.
        per_shard: candidates of one shard.
        codec: of the pictures: `png`, or `jpeg` or `webp`, which lose a little and so an exact background. Masks are
            PNGs always.
        quality: of jpeg and webp, 1..100.
        photos: folder of further photos of any size and format, besides those of the data artifact. Masks that exist
            lie in `mask/` beside it, under the same names.
        pilot: candidates (rounded up to whole chunks) on which limits given as shares become values.
    """

    format: str = "files"
    per_shard: int = 1000
    codec: str = "png"
    quality: int = 95
    photos: str | None = None
    pilot: int = 4096

    def __post_init__(self) -> None:
        choice("format", self.format, ("files", "tar"))
        choice("codec", self.codec, tuple(SUFFIXES))
        number("per_shard", self.per_shard, 1, integer=True)
        number("quality", self.quality, 1, 100, integer=True)
        number("pilot", self.pilot, 1, integer=True)

    def shards(self, candidates: int) -> int:
        """Shards of so many candidates."""
        return -(-candidates // self.per_shard)


def write_pairs(
    candidates: PairCandidates, out: Path, curate: Curate, write: Write, reader: Reader, runtime: Runtime
) -> dict[str, Any]:
    """Do what `runtime.part` asks for, as far as it is not done: limits, shards, and after all of them the records.

    It writes limits.json, the pictures and shards/*.jsonl, and at the end records.jsonl and rejects.png. As files, the
    pictures lie in photo/, style/, mask/ and raw/; a reject's photo lies in rejects/ and its raw translation in raw/.
    As tars, pairs lie in shards/*.tar, and photo and raw translation of rejects in rejects/*.tar.

    Args:
        candidates: the pairs to choose from.
        out: the artifact's folder.
        curate: the limits.
        write: format and photos.
        reader: the face reader, which scores.
        runtime: the machine, and which part to do.

    Returns:
        Metrics: pairs, kept (share), train_<score> (mean), rejected_<score> (count), unreadable, shards. Of a part:
        done and shards.

    Raises:
        TristyleError: no pair passes the limits, another process writes the shard, or the limits do not exist yet.
        ConfigError: the shard does not exist.
    """
    job = Writing(candidates, out, curate, write, reader, runtime)
    # chunks side by side use a processor better than one chunk cut in pieces
    with one_thread():
        if runtime.part in (None, "train"):
            job.settle()
        if runtime.part is None:
            job.write_missing()
        elif runtime.part != "train":
            job.write(job.numbered(runtime.part))
    if runtime.part is not None:
        return {"done": sum(map(job.done, range(job.shards))), "shards": job.shards}
    metrics = gather(out, map(job.listing, range(job.shards)), job.limits())
    if not metrics["pairs"]:
        raise TristyleError(f"{NO_PAIR} {out / 'rejects.png'} shows them.")
    return metrics | {"shards": float(job.shards)}


@dataclass
class ScoredPair:
    """One candidate, ready to be stored: its record, and its pictures by kind as files' bytes."""

    record: dict[str, Any]
    pictures: dict[str, bytes]


class Writing:
    """The writing of one artifact's pairs; see `write_pairs`."""

    def __init__(
        self, candidates: PairCandidates, out: Path, curate: Curate, write: Write, reader: Reader, runtime: Runtime
    ) -> None:
        self.candidates, self.out, self.curate, self.settings, self.runtime = candidates, out, curate, write, runtime
        self.reader = reader.to(memory_format=torch.channels_last)
        self.total = len(candidates.ids)
        self.shards = write.shards(self.total)
        self.scratch = out / SCRATCH

    def name(self, shard: int) -> str:
        """Of a shard's files, without suffix."""
        return f"{shard:06d}"

    def numbered(self, part: str) -> int:
        """A shard by `runtime.part`.

        Raises:
            ConfigError: the shard does not exist.
        """
        if not part.isdecimal() or int(part) >= self.shards:
            raise ConfigError("part", f"{part!r} is not a shard", f"Choose train, or 0 to {self.shards - 1}")
        return int(part)

    def done(self, shard: int) -> bool:
        """Whether a shard is written."""
        return self.listing(shard).exists()

    def listing(self, shard: int) -> Path:
        """The records of a shard, written last."""
        return self.out / "shards" / f"{self.name(shard)}.jsonl"

    def _chunks(self, shard: int) -> list[range]:
        first = shard * self.settings.per_shard
        last = min(first + self.settings.per_shard, self.total)
        return [range(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]

    # -------------------------------------------------------------------------------------------------- limits

    def settle(self) -> None:
        """Turn limits into values, once; the pilot's candidates are kept for their shards.

        Raises:
            TristyleError: no candidate of the pilot passes them.
        """
        file = self.out / "limits.json"
        with locked(self.scratch / "limits"):
            if file.exists():
                return

            # limits that are values already need no pilot
            scores: list[Scores] = []
            pilot = list(self._pilot()) if self.curate.shares else []
            with self.runtime.track.progress("pilot", sum(map(len, pilot))) as line:
                for found in in_order(self._trial, pilot, self.runtime.workers):
                    scores.append(found)
                    line.update(line.done + len(found["identity"]))

            known = {name: np.concatenate([part[name] for part in scores] or [np.empty(0)]) for name in SCORES}
            limits = self.curate.limits(known)
            if pilot and all(reasons(known, limits)):
                raise TristyleError(NO_PAIR)
            value = {"limits": limits, "pilot": len(known["identity"])}
            put(file, json.dumps(value, indent=1).encode() + b"\n", sync=True)

    def _pilot(self) -> Iterator[range]:
        seen = 0
        for chunk in (chunk for shard in range(self.shards) for chunk in self._chunks(shard)):
            if seen >= self.settings.pilot:
                return
            seen += len(chunk)
            yield chunk

    def _trial(self, numbers: range) -> Scores:
        file = self._kept(numbers)
        if file.exists():
            return _unpacked(file)[1]
        made, scores = self._measured(numbers)
        put(file, _packed(made, scores))
        return scores

    def _kept(self, numbers: range) -> Path:
        return self.scratch / "pilot" / f"{numbers.start:09d}.npz"

    def _measured(self, numbers: range) -> tuple[Painted, Scores]:
        made = self.candidates(numbers)
        scores = score(made.photo, made.raw, made.mask, made.painted, self.reader, self.runtime.device)
        for values in scores.values():
            values[list(made.broken)] = np.nan
        return made, scores

    # -------------------------------------------------------------------------------------------------- shards

    def write_missing(self) -> None:
        """Write all shards that are not done."""
        with self.runtime.track.progress("pairs", self.total) as line:
            done = sum(len(chunk) for shard in range(self.shards) if self.done(shard) for chunk in self._chunks(shard))
            line.start(done)
            for shard in range(self.shards):
                self.write(shard, lambda count: line.update(line.done + count))

    def write(self, shard: int, report: Callable[[int], None] = lambda count: None) -> None:
        """Write one shard, unless it is done.

        Args:
            shard: its number.
            report: called with the number of candidates after each chunk.

        Raises:
            TristyleError: another process writes it, or the limits do not exist yet.
        """
        if self.done(shard):
            return
        limits = self.limits()
        with locked(self.scratch / "shards" / self.name(shard)), ExitStack() as stack:
            if self.done(shard):
                return

            store = self._tars(shard, stack) if self.settings.format == "tar" else self._files
            rows = []
            chunks = self._chunks(shard)
            for made in in_order(lambda numbers: self._made(numbers, limits), chunks, self.runtime.workers):
                rows += [store(one) for one in made]
                report(len(made))

            # the tars are complete before the list that says so
            stack.close()
            put(self.listing(shard), b"".join(json.dumps(row).encode() + b"\n" for row in rows), sync=True)
            for numbers in chunks:
                self._kept(numbers).unlink(missing_ok=True)

    def limits(self) -> Limits:
        """The least or greatest value of each score that is kept.

        Raises:
            TristyleError: they are not settled yet.
        """
        try:
            limits: Limits = read_json(self.out / "limits.json", {"limits": dict})["limits"]
        except FileNotFoundError:
            raise TristyleError(f"{self.out}: has no limits.json yet. Run with part=train first.") from None
        return limits

    def _made(self, numbers: range, limits: Limits) -> list[ScoredPair]:
        """Score, judge and encode a chunk of candidates, without storing it."""
        kept = self._kept(numbers)
        made, scores = _unpacked(kept) if kept.exists() else self._measured(numbers)
        found = []
        for place, (name, why) in enumerate(zip(self._ids(numbers), reasons(scores, limits), strict=True)):
            record: dict[str, Any] = {"id": name, **(made.notes[place] if made.notes else {})}
            record |= {key: _finite(values[place]) for key, values in scores.items()}
            if place in made.broken:
                found.append(ScoredPair(record | {"kept": False, "unreadable": made.broken[place]}, {}))
                continue
            record |= {"kept": not why, "reason": why or None}
            found.append(ScoredPair(record, self._pictures(made, place, not why)))
        return found

    def _ids(self, numbers: range) -> Sequence[str]:
        return self.candidates.ids[numbers.start : numbers.stop]

    def _pictures(self, made: Painted, place: int, kept: bool) -> dict[str, bytes]:
        photo, raw, mask = made.photo[place], made.raw[place], made.mask[place]
        shown = {"photo": photo, "raw": raw}
        if kept:
            shown["style"] = composite(raw, photo, mask, self.curate)
        pictures = {
            kind: encode(
                image, self.settings.codec, self.settings.quality, made.photo_source if kind == "photo" else made.source
            )
            for kind, image in shown.items()
        }
        masks = {"mask": mask} | ({} if made.cover is None else {"cover": made.cover[place]})
        return pictures | ({kind: encode(cover) for kind, cover in masks.items()} if kept else {})

    def _suffix(self, kind: str) -> str:
        return "png" if kind in ("mask", "cover") else SUFFIXES[self.settings.codec]

    def _files(self, made: ScoredPair) -> dict[str, Any]:
        """Store a candidate as files; returns its record with their names."""
        name, names = made.record["id"], {}
        for kind, data in made.pictures.items():
            folder = "rejects" if kind == "photo" and not made.record["kept"] else kind
            names[kind] = f"{folder}/{name}.{self._suffix(kind)}"
            put(self.out / names[kind], data)
        return made.record | names

    def _tars(self, shard: int, stack: ExitStack) -> Callable[[ScoredPair], dict[str, Any]]:
        """Stores candidates in a shard's two tars; a record says where the members lie."""
        names = {True: f"shards/{self.name(shard)}.tar", False: f"rejects/{self.name(shard)}.tar"}
        tars = {kept: stack.enter_context(TarWriter(self.out / names[kept], empty=kept)) for kept in (True, False)}

        def store(made: ScoredPair) -> dict[str, Any]:
            kept = made.record["kept"]
            if not made.pictures:
                return made.record
            members = {f"{kind}.{self._suffix(kind)}": data for kind, data in made.pictures.items()}
            members["json"] = json.dumps(made.record).encode()
            return made.record | {"shard": names[kept], "members": tars[kept].add(made.record["id"], members)}

        return store


def _finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _packed(made: Painted, scores: Scores) -> bytes:
    """A chunk of the pilot as bytes of an npz file."""
    arrays = {"photo": made.photo, "raw": made.raw, "mask": made.mask, "scores": np.stack(list(scores.values()))}
    if made.painted is not None:
        arrays["painted"] = made.painted
    if made.cover is not None:
        arrays["cover"] = made.cover
    notes = [list(made.broken.items()), made.notes, made.source, made.photo_source]
    arrays["notes"] = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _unpacked(file: Path) -> tuple[Painted, Scores]:
    with np.load(file) as arrays:
        broken, notes, *sources = json.loads(bytes(arrays["notes"]))
        painted, cover = (arrays[name] if name in arrays else None for name in ("painted", "cover"))
        made = Painted(arrays["photo"], arrays["raw"], arrays["mask"], painted, dict(broken), notes, cover, *sources)
        return made, dict(zip(SCORES, arrays["scores"], strict=True))
