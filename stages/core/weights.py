"""Networks as safetensors files that name their class and arguments."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.files import write_bytes
from stages.core.settings import ConfigError, TristyleError

if TYPE_CHECKING:
    from torch import nn

_packages = ["stages.networks"]  # whose classes a weights file may name


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


def check_savable(module: nn.Module, key: str) -> None:
    """Refuse a network that `load_network` could not build again: before a training, not after it.

    Args:
        module: what is to be saved.
        key: the setting that it comes from, for the message.

    Raises:
        ConfigError: it does not note its constructor's arguments, or its class lies where no network is read from.
    """
    kind = type(module)
    if not isinstance(getattr(module, "arguments", None), dict):
        remedy = "Set self.arguments to the keyword arguments of its constructor, plain JSON types"
        raise ConfigError(key, f"{kind.__name__} has no `arguments`", remedy)
    if not kind.__module__.startswith(_packages[0]) and kind.__module__.partition(".")[0] not in _packages:
        raise ConfigError(key, f"{kind.__module__}.{kind.__name__} cannot be loaded again", _where(kind.__module__))


def _where(module: str) -> str:
    """Where a network's class may lie instead."""
    package = module.partition(".")[0]
    return "Move the class to stages/networks/" if package == "stages" else f"Say allow=[{package}]"


def allow_networks(packages: Sequence[str]) -> None:
    """Let weights files name classes of further packages, as the command line's `allow=[mypkg]` says."""
    _packages[1:] = packages


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
    if not name.startswith(tuple(f"{package}." for package in _packages)):
        raise TristyleError(
            f"{path}: names the class {name!r}, which is not a network of this project. If it is yours: {_where(name)}."
        )
    module_name, _, class_name = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
        module: nn.Module = kind(**json.loads(notes["arguments"]))
        module.load_state_dict(state)
    except (ImportError, AttributeError, KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: does not fit {name} ({reason}). Was it written by another version?") from None
    return module.to(device).eval()
