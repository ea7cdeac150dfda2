"""From a finished generator to a style artifact: what every `style=` does once its networks are there.

A style stage (`stages.style.stage`, `stages.style.fused`) makes generators, however it likes. `finish` does the rest:
it saves them with their lineage, finds edit directions, inverts photos where they are sampled, draws the style set,
filters it, shows it on sheets and measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.core.artifact import SCRATCH, Artifact, provenance
from stages.core.images import load_images, write_image
from stages.core.mark import TRAINED
from stages.core.runtime import Runtime
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor
from stages.core.weights import save_network
from stages.networks.expanded import ExpandedEditor
from stages.networks.face_reader import Reader, load_reader
from stages.networks.latents import EDITOR, check_editor, decode, latents, load_editor
from stages.networks.stylegan2 import Generator
from stages.style.augmentation_leak import detect
from stages.style.editing.directions import Edit, Edited, find_directions, save_directions
from stages.style.editing.recolour import Recolour, finisher
from stages.style.editing.sheet import EDIT_ALPHAS, Row, edited_rows, layout
from stages.style.fusion.fuse import relative_distance
from stages.style.fusion.library import Lineage, lineage
from stages.style.fusion.write import strip
from stages.style.inversion.encoder import Invert, check_size, invert_photos
from stages.style.sampling.candidates import Content, Sampling, draw
from stages.style.sampling.score import score
from stages.style.sampling.write import write_style_set

SHOWN = 8  # latents on fusion.png and photos on inversion.png
EDITED = 3  # people on edits.png
LEAK_SAMPLES = 300


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """What a discriminator saw while its generator was trained, for the leak check.

    Attributes:
        images: uint8 [N, R, R, 3], the training images.
        pipe: name in `stages.networks.augment.PIPES`.
        p: probability of each augmentation at the end of the training, 0 to 1.
        seed: of the detector.
    """

    images: np.ndarray
    pipe: str
    p: float
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StyleNetworks:
    """The networks that a style stage ends with, and where they come from.

    Attributes:
        generator: draws the style set.
        transferred: the generator before it was fused with its source.
        source: what it was transferred from; None for a training from scratch.
        others: further networks to save, by the name of their file (``discriminator``).
        how: ``scratch``, ``transfer`` or ``fusion``, for lineage.json.
        parents: lineages of what the weights started from.
        settings: what was done to the parents, as JSON.
        columns: name -> generator, side by side on fusion.png.
        augmented: what the discriminator saw; None where nothing was augmented.
    """

    generator: Generator
    transferred: Generator
    source: Generator | None = None
    others: Mapping[str, nn.Module] = field(default_factory=dict)
    how: str
    parents: Sequence[Lineage]
    settings: Mapping[str, Any]
    columns: Sequence[tuple[str, Generator]]
    augmented: Augmented | None = None

    def save(self, out: Path, target: str, notes: Mapping[str, str] | None = None) -> None:
        """Write each network with these notes as `<name>.safetensors` into `out`, then `lineage.json` beside them."""
        own = {"generator": self.generator, "source": self.source or self.transferred, "transferred": self.transferred}
        for name, network in (own | dict(self.others)).items():
            save_network(out / f"{name}.safetensors", network, notes=notes)
        lineage(out, self.how, target, self.parents, self.settings)

    def leaks(self, seed: int) -> dict[str, float]:
        """How far the discriminator's augmentations show in what the transferred generator draws: leak_<kind>."""
        if self.augmented is None:
            return {}
        seen = self.augmented
        z = latents(self.transferred.z_dim, list(range(seed, seed + LEAK_SAMPLES)))
        scores = detect(draw(self.transferred, z, 1.0), seen.images, seen.pipe, seen.p, seen.seed)
        return {f"leak_{kind}": value for kind, value in scores.items()}


