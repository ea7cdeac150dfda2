"""True edits: a person with one attribute changed and nothing else, in the same place and light, framed anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stages.datasets.rendered.pack import load_pack
from stages.datasets.rendered.person import (
    HAIR_COLOURS,
    SEX_SHAPES,
    Beard,
    Hair,
    Person,
    View,
    attributes,
    beard_of,
    creases,
    skin_picture,
)

EDITED = ("age", "sex", "smile", "yaw", "glasses")
"""Attributes that can be edited, as the records call them."""
REFRAMED = ("age", "sex", "yaw")
"""Attributes that move a face off its place: the camera finds it anew, so that edits lie as photos do. Whatever knows
photos only (generator, encoder, a classifier of attributes) misreads a turned head that its neck took aside."""
RANGES = {"age": (18.0, 80.0), "smile": (0.0, 0.95), "yaw": (-38.0, 38.0)}
LEAST = {"age": 9.0, "smile": 0.2, "yaw": 8.0}  # that an edit changes, in the attribute's own unit
GLASSES = "plain"  # the same ones on everybody: which of several they will be, no editor could know
TEETH = 0.5  # smile from which the upper lip bares teeth
GREYS = ("grey", "white")
WHITENS = 62.0  # age in years from which edited hair is white
SAGS = 42.0  # age in years from which skin sags
GROWN = 17.0  # age in years up to which a face has no sex of its own to change


def draw_edit(person: Person, view: View, rng: np.random.Generator) -> tuple[str, float | str]:
    """An attribute and what it is to become: another kind, or a number that differs enough to be seen.

    Children and headscarves keep their sex.
    """
    keeps = person.age <= GROWN or person.hat == "headscarf"
    name = str(rng.choice([name for name in EDITED if name != "sex" or not keeps]))
    if name == "sex":
        return name, "male" if person.sex == "female" else "female"
    if name == "glasses":
        return name, GLASSES if person.glasses == "none" else "none"
    now = float(attributes(person, view)[name])
    while abs((wanted := float(rng.uniform(*RANGES[name]))) - now) < LEAST[name]:
        pass
    return name, round(wanted, 4)


def edited(person: Person, view: View, name: str, value: float | str) -> tuple[Person, View]:
    """A person and a view with one attribute changed.

    Args:
        person: who; everything that has no part in the change stays.
        view: how they are seen.
        name: one of `EDITED`.
        value: what the records are to say of it: years, degrees, `smile` from 0 to 1, a sex, a kind of glasses.
    """
    if name == "glasses":
        return replace(person, glasses=str(value)), view
    if name == "sex":
        return _other_sex(person, str(value)), view
    if name == "age":
        return _aged(person, float(value)), view
    return person, (_smiling if name == "smile" else _turned)(view, float(value))


def _turned(view: View, yaw: float) -> View:
    """The head turned; the body stays."""
    body = view.yaw * view.lean
    return replace(view, yaw=yaw, lean=body / yaw if abs(yaw) > 1 else 0.0)


def _smiling(view: View, smile: float) -> View:
    """The corners of the mouth drawn up as far as asked for, cheeks and lip with them; a frown goes as it comes."""
    units = dict(view.units)
    now = (units.get("mouthSmileLeft", 0.0) + units.get("mouthSmileRight", 0.0)) / 2
    for side in ("Left", "Right"):
        own = units.get(f"mouthSmile{side}", 0.0)
        units[f"mouthSmile{side}"] = min(own * smile / now if now > 0.02 else smile, 1.0)
        units[f"cheekSquint{side}"] = 0.55 * smile
        units[f"mouthDimple{side}"] = 0.2 * smile
        units[f"mouthFrown{side}"] = units.get(f"mouthFrown{side}", 0.0) * (1 - smile)
        units[f"mouthUpperUp{side}"] = max(smile - TEETH, 0.0)
    return replace(view, units={shape: weight for shape, weight in units.items() if weight > 1e-3})


def _aged(person: Person, age: float) -> Person:
    """Creases, sagging, hair and the picture of the skin follow the age; how much, is the person's own."""
    rng, shape = person.rng, dict(person.shape)
    before, after = creases(person.age), creases(age)
    own = np.where(before > 0.05, np.array(person.wrinkles) / np.maximum(before, 0.05), rng.uniform(0.7, 1.3, 4))
    a, b, c, d = (float(depth) for depth in np.clip(after * own, 0, 1))

    shape.pop("head/head-age-incr", None)
    if age > SAGS:
        shape["head/head-age-incr"] = float(np.clip((age - SAGS) / 40, 0, 1) * rng.uniform(0.35, 0.85))
    skin = skin_picture(rng, load_pack(), person.sex, age, person.tone)
    hair = _aged_hair(person, age, rng)
    return replace(person, age=age, wrinkles=(a, b, c, d), shape=shape, skin=skin, hair=hair)


def _aged_hair(person: Person, age: float, rng: np.random.Generator) -> Hair:
    hair = person.hair
    name, colour = hair.colour_name, hair.colour
    if age > WHITENS and name not in GREYS:
        name = str(rng.choice(GREYS))
        colour = HAIR_COLOURS[name]
    elif age < SAGS and name in GREYS:
        name = "dark brown" if person.tone > 0.42 else "brown"
        colour = HAIR_COLOURS[name]
    before, after = ((np.clip((years - 30) / 40, 0, 1)) for years in (person.age, age))
    own = hair.receding / before if before > 0.05 else rng.uniform(0, 1)
    share = float(after * own) if person.sex == "male" else hair.receding
    grey = float(rng.uniform(0.2, 0.6)) if SAGS < age <= WHITENS and name not in GREYS else 0.0
    return replace(hair, colour=colour, colour_name=name, receding=share, grey=grey)


def _other_sex(person: Person, sex: str) -> Person:
    """Bones, brows, lashes, make-up and beard of the other sex; haircut, clothes and jewellery stay."""
    rng, shape, male = person.rng, dict(person.shape), sex == "male"
    for name, weight in SEX_SHAPES[person.sex].items():
        shape[name] = max(shape.get(name, 0.0) - weight, 0.0)
    for name, weight in SEX_SHAPES[sex].items():
        shape[name] = shape.get(name, 0.0) + weight
    thick, height, arch = person.brow

    return replace(
        person,
        sex=sex,
        masculine=0.98 if male else 0.02,
        muscle=person.muscle + (0.15 if male else -0.15),
        shape={name: weight for name, weight in shape.items() if weight > 1e-3},
        skin=skin_picture(rng, load_pack(), sex, person.age, person.tone),
        brow=(min(max(thick + (0.4 if male else -0.4), 0.5), 1.7), height, arch + (-0.3 if male else 0.3)),
        beard=beard_of(rng, sex, person.age) if male else Beard(0.0, 0.0, False, False, False),
        lashes=0.4 if male else 1.05,
        make_up=(0.0, 0.0, 0.0) if male else (float(rng.uniform(0.3, 0.9)), 0.4, 0.4),
    )
