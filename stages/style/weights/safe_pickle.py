"""Pickles and torch files read as data: nothing that they name is ever imported or called.

A pickle is a program for a stack machine. `run` executes the opcodes that build plain values (numbers, strings, lists,
dicts, sets) and answers the few globals that networks need with inert values of this module; every other opcode or
global is refused by name. On top stand both containers of `torch.save`, the zip file and the older chain of pickles.

Why not `torch.load(weights_only=True)`: it knows no class of NVIDIA's persistence module, allocates whatever size a
header claims before it looks at the bytes, and skips the zip file's checksums, so that a flipped bit loads silently.
Here tensors are views of the bytes that were read, and their elements never outnumber the storage's, so that memory
stays within a small multiple of the file's size. Opcodes: CPython's `pickletools`, which also does the parsing;
containers: as `torch.save` writes them.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # opens the older container
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the same, as bytes
ZIP = b"PK\x03\x04"
MOST_OPCODES = 500_000  # five times those of the largest official file, a second's work
LEAST_CONTAINERS, CONTAINER_BYTES = 1000, 16  # empty lists, sets and dicts: so many, and one more for so many bytes
_MARK = object()
Kind = TypeVar("Kind")


class Damaged(ValueError):
    """Bytes that do not say what their format demands."""


class Forbidden(Damaged):
    """A pickle that asks for something else than data; `name` is the global or opcode."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the pickle asks for '{name}', which no network needs; nothing was run")
        self.name = name


# ---------------------------------------------------------------------------------------------------------------------
# What a pickle may build besides Python's own plain values


@dataclass(frozen=True)
class Global:
    """The name of a class or function, ``module name``: a word, not the thing."""

    name: str


class Table(dict[Any, Any]):
    """Stands in for OrderedDict and EasyDict."""


class NamespaceStandIn(Table):
    """Stands in for argparse.Namespace."""


@dataclass(eq=False)
class Instance:
    """Stands in for an object of NVIDIA's persistence module: its class's name and its `__dict__`."""

    name: str
    state: dict[str, Any]


@dataclass(eq=False)
class Storage:
    """`numel` numbers of one type, and their bytes."""

    dtype: np.dtype
    numel: int
    data: bytes = b""
    viewed: int = 0


@dataclass(eq=False)
class TensorView:
    """A tensor: the part of a storage that size and stride (in elements) name. It is dense, maybe permuted."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The tensor as a read-only view of the file's bytes."""
        flat = np.frombuffer(self.storage.data, self.storage.dtype)[self.offset :]
        strides = [step * flat.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat, self.size, strides, writeable=False)


def _table(*arguments: Any) -> Table:
    if arguments:
        raise Damaged("a dict is built from arguments")
    return Table()


def _settings(*arguments: Any) -> NamespaceStandIn:
    if arguments:
        raise Damaged("a namespace is built from arguments")
    return NamespaceStandIn()


def _set(items: Any) -> set[Any]:
    return {_key(item) for item in _is(items, list)}


def _dtype(code: Any, *flags: Any) -> np.dtype:
    if code not in ("f8", "f4", "f2", "i8", "i4", "u1", "b1") or len(flags) > 2:
        raise Damaged("an unknown numpy type")
    dtype: np.dtype = np.dtype(code)
    return dtype


def _scalar(dtype: Any, data: Any) -> Any:
    (value,) = np.frombuffer(_is(data, bytes), _is(dtype, np.dtype))
    return value.item()


def _view(storage: Any, offset: Any, size: Any, stride: Any, *ignored: Any) -> TensorView:
    """_rebuild_tensor_v2. `ignored`: requires_grad, hooks, metadata."""
    size, stride = _is(size, tuple), _is(stride, tuple)
    whole = all(type(n) is int and 0 <= n < 2**40 for n in (offset, *size, *stride))
    if not whole or len(size) != len(stride) or len(size) > 8:
        raise Damaged("a tensor has an impossible shape")
    elements = prod(size)
    reach = 1  # elements that the axes seen so far fill without a gap
    for step, n in sorted((s, n) for s, n in zip(stride, size, strict=True) if n > 1 and elements):
        if step != reach:
            raise Damaged("a tensor is not dense")
        reach *= n
    storage = _is(storage, Storage)
    storage.viewed += elements
    if offset + elements > storage.numel or storage.viewed > storage.numel:
        raise Damaged("tensors reach beyond their storage, or share it")
    return TensorView(storage, offset, size, stride)


