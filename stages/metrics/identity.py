"""Identity: does the stylised picture still show the same person?

`identity_cosine` compares a photo with its own stylised picture inside one crop (the photo's), and `same_person_auc`
asks how surely photo A belongs to the stylised photo B of the same person among pairs of different people.
Where people have several photos each, `person_pairs` and `resampled_auc` give it an interval over people.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CROP = 64  # pixels a side of the crop that the reader sees
MARGIN = 0.15  # room around the head, as a share of its longer side


class IdentityReader(Protocol):
    """What identity needs of the face reader: unit embeddings of pictures in [-1, 1]."""

    def identity(self, images: Tensor) -> Tensor:
        """Embeddings [N, D] of unit length, of pictures [N, 3, H, W] in [-1, 1]."""


def head_boxes(mask: Tensor) -> Tensor:
    """Square boxes around the heads.

    Args:
        mask: [N, 1, H, W], head coverage in [0, 1]; a picture without any head gets the whole frame.

    Returns:
        [N, 4]: left, top, right, bottom in pixels (may reach over the border), with 15 % of room on each side.
    """
    boxes = []
    height, width = mask.shape[-2:]
    for one in mask[:, 0] > 0.5:
        rows, columns = torch.where(one.any(1))[0], torch.where(one.any(0))[0]
        if len(rows) == 0:
            boxes.append([0.0, 0.0, float(width), float(height)])
            continue
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        half = max(bottom - top, right - left) * (0.5 + MARGIN)
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        boxes.append([middle_x - half, middle_y - half, middle_x + half, middle_y + half])
    return torch.tensor(boxes, dtype=torch.float32, device=mask.device)


def crop(images: Tensor, boxes: Tensor, size: int = CROP) -> Tensor:
    """Cuts one square box out of each picture.

    Args:
        images: [N, 3, H, W].
        boxes: [N, 4] in pixels (left, top, right, bottom); outside the frame the border repeats.
        size: side of the crop in pixels.

    Returns:
        [N, 3, size, size]; larger boxes are reduced with antialiasing (sampled at a multiple, then averaged).
    """
    height, width = images.shape[-2:]
    factor = max(1, int(torch.ceil((boxes[:, 2] - boxes[:, 0]).max() / size)))
    steps = (torch.arange(size * factor, device=images.device, dtype=images.dtype) + 0.5) / (size * factor)
    x = (boxes[:, 0, None] + steps * (boxes[:, 2] - boxes[:, 0])[:, None]) / width * 2 - 1  # [N, S]
    y = (boxes[:, 1, None] + steps * (boxes[:, 3] - boxes[:, 1])[:, None]) / height * 2 - 1  # [N, S]
    grid = torch.stack([x[:, None, :].expand(-1, len(steps), -1), y[:, :, None].expand(-1, -1, len(steps))], dim=-1)
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, factor)


def embed(reader: IdentityReader, images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Unit embeddings of heads.

    Args:
        reader: the face reader, or any recogniser with `identity(images in [-1, 1]) -> [N, D]` of unit length.
        images: [N, 3, H, W] in [0, 1].
        mask: [N, 1, H, W] head coverage from which the crop follows; the whole frame without it.

    Returns:
        [N, D].
    """
    with torch.no_grad():
        return reader.identity((images if mask is None else crop(images, head_boxes(mask))) * 2 - 1)


