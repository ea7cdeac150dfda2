"""Do pose and expression follow the photos when their latents are drawn by a generator fused from the source?

    python -m tests.bench.invert --transferred runs/style/KEY/transferred.safetensors      # about a minute

Held-out rendered photos are inverted by the shipped encoder, alone and with 50 steps of refinement, and by the source,
the transferred and the fused generator drawn again. Printed: the correlation of yaw, pitch and smile between photos
and drawings, as the face reader sees them, and its identity cosine; also with random latents, for scale. How near the
reconstructions come to the photos is `python -m stages.recipes.inversion_encoder --compare 64`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from stages.core.files import data_file
from stages.core.images import grid, write_image
from stages.core.tensors import to_tensor, to_uint8
from stages.core.weights import load_network
from stages.datasets.people import HELDOUT_PEOPLE
from stages.networks.face_reader import load_reader
from stages.networks.latents import latents, load_encoder
from stages.networks.stylegan2 import Generator
from stages.recipes.inversion_encoder import likeness, render_photos
from stages.style.fusion.fuse import Fusion, fuse
from stages.style.inversion.optimise import decode, project, refinement

KEYS = ("yaw", "pitch", "smile", "identity")


def load(path: Path) -> Generator:
    """A generator, frozen."""
    generator = load_network(path)
    assert isinstance(generator, Generator), f"{path} holds no generator"
    return generator.requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.invert", description=__doc__)
    parser.add_argument("--transferred", type=Path, required=True, help="a generator transferred from the base")
    parser.add_argument("--encoder", type=Path, help="another encoder than the shipped one")
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--first", type=int, default=HELDOUT_PEOPLE, help="number of the first person")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--sheet", type=Path, help="picture to write: photo, then each latents' three drawings")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    reader, source = load_reader(), load(data_file("base64_generator.safetensors"))
    transferred = load(options.transferred)
    fusion = Fusion()
    drawers = {"source": source, "transferred": transferred, "fused": fuse(source, transferred, fusion)}
    encoder = load_encoder(source, options.encoder)
    assert encoder is not None, "the encoder was made for another generator"
    photos = render_photos(options.first, options.photos)
    images = to_tensor(photos)
    with torch.no_grad():
        encoded = encoder(images)
        random = source.mapping(latents(source.z_dim, list(range(len(photos)))), 0.8)
    refined = project(source, images, refinement(options.steps), encoded, reader.encode)
    columns = [photos]
    print(f"{'latents':<14}{'drawn by':<14}" + "".join(f"{key:>10}" for key in KEYS))
    for name, ws in {"random": random, "encoder": encoded, f"encoder + {options.steps}": refined}.items():
        for by, generator in drawers.items():
            with torch.no_grad():
                drawn = decode(generator, ws)
            found = likeness(reader, drawn, images)
            print(f"{name:<14}{by:<14}" + "".join(f"{found[key]:10.3f}" for key in KEYS))
            if name != "random":
                columns.append(to_uint8(drawn))
    if options.sheet:
        rows = [column[row] for row in range(min(len(photos), 16)) for column in columns]
        write_image(options.sheet, grid(rows, columns=len(columns)))


if __name__ == "__main__":
    main()
