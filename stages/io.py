"""Images, tensors, networks and bytes on their way in and out: every conversion of value range happens here.

Disk holds uint8 RGB; networks see float32 RGB NCHW in [-1, 1]; metrics and kornia see [0, 1]. Every write is atomic:
a temporary file beside the target, fsync, rename. A killed process leaves the old file or the new one, never a half.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages import imagefile
from stages.config import TristyleError
from stages.imagefile import ImageError

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_NETWORK_MODULES = ("stages.networks.", "stages.faces.")


# ---------------------------------------------------------------------------------------------------- bytes


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` atomically (temporary file in the same folder, fsync, rename)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=False) + "\n").encode())


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def append_jsonl(path: Path | str, row: dict[str, Any]) -> None:
    """Append one JSON line. A line is written in one call, so that a killed process leaves at most one torn line."""
    with open(path, "ab") as file:
        file.write((json.dumps(row) + "\n").encode())


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """All complete lines of a jsonl file; a torn last line (killed writer) is left out. [] when there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_file(name: str) -> Path:
    """Path of a file shipped in `data/`, in a wheel, an editable install or a bare checkout."""
    checkout = Path(__file__).resolve().parent.parent / "data" / name
    if checkout.exists():
        return checkout
    return Path(__file__).resolve().parent / "data" / name


# ---------------------------------------------------------------------------------------------------- images


def read_image(path: Path | str) -> np.ndarray:
    """A picture file as it looks, transparent parts white: uint8 sRGB [H, W, 3]; see `imagefile.decode`.

    Raises:
        ImageError: names file, reason and remedy.
    """
    return imagefile.read(path).pixels


def encode_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB or [H, W] -> PNG bytes (level 1: three times faster than level 6, 10 % larger)."""
    try:
        import cv2
    except ModuleNotFoundError:  # a machine that only trains: previews are all it writes
        return _plain_png(image)
    ordered = image[..., ::-1] if image.ndim == 3 else image
    done, data = cv2.imencode(".png", np.ascontiguousarray(ordered), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ImageError(f"cannot encode an array of shape {image.shape} as PNG")
    return data.tobytes()


def _plain_png(image: np.ndarray) -> bytes:
    """PNG (ISO/IEC 15948) of unfiltered rows, by the standard library alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = image.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    rows = np.pad(image.reshape(height, -1), ((0, 0), (1, 0)))  # each begins with its filter: 0, none
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_image(path: Path | str, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] RGB or [H, W] as PNG. Renamed into place; not fsynced: the manifest, written last, is."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(encode_png(image))
    os.replace(temporary, path)


