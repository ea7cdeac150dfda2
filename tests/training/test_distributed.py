"""Several processes and micro-batches: they train what one process trains on the whole batch.

Two gloo processes are forked once, on everything that needs them, from one that has imported torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.core import faults
from stages.core.artifact import SCRATCH, open_artifact
from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError
from stages.core.tensors import to_tensor
from stages.core.tracking import Silent, Tracker
from stages.core.weights import load_network
from stages.networks.stylegan2 import Discriminator, Generator, minibatch_std
from stages.pair.batches import unpaired_batches
from stages.pair.tps.batches import aligned_batches
from stages.pair.tps.translator import TpsTranslator
from stages.student.batches import pair_batches, photo_batches
from stages.student.blaze import Blaze
from stages.student.pix2pix import Pix2Pix
from stages.student.pix2pix import Pix2PixWeights as StudentWeights
from stages.student.stage import StudentStage
from stages.style.sampling.candidates import Sampling
from stages.style.stage import Images, StyleStage
from stages.style.stylegan2_ada import Ada, Recipe, StyleGAN2
from stages.training import distributed
from stages.training.checkpoint import load_checkpoint
from stages.training.draws import Draws
from stages.training.fit import Batches, Task, Update, fit
from stages.training.losses import path_length_penalty
from tests.tools import tiny_blaze, tiny_editor
from tests.tools.aligned_toys import faces
from tests.tools.pair_toys import heads, translator, weights
from tests.tools.tiny_pairs import STYLE, data_artifact, pair_artifact, toys
from tests.training import test_fit

Toy = tuple[Task, Batches, Train]


def style() -> Toy:
    """R1, path length, mixing, noise, ADA that moves, minibatch groups of 4."""
    torch.manual_seed(0)
    generator = Generator(16, 16, 16, channel_base=128, channel_max=8)
    discriminator = Discriminator(16, channel_base=128, channel_max=8, mbstd_group_size=4)
    recipe = Recipe(r1_gamma=2.0, r1_every=2, pl_every=2, ema_images=50.0, noise=True, precision="float32")
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
    ada = Ada(pipe="bgc", target=0.1, p_start=0.3, p_max=0.9, images=500, every=2)
    length = Train(images=64, batch=16, lr=2e-3, seed=5, checkpoint_images=32)
    return StyleGAN2(generator, discriminator, length.lr, recipe, ada), Images(toys(0, 24, 16)[0], 5, True), length


def pair() -> Toy:
    """Both directions, masks, heads on random colours, spectral norms."""
    length = Train(images=12, batch=4, lr=1e-3, seed=5, checkpoint_images=8)
    model = translator(weights=weights(cam=10.0, mask=1.0, mask_tv=0.2))
    photo, drawn = heads(8, 0, False), heads(8, 1, True)
    return model.task(32, length), unpaired_batches(*photo, *drawn, seed=0), length


def aligned() -> Toy:
    """Splines, both branches, the local module, batch norms, spectral norms, the perceptual cycle."""
    length = Train(images=12, batch=4, lr=1e-3, seed=5, checkpoint_images=8)
    model = TpsTranslator(generator="nano", discriminator_width=4, discriminator_layers=1, precision="float32")
    return model.task(32, length), aligned_batches(faces(10, False), faces(8, True), 0, 0.02, 8), length


def student() -> Toy:
    """Flips, batch norms, the discriminator after the warm-up, and photos that move and are noisy."""
    length = Train(images=12, batch=4, lr=1e-3, seed=5, checkpoint_images=8)
    arrays = toys(0, 12, 32)
    model = Pix2Pix(
        tier="nano", discriminator_width=4, warm_up=0.3, ema_images=20, precision="float32", weights=StudentWeights()
    )
    task = model.task(length, {})
    task.preview = dict  # type: ignore[method-assign]
    return task, pair_batches(*arrays, seed=5, blurred=True), length


def editor() -> Toy:
    """The generator's samples beside the photos, pasted patches, strengths, shrunken directions."""
    return tiny_editor.training(16)


