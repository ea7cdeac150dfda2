"""Stage style: data -> a generator in the target's look, fused with its source, and the set of images it draws."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stages.core.artifact import SCRATCH, Artifact
from stages.core.files import data_file
from stages.core.images import LazyImages, load_images, load_masks
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError, choice, number
from stages.core.stage import Stage
from stages.core.tensors import mask_tensor, to_tensor
from stages.core.weights import partner
from stages.metrics.heldout import check_enough
from stages.networks.face_reader import reader_file
from stages.networks.latents import BASES, SHIPPED_ENCODER, load_generator
from stages.networks.stylegan2 import Discriminator, Generator
from stages.style.editing.directions import Edit
from stages.style.editing.recolour import Recolour
from stages.style.finish import Augmented, StyleNetworks, check_sampling, finish, target_pictures
from stages.style.fusion.fuse import Fusion, fuse, relative_distance
from stages.style.fusion.library import Lineage, of_artifact, of_file
from stages.style.fusion.sweep import Sweep, run_sweep
from stages.style.fusion.write import write_sweep
from stages.style.grow import grow, widen
from stages.style.inversion.encoder import Invert
from stages.style.presets import PRESETS
from stages.style.sampling.candidates import Sampling
from stages.style.sampling.score import load
from stages.style.stylegan2_ada import Ada, Recipe, StyleGAN2
from stages.style.weights.convert import open_pair
from stages.training import distributed
from stages.training.fit import epoch_order, fit, keep_state, mirrored, update_seed

STATE = "training.ckpt"
STRIP_ALPHAS = (0.25, 0.5, 0.75)


@dataclass(kw_only=True)
class Network:
    """Size of a generator and discriminator trained from scratch; a transfer takes its start's."""

    z_dim: int = 128
    w_dim: int = 128
    mapping_layers: int = 2
    channel_base: int = 2048
    channel_max: int = 128
    mbstd_group: int = 4

    def __post_init__(self) -> None:
        for key in ("z_dim", "w_dim", "mapping_layers", "channel_max", "mbstd_group"):
            number(key, getattr(self, key), 1, 4096, integer=True)
        number("channel_base", self.channel_base, 1, 2**20, integer=True)

    def build(self, resolution: int) -> tuple[Generator, Discriminator]:
        """Freshly initialised networks (from torch's current seed) for `resolution` px."""
        channels = {"channel_base": self.channel_base, "channel_max": self.channel_max}
        mapping = {"z_dim": self.z_dim, "w_dim": self.w_dim, "num_layers": self.mapping_layers}
        discriminator = Discriminator(resolution, mbstd_group_size=self.mbstd_group, **channels)
        return Generator(img_resolution=resolution, **mapping, **channels), discriminator