def identity_cosine(reader: IdentityReader, photo: Tensor, output: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cosine of the embeddings of a photo and its stylised picture, cut by one crop: the photo's; higher is better.

    Args:
        reader: the face reader, or any recogniser with `identity(images in [-1, 1]) -> [N, D]` of unit length.
        photo: [N, 3, H, W] in [0, 1].
        output: what was made of it, [N, 3, H, W] in [0, 1].
        mask: [N, 1, H, W] head coverage of the photo, from which the crop follows; the whole frame without it.

    Returns:
        [N] in [-1, 1].
    """
    if photo.shape != output.shape:
        raise ValueError(f"photo and output differ in shape: {tuple(photo.shape)} and {tuple(output.shape)}")
    return F.cosine_similarity(embed(reader, photo, mask), embed(reader, output, mask), dim=1)


def area_under_curve(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive score exceeds a negative one, ties counting half (Mann-Whitney).

    Args:
        positive: [P] scores of matching pairs.
        negative: [Q] scores of other pairs.
    """
    scores = torch.cat([positive, negative]).double()
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts.double() - 1) / 2)[inverse]  # mean rank of each tie, from 1
    wins = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def same_person_auc(
    first: Tensor, second: Tensor, people_first: Tensor, people_second: Tensor, aligned: bool = False
) -> float:
    """Area under the curve of separating pairs of one person from pairs of different people.

    Args:
        first: [N, D] unit embeddings, e.g. of photos A.
        second: [M, D] unit embeddings, e.g. of stylised photos B of the same people.
        people_first: [N] person ids.
        people_second: [M] person ids.
        aligned: row i of `second` was made from row i of `first`. Such a pair, of one photo, is not counted.

    Returns:
        0.5 for chance, 1 for a perfect separation.

    Raises:
        ValueError: no matching or no other pair.
    """
    scores = first @ second.T
    same = people_first[:, None] == people_second[None, :]
    counted = ~torch.eye(len(first), dtype=torch.bool, device=same.device) if aligned else torch.ones_like(same)
    if not (same & counted).any() or same.all():
        raise ValueError("pairs of the same and of different people are both needed")
    return area_under_curve(scores[same & counted], scores[~same])


def person_pairs(
    people: Sequence[str], sessions: Sequence[str] | None = None, probes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which cells of a score matrix photo x stylised photo are same-person pairs, and which of different people.

    Args:
        people: whom each of N photos shows.
        sessions: when each was taken; pairs of one session are then not counted, for frames of one clip share light,
            clothes and expression. A photo and what was painted of it are never a pair.
        probes: bool [N], only these stylised photos are asked; all by default.

    Returns:
        (same bool [N, N], different bool [N, N])
    """
    names = np.asarray(people, str)
    same = names[:, None] == names[None]
    apart = ~np.eye(len(names), dtype=bool)
    if sessions is not None:
        taken = np.asarray(sessions, str)
        apart &= taken[:, None] != taken[None]
    asked = np.ones(len(names), bool) if probes is None else probes
    return same & apart & asked[None], ~same & asked[None]


def resampled_auc(scores: np.ndarray, same: np.ndarray, different: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Same-person AUC in each resample of the people: float64 [R]; `draws` of ones [1, N] gives the plain value.

    A person who was drawn twice counts as two people who are never compared: such a pair would be of one person and
    of different people at once.

    Args:
        scores: [N, N] likeness of photo (row) and stylised photo (column).
        same: bool [N, N], pairs of one person (`person_pairs`).
        different: bool [N, N], pairs of two people.
        draws: int [R, N], how often each picture counts, the same for all of a person's (`bootstrap.draw`).

    Returns:
        NaN for a resample without a pair of either kind.
    """
    rows, columns = np.nonzero(different)
    order = np.argsort(scores[rows, columns])
    rows, columns = rows[order], columns[order]
    rising = scores[rows, columns]
    mine, other = np.nonzero(same)
    below, upto = (np.searchsorted(rising, scores[mine, other], side) for side in ("left", "right"))
    found = []
    for times in np.array_split(draws.astype(np.float64), max(1, len(draws) // 50)):  # [r, N]
        weight = (times[:, rows] * times[:, columns]).cumsum(axis=1)
        weight = np.concatenate([np.zeros((len(times), 1)), weight], axis=1)  # [r, pairs of different people + 1]
        won = (times[:, mine] * (weight[:, below] + weight[:, upto])).sum(1) / 2  # ties count half
        total = times[:, mine].sum(1) * weight[:, -1]
        found.append(np.where(total > 0, won / np.where(total > 0, total, 1), np.nan))
    return np.concatenate(found)
