"""`style=expanded`: photos with truth -> an editor of real faces on top of a frozen generator.

Encoder, classifier and editor are trained one after the other, each with a state of its own, so that a killed stage
goes on where it was. In a torchrun the first process trains encoder and classifier while the others wait; all of them
train the editor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from stages.core.artifact import SCRATCH, Artifact
from stages.core.files import data_file
from stages.core.images import LazyImages, load_images, load_masks, write_image
from stages.core.mark import TRAINED
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, Train, TristyleError, choice, number
from stages.core.stage import Stage
from stages.core.tensors import mask_tensor, to_tensor
from stages.core.weights import load_network
from stages.networks.encoder import Encoder, IterativeEncoder
from stages.networks.expanded import AttributeClassifier, ExpandedEditor
from stages.networks.face_reader import load_reader, reader_file
from stages.networks.latents import BASES, SHIPPED_ENCODER, generator_id, load_encoder
from stages.networks.stylegan2 import Generator
from stages.style.expanded.classifier import Classify, accuracy, new_classifier, train_classifier
from stages.style.expanded.labels import Edits, Labels, check_names, photo_rows, read_edits, read_labels
from stages.style.expanded.score import change_sheet, edit_sheet, mode_sheet, score_editor, score_true_edits
from stages.style.expanded.training import EditBatches, Editing, Expand, new_editor
from stages.style.finish import StyleNetworks, check_sampling, finish, target_pictures
from stages.style.fusion.library import Lineage, of_artifact, of_file
from stages.style.inversion.e4e import Encode, photo_batches, train_encoder
from stages.style.inversion.modes import MODES, ModeSettings, reconstruct
from stages.style.inversion.restyle import train_iterative
from stages.style.sampling.candidates import Sampling
from stages.style.weights.convert import open_pair
from stages.training import distributed
from stages.training.fit import Batches, fit, update_seed

CLASSIFIER, ITERATIVE = "classifier.safetensors", "iterative.safetensors"
MOST_SCORED = 256  # held-out photos behind the metrics


@dataclass(kw_only=True)
class ExpandedStage(Stage):
    """Photos with truth -> editor.

    Args:
        start: ``base`` (the shipped generator of the photos' size), the folder of a style artifact, or a weights file.
        target: what its pictures are, as the stages that follow ask every style: photo.
        attributes: what can be edited; the data must label each (see `stages.style.expanded.labels`).
        train: the editor's training: length in photos, photos a batch, learning rate of the content branch.
        sampling: the artifact's style set, pictures of the frozen generator.
        encode: trains the encoder where the shipped one was made for another generator.
        expand: weights of the editor's losses, and the size of its content branch.
        classify: the attribute classifier's training.
        classifier: folder of another style=expanded, whose classifier is used: photos then need no truth. None: train.
        iterative: train an iterative encoder too, as `encode` says, for comparison.
        modes: how long the modes of comparison work.
        shown: held-out photos on the sheets.
        seed: of the weights.
    """

    reads: ClassVar[tuple[str, ...]] = ("data",)
    attributes: list[str]
    train: Train
    sampling: Sampling
    encode: Encode
    start: str = "base"
    target: str = "photo"
    expand: Expand = field(default_factory=Expand)
    classify: Classify = field(default_factory=Classify)
    classifier: str | None = None
    iterative: bool = False
    modes: ModeSettings = field(default_factory=ModeSettings)
    shown: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_names("attributes", self.attributes)
        choice("target", self.target, ("photo",))
        number("shown", self.shown, 1, 16, integer=True)
        if self.start == "scratch":
            raise ConfigError("start", "an editor needs a trained generator", "Say base, or name a style artifact")
        if self.sampling.source == "invert":
            raise ConfigError("sampling.source", "the editor's own set is not of inverted photos", "Set it to random")
        unit = 2 * distributed.world() * self.train.accumulate
        if self.train.batch % unit:
            problem = f"{self.train.batch} is not a multiple of {unit}: a sample is shown for every two photos"
            raise ConfigError("train.batch", problem, f"Choose a multiple of {unit}")

    def files(self) -> dict[str, Path]:
        """The generator, the face reader, the shipped encoder and, where one is named, another editor's folder."""
        found = reader_file() | {"encoder": data_file(SHIPPED_ENCODER)}
        if self.start == "base":
            found |= {f"start.base{size}": data_file(name) for size, name in BASES.items()}
        else:
            found["start"] = Path(self.start)
        if self.sampling.editor is not None:
            found["sampling.editor"] = Path(self.sampling.editor)
        return found | ({} if self.classifier is None else {"classifier": Path(self.classifier)})

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, Any]:
        """Train, sample, measure; see the table of artifacts in the README for what is written."""
        data, reader, scratch = inputs["data"], load_reader(runtime.device), out / SCRATCH
        photos = LazyImages(target_pictures(data, "photo"), runtime.workers)
        generator = self._generator(photos.shape[1])
        check_sampling(self.sampling, generator)
        labels = None if self.classifier is not None else read_labels(data, self.attributes)
        classifier = None if labels else load_classifier(Path(str(self.classifier)), self.attributes)
        edits = read_edits(data, self.attributes, self.expand.step)
        truth = self._held_out(data, labels)  # all that can be refused is refused before the long trainings

        encoder = load_encoder(generator)
        if encoder is None:
            encoder = train_encoder(generator, photos, self.encode, scratch, runtime, reader).cpu()
        if classifier is None:
            assert labels is not None
            classifier = train_classifier(photos, labels, self.classify, scratch, runtime, reader)
        editor = self._train(generator, encoder, classifier, photos, edits, out, runtime).finished()

        others: dict[str, torch.nn.Module] = {"editor": editor, "encoder": encoder, "classifier": classifier}
        iterative = None
        if self.iterative:
            others["iterative"] = iterative = train_iterative(generator, photos, self.encode, scratch, runtime, reader)
        networks = StyleNetworks(
            generator=generator, transferred=generator, others=others, how="transfer",
            parents=[self._parent(photos.shape[1])], settings={"attributes": self.attributes},
            columns=[("generator", generator)],
        )  # fmt: skip
        metrics = finish(networks, data, self.target, self.sampling, out, runtime)
        return metrics | self._measured(editor, classifier, iterative, truth, data, out, runtime)

    def join(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> None:
        """The editor's training alone, which writes nothing: for all processes of a torchrun but the first.

        Encoder and classifier are as yet untrained here; the training begins with the first process's.
        """
        data = inputs["data"]
        photos = LazyImages(target_pictures(data, "photo"), runtime.workers)
        generator = self._generator(photos.shape[1])
        size = min(max(generator.img_resolution, 32), 256)
        encoder = load_encoder(generator)
        if encoder is None:
            encoder = Encoder(generator.num_ws, generator.w_dim, size, generator=generator_id(generator)).eval()
        if self.classifier is not None:
            classifier = load_classifier(Path(self.classifier), self.attributes)
        else:
            labels = read_labels(data, self.attributes)
            classifier = new_classifier(labels, load_reader(runtime.device), self.seed).eval()
        edits = read_edits(data, self.attributes, self.expand.step)
        self._train(generator, encoder, classifier, photos, edits, out, runtime)

    # Parts of it

    def _generator(self, size: int) -> Generator:
        """The frozen generator, for photos of `size` px.

        Raises:
            TristyleError: it draws another size.
        """
        path = data_file(BASES.get(size, BASES[64])) if self.start == "base" else Path(self.start)
        generator = open_pair(path, discriminator=False).generator
        if generator.img_resolution != size:
            raise TristyleError(
                f"style.start: {self.start} draws {generator.img_resolution} px, the data has {size} px. "
                f"Set data.size={generator.img_resolution}."
            )
        return generator.requires_grad_(False)

    def _parent(self, size: int) -> Lineage:
        """Lineage of the generator."""
        path = data_file(BASES.get(size, BASES[64])) if self.start == "base" else Path(self.start)
        return of_artifact(path) if path.is_dir() else of_file(path)

    def _train(
        self,
        generator: Generator,
        encoder: Encoder,
        classifier: AttributeClassifier,
        photos: LazyImages,
        edits: Edits | None,
        out: Path,
        runtime: Runtime,
    ) -> Editing:
        """The finished training of the editor, on the data's true edits where there are some."""
        torch.manual_seed(update_seed(self.seed, 0, "editor"))
        editor = new_editor(generator, encoder, classifier, self.expand)
        examples = to_tensor(photos[np.arange(min(len(photos), 16))])
        task = Editing(editor, classifier, load_reader("cpu"), self.expand, self.train.lr, examples)
        batches: Batches = photo_batches(photos, self.train.seed, self.expand.mirror)
        if edits is not None:
            changed = LazyImages(edits.files, runtime.workers)
            batches = EditBatches(photos, changed, edits, self.train.seed, self.expand.mirror)
        fit(task, batches, train=self.train, scratch=out / SCRATCH, runtime=runtime, label="editor")
        return task

    def _measured(
        self,
        editor: ExpandedEditor,
        classifier: AttributeClassifier,
        iterative: IterativeEncoder | None,
        truth: tuple[Labels | None, Edits | None],
        data: Artifact,
        out: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Scores of held-out photos; writes editing.png, change.png and modes.png."""
        rows = photo_rows(data, "heldout")[:MOST_SCORED] or photo_rows(data, "train")[:MOST_SCORED]
        photos = load_images([data.path / row["photo"] for row in rows], runtime.workers)
        places = [data.path / row["mask"] for row in rows if row.get("mask")]
        masks = mask_tensor(load_masks(places, runtime.workers)).numpy() if len(places) == len(rows) else None
        metrics = score_editor(editor, classifier, photos, masks)
        labels, edits = truth
        if labels is not None:
            metrics |= accuracy(classifier, photos, replace(labels, raw=labels.raw[: len(photos)]))
        if edits is not None:
            metrics |= score_true_edits(editor, photos, edits)

        shown = photos[: self.shown]
        write_image(out / "editing.png", edit_sheet(editor, shown), TRAINED)
        write_image(out / "change.png", change_sheet(editor, shown), TRAINED)
        write_image(out / "modes.png", mode_sheet(shown, self._by_modes(editor, iterative, shown)), TRAINED)
        return metrics

    def _held_out(self, data: Artifact, labels: Labels | None) -> tuple[Labels | None, Edits | None]:
        """What is known of the held-out photos: labels where the training's are given, and true edits."""
        rows = photo_rows(data, "heldout")
        held = read_labels(data, self.attributes, "heldout", labels) if rows and labels is not None else None
        if not any(row.get("edit") for row in rows):
            return held, None
        like = labels or read_labels(data, self.attributes)
        return held, read_edits(data, self.attributes, self.expand.step, "heldout", like)

    def _by_modes(
        self, editor: ExpandedEditor, iterative: IterativeEncoder | None, photos: np.ndarray
    ) -> Mapping[str, Tensor]:
        """Reconstructions of photos by the editor and by every mode whose encoder there is."""
        images, features = to_tensor(photos), load_reader().encode
        with torch.no_grad():
            drawn = {"editor": editor(images, torch.zeros(len(images), len(editor.attributes)))}
        for mode in MODES:
            if mode != "iterative" or iterative is not None:
                given = (editor.generator, images, self.modes, features, editor.encoder, iterative)
                drawn[mode] = reconstruct(mode, *given).draw()
        return drawn


def load_classifier(folder: Path, attributes: list[str]) -> AttributeClassifier:
    """The classifier of another editor's folder, in eval mode.

    Raises:
        TristyleError: there is none, or it reads other attributes.
    """
    classifier = load_network(folder / CLASSIFIER if folder.is_dir() else folder)
    if not isinstance(classifier, AttributeClassifier):
        raise TristyleError(f"style.classifier: {folder} holds no classifier. Name a folder of style=expanded.")
    if list(classifier.names) != list(attributes):
        raise TristyleError(
            f"style.attributes: the classifier of {folder} reads {', '.join(classifier.names)}. "
            f"Set style.attributes=[{','.join(classifier.names)}]."
        )
    return classifier.requires_grad_(False)


def load_iterative(folder: Path) -> IterativeEncoder | None:
    """The iterative encoder in the folder of a style=expanded; None where it has none."""
    if not (folder / ITERATIVE).exists():
        return None
    network = load_network(folder / ITERATIVE)
    return network if isinstance(network, IterativeEncoder) else None
