"""The sampler: who a person is, and how one view of them was taken; plain fields from integers, the same every time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stages.datasets.rendered.pack import Pack, load_pack

FACES = ("african", "asian", "caucasian")  # the sources' names of the three face shapes that are mixed
Triple = tuple[float, float, float]

# plain colours of skin from light to dark, sRGB; a person's tone runs along them in even shares
TONES = (
    (231, 189, 164),
    (221, 174, 146),
    (207, 156, 125),
    (186, 132, 100),
    (158, 106, 77),
    (122, 78, 55),
    (90, 57, 42),
)
HAIR_COLOURS = {  # linear light
    "black": (0.010, 0.008, 0.007), "dark brown": (0.030, 0.017, 0.010), "brown": (0.070, 0.037, 0.019),
    "light brown": (0.15, 0.085, 0.042), "blond": (0.40, 0.25, 0.125), "red": (0.20, 0.060, 0.018),
    "grey": (0.26, 0.25, 0.24), "white": (0.62, 0.60, 0.57),
}  # fmt: skip
IRISES = {
    "brown": (0.10, 0.045, 0.02), "light brown": (0.20, 0.10, 0.035), "hazel": (0.17, 0.13, 0.05),
    "green": (0.13, 0.20, 0.09), "blue": (0.10, 0.19, 0.34), "grey": (0.20, 0.24, 0.27),
    "light blue": (0.20, 0.33, 0.46),
}  # fmt: skip
STYLES_F = {"long": 0.24, "bob": 0.17, "shoulder": 0.16, "tied": 0.15, "curly": 0.11, "pixie": 0.07, "afro": 0.05,
            "crop": 0.03, "coils": 0.02}  # fmt: skip
STYLES_M = {"short": 0.27, "side": 0.22, "quiff": 0.12, "crop": 0.14, "curly": 0.07, "bald": 0.07, "shoulder": 0.04,
            "coils": 0.04, "afro": 0.03}  # fmt: skip
COILED = {"afro": 0.3, "coils": 0.35, "crop": 0.2, "tied": 0.15}  # kinds of tightly coiled hair
MOODS = {"neutral": 0.26, "smile": 0.26, "grin": 0.15, "laugh": 0.09, "surprise": 0.06, "sad": 0.05, "frown": 0.04,
         "talk": 0.09}  # fmt: skip
SUITS = {
    "female": ("female_casualsuit01", "female_elegantsuit01", "female_sportsuit01"),
    "male": ("male_casualsuit02", "male_casualsuit03", "male_casualsuit04", "male_casualsuit05", "male_casualsuit06",
             "male_elegantsuit01", "male_worksuit01"),
}  # fmt: skip


@dataclass(frozen=True)
class Hair:
    """A haircut. Lengths in decimetres, shares 0..1."""

    style: str  # a key of STYLES_F or STYLES_M
    colour: Triple  # linear light
    colour_name: str
    length: float
    volume: float  # how far it stands off
    curl: float
    part: float  # x of the parting, -1..1; the sign is its side
    fringe: float  # length of a fringe as a share of the forehead, 0 none
    receding: float
    grey: float  # share of white strands


@dataclass(frozen=True)
class Beard:
    """Facial hair: areas and length; stubble grows where length is 0."""

    stubble: float  # darkness, 0..1
    length: float  # decimetres, 0 none
    cheeks: bool
    chin: bool
    moustache: bool

    @property
    def kind(self) -> str:
        """None | stubble | moustache | goatee | full."""
        if self.length <= 0:
            return "stubble" if self.stubble > 0.3 else "none"
        return "full" if self.cheeks else "goatee" if self.chin else "moustache"


@dataclass(frozen=True)
class Person:
    """Who a person is: everything that stays from view to view."""

    number: int
    seed: int
    sex: str  # female | male
    age: float  # years
    masculine: float  # 0..1, weight of the male shapes
    face_shape: Triple  # shares of the three mixed face shapes
    muscle: float
    weight: float
    shape: dict[str, float]  # weights of local shapes
    skin: str  # name of the skin picture
    tone: float  # 0 light .. 1 dark
    skin_colour: Triple  # linear light
    freckles: float
    wrinkles: tuple[float, float, float, float]  # depth of each group of creases, 0..1
    hair: Hair
    brow: Triple  # thickness, height, arch: about 1, 0, 0
    beard: Beard
    lashes: float
    make_up: Triple  # lips, lids, cheeks: 0..1
    iris: str
    glasses: str  # none | round | square | wide | half; plain: the same on everybody, see edits.py
    hat: str  # none | beanie | cap | fedora | headscarf
    hat_colour: Triple
    earrings: str  # none | stud | hoop | drop
    necklace: bool
    clothes: str
    clothes_colour: Triple
    print_: float  # 0 dyed in one hue .. 1 the clothes' own colours

    @property
    def rng(self) -> np.random.Generator:
        """Random numbers that are this person's own in every view."""
        return np.random.default_rng([self.seed, self.number, 5])


