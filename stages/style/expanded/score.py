"""How an editor does on held-out photos, and the sheets that show it.

The classifier that it was trained to please reads its edits here, so these numbers watch a training and judge nothing:
`tests/bench/expanded.py` has judges of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

from stages.core.images import load_images
from stages.core.tensors import to_tensor, to_uint8, unit
from stages.metrics.pixel import background_error, mean_defined, ssim
from stages.networks.expanded import STRONGEST, AttributeClassifier, ExpandedEditor
from stages.style.editing.sheet import Row, layout
from stages.style.expanded.labels import Edits
from stages.style.expanded.likeness import decibels

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # columns of a sheet
BATCH = 16  # photos at a time
GAIN = 3.0  # brightness of what an edit changes, on its sheet


@torch.no_grad()
def edited(editor: ExpandedEditor, photos: Tensor, strengths: Tensor) -> Tensor:
    """Photos [N, 3, R, R] in [-1, 1] edited by strengths [N, K], a few at a time; the same shape, on the CPU."""
    pairs = zip(photos.split(BATCH), strengths.split(BATCH), strict=True)
    return torch.cat([editor(some, by).cpu() for some, by in pairs])


@torch.no_grad()
def against(classifier: AttributeClassifier, photos: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
    """What photos [N, 3, R, R] show [N, K], and the sign [N, K] of an edit that goes against it.

    Kinds are probabilities, numbers standardised.
    """
    seen = torch.cat([classifier.values(classifier(some)) for some in photos.split(batch)])
    side = torch.where(classifier.is_binary, seen - 0.5, seen)
    return seen, torch.where(side > 0, -1.0, 1.0)


@torch.no_grad()
def score_editor(
    editor: ExpandedEditor, classifier: AttributeClassifier, photos: np.ndarray, masks: np.ndarray | None
) -> dict[str, float]:
    """Reconstruction and edits of held-out photos.

    Args:
        editor: on the CPU.
        classifier: of its attributes, on the CPU.
        photos: uint8 [N, R, R, 3].
        masks: [N, 1, R, R] in [0, 1], head coverage; None where there are none.

    Returns:
        editor_psnr, editor_ssim of the reconstruction and encoder_psnr, encoder_ssim of the style branch's;
        moved_<name>: mean change of the edited attribute at a strength of 1 against what the photo shows, in deviations
        of the data; leak: mean absolute change of the others; edit_background_error of these edits; directions_used,
        the share that is not zero.
    """
    images = to_tensor(photos)
    none = torch.zeros(len(images), len(editor.attributes))
    shown = {"editor": edited(editor, images, none)}
    parts = images.split(BATCH)
    shown["encoder"] = torch.cat([editor.edit(x, none[: len(x)], content=0.0).inverted.clamp(-1, 1) for x in parts])
    found = {}
    for name, drawn in shown.items():
        error = (unit(drawn) - unit(images)).square().mean(dim=(1, 2, 3))
        found[f"{name}_psnr"] = float(decibels(error).mean())
        found[f"{name}_ssim"] = float(ssim(unit(drawn), unit(images)).mean())

    # Edits, one attribute after the other, in units of the data's deviation.
    seen, signs = against(classifier, images)
    scale = torch.where(classifier.is_binary, torch.tensor(classifier.deviation), 1.0).float()
    leaks, behind = [], []
    for k, name in enumerate(editor.attributes):
        strengths = none.clone()
        strengths[:, k] = signs[:, k]
        drawn = edited(editor, images, strengths)
        change = (against(classifier, drawn)[0] - seen) / scale
        found[f"moved_{name}"] = float((change[:, k] * signs[:, k]).mean())
        leaks.append(change.abs()[:, [i for i in range(change.shape[1]) if i != k]].mean())
        if masks is not None:
            behind.append(mean_defined(background_error(unit(drawn), unit(images), torch.from_numpy(masks))))

    if len(editor.attributes) > 1:
        found["leak"] = float(torch.stack(leaks).mean())
    if behind:
        found["edit_background_error"] = float(np.mean(behind))
    return found | {"directions_used": float((editor.directions != 0).float().mean())}


def within(edits: Edits, count: int) -> np.ndarray:
    """Which of the first `count` edits an editor can make: no number moves by more than its strongest."""
    return np.flatnonzero(np.abs(edits.strengths[:count]).max(axis=1) <= STRONGEST)


@torch.no_grad()
def score_true_edits(editor: ExpandedEditor, photos: np.ndarray, edits: Edits) -> dict[str, float]:
    """How near the edits of held-out photos come to the true ones.

    Args:
        editor: on the CPU.
        photos: uint8 [N, R, R, 3].
        edits: of these photos first.

    Returns:
        edit_error: L1 to the true edit over the L1 between photo and true edit, means over the photos whose edit is
        within the editor's strengths: 0 is the true edit, 1 no edit at all; edit_error_<name>: of those whose edit
        changes that attribute. Nothing where there are none.
    """
    chosen = within(edits, len(photos))
    if not len(chosen):
        return {}
    strengths = torch.from_numpy(edits.strengths[chosen])
    images, truth = to_tensor(photos[chosen]), to_tensor(load_images([edits.files[i] for i in chosen]))
    drawn = edited(editor, images, strengths)
    made, still = ((unit(x) - unit(truth)).abs().mean(dim=(1, 2, 3)) for x in (drawn, images))
    found = {"edit_error": float(made.sum() / still.sum())}
    for k, name in enumerate(editor.attributes):
        some = strengths[:, k] != 0
        if some.any():
            found[f"edit_error_{name}"] = float(made[some].sum() / still[some].sum())
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Sheets


def edit_sheet(editor: ExpandedEditor, photos: np.ndarray) -> np.ndarray:
    """Photos uint8 [N, R, R, 3] at five strengths of each attribute: uint8 [H, W, 3]."""
    return layout(_rows(editor, photos), [f"{value:+g}" if value else "0" for value in STRENGTHS], "strength")


def change_sheet(editor: ExpandedEditor, photos: np.ndarray) -> np.ndarray:
    """Where the edits of `edit_sheet` change the photos, dark to light: uint8 [H, W, 3]."""
    rows = []
    for row in _rows(editor, photos):
        middle = row.pictures[:, [len(STRENGTHS) // 2]].astype(np.float32)
        changed = np.abs(row.pictures - middle).mean(axis=-1)
        heat = [
            cv2.applyColorMap(_byte(GAIN * one), cv2.COLORMAP_INFERNO)[..., ::-1] for one in np.concatenate(changed)
        ]
        rows.append(Row(row.title, row.note, np.stack(heat).reshape(row.pictures.shape)))
    return layout(rows, [f"{value:+g}" if value else "0" for value in STRENGTHS], "strength")


def mode_sheet(photos: np.ndarray, drawn: Mapping[str, Tensor]) -> np.ndarray:
    """Photos uint8 [N, R, R, 3] over their reconstructions [N, 3, R, R] by each mode: uint8 [H, W, 3]."""
    rows = [Row("photo", "", photos[None])]
    rows += [Row(name, "", to_uint8(images)[None]) for name, images in drawn.items()]
    return layout(rows, [""] * len(photos))


def _byte(values: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return out


def _rows(editor: ExpandedEditor, photos: np.ndarray) -> list[Row]:
    """For each attribute, the photos [N, 5, R, R, 3] at the five strengths."""
    images, rows = to_tensor(photos), []
    for k, name in enumerate(editor.attributes):
        columns = []
        for value in STRENGTHS:
            strengths = torch.zeros(len(images), len(editor.attributes))
            strengths[:, k] = value
            columns.append(to_uint8(edited(editor, images, strengths)))
        rows.append(Row(name, "", np.stack(columns, axis=1)))
    return rows
