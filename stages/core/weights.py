"""Networks as safetensors files that name their class and arguments."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.files import write_bytes
from stages.core.settings import ConfigError, TristyleError

if TYPE_CHECKING:
    from torch import Tensor, nn

# The classes that a weights file may name, beside those of packages that the user allows. A prefix would not do: a
# module also has what it imports. `tests/faults/test_weights.py` compares with the classes that note arguments.
NETWORKS = frozenset(f"stages.networks.{name}" for name in (
    "aligned.LightTranslator", "aligned.PatchDiscriminator", "aligned.ResnetTranslator", "blaze.BlazeEncoder",
    "blaze.BlazeFaces", "blaze.BlazeGenerator", "blaze.BlazeStylizer", "encoder.Encoder", "encoder.IterativeEncoder",
    "encoder.LatentDiscriminator", "expanded.AttributeClassifier", "expanded.ExpandedEditor", "face_reader.Reader",
    "mobile.MobileStudent", "parser.FaceParser", "patchgan.PatchGAN", "stylegan2.Discriminator",
    "stylegan2.Generator", "ugatit.CamDiscriminator", "ugatit.ResnetGenerator",
))  # fmt: skip
LARGEST_ARGUMENT = 1 << 17
DEPTHS = {"n_layers", "layers", "n_blocks", "num_layers", "num_ws", "blocks"}  # arguments that count layers
DEEPEST = 256
MAKERS = {"empty", "zeros", "ones", "rand", "randn", "full", "arange", "linspace", "empty_strided"}
SPARE = 1 << 22  # elements that a network may make beside its weights
MOST_ARGUMENTS, LONGEST_ARGUMENT = 64, 256  # of a class; letters of a word and items of a list
DISCRIMINATOR = "discriminator.safetensors"  # of all generators of a style artifact
_packages: list[str] = []


def save_network(
    path: Path | str, module: nn.Module, half: bool = False, notes: Mapping[str, str] | None = None
) -> None:
    """Write weights as safetensors with `{class, arguments, sha256}` in the header.

    `module.arguments` holds the constructor's keyword arguments (plain JSON types). `half` stores float16; `notes` join
    the header. The digest covers the rest of the header and all tensors; `load_network` verifies it.
    """
    import torch
    from safetensors.torch import save

    kind = type(module)
    state = {
        name: (value.half() if half and value.dtype == torch.float32 else value).detach().cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    header = {"class": f"{kind.__module__}.{kind.__qualname__}", "arguments": json.dumps(module.arguments)}
    header |= notes or {}
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


def own_partner(path: Path) -> Path:
    """The discriminator's file of a generator's: x_discriminator for x and for x_generator, beside it."""
    if path.stem == "generator":
        return path.with_name(DISCRIMINATOR)
    return path.with_name(f"{path.stem.removesuffix('_generator')}_discriminator.safetensors")


def partner(path: Path) -> Path:
    """Where to look for a generator's discriminator: its own file, else the one that serves a whole style artifact."""
    own, shared = own_partner(path), path.with_name(DISCRIMINATOR)
    return shared if shared.exists() and not own.exists() else own


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
    if not _listed(f"{kind.__module__}.{kind.__qualname__}"):
        raise ConfigError(key, f"{kind.__module__}.{kind.__name__} cannot be loaded again", _where(kind.__module__))


def _listed(name: str) -> bool:
    """Whether a class is on the list, or lies in a package that is allowed."""
    return name in NETWORKS or any(name.startswith(f"{package}.") for package in _packages)


def _where(module: str) -> str:
    """Where a network's class may lie instead."""
    package = module.partition(".")[0]
    return "Move the class to stages/networks/ and into NETWORKS" if package == "stages" else f"Say allow=[{package}]"


def allow_networks(packages: Sequence[str]) -> None:
    """Let weights files name classes of further packages, as the command line's `allow=[mypkg]` says."""
    _packages[:] = packages