@dataclass(frozen=True)
class Light:
    """What lights the scene."""

    kind: str  # soft | window | sun | rim | flash
    azimuth: float  # degrees, to the picture's right
    elevation: float
    warmth: float
    key: float
    fill: float


@dataclass(frozen=True)
class View:
    """How a person is seen: pose, expression, light, place and camera. Degrees."""

    yaw: float  # nose to the picture's right
    pitch: float  # nose down
    roll: float
    lean: float  # share of the yaw that the body takes
    gaze: tuple[float, float]  # to the person's left, down; from the head's own axis
    mood: str
    units: dict[str, float]  # ARKit's facial units, 0..1
    zoom: float
    shift: tuple[float, float]  # shares of the picture
    distance: float  # decimetres
    light: Light
    place: int  # seed of the background
    camera: int  # seed of exposure, colour and grain


def _one(rng: np.random.Generator, shares: dict[str, float]) -> str:
    names, weights = list(shares), np.array(list(shares.values()))
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


@lru_cache(maxsize=4096)
def sample_person(number: int, seed: int = 0, pack: Pack | None = None) -> Person:
    """The person of a number; another seed makes other people."""
    rng = np.random.default_rng([seed, number, 1])
    pack = pack or load_pack()
    sex = "female" if rng.random() < 0.5 else "male"
    ages = (rng.normal(27, 7), rng.normal(44, 9), rng.normal(67, 9), rng.normal(11, 3))
    age = float(np.clip(ages[int(rng.choice(4, p=[0.48, 0.29, 0.15, 0.08]))], 6, 88))
    tone = float(rng.random())
    face = rng.dirichlet([0.35 + 0.9 * tone, 0.45, 0.35 + 0.9 * (1 - tone)])

    # what grows and what is worn
    hair = _hair(rng, sex, age, tone, int(face.argmax()))
    beard = beard_of(rng, sex, age)
    adult = age > 17
    hat = _one(rng, {"none": 0.87, "beanie": 0.045, "cap": 0.03, "fedora": 0.015, "headscarf": 0.0})
    if sex == "female" and adult and rng.random() < 0.06:
        hat = "headscarf"
    hue = np.exp(rng.normal(0, 0.35, 3))
    iris = _one(rng, {"brown": 4, "light brown": 1}) if tone > 0.45 or hair.colour_name == "black" else _one(
        rng, {"brown": 2, "light brown": 1, "hazel": 1.2, "green": 1, "blue": 2, "grey": 1, "light blue": 0.8}
    )  # fmt: skip
    made_up = sex == "female" and adult and rng.random() < 0.7
    glasses = _one(rng, {"round": 1, "square": 1.2, "wide": 0.8, "half": 0.6}) if rng.random() < 0.2 else "none"
    return Person(
        number=number,
        seed=seed,
        sex=sex,
        age=age,
        masculine=float(rng.uniform(0, 0.04) if sex == "female" else rng.uniform(0.95, 1)),
        face_shape=(float(face[0]), float(face[1]), float(face[2])),
        muscle=float(rng.uniform(0.3, 0.7) - (0.15 if sex == "female" else 0.0)),
        weight=float(np.clip(rng.normal(0.48, 0.17), 0.08, 0.92)),
        shape=_shape(rng, pack, sex if age > 15 else "child", age),
        skin=skin_picture(rng, pack, sex, age, tone),
        tone=tone,
        skin_colour=_skin_colour(rng, tone),
        freckles=float(rng.uniform(0.3, 1)) if tone < 0.35 and rng.random() < 0.25 else 0.0,
        wrinkles=_wrinkles(rng, age),
        hair=hair,
        brow=(
            float(np.clip(rng.normal(0.8 if sex == "female" else 1.25, 0.18), 0.5, 1.7)),
            float(rng.normal(0, 0.02)),
            float(rng.normal(0.3 if sex == "female" else 0, 0.3)),
        ),
        beard=beard,
        lashes=float(rng.uniform(0.85, 1.3) if sex == "female" else rng.uniform(0.3, 0.5)),
        make_up=_triple(rng.uniform(0.2, 1, 3) * [1, rng.random() < 0.6, rng.random() < 0.6]) if made_up else (0, 0, 0),
        iris=iris,
        glasses=glasses,
        hat=hat,
        hat_colour=_triple(np.clip(0.12 * hue * np.exp(rng.normal(0, 0.8)), 0.01, 0.7)),
        earrings=_one(rng, {"stud": 1, "hoop": 0.8, "drop": 0.7})
        if rng.random() < (0.45 if sex == "female" and age > 12 else 0.06)
        else "none",
        necklace=bool(rng.random() < (0.3 if sex == "female" else 0.07)),
        clothes=SUITS[sex][int(rng.integers(len(SUITS[sex])))],
        clothes_colour=_triple(np.exp(rng.normal(-0.1, 0.45)) * np.exp(rng.normal(0, 0.32, 3))),
        print_=float(rng.choice([0.12, 0.5, 1.0])),
    )


