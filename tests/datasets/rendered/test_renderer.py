"""The renderer: kernels as their formulas say, pictures a function of integers, truth that lies on what it names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stages.core.runtime import Runtime
from stages.core.settings import ConfigError
from stages.core.tracking import Tracker
from stages.datasets.people import People
from stages.datasets.rendered import raster, render, stage, truth
from stages.datasets.rendered.build import build
from stages.datasets.rendered.colour import srgb
from stages.datasets.rendered.light import lights_of, place_of
from stages.datasets.rendered.motion import moving
from stages.datasets.rendered.pack import load_pack
from stages.datasets.rendered.people import RenderedPeople
from stages.datasets.rendered.person import Beard, Light, Person, View, sample_person, sample_view
from stages.datasets.rendered.render import Picture, photo, shoot
from stages.datasets.rendered.shade import Shadows, capture
from stages.datasets.rendered.stage import RenderedData
from stages.datasets.rendered.styles import twins
from stages.networks.face_labels import PARSER as LABELS
from stages.networks.face_labels import PARSER_HEAD
from tests.datasets.rendered import reference


def calm(number: int, **changes: object) -> tuple[Person, View]:
    """A bare-headed person who looks straight ahead in soft light, and their view."""
    bare = {"hat": "none", "glasses": "none", "earrings": "none", "necklace": False}
    who = sample_person(number)
    who = replace(who, **bare, hair=replace(who.hair, style="crop", length=0.06, fringe=0.0))
    view = sample_view(number)
    still = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "gaze": (0.0, 0.0), "units": {}, "shift": (0.0, 0.0), "zoom": 1.0}
    return who, replace(view, **{**still, "light": Light("soft", 20.0, 35.0, 0.0, 1.0, 0.8), **changes})


def label_at(picture: Picture, point: np.ndarray) -> int:
    x, y = np.clip(np.rint(point), 0, len(picture.parsing) - 1).astype(int)
    return int(picture.parsing[y, x])


# ------------------------------------------------------------------------------------------- kernels


def test_triangles_are_filled_as_the_formula_says() -> None:
    rng = np.random.default_rng(0)
    xy, z = rng.uniform(-4, 36, (60, 2)).astype(np.float32), rng.uniform(1, 9, 60).astype(np.float32)
    triangles = rng.integers(0, 60, (40, 3)).astype(np.int32)
    depth, index = np.full((32, 32), raster.FAR, np.float32), np.full((32, 32), -1, np.int32)
    raster.fill(xy, z, triangles, depth, index, np.zeros((32, 32, 2), np.float32))
    far, number = reference.fill(xy.astype(float), z.astype(float), triangles, 32)
    assert (index == number).mean() > 0.995  # rounding decides a few edges
    same = index == number
    assert np.allclose(depth[same], far[same], rtol=1e-3)
    only = np.full((32, 32), raster.FAR, np.float32)
    raster.fill_depth(xy, z, triangles, only)
    assert np.array_equal(only, depth)


def test_texels_are_bilinear_and_repeat() -> None:
    rng = np.random.default_rng(1)
    texture = rng.integers(0, 256, (16, 24, 3)).astype(np.uint8)
    uv = rng.uniform(-1, 2, (200, 2)).astype(np.float32)
    assert np.abs(raster.texels(texture, uv) - reference.texels(texture, uv)).max() < 0.5


def test_strands_blend_within_a_level_of_the_formula() -> None:
    rng = np.random.default_rng(2)
    points = rng.uniform(2, 30, (12, 2, 2)).astype(np.float32)
    z = np.repeat(rng.uniform(1, 3, 12), 2).astype(np.float32)
    colour = np.repeat(rng.random((12, 3)), 2, axis=0).astype(np.float32)
    thick, opacity = np.repeat(rng.uniform(0.4, 3, 12), 2).astype(np.float32), np.full(24, 0.8, np.float32)
    depth = np.full((32, 32), 2, np.float32)
    image, cover = np.full((32, 32, 3), 0.5, np.float32), np.zeros((32, 32), np.float32)
    order = np.arange(0, 24, 2, dtype=np.int32)
    raster.draw_strands(order, points.reshape(-1, 2), z, colour, thick, opacity, depth, image, cover)
    ends = [(*points[k, 0], *points[k, 1], z[2 * k], colour[2 * k], float(thick[2 * k]), 0.8) for k in range(12)]
    wanted = reference.blend(ends, depth, np.full((32, 32, 3), 0.5))
    assert np.abs(image - wanted).max() < 1 / 255
    assert ((cover > 0) == (np.abs(wanted - 0.5).max(axis=2) > 0)).mean() > 0.99


def test_the_commonest_label_of_a_block_wins() -> None:
    labels = np.array([[1, 1, 2, 3], [2, 1, 3, 2], [0, 5, 7, 7], [5, 0, 7, 7]], np.uint8)
    assert raster.vote(labels, 2).tolist() == [[1, 2], [0, 7]]


# ------------------------------------------------------------------------------------------- pictures


def test_a_picture_is_a_function_of_its_integers() -> None:
    first, again, other = (photo(sample_person(n), sample_view(n), 64) for n in (7, 7, 8))
    for name in ("image", "mask", "parsing", "landmarks"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert first.attributes == again.attributes
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(first.image, photo(sample_person(7), sample_view(7, 1), 64).image)
    assert sample_person(3, seed=1) != sample_person(3) and sample_view(3, 0) != sample_view(3, 1)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_shapes_and_types(size: int) -> None:
    picture = photo(sample_person(11), sample_view(11), size)
    assert picture.image.shape == (size, size, 3) and picture.image.dtype == np.uint8
    assert picture.mask.shape == picture.parsing.shape == (size, size)
    assert picture.landmarks.shape == (68, 2) and picture.landmarks.dtype == np.float32
    assert picture.image.std() > 10
    json.dumps(picture.attributes)
    assert "african" not in json.dumps(picture.attributes)


def test_what_cannot_be_rendered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 32\.\.512"):
        photo(sample_person(1), sample_view(1), 31)
    with pytest.raises(ValueError, match="unknown style 'oil'"):
        twins.styled(sample_person(1), sample_view(1), 64, "oil")


@pytest.mark.parametrize("number", range(6))
def test_mask_is_the_head_of_the_labels(number: int) -> None:
    picture = photo(sample_person(number), sample_view(number), 64)
    head = np.isin(picture.parsing, PARSER_HEAD)
    assert 0.1 < head.mean() < 0.9
    assert (head == (picture.mask > 127)).mean() > 0.97
    assert len(np.unique(picture.parsing)) >= 8


@pytest.mark.parametrize("number", range(4))
def test_landmarks_lie_on_what_they_name(number: int) -> None:
    who, view = calm(number)
    picture = photo(who, view, 256)
    points = picture.landmarks
    for eye, label in ((points[36:42], "r_eye"), (points[42:48], "l_eye")):
        assert label_at(picture, eye.mean(0)) == LABELS[label]
        assert eye[3, 0] > eye[0, 0] and eye[4, 1] > eye[1, 1]  # left to right, upper lid first
    assert label_at(picture, points[30]) == LABELS["nose"]
    brows, eyes, nose, mouth, chin = (
        points[a:b, 1].mean() for a, b in ((17, 27), (36, 48), (31, 36), (48, 60), (7, 10))
    )
    assert brows < eyes < nose < mouth < chin
    for at in points[3:14]:  # the jaw line follows the face's edge
        x, y = np.clip(np.rint(at), 10, 245).astype(int)
        assert len(np.unique(picture.parsing[y - 10 : y + 11, x - 10 : x + 11])) > 1


def test_the_jaw_lies_on_the_outline_when_the_head_turns() -> None:
    pack = load_pack()
    who, view = calm(2, yaw=35.0)
    scene = build(pack, who, view, 64)
    outer, fixed = truth.landmarks(pack, scene, 256), truth.fixed_landmarks(pack, scene, 256)
    middle = (fixed[27] + fixed[57]) / 2
    moved = np.linalg.norm(outer - middle, axis=1) - np.linalg.norm(fixed - middle, axis=1)
    assert (moved > -1e-3).all() and moved[:17].max() > 2 and np.allclose(moved[17:], 0)


def test_pose_and_expression_move_the_face_as_their_signs_say() -> None:
    def points(**changes: object) -> np.ndarray:
        return photo(*calm(5, **changes), 64).landmarks * 4

    rest = points()
    right = points(yaw=30.0)
    assert right[30, 0] - right[36:48, 0].mean() > rest[30, 0] - rest[36:48, 0].mean() + 4
    down = points(pitch=15.0)
    assert down[30, 1] - down[36:48, 1].mean() > rest[30, 1] - rest[36:48, 1].mean() + 2
    smile = points(units={"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0})
    assert smile[[48, 54], 1].mean() < rest[[48, 54], 1].mean() - 1
    gape = points(units={"jawOpen": 0.6})
    assert gape[66, 1] - gape[62, 1] > rest[66, 1] - rest[62, 1] + 6
    shut = points(units={"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0})
    assert shut[40, 1] - shut[38, 1] < 0.5 * (rest[40, 1] - rest[38, 1])


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"hat": "beanie"}, "hat"), ({"hat": "cap"}, "hat"), ({"hat": "fedora"}, "hat"), ({"hat": "headscarf"}, "hat"),
        ({"glasses": "round"}, "glasses"), ({"earrings": "hoop"}, "earring"),
        ({"necklace": True, "clothes": "female_sportsuit01"}, "necklace"),
    ],
)  # fmt: skip
def test_things_worn_are_where_the_labels_say(changes: dict, label: str) -> None:
    who, view = calm(5)
    bare, worn = photo(who, view, 128).parsing, photo(replace(who, **changes), view, 128).parsing
    assert not (bare == LABELS[label]).any()
    assert (worn == LABELS[label]).sum() >= 6


def test_hair_and_beards_grow_where_they_should() -> None:
    who, view = calm(9)
    bald = photo(replace(who, hair=replace(who.hair, style="bald", receding=0.0)), view, 64).parsing
    long = photo(replace(who, hair=replace(who.hair, style="long", length=3.0)), view, 64).parsing
    assert not (bald == LABELS["hair"]).any()
    assert (long == LABELS["hair"])[50:].any() and (long == LABELS["hair"]).mean() > 0.1
    face = long[30:38, 28:36]
    assert (face == LABELS["hair"]).mean() < 0.1  # it falls beside the face
    dark = replace(who, skin_colour=(0.6, 0.4, 0.3), hair=replace(who.hair, colour=(0.01, 0.01, 0.01)))
    shaven = photo(replace(dark, beard=Beard(0.0, 0.0, False, False, False)), view, 64)
    full = photo(replace(dark, beard=Beard(0.4, 0.3, True, True, True)), view, 64)
    x, y = np.rint(shaven.landmarks[8] + (0, -3)).astype(int)
    assert full.image[y, x].mean() < 0.75 * shaven.image[y, x].mean()
    assert full.parsing[y, x] == LABELS["skin"]


def test_depth_and_correspondence_are_those_of_the_mesh() -> None:
    pack = load_pack()
    who, view = calm(4, yaw=12.0)
    shot = shoot(who, view, 64)
    depth = truth.depth(shot.frame)
    assert np.nanmin(depth) > view.distance - 2 and np.nanmax(depth) < view.distance + 3
    nose = np.rint((shot.picture.landmarks[30] + 0.5) * shot.frame.width / 64 - 0.5).astype(int)
    neutral = shot.frame.raster(shot.frame.neutral, -9)
    assert np.linalg.norm(neutral[nose[1], nose[0]] - pack.vertices[pack.landmarks[30]]) < 0.1


def test_flow_carries_one_frame_to_the_next() -> None:
    pack = load_pack()
    who, view = calm(3)
    later = replace(view, yaw=6.0, units={"jawOpen": 0.1})
    scenes = [build(pack, who, v, 64) for v in (view, later)]
    frame = capture(pack, scenes[1], 64, None, None)
    flow = truth.flow(scenes[0], frame)
    before, after = (truth.fixed_landmarks(pack, scene, frame.width) for scene in scenes)
    for k in (30, 33, 51):
        x, y = np.rint(after[k]).astype(int)
        assert np.linalg.norm(after[k] + flow[y, x] - before[k]) < 1.5


def test_a_moving_sequence_has_flow_and_twins() -> None:
    motion = moving(6, 64, frames=3, style="comic")
    assert motion.frames.shape == (3, 64, 64, 3) and motion.flows.shape == (2, 64, 64, 2)
    assert motion.twins is not None and motion.twins.shape == motion.frames.shape
    rows, columns = np.indices((64, 64), np.float32)
    errors, still = [], []
    calm_frames = [cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 1.0) for frame in motion.frames]  # less grain
    for t in range(2):
        at = motion.flows[t] + np.stack([columns, rows], axis=2)
        warped = cv2.remap(
            calm_frames[t], at[..., 0].astype(np.float32), at[..., 1].astype(np.float32), cv2.INTER_LINEAR
        )
        inner = cv2.erode(motion.heads[t + 1].astype(np.uint8), np.ones((3, 3))) > 0
        errors.append(np.abs(warped[inner] - calm_frames[t + 1][inner]).mean())
        still.append(np.abs(calm_frames[t][inner] - calm_frames[t + 1][inner]).mean())
    assert np.mean(errors) < 0.8 * np.mean(still)


def test_people_vary_evenly() -> None:
    people = [sample_person(n) for n in range(300)]
    tones = np.histogram([p.tone for p in people], bins=5, range=(0, 1))[0] / 300
    assert tones.min() > 0.12  # even shares from light to dark
    over = [p for p in people if p.hair.fringe > 0]
    assert len(over) / 300 < 0.15
    for name, low in (("glasses", 0.1), ("hat", 0.05), ("earrings", 0.1)):
        assert np.mean([getattr(p, name) != "none" for p in people]) > low
    assert 0.4 < np.mean([p.sex == "female" for p in people]) < 0.6
    assert all(p.beard.length == 0 for p in people if p.sex == "female" or p.age < 18)


@pytest.mark.parametrize("style", twins.STYLES)
def test_a_twin_has_the_photograph_around_it_and_the_style_inside(style: str) -> None:
    who, view = sample_person(12), sample_view(12)
    shot, drawn = shoot(who, view, 64), twins.styled(who, view, 64, style)
    picture, true = shot.picture, twins.twin(shot, style)
    outside = true.bare == 0
    assert np.array_equal(true.image[outside], picture.image[outside]) and outside.mean() > 0.2
    assert (true.bare >= np.maximum(picture.bare, drawn.bare)).all() and (picture.bare >= picture.mask).all()
    collar = cv2.dilate(true.bare, np.ones((3, 3))) < cv2.erode(picture.whole, np.ones((3, 3)))
    assert collar.any() and np.array_equal(true.image[collar], picture.image[collar])  # clothes stay
    clothes = (picture.whole > 250) & outside
    assert (true.whole[clothes] == picture.whole[clothes]).all() and (true.whole >= drawn.bare)[true.bare == 255].all()
    beyond = cv2.erode(true.bare, np.ones((3, 3))) > cv2.dilate(np.maximum(picture.whole, drawn.whole), np.ones((5, 5)))
    assert np.array_equal(true.image[beyond], shot.empty[beyond])
    inside = cv2.erode((np.minimum(picture.mask, drawn.mask) > 250).astype(np.uint8), np.ones((5, 5))) > 0
    assert np.abs(true.image[inside].astype(float) - picture.image[inside]).mean() > 12
    assert np.minimum(picture.mask, drawn.mask).sum() > 0.75 * np.maximum(picture.mask, drawn.mask).sum()
    opened = [p.landmarks[40, 1] - p.landmarks[38, 1] for p in (drawn, picture)]
    assert opened[0] > 1.05 * opened[1]


@pytest.mark.parametrize("style", twins.STYLES)
def test_a_twin_is_painted_whole_down_to_the_collar(style: str) -> None:
    who, view = calm(1)
    shot = shoot(replace(who, skin_colour=(0.11, 0.05, 0.03)), view, 64)
    true = twins.twin(shot, style)
    neck = (true.parsing == LABELS["neck"]) & (shot.picture.parsing == LABELS["neck"])
    low = neck & (np.arange(64)[:, None] > np.quantile(np.nonzero(neck)[0], 0.7))
    assert low.sum() > 10
    photo_, twin_ = (np.median(image[low]) for image in (shot.picture.image, true.image))
    assert abs(photo_ - twin_) < 40  # dark skin, not paper
    dark, light = (twins.styled(who, view, 64, style, behind=np.full((64, 64, 3), v, np.uint8)) for v in (0, 255))
    inner = cv2.erode(dark.whole, np.ones((5, 5))) == 255
    assert np.abs(dark.image[inner].astype(int) - light.image[inner]).max() <= 2  # nothing shines through


def test_drawn_coils_keep_the_volume_of_the_photographs() -> None:
    who, view = calm(1)
    who = replace(who, hat="none", hair=replace(who.hair, style="afro", curl=1.0, length=0.8, fringe=0.0, grey=0.0))
    pictures = photo(who, view, 128), twins.styled(who, view, 128, "comic")
    seen, drawn = ((picture.parsing == LABELS["hair"]).sum() for picture in pictures)
    assert drawn > 0.95 * seen


@pytest.mark.parametrize("tone", [(0.75, 0.50, 0.38), (0.45, 0.24, 0.15), (0.20, 0.09, 0.055), (0.11, 0.05, 0.03)])
@pytest.mark.parametrize("style", ["comic", "anime", "figurine"])
def test_drawn_skin_has_the_lightness_and_the_hue_of_the_person(style: str, tone: tuple[float, float, float]) -> None:
    who, view = calm(1)
    drawn = twins.styled(replace(who, skin_colour=tone), view, 64, style)
    own, seen = (
        cv2.cvtColor(np.float32(colour).reshape(1, -1, 3), cv2.COLOR_RGB2LAB)[0]
        for colour in (srgb(np.array(tone)), drawn.image[drawn.parsing == LABELS["skin"]] / 255)
    )
    (own_l, own_a, own_b), (seen_l, a, b) = own[0], np.median(seen, axis=0)
    assert abs(seen_l - own_l) < 12 and np.hypot(a, b) < 1.1 * np.hypot(own_a, own_b)
    assert abs(np.degrees(np.arctan2(b, a) - np.arctan2(own_b, own_a))) < 8


@pytest.mark.parametrize("style", ["comic", "anime"])
def test_drawings_keep_skin_hue_from_light_to_dark(style: str) -> None:
    for number, tone in ((1, (0.75, 0.50, 0.38)), (1, (0.11, 0.05, 0.03))):
        who, view = calm(number)
        drawn = twins.styled(replace(who, skin_colour=tone), view, 64, style)
        skin = np.median(drawn.image[drawn.parsing == LABELS["skin"]], axis=0).astype(float) + 1
        wanted = np.array(tone) ** (1 / 2.2) * 255
        assert abs(np.log(skin[0] / skin[2]) - np.log(wanted[0] / wanted[2])) < 0.35


def test_lights_shadow_each_other() -> None:
    pack = load_pack()
    who, view = calm(3, light=Light("sun", 80.0, 10.0, 0.0, 1.0, 0.3))
    lights = lights_of(view, place_of(view))
    scene = build(pack, who, view, 64)
    frame = capture(pack, scene, 64, lights, Shadows(scene, lights, 64))
    image = photo(who, view, 64).image.astype(float).mean(axis=2)
    points = truth.fixed_landmarks(pack, scene, 64)
    near, far = (image[int(y), int(x)] for x, y in (points[35] + (8, 0), points[31] - (8, 0)))
    assert near > 1.15 * far and frame.sky.min() >= 0


def test_the_renderer_answers_for_people_with_truth() -> None:
    people: People = RenderedPeople(seed=0)
    picture, true = people.photo(4, 0, 64), people.twin(4, 0, "figurine", 64)
    assert people.id == RenderedPeople(0).id != RenderedPeople(1).id
    assert people.sizes == (32, 512) and "anime" in people.styles
    assert picture.parsing.max() <= LABELS["cloth"] and (picture.parsing == LABELS["skin"]).any()
    assert np.array_equal(true.image[true.mask == 0], picture.image[true.mask == 0])
    neck = picture.parsing == LABELS["neck"]
    assert (true.mask >= picture.mask).all() and neck.any() and (true.mask[neck] > 0).all()
    assert picture.attributes == people.attributes(4, 0)
    head = np.isin(picture.parsing, PARSER_HEAD)
    assert (head == (picture.mask > 127)).mean() > 0.97
    bearded = next(n for n in range(100) if sample_person(n).beard.kind == "full")
    hidden = people.photo(bearded, 0, 64)
    assert hidden.beard.sum() > 30 and set(hidden.parsing[hidden.beard]) == {LABELS["skin"]}


# ------------------------------------------------------------------------------------------- the data set


def _run(out: Path, **settings: object) -> dict[str, float]:
    workers = settings.pop("workers", 1)
    small: dict = {"size": 32, "count": 4, "style_count": 3, "heldout": 2, "heldout_style": 2, **settings}
    return RenderedData(**small).run({}, out, Runtime("cpu", workers, Tracker(out)))


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_data_set_has_the_layout_of_the_contract(tmp_path: Path) -> None:
    metrics = _run(tmp_path, styles=["comic", "anime"], views=2)
    assert metrics == {"count": 4, "style_count": 6, "heldout": 2, "heldout_style": 4, "pictures": 16, "size": 32}
    files = _files(tmp_path)
    folders = {
        "photo": 4, "mask": 4, "parsing": 4, "style/comic": 3, "style_mask/anime": 3, "heldout/photo": 2,
        "heldout/mask": 2, "heldout/parsing": 2, "heldout/twin/comic": 2, "heldout/twin/anime": 2,
        "heldout/style/comic": 2, "heldout/style_mask/comic": 2,
    }  # fmt: skip
    for name, count in folders.items():
        assert [f"{name}/{index:06d}.png" in files for index in range(count + 1)] == [True] * count + [False]
    for name, count in (("landmarks.npz", 4), ("heldout/landmarks.npz", 2)):
        with np.load(tmp_path / name) as stored:
            assert stored["photo"].shape == (count, 68, 2) and stored["photo"].dtype == np.float32
    records = [json.loads(line) for line in files["records.jsonl"].decode().splitlines()]
    assert len(records) == 16 and all(r["photo"] in files and r["mask"] in files for r in records)
    people = {
        s: {r["person"] for r in records if r["split"] == s} for s in ("train", "heldout", "style", "heldout_style")
    }
    assert [len(group) for group in people.values()] == [2, 2, 3, 2]
    assert len(set().union(*people.values())) == 9


def test_twins_of_training_people_are_the_same_person_and_view(tmp_path: Path) -> None:
    settings = {"styles": ["comic", "anime"], "views": 2}
    _run(tmp_path / "none", **settings)
    _run(tmp_path / "named", **settings, twins="comic")
    _run(tmp_path / "all", **settings, twins="all")
    none, named, every = (_files(tmp_path / name) for name in ("none", "named", "all"))
    assert not [name for name in none if name.startswith("twin")] and b"twins" not in none["records.jsonl"]
    assert {name.split("/")[1] for name in named if name.startswith(("twin/", "twin_mask/", "twin_cover/"))} == {
        "comic"
    }
    assert all(every[name] == content for name, content in none.items() if name != "records.jsonl")

    rows = [json.loads(line) for line in every["records.jsonl"].decode().splitlines()]
    for row in [row for row in rows if row["split"] in ("train", "heldout")]:
        who, view = sample_person(row["person"]), sample_view(row["person"], row["view"])
        for style, files in row["twins"].items():
            true = twins.twin_of(who, view, 32, style)
            for kind, wanted in (("photo", true.image), ("mask", true.bare), ("cover", None)):
                stored = cv2.imdecode(np.frombuffer(every[files[kind]], np.uint8), cv2.IMREAD_UNCHANGED)
                if wanted is None:
                    wanted = np.dstack([photo(who, view, 32).whole, true.whole, true.bare])
                assert np.array_equal(stored[..., ::-1] if stored.ndim == 3 else stored, wanted)
    assert not [row for row in rows if row["style"] and "twins" in row]


def test_workers_do_not_change_a_byte_and_the_seed_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.datasets.rendered.stage.CHUNK", 2)  # several batches a worker
    for name, workers, seed in (("one", 1, 0), ("two", 2, 0), ("other", 1, 1)):
        _run(tmp_path / name, workers=workers, seed=seed, count=3, style_count=1, heldout=1, heldout_style=1)
    one, two, other = (_files(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["photo/000000.png"] != other["photo/000000.png"]


def test_a_killed_run_goes_on_where_it_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "CHUNK", 2)
    shots: list[int] = []

    def counted(*given: Any) -> Any:
        shots.append(1)
        if len(shots) == 4:
            raise KeyboardInterrupt
        return shoot(*given)

    monkeypatch.setattr(render, "shoot", counted)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "killed")
    _run(tmp_path / "killed")
    assert len(shots) == 4 + 4  # the first two of six photos are kept
    monkeypatch.setattr(render, "shoot", shoot)
    _run(tmp_path / "whole")
    assert _files(tmp_path / "killed") == _files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"size": 63}, "size"), ({"size": 1024}, "size"), ({"count": 0}, "count"), ({"style_count": -1}, "style_count"),
        ({"heldout": 0}, "heldout"), ({"views": 0}, "views"), ({"count": 10**7}, "count"), ({"seed": -1}, "seed"),
        ({"styles": []}, "styles"), ({"styles": "comic"}, "styles"), ({"styles": ["oil"]}, "styles"),
        ({"styles": ["comic", "comic"]}, "styles"), ({"twins": "anime"}, "twins"), ({"twins": True}, "twins"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RenderedData(**settings)
    assert str(caught.value).startswith(key)
