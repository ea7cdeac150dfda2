"""The truth of attributes: what a data artifact's records say of its photos, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.artifact import Artifact
from stages.core.settings import ConfigError, TristyleError

OTHER_NAMES = {"gender": "sex"}  # name of an attribute -> what the records call it
ABSENT = ("none", "female")  # the word of a record that counts as 0; every other word counts as 1
SIDED = ("yaw", "roll", "gaze_x")  # change their sign in a mirrored photo
FEWEST = 8  # photos of each kind that a classifier can learn from


@dataclass(frozen=True)
class Labels:
    """Attributes of N photos.

    Attributes:
        names: of the K attributes.
        binary: of each, whether it is of two kinds, 0 and 1.
        raw: float64 [N, K]: kinds as 0 and 1, numbers in their own unit.
        mean, deviation: float64 [K], of the training photos.
    """

    names: tuple[str, ...]
    binary: tuple[bool, ...]
    raw: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """float32 [N, K]: kinds as 0 and 1, numbers in deviations from the mean."""
        scaled = (self.raw - self.mean) / self.deviation
        return np.where(self.binary, self.raw, scaled).astype(np.float32)

    @property
    def signs(self) -> np.ndarray:
        """float32 [K]: what a mirrored photo multiplies its standardised numbers by."""
        return np.array([-1.0 if name in SIDED else 1.0 for name in self.names], np.float32)


def known(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the attributes that all records label and that can be edited: numbers, and words of two kinds."""
    kinds = {name: _kind([row["attributes"][OTHER_NAMES.get(name, name)] for row in rows]) for name in _labelled(rows)}
    return [name for name, kind in kinds.items() if kind is not None]


def _labelled(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the attributes that all records label."""
    facts = [row.get("attributes") or {} for row in rows]
    shown = {own: name for name, own in OTHER_NAMES.items()}
    return [shown.get(name, name) for name in (facts[0] if facts else {}) if all(name in fact for fact in facts)]


def _kind(values: Sequence[Any]) -> bool | None:
    """True: words of two kinds, one of which is absence; False: numbers; None: neither."""
    if all(isinstance(value, (int, float)) for value in values):
        return False
    words = {str(value) for value in values}
    return True if words & set(ABSENT) else None


def read_labels(data: Artifact, names: Sequence[str], split: str = "train", like: Labels | None = None) -> Labels:
    """Attributes of a split's photos, in the order of their ids.

    Args:
        data: the data artifact.
        names: which attributes.
        split: ``train`` or ``heldout``.
        like: labels of the training photos, whose kinds, mean and deviation count; None: these are they.

    Raises:
        TristyleError: an attribute that the data do not label, or that all photos share.
    """
    rows = photo_rows(data, split)
    there = known(rows) if like is None else _labelled(rows)  # few held-out people may all be of one kind
    missing = [name for name in names if name not in there]
    if missing:
        options = f"Choose of: {', '.join(there)}" if there else "Use data=rendered, which labels its people"
        raise TristyleError(f"style.attributes: {data.path} does not label {missing[0]}. {options}.")

    # Words become 0 and 1; numbers stay.
    columns, binary = [], []
    for k, name in enumerate(names):
        facts = [row["attributes"][OTHER_NAMES.get(name, name)] for row in rows]
        binary.append(bool(_kind(facts)) if like is None else like.binary[k])
        columns.append([float(str(fact) not in ABSENT) if binary[-1] else float(fact) for fact in facts])
    raw = np.array(columns, np.float64).reshape(len(names), -1).T
    if like is not None:
        return Labels(tuple(names), like.binary, raw, like.mean, like.deviation)

    mean, deviation = raw.mean(axis=0), raw.std(axis=0)
    for name, kind, column in zip(names, binary, raw.T, strict=True):
        few = min(column.sum(), len(column) - column.sum()) < FEWEST if kind else column.std() < 1e-6
        if few:
            problem = f"fewer than {FEWEST} photos differ in {name}"
            raise TristyleError(f"style.attributes: {problem}. Use more photos, or leave it out.")
    return Labels(tuple(names), tuple(binary), raw, mean, deviation)


@dataclass(frozen=True)
class Edits:
    """True edits of N photos: the same picture with one attribute changed.

    Attributes:
        files: of the edited photos.
        strengths: float32 [N, K], 1 for a step; all 0 where an attribute changes that an editor does not know.
        signs: float32 [K]: what a mirrored photo multiplies its strengths by.
    """

    files: list[Path]
    strengths: np.ndarray
    signs: np.ndarray


def read_edits(
    data: Artifact, names: Sequence[str], step: float, split: str = "train", like: Labels | None = None
) -> Edits | None:
    """The true edits of a split's photos, in the order of their ids; None where the data have none.

    Args:
        data: the data artifact.
        names: which attributes.
        step: deviations of a number that a strength of 1 moves; a kind goes all the way.
        split: ``train`` or ``heldout``.
        like: see `read_labels`.

    Raises:
        TristyleError: only some photos have an edit; or see `read_labels`.
    """
    rows = photo_rows(data, split)
    edits: list[dict[str, Any]] = [row["edit"] for row in rows if row.get("edit")]
    if not edits:
        return None
    if len(edits) < len(rows):
        problem = "only some photos have a true edit"
        raise TristyleError(f"{data.path}: {problem}. Make the data again with data.edits=true.")
    labels = read_labels(data, names, split, like)

    columns = {OTHER_NAMES.get(name, name): k for k, name in enumerate(labels.names)}
    strengths = np.zeros((len(rows), len(labels.names)), np.float32)
    for i, edit in enumerate(edits):
        k = columns.get(edit["attribute"])
        if k is None:
            continue
        if labels.binary[k]:
            strengths[i, k] = float(str(edit["value"]) not in ABSENT) - labels.raw[i, k]
        else:
            strengths[i, k] = (float(edit["value"]) - labels.raw[i, k]) / labels.deviation[k] / step
    return Edits([data.path / edit["photo"] for edit in edits], strengths, labels.signs)


def photo_rows(data: Artifact, split: str) -> list[dict[str, Any]]:
    """The records of a split's photos, by id."""
    return sorted((row for row in data.records() if row["split"] == split), key=lambda row: str(row["id"]))


def check_names(key: str, names: Any) -> None:
    """Refuse what is not a list of different names. Raises ConfigError."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(key, f"{names!r} is not a list of attributes", "Name some, e.g. [age, smile]")
    if len(set(names)) != len(names):
        raise ConfigError(key, f"{names!r} names one twice", "Name each attribute once")