def _read_png(path: Path, colour: bool) -> np.ndarray:
    """Fast path for PNGs that this project wrote itself; anything cv2 refuses goes through `read_image`."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    if image is None:
        image = read_image(path)
        return image if colour else image[..., 0]
    return np.ascontiguousarray(image[..., ::-1]) if colour else image


def load_images(paths: Sequence[Path], workers: int = 1) -> np.ndarray:
    """PNGs of one size -> uint8 [N, H, W, 3].

    Raises:
        ImageError: when a file is unreadable or its size differs from the first one's.
    """
    return _load(paths, True, workers)


def load_masks(paths: Sequence[Path], workers: int = 1) -> np.ndarray:
    """8-bit PNGs of one size -> uint8 [N, H, W] (head coverage, 255 = head)."""
    return _load(paths, False, workers)


def _load(paths: Sequence[Path], colour: bool, workers: int) -> np.ndarray:
    if not paths:
        raise ImageError("no pictures to load; is the artifact's folder empty?")
    first = _read_png(Path(paths[0]), colour)
    out = np.empty((len(paths), *first.shape), np.uint8)

    def fill(index: int) -> None:
        image = _read_png(Path(paths[index]), colour)
        if image.shape != first.shape:
            sizes = f"{image.shape[:2]} differs from {first.shape[:2]} of {paths[0]}"
            raise ImageError(f"{paths[index]}: {sizes}. Run the stage that wrote it again.")
        out[index] = image

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        list(pool.map(fill, range(len(paths))))
    return out


def grid(images: np.ndarray | Sequence[np.ndarray], columns: int, pad: int = 2) -> np.ndarray:
    """Contact sheet: uint8 [N, H, W, 3] -> [rows*(H+pad)+pad, columns*(W+pad)+pad, 3] on white."""
    height, width = images[0].shape[:2]
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = pad + index // columns * (height + pad), pad + index % columns * (width + pad)
        sheet[top : top + height, left : left + width] = image if image.ndim == 3 else image[..., None]
    return sheet


# ---------------------------------------------------------------------------------------------------- tensors


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] or [H, W, 3] -> float32 [N, 3, H, W] in [-1, 1] (x / 127.5 - 1)."""
    import torch

    array = images[None] if images.ndim == 3 else images
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def to_uint8(images: Tensor) -> np.ndarray:
    """float [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3] (rounded, clamped)."""
    import torch

    scaled = images.detach().float().mul(127.5).add(127.5).round().clamp_(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def mask_tensor(masks: np.ndarray) -> Tensor:
    """uint8 [N, H, W] -> float32 [N, 1, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(masks))[:, None].float().div_(255.0)


def unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return images.add(1.0).mul(0.5).clamp(0.0, 1.0)


# ---------------------------------------------------------------------------------------------------- networks


def save_network(path: Path | str, module: nn.Module, half: bool = False, **notes: str) -> None:
    """Write weights as safetensors with `{class, arguments, sha256}` in the header.

    `module.arguments` holds the constructor's keyword arguments (plain JSON types). `half` stores float16. The digest
    covers the rest of the header and all tensors; `load_network` verifies it.
    """
    import torch
    from safetensors.torch import save

    kind = type(module)
    state = {
        name: (value.half() if half and value.dtype == torch.float32 else value).detach().cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    header = {"class": f"{kind.__module__}.{kind.__qualname__}", "arguments": json.dumps(module.arguments), **notes}
    write_bytes(path, _sealed(save(state, metadata=header)))


def _sealed(data: bytes) -> bytes:
    """The same safetensors file with its digest, and sorted header keys: its writer orders them anew every time."""
    header, tensors = _split(data)
    header["__metadata__"]["sha256"] = _digest(header, tensors)
    line = _canonical(header)
    line += b" " * (-len(line) % 8)
    return len(line).to_bytes(8, "little") + line + tensors


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """A safetensors file's header and the bytes of its tensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), memoryview(data)[end:]


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _digest(header: dict[str, Any], tensors: memoryview) -> str:
    """Hex SHA-256 of a safetensors file but for the digest itself."""
    notes = {key: value for key, value in header["__metadata__"].items() if key != "sha256"}
    digest = hashlib.sha256(_canonical({**header, "__metadata__": notes}))
    digest.update(tensors)
    return digest.hexdigest()


def load_network(path: Path | str, device: str = "cpu") -> nn.Module:
    """Build the network that a file names and load its weights; float32, eval mode.

    Raises:
        TristyleError: unreadable or damaged file (where it has a digest), a class outside this project's networks, or
            weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    try:
        data = path.read_bytes()
        state = {key: value.float() for key, value in load(data).items()}  # refuses a header that does not fit
        header, tensors = _split(data)
        notes = header.get("__metadata__", {})
    except FileNotFoundError:
        raise TristyleError(f"{path}: no such weights file. Check the path.") from None
    except OSError as error:
        raise TristyleError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except (SafetensorError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not a readable safetensors file ({reason}). Copy it again.") from None
    if "sha256" in notes and notes["sha256"] != _digest(header, tensors):
        raise TristyleError(f"{path}: differs from the digest in its header, so it is damaged. Copy it again.")
    name = notes.get("class", "")
    if not name.startswith(_NETWORK_MODULES):
        raise TristyleError(f"{path}: names the class {name!r}; only networks of this project are built.")
    module_name, _, class_name = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
        module: nn.Module = kind(**json.loads(notes["arguments"]))
        module.load_state_dict(state)
    except (ImportError, AttributeError, KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: does not fit {name} ({reason}). Was it written by another version?") from None
    return module.to(device).eval()
