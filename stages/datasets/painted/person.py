"""Who is painted and how they are seen: every random choice of the painter, drawn from integer seeds.

A `Person` is what stays the same between two pictures of somebody (skin, bones, hair, glasses, clothes); a `View` is
what changes (pose, expression, gaze, light, background). Both are pure functions of their integers, so a picture can
be painted again anywhere, in any domain, at any size.

Units: lengths in half frame widths (the frame spans -1..1, x right, y down, z towards the viewer), angles in degrees,
colours sRGB in [0, 1].
"""

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

SKIN = ((243, 213, 194), (240, 200, 174), (228, 180, 146), (208, 154, 116), (172, 120, 86), (132, 88, 62), (98, 64, 46))
HAIR = {
    "black": (30, 26, 27),
    "dark brown": (58, 38, 30),
    "brown": (98, 62, 40),
    "light brown": (140, 98, 62),
    "blond": (206, 164, 98),
    "platinum": (232, 212, 172),
    "ginger": (176, 80, 36),
    "grey": (146, 144, 144),
    "white": (216, 214, 210),
    "pink": (214, 92, 140),
    "blue": (52, 96, 170),
}
IRIS = ((70, 44, 26), (96, 62, 34), (124, 96, 50), (84, 116, 74), (88, 132, 160), (110, 124, 138), (52, 34, 24))
FRAMES = ((0.08, 0.08, 0.09), (0.28, 0.17, 0.10), (0.55, 0.50, 0.42), (0.45, 0.10, 0.12))  # of glasses
FRAME_SHARES = (0.55, 0.25, 0.12, 0.08)
CLOTH = ((38, 42, 54), (232, 230, 226), (70, 84, 112), (150, 44, 48), (52, 92, 80), (196, 168, 120), (104, 70, 110),
         (60, 120, 168), (214, 140, 60), (120, 126, 132), (30, 30, 32), (178, 96, 116), (92, 108, 56))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person; see `sample_person` for the ranges."""

    person: int
    skin_tone: float  # 0 pale .. 1 deep
    skin: Colour
    feminine: float  # 0..1, correlates hair, beard, lips and jaw
    age: float  # 0 young .. 1 old
    face_width: float  # about 1
    face_length: float
    jaw_width: float
    cheeks: float
    chin: float
    eye_size: float
    eye_gap: float
    eye_tilt: float
    iris: Colour
    brow_weight: float
    brow_arch: float
    nose_length: float
    nose_width: float
    nose_depth: float
    mouth_width: float
    lip: float
    lipstick: float
    lip_hue: float
    ear: float
    freckles: float
    hair_style: str  # bald buzz short parted quiff fringe curly afro bob long wavy bun
    hair_name: str
    hair: Colour
    hair_volume: float
    hairline: float
    parting: float
    hair_length: float
    beard: str  # none stubble moustache goatee full
    glasses: str  # none round square sun
    glasses_colour: Colour
    hat: str  # none beanie cap brim
    hat_colour: Colour
    clothes: str  # tee vneck shirt hoodie
    cloth_colour: Colour
    cloth_trim: Colour
    build: float


@dataclass(frozen=True, kw_only=True)
class View:
    """One look at a person; see `sample_view` for the ranges.

    yaw > 0 turns the nose to the image's right, pitch > 0 lifts it, roll > 0 leans the head clockwise.
    """

    person: int
    view: int
    yaw: float
    pitch: float
    roll: float
    shift: tuple[float, float]
    zoom: float
    smile: float  # -1..1
    mouth_open: float  # 0..1
    eye_open: float  # 0.25..1.15
    brow_raise: float  # -1..1
    gaze: tuple[float, float]
    light: tuple[float, float, float]  # unit vector towards the light
    strength: float
    key: Colour
    ambient: Colour
    background: str  # gradient bokeh room
    background_hue: float
    background_tone: float
    noise: float
    seed: int


def _pick(rng: np.random.Generator, table: dict[str, float]) -> str:
    weights = np.fromiter(table.values(), float)
    return list(table)[int(np.searchsorted(np.cumsum(weights / weights.sum()), rng.random()))]


def _mix(colours: tuple[tuple[int, int, int], ...], t: float) -> np.ndarray:
    at = t * (len(colours) - 1)
    low = min(int(at), len(colours) - 2)
    a, b = (np.array(c, float) / 255 for c in colours[low : low + 2])
    return a + (at - low) * (b - a)


def _colour(values: np.ndarray) -> Colour:
    r, g, b = (float(v) for v in np.clip(values, 0.01, 0.99))
    return r, g, b


def _around(rng: np.random.Generator, mean: float, sd: float, reach: float = 2.2) -> float:
    """A normal draw cut at `reach` standard deviations, so that no face is a monster."""
    return mean + sd * min(max(rng.standard_normal(), -reach), reach)


def _hair_choice(rng: np.random.Generator, feminine: float, age: float, tone: float) -> tuple[str, str, Colour]:
    man = 1 - feminine
    styles = {
        "bald": 0.10 * man * (0.4 + age),
        "buzz": 0.13 * man + 0.01,
        "short": 0.24 * man + 0.05,
        "parted": 0.24 * man + 0.05,
        "quiff": 0.15 * man + 0.01,
        "fringe": 0.12,
        "curly": 0.10,
        "afro": 0.03 + 0.10 * tone,
        "bob": 0.03 + 0.20 * feminine,
        "long": 0.03 + 0.30 * feminine,
        "wavy": 0.03 + 0.26 * feminine,
        "bun": 0.02 + 0.12 * feminine,
    }
    style = _pick(rng, styles)
    fair = max(0.0, 1 - 1.8 * tone)
    name = _pick(rng, {
        "black": 0.25 + 0.8 * tone, "dark brown": 0.28, "brown": 0.24, "light brown": 0.16 * fair, "blond": 0.20 * fair,
        "platinum": 0.06 * fair, "ginger": 0.10 * fair, "grey": 0.7 * max(0.0, age - 0.55),
        "white": 0.6 * max(0.0, age - 0.65), "pink": 0.015, "blue": 0.015,
    })  # fmt: skip
    shade = np.array(HAIR[name]) / 255 * rng.uniform(0.85, 1.18) + rng.normal(0, 0.012, 3)
    return style, name, _colour(shade)


def sample_person(person: int, seed: int = 0) -> Person:
    """The person with this number. `seed` moves to another world of people altogether."""
    rng = np.random.default_rng([seed, person, 11])
    feminine = float(np.clip(rng.beta(0.45, 0.45), 0.02, 0.98))
    age = float(rng.beta(1.4, 1.8))
    tone = float(rng.beta(0.9, 1.3))
    skin = _mix(SKIN, tone) * rng.uniform(0.96, 1.03) + rng.normal(0, 0.010, 3)
    style, hair_name, hair = _hair_choice(rng, feminine, age, tone)
    man = 1 - feminine
    beard = _pick(rng, {"none": 0.45 + 8 * feminine**2, "stubble": 0.20 * man, "moustache": 0.08 * man,
                        "goatee": 0.10 * man, "full": 0.26 * man})  # fmt: skip
    hat = _pick(rng, {"none": 0.87, "beanie": 0.05, "cap": 0.045, "brim": 0.035})
    glasses = _pick(rng, {"none": 0.78 - 0.12 * age, "round": 0.10, "square": 0.11, "sun": 0.025})
    cloth = np.array(CLOTH[int(rng.integers(len(CLOTH)))]) / 255 + rng.normal(0, 0.03, 3)
    trim = np.array(CLOTH[int(rng.integers(len(CLOTH)))]) / 255

    # Arguments are drawn in this order: another order is another population.
    return Person(
        person=person,
        skin_tone=tone,
        skin=_colour(skin),
        feminine=feminine,
        age=age,
        face_width=_around(rng, 1.0 - 0.02 * feminine, 0.045),
        face_length=_around(rng, 1.0, 0.04),
        jaw_width=_around(rng, 1.08 - 0.16 * feminine, 0.07),
        cheeks=_around(rng, 1.0, 0.5),
        chin=_around(rng, 1.0, 0.12),
        eye_size=_around(rng, 1.0 + 0.07 * feminine - 0.04 * age, 0.07),
        eye_gap=_around(rng, 1.0, 0.045),
        eye_tilt=_around(rng, 0.06, 0.07),
        iris=_colour(np.array(IRIS[int(rng.integers(len(IRIS))) if tone < 0.5 else int(rng.choice([0, 1, 6]))]) / 255),
        brow_weight=_around(rng, 1.15 - 0.45 * feminine, 0.18),
        brow_arch=_around(rng, 0.4 + 0.5 * feminine, 0.25),
        nose_length=_around(rng, 1.0, 0.07),
        nose_width=_around(rng, 1.0 - 0.10 * feminine + 0.22 * tone, 0.09),
        nose_depth=_around(rng, 1.0, 0.14),
        mouth_width=_around(rng, 1.0, 0.08),
        lip=_around(rng, (0.85 + 0.3 * feminine + 0.3 * tone) * (1 - 0.35 * age), 0.12),
        lipstick=float(np.clip(rng.normal(-0.3 + 1.0 * feminine, 0.4), 0, 1)) if feminine > 0.4 else 0.0,
        lip_hue=float(rng.random()),
        ear=_around(rng, 1.0, 0.1),
        freckles=float(np.clip(rng.normal(-0.5, 0.6), 0, 1)) * max(0.0, 1 - 2 * tone),
        hair_style=style,
        hair_name=hair_name,
        hair=hair,
        hair_volume=_around(rng, 1.0, 0.35),
        hairline=_around(rng, 0.025 * man * age, 0.03),
        parting=float(rng.choice([-1, 1]) * rng.uniform(0.12, 0.3)),
        hair_length=float(rng.uniform(0.0, 1.0)),
        beard=beard,
        glasses=glasses,
        glasses_colour=_colour(np.array(FRAMES[int(rng.choice(len(FRAMES), p=FRAME_SHARES))])),
        hat=hat,
        hat_colour=_colour(np.array(CLOTH[int(rng.integers(len(CLOTH)))]) / 255 + rng.normal(0, 0.03, 3)),
        clothes=_pick(rng, {"tee": 0.36, "vneck": 0.2, "shirt": 0.26, "hoodie": 0.18}),
        cloth_colour=_colour(cloth),
        cloth_trim=_colour(trim),
        build=_around(rng, 1.08 - 0.16 * feminine, 0.06),
    )


def _light(rng: np.random.Generator) -> tuple[tuple[float, float, float], float, Colour, Colour]:
    azimuth = np.deg2rad(rng.uniform(-65, 65))
    height = np.deg2rad(rng.uniform(15, 55))
    toward = (float(np.sin(azimuth) * np.cos(height)), float(-np.sin(height)), float(np.cos(azimuth) * np.cos(height)))
    warmth = rng.normal(0, 1)
    key = np.array([1 + 0.05 * warmth, 1.0, 1 - 0.08 * warmth])
    other = np.array([1 - 0.05 * warmth, 1.0, 1 + 0.07 * warmth])
    ambient = other * rng.uniform(0.26, 0.40)
    r, g, b = (float(v) for v in key)
    ar, ag, ab = (float(v) for v in ambient)
    return toward, float(rng.uniform(0.75, 1.0)), (r, g, b), (ar, ag, ab)


def sample_view(person: int, view: int, seed: int = 0) -> View:
    """The view with this number of that person: pose within yaw +-40, pitch +-20, roll +-10 degrees."""
    rng = np.random.default_rng([seed, person, view, 12])
    light, strength, key, ambient = _light(rng)
    smile = float(np.clip(rng.normal(0.35, 0.5), -1, 1))
    mouth = float(rng.beta(0.5, 2.5)) if rng.random() < 0.55 else 0.0
    return View(
        person=person,
        view=view,
        yaw=_around(rng, 0, 16.5, 2.42),
        pitch=_around(rng, 0, 7.5, 2.6),
        roll=_around(rng, 0, 3.2, 3.0),
        shift=(_around(rng, 0, 0.014), _around(rng, 0, 0.014)),
        zoom=_around(rng, 1.0, 0.022),
        smile=smile,
        mouth_open=mouth,
        eye_open=float(np.clip(rng.normal(0.97 - 0.12 * max(smile, 0), 0.1), 0.25, 1.15)),
        brow_raise=float(np.clip(rng.normal(0, 0.4), -1, 1)),
        gaze=(_around(rng, 0, 0.19), _around(rng, 0, 0.12)),
        light=light,
        strength=strength,
        key=key,
        ambient=ambient,
        background=_pick(rng, {"gradient": 0.34, "bokeh": 0.33, "room": 0.33}),
        background_hue=float(rng.random()),
        background_tone=float(rng.uniform(0.18, 0.95)),
        noise=float(rng.uniform(0.003, 0.008)),
        seed=int(rng.integers(1 << 31)),
    )


def attributes(person: Person, view: View) -> dict[str, float | int | str]:
    """What records.jsonl says of a painted picture; angles in degrees, `eye_open` 1 is a relaxed open eye."""
    return {
        "yaw": round(view.yaw, 3),
        "pitch": round(view.pitch, 3),
        "roll": round(view.roll, 3),
        "smile": round(view.smile, 4),
        "expression": round(view.smile, 4),
        "mouth_open": round(view.mouth_open, 4),
        "eye_open": round(view.eye_open, 4),
        "brow_raise": round(view.brow_raise, 4),
        "glasses": person.glasses,
        "beard": person.beard,
        "hat": person.hat,
        "hair_style": person.hair_style,
        "hair": person.hair_name,
        "skin_tone": round(person.skin_tone, 4),
        "feminine": round(person.feminine, 4),
        "age": round(person.age, 4),
        "clothes": person.clothes,
        "background": view.background,
    }
