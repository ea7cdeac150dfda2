"""Measures of stage pair on held-out people, on raw paintings; every definition lives in stages.metrics."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from stages.artifact import Artifact
from stages.faces.reader import Reader
from stages.io import load_images, load_masks, mask_tensor, to_tensor, unit, write_image
from stages.metrics.identity import identity_cosine
from stages.metrics.kid import HeadKid
from stages.metrics.pixel import background_error, face_error, mean_defined
from stages.pair.photos import Painter, load_photos, read_masks
from stages.runtime import Runtime


def measure_heldout(
    data: Artifact, style: str, painter: Painter, reader: Reader, out: Path, runtime: Runtime
) -> dict[str, float]:
    """Raw translations of the held-out photos to `heldout/`, and their measures beside the untouched photos'.

    Face errors need the painter's twins and KID held-out style pictures; without them those entries are left out.
    """
    held = load_photos(data, "heldout", "heldout/photo", "heldout/mask", runtime.workers)
    raw = painter(held.images).raw
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
