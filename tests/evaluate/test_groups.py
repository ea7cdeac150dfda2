"""Groups of people and what a measure is worth in each, against colour science, loops and planted differences."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from stages.evaluate.groups import TONES, group_scores, lab, side_light, tone_of, typology_angle
from stages.metrics.bootstrap import draw
from stages.metrics.identity import person_pairs, resampled_auc, same_person_auc


def test_lab_is_that_of_scikit_image() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (500, 3), dtype=np.uint8)
    assert np.abs(lab(colours) - rgb2lab(colours)).max() < 1e-3


def test_typology_angle_of_the_skin_alone() -> None:
    image = np.full((2, 20, 20, 3), (10, 200, 30), np.uint8)  # green behind the face
    skin = np.zeros((2, 20, 20), bool)
    skin[:, 5:15, 5:15] = True
    image[0][skin[0]] = (224, 172, 105)
    image[1][skin[1]] = (60, 46, 40)
    expected = [np.degrees(np.arctan((light - 50) / b)) for light, _, b in rgb2lab(image[:, 10, 10])]
    assert typology_angle(image, skin) == pytest.approx(expected, abs=0.1)
    assert tone_of(expected[1]) == "dark" and tone_of(expected[0]) in TONES[:3]


def test_no_angle_of_grey_pictures_or_without_skin() -> None:
    grey = np.full((2, 20, 20, 3), 128, np.uint8)
    grey[1] = (224, 172, 105)
    skin = np.ones((2, 20, 20), bool)
    skin[1] = False
    assert np.isnan(typology_angle(grey, skin)).all()
    assert tone_of(float("nan")) is None


def test_tones_are_parted_at_the_published_limits() -> None:
    angles = (56, 55, 42, 41, 29, 28, 11, 10, -29, -30, -60)
    wanted = (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)  # a limit belongs to the darker group
    assert [TONES.index(str(tone_of(angle))) for angle in angles] == list(wanted)


def test_side_light_in_stops() -> None:
    points = np.array([[[24, 24], [40, 24], [32, 34], [26, 42], [38, 42]]], float)
    image = np.full((1, 64, 64, 3), 0, np.uint8)
    image[0, :, :32], image[0, :, 32:] = 188, 137  # linear 0.503 and 0.251
    skin = np.ones((1, 64, 64), bool)
    assert side_light(image, points, skin)[0] == pytest.approx(1.0, abs=0.02)
    assert side_light(image[:, :, ::-1], points, skin)[0] == pytest.approx(-1.0, abs=0.02)
    skin[0, :, 32:] = False  # the right cheek is turned away
    assert np.isnan(side_light(image, points, skin)[0])


def test_a_planted_gap_between_groups_is_found() -> None:
    rng = np.random.default_rng(1)
    people = np.array([f"p{i // 2}" for i in range(80)])
    group = np.arange(80) >= 40
    values = np.where(group, 0.6, 0.8) + rng.normal(0, 0.02, 80)
    values[0] = np.nan
    draws = draw(people, 200)
    found = group_scores(values, 1, {"far": group, "near": ~group}, ~group, people, draws)
    assert found["far"].pictures == 40 and found["far"].people == 20 and found["near"].pictures == 39
    assert found["far"].ratio.value == pytest.approx(values[40:].mean() / np.nanmean(values[:40]))
    assert found["far"].ratio.low < 0.75 < found["far"].ratio.high < 0.8
    assert (found["near"].ratio.low, found["near"].ratio.high) == (1, 1)  # paired: the reference against itself
    lower = group_scores(values, -1, {"far": group}, ~group, people, draws)["far"]
    assert lower.ratio.value == pytest.approx(1 / found["far"].ratio.value)


def test_an_empty_group_says_nothing() -> None:
    people = np.array(["a", "b"])
    found = group_scores(
        np.array([1.0, 2.0]), 1, {"none": np.zeros(2, bool)}, np.ones(2, bool), people, draw(people, 10)
    )["none"]
    assert found.pictures == found.people == 0 and np.isnan(found.score.value) and np.isnan(found.ratio.value)


# same-person AUC with several photos a person


def embeddings(seed: int, people: list[str], noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = {name: rng.normal(size=16) for name in people}
    made = [np.stack([centres[name] + noise * rng.normal(size=16) for name in people]) for _ in range(2)]
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in made)
    return first, second


def test_resampled_auc_of_everybody_once_is_the_auc() -> None:
    people = [f"p{i // 3}" for i in range(18)]
    first, second = embeddings(2, people, 1.5)
    number = torch.tensor([int(name[1:]) for name in people])
    expected = same_person_auc(torch.tensor(first), torch.tensor(second), number, number, aligned=True)
    got = resampled_auc(first @ second.T, *person_pairs(people), np.ones((1, 18), int))
    assert 0.6 < expected < 0.99 and got[0] == pytest.approx(expected, abs=1e-12)


def test_resampled_auc_counts_a_person_drawn_twice_as_two() -> None:
    people = ["a", "a", "b", "b", "c", "c"]
    first, second = embeddings(3, people, 2.0)
    scores = np.round(first @ second.T, 1)  # with ties
    assert len(np.unique(scores)) < scores.size / 2
    got = resampled_auc(scores, *person_pairs(people), np.array([[2, 2, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]))
    rows = [("a1", 0), ("a1", 1), ("a2", 0), ("a2", 1), ("b", 2), ("b", 3)]
    same = [scores[i, j] for one, i in rows for other, j in rows if one == other and i != j]
    other = [scores[i, j] for one, i in rows for two, j in rows if one[0] != two[0]]
    assert got[0] == pytest.approx(np.mean([[(x > y) + (x == y) / 2 for y in other] for x in same]))
    assert np.isnan(got[1])  # one person alone: nobody to be mistaken for


def test_pairs_of_one_session_and_of_other_probes_are_left_out() -> None:
    people, sessions = ["a", "a", "a", "b"], ["s", "s", "t", "u"]
    same, different = person_pairs(people, sessions)
    assert same.sum() == 4 and not same[0, 1] and same[0, 2] and different.sum() == 6
    same, different = person_pairs(people, None, np.array([True, False, False, False]))
    assert same[:, 0].tolist() == [False, True, True, False] and not same[:, 1:].any() and different.sum() == 1