def blaze() -> Toy:
    """Two parts: heads, adversary and R1 by groups; then an encoder whose batch norms see photos and drawn faces."""
    length = Train(images=32, batch=8, lr=2e-3, seed=5, checkpoint_images=16)
    model = Blaze(channel_base=256, encoder_width=0.1, warm_up=0.0, encoder_share=0.5, precision="float32")
    photos = toys(0, 16, 32)[0]
    torch.manual_seed(5)
    task = model.task(length, *tiny_blaze.teacher(32), tiny_blaze.reader(), to_tensor(photos[:2]))
    task.preview = dict  # type: ignore[method-assign]
    return task, photo_batches(photos, 5), length


def student_stage() -> StudentStage:
    model = Pix2Pix(tier="nano", discriminator_width=4, precision="float32", weights=StudentWeights())
    return StudentStage(model=model, train=Train(images=8, batch=4, lr=1e-3), target=STYLE)


# Shares of a training's way. Sums round otherwise in pieces, and Adam makes a step of a gradient that is all rounding;
# measured: 5e-6 and 5e-4. Draws, buffers or groups of a micro-batch by itself: 0.2 and more; its own path mean: 3e-3.
TOLERANCE = {"style": 1e-3, "pair": 1e-2, "aligned": 1e-2, "student": 1e-2, "editor": 1e-2, "blaze": 1e-2}
# Phases that move no buffer.
STILL = {("style", "Dreg"), ("editor", "editor"), *(("blaze", name) for name in ("generator", "discriminator", "r1"))}
TOYS: dict[str, Callable[[], Toy]] = {
    "style": style, "pair": pair, "aligned": aligned, "student": student, "editor": editor,
    "blaze": blaze,
}  # fmt: skip


def trained(name: str, folder: Path, **changes: Any) -> dict[str, Tensor]:
    """The state at the end of a toy's training in `folder`."""
    task, batches, length = TOYS[name]()
    length = Train(**(vars(length) | changes))
    (folder / name).mkdir(parents=True, exist_ok=True)
    fit(
        task,
        batches,
        train=length,
        scratch=folder / name,
        runtime=Runtime("cpu", 1, Tracker(folder / name)),
        label=name,
    )
    return state(task)


def state(task: Task) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in task.state_dict().items()}


