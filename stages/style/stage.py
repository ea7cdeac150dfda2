"""Stage style: data -> a generator in the target's look, fused with its source, and the set of images it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor

from stages import io
from stages.artifact import Artifact
from stages.config import ConfigError, Train, TristyleError, number
from stages.engine import epoch_order, fit, update_seed
from stages.faces.reader import reader_file
from stages.networks.stylegan2 import Discriminator, Generator
from stages.runtime import Runtime
from stages.style.fuse import Fusion, fuse, relative_distance
from stages.style.grow import grow
from stages.style.sample import Sampling, draw, latents
from stages.style.score import score
from stages.style.transfer import Ada, Recipe, StyleGAN2

BASE = {"generator": "base64_generator.safetensors", "discriminator": "base64_discriminator.safetensors"}
STRIP_ALPHAS = (0.25, 0.5, 0.75)


@dataclass(kw_only=True)
class Network:
    """Size of a generator and discriminator trained from scratch; a transfer takes its start's."""

    z_dim: int = 128
    w_dim: int = 128
    mapping_layers: int = 2
    channel_base: int = 2048
    channel_max: int = 128

    def __post_init__(self) -> None:
        for key in ("z_dim", "w_dim", "mapping_layers", "channel_max"):
            number(key, getattr(self, key), 1, 4096, integer=True)
        number("channel_base", self.channel_base, 1, 2**20, integer=True)

    def build(self, resolution: int) -> tuple[Generator, Discriminator]:
        """Freshly initialised networks (from torch's current seed) for `resolution` px."""
        channels = {"channel_base": self.channel_base, "channel_max": self.channel_max}
        mapping = {"z_dim": self.z_dim, "w_dim": self.w_dim, "num_layers": self.mapping_layers}
        return Generator(img_resolution=resolution, **mapping, **channels), Discriminator(resolution, **channels)


