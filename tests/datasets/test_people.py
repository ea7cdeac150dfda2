"""What every source of people with truth keeps, held to the renderer and to a toy of thirty lines."""

from dataclasses import dataclass

import numpy as np
import pytest

from stages.datasets.people import (
    HELDOUT_PEOPLE,
    HELDOUT_STYLE_PEOPLE,
    MOST_PEOPLE,
    READER_HELDOUT,
    READER_PEOPLE,
    SENSOR_NOISE,
    STYLE_PEOPLE,
    TRAIN_PEOPLE,
    Motion,
    People,
    Portrait,
    open_people,
    person_of,
)

SIZE = 64


@dataclass(frozen=True)
class Discs:
    """People are discs of one colour each; a view moves them, a style inverts them."""

    id: str = "discs"
    sizes: tuple[int, int] = (32, 64)
    styles: tuple[str, ...] = ("negative",)

    def _check(self, size: int, style: str | None = None) -> None:
        if not self.sizes[0] <= size <= self.sizes[1] or style not in (None, *self.styles):
            raise ValueError(f"size {size} or style {style} is not drawn")

    def photo(self, person: int, view: int, size: int) -> Portrait:
        self._check(size)
        rng = np.random.default_rng([person, 1])
        shade, behind = rng.integers(60, 120, 3), rng.integers(130, 250, 3)
        middle = size * (0.5 + 0.1 * np.sin(view + 1.0))
        y, x = np.indices((size, size))
        inside = np.hypot(x - middle, y - size / 2) < size / 4
        image = np.where(inside[..., None], shade, behind).astype(np.uint8)
        points = np.full((68, 2), (middle, size / 2), np.float32)
        return Portrait(
            image,
            inside * np.uint8(255),
            inside.astype(np.uint8),
            inside & False,
            points,
            self.attributes(person, view),
        )

    def styled(self, person: int, view: int, style: str, size: int) -> Portrait:
        self._check(size, style)
        photo = self.photo(person, view, size)
        return Portrait(255 - photo.image, photo.mask, photo.parsing, photo.beard, photo.landmarks, photo.attributes)

    def twin(self, person: int, view: int, style: str, size: int) -> Portrait:
        photo, drawn = self.photo(person, view, size), self.styled(person, view, style, size)
        image = np.where(photo.mask[..., None] > 0, drawn.image, photo.image)
        return Portrait(image, photo.mask, photo.parsing, photo.beard, photo.landmarks, photo.attributes)

    def moving(
        self, person: int, size: int, frames: int = 8, style: str | None = None, noise: float = SENSOR_NOISE
    ) -> Motion:
        first = self.photo(person, 0, size)
        grain = np.random.default_rng([person, 2]).normal(0, 255 * noise, (frames, size, size, 3))
        shots = np.clip(np.stack([first.image] * frames) + grain, 0, 255).astype(np.uint8)
        twins = np.stack([self.twin(person, 0, style, size).image] * frames) if style else None
        still = np.zeros((frames - 1, size, size, 2), np.float32)
        return Motion(shots, still, np.stack([first.mask > 0] * frames), twins)

    def attributes(self, person: int, view: int) -> dict[str, float | int | str]:
        return {"yaw": 10 * np.sin(view + 1.0), "pitch": 0.0, "smile": 0.0, "mouth_open": 0.0, "eye_open": 1.0} | {
            "glasses": "none",
            "beard": "none",
            "hat": "none",
        }


SOURCES = [pytest.param(Discs(), id="toy"), pytest.param(open_people(), id="renderer")]