def _parameter(data: Any, *ignored: Any) -> TensorView:
    """_rebuild_parameter. `ignored`: requires_grad, hooks."""
    return _is(data, TensorView)


def _storage(data: Any) -> Storage:
    """torch.storage._load_from_bytes: the older container with a single storage in it."""
    return _is(_legacy(_is(data, bytes), STORAGES), Storage)


def _instance(meta: Any) -> Instance:
    """torch_utils.persistence._reconstruct_persistent_obj; the source text in `module_src` stays text."""
    meta = _is(meta, dict)
    if meta.get("type") != "class":
        raise Damaged("a persistent object is not a class")
    return Instance(_is(meta.get("class_name"), str), _is(meta.get("state"), dict))


def _is(value: Any, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise Damaged(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _key(value: Any) -> Any:
    """Keys are names and small numbers: their hashes cost nothing and cannot be made to collide."""
    if isinstance(value, str) or (type(value) is int and abs(value) < 2**31):
        return value
    raise Damaged(f"{type(value).__name__} as a key")


Allowed = Mapping[str, Callable[..., Any] | np.dtype]

STORAGES: Allowed = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
_VALUES: Allowed = {
    "collections OrderedDict": _table,
    "numpy dtype": _dtype,
    "numpy.core.multiarray scalar": _scalar,  # before numpy 2
    "numpy._core.multiarray scalar": _scalar,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_tensor_v2": _view,
}
TORCH: Allowed = {**_VALUES, **STORAGES, "argparse Namespace": _settings}
OFFICIAL: Allowed = {
    **_VALUES,
    "builtins set": _set,  # how protocol 3, which the release's own files use, writes an empty set
    "dnnlib.util EasyDict": _table,
    "torch.storage _load_from_bytes": _storage,
    "torch_utils.persistence _reconstruct_persistent_obj": _instance,
}


# ---------------------------------------------------------------------------------------------------------------------
# The stack machine


def run(stream: io.BytesIO, allowed: Allowed, storage: Callable[[Any], Storage] | None = None) -> Any:
    """The value of the pickle that begins at the stream's position; the stream is left behind it.

    Args:
        stream: stands at the pickle's first byte.
        allowed: the globals it may name, ``module name`` -> what answers a call.
        storage: what answers a persistent id.

    Raises:
        Forbidden: another global, or an opcode that builds no data.
        ValueError, LookupError, TypeError: broken or truncated.
    """
    machine = _Machine(allowed, storage)
    program: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(stream)
    containers = LEAST_CONTAINERS + len(stream.getbuffer()) // CONTAINER_BYTES
    for count, (opcode, argument, _) in enumerate(program):
        containers -= opcode.name.startswith("EMPTY_")
        if count >= MOST_OPCODES or containers < 0:
            raise Damaged("the pickle has more opcodes than any network needs")
        if not (
            machine.plain(opcode.name, argument) or machine.holds(opcode.name) or machine.made(opcode.name, argument)
        ):
            raise Forbidden(f"opcode {opcode.name}")
    (value,) = machine.stack
    return value


class _Machine:
    """The stack and the memo of a pickle; each method answers the opcodes of one kind, False for any other."""

    def __init__(self, allowed: Allowed, storage: Callable[[Any], Storage] | None) -> None:
        self.allowed, self.storage = allowed, storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def plain(self, opcode: str, argument: Any) -> bool:
        """Constants, and the memo."""
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self.stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                self.stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case _:
                return False
        return True

    def holds(self, opcode: str) -> bool:
        """Tuples, lists, sets and dicts."""
        stack = self.stack
        match opcode:
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_SET" | "EMPTY_DICT":
                stack.append({"TUPLE": tuple, "LIST": list, "SET": set, "DICT": dict}[opcode.removeprefix("EMPTY_")]())
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _is(stack[-1], list).append(item)
            case "APPENDS":
                items = self._since_mark()
                _is(stack[-1], list).extend(items)
            case "ADDITEMS":
                items = self._since_mark()
                _is(stack[-1], set).update(map(_key, items))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _is(stack[-1], dict)[_key(key)] = value
            case "SETITEMS":
                items = self._since_mark()
                pairs = zip(map(_key, items[::2]), items[1::2], strict=True)
                _is(stack[-1], dict).update(pairs)
            case _:
                return False
        return True

    def made(self, opcode: str, argument: Any) -> bool:
        """Globals and what is made by them."""
        stack = self.stack
        match opcode:
            case "GLOBAL":
                stack.append(self._name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                member, module = stack.pop(), stack.pop()
                stack.append(self._name(module, member))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case "BUILD":
                state = stack.pop()
                _set_state(stack[-1], state)
            case "BINPERSID" if self.storage is not None:
                stack.append(self.storage(stack.pop()))
            case _:
                return False
        return True

    def _since_mark(self) -> list[Any]:
        at = next(i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is _MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _name(self, module: Any, member: Any) -> Global:
        known = Global(f"{_is(module, str)} {_is(member, str)}")
        if known.name not in self.allowed:
            raise Forbidden(f"{module}.{member}"[:100])
        return known

    def _call(self, function: Any, arguments: Any) -> Any:
        answer = self.allowed[_is(function, Global).name]
        if not callable(answer):
            raise Damaged(f"{function.name} is called")
        return answer(*_is(arguments, tuple))


def _set_state(target: Any, state: Any) -> None:
    """BUILD, for the three kinds of object that bring a state along."""
    if isinstance(target, np.dtype):
        if _is(state, tuple)[1] not in ("<", "|"):
            raise Damaged("numbers are not little-endian")
    elif isinstance(target, NamespaceStandIn):
        target.update(_is(state, dict))
    elif isinstance(target, Table) and set(_is(state, dict)) <= {"_metadata"}:
        pass  # version numbers that state_dict() attaches
    else:
        raise Damaged(f"{type(target).__name__} is given a state")


# ---------------------------------------------------------------------------------------------------------------------
# The containers of torch.save


def torch_file(data: bytes) -> Any:
    """The value that `torch.save` wrote, from either container; tensors are `TensorView`.

    Raises:
        Forbidden, ValueError, LookupError, TypeError, zipfile.BadZipFile: as `run`, and a checksum that does not hold.
    """
    return _zip(data) if data.startswith(ZIP) else _legacy(data, TORCH)


def _zip(data: bytes) -> Any:
    storages: dict[str, Storage] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not plain or sum(entry.file_size for entry in entries) > len(data):
            raise Damaged("the zip file's entries are packed or overlap")
        (index,) = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
        root = index.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise Damaged("numbers are not little-endian")

        def storage(identity: Any) -> Storage:
            kind, dtype, key, _, numel = identity
            if key not in storages:
                storages[key] = _announced(kind, dtype, numel)
                storages[key].data = archive.read(f"{root}data/{_is(key, str)}")
            found = storages[key]
            if (STORAGES[dtype.name], numel * found.dtype.itemsize) != (found.dtype, len(found.data)):
                raise Damaged(f"storage {key} has another length than its header says")
            return found

        return run(io.BytesIO(archive.read(index)), TORCH, storage)


def _legacy(data: bytes, allowed: Allowed) -> Any:
    stream = io.BytesIO(data)
    storages: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        kind, dtype, key, _, numel, view = identity
        if view is not None:
            raise Damaged("a storage is part of another")
        found = storages.setdefault(_is(key, str), _announced(kind, dtype, numel))
        if (STORAGES[dtype.name], numel) != (found.dtype, found.numel):
            raise Damaged(f"storage {key} is announced twice")
        return found

    opening = [run(stream, {}) for _ in range(3)]
    if opening[:2] != [TORCH_MAGIC, 1001] or _is(opening[2], dict).get("little_endian") is not True:
        raise Damaged("not a file of torch.save, or not little-endian")
    value = run(stream, allowed, storage)
    keys = _is(run(stream, {}), list)
    if sorted(keys) != sorted(storages):
        raise Damaged("storages are missing")
    for key in keys:
        found = storages[key]
        (numel,) = struct.unpack("<q", stream.read(8))
        found.data = stream.read(found.numel * found.dtype.itemsize)
        if numel != found.numel or len(found.data) != numel * found.dtype.itemsize:
            raise Damaged("a storage has another length than its header says")
    if stream.read(1):
        raise Damaged("bytes follow the last storage")
    return value


def _announced(kind: Any, dtype: Any, numel: Any) -> Storage:
    """An empty storage, after the words of a persistent id were checked."""
    answer = STORAGES.get(_is(dtype, Global).name)
    if kind != "storage" or not isinstance(answer, np.dtype) or type(numel) is not int or numel < 0:
        raise Damaged("a persistent id is not a storage")
    return Storage(answer, numel)