def load_network(path: Path | str, device: str = "cpu") -> nn.Module:
    """Build the network that a file names and load its weights; float32, eval mode.

    Class and arguments are checked first; what is built stays within a small multiple of what the file weighs.

    Raises:
        TristyleError: unreadable or damaged file (where it has a digest), a class outside this project's networks,
            weights that do not fit, or numbers that are not finite.
    """
    path = Path(path)
    state, notes = _read(path)
    name = str(notes.get("class", ""))

    # The header is somebody's word: nothing is built before class and arguments are known.
    try:
        kind = _class_of(name)
        if kind is None:
            raise TristyleError(
                f"{path}: names the class {name!r}, which is not a network of this project. "
                f"If it is yours: {_where(name)}."
            )
        arguments = _checked_arguments(kind, json.loads(notes["arguments"]))
        with _within_budget(state):
            module: nn.Module = kind(**arguments)
        module.load_state_dict(state)
    except TristyleError:
        raise
    except Exception as error:  # what a constructor raises for wrong numbers: a dozen types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TristyleError(f"{path}: does not fit {name} ({reason}). Was it written by another version?") from None
    return module.to(device).eval()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors as float32, and its notes, after a look at its digest."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        state = {key: value.float() for key, value in load(data).items()}  # refuses a header that does not fit
        header, tensors = _split(data)
        notes = header.get("__metadata__", {})
    except FileNotFoundError:
        raise TristyleError(f"{path}: no such weights file. Check the path.") from None
    except OSError as error:
        raise TristyleError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except (SafetensorError, ValueError, KeyError, RecursionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise TristyleError(f"{path}: not a readable safetensors file ({reason}). Copy it again.") from None

    if "sha256" in notes and notes["sha256"] != _digest(header, tensors):
        raise TristyleError(f"{path}: differs from the digest in its header, so it is damaged. Copy it again.")
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise TristyleError(f"{path}: holds numbers that are not finite. Train it again, or copy it again.")
    return state, notes


def _class_of(name: str) -> type[nn.Module] | None:
    """The class that a file names; None where it is not a network of NETWORKS or of an allowed package."""
    from torch import nn

    if not _listed(name):
        return None
    module_name, _, class_name = name.rpartition(".")
    found = getattr(importlib.import_module(module_name), class_name, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module) or found.__module__ != module_name:
        return None
    return found


def _checked_arguments(kind: type[nn.Module], given: Any) -> dict[str, Any]:
    """The arguments of a class as a file has them. Raises ValueError where they are not plain, known and bounded."""
    known = inspect.signature(kind).parameters
    if not isinstance(given, dict) or len(given) > MOST_ARGUMENTS or not set(given) <= set(known):
        raise ValueError("its arguments are not those of the class")

    def plain(value: Any, most: int, within: bool = False) -> bool:
        if isinstance(value, str):
            return len(value) <= LONGEST_ARGUMENT
        if isinstance(value, list) and not within:
            return len(value) <= LONGEST_ARGUMENT and all(plain(item, most, True) for item in value)
        return value is None or isinstance(value, (bool, int, float)) and abs(value) <= most

    wrong = [name for name, value in given.items() if not plain(value, DEEPEST if name in DEPTHS else LARGEST_ARGUMENT)]
    if wrong:
        raise ValueError(f"its argument {wrong[0]!r} is out of range")
    return given


@contextmanager
def _within_budget(state: dict[str, Tensor]) -> Iterator[None]:
    """Within the block, give up a network that asks for more than a file's weights explain, before it gets it.

    Counted are its parameters, its modules, and the elements of the tensors that it makes. Raises ValueError.
    """
    import torch
    from torch.nn.modules import module as hooks
    from torch.overrides import TorchFunctionMode

    me, left = threading.get_ident(), _budget(state)

    def take(what: str, count: int) -> None:
        left[what] -= count if threading.get_ident() == me else 0
        if left[what] < 0:
            raise ValueError(f"the class needs more {what} than the file has weights for")

    class Counted(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(function, "__name__", "") in MAKERS:
                size = (kwargs or {}).get("size", args[0] if args and not isinstance(args[0], int) else args)
                take("elements", math.prod(item for item in size if isinstance(item, int)))
            return function(*args, **(kwargs or {}))

    first = hooks.register_module_parameter_registration_hook(lambda *_: take("parameters", 1))
    second = hooks.register_module_module_registration_hook(lambda *_: take("modules", 1))
    try:
        with Counted(), torch.device("cpu"):
            yield
    finally:
        first.remove()
        second.remove()


def _budget(state: dict[str, Tensor]) -> dict[str, int]:
    tensors, elements = len(state), sum(value.numel() for value in state.values())
    return {"parameters": tensors + 1, "modules": 64 + 16 * tensors, "elements": SPARE + 8 * elements}
