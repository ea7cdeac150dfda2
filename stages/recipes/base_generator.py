"""A trained base as it ships: half precision, a sheet of unpicked samples, and a card with its measures.

    python -m stages.recipes.base_generator runs/style/KEY runs/data/KEY --out data/base64

writes `base64_generator.safetensors`, `base64_discriminator.safetensors`, `base64_samples.png` and `base64.json`. The
style artifact is the last of its base's trainings (`experiment=base-64`, `base-128`), the data artifact what it was
trained on. All measures are of the files as written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stages.core.artifact import Artifact, open_artifact
from stages.core.files import sha256_file, write_json
from stages.core.images import grid, load_images, write_image
from stages.core.settings import TristyleError
from stages.core.tensors import to_tensor, unit
from stages.core.weights import load_network, save_network
from stages.metrics.kid import HeadKid
from stages.metrics.richness import attribute_bins, coverage, pose_expression_bins
from stages.networks.face_reader import FaceReading, Reader, load_reader
from stages.networks.latents import latents, load_generator
from stages.style.sampling.candidates import draw
from stages.style.sampling.score import read

SHEET = 100  # samples on the sheet, seeds 0 to 99
PSI = 0.7  # of the sheet, and of the style sets
LOOKS = "glasses, hat, beard, hair"


def measure(reader: Reader, drawn: np.ndarray, real: np.ndarray, held: FaceReading) -> dict[str, Any]:
    """How near a base's samples are to people that it has not seen, and how rich.

    Args:
        reader: the face reader.
        drawn: uint8 [N, R, R, 3], the samples.
        real: uint8 [N, R, R, 3], held-out photos.
        held: what the reader says of them.

    Returns:
        kid: [mean, sd], heads on grey. coverage: of poses and expressions, the photos' 1; and of glasses, hat, beard
        and amount of hair (`stages.metrics.richness.coverage`).
    """
    reading, kid = read(reader, drawn), HeadKid(reader)
    kid.add_real(unit(to_tensor(real)), held.mask)
    kid.add_fake(unit(to_tensor(drawn)), reading.mask)
    found = kid.compute()

    def bins(said: FaceReading) -> Tensor:
        return pose_expression_bins(said.pose, said.expression)

    return {
        "kid": [round(float(found[key]), 4) for key in ("kid", "kid_sd")],
        "coverage": {
            "pose, expression": round(coverage(bins(reading), bins(held)), 3),
            LOOKS: round(coverage(attribute_bins(reading.parsing), attribute_bins(held.parsing)), 3),
        },
    }


def write_base(style: Artifact, data: Artifact, out: Path) -> dict[str, Any]:
    """Write the files of a base beside each other and return its card.

    Args:
        style: the trained base.
        data: its data, with held-out photos.
        out: folder and first part of the names, e.g. `data/base64`.

    Raises:
        TristyleError: a base of something else than photos, or fewer than two held-out photos.
    """
    if (target := style.config["target"]) != "photo":
        raise TristyleError(f"{style.path}: target={target} is a style, not a base. Give a run of experiment=base-64.")
    real = sorted((data.path / "heldout" / "photo").glob("*.png"))
    if len(real) < 2:
        raise TristyleError(f"{data.path}: two held-out photos are needed, it has {len(real)}. Set data.heldout=600.")

    files = {name: out.with_name(f"{out.name}_{name}.safetensors") for name in ("generator", "discriminator")}
    save_network(files["generator"], load_generator(style.path / "transferred.safetensors"), half=True)
    save_network(files["discriminator"], load_network(style.path / "discriminator.safetensors"), half=True)
    generator = load_generator(files["generator"])
    sheet = draw(generator, latents(generator.z_dim, range(SHEET)), PSI)
    write_image(out.with_name(f"{out.name}_samples.png"), grid(sheet, 10, pad=0))

    reader, photos = load_reader(), load_images(real)
    held, z = read(reader, photos), latents(generator.z_dim, range(len(photos)))
    card = {
        "files": [path.name for path in files.values()],
        "sha256": {name: sha256_file(path) for name, path in files.items()},
        "what": f"StyleGAN2 of rendered photos, {generator.img_resolution} px, averaged; its discriminator; float16",
        "licence": "Apache-2.0; trained on rendered people, who are nobody",
        "recipe": {"command": "python -m stages.recipes.base_generator STYLE DATA"},
        "images_seen": style.config["train"]["images"],
        "settings": {key: style.config[key] for key in ("start", "train", "recipe", "network")},
        "photos": data.config["count"],
        "heldout": {
            "reader": reader.id,
            "what": f"seeds 0 to {len(photos) - 1} against as many held-out photos",
            "psi 1": measure(reader, draw(generator, z, 1.0), photos, held),
            f"psi {PSI}": measure(reader, draw(generator, z, PSI), photos, held),
        },
    }
    write_json(out.with_suffix(".json"), card)
    return card


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a line on stderr and exit code 2 where it does not work out."""
    parser = argparse.ArgumentParser(prog="python -m stages.recipes.base_generator", description=(__doc__ or "")[:90])
    parser.add_argument("style", type=Path, help="style artifact of the base")
    parser.add_argument("data", type=Path, help="data artifact that it learnt from")
    parser.add_argument("--out", type=Path, required=True, help="folder and first part of the names: data/base64")
    options = parser.parse_args(arguments)
    try:
        card = write_base(open_artifact(options.style, "style"), open_artifact(options.data, "data"), options.out)
    except TristyleError as error:
        print(f"base_generator: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{options.out}: {card['heldout']}")


if __name__ == "__main__":
    main()