@pytest.mark.parametrize("people", SOURCES)
def test_a_portrait_has_its_truth_and_depends_on_its_arguments_alone(people: People) -> None:
    photo = people.photo(7, 0, SIZE)
    assert photo.image.shape == (SIZE, SIZE, 3) and photo.mask.shape == photo.parsing.shape == photo.beard.shape == (
        SIZE,
        SIZE,
    )
    assert photo.image.dtype == photo.mask.dtype == photo.parsing.dtype == np.uint8 and photo.beard.dtype == bool
    assert photo.landmarks.shape == (68, 2) and photo.landmarks.dtype == np.float32
    assert photo.mask.max() == 255 and photo.mask[0, 0] == 0 and photo.parsing.max() < 19
    x, y = photo.landmarks.mean(0).round().astype(int)
    assert photo.mask[y, x] > 127
    assert photo.attributes == people.attributes(7, 0)
    assert {"yaw", "pitch", "smile", "mouth_open", "eye_open", "glasses", "beard", "hat"} <= photo.attributes.keys()

    assert np.array_equal(people.photo(7, 0, SIZE).image, photo.image)
    assert not np.array_equal(people.photo(7, 1, SIZE).image, photo.image)
    assert not np.array_equal(people.photo(8, 0, SIZE).image, photo.image)


@pytest.mark.parametrize("people", SOURCES)
def test_a_twin_keeps_what_is_outside_of_the_head(people: People) -> None:
    photo = people.photo(7, 0, SIZE)
    for style in people.styles:
        twin, drawn = people.twin(7, 0, style, SIZE), people.styled(7, 0, style, SIZE)
        outside = twin.mask == 0
        assert np.array_equal(twin.image[outside], photo.image[outside]) and (twin.mask >= photo.mask).all()
        assert np.abs(twin.image[~outside].astype(int) - photo.image[~outside]).mean() > 8
        assert not np.array_equal(drawn.image[outside], photo.image[outside])


@pytest.mark.parametrize("people", SOURCES)
def test_motion_has_flow_heads_and_twins(people: People) -> None:
    film = people.moving(7, SIZE, 3, people.styles[0], noise=0.0)
    assert film.frames.shape == (3, SIZE, SIZE, 3) and film.flows.shape == (2, SIZE, SIZE, 2)
    assert film.heads.shape == (3, SIZE, SIZE) and film.heads.dtype == bool and film.heads.any((1, 2)).all()
    assert film.twins is not None and film.twins.shape == film.frames.shape
    assert people.moving(7, SIZE, 2).twins is None

    y, x = np.argwhere(film.heads[1] & film.heads[0])[len(np.argwhere(film.heads[1])) // 2]
    before = np.array([x, y]) + film.flows[0, y, x]
    u, v = before.round().astype(int)
    assert np.abs(film.frames[1, y, x].astype(int) - film.frames[0, v, u]).max() < 40


@pytest.mark.parametrize("people", SOURCES)
def test_what_is_not_drawn_is_refused(people: People) -> None:
    for size in (people.sizes[0] - 1, people.sizes[1] + 1):
        with pytest.raises(ValueError, match="size"):
            people.photo(0, 0, size)
    with pytest.raises(ValueError, match="nothing"):
        people.styled(0, 0, "nothing", SIZE)


def test_no_two_ranges_share_a_person() -> None:
    firsts = sorted((TRAIN_PEOPLE, STYLE_PEOPLE, HELDOUT_STYLE_PEOPLE, HELDOUT_PEOPLE, READER_PEOPLE, READER_HELDOUT))
    assert all(after - before >= MOST_PEOPLE for before, after in zip(firsts, firsts[1:], strict=False))
    assert {person_of(split, 3) for split in ("train", "heldout", "style", "heldout_style")} == {
        TRAIN_PEOPLE + 3, HELDOUT_PEOPLE + 3, STYLE_PEOPLE + 3, HELDOUT_STYLE_PEOPLE + 3,
    }  # fmt: skip


def test_another_seed_is_another_population() -> None:
    assert open_people(1).id != open_people(0).id == open_people().id
    assert not np.array_equal(open_people(1).photo(7, 0, SIZE).image, open_people().photo(7, 0, SIZE).image)
