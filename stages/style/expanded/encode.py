"""Photos to latents of an editor's generator, and how the ways to do it compare.

python -m stages.style.expanded.encode runs/style/KEY runs/data/KEY --compare        # every mode on held-out photos
python -m stages.style.expanded.encode runs/style/KEY photos -o encoded              # latents and reconstructions
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from stages.core.artifact import open_artifact
from stages.core.consent import usable
from stages.core.decode import read
from stages.core.faults import end
from stages.core.files import write_bytes, write_json
from stages.core.images import load_images, write_image
from stages.core.mark import TRAINED
from stages.core.settings import TristyleError, choice, number
from stages.core.tensors import to_tensor
from stages.networks.expanded import ExpandedEditor
from stages.networks.face_reader import load_reader
from stages.networks.latents import load_editor
from stages.style.expanded.labels import photo_rows
from stages.style.expanded.likeness import MEASURES, independent_features, likeness_rows, means
from stages.style.expanded.score import mode_sheet
from stages.style.expanded.stage import load_iterative
from stages.style.inversion.modes import MODES, ModeSettings, reconstruct

EDITOR = "editor"  # the mode that takes both branches
SHOWN = 8  # photos on the sheet
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def read_photos(place: Path, size: int, count: int) -> tuple[list[str], np.ndarray]:
    """Names and photos uint8 [N, size, size, 3]: held out in a data artifact, or the centre squares in a folder.

    Raises:
        TristyleError: there are none, or the artifact's have another size, or as of `usable`.
    """
    if (place / "manifest.json").exists():
        data = open_artifact(place, "data", verify=False)
        rows = photo_rows(data, "heldout")[:count]
        if not rows:
            raise TristyleError(f"{place}: holds no photo out. Set data.heldout above 0.")
        photos = load_images([data.path / row["photo"] for row in rows])
        if photos.shape[1] != size:
            raise TristyleError(f"{place}: has photos of {photos.shape[1]} px, the editor takes {size}. Use its data.")
        return [str(row["id"]) for row in rows], photos

    files = usable(sorted(file for file in place.glob("**/*") if file.suffix.lower() in PICTURES))[:count]
    if not files:
        raise TristyleError(f"{place}: no pictures here. Name a folder of photos, or a data artifact.")
    return [file.stem for file in files], np.stack([_square(read(file).pixels, size) for file in files])


def _square(photo: np.ndarray, size: int) -> np.ndarray:
    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    cut = photo[top : top + side, left : left + side]
    out: np.ndarray = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    return out


def by_mode(editor: ExpandedEditor, folder: Path, settings: ModeSettings) -> dict[str, Callable[[Tensor], Tensor]]:
    """Mode -> what reconstructs photos [N, 3, R, R] in [-1, 1]; the iterative encoder only where `folder` has one."""
    features, iterative = load_reader().encode, load_iterative(folder)

    def reconstructing(mode: str) -> Callable[[Tensor], Tensor]:
        given = (settings, features, editor.encoder, iterative)
        return lambda photos: reconstruct(mode, editor.generator, photos, *given).draw()

    @torch.no_grad()
    def through(photos: Tensor) -> Tensor:
        drawn: Tensor = editor(photos, torch.zeros(len(photos), len(editor.attributes)))
        return drawn

    modes = {mode: reconstructing(mode) for mode in MODES if mode != "iterative" or iterative is not None}
    return {EDITOR: through} | modes


def compare(
    modes: dict[str, Callable[[Tensor], Tensor]], photos: np.ndarray
) -> tuple[dict[str, dict[str, float]], np.ndarray]:
    """The modes side by side on photos uint8 [N, R, R, 3].

    Returns:
        mode -> `MEASURES` and CPU seconds a photo; and a sheet uint8 [H, W, 3].
    """
    images, features = to_tensor(photos), independent_features()
    table, drawn = {}, {}
    for name, reconstruct_all in modes.items():
        begun = time.process_time()
        drawn[name] = reconstruct_all(images)
        seconds = (time.process_time() - begun) / len(photos)
        table[name] = means(likeness_rows(drawn[name], images, features)) | {"seconds": seconds}
    return table, mode_sheet(photos[:SHOWN], {name: values[:SHOWN] for name, values in drawn.items()})


def print_table(table: dict[str, dict[str, float]]) -> None:
    """One mode a line."""
    keys = (*MEASURES, "seconds")
    print(f"{'':<12}" + "".join(f"{key:>12}" for key in keys))
    for name, row in table.items():
        print(f"{name:<12}" + "".join(f"{row[key]:12.4f}" for key in keys))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.style.expanded.encode", description=__doc__)
    parser.add_argument("editor", type=Path, help="folder of a style=expanded")
    parser.add_argument("photos", type=Path, help="a data artifact, whose held-out photos are taken, or a folder")
    parser.add_argument("-o", "--out", type=Path, default=Path("encoded"), help="folder to write")
    parser.add_argument("--count", type=int, default=16, help="photos at most")
    parser.add_argument("--compare", nargs="*", metavar="MODE", help=f"modes to compare: {EDITOR}, {', '.join(MODES)}")
    parser.add_argument("--steps", type=int, default=500, help="of W+ optimisation")
    parser.add_argument("--tuning", type=int, default=350, help="of pivotal tuning's weights")
    return parser


def encode(options: argparse.Namespace) -> None:
    """What the command line asks for."""
    number("--count", options.count, 1, integer=True)
    settings = ModeSettings(steps=options.steps, tuning=options.tuning)
    editor = load_editor(options.editor)
    names, photos = read_photos(options.photos, editor.generator.img_resolution, options.count)
    modes = by_mode(editor, options.editor, settings)
    options.out.mkdir(parents=True, exist_ok=True)

    if options.compare is not None:
        for mode in options.compare:
            choice("--compare", mode, modes)
        chosen = {name: mode for name, mode in modes.items() if name in (options.compare or modes)}
        table, sheet = compare(chosen, photos)
        write_json(options.out / "modes.json", {"photos": len(photos), "modes": table})
        write_image(options.out / "modes.png", sheet, TRAINED)
        print_table(table)
        return

    with torch.no_grad():
        write_bytes(options.out / "latents.safetensors", save({"ws": editor.encoder(to_tensor(photos)).contiguous()}))
    sheet = mode_sheet(photos[:SHOWN], {EDITOR: modes[EDITOR](to_tensor(photos[:SHOWN]))})
    write_json(options.out / "photos.json", names)
    write_image(options.out / "reconstructed.png", sheet, TRAINED)
    print(options.out)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`. Mistakes end with one line on stderr and exit code 2."""
    try:
        encode(_arguments().parse_args(arguments))
    except (Exception, KeyboardInterrupt) as error:
        raise SystemExit(end("encode", error)) from None


if __name__ == "__main__":
    main()
