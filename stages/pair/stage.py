"""Stage pair: photos and a style set in, curated pairs of (photo, stylised photo) out.

Trains U-GAT-IT between the photos and the style set, paints every photo with the averaged generator, lays the head over
the photo, scores each pair and keeps the good ones. Style pictures are generated and have no masks: the face reader
gives them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stages.artifact import SCRATCH, Artifact
from stages.config import ConfigError, Train, TristyleError, number
from stages.engine import fit
from stages.faces.reader import Reader, load_reader, reader_file
from stages.io import (
    grid,
    load_images,
    load_masks,
    mask_tensor,
    save_network,
    to_tensor,
    to_uint8,
    unit,
    write_image,
    write_jsonl,
)
from stages.metrics.clarity import clarity
from stages.metrics.identity import identity_cosine
from stages.metrics.kid import HeadKid
from stages.metrics.pixel import background_error, face_error, mean_defined
from stages.pair.curate import Curate, composite
from stages.pair.ugatit import Translator, unpaired_batches
from stages.runtime import Runtime

CHUNK = 32  # pictures per forward pass
SHEET = 32  # rejects shown at most


@dataclass
class Photos:
    """Pictures of one split: ids, uint8 [N, H, W, 3] and head coverage uint8 [N, H, W]."""

    ids: list[str]
    images: np.ndarray
    masks: np.ndarray


@dataclass(kw_only=True)
class PairStage:
    """Photos + style data set -> curated, scored (photo, style) pairs.

    Args:
        translator: networks and losses.
        train: length and pace; images are counted in photos, each update sees as many style pictures.
        curate: which pairs are kept, and how they are composited.
        seed: of the order of the pictures.

    Raises:
        TristyleError: pictures smaller than 32 px, or photos and style pictures of different sizes.
    """

    reads: ClassVar[tuple[str, ...]] = ("data", "style")
    translator: Translator = field(default_factory=Translator)
    train: Train
    curate: Curate = field(default_factory=Curate)
    seed: int = 0

    def __post_init__(self) -> None:
        number("seed", self.seed, 0, integer=True)

    def files(self) -> dict[str, Path]:
        """The face reader, which masks the style pictures and scores the pairs."""
        return reader_file()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, paint, curate, measure; returns the artifact's metrics.

        Raises TristyleError: no photos, pictures of unlike or too small sizes, or no pair within the limits.
        """
        data, style = inputs["data"], inputs["style"]
        reader = load_reader(runtime.device)
        photos = _photos(data, "train", "photo", "mask", runtime.workers)
        style_images = load_images(_style_paths(style), runtime.workers)
        _check_sizes(photos.images, style_images, style.path)
        style_masks = read_masks(reader, style_images, runtime.device)
        source = _source_images(style, runtime.workers) if self.translator.weights.latent else None
        generator = self._train(photos, style_images, style_masks, source, out, runtime)
        save_network(out / "translator.safetensors", generator)
        metrics: dict[str, Any] = self._write_pairs(photos, generator, reader, out, runtime)
        metrics |= measure_heldout(data, _style_name(style), generator, reader, out, runtime)
        return metrics | {"reader": reader.id, "size": photos.images.shape[1]}

    def _train(
        self,
        photos: Photos,
        style: np.ndarray,
        masks: np.ndarray,
        source: np.ndarray | None,
        out: Path,
        runtime: Runtime,
    ) -> nn.Module:
        task = self.translator.task(photos.images.shape[1], self.train)
        batches = unpaired_batches(photos.images, photos.masks, style, masks, self.seed, source)
        fit(task, batches, train=self.train, scratch=out / SCRATCH, runtime=runtime, label="pair")
        return task.ema.eval()

    def _write_pairs(
        self, photos: Photos, generator: nn.Module, reader: Reader, out: Path, runtime: Runtime
    ) -> dict[str, float]:
        """Paint all photos, write raw pictures, kept pairs, records and the sheet of rejects; returns their metrics."""
        raw = paint(generator, photos.images, runtime, "pairs")
        scores = score(raw, photos, reader, runtime.device)
        reasons = self.curate.reasons(scores)
        records, rejects = [], []
        for i, name in enumerate(photos.ids):
            pair = composite(raw[i], photos.images[i], photos.masks[i], self.curate)
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
            raise TristyleError(
                "pair: no pair passed the limits. Loosen pair.curate or train longer (pair.train.images)."
            )
        write_jsonl(out / "records.jsonl", records)
        blank = np.full_like(photos.images[0], 255)
        write_image(out / "rejects.png", grid(rejects[: 2 * SHEET] or [blank, blank], columns=8))
        means = {f"train_{key}": float(np.nanmean(value)) for key, value in scores.items()}
        return {"pairs": float(len(kept)), "kept": len(kept) / len(records), **means}


def _finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _photos(data: Artifact, split: str, pictures: str, masks: str, workers: int) -> Photos:
    """The photos of one split of the data artifact with their masks.

    Raises:
        TristyleError: there are none.
    """
    records = [record for record in data.records() if record["split"] == split and record.get("photo")]
    if not records:
        raise TristyleError(f"{data.path}: no {split} photos. Run stage=data with more pictures.")
    names = [Path(record["photo"]).name for record in records]
    images = load_images([data.path / pictures / name for name in names], workers)
    covers = load_masks([data.path / masks / name for name in names], workers)
    return Photos([Path(name).stem for name in names], images, covers)


