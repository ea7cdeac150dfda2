"""`stylize faces`: faces of nobody, drawn from scratch by the generator that lies beside a student.

stylize faces --model runs/export/KEY --count 16 -o sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stages.apply.folder import WRITTEN
from stages.apply.model import faces_beside, model_path, open_session
from stages.core.mark import write_marked
from stages.core.settings import TristyleError

MOST = 1024  # faces on a sheet
REMEDY = "Give the folder of an export of a blaze student (tristyle experiment=blaze-128)."


def arguments() -> argparse.ArgumentParser:
    """The parser of `stylize faces`. Nothing heavy is imported to answer --help."""
    parser = argparse.ArgumentParser(prog="stylize faces", description="Draw faces of nobody on one sheet.")
    parser.add_argument("--model", type=Path, help="folder of an export; default: the last one in runs/export")
    parser.add_argument("--count", type=int, default=16, help="faces; default: 16")
    parser.add_argument("--seed", type=int, default=0, help="of the first face; the next ones follow; default: 0")
    parser.add_argument("-o", "--out", type=Path, default=Path("faces.png"), help="default: faces.png")
    return parser


def draw_sheet(model: Path | None, count: int, seed: int, out: Path) -> Path:
    """Draw faces on one sheet, about as wide as high, marked as synthetic; returns its path.

    Args:
        model: as `--model`.
        count: faces.
        seed: of the first face's latent; the same seed is the same face.
        out: .png, .jpg or .webp.

    Raises:
        TristyleError: a number out of range, a model that draws no faces, or a place that cannot be written.
    """
    # Check everything before a model is opened.
    if not 1 <= count <= MOST:
        raise TristyleError(f"--count {count}: out of range. Give 1 to {MOST}.")
    if not 0 <= seed <= 2**32 - MOST:
        raise TristyleError(f"--seed {seed}: out of range. Give 0 to {2**32 - MOST}.")
    if out.is_dir() or out.suffix.lower() not in WRITTEN:
        raise TristyleError(f"{out}: not a picture's name. End -o in one of {', '.join(WRITTEN)}.")
    given = model_path(model)
    path = faces_beside(given) or given
    session = open_session(path)
    taken = session.get_inputs()
    if len(taken) != 1 or len(taken[0].shape) != 2:
        raise TristyleError(f"{given}: has no generator of faces beside it. {REMEDY}")

    import numpy as np

    from stages.core.files import sha256_file
    from stages.core.images import grid

    width, pictures = int(taken[0].shape[1]), []
    for number in range(seed, seed + count):
        z = np.random.RandomState(number).randn(1, width).astype(np.float32)  # as the official image generator
        found = session.run(None, {taken[0].name: z})[0][0]
        pictures.append(np.clip(np.rint((found.transpose(1, 2, 0) + 1) * 127.5), 0, 255).astype(np.uint8))
    write_marked(out, grid(np.stack(pictures), columns=round(count**0.5) or 1), sha256_file(path))
    return out