@dataclass(kw_only=True)
class StyleStage(Stage):
    """Data -> style set.

    Args:
        start: ``base`` (the shipped generator of rendered photos, 64, 128 or 256 px), ``scratch``, the folder of a
            style artifact, or a weights file: an official `.pkl`, rosinality's `.pt` or our `.safetensors`.
        resume: go on with the training of the artifact `start` as if it had not stopped: optimisers, ADA's p, path
            length mean and images seen; `train.images` counts from that training's beginning.
        keep_state: leave the state that `resume` needs in the artifact (three to four times the networks' size).
        grow: start from a pair of half the data's resolution, grown by one level (`stages.style.grow`).
        target: ``photo``, or the name of a style in the data: what to train on.
        network: sizes for ``scratch``; a start that grows takes more channels where `channel_base` allows them.
        train, recipe, ada: the training; `ada` null for none.
        mirror: train on mirrored images too.
        preset: the published setting that `style/recipe=published` takes its numbers from; None: of another recipe.
        fusion: how the result is fused with its source (not for `start: scratch` or `target: photo`).
        sweep: fusions to measure and choose from; null for none. With `sweep.choose` the choice replaces `fusion`.
        sampling: the style set drawn from the fused generator.
        invert: how photos become latents, for ``sampling.source: invert``.
        edit: named movements of every latent (style/edit).
        recolour: colours of single regions, given to every picture.
    """

    reads: ClassVar[tuple[str, ...]] = ("data",)
    start: str
    target: str
    train: Train
    recipe: Recipe
    sampling: Sampling
    ada: Ada | None = None
    network: Network = field(default_factory=Network)
    fusion: Fusion = field(default_factory=Fusion)
    sweep: Sweep | None = None
    invert: Invert = field(default_factory=Invert)
    edit: dict[str, Edit] = field(default_factory=dict)
    recolour: Recolour = field(default_factory=Recolour)
    mirror: bool = True
    grow: bool = False
    resume: bool = False
    keep_state: bool = True
    preset: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is not a name", "Give photo or the name of a style")
        for key in ("grow", "resume"):
            if getattr(self, key) and self.start == "scratch":
                raise ConfigError(key, "there is nothing to start from", "Set style.start to a style artifact")
        if self.preset is not None:
            choice("preset", self.preset, PRESETS)
        if self.resume and not (Path(self.start) / STATE).exists():
            raise ConfigError("resume", f"{self.start} holds no {STATE}", "Set style.start to a style artifact")
        group = self.network.mbstd_group if self.start == "scratch" else 4
        unit = self._unit(group)
        if self.train.batch % unit:
            raise ConfigError(
                "train.batch", f"{self.train.batch} is not a multiple of {unit}", f"Choose a multiple of {unit}"
            )

    def _unit(self, group: int) -> int:
        """What a batch must be a multiple of: every micro-batch holds whole minibatch groups, a small batch is one."""
        count = distributed.world() * self.train.accumulate
        return count * (group if count > 1 else min(group, self.train.batch))

    def files(self) -> dict[str, Path]:
        """The networks to start from, the face reader, which scores, and the encoder where photos are inverted."""
        found = reader_file()
        if self.sampling.source == "invert":
            found["encoder"] = data_file(SHIPPED_ENCODER)
        elif self.sampling.editor is not None:
            found["sampling.editor"] = Path(self.sampling.editor)
        if self.start == "base":
            for generator in map(data_file, BASES.values()):
                found |= {f"start.{file.stem}": file for file in (generator, partner(generator))}
        elif self.start != "scratch":
            path = Path(self.start)
            found["start"] = path
            if path.suffix == ".safetensors" and partner(path).exists():
                found["start.discriminator"] = partner(path)
        return found

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, fuse, sample, measure; see the table of artifacts in the README for what is written."""
        data = inputs["data"]
        paths = target_pictures(data, self.target)
        check_enough(data, self.target)
        images = LazyImages(paths, runtime.workers)
        source, task = self._train(images, out, runtime)
        if self.keep_state:
            keep_state(out / SCRATCH, "style", out / STATE)

        transferred, p = task.ema.cpu(), float(task.augment.p)
        fused, chosen = self._fuse(source, transferred, data, out, runtime)
        augmented = None
        if self.ada is not None:
            seen = load_images(paths, runtime.workers)
            augmented = Augmented(images=seen, pipe=self.ada.pipe, p=p, seed=self.seed)
        networks = StyleNetworks(
            generator=fused, transferred=transferred, source=source,
            others={"discriminator": task.discriminator.cpu()},
            how="scratch" if source is None else "transfer",
            parents=self._parents(images.shape[1]), settings={"fusion": chosen and asdict(chosen)},
            columns=_columns(source, transferred, fused),
            augmented=augmented,
        )  # fmt: skip
        metrics = finish(
            networks, data, self.target, self.sampling, out, runtime,
            invert=self.invert, edit=self.edit, recolour=self.recolour,
        )  # fmt: skip
        return metrics | {"ada_p": p}

    def join(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> None:
        """The training alone, which writes nothing: for all processes of a torchrun but the first."""
        self._train(LazyImages(target_pictures(inputs["data"], self.target), runtime.workers), out, runtime)

    def _train(self, images: LazyImages, out: Path, runtime: Runtime) -> tuple[Generator | None, StyleGAN2]:
        """The source (none from scratch) and the finished training."""
        torch.manual_seed(update_seed(self.seed, 0, "initial weights"))
        generator, discriminator = self._networks(images.shape[1])

        # A file may bring another group size than the settings have.
        group = discriminator.b4.mbstd_group_size  # a file may bring another one
        if self.train.batch % self._unit(group):
            raise TristyleError(
                f"style.train.batch: {self.train.batch} is not a multiple of {self._unit(group)}; {self.start}'s "
                f"discriminator compares {group} pictures. Choose a multiple of {self._unit(group)}."
            )

        # The source is what the transfer starts from; a resumed training has kept its own.
        source = None if self.start == "scratch" else _copy(generator)
        if self.resume:  # what this training goes on from had a source of its own
            source = load_generator(Path(self.start) / "source.safetensors")
        check_sampling(self.sampling, source or generator)

        task = StyleGAN2(
            generator, discriminator, self.train.lr, self.recipe, self.ada, seed=self.seed, ladder=out / "ladder"
        )
        fit(
            task, Images(images, self.train.seed, self.mirror), train=self.train, scratch=out / SCRATCH,
            runtime=runtime, label="style", start=Path(self.start) / STATE if self.resume else None,
        )  # fmt: skip
        return source, task

    def _networks(self, size: int) -> tuple[Generator, Discriminator]:
        """Generator and discriminator to start from, for images of `size` px."""
        if self.start == "scratch":
            return self.network.build(size)

        # A grown start has half the data's resolution.
        wanted = size // 2 if self.grow else size
        path = data_file(BASES.get(wanted, BASES[64])) if self.start == "base" else Path(self.start)
        pair = open_pair(path)
        generator, discriminator = pair.generator, pair.discriminator
        assert discriminator is not None  # open_pair refuses a file without one

        if (channels := generator.arguments["img_channels"]) != 3:
            raise TristyleError(
                f"style.start: {self.start} draws pictures of {channels} channels; this project paints in three. "
                "Choose a snapshot that was trained on RGB pictures."
            )
        if generator.img_resolution != wanted:
            drawn = f"{2 * generator.img_resolution} px once grown" if self.grow else f"{generator.img_resolution} px"
            fitting = generator.img_resolution * (2 if self.grow else 1)
            raise TristyleError(
                f"style.start: {self.start} draws {drawn}, the data has {size} px. "
                f"Set data.size={fitting}, style.grow={str(generator.img_resolution * 2 == size).lower()}, "
                "or style.start=scratch."
            )

        # The grown level may take more channels than the start had.
        if not self.grow:
            return generator, discriminator
        grown = grow(generator, discriminator)
        wider = max(self.network.channel_base, generator.arguments["channel_base"])
        return widen(grown[0], wider), widen(grown[1], wider)

    def _parents(self, size: int) -> list[Lineage]:
        """Lineages of what the weights started from."""
        if self.start == "scratch":
            return []
        if self.start == "base":
            wanted = size // 2 if self.grow else size
            return [of_file(data_file(BASES.get(wanted, BASES[64])))]
        path = Path(self.start)
        return [of_artifact(path) if path.is_dir() else of_file(path, "unknown")]

    def _fuse(
        self, source: Generator | None, transferred: Generator, data: Artifact, out: Path, runtime: Runtime
    ) -> tuple[Generator, Fusion | None]:
        """The generator of the style set, and the fusion that made it (None: the transferred one as it is)."""
        if source is None or self.target == "photo":
            return transferred, None
        if self.sweep is None:
            return fuse(source, transferred, self.fusion), self.fusion

        # The sweep measures snapshots of this training against held-out pictures of the style.
        ladder = [(int(file.stem), load_generator(file)) for file in sorted((out / "ladder").glob("*.safetensors"))]
        real = load(data.path / "heldout" / f"style/{self.target}", runtime)
        masks = sorted((data.path / f"heldout/style_mask/{self.target}").glob("*.png"))[: len(real)]
        found = run_sweep(
            source, transferred, ladder, images=self.train.images, real=real,
            real_masks=mask_tensor(load_masks(masks, runtime.workers)) if masks else None,
            training=load(data.path / f"style/{self.target}", runtime), psi=self.sampling.psi,
            seed=self.sampling.seed, settings=self.sweep, runtime=runtime,
        )  # fmt: skip

        write_sweep(found, out)
        if self.sweep.choose:
            return found.generator, found.chosen.candidate.fusion
        return fuse(source, transferred, self.fusion), self.fusion


class Images:
    """Batches of pictures, shuffled anew every epoch and mirrored at random.

    Args:
        images: uint8 [N, H, W, 3], in memory or on disk; only the rows that a batch needs are read.
        seed: of order and mirroring.
        mirror: flip every picture with probability one half.
    """

    def __init__(self, images: np.ndarray | LazyImages, seed: int, mirror: bool) -> None:
        self.images, self.seed, self.mirror = images, seed, mirror

    def __call__(self, start: int, count: int, rows: slice = slice(None)) -> dict[str, Tensor]:
        """`images` [rows, 3, H, W] in [-1, 1], a function of (seed, start, count, rows) alone."""
        chosen = self.images[epoch_order(len(self.images), self.seed, start, count)[rows]]
        if self.mirror:
            flip = mirrored(self.seed, start, count, rows)
            chosen[flip] = chosen[flip, :, ::-1]
        return {"images": to_tensor(chosen)}

    def names(self, start: int, count: int) -> list[str]:
        """The files of a batch, for a message."""
        rows = epoch_order(len(self.images), self.seed, start, count)
        paths = getattr(self.images, "paths", None)
        return [paths[row].name if paths else str(row) for row in rows]


def _copy(generator: Generator) -> Generator:
    twin = Generator(**generator.arguments)
    twin.load_state_dict(generator.state_dict())
    return twin.eval()


def _columns(source: Generator | None, transferred: Generator, fused: Generator) -> list[tuple[str, Generator]]:
    """What fusion.png sets side by side: both ends, constant mixtures between them, and the fusion that was chosen."""
    if source is None or relative_distance(source, transferred) == 0:
        return [("transferred", transferred)]
    mixtures = [
        (f"{alpha:g}", fuse(source, transferred, Fusion(schedule="constant", high=alpha, mapping=alpha)))
        for alpha in STRIP_ALPHAS
    ]
    return [("source", source), ("transferred", transferred), *mixtures, ("fused", fused)]
