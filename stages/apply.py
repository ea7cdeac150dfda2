"""`stylize photo.png -o out.png`: one photo, whole frame, through an exported student. Needs onnxruntime, not torch.

The network works at the size it was trained at (the shorter side; `--size` changes that). What it changed is then laid
over the photo at the photo's own size: where the network's matte is 0 the photo stays as it is, sharp.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.config import TristyleError

if TYPE_CHECKING:
    import numpy as np

STEP = 8  # the network takes multiples of this
SMALLEST = 32  # px a side
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


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


def model_path(given: Path | None) -> Path:
    """The ONNX file to use: the one given (or in the folder given), else the last one in ./runs, else the shipped one.

    Raises:
        TristyleError: there is none.
    """
    from stages.io import data_file

    path = given
    if path is None:
        finished = sorted(Path("runs/export").glob("*/manifest.json"), key=lambda manifest: manifest.stat().st_mtime)
        path = finished[-1].parent if finished else data_file("student.onnx")
    if path.is_dir():
        path = path / "student.onnx"
    if path.is_file():
        return path
    if given is None:
        raise TristyleError("no model is shipped with this version. Name one: --model runs/export/<key>")
    raise TristyleError(f"{path}: no such model. Give --model a .onnx file or the folder of an export.")


def open_model(path: Path) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        TristyleError: onnxruntime is missing or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TristyleError(f"onnxruntime cannot be imported ({error}). Run: pip install 'tristyle[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not a readable ONNX model ({reason}). Export it again.") from None
    shape = session.get_inputs()[0].shape
    if len(shape) != 4 or shape[1] != 3:
        raise TristyleError(f"{path}: takes {shape}, not [1, 3, height, width]. Give a model made by stage=export.")
    return session


def run_padded(session: Any, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] of any size -> (output float32 [H, W, 3] in 0..255, alpha float32 [H, W, 1] in 0..1).

    The photo is padded by reflection to multiples of 8, at least 32, and the result cut back. A model without a matte
    counts as painting everywhere.
    """
    import numpy as np

    height, width = photo.shape[:2]
    below, right = (max(SMALLEST, -(-side // STEP) * STEP) - side for side in (height, width))
    padded = np.pad(photo, ((0, below), (0, right), (0, 0)), mode="reflect")
    values = (padded.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    results = session.run(None, {session.get_inputs()[0].name: values})
    output = ((results[0][0].transpose(1, 2, 0) + 1) * 127.5)[:height, :width]
    alpha = results[1][0].transpose(1, 2, 0)[:height, :width] if len(results) > 1 else np.ones_like(output[..., :1])
    return output, alpha


def stylize(session: Any, photo: np.ndarray, size: int | None = None) -> np.ndarray:
    """Stylise a whole photo.

    Args:
        session: see `open_model`.
        photo: uint8 [H, W, 3] RGB of any size.
        size: shorter side at which the network works; None = the size noted in the model, else the photo's own.

    Returns:
        uint8 [H, W, 3]. With p the photo, s its reduction, o = s + a (c - s) the network's output and "up" bicubic
        enlargement: up(o) + (1 - up(a)) (p - up(s)), so the photo's detail stays in the measure that nothing is painted
        there, and an unscaled photo gives o itself.
    """
    import cv2
    import numpy as np

    height, width = photo.shape[:2]
    noted = session.get_modelmeta().custom_metadata_map.get("tristyle.size", "")
    wanted = size or (int(noted) if noted.isdigit() else min(height, width))
    scale = wanted / min(height, width)
    if scale == 1:
        output = run_padded(session, photo)[0]
    else:
        reduced = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(photo, reduced, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        painted, alpha = run_padded(session, small)

        def enlarge(image: np.ndarray) -> np.ndarray:
            return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1)

        detail = photo - enlarge(small.astype(np.float32))
        output = enlarge(painted) + (1 - np.clip(enlarge(alpha), 0, 1)) * detail
    return np.clip(np.rint(output), 0, 255).astype(np.uint8)


def write_marked(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as PNG, JPEG or WebP with XMP metadata that says it is synthetic (IPTC DigitalSourceType).

    Raises:
        TristyleError: the place cannot be written.
    """
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from stages.io import write_bytes

    picture, buffer = Image.fromarray(image), io.BytesIO()
    suffix = path.suffix.lower()
    if suffix == ".png":
        marks = PngInfo()
        marks.add_itxt("XML:com.adobe.xmp", XMP)
        marks.add_text("DigitalSourceType", SOURCE_TYPE)
        picture.save(buffer, "PNG", pnginfo=marks)
    elif suffix == ".webp":
        picture.save(buffer, "WEBP", quality=95, xmp=XMP.encode())
    else:
        picture.save(buffer, "JPEG", quality=95, xmp=XMP.encode())
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise TristyleError(f"{path}: cannot be written ({error.strerror}). Choose another place for -o.") from None


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script `stylize`. Mistakes end with one line on stderr and exit code 2."""
    options = arguments().parse_args(argv)
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


if __name__ == "__main__":
    main()
