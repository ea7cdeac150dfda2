"""The exported student: find its file, open it, run it on pixels of any size."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.settings import TristyleError

if TYPE_CHECKING:
    import numpy as np

EDITOR = "editor.onnx"  # in the folder of export=editor, which `stylize edit` and the page run
EDITED = ["photo", "attributes", "regions"]  # what an editor takes
STEP = 8  # px: sides are multiples of this unless the model notes another number
SMALLEST = 32  # px a side
NOTED = {"tristyle.size": (SMALLEST, 4096), "tristyle.multiple_of": (1, 256)}  # in the model's notes
SHIPPED = {"comic": "comic.onnx", "faces": "faces.onnx", "rendered": "student.onnx"}  # by name, the default first
RENAMED = {"painted": "rendered"}
OTHER_KINDS = {
    ".mnn": "a model for MNN",
    ".param": "a model for ncnn",
    ".bin": "weights for ncnn",
    ".tflite": "a model for LiteRT",
    ".mlpackage": "a model for Core ML",
    ".mlmodel": "a model for Core ML",
    ".safetensors": "weights for torch",
    ".pt": "weights for torch",
    ".pth": "weights for torch",
}


def model_path(given: Path | None) -> Path:
    """The ONNX file to use.

    Args:
        given: a file, the folder of an export, or a name of SHIPPED where no file is called so: `comic` and `faces`
            are for photographs of people, `rendered` for the renderer's people. None: the last export of a
            student in ./runs, else the first shipped model.

    Raises:
        TristyleError: there is none.
    """
    from stages.core.files import data_file

    # Which file or folder is meant.
    path = given
    if path is None:
        finished = sorted(Path("runs/export").glob("*/manifest.json"), key=created)
        finished = [manifest for manifest in finished if not (manifest.parent / EDITOR).exists()]
        path = finished[-1].parent if finished else data_file(next(iter(SHIPPED.values())))
    elif str(path) in SHIPPED and not path.is_file() and not (path.is_dir() and _holds_model(path)):
        path = data_file(SHIPPED[str(path)])
    elif str(path) in RENAMED and not path.exists():
        raise TristyleError(f"--model {path}: is called {RENAMED[str(path)]} now. Write --model {RENAMED[str(path)]}.")
    if path.is_dir():
        path = _exported(path)

    # Whether it can be used.
    if path.is_file():
        kind = OTHER_KINDS.get(path.suffix)
        if kind:
            raise TristyleError(f"{path}: {kind}; stylize runs ONNX. Give the student.onnx of the same export.")
        check_digest(path)
        return path
    if given is None:
        raise TristyleError("no model is shipped with this version. Name one: --model runs/export/<key>")
    raise TristyleError(f"{path}: no such model. {_meant(path)}Give --model a .onnx file or the folder of an export.")


def _holds_model(folder: Path) -> bool:
    """Whether a folder called like a shipped model is an export; else that name is meant and not the folder."""
    if not any(folder.glob("student*.onnx")):
        return False
    print(
        f"stylize: {folder}: the folder of that name is used. For the shipped model run it elsewhere.", file=sys.stderr
    )
    return True


def created(manifest: Path) -> str:
    """When an export was finished, by its manifest; a copy may have lost its file's time."""
    from stages.core.files import read_json

    try:
        return str(read_json(manifest, {"created": str})["created"])
    except (OSError, TristyleError):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(manifest.stat().st_mtime))


def check_digest(path: Path) -> None:
    """Compare a model with the digest that its export's manifest, or the card beside it, has of it.

    Raises:
        TristyleError: they differ, or the manifest or card is damaged.
    """
    from stages.core.files import read_json, sha256_file

    wanted = {}
    manifest = path.parent / "manifest.json"
    if manifest.is_file() and manifest.stat().st_size:
        files = read_json(manifest, {"files": dict})["files"]
        wanted = {name: entry.get("sha256") for name, entry in files.items() if isinstance(entry, dict)}
    for card in (path.with_suffix(".json"), path.parent / "card.json"):
        with suppress(FileNotFoundError):
            noted = read_json(card, {})
            rows = noted["files"] if isinstance(noted.get("files"), list) else [noted]
            named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("file"), str)]
            said = {row["file"]: row.get("sha256") for row in named}
            wanted = {**said, **wanted}
    if wanted.get(path.name) not in (None, sha256_file(path)):
        raise TristyleError(f"{path}: changed since it was exported. Export it again, or copy it again.")