def _triple(values: np.ndarray) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


def creases(age: float) -> np.ndarray:
    """Depth of each group of creases [4], 0..1: they set in at about thirty and are deep at eighty."""
    return np.clip((age - np.array([34, 30, 28, 48])) / np.array([34, 34, 40, 30]), 0, 1)


def _wrinkles(rng: np.random.Generator, age: float) -> tuple[float, float, float, float]:
    """Creases of the age, not in everybody alike."""
    a, b, c, d = np.clip(creases(age) * rng.uniform(0.7, 1.3, 4), 0, 1)
    return float(a), float(b), float(c), float(d)


# what makes a grown face more a woman's or a man's, beyond the macro shapes
SEX_SHAPES = {
    "female": {"mouth/mouth-upperlip-volume-incr": 0.12, "mouth/mouth-lowerlip-volume-incr": 0.1,
               "chin/chin-width-decr": 0.25, "nose/nose-width2-decr": 0.15, "head/head-oval": 0.2,
               "eyes/l-eye-scale-incr": 0.28, "eyes/r-eye-scale-incr": 0.28, "nose/nose-volume-decr": 0.2,
               "nose/nose-scale-vert-decr": 0.15, "chin/chin-prominent-decr": 0.12, "cheek/l-cheek-bones-incr": 0.15,
               "cheek/r-cheek-bones-incr": 0.15},
    "male": {"chin/chin-width-incr": 0.2, "chin/chin-prominent-incr": 0.15, "head/head-rectangular": 0.12,
             "forehead/forehead-nubian-decr": 0.12, "nose/nose-volume-incr": 0.12},
    "child": {},
}  # fmt: skip


