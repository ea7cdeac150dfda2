"""`stylize photo.png -o out.png`: one photo, whole frame, through an exported student. Needs onnxruntime, not torch.

The network works at the size it was trained at (the shorter side; `--size` changes that). What it changed is then laid
over the photo at the photo's own size: where the network's matte is 0 the photo stays as it is, sharp.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stages.apply.mark import write_marked
from stages.apply.model import SMALLEST, model_path, open_model
from stages.apply.picture import stylize
from stages.config import TristyleError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def arguments() -> argparse.ArgumentParser:
    """The command line. Nothing heavy is imported to answer --help."""
    parser = argparse.ArgumentParser(prog="stylize", description="Stylise a photo with an exported student.")
    parser.add_argument("photo", type=Path, help="PNG, JPEG, WebP, BMP, TIFF or GIF")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG, JPEG or WebP to write")
    parser.add_argument(
        "--model",
        type=Path,
        help="a .onnx file or the folder of an export; default: the last one in runs/export, else the shipped one",
    )
    parser.add_argument(
        "--size", type=int, help="shorter side in px at which the network works; default: the size it was trained at"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script `stylize`. Mistakes end with one line on stderr and exit code 2."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["serve"]:
        from stages.apply import serve

        return serve.main(words[1:])
    options = arguments().parse_args(words)
    try:
        if options.out.suffix.lower() not in SUFFIXES:
            raise TristyleError(f"{options.out}: unknown kind of picture. End -o in one of {', '.join(SUFFIXES)}.")
        if options.out.is_dir():
            raise TristyleError(f"{options.out}: is a folder. Give -o a file.")
        if options.size is not None and not SMALLEST <= options.size <= 4096:
            raise TristyleError(f"--size {options.size}: out of range. Give {SMALLEST} to 4096.")
        from stages.io import read_image

        photo = read_image(options.photo)
        if options.out.exists() and options.out.samefile(options.photo):
            raise TristyleError(f"{options.out}: is the photo itself. Choose another place for -o.")
        session = open_model(model_path(options.model))
        write_marked(options.out, stylize(session, photo, options.size))
    except TristyleError as error:
        print(f"stylize: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(options.out)