def apart(one: dict[str, Tensor], two: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """How far two states lie apart, as a share of the way that the first has come; the worst of the networks."""

    def length(a: dict[str, Tensor], b: dict[str, Tensor], keys: list[str]) -> float:
        return float(sum((a[key].double() - b[key].double()).square().sum() for key in keys)) ** 0.5

    nets = {key.partition(".")[0] for key in one} - {"sign_sum", "sign_count"}  # of which only the ratio counts
    groups = [[key for key in one if key.partition(".")[0] == net] for net in nets]
    moved = [keys for keys in groups if length(one, start, keys)]  # an editor's classifier and reader stay
    assert all(length(one, two, keys) == 0 for keys in groups if keys not in moved)
    return max(length(one, two, keys) / length(one, start, keys) for keys in moved)


def join(rank: int, port: int, folder: Path) -> None:
    """One of two processes: every toy to its end, and the pair toy stopped on the way and resumed."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    for name in TOYS:
        torch.save(trained(name, folder), folder / f"{name}{rank}.pt")
    torch.save(trained("style", folder / "both", accumulate=2), folder / f"both{rank}.pt")
    trained("pair", folder / "resumed", images=8)
    torch.save(trained("pair", folder / "resumed"), folder / f"resumed{rank}.pt")
    try:
        trained("style", folder / "odd", batch=12, accumulate=4)
    except TristyleError as error:
        (folder / f"refusal{rank}.txt").write_text(str(error))
    with distributed.alone():
        assert distributed.world() == 1 and distributed.rank() == 0
    stage = student_stage()
    inputs = {kind: open_artifact(folder / "sealed" / kind, kind) for kind in ("data", "pair")}
    track = Silent() if rank else Tracker(folder / "stage")
    (stage.join if rank else stage.run)(inputs, folder / "stage", Runtime("cpu", 1, track))


class Lost(test_fit.Toy):
    """Its second process is killed in the update that ends at 20 images."""

    def after_update(self, images: int, batch: int) -> dict[str, float]:
        if images == 20 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().after_update(images, batch)


def lose(rank: int, port: int, folder: Path) -> None:
    """One of two processes, of which the second does not come to the end."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    runtime = test_fit.runtime(folder)
    try:
        fit(Lost(), test_fit.batches, train=test_fit.train(), scratch=folder, runtime=runtime, label="toy")
    except RuntimeError as error:
        (folder / "said.txt").write_text(str(faults.line_of(error)))
    os._exit(0)  # torch aborts a process that ends connected


def together(work: Callable[[int, int, Path], None], path: Path, seconds: float) -> list[int | None]:
    """Exit codes of two gloo processes that do `work`, ended after so many seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # which optimisers import
    workers = [context.Process(target=work, args=(rank, port, path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds)
        worker.kill()
        worker.join()
    return [worker.exitcode for worker in workers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left their states and logs."""
    path = tmp_path_factory.mktemp("two")
    (path / "stage").mkdir()
    data_artifact(path / "sealed" / "data", 32)  # the toys log beside it
    pair_artifact(path / "sealed" / "pair", 32)
    assert together(join, path, 600) == [0, 0]
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """What one process makes of each toy, and how each began."""
    path = tmp_path_factory.mktemp("one")
    ends = {name: trained(name, path) for name in TOYS}
    return ends | {f"{name} start": state(toy()[0]) for name, toy in TOYS.items()}


@pytest.mark.parametrize("name", TOYS)
def test_two_processes_train_what_one_trains(name: str, folder: Path, alone: dict[str, dict[str, Tensor]]) -> None:
    first, second = (torch.load(folder / f"{name}{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert apart(alone[name], first, alone[f"{name} start"]) < TOLERANCE[name]
    assert float(alone["style"]["augment.p"]) != 0.3  # ADA has moved


def test_processes_that_cut_their_share_in_two_do_too(folder: Path, alone: dict[str, dict[str, Tensor]]) -> None:
    assert apart(alone["style"], torch.load(folder / "both0.pt"), alone["style start"]) < TOLERANCE["style"]


@pytest.mark.parametrize("name", ["style", "pair", "editor"])
def test_two_micro_batches_train_what_the_whole_batch_trains(
    name: str, tmp_path: Path, alone: dict[str, dict[str, Tensor]]
) -> None:
    assert apart(alone[name], trained(name, tmp_path, accumulate=2), alone[f"{name} start"]) < TOLERANCE[name]


def test_two_processes_resume_bit_for_bit(folder: Path) -> None:
    whole, resumed = torch.load(folder / "pair0.pt"), torch.load(folder / "resumed0.pt")
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


@pytest.mark.parametrize("name", TOYS)
def test_every_buffer_that_losses_move_is_declared(name: str) -> None:
    task, batches, length = TOYS[name]()
    update, batch = Update(images=length.images), batches(0, length.batch)
    task.train()
    for phase in task.phases:
        before = {key: value.clone() for key, value in task.named_buffers() if value.is_floating_point()}
        declared = {value.data_ptr() for value in task.moved_buffers(phase.name)}
        task.losses(phase.name, batch, update)
        after = dict(task.named_buffers())
        moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
        assert {key for key in moved if after[key].data_ptr() not in declared} == set(), phase.name
        assert moved or (name, phase.name) in STILL


def test_a_killed_process_ends_the_others_in_one_line(folder: Path, tmp_path: Path) -> None:
    """`folder` comes first: it has the processes' parent import torch."""
    begun = time.monotonic()
    assert together(lose, tmp_path, 60) == [0, -signal.SIGKILL] and time.monotonic() - begun < 60
    assert (tmp_path / "said.txt").read_text().startswith("processes: another one is gone")
    kept = load_checkpoint(tmp_path / "toy.ckpt")
    assert kept is not None and kept["images"] == 16


def test_the_log_is_written_once_and_holds_the_means(folder: Path, tmp_path: Path) -> None:
    trained("style", tmp_path)
    one, two = (read_jsonl(path / "style" / "log.jsonl") for path in (tmp_path, folder))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.pop("phase") == b.pop("phase") and b == pytest.approx(a, rel=1e-3, abs=1e-5)


def test_a_batch_that_does_not_divide_is_refused_by_every_process(folder: Path) -> None:
    for rank in range(2):
        text = (folder / f"refusal{rank}.txt").read_text()
        assert "train.batch=12" in text and "multiple of 8" in text and "\n" not in text


def test_the_second_process_joins_a_stage_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    inputs = {kind: open_artifact(folder / "sealed" / kind, kind) for kind in ("data", "pair")}
    student_stage().join(inputs, tmp_path, Runtime("cpu", 1, Silent()))
    state = load_checkpoint(tmp_path / SCRATCH / "student.ckpt")  # this one is alone, so it keeps its state
    assert state is not None and [entry.name for entry in tmp_path.iterdir()] == [SCRATCH]
    both = load_network(folder / "stage" / "student.safetensors").state_dict()
    for name, value in both.items():
        torch.testing.assert_close(value, state["task"][f"student_ema.{name}"], rtol=1e-3, atol=1e-4)


def test_micro_batches_of_the_style_training_hold_whole_groups() -> None:
    settings = {"start": "scratch", "target": "photo", "recipe": Recipe(r1_gamma=1.0), "sampling": Sampling(count=1)}
    StyleStage(train=Train(images=8, batch=8, lr=0.1, accumulate=2), **settings)
    with pytest.raises(ConfigError, match="not a multiple of 16. Choose a multiple of 16"):
        StyleStage(train=Train(images=8, batch=8, lr=0.1, accumulate=4), **settings)


def test_accumulate_refuses_what_cannot_be() -> None:
    for bad in (0, 3, 1.5):
        with pytest.raises(ConfigError, match="accumulate"):
            Train(images=8, batch=4, lr=0.1, accumulate=bad)  # type: ignore[arg-type]


def test_rows_of_a_draw_are_those_of_the_whole_batch() -> None:
    def draw(n: int) -> Tensor:
        return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))

    whole = Draws().own(draw, 6)
    for index in range(3):
        assert torch.equal(Draws(index, 3).own(draw, 2), whole[index::3])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_noise_follows_the_layout_of_the_images(layout: torch.memory_format) -> None:
    images = torch.zeros(8, 3, 4, 4).contiguous(memory_format=layout)
    torch.manual_seed(2)
    whole = Draws().normal_like(images)
    torch.manual_seed(2)
    assert torch.equal(Draws(1, 4).normal_like(images[1::4].contiguous(memory_format=layout)), whole[1::4])


def test_interleaved_micro_batches_keep_the_minibatch_groups() -> None:
    features = torch.randn(16, 2, 4, 4)
    whole = minibatch_std(features, 4)
    assert torch.allclose(minibatch_std(features[1::2], 4), whole[1::2])
    assert not torch.allclose(minibatch_std(features[:8], 4), whole[:8])


def test_path_length_gradients_of_micro_batches_average_to_the_whole_batchs() -> None:
    lengths = torch.rand(8, dtype=torch.float64, requires_grad=True)
    mean = torch.tensor(2.0, dtype=torch.float64)
    penalty, moved = path_length_penalty(lengths, mean)
    (expected,) = torch.autograd.grad(penalty.mean(), lengths)
    parts = [path_length_penalty(lengths[index::2], mean, whole=lengths.detach().mean()) for index in range(2)]
    (found,) = torch.autograd.grad(torch.stack([part.mean() for part, _ in parts]).mean(), lengths)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(parts[0][1], moved)