def _shape(rng: np.random.Generator, pack: Pack, sex: str, age: float) -> dict[str, float]:
    """Local shapes: one of every chosen family, both sides nearly alike, and a little asymmetry."""
    shape: dict[str, float] = {}
    if age > 42:  # skin sags
        shape["head/head-age-incr"] = float(np.clip((age - 42) / 40, 0, 1) * rng.uniform(0.35, 0.85))
    for name, weight in SEX_SHAPES[sex].items():
        shape[name] = float(weight * rng.uniform(0.3, 1.7))

    # families of shapes, one of each that is drawn
    for names in pack.families.values():
        if rng.random() > 0.5:
            continue
        halves = sorted({name.replace("/r-", "/l-") for name in names})
        name, weight = halves[int(rng.integers(len(halves)))], min(abs(rng.normal(0, 0.27)), 0.8)
        if name.startswith("head/") or "scale" in name:
            weight *= 0.55
        shape[name] = shape.get(name, 0.0) + float(weight)
        if "/l-" in name and name.replace("/l-", "/r-") in pack.targets:
            other = name.replace("/l-", "/r-")
            shape[other] = shape.get(other, 0.0) + float(weight * rng.uniform(0.85, 1.15))
    for name in (name for name, kind in pack.kinds.items() if kind == "asymmetry"):
        if rng.random() < 0.12:
            shape[name] = float(abs(rng.normal(0, 0.25)))
    return shape


def skin_picture(rng: np.random.Generator, pack: Pack, sex: str, age: float, tone: float) -> str:
    """A skin picture of the sex, nearest in age, of the light or the dark half."""
    span = ("young", "middleage", "old")[int(np.digitize(age, [36, 58]))]
    half = "dark" if tone > rng.uniform(0.4, 0.6) else "light"
    for wanted in (
        {"sex": sex, "age": span, "tone": half},
        {"sex": sex, "age": span if span == "old" else "none"},  # age shows more than the picture's own tone
        {"sex": sex, "tone": half, "age": "middleage"},
        {"sex": sex, "tone": half},
        {"tone": half, "age": span},
    ):
        fits = [name for name, entry in pack.skins.items() if all(entry[k] == v for k, v in wanted.items())]
        if fits:
            return fits[int(rng.integers(len(fits)))]
    raise AssertionError(f"{half}: the pack has no such skin")


def _skin_colour(rng: np.random.Generator, tone: float) -> Triple:
    x = tone * (len(TONES) - 1)
    k = min(int(x), len(TONES) - 2)
    colours = np.log((np.array(TONES) / 255) ** 2.2)
    colour = np.exp(colours[k] * (1 - (x - k)) + colours[k + 1] * (x - k))
    return _triple(colour * np.exp(rng.normal(0, 0.04)) * np.exp(rng.normal(0, [0.03, 0.01, 0.05])))


