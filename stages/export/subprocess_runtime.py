"""Runtimes in a process of their own: what aborts, prints or sends there does not touch this process.

A converter may also need another interpreter (litert-torch is tested with an older torch), so the two sides share files
and pipes only. The child finds this package by its folder; nothing of ours is installed beside a runtime.

    parent -> child, per call: a frame of JSON {repeats, inputs}, then a frame of .npy for each input
    child -> parent: a frame of JSON {outputs}, {times} or {error}, then a frame of .npy for each output
    frame: 8 bytes of length, then as many bytes
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from stages.core.artifact import SCRATCH
from stages.core.files import parse_json
from stages.core.settings import ConfigError, TristyleError
from stages.export.contract import ConversionSource, Signature, check_precisions, signature_from_json, timed

PACKAGE = Path(__file__).resolve().parents[1]
PATIENCE = 1800  # seconds a conversion may take
# `stages` becomes a package of this folder without the folder around it on the path: other versions of what the child
# needs may lie there.
BOOT = (
    "import sys, types; package = types.ModuleType('stages'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['stages'] = package; "
    "from stages.export import subprocess_runtime; subprocess_runtime.main(*sys.argv[2:])"
)

Call = Callable[..., Sequence[np.ndarray]]  # inputs in the order of a Signature -> outputs in its order


@dataclass(kw_only=True)
class ChildRuntime:
    """A runtime that lives in another interpreter.

    Its module offers the child `convert(source, precision, folder, options)` and `load(path, signature, threads)`,
    which returns a `Call`.

    Args:
        precisions: what to convert to; the first one's measures are the artifact's.
        python: the interpreter that has the runtime's packages. None: this one where it has them, else
            `.venv-<name>/bin/python` in the working folder or the checkout, which `make runtimes` makes.
    """

    name: ClassVar[str]
    tolerance: ClassVar[float]
    runs_here: ClassVar[bool] = True
    suffix: ClassVar[str]
    known: ClassVar[tuple[str, ...]]  # precisions
    modules: ClassVar[tuple[str, ...]]  # must import
    packages: ClassVar[tuple[str, ...]]  # distributions that must be there
    notes: ClassVar[tuple[str, ...]] = ()
    precisions: list[str]
    python: str | None = None

    def __post_init__(self) -> None:
        check_precisions(self.precisions, self.known)
        if self.python is not None and (not isinstance(self.python, str) or not self.python):
            raise ConfigError("python", f"{self.python!r} is not a path", "Give the path of an interpreter, or null")

    @property
    def side(self) -> int | None:
        """None: height and width are dynamic."""
        return None

    def check(self) -> None:
        """Import the runtime in a child.

        Raises:
            TristyleError: it is not there; the message names the extra.
        """
        self.versions()

    def versions(self) -> dict[str, str]:
        """Distribution -> version, of what makes and reads the files. Raises as `check` does."""
        with tempfile.TemporaryDirectory() as folder:
            answer = self._ask("check", {"modules": self.modules, "packages": self.packages}, Path(folder))
        if "missing" in answer:
            raise TristyleError(self._missing(answer["missing"]))
        return dict(answer)

    def convert(self, source: ConversionSource, precision: str, out: Path) -> Path:
        """Write `student.<precision>.<suffix>` into `out`, whole or not at all.

        Raises:
            TristyleError: the converter failed; one line with its status and its last words.
        """
        path = out / f"student.{precision}.{self.suffix}"
        with _scratch(out) as folder:
            request = {"source": source.as_json(), "precision": precision, "folder": str(folder)}
            request["options"] = self.options(source, precision, folder)
            self._ask("convert", request, folder, f"the conversion to {precision}")

            made = folder / path.name
            if not made.exists():
                raise TristyleError(
                    f"export={self.name}: the conversion to {precision} wrote nothing. {self._remedy()}"
                )
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(made, path)
        return path

    def options(self, source: ConversionSource, precision: str, folder: Path) -> dict[str, Any]:
        """What the child's `convert` gets beside the source, as plain JSON types; may write into `folder`."""
        return {}

    def open(self, path: Path, signature: Signature, threads: int) -> ChildRun:
        """Start a child that holds the model. Raises TristyleError where the file is not one."""
        if not path.exists():
            raise TristyleError(f"{path}: no such model. Check the path.")
        request = {"path": str(path.resolve()), "signature": asdict(signature), "threads": threads}
        return ChildRun(self._command("run", request), path)

    def interpreter(self) -> str:
        """Path of the Python that has the runtime. Raises TristyleError where none has."""
        if self.python is not None:
            if not os.access(self.python, os.X_OK) or Path(self.python).is_dir():
                raise TristyleError(
                    f"export.runtime.python: {self.python} is not an interpreter. Run: make runtimes; or give null."
                )
            return str(Path(self.python).absolute())  # not resolved: a venv is known by the link's place

        # This interpreter where it has all modules, else the one that `make runtimes` made.
        missing = [name for name in self.modules if not _findable(name)]
        if not missing:
            return sys.executable

        for place in (Path.cwd(), PACKAGE.parent):
            for relative in ("bin/python", "Scripts/python.exe"):
                if (found := place / f".venv-{self.name}" / relative).exists():
                    return str(found)
        raise TristyleError(self._missing(f"{missing[0].split('.')[0]} cannot be imported (it is not installed)"))

    def _missing(self, reason: str) -> str:
        """The message where the runtime is not there."""
        return f"export={self.name}: {reason}. Run: pip install 'tristyle[{self.name}]'; in a checkout: make runtimes"

    def _remedy(self) -> str:
        """The second sentence of a failed conversion's message."""
        return f"Leave that precision out, or use the versions of .ci/locks/{self.name}.lock."

    def _command(self, verb: str, request: dict[str, Any]) -> list[str]:
        """The command that starts the child."""
        python = self.interpreter()
        # -I hides this interpreter's variables from another one; -P keeps any from importing what lies in its folder.
        alone = "-P" if python == sys.executable else "-I"
        return [python, alone, "-c", BOOT, str(PACKAGE), self.name, verb, json.dumps(request)]

    def _ask(self, verb: str, request: dict[str, Any], folder: Path, what: str = "the start") -> dict[str, Any]:
        """Run the child once, in `folder`; its answer. Raises TristyleError where it fails or takes too long."""
        command = self._command(verb, request)
        with tempfile.TemporaryFile() as log:
            # The answer comes on stdout; what libraries print goes to the log, whose last line explains a failure.
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=folder,
                    env=_environment(),
                    timeout=PATIENCE,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise TristyleError(f"export={self.name}: {what} took over {PATIENCE} s. {self._remedy()}") from None

            if done.returncode:
                raise TristyleError(f"export={self.name}: {what} {_end(done.returncode, log)}. {self._remedy()}")
        return dict(parse_json(done.stdout, f"export={self.name}", {}))


