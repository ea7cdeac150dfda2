"""Pairs without a translator: two generators' pictures of one latent, or a photo and what its latent becomes.

The two-stage route of distilled stylizers: a generator and its fused, stylised copy make the pair directly (Pinkney and
Adler, "Resolution Dependent GAN Interpolation", arXiv 2010.05334; Viazovetskyi et al., "StyleGAN2 Distillation for
Feed-forward Image Manipulation", arXiv 2003.03581). It is the baseline for what translation between a style set and
unrelated photographs is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from stages.core.artifact import Artifact
from stages.core.files import data_file, read_jsonl
from stages.core.images import load_images
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError, choice, number
from stages.core.stage import Stage
from stages.core.tensors import to_tensor, to_uint8
from stages.metrics.heldout import FEWEST, add_pictures, read_style, style_kid
from stages.networks.encoder import Encoder
from stages.networks.expanded import ExpandedEditor
from stages.networks.face_reader import Reader, load_reader, read_masks, reader_file
from stages.networks.latents import EDITOR, SHIPPED_ENCODER, decode, latents, load_editor, load_encoder, load_generator
from stages.networks.stylegan2 import Generator
from stages.pair.curate import Curate
from stages.pair.inputs import (
    OnDisk,
    Painted,
    PairCandidates,
    Translated,
    all_photos,
    check_photos,
    photo_count,
    photo_digest,
    photo_files,
    refuse_photos,
    stored_photos,
    style_name,
)
from stages.pair.photo_sets import CHUNK
from stages.pair.score import measure_heldout
from stages.pair.translator import Painter, Translation
from stages.pair.write import Write, write_pairs

MEASURED = 256  # pairs whose KID is taken


@dataclass(kw_only=True)
class LatentPairs(Stage):
    """A style artifact's generators (and photos) -> curated, scored (photo, style) pairs.

    Args:
        source: ``random``: photo and style picture are what the source and the fused generator make of one latent;
            ``photos``: the photo is a photo, the style picture what the fused generator makes of its latent.
        count: pairs made of random latents, before curation; null for as many as the style set holds. More than that
            are drawn from further seeds.
        curate: which pairs are kept, and how they are composited.
        write: how they are stored, and with ``photos``, of which further ones pairs are made.

    Raises:
        ConfigError: `count` with photos, or further photos with random latents.
    """

    reads: ClassVar[tuple[str, ...]] = ("data", "style")
    source: str = "random"
    count: int | None = None
    curate: Curate = field(default_factory=Curate)
    write: Write = field(default_factory=Write)

    def __post_init__(self) -> None:
        choice("source", self.source, ("random", "photos"))
        if self.count is not None:
            number("count", self.count, 1, integer=True)
            if self.source == "photos":
                raise ConfigError("count", "there are as many pairs as photos", "Leave it null")
        if self.source == "random":
            refuse_photos(self.write.photos, "random pairs are of latents")

    def files(self) -> dict[str, Path]:
        """The face reader, which masks and scores, the encoder, which inverts photos, and folders of further photos."""
        return reader_file() | {"encoder": data_file(SHIPPED_ENCODER)} | photo_files(self.write.photos)

    def digest(self, key: str, path: Path) -> str:
        """Of further photos only the pictures count."""
        return photo_digest(key, path)

    def check(self) -> None:
        """Refuse a `sources.csv` above the further photos that cannot be obeyed."""
        check_photos(self.write.photos)

    def shards(self, inputs: dict[str, Artifact]) -> int:
        """How many shards there are to write: `part=range(0,N)` launches them all."""
        rows = inputs["style"].records()
        if self.source == "random":
            return self.write.shards(self.count or len(rows))
        count = len(rows) if self._in_set(rows) else photo_count(inputs["data"], self.write.photos)
        return self.write.shards(count)

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Make, curate, write and measure the pairs.

        Where the style has an editor, or the shipped encoder was made for its source, the held-out photos are inverted
        and the fused generator decodes them: `identity`, `kid` and the others measure that, as a translator. Random
        pairs have a KID of their own, `pairs_kid`: that of the pairs' raw style pictures, not of held-out people.

        Returns:
            The artifact's metrics; of a part (`runtime.part`), how many shards are done and how many there are.

        Raises:
            TristyleError: the style set lacks what is asked for, sizes differ, or no pair passes the limits.
        """
        data, style = inputs["data"], inputs["style"]
        reader = load_reader(runtime.device)
        networks = (style.path / f"{name}.safetensors" for name in ("source", "generator"))
        source, fused = (load_generator(path, runtime.device) for path in networks)
        _check_size(data, style, fused)

        painter = _painter(style, source, fused, reader, runtime.device)
        if self.source == "random":
            candidates = self._drawn(style, source, fused, reader, runtime)
        else:
            candidates = self._inverted(data, style, painter, reader, out, runtime)
        metrics = write_pairs(candidates, out, self.curate, self.write, reader, runtime)
        if runtime.part is not None:
            return metrics

        # without an encoder held-out people cannot be painted
        name = style_name(style)
        if painter is not None:
            metrics |= measure_heldout(data, name, painter, reader, out, runtime)
        if self.source == "random":
            metrics |= pairs_kid(candidates, data, name, reader, runtime)
        return metrics | {"reader": reader.id, "size": fused.img_resolution}

    def _drawn(
        self, style: Artifact, source: Generator, fused: Generator, reader: Reader, runtime: Runtime
    ) -> PairCandidates:
        """The style set's pictures beside their source's, then both generators' pictures of further seeds."""
        rows = style.records()[: self.count]
        if not all((style.path / "source" / Path(row["image"]).name).exists() for row in rows):
            raise TristyleError(
                f"{style.path}: has no source/ pictures beside images/, so it has no pairs. "
                "Run stage=style with style.start=base, or another start than scratch."
            )
        more = 0 if self.count is None else self.count - len(rows)
        seeds = _further_seeds(style, rows, more) if more else []
        truncation = (rows[0].get("psi", 1.0), style.config.get("sampling", {}).get("cutoff"))
        paint = [partial(draw, generator, truncation=truncation) for generator in (source, fused)]
        return Drawn(style.path, rows, seeds, paint, partial(read_masks, reader, device=runtime.device))

    def _in_set(self, rows: list[dict[str, Any]]) -> bool:
        """Whether the style set is of photos that were inverted, and all pairs are of those."""
        # a picture with a seed beside its photo has that seed's fine layers
        return self.write.photos is None and all("photo" in row and "seed" not in row for row in rows)

    def _inverted(
        self, data: Artifact, style: Artifact, painter: Painter | None, reader: Reader, out: Path, runtime: Runtime
    ) -> PairCandidates:
        """Photos and the style set's pictures of their latents; photos and the encoder's, where it has none."""
        rows = style.records()
        if self._in_set(rows):
            return _of_set(data, style, rows)
        if painter is None:
            raise TristyleError(
                f"{style.path}: its source is not the generator that the shipped encoder was made for, so photos "
                "cannot be inverted. Set style.sampling.source=invert, or pair.source=random."
            )
        return Translated(all_photos(data, self.write.photos, out, reader, runtime), painter)


