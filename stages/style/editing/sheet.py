"""A sheet to choose a style from: the same few people in every style, along fusion's alpha or along an edit.

python -m stages.style.editing.sheet runs                                   # every style under runs/, photo to style
python -m stages.style.editing.sheet runs/style/KEY --edits smile,yaw --alphas -3,0,3 -o sheet.png
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from stages.core.artifact import Artifact, open_artifact
from stages.core.images import write_image
from stages.core.mark import TRAINED
from stages.core.settings import TristyleError, number
from stages.metrics.attributes import NAMES
from stages.networks.face_reader import load_reader
from stages.networks.latents import latents, load_generator
from stages.networks.stylegan2 import Generator
from stages.style.editing.directions import Direction, Edit, draw_edited, find_directions
from stages.style.fusion.fuse import Fusion, fuse
from stages.style.sampling.candidates import draw

FUSION_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
EDIT_ALPHAS = (-3.0, -1.5, 0.0, 1.5, 3.0)
FUSING, EDITING = "share of the style", "strength"  # what the columns' numbers are
FACE = 128  # px that a face has on a sheet at least
PAD, GAP = 2, 12  # px between two pictures of one person, and between two people
INK, FAINT = (35, 35, 35), (120, 120, 120)
FONT = cv2.FONT_HERSHEY_SIMPLEX
FINER = 4  # text is drawn so many times larger and reduced: the font's strokes are too coarse otherwise


@dataclass(frozen=True)
class Row:
    """One line of a sheet.

    Attributes:
        title, note: written before it, e.g. the style and the edit.
        pictures: uint8 [people, columns, R, R, 3].
    """

    title: str
    note: str
    pictures: np.ndarray


# ---------------------------------------------------------------------------------------------------------------------
# What is shown


def style_sheet(
    generators: Mapping[str, Generator],
    source: Generator,
    z: Tensor,
    alphas: Sequence[float] = FUSION_ALPHAS,
    edits: Mapping[str, Edit] | None = None,
    directions: Mapping[str, Mapping[str, Direction]] | None = None,
    psi: float = 0.7,
) -> np.ndarray:
    """A sheet with headings: rows are styles (times edits), columns the alphas, for each person in turn.

    Args:
        generators: a style's name -> its transferred generator; its fused one where there are edits.
        source: what they were transferred from.
        z: [people, z_dim].
        alphas: shares of the transferred generator; with edits, what takes the place of each edit's own alpha.
        edits: a name -> what to move.
        directions: a style's name -> what the edits need there (`find_directions`; yaw is the same in the source, but a
            smile found in a style's own pictures moves the style's smile more than twice as far).
        psi: truncation of the latents.

    Returns:
        uint8 [H, W, 3].

    Raises:
        TristyleError: a generator that is not of the source's family, or a direction that is missing.
    """
    rows = []
    for style, generator in generators.items():
        if edits:
            rows += edited_rows(style, generator, z, edits, (directions or {}).get(style, {}), alphas, psi)
        else:
            rows.append(fused_row(style, source, generator, z, alphas, psi))
    return layout(rows, _names(alphas, signed=bool(edits)), EDITING if edits else FUSING)


def fused_row(
    style: str, source: Generator, transferred: Generator, z: Tensor, alphas: Sequence[float], psi: float
) -> Row:
    """The people z [N, z_dim] through constant fusions from the source (alpha 0) to the transferred generator (1)."""
    columns = []
    for alpha in alphas:
        number("alphas", alpha, 0, 1)
        columns.append(draw(fuse(source, transferred, Fusion(schedule="constant", high=alpha, mapping=alpha)), z, psi))
    return Row(style, "", np.stack(columns, axis=1))


def edited_rows(
    style: str,
    generator: Generator,
    z: Tensor,
    edits: Mapping[str, Edit],
    directions: Mapping[str, Direction],
    alphas: Sequence[float],
    psi: float,
) -> list[Row]:
    """The people z [N, z_dim] moved by each alpha along each edit: a row an edit."""
    rows = []
    for name, edit in edits.items():
        columns = [draw_edited(generator, z, [replace(edit, alpha=alpha)], directions, psi) for alpha in alphas]
        rows.append(Row(style, name, np.stack(columns, axis=1)))
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# How it is laid out


def layout(rows: Sequence[Row], columns: Sequence[str], axis: str = "", face: int = FACE) -> np.ndarray:
    """Rows under one heading, with their titles to the left; uint8 [H, W, 3] on white.

    Args:
        rows: titles and pictures.
        columns: one name per column, written over it for each person.
        axis: what the names are, written before them.
        face: px that a picture has at least; smaller ones are enlarged by a whole number.
    """
    side = max(row.pictures.shape[2] for row in rows)
    side *= max(1, -(-face // side))
    height = max(round(side / 8), 12)  # of a line of text
    words = [axis, *(part for row in rows for part in (row.title, row.note))]
    margin = max(text(word, height).shape[1] for word in words) + 2 * height

    # The sheet is as wide as all people side by side.
    people, step = len(rows[0].pictures), side + PAD
    block = len(columns) * step - PAD
    top = 2 * height
    sheet = np.full((top + len(rows) * step + GAP - PAD, margin + people * (block + GAP), 3), 255, np.uint8)
    _put(sheet, text(axis, height, FAINT), height // 2, height)

    for person in range(people):
        left = margin + person * (block + GAP)
        sheet[:top, left : left + block] = heading(columns, block, top)

    # Rows: a title where it changes, its note, then the pictures of each person.
    shown = ""
    for index, row in enumerate(rows):
        upper, middle = top + index * step, top + index * step + side // 2
        lines = [(row.title, INK)] if row.title != shown else []
        lines += [(row.note, FAINT)] if row.note else []
        for line, (word, colour) in enumerate(lines):
            _put(sheet, text(word, height, colour), round(middle + (line - len(lines) / 2) * 1.2 * height), height)
        shown = row.title
        for person, pictures in enumerate(row.pictures):
            for column, picture in enumerate(pictures):
                left = margin + person * (block + GAP) + column * step
                large = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
                sheet[upper : upper + side, left : left + side] = large
    return sheet


def _names(alphas: Sequence[float], signed: bool) -> list[str]:
    return [f"{alpha:+g}" if signed and alpha else f"{alpha:g}" for alpha in alphas]


def heading(names: Sequence[str], width: int, height: int = 16) -> np.ndarray:
    """A white band with the names centred over equal columns, uint8 [height, width, 3]."""
    band = np.full((height, width, 3), 255, np.uint8)
    letters = min(max(height // 2, 12), height)
    for i, name in enumerate(names):
        word = text(name, letters)
        middle = (i + 0.5) * width / len(names)
        _put(band, word, (height - letters) // 2, round(middle - word.shape[1] / 2))
    return band


def text(words: str, height: int, colour: tuple[int, int, int] = INK) -> np.ndarray:
    """A line of text on white, uint8 [height, width, 3]; `height` counts from the tallest letter to the deepest."""
    fine = height * FINER
    scale = 0.72 * fine / 21  # the font's capitals are 21 px high
    thickness = max(round(fine / 16), 1)
    (width, _), _ = cv2.getTextSize(words, FONT, scale, thickness)
    canvas = np.full((fine, max(width, 1) + thickness, 3), 255, np.uint8)
    cv2.putText(canvas, words, (0, round(0.76 * fine)), FONT, scale, colour, thickness, cv2.LINE_AA)
    return cv2.resize(canvas, (max(canvas.shape[1] // FINER, 1), height), interpolation=cv2.INTER_AREA)


def _put(canvas: np.ndarray, picture: np.ndarray, top: int, left: int) -> None:
    """Lay a picture onto another, cut off at its borders."""
    top, left = max(top, 0), max(left, 0)
    part = picture[: canvas.shape[0] - top, : canvas.shape[1] - left]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def find_artifacts(places: Iterable[Path]) -> dict[str, Artifact]:
    """Style artifacts at the places themselves or below them (runs, runs/style), by a name to show.

    Raises:
        TristyleError: there is none in a place, or one is damaged.
    """
    found: dict[str, Artifact] = {}
    for place in places:
        below = [path.parent for pattern in ("style/*", "*") for path in place.glob(f"{pattern}/manifest.json")]
        manifests = [place] if (place / "manifest.json").exists() else sorted(below)
        if not manifests:
            raise TristyleError(
                f"{place}: no finished style artifact here. Name runs, or a folder made by stage=style."
            )
        for path in manifests:
            artifact = open_artifact(path, "style")
            name = str(artifact.config.get("target", path.name))
            found[name if name not in found else f"{name} {path.name[:4]}"] = artifact
    return found


def parse_edits(names: str, keep: str) -> dict[str, Edit]:
    """``smile,yaw,sefa0`` -> edits of all layers; the attributes of `keep` are projected out of each.

    Raises:
        TristyleError: an unknown name.
    """
    edits: dict[str, Edit] = {}
    kept = [name for name in keep.split(",") if name]
    for name in filter(None, names.split(",")):
        rank = name.removeprefix("sefa")
        if name not in NAMES and not (name.startswith("sefa") and rank.isdigit()):
            known = ", ".join(NAMES)
            raise TristyleError(f"--edits: {name!r} is unknown. Choose from {known}, or sefa0, sefa1, ...")
        direction = name if name in NAMES else int(rank)
        edits[name] = Edit(direction=direction, alpha=1.0, conditioned_on=[other for other in kept if other != name])
    return edits


def parse_alphas(given: str | None, usual: Sequence[float]) -> list[float]:
    """``-2,0,2`` -> numbers.

    Raises:
        TristyleError: something else.
    """
    try:
        alphas = list(usual) if given is None else [float(part) for part in given.split(",")]
    except ValueError:
        raise TristyleError(f"--alphas {given}: not numbers. Give e.g. -2,0,2.") from None
    for alpha in alphas:
        number("--alphas", alpha, -20, 20)
    return alphas


def make_sheet(options: argparse.Namespace) -> np.ndarray:
    """The sheet that the command line asks for, uint8 [H, W, 3]."""
    edits = parse_edits(options.edits, options.keep)
    alphas = parse_alphas(options.alphas, EDIT_ALPHAS if edits else FUSION_ALPHAS)
    number("--people", options.people, 1, 64, integer=True)
    number("--psi", options.psi, 0, 2)
    number("--seed", options.seed, 0, 2**32 - 1 - options.people, integer=True)

    rows: list[Row] = []
    for style, artifact in find_artifacts(options.runs).items():
        shown = load_generator(artifact.path / f"{'generator' if edits else 'transferred'}.safetensors")
        z = latents(shown.z_dim, range(options.seed, options.seed + options.people))
        if edits:
            directions = find_directions(shown, load_reader(), edits.values(), options.samples, options.psi)
            rows += edited_rows(style, shown, z, edits, directions, alphas, options.psi)
        else:
            rows.append(
                fused_row(style, load_generator(artifact.path / "source.safetensors"), shown, z, alphas, options.psi)
            )
    return layout(rows, _names(alphas, signed=bool(edits)), EDITING if edits else FUSING)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see `--help`. Mistakes end with one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m stages.style.editing.sheet", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="runs, or the folder of a style artifact")
    parser.add_argument("-o", "--out", type=Path, default=Path("sheet.png"), help="PNG to write")
    parser.add_argument("--edits", default="", help=f"{', '.join(NAMES)}, sefa0, sefa1, ...")
    parser.add_argument(
        "--keep", default="skin_lightness,hair_lightness", help="attributes that no edit but their own changes"
    )
    parser.add_argument("--alphas", help="columns: shares of the style, or standard deviations of w with --edits")
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first person")
    parser.add_argument("--psi", type=float, default=0.7, help="truncation")
    parser.add_argument("--samples", type=int, default=1000, help="pictures that directions are found with")

    given = sys.argv[1:] if arguments is None else arguments
    # -2,0,2 looks like an option to argparse unless it is tied to its own.
    options = parser.parse_args(re.sub("\0--alphas\0", "\0--alphas=", "\0".join(["", *given])).split("\0")[1:])

    try:
        if options.out.suffix.lower() != ".png":
            raise TristyleError(f"{options.out}: sheets are PNG. End -o in .png.")
        sheet = make_sheet(options)
        try:
            write_image(options.out, sheet, TRAINED)
        except OSError as error:
            problem = f"cannot be written ({error.strerror})"
            raise TristyleError(f"{options.out}: {problem}. Choose another place for -o.") from None
    except TristyleError as error:
        print(f"sheet: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(options.out)


if __name__ == "__main__":
    main()