def _hair(rng: np.random.Generator, sex: str, age: float, tone: float, face: int) -> Hair:
    """A haircut and its colour, by sex, age and tone."""
    old = age > rng.normal(60, 7)
    dark = {"black": 3, "dark brown": 2, "brown": 0.3}
    light = {"dark brown": 2, "brown": 3, "light brown": 2, "blond": 2, "red": 0.8, "black": 0.7}
    name = _one(rng, {"grey": 0.6, "white": 0.4}) if old else _one(rng, dark if tone > 0.42 or face == 1 else light)

    # the cut
    styles = dict(STYLES_F if sex == "female" else STYLES_M)
    if sex == "female" and age > 60:
        styles = {"bob": 0.3, "pixie": 0.25, "curly": 0.25, "shoulder": 0.1, "tied": 0.1}
    coiled = tone > 0.6 and face == 0
    style = _one(rng, COILED if coiled and rng.random() < 0.65 else styles)
    lengths = {
        "long": (2.2, 3.6), "shoulder": (1.5, 2.0), "bob": (1.05, 1.4), "tied": (1.2, 2.6), "curly": (0.7, 1.8),
        "pixie": (0.35, 0.6), "afro": (0.45, 0.9), "coils": (0.14, 0.3), "crop": (0.04, 0.12), "short": (0.2, 0.38),
        "side": (0.35, 0.6), "quiff": (0.35, 0.6), "bald": (0.05, 0.12),
    }  # fmt: skip
    length = rng.uniform(*lengths[style]) * (0.55 if style == "curly" and sex == "male" else 1)

    # its colour, curl and edge
    colour = np.array(HAIR_COLOURS[name]) * np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.05, 3))
    curl = {"curly": rng.uniform(0.6, 1), "afro": 1.0, "coils": 1.0}.get(style, max(0.0, rng.normal(0.12, 0.2)))
    if coiled and style in ("crop", "bald"):
        curl = 0.9
    fringes = style in ("long", "bob", "shoulder", "pixie", "short") and rng.random() < 0.22
    older = np.clip((age - 30) / 40, 0, 1) if sex == "male" else 0.0
    return Hair(
        style=style,
        colour=_triple(colour),
        colour_name=name,
        length=float(length),
        volume=float(np.clip(rng.normal(0.5, 0.22), 0.08, 1)),
        curl=float(min(curl, 1)),
        part=float(rng.choice([-1, 1]) * rng.uniform(0.15, 0.5)) if rng.random() < 0.75 else float(rng.normal(0, 0.04)),
        fringe=float(rng.uniform(0.5, 0.95)) if fringes else 0.0,
        receding=float(older * rng.uniform(0, 1)),
        grey=float(rng.uniform(0.1, 0.6)) if 42 < age < 62 and not old and rng.random() < 0.5 else 0.0,
    )


def beard_of(rng: np.random.Generator, sex: str, age: float) -> Beard:
    """Facial hair of a grown man; nobody else has any."""
    if sex == "female" or age < 19:
        return Beard(0.0, 0.0, False, False, False)
    kind = _one(rng, {"shaven": 0.36, "stubble": 0.24, "full": 0.2, "goatee": 0.1, "moustache": 0.1})
    if kind == "shaven":
        return Beard(float(rng.uniform(0, 0.15)), 0.0, False, False, False)
    if kind == "stubble":
        return Beard(float(rng.uniform(0.35, 0.8)), 0.0, False, False, False)
    length = float(
        {"full": rng.uniform(0.08, 0.32), "goatee": rng.uniform(0.06, 0.2)}.get(kind, rng.uniform(0.06, 0.12))
    )
    return Beard(float(rng.uniform(0.2, 0.5)), length, kind == "full", kind != "moustache", True)


def sample_view(number: int, view: int = 0, seed: int = 0) -> View:
    """One view of a person; view 0 is the first."""
    rng = np.random.default_rng([seed, number, view, 2])
    # pose and expression first, then light and camera
    mood = _one(rng, MOODS)
    return View(
        yaw=float(np.clip(rng.normal(0, 17), -45, 45)),
        pitch=float(np.clip(rng.normal(1, 6), -18, 18)),
        roll=float(rng.normal(0, 4)),
        lean=float(rng.uniform(0.2, 0.6)),
        gaze=(float(rng.normal(0, 7)), float(rng.normal(0, 3.5))),
        mood=mood,
        units=units_of(mood, rng),
        zoom=float(rng.uniform(1.0, 1.16)),
        shift=(float(rng.normal(0, 0.015)), float(rng.normal(0, 0.015))),
        distance=float(rng.uniform(8, 18)),
        light=Light(
            kind=_one(rng, {"soft": 0.34, "window": 0.3, "sun": 0.14, "rim": 0.12, "flash": 0.1}),
            azimuth=float(rng.uniform(-75, 75)),
            elevation=float(rng.uniform(12, 55)),
            warmth=float(rng.normal(0.02, 0.06)),
            key=float(rng.uniform(0.8, 1.25)),
            fill=float(rng.uniform(0.35, 0.9)),
        ),
        place=int(rng.integers(1 << 30)),
        camera=int(rng.integers(1 << 30)),
    )


