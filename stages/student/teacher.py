"""The StyleGAN2 that a student is distilled from: a shipped base, a style artifact's generator, or a weights file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stages.core.artifact import Artifact, open_artifact
from stages.core.files import data_file
from stages.core.images import LazyImages
from stages.core.settings import TristyleError
from stages.core.weights import load_network, partner
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
    beside = {f"{key}.discriminator": partner(path) for key, path in found.items()}
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


def real_photos(data: Artifact, workers: int) -> LazyImages:
    """The training photos of a data set.

    Raises:
        TristyleError: there are none.
    """
    paths = sorted((data.path / "photo").glob("*.png"))
    if not paths:
        raise TristyleError(f"{data.path}: holds no photos to train on. Set data.count or put pictures into photo/.")
    return LazyImages(paths, workers)


def style_pictures(teacher: str, inputs: Mapping[str, Artifact], workers: int) -> LazyImages | None:
    """The data's pictures of the style that a teacher draws; None where it draws photos, as a file by itself does.

    Raises:
        TristyleError: the data hold no pictures of that style.
    """
    # Whose style: an artifact says what it was trained on.
    if teacher == "style":
        artifact = inputs["style"]
    else:
        folder = Path() if teacher == "base" else _file_of(Path(teacher)).parent
        if teacher == "base" or not (folder / "manifest.json").is_file():
            return None
        artifact = open_artifact(folder, "style", verify=False)

    # Its pictures in the data.
    target, data = str(artifact.config.get("target") or "photo"), inputs["data"]
    if target == "photo":
        return None
    paths = sorted((data.path / "style" / target).glob("*.png"))
    if not paths:
        raise TristyleError(
            f"student.model.teacher: {artifact.path} draws {target}, and {data.path} holds no pictures of that style. "
            "Give the data that it was trained on."
        )
    return LazyImages(paths, workers)


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

    given = partner(path)
    discriminator = load_network(given) if given.exists() else None
    if not isinstance(discriminator, Discriminator) or discriminator.arguments["img_resolution"] != size:
        channels = {name: generator.arguments[name] for name in ("channel_base", "channel_max")}
        discriminator = Discriminator(size, **channels)
    return generator, discriminator
