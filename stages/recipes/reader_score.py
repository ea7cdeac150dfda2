"""What a face reader scores on held-out people with truth, and pictures with its readings drawn in."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.images import grid
from stages.metrics.geometry import expression_difference, landmark_error
from stages.metrics.identity import same_person_auc
from stages.metrics.pixel import head_iou
from stages.networks.face_labels import READER_LABELS
from stages.networks.face_reader import FaceReading, Reader
from stages.recipes.people import DOMAINS, VIEWS, ReaderPictures

COLOURS = np.array([
    (0, 0, 0), (255, 205, 160), (120, 60, 20), (60, 120, 255), (255, 150, 90), (220, 30, 60), (110, 60, 160),
    (255, 120, 200), (190, 150, 110), (60, 160, 90), (30, 230, 230), (230, 200, 40), (150, 100, 60),
], np.uint8)  # fmt: skip


def label_iou(labels: Tensor, truth: Tensor) -> Tensor:
    """IoU of each label over a whole set: int64 [N, H, W] twice -> [13]; NaN for a label that occurs in neither."""
    count = len(READER_LABELS)
    pairs = torch.bincount((truth * count + labels).flatten(), minlength=count**2)
    table = pairs.view(count, count).double()
    return table.diagonal() / (table.sum(0) + table.sum(1) - table.diagonal())


def blurred(images: Tensor, side: int = 24) -> Tensor:
    """Pictures reduced to `side` pixels and back: what a half-trained generator shows."""
    small = F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)


def score(reader: Reader, people: ReaderPictures) -> dict[str, object]:
    """Scores per domain (`photo`, the styles, and `photo, blurred`) and of identity across views and domains.

    parsing_miou: mean over all labels; head_iou; landmark_nme: over the distance of the outer eye corners;
    yaw and pitch: mean absolute error in degrees; expression: mean absolute error; *_auc: same-person area under the
    curve of pictures of different views, photo against photo and photo against each style.
    """
    everything = people.batch(np.arange(len(people) * VIEWS))
    reading = reader.read(everything["image"])
    scores: dict[str, object] = {}
    for number, name in enumerate(DOMAINS):
        chosen = everything["domain"] == number
        if chosen.any():
            scores[name] = _domain_scores(reading, everything, people.head_mask(np.arange(len(chosen))), chosen)

    photos = everything["domain"] == 0
    soft = reader.read(blurred(everything["image"][photos]))
    truth = {key: value[photos] for key, value in everything.items()}
    mask = people.head_mask(np.flatnonzero(photos.numpy()))
    scores["photo, blurred"] = _domain_scores(soft, truth, mask, torch.ones(len(mask), dtype=torch.bool))

    by_person = reading.identity.view(len(people), VIEWS, -1)
    ids = torch.arange(len(people))
    domain = everything["domain"].view(len(people), VIEWS)[0]
    scores["identity photo-photo auc"] = round(same_person_auc(by_person[:, 0], by_person[:, 1], ids, ids), 4)
    for number, name in enumerate(DOMAINS[1:], start=1):
        columns = torch.where(domain == number)[0]
        if len(columns):
            auc = same_person_auc(by_person[:, 0], by_person[:, int(columns[0])], ids, ids)
            scores[f"identity photo-{name} auc"] = round(auc, 4)
    return scores


def _domain_scores(reading: FaceReading, truth: dict[str, Tensor], mask: Tensor, chosen: Tensor) -> dict[str, float]:
    iou = label_iou(reading.parsing[chosen].argmax(1), truth["labels"][chosen])
    values = {
        "pictures": float(chosen.sum()),
        "parsing_miou": float(torch.nanmean(iou)),
        "head_iou": float(head_iou(reading.mask[chosen], mask[chosen]).mean()),
        "landmark_nme": float(landmark_error(reading.landmarks[chosen], truth["landmarks"][chosen]).mean()),
        "yaw": float((reading.pose[chosen] - truth["pose"][chosen])[:, 0].abs().mean()),
        "pitch": float((reading.pose[chosen] - truth["pose"][chosen])[:, 1].abs().mean()),
        "expression": float(expression_difference(reading.expression[chosen], truth["expression"][chosen]).mean()),
    }
    return {name: round(value, 4) for name, value in values.items()}


def overlay(images: np.ndarray, reading: FaceReading, columns: int = 8, side: int = 192) -> np.ndarray:
    """Contact sheet: each picture with landmarks and the head's outline, and its parsing in colours below.

    Args:
        images: uint8 [N, H, W, 3].
        reading: the reader's answer for them.
        columns: pictures a row.
        side: of a picture on the sheet, px.

    Returns:
        uint8 [H', W', 3]
    """
    cells = []
    labels = reading.parsing.argmax(1).numpy()
    for index, image in enumerate(images):
        large = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
        mask = cv2.resize(reading.mask[index, 0].numpy(), (side, side), interpolation=cv2.INTER_LINEAR)
        outline, _ = cv2.findContours((mask > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        drawn = cv2.drawContours(np.ascontiguousarray(large), outline, -1, (0, 255, 0), 1, cv2.LINE_AA)
        for x, y in reading.landmarks[index].numpy() * side:
            cv2.circle(drawn, (round(float(x)), round(float(y))), 1, (255, 40, 40), -1, cv2.LINE_AA)
        parsed = cv2.resize(COLOURS[labels[index]], (side, side), interpolation=cv2.INTER_NEAREST)
        cells.append(np.concatenate([drawn, cv2.addWeighted(parsed, 0.75, large, 0.25, 0)], axis=0))
    return grid(cells, columns)