# facial units (ARKit's names) of a mood at its strongest; a star stands for left and right
MOOD_UNITS = {
    "smile": {"mouthSmile*": 0.85, "cheekSquint*": 0.45, "eyeSquint*": 0.12, "mouthDimple*": 0.2},
    "grin": {"mouthSmile*": 1.0, "cheekSquint*": 0.6, "eyeSquint*": 0.2, "mouthUpperUp*": 0.5,
             "mouthLowerDown*": 0.2, "mouthStretch*": 0.15, "browInnerUp": 0.12},
    "laugh": {"mouthSmile*": 1.0, "cheekSquint*": 0.6, "eyeSquint*": 0.3, "mouthUpperUp*": 0.35,
              "mouthLowerDown*": 0.3, "browOuterUp*": 0.25, "jawOpen": 0.26, "browInnerUp": 0.25},
    "surprise": {"eyeWide*": 0.55, "browOuterUp*": 0.7, "browInnerUp": 0.75, "jawOpen": 0.35},
    "sad": {"mouthFrown*": 0.55, "eyeSquint*": 0.1, "browInnerUp": 0.85, "mouthShrugLower": 0.35},
    "frown": {"browDown*": 0.6, "eyeSquint*": 0.25, "mouthPress*": 0.35},
    "talk": {"jawOpen": 0.2, "mouthFunnel": 0.25, "mouthPucker": 0.12, "mouthLowerDown*": 0.3, "browOuterUp*": 0.2},
    "neutral": {"mouthSmile*": 0.12, "browOuterUp*": 0.1},
}  # fmt: skip


def units_of(mood: str, rng: np.random.Generator) -> dict[str, float]:
    """Facial units of a mood, never quite the same on both sides; and how far the lids hang."""
    strength = rng.uniform(0.55, 1) if mood not in ("neutral", "talk") else rng.uniform(0, 1.2)
    blink = float(rng.choice([0.0, rng.uniform(0.05, 0.2), 1.0], p=[0.66, 0.31, 0.03]))
    units: dict[str, float] = {}
    for name, weight in {**MOOD_UNITS[mood], "eyeBlink*": blink / strength if strength > 0.01 else 0.0}.items():
        for side in ("Left", "Right") if name.endswith("*") else ("",):
            wobble = 1 + rng.normal(0, 0.08 if "Blink" not in name else 0.03)
            units[name.rstrip("*") + side] = float(np.clip(weight * strength * wobble, 0, 1))
    return {name: weight for name, weight in units.items() if weight > 1e-3}


def attributes(person: Person, view: View) -> dict[str, float | int | str]:
    """What the records say of a picture: numbers and words that JSON holds."""
    units = view.units

    def mean(name: str) -> float:
        return (units.get(f"{name}Left", 0.0) + units.get(f"{name}Right", 0.0)) / 2

    facts: dict[str, float | int | str] = {
        "sex": person.sex, "age": round(person.age), "skin": round(person.tone, 3),
        "yaw": view.yaw, "pitch": -view.pitch, "roll": view.roll, "gaze_x": view.gaze[0], "gaze_y": -view.gaze[1],
        "expression": view.mood, "smile": mean("mouthSmile"), "mouth_open": units.get("jawOpen", 0.0),
        "eye_open": 1 - mean("eyeBlink"), "brow_raise": mean("browOuterUp"),
        "hair": person.hair.style, "hair_colour": person.hair.colour_name, "hair_length": person.hair.length,
        "fringe": person.hair.fringe,
        "stubble": person.beard.stubble, "beard": person.beard.kind, "beard_length": person.beard.length,
        "glasses": person.glasses, "hat": person.hat,
        "earrings": person.earrings, "necklace": int(person.necklace), "iris": person.iris, "light": view.light.kind,
    }  # fmt: skip
    facts.update({f"unit_{name}": weight for name, weight in units.items()})
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in facts.items()}