def _meant(path: Path) -> str:
    """`Did you mean ...? ` where a name is spelled like a shipped model's or like a file beside it; else ""."""
    from difflib import get_close_matches

    models = [item for item in path.parent.glob("*") if item.is_dir() or item.suffix == ".onnx"]
    alike = get_close_matches(str(path), [*SHIPPED, *map(str, models)], n=1)
    return f"Did you mean {alike[0]}? " if alike else ""


def _exported(folder: Path) -> Path:
    """The ONNX file in the folder of an export: float32 where there are several precisions."""
    names = ["student.onnx", *sorted(path.name for path in folder.glob("student.*.onnx"))]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    other = next((path.name for path in sorted(folder.glob("student.*")) if path.suffix in OTHER_KINDS), None)
    if other:
        raise TristyleError(
            f"{folder}: holds {other}, and stylize runs ONNX. Run: tristyle stage=export export=onnx, give that folder."
        )
    raise TristyleError(f"{folder}: has no student.onnx in it. Give --model the folder of an export, or a .onnx file.")


def open_session(path: Path, threads: int = 0) -> Any:
    """Open an ONNX file as an onnxruntime session on the CPU, whatever its inputs are.

    Args:
        path: the file.
        threads: 0: as many as there are cores.

    Raises:
        TristyleError: onnxruntime is missing or cannot read the file, or the file's notes cannot be used.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TristyleError(f"onnxruntime cannot be imported ({error}). Run: pip install 'tristyle[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:  # without the fallback, which would print and try the same once more
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not a readable ONNX model ({reason}). Export it again.") from None

    # What the file notes of itself.
    try:
        _check_notes(session, path)
    except UnicodeDecodeError:
        raise TristyleError(f"{path}: its names or notes are not UTF-8. Export it again.") from None
    return session


def _check_notes(session: Any, path: Path) -> None:
    """Refuse a model whose notes would have it run at any size. Raises TristyleError."""
    notes = session.get_modelmeta().custom_metadata_map
    for name, (least, most) in NOTED.items():
        noted = notes.get(name, "")
        number = int(noted) if noted.isascii() and noted.isdigit() and len(noted) < 8 else -1
        if noted and not least <= number <= most:
            raise TristyleError(f"{path}: notes {name} {noted[:20]!r}; {least} to {most} is possible. Export it again.")


def open_model(path: Path, threads: int = 0) -> Any:
    """Open a model of one photo. Arguments and errors as `open_session`; another model is refused, too."""
    session = open_session(path, threads)
    check_photo_model(session, path)
    return session


def check_photo_model(session: Any, path: Path) -> None:
    """Refuse a model of something else than one photo. Raises TristyleError."""
    try:
        inputs = session.get_inputs()
        shape = inputs[0].shape if inputs else []
    except UnicodeDecodeError:
        raise TristyleError(f"{path}: its names or notes are not UTF-8. Export it again.") from None
    if is_editor(session):
        raise TristyleError(f"{path}: an editor. Run: stylize edit PHOTO --model {path} --set NAME=STRENGTH")
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
        raise TristyleError(f"{path}: takes {shape}, not [1, 3, height, width]. Give a model made by stage=export.")


def is_editor(session: Any) -> bool:
    """Whether the model is an editor of faces: a photo, strengths and regions in, the edited photo and a matte out."""
    notes, taken = session.get_modelmeta().custom_metadata_map, session.get_inputs()
    try:
        named = [port.name for port in taken] == EDITED
    except UnicodeDecodeError:
        return False
    noted = {"tristyle.size", "tristyle.attributes", "tristyle.regions"} <= notes.keys()
    return named and noted and len(taken[0].shape) == 4


def editor_names(session: Any) -> tuple[list[str], list[str]]:
    """Names of an editor's attributes and of its regions, in the order of its vectors."""
    notes = session.get_modelmeta().custom_metadata_map
    return notes["tristyle.attributes"].split(","), notes["tristyle.regions"].split(",")


