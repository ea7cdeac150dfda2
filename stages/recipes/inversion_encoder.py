"""The recipe of the shipped inversion encoder, and how it compares with optimisation.

`python -m stages.recipes.inversion_encoder` renders photos, trains (`stages.style.inversion.e4e`), scores and writes
the card, about 20 minutes on one free core; a killed run resumes. With `--compare N` it sets the shipped encoder beside
W+ optimisation.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.core.files import data_file
from stages.core.images import grid, write_image
from stages.core.mark import TRAINED
from stages.core.runtime import Runtime
from stages.core.settings import Train, TristyleError
from stages.core.tensors import to_tensor, to_uint8
from stages.core.tracking import Tracker
from stages.core.weights import load_network, save_network
from stages.datasets.people import HELDOUT_PEOPLE, TRAIN_PEOPLE, open_people
from stages.metrics.geometry import correspondence
from stages.networks.encoder import Encoder
from stages.networks.face_reader import Reader, load_reader
from stages.networks.latents import SHIPPED_ENCODER, load_encoder
from stages.networks.stylegan2 import Generator
from stages.recipes.card import write_card
from stages.style.inversion.e4e import Encode, train_encoder
from stages.style.inversion.optimise import Project, decode, project, refinement
from stages.training.losses import perceptual_distance, pixel_distance


def render_photos(first: int, count: int) -> np.ndarray:
    """Photos uint8 [count, 64, 64, 3] of the embedded people `first`, `first` + 1, ..., each in one view."""
    people = open_people()
    return np.stack([people.photo(who, 0, 64).image for who in range(first, first + count)])


@torch.no_grad()
def likeness(reader: Reader, images: Tensor, photos: Tensor) -> dict[str, float]:
    """How near pictures come to photos, both [N, 3, H, W] in [-1, 1]; means over the pictures.

    Returns:
        l1, l2 (of values in [-1, 1]), perceptual (see `perceptual_distance`), loss (l2 + perceptual, what is
        optimised), identity (the reader's cosine), yaw, pitch and smile (correlation with the photos' over the
        pictures: the pictures may be a fused generator's).
    """
    perceptual = perceptual_distance(reader.encode(images), reader.encode(photos)).mean()
    l2 = pixel_distance(images, photos).mean()

    drawn, given = reader.read(images), reader.read(photos)
    turned = correspondence(drawn.pose, given.pose)
    smile = correspondence(drawn.expression, given.expression)[0]
    values = {
        "l1": (images - photos).abs().mean(),
        "l2": l2,
        "perceptual": perceptual,
        "loss": l2 + perceptual,
        "identity": (drawn.identity * given.identity).sum(dim=1).mean(),
        "yaw": turned[0],
        "pitch": turned[1],
        "smile": smile,
    }
    return {name: round(float(value), 4) for name, value in values.items()}


def compare(
    generator: Generator,
    encoder: Encoder,
    photos: np.ndarray,
    reader: Reader,
    after: tuple[int, ...] = (10, 50),
    alone: tuple[int, ...] = (50, 200),
) -> tuple[dict[str, dict[str, float]], np.ndarray]:
    """The encoder, also with `after` steps of refinement, against W+ optimisation on uint8 photos [N, R, R, 3].

    `alone`: steps of W+ optimisation from the mean w, with the published schedule.

    Returns:
        arm -> `likeness` and CPU seconds a photo; and a sheet uint8 [H, W, 3]: photo, then the arms in the table's
        order, one photo a row (16 at most).
    """
    images = to_tensor(photos)
    begun = time.process_time()
    with torch.no_grad():
        encoded = encoder(images)
    arms = {"encoder": (encoded, time.process_time() - begun)}
    plans: dict[str, tuple[Project, Tensor | None]] = {
        **{f"encoder + {steps}": (refinement(steps), encoded) for steps in after},
        **{f"W+ {steps}": (Project(steps=steps), None) for steps in alone},
    }

    for name, (plan, start) in plans.items():
        begun = time.process_time()
        arms[name] = project(generator, images, plan, start, reader.encode), time.process_time() - begun

    table, columns = {}, [photos]
    for name, (ws, seconds) in arms.items():
        with torch.no_grad():
            drawn = decode(generator, ws)
        table[name] = likeness(reader, drawn, images) | {"seconds": round(seconds / len(photos), 4)}
        columns.append(to_uint8(drawn))
    rows = [column[row] for row in range(min(len(photos), 16)) for column in columns]
    return table, grid(rows, columns=len(columns))


def print_table(table: dict[str, dict[str, float]]) -> None:
    """One arm a line."""
    keys = list(next(iter(table.values())))
    print(" " * 14 + "".join(f"{key:>12}" for key in keys))
    for name, row in table.items():
        print(f"{name:<14}" + "".join(f"{row[key]:12.4f}" for key in keys))


def recipe(options: argparse.Namespace) -> None:
    """Render, train, save in half precision, score what was saved, write the card."""
    begun, work, out = time.time(), Path(options.work), Path(options.out)
    work.mkdir(parents=True, exist_ok=True)
    cache = work / f"photos_{options.people}.npy"
    if not cache.exists():
        np.save(cache, render_photos(TRAIN_PEOPLE, options.people))

    generator, reader = _base(), load_reader()
    settings = Encode(
        train=Train(images=options.images, batch=8, lr=options.lr, seed=options.seed, preview_images=4000)
    )
    runtime = Runtime("cpu", options.workers, Tracker(work))
    encoder = train_encoder(generator, np.load(cache), settings, work, runtime, reader)

    # What is saved is what is scored.
    save_network(out, encoder, half=True)
    stored = load_encoder(generator, out)
    assert stored is not None
    photos = to_tensor(render_photos(HELDOUT_PEOPLE, options.heldout))
    with torch.no_grad():
        scores = likeness(reader, decode(generator, stored(photos)), photos)
    write_card(
        out,
        stored,
        kind="encoder",
        command="python -m stages.recipes.inversion_encoder",
        about={
            "what": "encoder of the shipped base generator: photo -> ws in one pass, float16",
            "generator": stored.generator,
            "input": "float32 RGB [N, 3, H, W] in [-1, 1], any size, resized to 64 px inside",
            "licence": "Apache-2.0",
            "data": "people with truth only; no picture of a real person",
        },
        recipe={"source": open_people().id, "people": options.people}
        | asdict(settings)
        | {"minutes": round((time.time() - begun) / 60, 1)},
        heldout={"photos": options.heldout} | scores,
    )
    print(json.dumps(scores, indent=1))


def _base() -> Generator:
    generator = load_network(data_file("base64_generator.safetensors"))
    assert isinstance(generator, Generator)
    return generator.requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m stages.recipes.inversion_encoder", description=__doc__)
    parser.add_argument("--out", default=f"data/{SHIPPED_ENCODER}", help="weights to write; the card lies beside them")
    parser.add_argument("--work", default="runs/encoder", help="folder for rendered photos, log and training state")
    parser.add_argument("--people", type=int, default=6000, help="people rendered for training")
    parser.add_argument("--heldout", type=int, default=256, help="other people, for the scores")
    parser.add_argument("--images", type=int, default=30_000, help="photos seen in training")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="training threads")
    parser.add_argument("--compare", type=int, metavar="N", help="compare the shipped encoder on N held-out photos")
    parser.add_argument("--first", type=int, default=HELDOUT_PEOPLE, help="compare: number of the first person")
    options = parser.parse_args(arguments)
    try:
        if options.compare is None:
            recipe(options)
            return

        generator = _base()
        encoder = load_encoder(generator, Path(options.out))
        if encoder is None:
            raise TristyleError(
                f"{options.out}: made for another generator. Run python -m stages.recipes.inversion_encoder."
            )
        photos = render_photos(options.first, options.compare)
        table, sheet = compare(generator, encoder, photos, load_reader())
        write_image(Path(options.work) / "compare.png", sheet, TRAINED)
        print_table(table)
    except TristyleError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
