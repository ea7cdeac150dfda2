"""A new style made of styles there are, without a training.

It mixes the generators of several style artifacts layer by layer, tunes parts of the face with one of them, and fuses
the mixture with their common source. The result is sampled like any other style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from stages.core.artifact import Artifact, open_artifact
from stages.core.files import write_json
from stages.core.images import read_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError, number
from stages.core.stage import Stage
from stages.networks.face_reader import load_reader, reader_file
from stages.networks.latents import load_generator
from stages.networks.stylegan2 import Generator
from stages.style.finish import StyleNetworks, finish, target_pictures
from stages.style.fusion.fuse import Fusion, Part, blend, check_family, check_names, fuse, lookup, with_part
from stages.style.fusion.influence import resolve_part
from stages.style.fusion.library import of_artifact
from stages.style.sampling.candidates import Sampling

T = TypeVar("T")


@dataclass(kw_only=True)
class FusedStyle(Stage):
    """Style artifacts -> another style.

    Args:
        parents: folders of style artifacts; their `transferred` generators are mixed. The first one's source is the
            common source.
        target: ``photo`` or the name of a style in the data: what the result is called and measured against.
        sampling: the style set drawn from the fused generator, from random latents.
        weights: one number a parent, from 0 up; null: equal shares.
        layers: names of layers (as in `Fusion.layers`) and weights that stand above those, {b64: [0, 1]}.
        between: instead of weights and layers, a schedule from the first of two parents to the second.
        parts: layers taken from single parents afterwards.
        fusion: how the mixture is fused with the source.
    """

    reads: ClassVar[tuple[str, ...]] = ("data",)
    parents: list[str] | str
    target: str
    sampling: Sampling
    weights: list[float] | None = None
    layers: dict[str, list[float]] | None = None
    between: Fusion | None = None
    parts: list[Part] = field(default_factory=list)
    fusion: Fusion = field(default_factory=Fusion)

    def __post_init__(self) -> None:
        self.parents = [self.parents] if isinstance(self.parents, str) else [str(folder) for folder in self.parents]
        count = len(self.parents)
        if count == 0:
            raise ConfigError("parents", "no folders", "Name the folders of style artifacts, e.g. [runs/style/KEY]")
        for key, row in {"weights": self.weights, **{f"layers.{k}": v for k, v in (self.layers or {}).items()}}.items():
            _check_row(key, row, count)
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError("target", f"{self.target!r} is not a name", "Give photo or the name of a style")

        # A schedule between two parents takes the place of weights.
        if self.between is not None:
            given: Any = self.between
            if isinstance(given, dict):  # it leads from one parent all the way to the other
                given = {"low": 0.0, "width": 1.0, "mapping": 0.0} | given
            self.between = _made(Fusion, given, "between")
            if count != 2 or self.weights is not None or self.layers:
                remedy = "Name two parents and no weights, or leave between out"
                raise ConfigError("between", "a schedule leads from one parent to another", remedy)

        # Parts come from parents that there are.
        self.parts = [_made(Part, part, f"parts.{i}") for i, part in enumerate(self.parts)]
        for i, part in enumerate(self.parts):
            if part.parent >= count:
                raise ConfigError(f"parts.{i}.parent", f"{part.parent} is not there", f"Give 0 to {count - 1}")

        if self.sampling.source != "random":
            raise ConfigError("sampling.source", "a fused style is drawn from random latents", "Set it to random")

    def files(self) -> dict[str, Path]:
        """The parents' folders, and the face reader, which measures."""
        return {f"parents.{i}": Path(folder) for i, folder in enumerate(self.parents)} | reader_file()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Mix, fuse, sample, measure; see the table of artifacts in the README for what is written."""
        data = inputs["data"]
        parents = [open_artifact(folder, "style") for folder in self.parents]
        generators = [load_generator(parent.path / "transferred.safetensors") for parent in parents]
        source = load_generator(parents[0].path / "source.safetensors")
        check_family([source, *generators])
        lineages = [of_artifact(parent) for parent in parents]
        _check_size(data, self.target, source)

        mixed = self._tuned(self._mixed(generators), generators, out, runtime)
        fused = fuse(source, mixed, self.fusion)
        names = [str(item.get("target")) for item in lineages]
        networks = StyleNetworks(
            generator=fused, transferred=mixed, source=source, how="fusion", parents=lineages,
            settings=self._settings(),
            columns=[("source", source), *zip(names, generators, strict=True), ("mixture", mixed), ("fused", fused)],
        )  # fmt: skip
        return finish(networks, data, self.target, self.sampling, out, runtime)

    def _mixed(self, generators: Sequence[Generator]) -> Generator:
        """The parents' mixture."""
        check_names(self.layers or {}, generators[0], "style.layers")
        if self.between is not None:
            return fuse(generators[0], generators[1], self.between)
        usual = self.weights or [1.0] * len(generators)
        return blend(generators, lambda name: lookup(self.layers or {}, name) or usual)

    def _tuned(self, mixed: Generator, generators: Sequence[Generator], out: Path, runtime: Runtime) -> Generator:
        """The mixture with its parts; what was measured to find a region's layers goes to influence.json."""
        measured: dict[str, Any] = {}
        for i, part in enumerate(self.parts):
            if part.region is not None:
                other = generators[part.parent]
                part, influence = resolve_part(part, mixed, other, load_reader(runtime.device))
                measured[f"parts.{i}"] = {"layers": part.layers, "influence": influence}
            mixed = with_part(mixed, generators[part.parent], part)
        if measured:
            write_json(out / "influence.json", measured)
        return mixed

    def _settings(self) -> dict[str, Any]:
        """What was done to the parents, as JSON."""
        between = None if self.between is None else asdict(self.between)
        parts = [asdict(part) for part in self.parts]
        mixture = {"weights": self.weights, "layers": self.layers, "between": between, "parts": parts}
        return mixture | {"fusion": asdict(self.fusion)}


def _made(kind: type[T], value: Any, key: str) -> T:
    """A settings object from a mapping (as a command line gives it), or as it is."""
    if isinstance(value, kind):
        return value
    try:
        return kind(**value)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error.key}", error.problem, error.remedy) from None
    except TypeError:
        raise ConfigError(
            key, f"{value!r} is not a {kind.__name__.lower()}", "Check the spelling of its keys"
        ) from None


def _check_row(key: str, row: Any, count: int) -> None:
    if row is None:
        return
    if not isinstance(row, list) or len(row) != count:
        raise ConfigError(key, f"{row!r} does not fit {count} parents", "Give a list of one number a parent")
    for share in row:
        number(key, share, 0)
    if sum(row) <= 0:
        raise ConfigError(key, "all weights are 0", "Give one above 0")


def _check_size(data: Artifact, target: str, source: Generator) -> None:
    """Refuse a target that the data do not hold, or pictures of another size, before anything is drawn."""
    size = read_image(target_pictures(data, target)[0]).shape[0]
    if size != source.img_resolution:
        raise TristyleError(
            f"style.parents: they draw {source.img_resolution} px, the data has {size} px. "
            f"Set data.size={source.img_resolution}."
        )