class ChildRun:
    """A model opened in a child; called from one thread at a time. `close` ends the child, and so does forgetting it.

    Args:
        command: starts the child.
        path: the model, for messages.
    """

    def __init__(self, command: list[str], path: Path) -> None:
        self.path, self.log = path, tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=_environment()
        )
        self._end = weakref.finalize(self, _stop, self.child, self.log)
        try:
            self._answer()
        except TristyleError:
            self.close()
            raise

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """All outputs for one set of inputs, float32, in the order of the file's signature.

        Raises:
            TristyleError: the child cannot (a size that the model does not take), or died.
        """
        return tuple(_read_array(self._frame()) for _ in range(self._request(inputs, 0)["outputs"]))

    def times(self, inputs: Sequence[np.ndarray], repeats: int) -> list[tuple[float, float]]:
        """(CPU seconds, wall seconds) of each of `repeats` runs, measured in the child, without the pipe."""
        return [(cpu, wall) for cpu, wall in self._request(inputs, repeats)["times"]]

    def close(self) -> None:
        """End the child. Calling it again does nothing."""
        self._end()

    def _request(self, inputs: Sequence[np.ndarray], repeats: int) -> dict[str, Any]:
        """Send one call and return the head of its answer."""
        if not self._end.alive:
            raise TristyleError(f"{self.path}: was closed. Open it again.")
        assert self.child.stdin is not None
        with suppress(BrokenPipeError):  # _answer reports why the child is gone
            _write(self.child.stdin, json.dumps({"repeats": repeats, "inputs": len(inputs)}).encode())
            for values in inputs:
                _write(self.child.stdin, _array_bytes(values))
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        """The head of the child's next answer. Raises TristyleError where it is an error."""
        answer = dict(parse_json(self._frame(), "the runtime", {}))
        if "error" in answer:
            raise TristyleError(f"{self.path}: {answer['error']}")
        return answer

    def _frame(self) -> bytes:
        """The child's next frame. Raises TristyleError where the child died."""
        assert self.child.stdout is not None
        data = _read(self.child.stdout)
        if data is None:
            status = self.child.wait()
            message = f"{self.path}: cannot be run, the runtime {_end(status, self.log)}. Convert it again."
            self.close()
            raise TristyleError(message)
        return data


