"""Directions in w: what the weights say, what the reader says, and what moving along them does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.core.files import data_file
from stages.core.settings import ConfigError, TristyleError
from stages.core.tensors import to_tensor
from stages.core.weights import load_network
from stages.metrics.attributes import NAMES, attributes
from stages.networks.face_reader import Reader, load_reader
from stages.networks.latents import decode, latents
from stages.networks.stylegan2 import Generator
from stages.style.editing.directions import (
    Direction,
    Edit,
    Edited,
    apply,
    boundaries,
    boundary,
    conditional,
    draw_edited,
    find_directions,
    load_directions,
    moved,
    save_directions,
    sefa,
)
from stages.style.sampling.candidates import Sampling, Seeds


@pytest.fixture(scope="module")
def tiny() -> Generator:
    torch.manual_seed(0)
    return Generator(8, 12, 32, channel_base=512, channel_max=16).eval()


@pytest.fixture(scope="module")
def base() -> Generator:
    """The shipped generator of photos."""
    return load_network(data_file("base64_generator.safetensors"))


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader()


@pytest.fixture(scope="module")
def found(base, reader) -> dict[str, Direction]:
    return boundaries(base, reader, count=480, psi=0.7)


# Closed form


def affine_rows(generator: Generator, low: int, high: int, to_rgb: bool) -> torch.Tensor:
    """Unit rows of the affine layers, gathered without the names that `sefa` goes by."""
    rows = []
    for r in generator.synthesis.block_resolutions:
        block = getattr(generator.synthesis, f"b{r}")
        layers = [block.conv1] + ([block.conv0] if r > 4 else []) + ([block.torgb] if to_rgb else [])
        rows += [layer.affine.weight for layer in layers if low <= r <= high]
    rows = torch.cat(rows).double()
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(("low", "high", "to_rgb"), [(4, 1024, False), (8, 16, True), (32, 32, False)])
def test_closed_form_directions_are_sorted_singular_vectors(tiny, low: int, high: int, to_rgb: bool) -> None:
    """Against the singular value decomposition of the rows; strongest first, where peers leave them unsorted."""
    directions, strengths = sefa(tiny, low, high, count=12, to_rgb=to_rgb)
    _, singular, vectors = torch.linalg.svd(affine_rows(tiny, low, high, to_rgb).detach(), full_matrices=False)
    np.testing.assert_allclose(strengths, singular.square(), rtol=1e-4)
    assert (strengths.diff() <= 0).all()
    np.testing.assert_allclose((directions.double() * vectors).sum(dim=1).abs(), torch.ones(12), atol=1e-4)
    np.testing.assert_allclose(directions @ directions.t(), torch.eye(12), atol=1e-5)
    assert (directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_closed_form_asks_for_what_there_is(tiny) -> None:
    with pytest.raises(TristyleError, match="no layer from 64"):
        sefa(tiny, low=64)
    with pytest.raises(TristyleError, match="only 12 directions"):
        sefa(tiny, count=13)


# Boundaries


def test_a_planted_boundary_is_found_and_its_accuracy_is_honest() -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(600, 16, generator=generator)
    planted = torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0)
    strong = boundary(w, (w @ planted).exp())  # any rising function of it: only ranks count
    assert float(strong.normal @ planted) > 0.97 and strong.accuracy > 0.95
    assert float(strong.normal.norm()) == pytest.approx(1, abs=1e-5) and strong.std == pytest.approx(1, abs=0.1)
    noise = boundary(w, torch.randn(600, generator=generator))
    assert 0.25 < noise.accuracy < 0.75


def test_attributes_are_the_readers(base, reader) -> None:
    images = torch.from_numpy(draw_edited(base, latents(base.z_dim, range(4)), [], {})).permute(0, 3, 1, 2) / 127.5 - 1
    reading = reader.read(images)
    seen = attributes(reading, images)
    assert tuple(seen) == NAMES and all(value.shape == (4,) for value in seen.values())
    assert torch.equal(seen["yaw"], reading.pose[:, 0]) and torch.equal(seen["smile"], reading.expression[:, 0])
    dark = attributes(reading, images * 0.5 - 0.5)  # the same heads in less light
    for name in ("hair_lightness", "skin_lightness"):
        assert (dark[name] < seen[name]).all() and (seen[name] <= 100).all()


@pytest.mark.parametrize("name", ["smile", "yaw", "glasses"])
def test_moving_along_an_attribute_raises_it_and_keeps_the_person(base, reader, found, name: str) -> None:
    """On people that the boundary was not found with."""
    # Few samples show little of a smile; glasses are rarer than the fifth that counts as an end.
    assert found[name].accuracy > {"yaw": 0.9, "glasses": 0.8, "smile": 0.55}[name]
    z = latents(base.z_dim, range(5000, 5016))
    levels, people = [], []
    for alpha in (-2.0, 0.0, 2.0):
        edit = Edit(direction=name, alpha=alpha, low=8, conditioned_on=["skin_lightness"])
        images = to_tensor(draw_edited(base, z, [edit], found))
        reading = reader.read(images)
        levels.append(attributes(reading, images)[name])
        people.append(reading.identity)
    below, middle, above = (float(level.mean()) for level in levels)
    assert below < middle < above
    assert ((levels[2] - levels[0]) > 0).float().mean() > 0.8
    others = (people[1] @ people[1].t())[~torch.eye(16, dtype=torch.bool)].mean()
    for moved_people in (people[0], people[2]):
        assert (moved_people * people[1]).sum(dim=1).mean() > max(0.7, float(others) + 0.3)


def test_a_condition_holds_its_attribute(base, reader, found) -> None:
    """Glasses go with darker skin in the samples; conditioned, the skin's tone stays."""
    z = latents(base.z_dim, range(5000, 5012))
    plain = Edit(direction="glasses", alpha=2.0)
    tones = []
    for edits in ([], [plain], [Edit(direction="glasses", alpha=2.0, conditioned_on=["skin_lightness"])]):
        images = to_tensor(draw_edited(base, z, edits, found))
        tones.append(float(attributes(reader.read(images), images)["skin_lightness"].mean()))
    assert abs(tones[2] - tones[0]) < 0.5 * abs(tones[1] - tones[0])


