"""A distilled student as it ships: networks in half precision, and a card.

    python -m stages.recipes.blaze_student runs/student/KEY --measures FILE.json --out data/blaze128

writes `student.safetensors` (encoder and generator), `faces.safetensors` (mapping and generator) and
`discriminator.safetensors` into the folder, which is what `experiment=blaze-fewshot` starts from, and
`data/blaze128.json` beside it. FILE.json holds measures for the card, for instance those that the arm `distil` of
`tests.bench.blaze` writes, whose folder `distil` may take the place of the student's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.core.files import read_json, sha256_file, write_json
from stages.core.settings import TristyleError
from stages.core.weights import load_network, save_network
from stages.networks.blaze import BlazeFaces, BlazeStylizer
from stages.networks.latents import generator_id
from stages.networks.stylegan2 import Discriminator

NETWORKS = {"student": BlazeStylizer, "faces": BlazeFaces, "discriminator": Discriminator}


def write_student(place: Path, measures: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the files of a distilled student and return its card.

    Args:
        place: folder of the student's networks.
        measures: what the card says of them.
        out: folder to write; the card lies beside it.

    Raises:
        TristyleError: a network is missing or another one, or the encoder belongs to another generator.
    """
    networks = {name: load_network(place / f"{name}.safetensors") for name in NETWORKS}
    if wrong := [name for name, kind in NETWORKS.items() if not isinstance(networks[name], kind)]:
        raise TristyleError(f"{place / wrong[0]}.safetensors: not of a distilled student. Run experiment=blaze-128.")

    stylizer = networks["student"]
    assert isinstance(stylizer, BlazeStylizer)
    if stylizer.encoder.generator != generator_id(stylizer.generator):
        raise TristyleError(f"{place}: an encoder of another generator, as few-shot students have. Give their start.")
    out.mkdir(parents=True, exist_ok=True)
    files = {name: out / f"{name}.safetensors" for name in NETWORKS}
    for name, path in files.items():
        save_network(path, networks[name], half=True)

    card = {
        "files": [f"{out.name}/{path.name}" for path in files.values()],
        "sha256": {name: sha256_file(path) for name, path in files.items()},
        "what": f"BlazeStyleGAN of rendered photos, {stylizer.side} px, its encoder, its discriminator; float16",
        "licence": "Apache-2.0; trained on rendered people, who are nobody",
        "recipe": {"command": "tristyle experiment=blaze-128, then python -m stages.recipes.blaze_student STUDENT"},
        "heldout": measures,
    }
    write_json(out.with_suffix(".json"), card)
    return card


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a line on stderr and exit code 2 where it does not work out."""
    parser = argparse.ArgumentParser(prog="python -m stages.recipes.blaze_student", description=(__doc__ or "")[:72])
    parser.add_argument("student", type=Path, help="artifact of a distilled student, or a folder of its networks")
    parser.add_argument("--measures", type=Path, help="JSON of measures for the card")
    parser.add_argument("--out", type=Path, required=True, help="folder to write: data/blaze128")
    options = parser.parse_args(arguments)
    try:
        measures = read_json(options.measures, {}) if options.measures else {}
        write_student(options.student, measures, options.out)
    except TristyleError as error:
        print(f"blaze_student: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(options.out)


if __name__ == "__main__":
    main()
