"""Weights of face networks that do not come with the package: which there are, where from, and which are at hand.

They lie in one folder under facexlib's file names: `faces.weights`, `--weights` or $TRISTYLE_WEIGHTS. Nothing is
fetched unless asked for.

    python -m stages.faces.weights [FOLDER]                    what is there and what is missing
    python -m stages.faces.weights [FOLDER] --download NAME    fetch one file, checked, under that name

A SHA-256 stands in the table only where the file itself was hashed; of others the first use notes it in the folder's
`sha256.json`, and a later change shows.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stages.core.files import read_json
from stages.core.settings import TristyleError

VARIABLE = "TRISTYLE_WEIGHTS"
NOTES = "sha256.json"
_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download"
_RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Weight:
    """A file of weights: what it is, its terms of use as far as known, its public address, its SHA-256 if hashed."""

    what: str
    terms: str
    address: str
    sha256: str | None = None


WEIGHTS = {
    "detection_Resnet50_Final.pth": Weight(
        "RetinaFace, ResNet-50: faces and five points",
        "MIT; trained on WIDER FACE (research)",
        f"{_FACEXLIB}/v0.1.0/detection_Resnet50_Final.pth",
    ),
    "detection_mobilenet0.25_Final.pth": Weight(
        "RetinaFace, MobileNet 0.25: faces and five points, 1.8 MB",
        "MIT; trained on WIDER FACE (research)",
        f"{_RAW}/cunjian/pytorch_face_landmark/6f34bf9f034aa2f521952f825e6ccc567deb42d6"
        "/Retinaface/weights/mobilenet0.25_Final.pth",
        "5f88f7957d9eaef82b49b9e0202bc56e97292e2aede2999209accd34442cc4df",
    ),
    "alignment_WFLW_4HG.pth": Weight(
        "FAN: 98 landmarks",
        "trained on WFLW (research)",
        f"{_FACEXLIB}/v0.1.0/alignment_WFLW_4HG.pth",
    ),
    "facemesh.pth": Weight(
        "Face Mesh: 468 landmarks, 2.4 MB",
        "Apache-2.0",
        f"{_RAW}/thepowerfuldeez/facemesh.pytorch/348400fe32c60111a29e9e6891e230c0005ddd8a/facemesh.pth",
        "a8395f8a89b15cabdd2e97df1c66280de4697a5484ebe03936c2e36e90a0a25a",
    ),
    "parsing_bisenet.pth": Weight(
        "BiSeNet: 19 classes of face and head",
        "trained on CelebAMask-HQ (research)",
        f"{_FACEXLIB}/v0.2.0/parsing_bisenet.pth",
    ),
    "recognition_arcface_ir_se50.pth": Weight(
        "ArcFace IR-SE-50: who it is",
        "trained on MS-Celeb-1M (research)",
        f"{_FACEXLIB}/v0.1.0/recognition_arcface_ir_se50.pth",
    ),
    "mobilefacenet_068.ckpt": Weight(
        "MobileFaceNet: who it is, 4.1 MB",
        "no licence stated; trained on CASIA-WebFace (research)",
        f"{_RAW}/Xiaoccer/MobileFaceNet_Pytorch/26bd8d262017e472a3c7f56d62929e2138a70aeb/model/best/068.ckpt",
        "e839247cdbdfc023fb7cadeaf53a4549d50c8fc24ad154c02e35920ea8910d99",
    ),
}


def weights_folder(folder: Path | str | None = None) -> Path | None:
    """The folder named, else the one of $TRISTYLE_WEIGHTS, else None."""
    named = folder or os.environ.get(VARIABLE)
    return Path(named) if named else None


def find_weight(folder: Path | str | None, name: str) -> Path:
    """The file `name` of the weights' folder (see `weights_folder`).

    Raises:
        TristyleError: it is not there; says where it comes from and where it belongs.
    """
    where = weights_folder(folder)
    if where is not None and (where / name).is_file():
        stat = (where / name).stat()
        _verify(where / name, stat.st_size, stat.st_mtime_ns)
        return where / name
    weight = WEIGHTS[name]
    place = f"into {where}" if where else f"into a folder and name that with faces.weights=FOLDER or {VARIABLE}"
    raise TristyleError(
        f"{where / name if where else name}: no such file ({weight.what}). Put it {place}: {weight.address} "
        f"({_digest(weight)}); or run: python -m stages.faces.weights {where or 'FOLDER'} --download {name}"
    )


@lru_cache(maxsize=64)
def _verify(path: Path, size: int, changed: int) -> None:
    """Compare a file with the digest that is pinned, or was noted when it was first used; once for each content.

    Raises:
        TristyleError: it is another file.
    """
    from stages.core.files import sha256_file

    wanted = WEIGHTS[path.name].sha256 or _note(path)
    if sha256_file(path) != wanted:
        raise TristyleError(
            f"{path}: not the file it should be (SHA-256 {wanted[:16]}... is wanted). "
            "Copy the file again, or remove it and run: "
            f"python -m stages.faces.weights {path.parent} --download {path.name}"
        )


def read_weight(path: Path, remedy: str) -> Any:
    """What a torch file of weights holds, read without executing anything in it.

    Args:
        path: the file. Where one of the table is missing, the message names its address.
        remedy: the last sentence of any other message.

    Raises:
        TristyleError: missing, damaged, or more than tensors.
    """
    import torch

    if path.name in WEIGHTS:
        find_weight(path.parent, path.name)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TristyleError(f"{path}: no such file. {remedy}") from None
    except Exception:  # torch raises a dozen types for damaged archives and for pickles that hold more than tensors
        raise TristyleError(f"{path}: damaged, or holds more than tensors, which is never executed. {remedy}") from None


def _digest(weight: Weight) -> str:
    return f"SHA-256 {weight.sha256}" if weight.sha256 else "its SHA-256 is not known here"


def _notes(folder: Path) -> dict[str, str]:
    try:
        return dict(read_json(folder / NOTES, {}))
    except (OSError, TristyleError):
        return {}


def _note(path: Path) -> str:
    """Keep a file's digest where none is kept yet, and return what is kept."""
    from stages.core.files import sha256_file, write_json

    notes = _notes(path.parent)
    if path.name not in notes:
        notes[path.name] = sha256_file(path)
        try:
            write_json(path.parent / NOTES, notes)
        except OSError:  # a folder that cannot be written serves all the same
            pass
    return notes[path.name]


