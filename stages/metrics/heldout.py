"""People that no training saw, and the scores of raw pictures made of them: one definition for every stage.

A picture is scored as a network made it, before any compositing with the photo. What only one stage can measure (a
painter's mask, a student's teacher) it adds to the same pass over the people (`score_pictures`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.artifact import Artifact
from stages.core.images import load_images, load_masks
from stages.core.settings import TristyleError
from stages.core.tensors import mask_tensor, to_tensor, unit
from stages.metrics.identity import embed
from stages.metrics.kid import HeadKid
from stages.metrics.pixel import background_error, face_error, frame_error, mean_defined
from stages.networks.face_reader import Reader, read_masks

BATCH = 64  # pictures that the face reader sees together
LEAST = 4  # photos, or style pictures, that a training is worth
FEWEST = 2  # pictures on each side of KID

RawPictures = np.ndarray | Tensor  # uint8 [N, H, W, 3], or floating point [N, 3, H, W] in [0, 1]


@dataclass(kw_only=True)
class StylePictures:
    """Held-out pictures of a style, of other people than the photos.

    Attributes:
        images: uint8 [N, H, W, 3].
        mask: uint8 [N, H, W] head coverage; None where the data set has none.
    """

    images: np.ndarray
    mask: np.ndarray | None


@dataclass(kw_only=True)
class HeldOut:
    """The held-out part of a data set.

    Attributes:
        ids: the pictures' names.
        people: whom each picture shows; several pictures may show one person.
        photo: uint8 [N, H, W, 3].
        mask: uint8 [N, H, W], the photos' head coverage.
        twin: uint8 [N, H, W, 3], the true stylised twins; None where the data set has none.
        painted: uint8 [N, H, W], where the twins may differ from the photos; None: on the head alone.
        style: held-out pictures of the style; None where there are none.
    """

    ids: list[str]
    people: list[str]
    photo: np.ndarray
    mask: np.ndarray
    twin: np.ndarray | None
    style: StylePictures | None
    painted: np.ndarray | None = None


def read_heldout(data: Artifact, style: str, workers: int) -> HeldOut:
    """Read the held-out people of a data set, with their twins and other pictures in `style`.

    Args:
        data: the data artifact.
        style: name of the style.
        workers: threads that decode.

    Raises:
        TristyleError: the data set holds nobody out.
    """
    rows = [row for row in data.records() if row["split"] == "heldout" and row.get("photo")]
    if not rows:
        raise TristyleError(f"{data.path}: holds out no photos, so nothing can be scored. Set data.heldout above 0.")

    base, ids = data.path / "heldout", [Path(row["photo"]).stem for row in rows]
    twins, painted = ([base / kind / style / f"{name}.png" for name in ids] for kind in ("twin", "twin_mask"))
    return HeldOut(
        ids=ids,
        people=[str(row.get("person", name)) for name, row in zip(ids, rows, strict=True)],
        photo=load_images([base / "photo" / f"{name}.png" for name in ids], workers),
        mask=load_masks([base / "mask" / f"{name}.png" for name in ids], workers),
        twin=read_if_all(twins, workers),
        style=read_style(data, style, workers),
        painted=load_masks(painted, workers) if all(path.exists() for path in painted) else None,
    )


def check_enough(data: Artifact, style: str) -> None:
    """Refuse data too few for what follows: before the first training, not after it.

    Args:
        data: the data artifact.
        style: name of the style that is to be learnt; ``photo`` for none.

    Raises:
        TristyleError: too few photos, style pictures or held-out people; names the remedy.
    """
    rows = data.records()
    counted = {
        "photos to train on": (sum(row["split"] == "train" for row in rows), LEAST),
        "held-out photos": (sum(row["split"] == "heldout" for row in rows), FEWEST),
    }
    if style != "photo":
        own = [row["split"] for row in rows if row.get("style") == style]
        counted[f"pictures of the style {style} to train on"] = (own.count("style"), LEAST)
    for what, (found, least) in counted.items():
        if found < least:
            raise TristyleError(
                f"{data.path}: has {found} {what}, and the stages that follow need {least} at least. "
                "Give more pictures, or hold out another share (data.heldout)."
            )


def read_style(data: Artifact, style: str, workers: int) -> StylePictures | None:
    """The held-out pictures of a style; None where the data set has none.

    Args:
        data: the data artifact.
        style: name of the style.
        workers: threads that decode.
    """
    base = data.path / "heldout"
    files = sorted((base / "style" / style).glob("*.png"))
    if not files:
        return None
    given = [base / "style_mask" / style / path.name for path in files]
    mask = load_masks(given, workers) if all(path.exists() for path in given) else None
    return StylePictures(images=load_images(files, workers), mask=mask)


def read_if_all(files: list[Path], workers: int) -> np.ndarray | None:
    """Pictures uint8 [N, H, W, 3]; None unless every file is there."""
    return load_images(files, workers) if all(path.exists() for path in files) else None


# ------------------------------------------------------------------------------------------- scores of each picture


@dataclass(kw_only=True)
class HeldOutView:
    """Some of the held-out people beside what was made of them.

    Attributes:
        part: which of them.
        photo, raw: [n, 3, H, W] in [0, 1].
        mask: [n, 1, H, W] head coverage of the photos, in [0, 1].
        painted: likewise, what is not background: the head, and where the twin is painted.
        twin: as `photo`; None without twins.
    """

    part: slice
    photo: Tensor
    raw: Tensor
    mask: Tensor
    painted: Tensor
    twin: Tensor | None


@dataclass(kw_only=True)
class PictureScores:
    """Scores of N pictures.

    Attributes:
        rows: score -> [N], on the CPU; NaN where there is nothing to measure.
        photo, raw: unit embeddings [N, D] of the photos' and the pictures' heads, on the CPU.
    """

    rows: dict[str, Tensor]
    photo: Tensor
    raw: Tensor


@torch.no_grad()
def score_pictures(
    people: HeldOut,
    raw: RawPictures,
    reader: Reader,
    device: str = "cpu",
    further: Callable[[HeldOutView], dict[str, Tensor]] = lambda view: {},
) -> PictureScores:
    """Score raw pictures of the held-out people, one value a picture.

    Args:
        people: the held-out people.
        raw: what was made of their photos, in the same order.
        reader: the face reader, on `device`.
        device: where to compute.
        further: more scores [n] of some of them, by name.

    Returns:
        identity and background_error; with twins also face_error, frame_error, twin_identity and, for the untouched
        photo, photo_face_error and photo_frame_error. Errors are L1 in [0, 1]; see `stages.metrics.pixel`.
    """
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(people.ids), BATCH):
        view = _view(people, raw, slice(start, start + BATCH), device)
        found = _errors(view) | further(view)

        # one crop for all three pictures: the photo's
        found |= {"_photo": embed(reader, view.photo, view.mask), "_raw": embed(reader, view.raw, view.mask)}
        if view.twin is not None:
            found["twin_identity"] = F.cosine_similarity(embed(reader, view.twin, view.mask), found["_photo"], dim=1)
        parts.append({name: values.cpu() for name, values in found.items()})

    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    photo, made = columns.pop("_photo"), columns.pop("_raw")
    identity = F.cosine_similarity(photo, made, dim=1)
    return PictureScores(rows={"identity": identity} | columns, photo=photo, raw=made)


def _view(people: HeldOut, raw: RawPictures, part: slice, device: str) -> HeldOutView:
    mask = mask_tensor(people.mask[part]).to(device)
    painted = mask if people.painted is None else mask_tensor(people.painted[part]).to(device).maximum(mask)
    return HeldOutView(
        part=part,
        photo=_floating(people.photo, part, device),
        raw=_floating(raw, part, device),
        mask=mask,
        painted=painted,
        twin=None if people.twin is None else _floating(people.twin, part, device),
    )


def _floating(pictures: RawPictures, part: slice, device: str) -> Tensor:
    """Some pictures as [n, 3, H, W] in [0, 1] on `device`."""
    if isinstance(pictures, Tensor):
        return pictures[part].to(device)
    return unit(to_tensor(pictures[part]).to(device))


def _errors(view: HeldOutView) -> dict[str, Tensor]:
    found = {"background_error": background_error(view.raw, view.photo, view.painted)}
    if view.twin is not None:
        for prefix, picture in (("", view.raw), ("photo_", view.photo)):
            found[f"{prefix}face_error"] = face_error(picture, view.twin, view.mask)
            found[f"{prefix}frame_error"] = frame_error(picture, view.twin)
    return found


def ratio_of_means(values: Tensor, others: Tensor) -> float:
    """Mean of `values` [N] over the mean of `others` [N], NaN entries left out; NaN where the latter is 0."""
    below = mean_defined(others)
    return mean_defined(values) / below if below > 0 else float("nan")


# -------------------------------------------------------------------------------------------------- scores of all


def style_kid(style: StylePictures, reader: Reader, device: str = "cpu") -> HeadKid:
    """KID with the style pictures as its real side, heads on one grey; the reader gives masks that are missing."""
    kid = HeadKid(reader)
    mask = read_masks(reader, style.images, device) if style.mask is None else style.mask
    add_pictures(kid.add_real, style.images, mask, device)
    return kid


def add_pictures(add: Callable[[Tensor, Tensor], None], images: RawPictures, masks: np.ndarray, device: str) -> None:
    """Feed one side of KID.

    Args:
        add: `HeadKid.add_real` or `HeadKid.add_fake`.
        images: the pictures.
        masks: uint8 [N, H, W], their heads' coverage.
        device: where the reader is.
    """
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        add(_floating(images, part, device), mask_tensor(masks[part]).to(device))


def heldout_kid(
    people: HeldOut, pictures: Mapping[str, RawPictures | None], reader: Reader, device: str = "cpu"
) -> tuple[HeadKid | None, dict[str, float]]:
    """KID of several sets of pictures of the held-out people to the held-out style pictures.

    Args:
        people: the held-out people.
        pictures: name of the measure -> pictures in the people's order; None leaves a measure out. `kid` and
            `photo_kid` are among them.
        reader: the face reader, on `device`.
        device: where to compute.

    Returns:
        (the collected features, with the last set as the fake side; <name>, <name>_sd, kid_ratio and
        kid_style_images). (None, {}) with fewer than two pictures on a side.
    """
    if people.style is None or min(len(people.style.images), len(people.ids)) < FEWEST:
        return None, {}
    kid, found = style_kid(people.style, reader, device), dict[str, float]()
    for name, shown in pictures.items():
        if shown is None:
            continue
        kid.clear_fake()
        add_pictures(kid.add_fake, shown, people.mask, device)
        result = kid.compute()
        found |= {name: float(result["kid"]), f"{name}_sd": float(result["kid_sd"])}

    # the photos' own distance is the scale: 1 says no nearer to the style than the photos
    found["kid_ratio"] = found["kid"] / found["photo_kid"] if found["photo_kid"] > 0 else float("nan")
    return kid, found | {"kid_style_images": float(len(people.style.images))}
