"""A tiny editor of 32 px faces: networks, training and artifacts for tests of style=expanded and of what runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.core.artifact import Artifact, seal
from stages.core.files import write_jsonl
from stages.core.images import write_image
from stages.core.settings import Train
from stages.core.tensors import to_tensor
from stages.core.weights import save_network
from stages.networks.encoder import Encoder
from stages.networks.expanded import AttributeClassifier, ExpandedEditor
from stages.networks.face_reader import Reader
from stages.networks.latents import generator_id
from stages.networks.stylegan2 import Generator
from stages.style.expanded.labels import Edits
from stages.style.expanded.training import EditBatches, Editing, Expand, new_editor
from stages.style.inversion.e4e import photo_batches
from stages.training.fit import Batches
from tests.tools.pair_toys import heads, small_reader

SIZE = 32
NAMES = ["age", "gender", "yaw"]


def generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    made = Generator(z_dim=8, w_dim=8, img_resolution=SIZE, channel_base=256, channel_max=8).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "torgb.weight" in name:
                parameter.mul_(0.5)
    return made.requires_grad_(False)


def encoder(of: Generator) -> Encoder:
    torch.manual_seed(1)
    made = Encoder(of.num_ws, of.w_dim, SIZE, widths=(8, 8, 8, 8), hidden=8, generator=generator_id(of))
    return made.eval().requires_grad_(False)


def classifier() -> AttributeClassifier:
    torch.manual_seed(2)
    made = AttributeClassifier(NAMES, [False, True, False], [40, 0.5, 0], [20, 0.5, 15], SIZE, (8, 8, 8, 8))
    with torch.no_grad():  # readings that differ from photo to photo
        made.head.second.weight.mul_(30)
    return made.eval().requires_grad_(False)


def editor(**changes: Any) -> ExpandedEditor:
    of = generator()
    made = new_editor(of, encoder(of), classifier(), Expand(**{"width": 4, "widest": 8} | changes)).eval()
    torch.manual_seed(3)
    with torch.no_grad():  # as if it had been trained
        for parameter in made.content.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return made.requires_grad_(False)


def training(
    images: int = 24, lr: float = 2e-3, reader: Reader | None = None, **changes: Any
) -> tuple[Editing, Batches, Train]:
    """A training of the editor on drawn heads."""
    length = Train(images=images, batch=4, lr=lr, seed=5, checkpoint_images=8, preview_images=10**6)
    settings = Expand(**{"width": 4, "widest": 8} | changes)
    photos, of = heads(12, 0, False, SIZE)[0], generator()
    seer = classifier()
    torch.manual_seed(4)
    made = new_editor(of, encoder(of), seer, settings)
    task = Editing(made, seer, reader or small_reader(), settings, lr, to_tensor(photos))
    return task, photo_batches(photos, 5, True), length


def true_edits(count: int = 16, backwards: bool = False) -> tuple[EditBatches, np.ndarray, np.ndarray]:
    """Batches of drawn heads that redden with age; photos and edited photos, uint8 [N, R, R, 3].

    Args:
        count: of heads.
        backwards: they redden with youth.
    """
    photos, strengths = heads(count, 0, False, SIZE)[0], np.zeros((count, len(NAMES)), np.float32)
    strengths[:, 0] = np.linspace(-1.5, 1.5, count)
    by = 50 * strengths[:, 0, None, None, None] * (-1 if backwards else 1)
    changed = (photos + by * np.array([1.0, -1.0, 0.0])).clip(0, 255).astype(np.uint8)
    return EditBatches(photos, changed, Edits([], strengths, np.ones(len(NAMES), np.float32)), 5, True), photos, changed


def data(folder: Path, people: int = 24, held: int = 6) -> Artifact:
    """Drawn heads whose records say age, sex and yaw."""
    rows, rng = [], np.random.default_rng(3)
    for split, place, count, seed in (("train", "", people, 0), ("heldout", "heldout/", held, 1)):
        images, masks = heads(count, seed, False, SIZE)
        for i in range(count):
            name = f"{i:06d}"
            write_image(folder / place / f"photo/{name}.png", images[i])
            write_image(folder / place / f"mask/{name}.png", masks[i])
            facts = {
                "age": int(rng.integers(20, 80)),
                "sex": ("female", "male")[i % 2],
                "yaw": float(rng.normal(0, 15)),
            }
            facts |= {"hair": "long" if i % 2 else "short", "glasses": "none"}
            row = {"id": name, "split": split, "person": f"{split}{i}", "style": None, "attributes": facts}
            rows.append(row | {"photo": f"{place}photo/{name}.png", "mask": f"{place}mask/{name}.png"})
    write_jsonl(folder / "records.jsonl", rows)
    return seal(folder, "data", config={"size": SIZE}, inputs={}, metrics={})


def style(folder: Path, **changes: Any) -> Artifact:
    """What a style=expanded leaves, but for its pictures."""
    made = editor(**changes)
    for name, network in {"editor": made, "encoder": made.encoder, "classifier": classifier()}.items():
        save_network(folder / f"{name}.safetensors", network)
    for name in ("generator", "source", "transferred"):
        save_network(folder / f"{name}.safetensors", generator())
    return seal(folder, "style", config={"target": "photo"}, inputs={}, metrics={"editor_psnr": 30.0})
