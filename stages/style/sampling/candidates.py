"""What a style set is sampled from: numbered candidates, latents of seeds or of inverted photos, one picture each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stages.core.settings import ConfigError, TristyleError, choice, number
from stages.core.tensors import to_tensor, to_uint8
from stages.networks.expanded import ExpandedEditor
from stages.networks.face_reader import Reader
from stages.networks.latents import decode, latents
from stages.networks.stylegan2 import Generator
from stages.style.sampling.distribution import Distribution
from stages.style.sampling.filters import Filters

SOURCES = ("random", "invert", "expanded")
PIXELS = 1 << 21  # drawn at a time at most: 512 pictures of 64 px, 2 of 1024 px


@dataclass(kw_only=True)
class Sampling:
    """How a style set is drawn.

    Args:
        count: images.
        psi: truncation, 1 none, 0 the mean face.
        seed: of the first candidate; the i-th has seed + i.
        mirror: flip every other candidate.
        source: ``random`` (latents of seeds), ``invert`` (latents of inverted photos) or ``expanded`` (photos
            through an editor, with their own background and light).
        editor: with ``expanded``, the style artifact of `style=expanded` that holds the editor of the source.
        cutoff: truncate the first so many layers only; null for all.
        mix_from: with ``invert``, the layers from this resolution on take the latent of a seed, so that colours vary
            and a photo can serve more than once; null for none.
        batch: images drawn at a time, fewer where they would have more than two million pixels.
        reject: which candidates are left out.
        distribution: which faces the set should hold.
    """

    count: int = 1500
    psi: float = 0.8
    seed: int = 0
    mirror: bool = False
    source: str = "random"
    editor: str | None = None
    cutoff: int | None = None
    mix_from: int | None = None
    batch: int = 32
    reject: Filters = field(default_factory=Filters)
    distribution: Distribution = field(default_factory=Distribution)

    def __post_init__(self) -> None:
        number("count", self.count, 1, integer=True)
        number("psi", self.psi, 0, 2)
        number("seed", self.seed, 0, 2**32 - 1, integer=True)
        number("batch", self.batch, 1, 4096, integer=True)
        choice("source", self.source, SOURCES)

        # An editor and mixed layers belong to one source each.
        if (self.source == "expanded") != (self.editor is not None):
            given = self.editor is not None
            problem = f"only source=expanded takes one, not {self.source}" if given else "source=expanded needs one"
            raise ConfigError("editor", problem, "Name the folder of a style=expanded, or leave both out")
        if self.cutoff is not None:
            number("cutoff", self.cutoff, 1, 32, integer=True)
        if self.mix_from is not None:
            choice("mix_from", self.mix_from, [2**i for i in range(2, 11)])
            if self.source != "invert":
                problem = f"latents of source={self.source} are mixed with nothing"
                raise ConfigError("mix_from", problem, "Say source=invert, or null")

    @property
    def reads(self) -> bool:
        """Whether the face reader has to look at the candidates."""
        return self.reject.reads or self.distribution.steers

    @property
    def limit(self) -> int:
        """Candidates drawn at most."""
        return math.ceil(self.count * self.distribution.oversample)


# ---------------------------------------------------------------------------------------------------------------------
# Candidates


@torch.no_grad()
def draw(generator: Generator, z: Tensor, psi: float, batch: int = 32, cutoff: int | None = None) -> np.ndarray:
    """Images uint8 [N, R, R, 3] of latents z [N, z_dim], with the stored noise."""
    generator.eval()
    device = generator.mapping.w_avg.device
    return np.concatenate(
        [decode(generator, generator.mapping(part.to(device), psi, cutoff)) for part in z.split(batch)]
    )


class Candidates(Protocol):
    """Numbered latents; the same number is the same latent, whatever generator draws it.

    Attributes:
        most: how many there are.
    """

    most: float

    def ws(self, generator: Generator, numbers: Sequence[int]) -> Tensor:
        """Latents [n, num_ws, w_dim] of candidates, on the generator's device."""
        ...

    def record(self, number: int) -> dict[str, Any]:
        """Where the latent comes from: seed or photo."""
        ...

    def tensors(self, generator: Generator, numbers: Sequence[int]) -> dict[str, Tensor]:
        """What `latents.safetensors` keeps of them."""
        ...


class Seeds:
    """Latents of consecutive seeds."""

    most = math.inf

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def z(self, z_dim: int, numbers: Sequence[int]) -> Tensor:
        """[n, z_dim]."""
        return latents(z_dim, [self._seed(i) for i in numbers])

    def _seed(self, number: int) -> int:
        return (self.sampling.seed + number) % 2**32

    @torch.no_grad()
    def ws(self, generator: Generator, numbers: Sequence[int]) -> Tensor:
        """Latents [n, num_ws, w_dim] of candidates, on the generator's device."""
        z = self.z(generator.z_dim, numbers).to(generator.mapping.w_avg.device)
        out: Tensor = generator.mapping(z, self.sampling.psi, self.sampling.cutoff)
        return out

    def record(self, number: int) -> dict[str, Any]:
        """Name the seed and the truncation of a candidate."""
        return {"seed": self._seed(number), "psi": self.sampling.psi}

    def tensors(self, generator: Generator, numbers: Sequence[int]) -> dict[str, Tensor]:
        """z, and w where it is the same for all layers, else ws."""
        ws = self.ws(generator, numbers).cpu()
        z = self.z(generator.z_dim, numbers)
        return {"z": z} | ({"w": ws[:, 0].contiguous()} if self.sampling.cutoff is None else {"ws": ws.contiguous()})


