"""Kinds of portraits: turned heads, light, what is worn, skin tones. A group may be empty.

A kind comes from the data's own labels where they speak of it (`Portraits.said`), else from a measure:

| kind | measure |
|---|---|
| turned | yaw by the five points, degrees |
| side light | luminance of one cheek over the other's, in stops |
| dark | brightest tenth of the head's luminance, of full white |
| glasses, hat | share of the picture with that label, by the face parser |
| beard | the same by the face reader, as the parser's labels have none |
| covered | share of the face between brows and chin that is not face, by the parser |
| skin | typology angle in even light |

Hard light, hands and face masks have no measure: they count where the data label them.
"""

from __future__ import annotations

import numpy as np

from stages.core.tensors import to_tensor
from stages.datasets.folders.photo_quality import occlusion
from stages.evaluate.groups import TONES, luminance, side_light, tone_of, typology_angle
from stages.evaluate.portraits import Portraits
from stages.faces.detect import yaw_of
from stages.networks.face_labels import PARSER, PARSER_LABELS, READER
from stages.networks.face_reader import Reader

FRONTAL = "frontal, clear"  # the reference: turned less than 15 degrees, nothing before the face, even light
TURNS = {"turned 0-15": (0, 15), "turned 15-30": (15, 30), "turned 30-60": (30, 60)}
STOPS = 1.0  # of luminance from cheek to cheek: side light
DIM = 0.15  # luminance of the brightest tenth of a head below which it is dark
SHARES = {"glasses": 0.007, "hat": 0.03, "beard": 0.015}  # of the picture, from which something is worn
COVERED = 0.2  # share of the face that something covers
LABELLED_ONLY = ("hard light", "hand", "mask")
BATCH = 32


def kinds(portraits: Portraits, reader: Reader) -> dict[str, np.ndarray]:
    """Group -> bool [N], any of which may be empty; the first is the reference."""
    yaw = np.abs([yaw_of(points) for points in portraits.points])
    light, worn = _light(portraits), _worn(portraits, reader)
    uneven, before = np.any([*light.values()], axis=0), np.any([*worn.values()], axis=0)

    found = {FRONTAL: (yaw < 15) & ~uneven & ~before}
    found |= {name: (yaw >= low) & (yaw < high) for name, (low, high) in TURNS.items()}
    found |= light | {"uneven light": uneven} | worn
    found["something before the face"] = np.any([of for name, of in worn.items() if name != "beard"], axis=0)

    # The angle takes a face in the shade for a dark one, so tones are named in even light alone.
    tones = [tone_of(angle) for angle in typology_angle(portraits.photo, portraits.skin)]
    found |= {f"skin {tone}": np.array([one == tone for one in tones]) & ~uneven for tone in TONES}
    return found | {"all": np.ones(len(yaw), bool)}


def sources(portraits: Portraits) -> dict[str, str]:
    """Where each kind that the data may label comes from: `labels` or `measured`."""
    names = ("side light", "dark", *SHARES, "covered", *LABELLED_ONLY)
    ways = {name: "labels" if name in portraits.spoken else "measured" for name in names}
    return {name: way for name, way in ways.items() if way == "labels" or name not in LABELLED_ONLY}


def _labelled(portraits: Portraits, name: str) -> np.ndarray | None:
    """Which portraits the data give this kind; None where they do not speak of it."""
    return np.array([name in said for said in portraits.said]) if name in portraits.spoken else None


def _light(portraits: Portraits) -> dict[str, np.ndarray]:
    cheeks = np.nan_to_num(side_light(portraits.photo, portraits.points, portraits.skin))
    measured = {"side light": np.abs(cheeks) >= STOPS, "dark": _brightest(portraits) < DIM}
    found = {}
    for name in ("side light", "hard light", "dark"):
        said = _labelled(portraits, name)
        if said is not None or name in measured:
            found[name] = measured[name] if said is None else said
    return found


def _brightest(portraits: Portraits) -> np.ndarray:
    """Luminance [N] that the brightest tenth of each head exceeds; 1 where no head is seen."""
    found = np.ones(len(portraits.photo))
    for index, (image, head) in enumerate(zip(portraits.photo, portraits.head, strict=True)):
        if (head > 127).any():
            found[index] = np.quantile(luminance(image[head > 127]), 0.9)
    return found


def _worn(portraits: Portraits, reader: Reader) -> dict[str, np.ndarray]:
    """What is worn on the face or held before it."""
    found = {}
    for name in ("glasses", "beard", "hat", "hand", "mask", "covered"):
        said = _labelled(portraits, name)
        if said is not None:
            found[name] = said
        elif name in ("glasses", "hat"):
            found[name] = (portraits.labels == PARSER[name]).mean((1, 2)) >= SHARES[name]
        elif name == "beard":
            found[name] = _beards(portraits.photo, reader) >= SHARES[name]
        elif name == "covered" and not {"hand", "mask"} & portraits.spoken:
            found[name] = _covered(portraits) >= COVERED
    return found


def _beards(photo: np.ndarray, reader: Reader) -> np.ndarray:
    """Share of each picture [N] that the face reader takes for beard."""
    parts = [
        reader.read(to_tensor(photo[start : start + BATCH])).parsing.softmax(1)[:, READER["beard"]].mean((1, 2))
        for start in range(0, len(photo), BATCH)
    ]
    return np.concatenate([part.double().cpu().numpy() for part in parts])


def _covered(portraits: Portraits) -> np.ndarray:
    """Share of each face [N] between brows and chin that the parser takes for something else."""
    size, found = portraits.photo.shape[1], []
    for labels, points in zip(portraits.labels, portraits.points, strict=True):
        shares = np.stack([labels == label for label in range(len(PARSER_LABELS))]).astype(np.float32)
        found.append(occlusion(shares, (points + 0.5) / size))
    return np.array(found)
