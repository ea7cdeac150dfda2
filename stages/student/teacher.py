"""The StyleGAN2 that a student is distilled from: a shipped base, a style artifact's generator, or a weights file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stages.core.artifact import Artifact
from stages.core.files import data_file
from stages.core.settings import TristyleError
from stages.core.weights import load_network
from stages.networks.latents import BASES, load_generator
from stages.networks.stylegan2 import Discriminator, Generator

FOREIGN = (".pkl", ".pt")  # weights that stage style reads


def teacher_files(teacher: str) -> dict[str, Path]:
    """Setting -> file that `teacher` names: the generators, and the discriminators where they lie beside them."""
    if teacher == "style":
        return {}
    if teacher == "base":
        found = {f"model.teacher.base{size}": data_file(name) for size, name in BASES.items()}
    else:
        found = {"model.teacher": _file_of(Path(teacher))}
    beside = {f"{key}.discriminator": discriminator_beside(path) for key, path in found.items()}
    return found | {key: path for key, path in beside.items() if path.exists()}


def _file_of(path: Path) -> Path:
    """The generator's file at a path, which may be the folder of a style artifact.

    Raises:
        TristyleError: a file of foreign weights.
    """
    if path.suffix in FOREIGN:
        into = path.with_suffix(".safetensors").name
        raise TristyleError(
            f"student.model.teacher: {path} holds foreign weights. Run: python -m stages.style.weights.convert {path} "
            f"{into}; then give that file."
        )
    return path / "generator.safetensors" if path.is_dir() else path


def discriminator_beside(generator: Path) -> Path:
    """Where the discriminator of a generator's file would lie."""
    return generator.with_name(generator.name.replace("generator", "discriminator"))


def open_teacher(teacher: str, size: int, inputs: Mapping[str, Artifact]) -> tuple[Generator, Discriminator]:
    """Open a teacher and its discriminator; a fresh one, from torch's current seed, where none lies beside it.

    Args:
        teacher: see stages.student.blaze.Blaze.
        size: px of the data's pictures.
        inputs: the stage's artifacts; `style` where that is the teacher.

    Raises:
        TristyleError: it is missing, damaged, or draws pictures of another size.
    """
    if teacher == "base":
        if size not in BASES:
            known = " or ".join(map(str, BASES))
            raise TristyleError(
                f"student.model.teacher: no base of {size} px is shipped. Set data.size to {known}, or give a teacher."
            )
        path = data_file(BASES[size])
    else:
        path = inputs["style"].path / "generator.safetensors" if teacher == "style" else _file_of(Path(teacher))
    generator = load_generator(path)
    if generator.img_resolution != size:
        raise TristyleError(
            f"student.model.teacher: {path} draws {generator.img_resolution} px, the data has {size} px. "
            f"Set data.size={generator.img_resolution}, or give another teacher."
        )

    given = discriminator_beside(path)
    discriminator = load_network(given) if given != path and given.exists() else None
    if not isinstance(discriminator, Discriminator) or discriminator.arguments["img_resolution"] != size:
        channels = {name: generator.arguments[name] for name in ("channel_base", "channel_max")}
        discriminator = Discriminator(size, **channels)
    return generator, discriminator