def _of_set(data: Artifact, style: Artifact, rows: list[dict[str, Any]]) -> PairCandidates:
    known = {Path(row["photo"]).stem for row in data.records() if row["split"] == "train" and row.get("photo")}
    names = [str(row["photo"]) for row in rows]
    strange = sorted(set(names) - known)
    if strange:
        raise TristyleError(
            f"{style.path}: was made of photo {strange[0]}, which {data.path} does not train on. "
            "Run stage=style on this data."
        )
    photo, mask = ([data.path / kind / f"{name}.png" for name in names] for kind in ("photo", "mask"))
    raw = [style.path / row["image"] for row in rows]
    return OnDisk(names, photo, mask, raw, [bool(row.get("mirrored")) for row in rows])


def _painter(style: Artifact, source: Generator, fused: Generator, reader: Reader, device: str) -> Painter | None:
    """What paints any photo: the style's editor, else the shipped encoder; None where neither is of its source."""
    if (style.path / EDITOR).exists():
        return restyling_painter(load_editor(style.path, device), fused, reader, device)
    encoder = load_encoder(source)
    return encoder and inverting_painter(encoder, fused, device)


def _check_size(data: Artifact, style: Artifact, fused: Generator) -> None:
    size = stored_photos(data).size
    if size != fused.img_resolution:
        sizes = f"style pictures of {fused.img_resolution} px and photos of {size} px"
        raise TristyleError(f"{style.path}: {sizes} do not go together. Run stage=style on this data.")


