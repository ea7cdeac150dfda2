"""Weights in and out: the official `.pkl`, rosinality's `.pt`, and this project's `.safetensors`.

    python -m stages.style.weights.convert IN         say what a file holds
    python -m stages.style.weights.convert IN OUT     convert it; OUT ends in .safetensors or .pt

IN may be the folder of a style artifact, too. Nothing in a file is executed (`pickles`), the networks are built from
the file's own arguments and loaded strictly (`official`, `rosinality`). A discriminator goes into a second safetensors
file beside the generator's: `x.safetensors` and `x_discriminator.safetensors`, or `x_generator.safetensors` and
`x_discriminator.safetensors`.

A flipped bit is refused where a checksum shows it: in safetensors of this project (a digest in the header), in zip
files (`.pt`), and in any file `x` with `x.sha256` beside it (as `sha256sum x > x.sha256` writes it). A `.pkl` alone has
no checksum: its structure and every layer's attributes are verified, and weights must be finite and of possible size.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.files import sha256_file, write_bytes
from stages.core.settings import TristyleError
from stages.core.weights import DISCRIMINATOR, load_network, own_partner, partner, save_network

if TYPE_CHECKING:
    from stages.networks.stylegan2 import Discriminator, Generator
    from stages.style.weights.strict import Checkpoint

SUFFIXES = (".safetensors", ".pt")
ARTIFACT = ("transferred.safetensors", DISCRIMINATOR)


@dataclass(kw_only=True)
class Pair:
    """A generator (averaged weights) and its discriminator, both float32 in eval mode, and what is known of them."""

    generator: Generator
    discriminator: Discriminator | None
    notes: dict[str, str] = field(default_factory=dict)


def open_pair(path: Path | str, discriminator: bool = True) -> Pair:
    """The networks to go on from: a `.pkl`, `.pt`, `.safetensors` (the generator's) or a style artifact's folder.

    Args:
        path: of the file or folder.
        discriminator: refuse a file that has none.

    Raises:
        TristyleError: missing, damaged or foreign file, another architecture, no discriminator where one is needed.
    """
    path = Path(path)
    found = read(path)
    if discriminator and found.discriminator is None:
        file = f" or put its discriminator beside it as {partner(path).name}" if path.suffix == ".safetensors" else ""
        raise TristyleError(f"{path}: holds no discriminator, which a training needs. Choose a file with one{file}.")
    return Pair(
        generator=found.generator, discriminator=found.discriminator, notes={"format": found.format, **found.notes}
    )


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read(path: Path) -> Checkpoint:
    """Everything that a file, or a style artifact's folder, holds.

    Raises:
        TristyleError: missing, damaged or foreign file, another architecture.
    """
    if path.is_dir():
        return _read_safetensors(path / ARTIFACT[0], "style artifact")
    data = _bytes(path)
    if path.suffix == ".safetensors" or data[8:9] == b"{":
        return _read_safetensors(path, "tristyle (.safetensors)")
    from stages.style.weights import nvidia_pkl as official
    from stages.style.weights import rosinality_pt as rosinality
    from stages.style.weights import safe_pickle as pickles
    from stages.style.weights.strict import DAMAGED, refusal

    torch_file = data.startswith((pickles.ZIP, pickles.LEGACY_TORCH))
    try:
        found: Checkpoint = (rosinality if torch_file else official).read(data, path)
    except TristyleError:
        raise
    except pickles.Forbidden as error:
        raise refusal(path, str(error), "Get the file from a source that you trust") from None
    except Exception as error:  # zipfile, pickletools and numpy have a dozen types for bytes that make no sense
        reason = str(error) or type(error).__name__
        raise refusal(path, f"is damaged, or not a file of StyleGAN2 weights ({reason})", DAMAGED) from None
    if not data.startswith(pickles.ZIP) and not _digest_file(path).exists():
        found.notes["integrity"] = f"this format has no checksum; {_digest_file(path).name} beside it would be verified"
    return found


def _bytes(path: Path) -> bytes:
    """The file's bytes, verified against the digest beside it, if any."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TristyleError(f"{path}: no such file. Check the path.") from None
    except OSError as error:
        raise TristyleError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from None
    digest = _digest_file(path)
    if (
        digest.exists()
        and digest.read_bytes()[:64].decode("ascii", "replace").lower() != hashlib.sha256(data).hexdigest()
    ):
        raise TristyleError(f"{path}: differs from its digest in {digest.name}. Get the file again.")
    return data


def _digest_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _read_safetensors(path: Path, name: str) -> Checkpoint:
    from stages.networks.stylegan2 import Discriminator, Generator
    from stages.style.weights.strict import Checkpoint

    generator = load_network(path)
    if not isinstance(generator, Generator):
        raise TristyleError(f"{path}: holds a {type(generator).__name__}. Name the generator's file.")
    other = partner(path)
    if not other.exists():
        return Checkpoint(format=name, generator=generator)
    discriminator = load_network(other)
    if not isinstance(discriminator, Discriminator):
        raise TristyleError(
            f"{other}: holds a {type(discriminator).__name__}, not {path.name}'s discriminator. Move it."
        )
    if discriminator.arguments["img_resolution"] != generator.img_resolution:
        raise TristyleError(f"{other}: is for another resolution than {path.name}. Put its own discriminator there.")
    return Checkpoint(format=name, generator=generator, discriminator=discriminator)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write(path: Path, checkpoint: Checkpoint) -> list[Path]:
    """Write `.safetensors` (one file a network) or rosinality's `.pt`; returns the files.

    Raises:
        TristyleError: another suffix, or the place cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise TristyleError(f"{path}: unknown kind of file. End it in one of {', '.join(SUFFIXES)}.")

    try:
        if path.suffix == ".pt":
            return _write_pt(path, checkpoint)
        other = own_partner(path)
        if checkpoint.discriminator is None:
            if other.exists():
                raise TristyleError(f"{other}: belongs to another generator. Move it, or choose another name.")
            save_network(path, checkpoint.generator)
            return [path]
        save_network(path, checkpoint.generator)
        save_network(other, checkpoint.discriminator)
        return [path, other]
    except OSError as error:
        raise TristyleError(f"{path}: cannot be written ({error.strerror}). Choose another place.") from None


def _write_pt(path: Path, checkpoint: Checkpoint) -> list[Path]:
    from io import BytesIO

    import torch

    from stages.style.weights.rosinality_pt import payload

    buffer = BytesIO()
    torch.save(payload(checkpoint), buffer)
    write_bytes(path, buffer.getvalue())
    return [path]


# ---------------------------------------------------------------------------------------------------------------------
# The command


def describe(path: Path, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """What the file holds, as rows (name, value) for a table."""
    g, d = checkpoint.generator, checkpoint.discriminator
    size = g.arguments
    channels = [f"{r}: {min(size['channel_base'] // r, size['channel_max'])}" for r in g.synthesis.block_resolutions]

    networks = {"G_ema": g, "G": checkpoint.raw, "D": d}
    held = [f"{name} {_parameters(network)}" for name, network in networks.items() if network is not None]
    clamp = "none" if size["conv_clamp"] is None else f"±{size['conv_clamp']:g}"

    rows = [
        ("format", checkpoint.format),
        ("networks", ", ".join(held)),
        ("resolution", f"{g.img_resolution} px, {size['img_channels']} channels in [-1, 1]"),
        ("z, w", f"{g.z_dim}, {g.w_dim} ({g.num_ws} ws)"),
        ("mapping layers", f"{size['num_layers']} (learning-rate multiplier {size['lr_multiplier']:g})"),
        ("channels", ", ".join(channels)),
        ("clamp", f"{clamp}, float16 in the {size.get('num_fp16_res', 0)} highest resolutions"),
    ]

    if d is not None:
        rows.append(("minibatch statistic", f"groups of {d.arguments['mbstd_group_size']}"))
    rows += checkpoint.notes.items()
    files = [file for file in (path / ARTIFACT[0], path / ARTIFACT[1]) if file.exists()] if path.is_dir() else [path]
    return rows + [("sha256" if path.is_file() else f"sha256 {file.name}", sha256_file(file)) for file in files]


def _parameters(network: Generator | Discriminator) -> str:
    return f"({sum(parameter.numel() for parameter in network.parameters()):,} parameters)"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stages.style.weights.convert",
        description="Say what a file of StyleGAN2 weights holds, and convert it. Nothing in the file is executed.",
    )
    parser.add_argument("source", metavar="IN", type=Path, help=".pkl, .pt, .safetensors, or a style artifact's folder")
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="a file that ends in .safetensors or .pt")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point. Mistakes end with one line on stderr and exit code 2."""
    options = _arguments().parse_args(argv)
    source, out = options.source, options.out
    try:
        if out is not None and out.suffix not in SUFFIXES:
            raise TristyleError(f"{out}: unknown kind of file. End it in one of {', '.join(SUFFIXES)}.")
        if out is not None and out.exists() and source.exists() and out.samefile(source):
            raise TristyleError(f"{out}: is the file to read. Choose another place.")
        checkpoint = read(source)
        _show(describe(source, checkpoint))
        if out is not None:
            for file in write(out, checkpoint):
                print(f"wrote {file}")
            if out.suffix == ".pt":
                from stages.style.weights.rosinality_pt import differences

                for sentence in differences(checkpoint):
                    print(f"note: rosinality's own code would differ: {sentence}")
    except TristyleError as error:
        print(f"formats: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _show(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        printable = "".join(c if c.isprintable() else "?" for c in value)
        print(f"{name:<20} {printable}")


if __name__ == "__main__":
    main()
