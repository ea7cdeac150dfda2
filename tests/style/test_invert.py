"""Inversion: what projection finds and leaves alone, the encoder and its training, photos to latents."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.files import data_file, read_jsonl, sha256_file
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tensors import to_tensor, to_uint8
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.networks.encoder import Encoder, LatentDiscriminator, compose
from stages.networks.face_reader import Reader, load_reader
from stages.networks.latents import generator_id, load_encoder, w_statistics
from stages.networks.stylegan2 import Generator
from stages.recipes.inversion_encoder import likeness, render_photos
from stages.style.inversion.e4e import POOL, Encode, Encoding, begin_with, photo_batches, train_encoder
from stages.style.inversion.encoder import Invert, invert_photos
from stages.style.inversion.optimise import (
    Distance,
    Project,
    decode,
    noise_regulariser,
    optimise,
    project,
    refinement,
)
from stages.training.fit import Update
from stages.training.losses import perceptual_distance, pixel_distance

SIZE = 16


def tiny(seed: int = 0, noise: float = 0.0) -> Generator:
    """A random generator of 16 px with 6 layers, whose samples differ."""
    torch.manual_seed(seed)
    generator = Generator(z_dim=8, w_dim=8, img_resolution=SIZE, channel_base=128, channel_max=16).eval()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(noise)
            elif "torgb.weight" in name:
                parameter.mul_(0.5)
    return generator


def pooled(images: Tensor) -> list[Tensor]:
    """A stand-in for the reader's maps."""
    return [images, F.avg_pool2d(images, 4)]