def fixed_side(session: Any) -> int | None:
    """The only side in px that the model takes; None where height and width are free."""
    side = session.get_inputs()[0].shape[2]
    return side if isinstance(side, int) else None


def draws_faces_only(session: Any) -> bool:
    """Whether the model draws a face whatever it sees, so that a photo without one must be left as it is."""
    return bool(session.get_modelmeta().custom_metadata_map.get("tristyle.faces") == "only")


def faces_beside(path: Path) -> Path | None:
    """The model beside a student's file that draws faces from scratch, of its precision where there is one; None else.

    An export has none in int8, so `student.int8.onnx` is served by the generator of another precision.

    Raises:
        TristyleError: it changed since it was exported.
    """
    if not path.name.startswith("student."):
        return None
    same = path.with_name(path.name.replace("student", "faces", 1))
    others = sorted(path.parent.glob("faces.*onnx"), key=lambda file: len(file.name))  # float32 has no second suffix
    found = next((file for file in (same, *others) if file.is_file()), None)
    if found:
        check_digest(found)
    return found


def trained_size(session: Any) -> int | None:
    """The side in px at which the model was trained, where it notes that."""
    return _noted(session, "tristyle.size")


def step_of(session: Any) -> int:
    """The number in px of which the model's sides are multiples."""
    return _noted(session, "tristyle.multiple_of") or STEP


def _noted(session: Any, name: str) -> int | None:
    """A whole number of the model's metadata, which `open_model` has checked."""
    noted = session.get_modelmeta().custom_metadata_map.get(name, "")
    return int(noted) if noted else None


def run_padded(session: Any, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run the model on a photo of any size.

    The photo is padded by reflection to the sides that the model takes, at least 32 px, and the result cut back. A
    model without a matte counts as painting everywhere.

    Args:
        session: see `open_model`.
        photo: uint8 [H, W, 3].

    Returns:
        The output, float32 [H, W, 3] in 0..255, and alpha, float32 [H, W, 1] in 0..1.

    Raises:
        TristyleError: the model does not run at this size, or answers something else than a picture.
    """
    import numpy as np

    height, width = photo.shape[:2]
    step = step_of(session)
    below, right = (-(-max(SMALLEST, side) // step) * step - side for side in (height, width))
    padded = np.pad(photo, ((0, below), (0, right), (0, 0)), mode="reflect")
    values = (padded.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]

    # Half-precision models take half-precision pixels.
    taken = session.get_inputs()[0]
    try:
        results = session.run(None, {taken.name: values.astype(np.float16) if "float16" in taken.type else values})
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = str(error).splitlines()[0]
        raise TristyleError(f"the model cannot run on {width}x{height} pixels ({reason}). Export it again.") from None
    if results[0].shape != values.shape:
        raise TristyleError(f"the model answers {list(results[0].shape)}, which is not a picture. Export it again.")

    if len(results) > 1 and results[1].shape != (1, 1, *values.shape[2:]):
        raise TristyleError(f"the model's matte is {list(results[1].shape)}, not its picture's. Export it again.")
    if not all(np.isfinite(result).all() for result in results[:2]):
        raise TristyleError("the model answers numbers that are not finite. Train it again, or export it again.")

    output = ((results[0][0].astype(np.float32).transpose(1, 2, 0) + 1) * 127.5)[:height, :width]
    if len(results) == 1:
        return output, np.ones_like(output[..., :1])
    return output, results[1][0].astype(np.float32).transpose(1, 2, 0)[:height, :width]