class Inverted:
    """Latents of inverted photos, over and over where their fine layers are mixed with those of seeds.

    Args:
        ws: [N, num_ws, w_dim] of N photos.
        photos: their ids.

    Raises:
        TristyleError: no latents, or not one id for each.
    """

    def __init__(self, ws: Tensor, photos: Sequence[str], sampling: Sampling) -> None:
        if ws.ndim != 3 or not len(ws) or len(ws) != len(photos):
            raise TristyleError(
                f"sampling.source={sampling.source}: latents of shape {tuple(ws.shape)} for {len(photos)} photos. "
                "Invert the photos again."
            )
        self.codes, self.photos, self.sampling = ws, list(photos), sampling
        self.seeds = Seeds(sampling)
        self.most = len(ws) if sampling.mix_from is None else math.inf

    @torch.no_grad()
    def ws(self, generator: Generator, numbers: Sequence[int]) -> Tensor:
        """Latents [n, num_ws, w_dim] of candidates, on the generator's device."""
        wanted = (generator.num_ws, generator.w_dim)
        if self.codes.shape[1:] != wanted:
            raise TristyleError(
                f"sampling.source={self.sampling.source}: latents of {tuple(self.codes.shape[1:])} layers and "
                f"channels, the generator takes {wanted}. Invert with the generator's own source."
            )
        codes = self.codes[[i % len(self.codes) for i in numbers]].to(generator.mapping.w_avg.device)
        if self.sampling.mix_from is not None:
            first = max(2 * self.sampling.mix_from.bit_length() - 7, 0)  # ws of that block's first convolution
            codes[:, first:] = self.seeds.ws(generator, numbers)[:, first:]
        return codes

    def record(self, number: int) -> dict[str, Any]:
        """Name the photo of a candidate, and the seed mixed in."""
        photo = {"photo": self.photos[number % len(self.photos)]}
        return photo if self.sampling.mix_from is None else photo | self.seeds.record(number)

    def tensors(self, generator: Generator, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Give the ws to be stored."""
        return {"ws": self.ws(generator, numbers).cpu().contiguous()}


class Painter:
    """Pictures of numbered candidates by one generator, every other one mirrored where the sampling says so.

    Args:
        finish: what is done to every picture afterwards, [n, 3, R, R] in [-1, 1] -> the same.
    """

    def __init__(
        self,
        generator: Generator,
        candidates: Candidates,
        sampling: Sampling,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.generator, self.candidates, self.mirror = generator.eval(), candidates, sampling.mirror
        self.finish = finish
        self.batch = max(1, min(sampling.batch, PIXELS // generator.img_resolution**2))

    def __call__(self, numbers: Sequence[int]) -> np.ndarray:
        """uint8 [n, R, R, 3]."""
        images = self.drawn(numbers)
        if self.finish is not None:
            images = to_uint8(self.finish(to_tensor(images).to(self.generator.mapping.w_avg.device)))
        if self.mirror:
            odd = np.asarray(numbers) % 2 == 1
            images[odd] = images[odd, :, ::-1]
        return images

    def drawn(self, numbers: Sequence[int]) -> np.ndarray:
        """The pictures as the generator draws them, uint8 [n, R, R, 3]."""
        return decode(self.generator, self.candidates.ws(self.generator, numbers))


@dataclass(frozen=True)
class Content:
    """What ``source: expanded`` needs beside latents.

    Attributes:
        editor: of the source generator.
        photos: uint8 [N, R, R, 3], one a latent.
        reader: the face reader, on the runtime's device.
    """

    editor: ExpandedEditor
    photos: np.ndarray
    reader: Reader


class PhotoPainter(Painter):
    """As `Painter`, for ``source: expanded``: each picture keeps its photo's background and light.

    Args:
        content: the editor of what `generator` was fused from, and the candidates' photos.
    """

    def __init__(
        self,
        generator: Generator,
        candidates: Candidates,
        sampling: Sampling,
        finish: Callable[[Tensor], Tensor] | None = None,
        *,
        content: Content,
    ) -> None:
        super().__init__(generator, candidates, sampling, finish)
        self.content = content

    def drawn(self, numbers: Sequence[int]) -> np.ndarray:
        """The photos restyled, uint8 [n, R, R, 3]."""
        device = self.generator.mapping.w_avg.device
        photos = to_tensor(self.content.photos[list(numbers)]).to(device)
        ws = self.candidates.ws(self.generator, numbers)
        editor, heads = self.content.editor.to(device), self.content.reader.read(photos).mask
        return to_uint8(editor.restyle(photos, heads, self.generator, ws))
