"""The tables and sheets of `evaluate people`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from stages.evaluate.kinds import FRONTAL
from stages.evaluate.portraits import Portraits

# measure -> (+1 where more is better, digits)
MEASURES = {
    "identity": (1, 3),
    "background_error": (-1, 4),
    "background_ssim": (1, 3),
    "person_error": (-1, 4),
    "edge_clarity_ratio": (1, 2),
    "edge_slope_ratio": (1, 2),
    "flat_energy_ratio": (-1, 2),
    "checker_ratio": (-1, 2),
    "landmark_error": (-1, 4),
    "face_seen": (1, 3),
    "head_change": (1, 4),  # L1 to the photo within the head: likeness is cheap where little is painted
}
AUC = {"same_person_auc": False, "same_person_auc_other_clip": True}  # measure -> whether one clip's pairs are left out
GROUPED = ("identity", "background_error", "background_ssim", "edge_clarity_ratio", "landmark_error", "head_change")


def spread(found: dict[str, float], digits: int) -> str:
    """A score and its interval, e.g. 0.912 (0.880..0.940)."""
    value, low, high = (f"{found[key]:.{digits}f}" for key in ("value", "low", "high"))
    return "-" if value == "nan" else f"{value} ({low}..{high})"


def table(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *lines])


def report(results: dict[str, Any]) -> str:
    """Markdown: a table of all models, and one of groups for each."""
    models = results["models"]
    head = ["", *models]
    lines = []
    for name, (_, digits) in MEASURES.items():
        lines.append([name, *(spread(model["measures"][name], digits) for model in models.values())])
    for name in AUC:
        found = [model["measures"][name] for model in models.values()]
        ceiling = spread(found[0]["ceiling"], 3)
        lines.append([f"{name} (ceiling {ceiling}, {found[0]['pairs']} pairs)", *(spread(one, 3) for one in found)])

    for key in next(iter(models.values()))["kid"]:
        found = [model["kid"][key] for model in models.values()]
        own = f"{key} (photos {found[0]['photo_kid']:.3f}, {found[0]['style_images']} style pictures)"
        lines.append([f"KID {own}", *(spread(one["kid"], 3) for one in found)])
        lines.append([f"KID over photos', {key}", *(spread(one["ratio"], 2) for one in found)])

    text = f"# {results['pictures']} portraits of {results['people']} held-out people at {results['size']} px\n\n"
    text += f"{results['command']}\n\nHeads by {results['parser']}, identity by {results['recogniser']}, "
    text += f"landmarks by {results['landmarks']}.\n\n"
    text += table(head, lines)
    for label, model in models.items():
        text += f"\n\n## {label} by kind (ratio to '{FRONTAL}' in brackets)\n\n"
        text += table(["kind", "pictures", "people", *GROUPED, "same_person_auc (pairs)"], _kind_lines(model["groups"]))
    return text + "\n"


def _kind_lines(groups: dict[str, Any]) -> list[list[str]]:
    lines = []
    for group, scores in groups.items():
        first, auc = scores["identity"], scores["same_person_auc"]
        cells = [group, str(first["pictures"]), str(first["people"])]
        for name in GROUPED:
            value, ratio = scores[name]["score"]["value"], scores[name]["ratio"]
            shown = f"{value:.{MEASURES[name][1]}f}"
            if name != "background_error":  # it is near 0, where a ratio says nothing; SSIM's does
                shown += f" ({ratio['value']:.2f}: {ratio['low']:.2f}..{ratio['high']:.2f})"
            cells.append(shown)
        lines.append([*cells, f"{spread(auc, 3)} ({auc['pairs']})"])
    return lines


def sheet(rows: list[np.ndarray], side: int = 128) -> np.ndarray:
    """Rows of equally many pictures, one below the other, nearest-neighbour to `side` px or more."""
    shown = [[_enlarged(picture, side) for picture in row] for row in rows]
    return np.vstack([np.hstack(row) for row in shown])


def _enlarged(picture: np.ndarray, side: int) -> np.ndarray:
    times = max(1, round(side / picture.shape[0]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def typical(groups: dict[str, np.ndarray], count: int = 16) -> list[int]:
    """Which pictures the sheet shows: drawn by seed, a few of each kind that has members; never none."""
    rng, chosen = np.random.default_rng(0), list[int]()
    wanted = [FRONTAL, "turned 30-60", "glasses", "beard", "uneven light", "hat", "skin dark", "skin brown"]
    for name in wanted:
        members = [int(i) for i in rng.permutation(np.flatnonzero(groups[name])) if i not in chosen]
        chosen += members[: count // len(wanted)]

    # A data set without some kinds shows more of the others.
    rest = [int(i) for i in rng.permutation(np.flatnonzero(groups["all"])) if i not in chosen]
    return chosen + rest[: max(0, count - len(chosen))]


SHOWN = ("turned 30-60", "side light", "hard light", "dark", "glasses", "beard", "hat", "hand", "covered", "skin dark")


def failures(people: Portraits, output: np.ndarray, identity: np.ndarray, groups: dict[str, np.ndarray]) -> np.ndarray:
    """A row of photos above one of outputs for each kind with members, the eight of the worst likeness; then of all."""
    blank, rows = np.full_like(output[0], 255), list[np.ndarray]()
    for name in (*SHOWN, "all"):
        members = [int(i) for i in np.argsort(identity) if name in groups and groups[name][i]][:8]
        if not members:
            continue
        for images in (people.photo, output):
            rows.append(np.stack([images[i] for i in members] + [blank] * (8 - len(members))))
        cv2.putText(rows[-2][0], name, (2, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (255, 255, 0), 1, cv2.LINE_AA)
    return sheet(rows)
