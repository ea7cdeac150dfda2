"""The shipped perceptual network: SqueezeNet 1.0 of ImageNet, as half-precision safetensors of its features alone.

    python -m stages.recipes.perceptual squeezenet1_0.pth [data/perceptual.safetensors]

SOURCE is a torch file with torchvision's names. The shipped weights are those of Song Han's
SqueezeNet-Deep-Compression, decoded from its 660 KB; data/perceptual.LICENSE.txt has SqueezeNet's licence. The
classifier and what follows the last tapped layer are left out. The card beside the file says how far the features move
by the rounding to half precision: 0 for the shipped file, since its source was in half precision already.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from stages.core.files import write_bytes
from stages.core.settings import TristyleError
from stages.metrics.backbones import LPIPS_TAPS, Lpips, load_perceptual, read_state
from stages.recipes.card import write_card

ABOUT = {
    "input": "RGB pictures in [-1, 1] of any size, normalised inside as ImageNet's are",
    "licence": "BSD, text in perceptual.LICENSE.txt (SqueezeNet); its compressed form names none of its own",
    "data": "ImageNet (ILSVRC 2012), by its authors; no picture of this project",
    "source": "github.com/songhan/SqueezeNet-Deep-Compression, decoded; Iandola et al., arXiv 1602.07360",
    "use": "perceptual distance of pair=tps, Art-FID's content; not LPIPS: its heads belong to SqueezeNet 1.1",
}


def convert(source: Path, target: Path) -> Lpips:
    """Write the features' weights of `source` to `target`, and read them again.

    Raises:
        TristyleError: the file is not SqueezeNet 1.0's.
    """
    from safetensors.torch import save

    state, last = read_state(source), LPIPS_TAPS["squeezenet1_0"][1][-1]
    kept = {
        name: value.half().contiguous()
        for name, value in sorted(state.items())
        if name.startswith("features.") and int(name.split(".")[1]) <= last
    }
    if tuple(kept.get("features.0.weight", torch.empty(0)).shape) != (96, 3, 7, 7):
        raise TristyleError(f"{source}: not SqueezeNet 1.0. Give weights with torchvision's names.")
    write_bytes(target, save(kept, metadata={"network": "torchvision squeezenet1_0, features"}))
    return load_perceptual(str(target))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a line on stderr and exit code 2 where it does not work out."""
    parser = argparse.ArgumentParser(prog="python -m stages.recipes.perceptual", description=(__doc__ or "")[:100])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=Path("data/perceptual.safetensors"))
    options = parser.parse_args(arguments)
    try:
        made = convert(options.source, options.target)
        given = load_perceptual(str(options.source))
    except TristyleError as error:
        print(f"perceptual: {error}", file=sys.stderr)
        raise SystemExit(2) from None

    torch.manual_seed(0)
    pictures = torch.rand(8, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        apart = float((made.embed(pictures) - given.embed(pictures)).norm() / given.embed(pictures).norm())
    card = write_card(
        options.target, made.layers, kind="perceptual", command="python -m stages.recipes.perceptual FILE",
        about=ABOUT, recipe={"precision": "half", "moved": round(apart, 6)}, heldout=None,
    )  # fmt: skip
    print(f"{options.target}: {card['id']}, {card['bytes']} bytes; rounding moves the features by {apart:.2e}")


if __name__ == "__main__":
    main()