def _further_seeds(style: Artifact, rows: list[dict[str, Any]], count: int) -> list[int]:
    """The `count` seeds after all those that the style set was chosen from."""
    config = style.config
    altered = config.get("edit") or any(isinstance(value, list) for value in config.get("recolour", {}).values())
    if altered or any("photo" in row or "seed" not in row for row in rows):
        raise TristyleError(
            f"pair.count={len(rows) + count}: {style.path} holds {len(rows)} pictures, edited, recoloured or of photos "
            "as further ones would not be. Set pair.count=null, or raise style.sampling.count."
        )
    tried = rows + read_jsonl(style.path / "rejects.jsonl")
    first = 1 + max(int(row["seed"]) for row in tried if "seed" in row)
    return [(first + i) % 2**32 for i in range(count)]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


@dataclass
class Drawn:
    """Candidates by latent: those of the style set, read from disk, then further seeds, drawn when they are asked for.

    Attributes:
        folder: the style artifact's.
        rows: its records.
        seeds: the further ones.
        paint: the source's and the fused generator's: seeds -> pictures uint8 [n, R, R, 3].
        masks: pictures -> head coverage uint8 [n, R, R].
    """

    folder: Path
    rows: list[dict[str, Any]]
    seeds: list[int]
    paint: Sequence[Callable[[Sequence[int]], np.ndarray]]
    masks: Callable[[np.ndarray], np.ndarray]

    @property
    def ids(self) -> Sequence[str]:
        """Six digits, counting on from the set."""
        return [f"{i:06d}" for i in range(len(self.rows) + len(self.seeds))]

    def __call__(self, numbers: range) -> Painted:
        """The pairs `numbers`; their seeds go into their records."""
        kept = self.rows[numbers.start : numbers.stop]
        further = self.seeds[max(numbers.start - len(self.rows), 0) : max(numbers.stop - len(self.rows), 0)]
        sides = []
        for kind, paint in zip(("source", "images"), self.paint, strict=True):
            parts = [load_images([self.folder / kind / Path(row["image"]).name for row in kept])] if kept else []
            parts += [paint(further[i : i + CHUNK]) for i in range(0, len(further), CHUNK)]
            sides.append(np.concatenate(parts))
        photo, raw = sides
        notes = [{"seed": row["seed"]} if "seed" in row else {} for row in kept] + [{"seed": seed} for seed in further]
        return Painted(photo, raw, self.masks(photo), notes=notes)


@torch.no_grad()
def draw(generator: Generator, seeds: Sequence[int], truncation: tuple[float, int | None]) -> np.ndarray:
    """Pictures uint8 [n, R, R, 3] of seeds, truncated (psi, cutoff) as the style set is."""
    z = latents(generator.z_dim, seeds).to(generator.mapping.w_avg.device)
    return decode(generator, generator.mapping(z, *truncation))


def inverting_painter(encoder: Encoder, fused: Generator, device: str) -> Painter:
    """Paints photos by one pass of the encoder of `fused`'s source and one of `fused`, CHUNK pictures at a time."""
    encoder = encoder.to(device)

    @torch.no_grad()
    def paint(photos: np.ndarray) -> Translation:
        parts = (photos[i : i + CHUNK] for i in range(0, len(photos), CHUNK))
        return Translation(np.concatenate([decode(fused, encoder(to_tensor(part).to(device))) for part in parts]))

    return paint


def restyling_painter(editor: ExpandedEditor, fused: Generator, reader: Reader, device: str) -> Painter:
    """Paints photos through the editor of `fused`'s source: what is behind the head stays, and so does the light."""

    @torch.no_grad()
    def paint(photos: np.ndarray) -> Translation:
        parts = []
        for i in range(0, len(photos), CHUNK):
            images = to_tensor(photos[i : i + CHUNK]).to(device)
            parts.append(editor.restyle(images, reader.read(images).mask, fused, editor.encoder(images)))
        return Translation(to_uint8(torch.cat(parts)))

    return paint


def pairs_kid(
    candidates: PairCandidates, data: Artifact, style: str, reader: Reader, runtime: Runtime
) -> dict[str, float]:
    """KID of the first pairs' raw style pictures to the held-out ones, heads on grey; {} without held-out pictures.

    Returns:
        pairs_kid, and its spread over subsets, pairs_kid_sd.
    """
    real = read_style(data, style, runtime.workers)
    shown = candidates(range(min(len(candidates.ids), MEASURED)))
    if real is None or min(len(real.images), len(shown.raw)) < FEWEST:
        return {}
    kid = style_kid(real, reader, runtime.device)
    add_pictures(kid.add_fake, shown.raw, shown.mask, runtime.device)
    found = kid.compute()
    return {"pairs_kid": float(found["kid"]), "pairs_kid_sd": float(found["kid_sd"])}