def _style_paths(style: Artifact) -> list[Path]:
    return [style.path / record["image"] for record in style.records()]


def _source_images(style: Artifact, workers: int) -> np.ndarray | None:
    """The style pictures' faces before the transfer, uint8 [N, H, W, 3]; None for a style set that has none."""
    paths = [style.path / "source" / Path(record["image"]).name for record in style.records()]
    return load_images(paths, workers) if all(path.exists() for path in paths) else None


def _style_name(style: Artifact) -> str:
    return str(style.records()[0].get("style") or "")


def _check_sizes(photos: np.ndarray, style: np.ndarray, path: Path) -> None:
    size = photos.shape[1]
    if photos.shape[1] != photos.shape[2] or size < 32 or size % 4:
        problem = f"{photos.shape[2]}x{size} px photos do not fit U-GAT-IT"
        raise ConfigError("data.size", problem, "Use squares of 32 px or more")
    if style.shape[1:] != photos.shape[1:]:
        sizes = f"style pictures of {style.shape[1]} px and photos of {size} px"
        raise TristyleError(f"{path}: {sizes} do not go together. Run stage=style on this data.")


@torch.no_grad()
def read_masks(reader: Reader, images: np.ndarray, device: str) -> np.ndarray:
    """Head coverage of uint8 [N, H, W, 3] pictures as the face reader sees it: uint8 [N, H, W]."""
    masks = [reader.read(to_tensor(images[i : i + 64]).to(device)).mask for i in range(0, len(images), 64)]
    return torch.cat(masks)[:, 0].mul(255).round().to(torch.uint8).cpu().numpy()


@torch.no_grad()
def paint(generator: nn.Module, images: np.ndarray, runtime: Runtime, label: str) -> np.ndarray:
    """Raw translations of uint8 [N, H, W, 3] pictures, uint8 of the same shape."""
    painted = []
    with runtime.track.progress(label, len(images)) as line:
        for i in range(0, len(images), CHUNK):
            photo = to_tensor(images[i : i + CHUNK]).to(runtime.device, memory_format=torch.channels_last)
            painted.append(to_uint8(generator(photo).image))
            line.update(min(i + CHUNK, len(images)))
    return np.concatenate(painted)


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


def measure_heldout(
    data: Artifact, style: str, generator: nn.Module, reader: Reader, out: Path, runtime: Runtime
) -> dict[str, float]:
    """Raw translations of the held-out photos to `heldout/`, and their measures beside the untouched photos'.

    Face errors need the painter's twins and KID held-out style pictures; without them those entries are left out.
    """
    held = _photos(data, "heldout", "heldout/photo", "heldout/mask", runtime.workers)
    raw = paint(generator, held.images, runtime, "held-out")
    for name, image in zip(held.ids, raw, strict=True):
        write_image(out / "heldout" / f"{name}.png", image)
    output, photo = unit(to_tensor(raw)), unit(to_tensor(held.images))
    mask = mask_tensor(held.masks)
    metrics = {
        "identity": float(identity_cosine(reader, photo.to(runtime.device), output.to(runtime.device), mask).mean()),
        "background_error": mean_defined(background_error(output, photo, mask)),
    }
    twins = [data.path / "heldout" / "twin" / style / f"{name}.png" for name in held.ids]
    if all(path.exists() for path in twins):
        twin = unit(to_tensor(load_images(twins, runtime.workers)))
        metrics["face_error"] = mean_defined(face_error(output, twin, mask))
        metrics["photo_face_error"] = mean_defined(face_error(photo, twin, mask))
        metrics["face_ratio"] = metrics["face_error"] / metrics["photo_face_error"]
    folder = data.path / "heldout" / "style" / style
    real = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if len(real) >= 2:
        metrics |= _kid(real, data.path / "heldout" / "style_mask" / style, photo, output, mask, reader, runtime)
    return metrics


def _kid(
    real: list[Path], masks: Path, photo: Tensor, output: Tensor, mask: Tensor, reader: Reader, runtime: Runtime
) -> dict[str, float]:
    images = load_images(real, runtime.workers)
    given = [masks / path.name for path in real]
    there = all(path.exists() for path in given)
    cover = load_masks(given, runtime.workers) if there else read_masks(reader, images, runtime.device)
    kid = HeadKid(reader)
    found: dict[str, float] = {}
    kid.add_real(unit(to_tensor(images)).to(runtime.device), mask_tensor(cover).to(runtime.device))
    for name, pictures in (("kid", output), ("photo_kid", photo)):
        kid.clear_fake()
        kid.add_fake(pictures.to(runtime.device), mask.to(runtime.device))
        result = kid.compute()
        found |= {name: float(result["kid"]), f"{name}_sd": float(result["kid_sd"])}
    found["kid_ratio"] = found["kid"] / found["photo_kid"] if found["photo_kid"] > 0 else float("nan")
    return found | {"kid_style_images": float(len(real))}