def download(folder: Path, name: str) -> Path:
    """Fetch one file of the table into `folder`, whole and checked, or not at all.

    Raises:
        TristyleError: no such name, no connection, fewer bytes than announced, a web page, or another digest.
    """
    from stages.core.files import write_bytes, write_json

    if name not in WEIGHTS:
        raise TristyleError(f"{name}: no such weights. Choose one of: {', '.join(WEIGHTS)}.")
    weight = WEIGHTS[name]
    by_hand = f"Fetch it by hand and put it into {folder} as {name} ({_digest(weight)})"
    try:
        with urllib.request.urlopen(weight.address, timeout=60) as answer:
            announced = answer.headers.get("Content-Length")
            size = f"{int(announced) / 1e6:.1f} MB" if announced else "of unknown size"
            print(f"{name}: {size} from {weight.address}", flush=True)
            data = answer.read()
    except (OSError, http.client.HTTPException) as error:  # no connection, an error page, fewer bytes than announced
        raise TristyleError(f"{weight.address}: cannot be fetched ({error}). {by_hand}") from None
    if data[:64].lstrip()[:1] == b"<" or not data:
        raise TristyleError(f"{weight.address}: gave a web page or nothing instead of weights. {by_hand}")
    digest = hashlib.sha256(data).hexdigest()
    if weight.sha256 and digest != weight.sha256:
        raise TristyleError(f"{weight.address}: another file than known here (SHA-256 {digest}). {by_hand}")
    write_bytes(folder / name, data)
    if weight.sha256 is None:
        write_json(folder / NOTES, _notes(folder) | {name: digest})
    return folder / name


def state_of(folder: Path | None, name: str) -> tuple[str, str]:
    """What is to be said of a file, and its SHA-256: found, missing, or other bytes than those known."""
    from stages.core.files import sha256_file

    weight = WEIGHTS[name]
    if folder is None or not (folder / name).is_file():
        return "missing", weight.sha256 or "-"
    digest = sha256_file(folder / name)
    if weight.sha256:
        return ("found" if digest == weight.sha256 else f"other than {weight.sha256[:8]}"), digest
    kept = _note(folder / name)
    return ("found, noted" if digest == kept else f"changed, was {kept[:8]}"), digest


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: list the table, or fetch one file."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.faces.weights", description="Weights of face networks: what is there, what is missing."
    )
    parser.add_argument("folder", nargs="?", help=f"folder of weights; default: ${VARIABLE}")
    parser.add_argument("--download", metavar="NAME", help="fetch this file into the folder")
    given = parser.parse_args(arguments)

    folder = weights_folder(given.folder)
    try:
        if given.download:
            if folder is None:
                raise TristyleError(f"--download: no folder to put it into. Name one, or set {VARIABLE}.")
            print(f"{download(folder, given.download)}: written")
            return 0
    except TristyleError as error:
        print(error, file=sys.stderr)
        return 2

    print(f"folder: {folder or f'none (name one, or set {VARIABLE})'}")
    for name, weight in WEIGHTS.items():
        state, digest = state_of(folder, name)
        print(f"\n{name}: {state}\n  {weight.what}; {weight.terms}\n  {weight.address}\n  sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
