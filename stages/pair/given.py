"""Pairs that somebody else has made: a folder's own couples of photo and style picture, without a translator.

`data=folders` knows a style picture under a photo's file stem for that photo's twin (`twin_of` in its records). Those
are the pairs: exactly aligned, or the student learns to move things. They are scored, curated and written like any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from stages.core.artifact import Artifact
from stages.core.images import write_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError, choice
from stages.core.stage import Stage
from stages.core.tensors import mask_tensor, to_tensor, unit
from stages.metrics.identity import identity_cosine
from stages.metrics.pixel import background_error, mean_defined
from stages.networks.face_reader import Reader, load_reader, reader_file
from stages.pair.curate import Curate
from stages.pair.inputs import OnDisk, refuse_photos, stored_photos
from stages.pair.write import Write, write_pairs


@dataclass(kw_only=True)
class GivenPairs(Stage):
    """A folder's own couples of photo and style picture -> curated, scored (photo, style) pairs.

    Args:
        target: name of the style whose pictures are the photos' twins.
        keep_background: composite the twin's head onto its photo, so that nothing else changes. False takes style
            pictures as they are: the mask written is then the whole frame, in which the student may paint, and the
            background has no score.
        curate: which pairs are kept, and how they are composited; no limits by default.
        write: how they are stored.

    Raises:
        ConfigError: the target is not a name, or `write` names a folder of further photos, which have no twins.
    """

    reads: ClassVar[tuple[str, ...]] = ("data",)
    target: str
    keep_background: bool = True
    curate: Curate = field(default_factory=Curate)
    write: Write = field(default_factory=Write)

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not self.target:
            raise ConfigError(
                "target", f"{self.target!r} is not a style", "Name the folder below style/ with the twins"
            )
        choice("keep_background", self.keep_background, (True, False))
        refuse_photos(self.write.photos, "given pairs are of the data's photos")

    def files(self) -> dict[str, Path]:
        """The face reader, which scores the pairs."""
        return reader_file()

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Curate and write the couples of training photos.

        Returns:
            The artifact's metrics; of a part (`runtime.part`), how many shards are done and how many there are.

        Raises:
            TristyleError: the data set has no couples of that style, or no pair passes the limits.
        """
        pairs = couples(inputs["data"], self.target)
        return write_couples(inputs["data"], pairs, out, self.curate, self.write, runtime, not self.keep_background)

    def shards(self, inputs: dict[str, Artifact]) -> int:
        """How many shards there are to write: `part=range(0,N)` launches them all."""
        return self.write.shards(sum(pair.split == "train" for pair in couples(inputs["data"], self.target)))


@dataclass(frozen=True)
class Couple:
    """A photo and its twin, files within the data artifact; `split` is the photo's (train or heldout).

    `cover`, where there is one, says what the people in both cover (`stages.pair.inputs.Painted`), and `eyes` where the
    photo's eyes are: x and y of both, shares of the width.
    """

    id: str
    split: str
    photo: str
    mask: str
    twin: str
    cover: str | None = None
    eyes: list[list[float]] | None = None


def couples(data: Artifact, target: str) -> list[Couple]:
    """The twins of style `target` with their photos, by the photos' ids; some of them are trained on.

    Raises:
        TristyleError: there are none to train on; names what there is.
    """
    rows = data.records()
    photos = {str(row["id"]): row for row in rows if row["split"] in ("train", "heldout")}
    twins = [row for row in rows if row.get("twin_of") in photos]
    found = [
        Couple(row["twin_of"], photo["split"], photo["photo"], photo["mask"], row["photo"])
        for row in twins
        if row["style"] == target
        for photo in (photos[row["twin_of"]],)
    ]
    if any(pair.split == "train" for pair in found):
        return sorted(found, key=lambda pair: pair.id)

    # name what there is: the style's name is the usual mistake
    others = sorted({str(row["style"]) for row in twins} - {target})
    if others:
        raise TristyleError(
            f"{data.path}: no style picture of {target} is a photo's twin. Say style.target={'|'.join(others)}."
        )
    raise TristyleError(
        f"{data.path}: holds no pairs of photo and {target}. Give a picture and its photo one file name, in "
        f"DIR/photo/ and DIR/style/{target}/, and say data=folders data.path=DIR."
    )


def on_disk(root: Path, pairs: Sequence[Couple], whole: bool = False) -> OnDisk:
    """Couples of the data artifact at `root`; with `whole` the whole frame counts as head."""
    photo, mask, raw = ([root / getattr(pair, kind) for pair in pairs] for kind in ("photo", "mask", "twin"))
    cover = [root / pair.cover for pair in pairs if pair.cover]
    notes = [{"eyes": pair.eyes} if pair.eyes else {} for pair in pairs]
    return OnDisk([pair.id for pair in pairs], photo, mask, raw, whole=whole, cover=cover, notes=notes)


def write_couples(
    data: Artifact,
    pairs: Sequence[Couple],
    out: Path,
    curate: Curate,
    write: Write,
    runtime: Runtime,
    whole: bool = False,
) -> dict[str, Any]:
    """Curate and write the couples of training photos; those of held-out ones go to `heldout/` and are measured.

    `identity` and `background_error` are those of the held-out twins: of what somebody made, not of what a translator
    paints. An error to the twin or a KID would compare the truth with itself.

    Args:
        data: the data artifact that holds the files.
        pairs: the couples of both splits.
        out: the artifact's folder.
        curate: the limits.
        write: how the pairs are stored.
        runtime: the machine.
        whole: the whole frame of a training pair counts as head.

    Returns:
        The artifact's metrics; of a part (`runtime.part`), how many shards are done and how many there are.
    """
    reader = load_reader(runtime.device)
    candidates = on_disk(data.path, [pair for pair in pairs if pair.split == "train"], whole)
    metrics = write_pairs(candidates, out, curate, write, reader, runtime)
    if runtime.part is not None:
        return metrics
    held = [pair for pair in pairs if pair.split == "heldout"]
    if held:
        metrics |= _measure(on_disk(data.path, held), reader, out, runtime)
    return metrics | {"heldout_pairs": float(len(held)), "reader": reader.id, "size": stored_photos(data).size}


def _measure(held: OnDisk, reader: Reader, out: Path, runtime: Runtime) -> dict[str, float]:
    """The held-out twins to `heldout/`, and how much of photo and person they keep."""
    pairs = held(range(len(held.ids)))
    for name, image in zip(held.ids, pairs.raw, strict=True):
        write_image(out / "heldout" / f"{name}.png", image, pairs.source)
    photo, twin = (unit(to_tensor(images).to(runtime.device)) for images in (pairs.photo, pairs.raw))
    mask = mask_tensor(pairs.mask).to(runtime.device)
    return {
        "identity": float(identity_cosine(reader, photo, twin, mask).mean()),
        "background_error": mean_defined(background_error(twin, photo, mask)),
    }
