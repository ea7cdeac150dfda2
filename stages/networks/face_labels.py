"""The labels of the two face-parsing networks: names, numbers and groups, once for the whole package.

The face reader (`stages.networks.face_reader`) knows 13 labels, the face parser (`stages.networks.parser`) the 19 of
CelebAMask-HQ (Lee et al., 2020, arXiv 1907.11922) in its order. A label's number is its place in the tuple of names.
Left and right are the person's: `l_eye` is on the right of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

READER_LABELS = (
    "background", "skin", "brow", "eye", "nose", "mouth", "hair", "ear", "neck", "cloth", "glasses", "hat", "beard",
)  # fmt: skip
PARSER_LABELS = (
    "background", "skin", "nose", "glasses", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "earring", "necklace", "neck", "cloth",
)  # fmt: skip


def numbers(labels: Sequence[str], *names: str) -> tuple[int, ...]:
    """Numbers of some labels.

    Args:
        labels: `READER_LABELS` or `PARSER_LABELS`.
        names: labels among them.

    Returns:
        their places, in the order of `names`.

    Raises:
        ValueError: a name that is not among `labels`.
    """
    return tuple(labels.index(name) for name in names)


# ---------------------------------------------------------------------------------------------------------------------
# Groups of the face reader's labels

READER = {name: number for number, name in enumerate(READER_LABELS)}  # name -> number
READER_HEAD = tuple(n for name, n in READER.items() if name not in ("background", "neck", "cloth"))
READER_SKIN = numbers(READER_LABELS, "skin", "nose", "ear", "neck")  # bare skin, whichever part it is of
READER_EYES = numbers(READER_LABELS, "eye", "glasses")  # dark glasses hide eyes

# ---------------------------------------------------------------------------------------------------------------------
# Groups of the face parser's labels

PARSER = {name: number for number, name in enumerate(PARSER_LABELS)}  # name -> number
PARSER_HEAD = range(PARSER["skin"], PARSER["earring"] + 1)  # everything but background, necklace, neck and cloth
PARSER_SKIN = numbers(PARSER_LABELS, "skin", "nose")
PARSER_FACE = numbers(PARSER_LABELS, "skin", "nose", "glasses", "hair", "hat")  # within the face's oval, brows aside
PARSER_MOUTH = numbers(PARSER_LABELS, "mouth", "u_lip", "l_lip")
PARSER_SIDED = numbers(PARSER_LABELS, "l_eye", "l_brow", "l_ear")  # the right one's number is one more

_OTHER_SIDE = {"l_": "r_", "r_": "l_"}
_UNSIDED = ("u_lip", "l_lip")  # upper and lower
_MIRRORED = {
    name: name if name in _UNSIDED else _OTHER_SIDE.get(name[:2], name[:2]) + name[2:] for name in PARSER_LABELS
}
PARSER_MIRROR = numbers(PARSER_LABELS, *_MIRRORED.values())  # labels of a mirrored picture

# ---------------------------------------------------------------------------------------------------------------------
# From other label sets to the face parser's

# What the face reader calls 0..12. Brows, eyes and ears take their side from where they lie (`PARSER_SIDED`), lips are
# mouth, a beard is skin (so are beards in CelebAMask-HQ's pictures).
READER_TO_PARSER = numbers(
    PARSER_LABELS,
    "background", "skin", "l_brow", "l_eye", "nose", "mouth", "hair", "l_ear", "neck", "cloth",
    "glasses", "hat", "skin",
)  # fmt: skip
# And back: what a face parser's label is to the face reader. Lips are mouth, jewellery goes with what it hangs on.
PARSER_TO_READER = numbers(
    READER_LABELS,
    "background", "skin", "nose", "glasses", "eye", "eye", "brow", "brow", "ear", "ear",
    "mouth", "mouth", "mouth", "hair", "hat", "ear", "neck", "neck", "cloth",
)  # fmt: skip
# What facexlib's (zllrunning's) BiSeNet calls 0..18.
BISENET_TO_PARSER = numbers(
    PARSER_LABELS,
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "glasses", "l_ear", "r_ear", "earring",
    "nose", "mouth", "u_lip", "l_lip", "neck", "necklace", "cloth", "hair", "hat",
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Landmarks


def _mirror_order() -> list[int]:
    """Where each of the 68 landmarks of a mirrored face comes from (iBUG 300-W order: left eye becomes right eye)."""
    pairs = [(k, 16 - k) for k in range(17)] + [(17 + k, 26 - k) for k in range(10)]
    pairs += [(k, k) for k in range(27, 31)] + [(31 + k, 35 - k) for k in range(5)]
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48 + k, 54 - k) for k in range(7)] + [(55 + k, 59 - k) for k in range(5)]
    pairs += [(60 + k, 64 - k) for k in range(5)] + [(65 + k, 67 - k) for k in range(3)]
    order = list(range(68))
    for a, b in pairs:
        order[a], order[b] = b, a
    return order


LANDMARK_MIRROR = _mirror_order()  # of 68 landmarks, iBUG 300-W order