# ---------------------------------------------------------------------------------------------------- in the child


def main(name: str, verb: str, request: str) -> None:
    """The child: `check`, `convert` or `run` by the module stages.export.<name>. Answers go to what was stdout.

    Args:
        name: of the runtime.
        verb: what to do.
        request: JSON; its keys depend on the verb.
    """
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the libraries print belongs to the log
    asked = json.loads(request)
    if verb == "check":
        channel.write(json.dumps(_check(**asked)).encode())
    elif verb == "convert":
        module = importlib.import_module(f"stages.export.{name}")
        source = ConversionSource.from_json(asked["source"])
        module.convert(source, asked["precision"], Path(asked["folder"]), asked["options"])
        channel.write(b"{}")
    else:
        _serve(importlib.import_module(f"stages.export.{name}"), asked, sys.stdin.buffer, channel)
    channel.flush()


def _check(modules: list[str], packages: list[str]) -> dict[str, str]:
    """Versions, or what is missing."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken library raises anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return {"missing": f"{name.split('.')[0]} cannot be imported ({reason})"}
    try:
        return {name: importlib.metadata.version(name) for name in packages}
    except importlib.metadata.PackageNotFoundError as error:
        return {"missing": f"{error.name} is not installed"}


def _serve(module: Any, asked: dict[str, Any], requests: IO[bytes], channel: IO[bytes]) -> None:
    """Open the model and answer calls until the parent closes the pipe."""

    def answer(make: Callable[[], tuple[dict[str, Any], Sequence[np.ndarray]]]) -> None:
        try:
            values, arrays = make()
        except Exception as error:
            values, arrays = {"error": (str(error).splitlines() or [type(error).__name__])[0]}, ()
        for data in (json.dumps(values).encode(), *map(_array_bytes, arrays)):
            _write(channel, data)

    def start() -> tuple[dict[str, Any], Sequence[np.ndarray]]:
        opened.append(module.load(Path(asked["path"]), signature_from_json(asked["signature"]), asked["threads"]))
        return {}, ()

    def work(repeats: int, frames: list[bytes]) -> tuple[dict[str, Any], Sequence[np.ndarray]]:
        inputs = [_read_array(frame) for frame in frames]
        if repeats:
            return {"times": timed(lambda: opened[0](*inputs), repeats)}, ()
        found = opened[0](*inputs)
        return {"outputs": len(found)}, found

    # An error is an answer too: the child lives on and the next call may succeed.
    opened: list[Call] = []
    answer(start)
    while (data := _read(requests)) is not None:
        head = json.loads(data)
        frames = [frame for frame in (_read(requests) for _ in range(head["inputs"])) if frame is not None]
        if len(frames) < head["inputs"]:
            return  # the parent is gone
        answer(partial(work, head["repeats"], frames))


# ---------------------------------------------------------------------------------------------------- both sides


def _write(stream: IO[bytes], data: bytes) -> None:
    """Send a frame."""
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """A frame; None at the end of the stream or in the midst of a frame."""
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    data = stream.read(size) if len(head) == 8 else b""
    return data if len(head) == 8 and len(data) == size else None


def _array_bytes(array: np.ndarray) -> bytes:
    """An array as .npy, float32."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return buffer.getvalue()


def _read_array(data: bytes) -> np.ndarray:
    """The array of an .npy."""
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _findable(module: str) -> bool:
    """Whether this interpreter has a module, without importing it."""
    try:
        return importlib.util.find_spec(module.split(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _environment() -> dict[str, str]:
    """The child's variables: no network for libraries that would ask a model hub, no chatter, no spinning threads."""
    # OpenMP threads that spin while they wait for one without a core made 170 ms of ncnn's 7 on a busy machine.
    patient = {"OMP_WAIT_POLICY": "PASSIVE"}
    return patient | os.environ | {"HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder on the disk of `out`, removed with all that a converter leaves in it."""
    base = out / SCRATCH
    base.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=base, prefix="convert-") as folder:
            yield Path(folder).absolute()
    finally:
        with suppress(OSError):
            base.rmdir()  # fails, as it should, where something else lies there


def _end(status: int, log: IO[bytes]) -> str:
    """How a child ended and its last line: `ended with SIGSEGV (Invalid tensor)`."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "it printed nothing"
    try:
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
    except ValueError:
        how = f"signal {-status}"
    return f"ended with {how} ({last})"


def _stop(child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Close the pipes and wait; a child that does not end by itself is killed."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    log.close()
