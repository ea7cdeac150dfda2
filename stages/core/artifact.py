"""Sealed directories: the only thing that one stage hands to the next.

A stage writes its files in place; `manifest.json` comes last and atomically, so a folder without one is unfinished.
The manifest names every file with size and SHA-256; its `digest` is a hash over those, and opening checks them all.
The folder's name is a `key` over the resolved config and the digests of the inputs: a changed setting is a new place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.files import Kinds, read_json, read_jsonl, sha256_file, write_json
from stages.core.settings import TristyleError
from stages.core.walk import below, ignored, text_of
from stages.core.workers import in_order

SCHEMA = 2  # 1: names of settings before RENAMED_KEYS (stages/pipeline/renamed.py)
KINDS = ("data", "style", "pair", "student", "export")
SCRATCH = ".scratch"  # checkpoints; not sealed, removed when the stage is done
LOCK = ".lock"
# What is observed while an artifact is made, such as times: sealed, too, but no part of its digest.
PREVIEW = "preview"
OBSERVED = {"export": ("card.json", "records.jsonl")}
SOURCES = "sources.csv"
SAID = {"licence": "licence", "licence_class": "licence_class", "sources": "source"}  # of a model -> of a picture
LONGEST_SAID = 4096  # letters
PICTURES = "pictures.json"  # in a student that learnt from other pictures than its data set's: what is said of them
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".apng", ".jpe", ".jfif", ".dib")
STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")


class ArtifactError(TristyleError):
    """A sealed directory that is missing, unfinished or changed since it was sealed."""


@dataclass(frozen=True)
class Artifact:
    """A sealed directory: `path` and its `manifest`."""

    path: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return str(self.manifest["kind"])

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the names and hashes of all files."""
        return str(self.manifest["digest"])

    @property
    def config(self) -> dict[str, Any]:
        """The stage's resolved config."""
        return dict(self.manifest["config"])

    @property
    def metrics(self) -> dict[str, float]:
        """The stage's own measures."""
        return dict(self.manifest["metrics"])

    def records(self) -> list[dict[str, Any]]:
        """The lines of records.jsonl; [] where the kind has none."""
        return read_jsonl(self.path / "records.jsonl")


def said_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What a data set's records say of their pictures: every `licence`, `licence_class` and `source`, sorted."""
    return {key: sorted({str(row.get(key) or "unknown") for row in rows}) for key in SAID.values()}


