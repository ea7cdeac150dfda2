"""The page that runs models in a browser: its files, and what they become when models are put beside them.

Plain files without a build step: index.html, style.css, ES modules, one rendered picture, and ONNX Runtime Web in
vendor/ (three files of one release, gzipped; NOTICE.txt names it). cascade.xml, by which models of one size find faces,
is the file that scikit-image ships. `stylize serve` sends them, `export=web` and `export=editor` write them.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.core.files import write_bytes
from stages.core.settings import TristyleError

CASCADE = "lbpcascade_frontalface_opencv.xml"  # in scikit-image's folder data/
FOLDER = Path(__file__).resolve().parent
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".xml": "text/xml",
    ".wasm": "application/wasm",
    ".jpg": "image/jpeg",
    ".txt": "text/plain; charset=utf-8",
    ".onnx": "application/octet-stream",
}
# As in index.html; `stylize serve` sends it as a header, too, where it also holds for workers and error pages.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'"
)
RUNTIME = "onnxruntime-web 1.30.0"
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}  # with these a browser shares memory between threads; without them the page works on one


@dataclass(frozen=True)
class Model:
    """One student or editor in the page's chooser.

    Attributes:
        path: its ONNX file.
        name: what the chooser shows.
        size: side in px it was trained at.
        style: name of its style, "" when it is not known.
        fixed: it takes squares of that size only.
        step: px; the sides of its pictures are multiples of it.
        faces: ONNX file of its generator alone, which draws faces from scratch; None where there is none.
        attributes: of a face that it edits, in the order of its vector; none where it is no editor.
        regions: of a face, likewise.
    """

    path: Path
    name: str
    size: int
    style: str = ""
    fixed: bool = False
    step: int = 8
    faces: Path | None = None
    attributes: Sequence[str] = ()
    regions: Sequence[str] = ()


@dataclass(frozen=True)
class File:
    """One file of the site: its bytes as they are kept, their MIME type, and whether they are gzipped."""

    data: bytes
    kind: str
    packed: bool = False

    def unpacked(self) -> bytes:
        """The bytes that a browser gets in the end; unpacked once, however many ask."""
        return self._whole

    @cached_property
    def _whole(self) -> bytes:
        return gzip.decompress(self.data) if self.packed else self.data


def site(models: Sequence[Model]) -> dict[str, File]:
    """Every file of the page for these models, by its address below the page's own; "index.html" is the page.

    A server looks addresses up here and never touches a path, so nothing else can be requested.
    """
    # The page's own files; what is kept gzipped is known by its plain name.
    files = {}
    for path in sorted(FOLDER.rglob("*")):
        name = path.relative_to(FOLDER).as_posix()
        packed = name.endswith(".gz")
        name = name.removesuffix(".gz")
        if path.is_file() and Path(name).suffix in KINDS:
            files[name] = File(path.read_bytes(), KINDS[Path(name).suffix], packed)

    # Models of one size need faces. scikit-image's file is found without the seconds that importing takes.
    if any(model.fixed for model in models):
        installed = importlib.util.find_spec("skimage")
        cascade = Path(str(installed and installed.origin)).parent / "data" / CASCADE
        if not cascade.is_file():
            raise TristyleError(f"{cascade}: not there, and the page finds faces by it. Run: pip install scikit-image")
        files["cascade.xml"] = File(cascade.read_bytes(), KINDS[".xml"])

    # The models, addressed by content: two files named student.onnx do not clash.
    entries = []
    for model in models:
        entry: dict[str, Any] = {"name": model.name, "style": model.style, "size": model.size, "step": model.step}
        networks = {"file": model.path} | ({"faces": model.faces} if model.faces else {})
        for key, place in networks.items():
            data = place.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            entry[key] = f"models/{digest[:12]}.onnx"
            files[entry[key]] = File(data, KINDS[".onnx"])
            entry |= {"bytes": len(data), "sha256": digest} if key == "file" else {"faces_sha256": digest}
        if model.attributes:
            entry |= {"attributes": list(model.attributes), "regions": list(model.regions)}
        entries.append(entry | ({"fixed": True} if model.fixed else {}))

    listed = json.dumps({"runtime": RUNTIME, "models": entries}, indent=1) + "\n"
    files["models.json"] = File(listed.encode(), KINDS[".json"])
    return files


def write_site(folder: Path, models: Sequence[Model]) -> None:
    """Write the page for these models into `folder`, for any static host: everything unpacked.

    `_headers` asks the hosts that read such a file for the isolation headers; others serve the page on one thread.
    """
    for name, file in site(models).items():
        write_bytes(folder / name, file.unpacked())
    rules = "".join(f"  {name}: {value}\n" for name, value in ISOLATION.items())
    write_bytes(folder / "_headers", f"/*\n{rules}".encode())
