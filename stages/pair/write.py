"""Candidate pairs painted, scored, curated and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stages.config import TristyleError, choice, number
from stages.faces.reader import Reader
from stages.io import grid, mask_tensor, to_tensor, unit, write_image, write_jsonl
from stages.metrics.clarity import clarity
from stages.metrics.identity import identity_cosine
from stages.metrics.pixel import background_error
from stages.pair.curate import Curate, composite
from stages.pair.photos import CHUNK, Painter, Photos
from stages.runtime import Runtime

SHEET = 32  # rejects shown at most


@dataclass(kw_only=True)
class Write:
    """How pairs are laid down on disk, and which photos they are made of.

    Args:
        format: `files`: one picture a file; `tar`: shards with WebDataset keys.
        per_shard: candidates of one shard.
        codec: of the pictures: `png`, `jpeg` or `webp`.
        quality: of jpeg and webp, 1..100.
        photos: folder of further photos, beside those of the data artifact.
        pilot: candidates at most on which limits given as shares become values.
    """

    format: str = "files"
    per_shard: int = 1000
    codec: str = "png"
    quality: int = 95
    photos: str | None = None
    pilot: int = 4096

    def __post_init__(self) -> None:
        choice("format", self.format, ("files", "tar"))
        choice("codec", self.codec, ("png", "jpeg", "webp"))
        number("per_shard", self.per_shard, 1, integer=True)
        number("quality", self.quality, 1, 100, integer=True)
        number("pilot", self.pilot, 1, integer=True)


@dataclass
class Painted:
    """Some candidate pairs: photos and raw paintings uint8 [n, H, W, 3], head coverage of the photos uint8 [n, H, W].

    `painted` is where the translator says it painted, uint8 [n, H, W]; None where it says nothing.
    """

    photo: np.ndarray
    raw: np.ndarray
    mask: np.ndarray
    painted: np.ndarray | None = None


class Candidates(Protocol):
    """Candidate pairs by number, made on demand."""

    @property
    def ids(self) -> Sequence[str]:
        """Unique names; their order is the pairs' order."""
        ...

    def __call__(self, numbers: range) -> Painted:
        """The pairs `numbers`."""
        ...


@dataclass
class Translated:
    """Candidates of photos in memory and a painter."""

    photos: Photos
    painter: Painter

    @property
    def ids(self) -> Sequence[str]:
        """The photos' ids."""
        return self.photos.ids

    def __call__(self, numbers: range) -> Painted:
        """Paint the photos `numbers`."""
        part = slice(numbers.start, numbers.stop)
        painting = self.painter(self.photos.images[part])
        return Painted(self.photos.images[part], painting.raw, self.photos.masks[part], painting.mask)


def write_pairs(
    candidates: Candidates, out: Path, curate: Curate, write: Write, reader: Reader, runtime: Runtime
) -> dict[str, float]:
    """Paint all candidates, write raw pictures, kept pairs, records and the sheet of rejects; returns their metrics.

    Raises:
        TristyleError: no pair is within the limits.
    """
    photos, raw = _painted(candidates, runtime)
    scores = score(raw, photos, reader, runtime.device)
    reasons = curate.reasons(scores)
    records, rejects = [], []
    for i, name in enumerate(photos.ids):
        pair = composite(raw[i], photos.images[i], photos.masks[i], curate)
        write_image(out / "raw" / f"{name}.png", raw[i])
        if reasons[i]:
            rejects += [photos.images[i], raw[i]]
        else:
            write_image(out / "photo" / f"{name}.png", photos.images[i])
            write_image(out / "style" / f"{name}.png", pair)
            write_image(out / "mask" / f"{name}.png", photos.masks[i])
        files = {"photo": f"photo/{name}.png", "style": f"style/{name}.png"} if not reasons[i] else {}
        values = {key: _finite(value[i]) for key, value in scores.items()}
        records.append({"id": name, **files, **values, "kept": not reasons[i], "reason": reasons[i] or None})
    kept = [record for record in records if record["kept"]]
    if not kept:
        raise TristyleError("pair: no pair passed the limits. Loosen pair.curate or train longer (pair.train.images).")
    write_jsonl(out / "records.jsonl", records)
    blank = np.full_like(photos.images[0], 255)
    write_image(out / "rejects.png", grid(rejects[: 2 * SHEET] or [blank, blank], columns=8))
    means = {f"train_{key}": float(np.nanmean(value)) for key, value in scores.items()}
    return {"pairs": float(len(kept)), "kept": len(kept) / len(records), **means}


def _painted(candidates: Candidates, runtime: Runtime) -> tuple[Photos, np.ndarray]:
    parts = []
    with runtime.track.progress("pairs", len(candidates.ids)) as line:
        for i in range(0, len(candidates.ids), CHUNK):
            parts.append(candidates(range(i, min(i + CHUNK, len(candidates.ids)))))
            line.update(min(i + CHUNK, len(candidates.ids)))
    photos = Photos(
        list(candidates.ids), np.concatenate([p.photo for p in parts]), np.concatenate([p.mask for p in parts])
    )
    return photos, np.concatenate([p.raw for p in parts])


def _finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def score(raw: np.ndarray, photos: Photos, reader: Reader, device: str) -> dict[str, np.ndarray]:
    """The three scores of curation per pair, each float [N]; see :mod:`stages.pair.curate`."""
    identity: list[Tensor] = []
    background: list[Tensor] = []
    for i in range(0, len(raw), 64):
        part = slice(i, i + 64)
        output, photo = (unit(to_tensor(images[part]).to(device)) for images in (raw, photos.images))
        mask = mask_tensor(photos.masks[part]).to(device)
        identity.append(identity_cosine(reader, photo, output, mask))
        background.append(background_error(output, photo, mask))
    heads = photos.masks > 127
    sharp = [clarity(image, image, head).edge_clarity for image, head in zip(raw, heads, strict=True)]
    return {
        "identity": torch.cat(identity).cpu().numpy(),
        "background": torch.cat(background).cpu().numpy(),
        "clarity": np.array(sharp),
    }