def samples(generator: Generator, count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """ws [count, num_ws, w_dim] and the pictures that they draw."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ws = generator.mapping(z).clone()
        return ws, decode(generator, ws)


def runtime(path: Path) -> Runtime:
    return Runtime("cpu", 1, Tracker(path))


def encode(images: int = 96, **changes) -> Encode:
    train = Train(images=images, batch=4, lr=2e-3, checkpoint_images=16, preview_images=images)
    return Encode(**({"train": train, "samples": 2} | changes))


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader()


# Projection


def test_the_schedule_is_the_published_one() -> None:
    plan = Project()
    assert plan.lr_at(0) == 0 and plan.lr_at(25) == pytest.approx(0.05) and plan.lr_at(50) == pytest.approx(0.1)
    assert plan.lr_at(750) == pytest.approx(0.1) and plan.lr_at(875) == pytest.approx(0.05)
    assert plan.lr_at(999) == pytest.approx(0.1 * (0.5 - 0.5 * math.cos(math.pi * 0.004)))
    assert plan.noise_at(0, 9.0) == pytest.approx(0.45) and plan.noise_at(375, 9.0) == pytest.approx(0.45 / 4)
    assert plan.noise_at(750, 9.0) == 0 and plan.noise_at(999, 9.0) == 0
    near = refinement(50)
    assert near.lr_at(0) == near.lr and near.noise_at(0, 9.0) == 0


def test_projection_finds_what_the_generator_drew() -> None:
    generator = tiny()
    _, images = samples(generator, 2)
    before = pixel_distance(decode(generator, w_statistics(generator)[0].expand(2, 6, -1)), images)
    for space in ("w", "w+"):
        ws = project(generator, images, Project(steps=50, space=space), features=pooled)
        assert ws.shape == (2, 6, 8)
        assert (pixel_distance(decode(generator, ws), images) < before / 5).all(), space
        assert torch.equal(ws[:, :1].expand_as(ws), ws) == (space == "w")


def test_w_plus_reaches_what_w_cannot() -> None:
    generator = tiny()
    ws, _ = samples(generator, 4)
    mixed = torch.cat([ws[:2, :3], ws[2:, 3:]], dim=1)
    images = decode(generator, mixed).detach()
    found = [project(generator, images, Project(steps=80, space=space), features=pooled) for space in ("w", "w+")]
    errors = [pixel_distance(decode(generator, ws), images).mean() for ws in found]
    assert errors[1] < errors[0] / 2


def test_photos_do_not_feel_each_other_and_seeds_decide() -> None:
    generator = tiny()
    _, images = samples(generator, 3)
    whole = project(generator, images, Project(steps=12), features=pooled, batch=3)
    assert torch.equal(whole, project(generator, images, Project(steps=12), features=pooled, batch=3))
    torch.testing.assert_close(
        whole, project(generator, images, Project(steps=12), features=pooled, batch=1), rtol=1e-3, atol=1e-3
    )
    other = project(generator, images, Project(steps=12, seed=1), features=pooled)
    assert (whole - other).abs().max() > 1e-3


def test_projection_leaves_the_generator_alone() -> None:
    generator = tiny(noise=0.1)
    before = copy.deepcopy(generator.state_dict())
    _, images = samples(generator, 1)
    project(generator, images, Project(steps=3, noise=True), features=pooled)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in generator.parameters()) and not generator.training


def test_a_start_is_kept_and_refined() -> None:
    generator = tiny()
    ws, images = samples(generator, 2)
    assert torch.equal(project(generator, images, refinement(0), ws, pooled), ws)
    near = ws + 0.5 * torch.randn(ws.shape, generator=torch.Generator().manual_seed(3))
    refined = project(generator, images, refinement(40), near, pooled)
    errors = [pixel_distance(decode(generator, codes), images).mean() for codes in (near, refined)]
    assert errors[1] < errors[0] / 10
    for steps in (1, 2, 5):  # few steps are small enough to end below the start
        codes = project(generator, images, refinement(steps), near, pooled)
        assert pixel_distance(decode(generator, codes), images).mean() < errors[0]


def test_noise_images_are_found_where_there_is_noise() -> None:
    _, images = samples(tiny(seed=5), 2)
    generator = tiny(noise=0.3).requires_grad_(False)
    plan = Project(steps=40, noise=True)
    with_noise = optimise(generator, images, plan, pooled)
    without = optimise(generator, images, Project(steps=40), pooled)
    assert not without.noise and not optimise(tiny(), images, Project(steps=1, noise=True), pooled).noise
    assert set(with_noise.noise) == {"b4.conv1.noise_const"} | {
        f"b{r}.conv{i}.noise_const" for r in (8, 16) for i in (0, 1)
    }
    for image in with_noise.noise.values():
        assert image.shape[:2] == (2, 1)
        torch.testing.assert_close(image.mean(dim=(1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
        torch.testing.assert_close(image.square().mean(dim=(1, 2, 3)), torch.ones(2), rtol=0, atol=1e-4)
    distance = Distance(images, pooled)
    found = distance(decode(generator, with_noise.ws, with_noise.noise)).mean()
    assert found < distance(decode(generator, without.ws)).mean()


def test_the_noise_regulariser_by_hand() -> None:
    assert noise_regulariser(torch.ones(2, 1, 16, 16)).tolist() == [4, 4]  # two axes, at 16 and at 8 px
    checker = torch.ones(1, 1, 8, 8)
    checker[..., ::2] = -1
    assert noise_regulariser(checker).tolist() == [2]  # -1 along one axis, 1 along the other
    white = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(noise_regulariser(white)) < 0.1


def test_perceptual_distance_is_of_directions() -> None:
    a, b = torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    a[:, 0], b[:, 1] = 3.0, 5.0
    assert float(perceptual_distance([a], [b])) == pytest.approx(2)
    assert float(perceptual_distance([a, a], [7 * a, b])) == pytest.approx(1)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": -1},
        {"steps": 1.5},
        {"space": "z"},
        {"lr": 0},
        {"lr": float("nan")},
        {"rampdown": 2},
        {"beta1": 1.0},
        {"w_noise": -1},
        {"pixel": 0, "perceptual": 0},
    ],
)
def test_bad_plans_are_refused(changes) -> None:
    with pytest.raises(ConfigError):
        Project(**changes)


def test_photos_of_another_size_are_refused(tmp_path) -> None:
    with pytest.raises(TristyleError, match="photos of 8x8 px, a generator of 16 px"):
        project(tiny(), torch.zeros(1, 3, 8, 8), Project(steps=1), features=pooled)
    with pytest.raises(TristyleError, match="data.size=16"):
        invert_photos(tiny(), np.zeros((1, 8, 8, 3), np.uint8), Invert(), runtime(tmp_path), tmp_path)


# Encoder


@pytest.mark.parametrize(("num_ws", "size"), [(6, 32), (10, 64), (14, 256)])
def test_the_encoder_begins_at_the_mean_face(num_ws, size) -> None:
    torch.manual_seed(0)
    encoder = Encoder(num_ws, 128, size)
    encoder.w_avg.fill_(3.0)
    with torch.no_grad():
        ws = encoder(torch.randn(2, 3, 64, 64).clamp(-1, 1))
        base, deltas = encoder.parts(F.interpolate(torch.ones(1, 3, 64, 64), (size, size)))
    assert ws.shape == (2, num_ws, 128) and base.shape == (1, 128) and deltas.shape == (1, num_ws - 1, 128)
    assert 0 < (ws - 3).abs().max() < 1
    assert 0.5e6 < sum(p.numel() for p in encoder.parameters()) < 1.7e6


def test_the_encoder_begins_with_the_readers_trunk(reader) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoder = Encoder(10, 128)
    begin_with(encoder, reader)
    with torch.no_grad():
        for own, given in zip(encoder.trunk(images), reader.encode(images), strict=True):
            torch.testing.assert_close(own, given, rtol=1e-4, atol=1e-4)
    small = Encoder(6, 8, 32)  # reads other pixels: a first layer of its own
    first = small.stem[1][0].weight.clone()
    begin_with(small, reader)
    assert torch.equal(small.stem[1][0].weight, first)
    assert torch.equal(small.levels[0][1].second.weight, encoder.levels[0][1].second.weight)


def test_deltas_are_switched_on_from_the_second_layer() -> None:
    base, deltas = torch.ones(1, 2), torch.full((1, 3, 2), 10.0)
    assert compose(base, deltas, 0)[0, :, 0].tolist() == [1, 1, 1, 1]
    assert compose(base, deltas, 2)[0, :, 0].tolist() == [1, 11, 11, 1]
    assert compose(base, deltas)[0, :, 0].tolist() == [1, 11, 11, 11]


def test_an_encoder_survives_its_file(tmp_path) -> None:
    torch.manual_seed(0)
    generator = tiny()
    encoder = Encoder(6, 8, 32, generator=generator_id(generator))
    save_network(tmp_path / "e.safetensors", encoder, half=True)
    stored = load_encoder(generator, tmp_path / "e.safetensors")
    images = torch.rand(1, 3, 32, 32)
    assert stored is not None and torch.allclose(stored(images), encoder(images), atol=1e-2)
    assert load_encoder(tiny(seed=1), tmp_path / "e.safetensors") is None
    save_network(tmp_path / "g.safetensors", generator, half=True)
    assert generator_id(load_network(tmp_path / "g.safetensors")) == generator_id(generator)
    with pytest.raises(TristyleError, match="not an encoder"):
        load_encoder(generator, tmp_path / "g.safetensors")


# Its training


def test_training_stopped_and_resumed_equals_uninterrupted(reader, tmp_path, monkeypatch) -> None:
    generator = tiny()
    photos = to_uint8(samples(generator, 12)[1])
    before = copy.deepcopy(generator.state_dict())
    whole = train_encoder(generator, photos, encode(32), tmp_path / "a", runtime(tmp_path), reader)
    after_update = Encoding.after_update

    def stop(self: Encoding, images: int, batch: int) -> dict[str, float]:
        if images >= 24:
            raise KeyboardInterrupt
        return after_update(self, images, batch)

    monkeypatch.setattr(Encoding, "after_update", stop)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(generator, photos, encode(32), tmp_path / "b", runtime(tmp_path), reader)
    monkeypatch.setattr(Encoding, "after_update", after_update)
    resumed = train_encoder(generator, photos, encode(32), tmp_path / "b", runtime(tmp_path), reader)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_training_learns_to_invert(reader, tmp_path) -> None:
    generator = tiny()
    photos = to_uint8(samples(generator, 64)[1])
    held = samples(generator, 16, seed=9)[1]
    encoder = train_encoder(generator, photos, encode(160, deltas_from=0.05), tmp_path, runtime(tmp_path), reader)
    assert encoder.generator == generator_id(generator)
    with torch.no_grad():
        mean = pixel_distance(decode(generator, encoder.w_avg.expand(16, 6, -1)), held).mean()
        found = pixel_distance(decode(generator, encoder(held)), held).mean()
    assert found < 0.9 * mean
    rows = [row for row in read_jsonl(tmp_path / "log.jsonl") if row["phase"] == "encoder/state"]
    assert rows[0]["deltas"] == 0 and rows[-1]["deltas"] == 5


def test_the_training_reads_its_own_samples_latents(reader) -> None:
    task = Encoding(
        tiny(), reader, encode(100, mixing=1.0, deltas_from=0.05, deltas_until=0.3), torch.zeros(1, 3, SIZE, SIZE)
    ).train()
    assert not task.generator.training and not task.reader.training
    torch.manual_seed(0)
    ws = task._styles(8)
    changes = (ws[:, 1:] != ws[:, :-1]).any(dim=2).sum(dim=1)
    assert changes.tolist() == [1] * 8  # each sample mixes two latents, at one layer
    layers = [task.layers(images) for images in (0, 4, 5, 17, 30, 100)]
    assert layers[:3] == [0, 0, 1] and 1 < layers[3] < 5 and layers[4:] == [5, 5]
    terms = task.losses("encoder", {"images": torch.zeros(4, 3, SIZE, SIZE)}, Update(images=100))
    assert set(terms) == {"pixel", "perceptual", "identity", "regression", "delta_norm", "latent"}
    assert {name for name in task.losses("latent_r1", {"images": torch.zeros(4, 3, 1, 1)}, Update())} == {"r1"}


def test_the_pool_hands_past_codes_back(reader) -> None:
    task = Encoding(tiny(), reader, encode(100), torch.zeros(1, 3, SIZE, SIZE))
    codes = torch.arange(2.0 * POOL)[:, None, None].expand(-1, 6, 8)
    first, second = task._pooled(codes[:POOL], 0), task._pooled(codes[POOL:], 0)
    assert torch.equal(first, codes[:POOL, 0]) and int(task.pooled) == POOL
    past = (second[:, 0] < POOL).sum()
    assert 10 < past < 40  # about half, and what was handed back is no longer in the pool
    assert not set(second[:, 0].tolist()) & set(task.pool[:, 0].tolist())


def test_the_latent_discriminator_takes_any_shape() -> None:
    assert LatentDiscriminator(8)(torch.zeros(2, 6, 8)).shape == (2, 6, 1)


def test_mirrored_batches_are_a_function_of_their_place() -> None:
    photos = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    batches = photo_batches(photos, 0, mirror=True)
    assert torch.equal(batches(4, 4)["images"], batches(4, 4)["images"])
    plain = photo_batches(photos, 0, mirror=False)(4, 4)["images"]
    mirrored = (batches(4, 4)["images"] != plain).any(dim=3).any(dim=2).any(dim=1)
    assert torch.equal(batches(4, 4)["images"][mirrored].flip(3), plain[mirrored])


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": -1},
        {"mixing": 2},
        {"latent": float("nan")},
        {"latent_lr": 0},
        {"deltas_from": 0.5, "deltas_until": 0.4},
        {"pixel": 0, "perceptual": 0},
    ],
)
def test_bad_trainings_are_refused(changes) -> None:
    with pytest.raises(ConfigError):
        encode(**changes)


# Photos to latents


def test_photos_are_inverted_with_and_without_an_encoder(tmp_path) -> None:
    generator = tiny()
    photos = to_uint8(samples(generator, 3)[1])
    alone = invert_photos(generator, photos, Invert(steps_alone=4), runtime(tmp_path), tmp_path, batch=2)
    assert alone.shape == (3, 6, 8) and not (tmp_path / "encoder.ckpt").exists()
    trained = invert_photos(generator, photos, Invert(encode=encode(8)), runtime(tmp_path), tmp_path)
    assert trained.shape == (3, 6, 8) and (tmp_path / "encoder.ckpt").exists()


@pytest.mark.parametrize("changes", [{"steps": -1}, {"steps_alone": 0}, {"steps": True}])
def test_bad_inversions_are_refused(changes) -> None:
    with pytest.raises(ConfigError):
        Invert(**changes)


def test_the_shipped_encoder_is_its_cards_and_inverts_people_it_never_saw(reader, tmp_path) -> None:
    path = data_file("encoder64.safetensors")
    card = json.loads(path.with_suffix(".json").read_text())
    assert sha256_file(path) == card["sha256"] and path.stat().st_size == card["bytes"] <= 3_000_000
    generator = load_network(data_file("base64_generator.safetensors"))
    assert isinstance(generator, Generator) and card["generator"] == generator_id(generator)
    photos = render_photos(5_000_000, 16)
    ws = invert_photos(generator, photos, Invert(), runtime(tmp_path), tmp_path)
    with torch.no_grad():
        found = likeness(reader, decode(generator, ws), to_tensor(photos))
        mean = likeness(reader, decode(generator, w_statistics(generator)[0].expand_as(ws)), to_tensor(photos))
    assert found["l2"] < mean["l2"] / 3 and found["perceptual"] < mean["perceptual"] / 2
    assert found["yaw"] > 0.8
