"""What is read off a face: the one definition behind a style set's distribution, the edits and the richness measures.

| name | unit |
|---|---|
| yaw, pitch | degrees |
| smile | -1 to 1 |
| mouth_open, eye_open | 0 to 1 |
| glasses, beard, hat, hair_area | share of the picture |
| hair_lightness, skin_lightness | mean CIE L*, 0 to 100; NaN where the region covers less than `SEEN` of the picture |

The first five are heads of the face reader. Areas and lightness are means under its parsing's probabilities, so that an
unsure pixel counts in part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.settings import ConfigError, choice
from stages.core.tensors import lab, unit
from stages.networks.face_labels import READER
from stages.networks.face_reader import FaceReading

POSE = ("yaw", "pitch")
EXPRESSION = ("smile", "mouth_open", "eye_open")
AREAS = {"glasses": "glasses", "beard": "beard", "hat": "hat", "hair_area": "hair"}  # attribute -> reader's label
LIGHTNESS = {"hair_lightness": "hair", "skin_lightness": "skin"}  # attribute -> reader's label
NAMES = (*POSE, *EXPRESSION, *AREAS, *LIGHTNESS)
SEEN = 0.01  # share of the picture from which hair or skin has a lightness

# Edges between bins. They are fixed, so that two runs compare.
EDGES = {
    "yaw": (-18.0, -6.0, 6.0, 18.0),
    "pitch": (-6.0, 6.0),
    "smile": (-0.15, 0.35),
    "mouth_open": (0.3,),
    "glasses": (0.007,),
    "hat": (0.03,),
    "beard": (0.015,),
    "hair_area": (0.1, 0.2),
    "hair_lightness": (25.0, 45.0, 65.0),
    "skin_lightness": (45.0, 60.0, 75.0),
}


def check_name(key: str, name: str, options: Collection[str], renamed: Mapping[str, str]) -> None:
    """Refuse a name that is not an attribute; an old name is answered with the new one.

    Args:
        key: of the setting, for the message.
        name: what the setting says.
        options: the names allowed there.
        renamed: old name -> new name.

    Raises:
        ConfigError: names the new name, or the options.
    """
    if name in renamed and name not in options:
        raise ConfigError(key, f"{name!r} is an old name", f"Write {renamed[name]}")
    choice(key, name, options)


def areas(parsing: Tensor) -> Tensor:
    """Share of the picture that each label covers.

    Args:
        parsing: [N, 13, h, w] logits of the face reader.

    Returns:
        [N, 13] in [0, 1], each row with sum 1.
    """
    return parsing.softmax(1).mean(dim=(2, 3))


def attributes(reading: FaceReading, images: Tensor, names: Iterable[str] = NAMES) -> dict[str, Tensor]:
    """Attributes of N pictures.

    Args:
        reading: what the face reader says of them.
        images: [N, 3, H, W] in [-1, 1], the pictures themselves, on the reading's device. Only lightness needs them.
        names: which attributes, of `NAMES`.

    Returns:
        name -> [N] in the unit of the table above, in the order of `names`.

    Raises:
        KeyError: an unknown name.
    """
    names = list(names)
    columns = dict(zip((*POSE, *EXPRESSION), (*reading.pose.unbind(1), *reading.expression.unbind(1)), strict=True))

    # The parsing is large: it is looked at only where an attribute needs it.
    if any(name in AREAS for name in names):
        covered = areas(reading.parsing)
        columns |= {name: covered[:, READER[label]] for name, label in AREAS.items()}
    if any(name in LIGHTNESS for name in names):
        columns |= _lightness(reading.parsing, images)
    return {name: columns[name] for name in names}


def _lightness(parsing: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Mean L* [N] under each label of `LIGHTNESS`; NaN where the label covers less than `SEEN` of the picture."""
    share, size = parsing.softmax(1), parsing.shape[-2:]
    small = images if images.shape[-2:] == size else F.interpolate(images, size, mode="area")
    light = lab(unit(small))[:, 0]
    found = {}
    for name, label in LIGHTNESS.items():
        weight = share[:, READER[label]]
        area = weight.mean(dim=(1, 2))
        mean = (weight * light).mean(dim=(1, 2)) / area.clamp(min=SEEN)
        found[name] = torch.where(area >= SEEN, mean, torch.nan)
    return found