def provenance(data: Artifact, further: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """What a model file says of the pictures that it was trained on: their licences, sources, and the data's digest.

    Args:
        data: the pictures.
        further: of others, as `said_of` says it.
    """
    said, more = said_of(data.records()), further or {}
    joined = {name: sorted({*said[key], *more.get(key, ())}) for name, key in SAID.items()}
    return {name: ", ".join(values)[:LONGEST_SAID] for name, values in joined.items()} | {"data": data.digest}


def hash_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_path(path: Path) -> str:
    """Digest of a file, or of all files below a folder (relative names and contents), see `below`."""
    return sha256_file(path) if path.is_file() else _hash_files(path, below(path).files)


def hash_pictures(path: Path, places: Sequence[str] | None = None) -> str:
    """Digest of the pictures below a folder and of what is said of them; nothing else there changes it.

    Args:
        path: the folder.
        places: folders in it that count; None for all.
    """

    def counts(file: Path, name: str) -> bool:
        if name.lower() == SOURCES:
            return True
        place = name.partition("/")[0]
        return (places is None or "/" in name and place in places) and may_be_picture(file)

    return _hash_files(path, [(file, name) for file, name in below(path).files if counts(file, name)])


def may_be_picture(file: Path) -> bool:
    """Whether a file has a picture's suffix, or begins as one."""
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        if not file.is_file():
            return False
        with open(file, "rb") as opened:
            return opened.read(12).startswith(STARTS)
    except OSError:
        return True  # its reader says what is wrong with it


def _hash_files(path: Path, found: Sequence[tuple[Path, str]]) -> str:
    """Digest of names, as text, and contents. Pipes and dangling links are not files."""
    files = sorted((Path(text_of(name)), file) for file, name in found if file.is_file())
    hashes = _each(_sha256_if_readable, [file for _, file in files])
    return hash_json([[str(name), value] for (name, _), value in zip(files, hashes, strict=True)])


def _each(function: Callable[[Path], Any], files: Sequence[Path]) -> list[Any]:
    """The function of every file, in threads that are handed several at a time: most files are small."""
    parts = [files[start : start + 64] for start in range(0, len(files), 64)]
    found = in_order(lambda part: [function(file) for file in part], parts, 4)
    return [value for part in found for value in part]


def _sha256_if_readable(path: Path) -> str | None:
    """None for a file that may not be read, or is gone since it was listed: whoever needs it says so."""
    try:
        return sha256_file(path)
    except OSError:
        return None


def artifact_key(kind: str, config: dict[str, Any], inputs: dict[str, str], files: dict[str, str]) -> str:
    """Sixteen hex digits over everything that decides an artifact's content."""
    return hash_json({"schema": SCHEMA, "kind": kind, "config": config, "inputs": inputs, "files": files})[:16]


def _listing(path: Path) -> list[Path]:
    """Every file of the artifact but hidden ones and the manifest itself, sorted by name."""
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not ignored(name))
        found += [Path(folder, name) for name in names if not ignored(name)]
    return sorted(file for file in found if file != path / "manifest.json")


def _hashes(path: Path, files: list[Path]) -> dict[str, dict[str, Any]]:
    names = [os.path.relpath(file, path) for file in files]
    found = _each(lambda file: {"bytes": file.stat().st_size, "sha256": sha256_file(file)}, files)
    return dict(zip(names, found, strict=True))


def seal(
    path: Path,
    kind: str,
    *,
    config: dict[str, Any],
    inputs: dict[str, Artifact],
    metrics: dict[str, float],
    code: dict[str, Any] | None = None,
    cost: dict[str, float] | None = None,
) -> Artifact:
    """Hash all files under `path`, write the manifest, remove the scratch folder, return the artifact."""
    sweep(path)
    found = _hashes(path, _listing(path))
    seen = {name: entry for name, entry in found.items() if _observed(name, kind)}
    files = {name: entry for name, entry in found.items() if name not in seen}
    manifest = {
        "schema": SCHEMA,
        "kind": kind,
        "digest": hash_json({name: entry["sha256"] for name, entry in files.items()}),
        "config": config,
        "inputs": {
            name: {"path": os.path.relpath(item.path, path), "digest": item.digest} for name, item in inputs.items()
        },
        "metrics": metrics,
        "code": code or {},
        "cost": cost or {},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": files,
        "observed": seen,
    }

    # The manifest comes last: a folder without one is unfinished.
    write_json(path / "manifest.json", manifest)
    shutil.rmtree(path / SCRATCH, ignore_errors=True)
    return Artifact(path, manifest)


def _observed(name: str, kind: str) -> bool:
    return Path(name).parts[0] == PREVIEW or name in OBSERVED.get(kind, ())


def sweep(path: Path, finished: bool = False) -> None:
    """Remove what killed writers left in a folder that nobody else writes now.

    Args:
        path: the folder, locked.
        finished: it holds a sealed artifact, so that its scratch folder goes, too.
    """
    for file in path.rglob(".*.tmp"):
        with suppress(OSError):
            file.unlink()
    if finished:
        shutil.rmtree(path / SCRATCH, ignore_errors=True)