# Moving


def test_conditional_direction_is_orthogonal_to_all_conditions() -> None:
    normal, *others = torch.nn.functional.normalize(
        torch.randn(4, 10, generator=torch.Generator().manual_seed(2)), dim=1
    )
    rest = conditional(normal, others)
    assert float(rest.norm()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(torch.stack(others) @ rest, torch.zeros(3), atol=1e-5)
    one = conditional(normal, others[:1])  # InterFaceGAN's formula for a single condition
    expected = normal - (normal @ others[0]) * others[0]
    np.testing.assert_allclose(one, expected / expected.norm(), atol=1e-5)
    assert torch.equal(conditional(normal, []), normal)
    with pytest.raises(TristyleError, match="nothing of the direction"):
        conditional(normal, [others[0], 2 * normal + others[0]])


def test_edits_move_the_layers_of_their_resolutions_alone(tiny) -> None:
    """Images' coarse levels do not know of a fine edit, and ws outside the range are untouched."""
    direction = Direction(torch.nn.functional.one_hot(torch.tensor(3), 12).float(), std=0.5)
    ws = torch.randn(2, tiny.num_ws, 12, generator=torch.Generator().manual_seed(3))
    for low, high, expected in [(4, 4, [0]), (4, 8, [0, 1, 2]), (16, 16, [3, 4]), (32, 1024, [5, 6, 7])]:
        done = apply(ws, [Edit(direction="smile", alpha=2.0, low=low, high=high)], {"smile": direction})
        changed = (done != ws).any(dim=(0, 2)).nonzero().flatten().tolist()
        assert changed == expected == list(range(tiny.num_ws))[moved(low, high, tiny.num_ws)]
        np.testing.assert_allclose((done - ws)[:, changed, 3], np.ones((2, len(changed))), atol=1e-6)
    fine = apply(ws, [Edit(direction="smile", alpha=2.0, low=32)], {"smile": direction})
    block = tiny.synthesis.b16
    kept = []
    block.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    with torch.no_grad():
        images = [tiny.synthesis(code, "none") for code in (ws, fine)]
    block._forward_hooks.clear()
    assert torch.equal(*kept) and not torch.equal(*images)


def test_edits_add_up_and_none_is_nothing(tiny) -> None:
    ws = torch.zeros(1, tiny.num_ws, 12)
    eye = torch.eye(12)
    directions = {"smile": Direction(eye[0], 1.0), "yaw": Direction(eye[1], 2.0)}
    both = apply(ws, [Edit(direction="smile", alpha=3), Edit(direction="yaw", alpha=-1)], directions)
    np.testing.assert_allclose(both[0, 0], 3 * eye[0] - 2 * eye[1])
    assert torch.equal(apply(ws, [], {}), ws) and not ws.any()


def test_directions_are_found_as_edits_name_them(tiny, reader, tmp_path) -> None:
    edits = [Edit(direction=1, alpha=2.0, low=16), Edit(direction="yaw", alpha=1.0, conditioned_on=["smile"])]
    assert edits[0].key == "sefa1_16_1024"
    directions = find_directions(tiny, reader, edits, count=30)
    assert set(directions) == {"sefa1_16_1024", "yaw", "smile"}
    np.testing.assert_allclose(directions["sefa1_16_1024"].normal, sefa(tiny, 16, 1024, 2)[0][1])
    assert find_directions(tiny, reader, []) == {}
    save_directions(tmp_path, directions)
    loaded = load_directions(tmp_path)
    for name, one in directions.items():
        assert torch.equal(loaded[name].normal, one.normal)
        assert (loaded[name].std, loaded[name].accuracy) == (one.std, one.accuracy)
    assert loaded["sefa1_16_1024"].accuracy is None
    z = latents(8, range(2))
    assert np.array_equal(draw_edited(tiny, z, edits, directions), draw_edited(tiny, z, edits, loaded))


def test_edited_candidates_are_the_same_faces_moved(tiny) -> None:
    seeds = Seeds(Sampling(count=4, psi=0.7, seed=9))
    edits, directions = {"turn": Edit(direction="yaw", alpha=2.0)}, {"yaw": Direction(torch.eye(12)[1], 0.5)}
    edited = Edited(seeds, edits, directions)
    np.testing.assert_allclose(
        edited.ws(tiny, [0, 2]) - seeds.ws(tiny, [0, 2]), torch.eye(12)[1].expand(2, 8, 12), atol=1e-6
    )
    assert edited.record(2) == {"seed": 11, "psi": 0.7, "edit": {"turn": 2.0}}
    kept = edited.tensors(tiny, [0, 2])
    assert torch.equal(kept["z"], latents(8, [9, 11])) and torch.equal(kept["ws"], edited.ws(tiny, [0, 2]))
    expected = draw_edited(tiny, latents(8, [9, 11]), edits.values(), directions, psi=0.7)
    assert np.array_equal(decode(tiny, kept["ws"]), expected)


def test_what_does_not_fit_is_refused(tiny, tmp_path) -> None:
    ws = torch.zeros(1, tiny.num_ws, 12)
    with pytest.raises(TristyleError, match="no direction smile"):
        apply(ws, [Edit(direction="smile", alpha=1.0)], {})
    with pytest.raises(TristyleError, match="9 components, w has 12"):
        apply(ws, [Edit(direction="smile", alpha=1.0)], {"smile": Direction(torch.zeros(9), 1.0)})
    with pytest.raises(TristyleError, match="no layer from 64 px in a generator of 32 px"):
        apply(ws, [Edit(direction="smile", alpha=1.0, low=64)], {"smile": Direction(torch.zeros(12), 1.0)})
    with pytest.raises(TristyleError, match="no such directions"):
        load_directions(tmp_path)
    save_directions(tmp_path, {"smile": Direction(torch.zeros(12), 1.0)})
    (tmp_path / "directions.json").write_text('{"yaw": {"std": 1, "accuracy": 1}}')
    with pytest.raises(TristyleError, match="damaged"):
        load_directions(tmp_path)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"direction": "age", "alpha": 1.0}, "direction"),
        ({"direction": -1, "alpha": 1.0}, "direction"),
        ({"direction": "smile", "alpha": float("nan")}, "alpha"),
        ({"direction": "smile", "alpha": 1.0, "low": 12}, "low"),
        ({"direction": "smile", "alpha": 1.0, "low": 32, "high": 16}, "low"),
        ({"direction": "smile", "alpha": 1.0, "conditioned_on": ["age"]}, "conditioned_on"),
        ({"direction": "smile", "alpha": 1.0, "conditioned_on": ["smile"]}, "conditioned_on"),
    ],
)
def test_bad_settings_name_their_key(settings, key: str) -> None:
    with pytest.raises(ConfigError) as error:
        Edit(**settings)
    assert error.value.key == key


@pytest.mark.parametrize(
    ("old", "new"), [("hair", "hair_area"), ("hair_tone", "hair_lightness"), ("skin_tone", "skin_lightness")]
)
def test_an_old_name_is_answered_with_the_new_one(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"direction: '{old}' is an old name. Write {new}"):
        Edit(direction=old, alpha=1.0)
    with pytest.raises(ConfigError, match=f"conditioned_on: .* Write {new}"):
        Edit(direction="yaw", alpha=1.0, conditioned_on=[old])


def test_a_direction_that_samples_do_not_show_is_refused(base, reader, monkeypatch) -> None:
    monkeypatch.setattr("stages.metrics.attributes.SEEN", 0.9)  # hair never covers so much
    with pytest.raises(TristyleError, match="0 of 20 samples show hair_lightness, 20 are needed"):
        boundaries(base, reader, count=20, names=["hair_lightness"])