@dataclass(kw_only=True)
class StyleStage:
    """Data -> style set.

    Args:
        start: ``base`` (the shipped generator of painted photos, 64 px), ``scratch``, or the folder of a style artifact
            whose transferred generator and discriminator to go on from.
        grow: start from a pair of half the data's resolution, grown by one level (`stages.style.grow`).
        target: ``photo``, or the name of a style in the data: what to train on.
        network: sizes for ``scratch``.
        train, recipe, ada: the training; `ada` null for none.
        mirror: train on mirrored images too.
        fusion: how the result is fused with its source (not for `start: scratch` or `target: photo`).
        sampling: the style set drawn from the fused generator.
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
    mirror: bool = True
    grow: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.grow and self.start == "scratch":
            raise ConfigError("grow", "nothing to grow from", "Set style.start to base or a style artifact")
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is no name", "Give photo or the name of a style")
        group = 4
        if self.train.batch > group and self.train.batch % group:
            raise ConfigError(
                "train.batch", f"{self.train.batch} is not a multiple of {group}", f"Choose a multiple of {group}"
            )

    def files(self) -> dict[str, Path]:
        """The networks to start from, and the face reader, which scores."""
        if self.start == "scratch":
            return reader_file()
        if self.start == "base":
            return reader_file() | {f"start.{name}": io.data_file(file) for name, file in BASE.items()}
        return reader_file() | {"start": Path(self.start)}

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, fuse, sample, measure; see the table of artifacts in the README for what is written."""
        data = inputs["data"]
        folder = data.path / ("photo" if self.target == "photo" else f"style/{self.target}")
        paths = sorted(folder.glob("*.png"))
        if not paths:
            styles = sorted(entry.name for entry in (data.path / "style").glob("*/"))
            known = ", ".join(["photo", *styles])
            raise TristyleError(f"style.target={self.target}: the data hold no such pictures. Choose one of: {known}.")
        images = io.load_images(paths, runtime.workers)
        torch.manual_seed(update_seed(self.seed, 0, "initial weights"))
        generator, discriminator = self._networks(images.shape[1])
        source = None if self.start == "scratch" else _copy(generator)
        task = StyleGAN2(generator, discriminator, self.train.lr, self.recipe, self.ada, seed=self.seed)
        fit(
            task, Images(images, self.train.seed, self.mirror), train=self.train, scratch=out / ".scratch",
            runtime=runtime, label="style",
        )  # fmt: skip
        transferred = task.ema.cpu()
        if source is not None and self.target != "photo":
            fused = fuse(source, transferred, self.fusion)
        else:
            fused = transferred
        source = transferred if source is None else source
        io.save_network(out / "generator.safetensors", fused)
        io.save_network(out / "source.safetensors", source)
        io.save_network(out / "transferred.safetensors", transferred)
        io.save_network(out / "discriminator.safetensors", task.discriminator.cpu())
        seeds = list(range(self.sampling.seed, self.sampling.seed + self.sampling.count))
        z = latents(fused.z_dim, seeds)
        before = draw(source, z, self.sampling.psi)
        drawn = self._sample(fused, z, seeds, out)
        if fused is not transferred:
            self._write_source(before, out)
        io.write_image(out / "fusion.png", strip(source, transferred, fused, z[:8], self.sampling.psi))
        metrics = {
            "images": float(len(drawn)),
            "ada_p": float(task.augment.p),
            "distance": relative_distance(source, fused),
        }
        return metrics | score(data, self.target, drawn, before, runtime)

    def _networks(self, size: int) -> tuple[Generator, Discriminator]:
        """Generator and discriminator to start from, for images of `size` px."""
        if self.start == "scratch":
            return self.network.build(size)
        if self.start == "base":
            paths = [io.data_file(file) for file in BASE.values()]
        else:
            paths = [Path(self.start) / name for name in ("transferred.safetensors", "discriminator.safetensors")]
        generator, discriminator = (io.load_network(path) for path in paths)
        if not isinstance(generator, Generator) or not isinstance(discriminator, Discriminator):
            raise TristyleError(
                f"style.start: {self.start} holds no StyleGAN2 pair. Name the folder of a style artifact."
            )
        wanted = size // 2 if self.grow else size
        if generator.img_resolution != wanted:
            drawn = f"{2 * generator.img_resolution} px once grown" if self.grow else f"{generator.img_resolution} px"
            fitting = generator.img_resolution * (2 if self.grow else 1)
            raise TristyleError(
                f"style.start: {self.start} draws {drawn}, the data has {size} px. "
                f"Set data.size={fitting}, style.grow={str(generator.img_resolution * 2 == size).lower()}, "
                "or style.start=scratch."
            )
        return grow(generator, discriminator) if self.grow else (generator, discriminator)

    def _sample(self, generator: Generator, z: Tensor, seeds: list[int], out: Path) -> np.ndarray:
        """Draw and write the style set; uint8 [N, R, R, 3]."""
        from safetensors.torch import save

        images = self._mirrored(draw(generator, z, self.sampling.psi))
        rows = []
        for i, (seed, image) in enumerate(zip(seeds, images, strict=True)):
            name = f"images/{i:06d}.png"
            io.write_image(out / name, np.ascontiguousarray(image))
            mirrored = self.sampling.mirror and i % 2 == 1
            rows.append(
                {"id": f"{i:06d}", "image": name, "seed": seed, "psi": self.sampling.psi, "style": self.target}
                | ({"mirrored": True} if mirrored else {})
            )
        io.write_jsonl(out / "records.jsonl", rows)
        with torch.no_grad():
            w = generator.mapping(z, self.sampling.psi)[:, 0].contiguous()
        io.write_bytes(out / "latents.safetensors", save({"z": z.contiguous(), "w": w}))
        return images

    def _write_source(self, images: np.ndarray, out: Path) -> None:
        """The source's pictures of the style set's latents: the same faces before the transfer, name by name."""
        for i, image in enumerate(self._mirrored(images)):
            io.write_image(out / f"source/{i:06d}.png", np.ascontiguousarray(image))

    def _mirrored(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, R, R, 3] with every other picture mirrored, where the sampling asks for it."""
        if self.sampling.mirror:
            images = images.copy()
            images[1::2] = images[1::2, :, ::-1]
        return images


class Images:
    """Batches of pictures in memory, shuffled anew every epoch and mirrored at random.

    Args:
        images: uint8 [N, H, W, 3].
    """

    def __init__(self, images: np.ndarray, seed: int, mirror: bool) -> None:
        self.images, self.seed, self.mirror = images, seed, mirror

    def __call__(self, start: int, count: int) -> dict[str, Tensor]:
        """`images` [count, 3, H, W] in [-1, 1], a function of (seed, start, count) alone."""
        chosen = self.images[epoch_order(len(self.images), self.seed, start, count)]
        if self.mirror:
            flip = np.random.default_rng(update_seed(self.seed, start, "mirror")).random(count) < 0.5
            chosen[flip] = chosen[flip, :, ::-1]
        return {"images": io.to_tensor(chosen)}


def _copy(generator: Generator) -> Generator:
    twin = Generator(**generator.arguments)
    twin.load_state_dict(generator.state_dict())
    return twin.eval()


def strip(source: Generator, transferred: Generator, fused: Generator, z: Tensor, psi: float) -> np.ndarray:
    """The same latents through the source, the transferred generator, constant mixtures and the fused one.

    One latent a row; returns uint8 [H, W, 3] with a heading over each column.
    """
    columns = [("source", source), ("transferred", transferred)]
    if relative_distance(source, transferred) > 0:
        for alpha in STRIP_ALPHAS:
            mix = Fusion(schedule="constant", high=alpha, mapping=alpha)
            columns.append((f"{alpha:g}", fuse(source, transferred, mix)))
    columns.append(("fused", fused))
    drawn = [draw(generator, z, psi) for _, generator in columns]
    sheet = io.grid([column[row] for row in range(len(z)) for column in drawn], columns=len(columns))
    return np.concatenate([_heading([name for name, _ in columns], sheet.shape[1]), sheet])


def _heading(names: Sequence[str], width: int) -> np.ndarray:
    """A white band with centred names, uint8 [16, width, 3]."""
    band = np.full((16, width, 3), 255, np.uint8)
    step = width / len(names)
    for i, name in enumerate(names):
        (w, _), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.32, 1)
        place = (int(i * step + (step - w) / 2), 11)
        cv2.putText(band, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.32, (40, 40, 40), 1, cv2.LINE_AA)
    return band