def open_artifact(path: Path | str, kind: str, verify: bool = True) -> Artifact:
    """Open a sealed directory.

    Args:
        path: the artifact's folder.
        kind: what it must be, one of KINDS.
        verify: hash every file and compare; False trusts the manifest.

    Raises:
        ArtifactError: no manifest, another kind or schema, or a file missing or changed.
    """
    path = Path(path)
    remedy = f"Move {path} away and run stage={kind} again"

    # A manifest that can be read, of this kind and schema.
    try:
        manifest = read_json(path / "manifest.json", {"kind": str, "schema": int}, f"{remedy}.")
        found, schema = manifest["kind"], manifest["schema"]
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no finished {kind} artifact (manifest.json is missing). Run stage={kind} first."
        ) from None
    except TristyleError as error:
        raise ArtifactError(str(error)) from None
    if found != kind:
        raise ArtifactError(
            f"{path}: holds a {found} artifact where {kind} is needed. Name a folder made by stage={kind}."
        )
    if schema > SCHEMA:
        raise ArtifactError(
            f"{path}: an artifact of schema {schema}, made by a newer tristyle; this version reads {SCHEMA}. Keep it, "
            "and install the newer version."
        )
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path}: an artifact of schema {schema}, of which settings had other names; this version reads {SCHEMA}. "
            f"{remedy}."
        )

    # Every file as it was sealed, and no other beside them.
    made = _checked(manifest, path, f"{remedy}.")
    files = made | manifest.get("observed", {})
    if verify:
        for name in files:
            if not (path / name).is_file():
                raise ArtifactError(f"{path / name}: missing since the artifact was sealed. {remedy}.")
        actual = _hashes(path, [path / name for name in files])
        for name, entry in files.items():
            if actual[name] != entry:
                raise ArtifactError(f"{path / name}: changed since the artifact was sealed. {remedy}.")
        known = {path / name for name in files}
        if added := [file for file in _listing(path) if file not in known]:
            raise ArtifactError(f"{added[0]}: added since the artifact was sealed. Move it elsewhere.")
        if hash_json({name: entry["sha256"] for name, entry in made.items()}) != manifest["digest"]:
            raise ArtifactError(f"{path / 'manifest.json'}: its digest does not fit its files. {remedy}.")
    return Artifact(path, manifest)


def _checked(manifest: dict[str, Any], path: Path, remedy: str) -> dict[str, dict[str, Any]]:
    """The files of a manifest, after a look at the shape of all that is asked of it."""
    need: dict[str, Kinds] = {"digest": str, "config": dict, "metrics": dict, "inputs": dict, "files": dict}
    wrong = [key for key, kinds in need.items() if not isinstance(manifest.get(key), kinds)]
    if not isinstance(manifest.get("observed", {}), dict):
        wrong.append("observed")
    files: dict[str, dict[str, Any]] = manifest["files"] if not wrong else {}
    every = files | manifest.get("observed", {}) if not wrong else {}
    inside = all(not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name for name in every)
    whole = all(isinstance(entry, dict) and isinstance(entry.get("sha256"), str) for entry in every.values())
    if wrong or not inside or not whole:
        raise ArtifactError(f"{path / 'manifest.json'}: damaged ({wrong[0] if wrong else 'files'!r}). {remedy}")
    return files


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold a folder for one living process; the system frees the lock when the process ends, however it ends.

    Args:
        path: the folder; made if it is not there.
        shared: hold it beside others that share it; whoever wants it alone has to wait for all of them.

    Raises:
        ArtifactError: another living process holds it, or the place is not a folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / LOCK, "a+")  # noqa: SIM115 - held for the body of the with
    except (FileExistsError, NotADirectoryError):
        raise ArtifactError(
            f"{path}: is a file where a folder is needed. Move it, or set out=<another folder>."
        ) from None
    except PermissionError:
        raise ArtifactError(f"{path}: not writable. Change its permissions, or set out=<another folder>.") from None

    # The system drops the lock with the process, so that a killed run blocks nobody.
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise ArtifactError(
                f"{path}: in use by process {owner}. Wait for it, or stop it, then run again."
            ) from None
        try:
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        except OSError as error:
            error.filename = str(path)
            raise
        yield