def finish(
    networks: StyleNetworks,
    data: Artifact,
    target: str,
    sampling: Sampling,
    out: Path,
    runtime: Runtime,
    *,
    invert: Invert | None = None,
    edit: Mapping[str, Edit] | None = None,
    recolour: Recolour | None = None,
) -> dict[str, Any]:
    """Write a whole style artifact but its manifest.

    Done again after a kill, it goes on with the pictures that are there.

    Args:
        networks: what the stage made.
        data: the artifact with the real pictures.
        target: ``photo`` or the name of a style in the data.
        sampling: how the style set is drawn.
        out: the artifact's folder.
        runtime: device, workers and progress.
        invert: how photos become latents, for ``sampling.source: invert``; None: as usual.
        edit: named movements of every latent; None: none.
        recolour: colours of single regions; None: none.

    Returns:
        metrics: those of the style set (`SetSummary`), ``distance`` from the source, ``leak_<kind>`` and `score`'s.

    Raises:
        TristyleError: the data hold no such pictures, or the settings do not fit the generator.
    """
    generator, source = networks.generator, networks.source
    networks.save(out, target, provenance(data))
    z = latents(generator.z_dim, list(range(sampling.seed, sampling.seed + SHOWN)))
    write_image(out / "fusion.png", strip(networks.columns, z, sampling.psi), TRAINED)

    # Edits move the latents of the set and of the source's pictures alike, so that the faces stay the same.
    reader, edit = load_reader(runtime.device), dict(edit or {})
    directions = find_directions(generator, reader, edit.values(), psi=sampling.psi)
    if directions:
        save_directions(out, directions)
        z = latents(generator.z_dim, range(sampling.seed, sampling.seed + EDITED))
        rows = edited_rows(target, generator, z, edit, directions, EDIT_ALPHAS, sampling.psi)
        write_image(out / "edits.png", layout(rows, [f"{alpha:+g}" for alpha in EDIT_ALPHAS], "strength"), TRAINED)

    ws, photos, content = None, None, None
    if sampling.source == "invert":
        ws, photos = _inverted(generator, source or generator, data, invert or Invert(), out, runtime)
    elif sampling.source == "expanded":
        ws, photos, content = _expanded(source or generator, data, str(sampling.editor), reader, out, runtime)
    kept = write_style_set(
        out, generator, source, sampling, data=data.path, target=target, runtime=runtime, reader=reader,
        ws=ws, photos=photos, content=content,
        edit=(lambda candidates: Edited(candidates, edit, directions)) if edit else None,
        finish=finisher(reader, recolour) if recolour is not None and recolour.targets else None,
    )  # fmt: skip
    measured = kept.metrics | {"distance": relative_distance(source or networks.transferred, generator)}
    return measured | networks.leaks(sampling.seed) | score(data, target, kept.drawn, kept.source, runtime)


def _inverted(
    generator: Generator, source: Generator, data: Artifact, settings: Invert, out: Path, runtime: Runtime
) -> tuple[Tensor, list[str]]:
    """Latents [N, num_ws, w_dim] and ids of the photos; writes inversion.png: photo, inverted, through the style."""
    files = target_pictures(data, "photo")
    pictures = load_images(files, runtime.workers)
    ws = invert_photos(source, pictures, settings, runtime, out / SCRATCH)

    shown = {"photo": pictures[:SHOWN], "inverted": decode(source, ws[:SHOWN]), "fused": decode(generator, ws[:SHOWN])}
    rows = [Row(name, "", images[None]) for name, images in shown.items()]
    write_image(out / "inversion.png", layout(rows, [""] * len(shown["photo"])), TRAINED)
    return ws, [file.stem for file in files]


def check_sampling(sampling: Sampling, source: Generator) -> None:
    """Refuse, before a training, an editor that the style set could not be drawn through. Raises TristyleError."""
    if sampling.editor is not None:
        sampling_editor(sampling.editor, source)


def sampling_editor(folder: str, source: Generator) -> ExpandedEditor:
    """The editor in a folder.

    Raises:
        TristyleError: no editor, or an editor of another generator than the source.
    """
    editor = load_editor(Path(folder))
    check_editor(editor, source, "style.sampling.editor", folder)
    return editor


def _expanded(
    source: Generator, data: Artifact, folder: str, reader: Reader, out: Path, runtime: Runtime
) -> tuple[Tensor, list[str], Content]:
    """Latents [N, num_ws, w_dim] and ids of the photos, and the editor with them; keeps a copy of the editor.

    Raises:
        TristyleError: no editor, an editor of another generator, or photos of another size.
    """
    editor = sampling_editor(folder, source)
    files = target_pictures(data, "photo")
    pictures = load_images(files, runtime.workers)
    check_size(pictures, source)
    save_network(out / EDITOR, editor)

    encoder = editor.encoder.to(runtime.device)
    with torch.no_grad():
        parts = [encoder(to_tensor(pictures[i : i + 32]).to(runtime.device)).cpu() for i in range(0, len(pictures), 32)]
    return torch.cat(parts), [file.stem for file in files], Content(editor, pictures, reader)


def target_pictures(data: Artifact, target: str) -> list[Path]:
    """The training pictures of ``photo`` or a style, by name.

    Raises:
        TristyleError: there are none; names what there is.
    """
    paths = sorted((data.path / ("photo" if target == "photo" else f"style/{target}")).glob("*.png"))
    if not paths:
        known = ", ".join(["photo", *sorted(entry.name for entry in (data.path / "style").glob("*/"))])
        raise TristyleError(f"style.target={target}: the data hold no such pictures. Choose one of: {known}.")
    return paths
