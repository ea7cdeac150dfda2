"""`stylize serve`: a page on this machine that runs the student in the browser, on the camera or on pictures.

The server answers this machine only and knows a fixed list of addresses (`stages.web.site`). For a phone, forward the
port (`adb reverse tcp:8000 tcp:8000`) or put what `export=web` writes on any host with https: browsers give the camera
to https pages and to localhost alone.
"""

from __future__ import annotations

import argparse
import errno
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from stages.core.files import read_json
from stages.core.settings import TristyleError
from stages.web import ISOLATION, POLICY, File, Model, site

HOST = "127.0.0.1"
PORT = 8000
SIZE = 256  # px, for a model that does not note what it was trained at
PATIENCE = 10.0  # seconds for a request to come, and for a browser to take a part of an answer
MOST_THREADS = 64
PRECISIONS = ("fp16", "int8")  # as in the file names of an export; float32 files have none in theirs


def arguments() -> argparse.ArgumentParser:
    """The parser of `stylize serve`. Nothing heavy is imported to answer --help."""
    parser = argparse.ArgumentParser(
        prog="stylize serve", description="Serve a page, to this machine only, that stylises the camera or pictures."
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0 takes any free one")
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        metavar="MODEL",
        help=".onnx files, folders of exports, faces, rendered; default: the last in runs/export, else both of "
        "these; and the last editor",
    )
    return parser


def page_models(given: list[Path] | None) -> list[Model]:
    """The models for the page's chooser, each opened once to see that it can be.

    A model's name is made of style, tier and precision, as far as they are known. Where two are equal, folder and file
    are added.

    Args:
        given: as `--model`; the folder of an export stands for every precision in it. None: the last export in ./runs,
            else all shipped models; and the last editor in ./runs.

    Raises:
        TristyleError: a file is missing, or neither a student nor an editor; the line names it.
    """
    from stages.apply.edit import editor_path, last_editor
    from stages.apply.model import EDITOR, SHIPPED, model_path

    # Which files are meant.
    paths: list[Path] = []
    wanted: list[Path | None] = [*given] if given else [None]
    if not given and model_path(None) == model_path(Path(next(iter(SHIPPED)))):
        wanted = [Path(name) for name in SHIPPED]
    for item in wanted:
        first = editor_path(item) if item is not None and (item / EDITOR).is_file() else model_path(item)
        others = sorted(first.parent.glob("student.*.onnx")) if item is not None and item.is_dir() else []
        paths += [path for path in [first, *others] if path not in paths]

    models = [_described(path) for path in paths]
    editor = None if given else last_editor()
    if editor:
        try:
            models.append(_described(editor_path(editor)))
        except TristyleError as error:  # nobody asked for it
            print(f"stylize serve: left out: {error}", file=sys.stderr)
    names = [model.name for model in models]
    ends = [f" ({model.path.parent.name}/{model.path.stem})" if names.count(model.name) > 1 else "" for model in models]
    return [replace(model, name=model.name + end) for model, end in zip(models, ends, strict=True)]


def _described(path: Path) -> Model:
    """A model with the name and size that its metadata and its card give."""
    from stages.apply.model import (
        check_photo_model,
        draws_faces_only,
        editor_names,
        faces_beside,
        fixed_side,
        is_editor,
        open_session,
        step_of,
    )

    session = open_session(path)
    if is_editor(session):
        attributes, regions = editor_names(session)
        return Model(path, "editor", fixed_side(session) or SIZE, fixed=True, attributes=attributes, regions=regions)
    check_photo_model(session, path)
    notes = session.get_modelmeta().custom_metadata_map
    size, style = notes.get("tristyle.size", ""), notes.get("tristyle.style", "")
    precision = next((name for name in PRECISIONS if f".{name}." in path.name), "")
    name = ", ".join(part for part in (style, _tier(path), precision) if part)
    side, faces = fixed_side(session), faces_beside(path) if draws_faces_only(session) else None
    taken = side or (int(size) if size.isdigit() else SIZE)
    return Model(path, name or path.stem, taken, style, side is not None, step_of(session), faces)


def _tier(path: Path) -> str:
    """The tier that the card beside a model names; "" where there is no such card."""
    for card in (path.with_suffix(".json"), path.parent / "card.json"):
        with suppress(OSError, TristyleError):
            return str(read_json(card, {"tier": str})["tier"])
    return ""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD from `files`, to pages of this server alone."""

    protocol_version = "HTTP/1.1"
    server_version = "tristyle"
    sys_version = ""
    timeout = PATIENCE
    server: _Server
    files: dict[str, File]

    def handle_one_request(self) -> None:
        """One request, all of which has to come within PATIENCE."""
        self.server.waiting[self.connection] = time.monotonic()
        super().handle_one_request()

    def do_GET(self) -> None:
        """One file of the site, gzipped where it is kept so and the browser takes it; else 404."""
        self.server.waiting.pop(self.connection, None)
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # what follows is no request

        # Who may ask, then what for.
        if refusal := self._refusal():
            self.send_error(refusal)
            return
        try:
            name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        file = self.files.get(name)
        if file is None:
            self._answer(HTTPStatus.NOT_FOUND, File(b"Not here. The page is at /\n", "text/plain; charset=utf-8"))
        else:
            self._answer(HTTPStatus.OK, file)

    do_HEAD = do_GET

    def _refusal(self) -> HTTPStatus | None:
        """Why a request is not answered: asked by another name (DNS rebinding), or by another site's page."""
        port = self.server.server_address[1]
        names = {f"{name}:{port}" for name in (HOST, "localhost")} | ({HOST, "localhost"} if port == 80 else set())
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].strip().lower() not in names:
            return HTTPStatus.MISDIRECTED_REQUEST
        origins = self.headers.get_all("Origin") or []
        if any(origin.strip().lower() not in {f"http://{name}" for name in names} for origin in origins):
            return HTTPStatus.FORBIDDEN
        return None

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A plain line in place of a page, with all headers."""
        self.close_connection = True
        if not hasattr(self, "headers"):  # the request's first line was not one
            self.headers = Message()
            self.request_version = self.protocol_version
        phrase = HTTPStatus(code).phrase
        self._answer(HTTPStatus(code), File(f"{phrase}. The page is at /\n".encode(), "text/plain; charset=utf-8"))

    def _answer(self, status: HTTPStatus, file: File) -> None:
        """Send a file with all headers; gzipped where it is kept so and the browser takes it."""
        packed = file.packed and "gzip" in self.headers.get("Accept-Encoding", "")
        data = file.data if packed else file.unpacked()
        self.send_response(status)
        headers = {"Content-Type": file.kind, "Content-Length": str(len(data)), "Cache-Control": "no-cache"}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", **ISOLATION}
        headers |= {"Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'", "X-Frame-Options": "DENY"}
        if self.close_connection:
            headers["Connection"] = "close"
        if file.packed:
            headers["Vary"] = "Accept-Encoding"
        if packed:
            headers["Content-Encoding"] = "gzip"

        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a terminal full of requests does not help."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # on Windows that would share a port with another program
    request_queue_size = 2 * MOST_THREADS  # who finds the queue full tries again after a second

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting: dict[socket.socket, float] = {}  # connection -> since when it owes a request
        self._free = threading.BoundedSemaphore(MOST_THREADS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; where there are MOST_THREADS, hang up."""
        if not self._free.acquire(blocking=False):
            self.service_actions()
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As inherited; the place is free again at the end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.waiting.pop(request, None)
            self._free.release()

    def service_actions(self) -> None:
        """Hang up on who has owed a request for longer than PATIENCE, however slowly its bytes come."""
        late = time.monotonic() - PATIENCE
        for connection, since in list(self.waiting.items()):
            if since < late:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over a browser that hangs up; all else is one line."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"stylize serve: a request failed ({type(error).__name__}). The page goes on.", file=sys.stderr)


def open_server(port: int, models: list[Model]) -> ThreadingHTTPServer:
    """Open a server for the page, to this machine only; `serve_forever` starts it.

    Args:
        port: 0: any free one.
        models: of the page's chooser.

    Raises:
        TristyleError: the port is taken or not allowed.
    """
    handler = type("Handler", (_Handler,), {"files": site(models)})
    try:
        return _Server((HOST, port), handler)
    except OverflowError:
        raise TristyleError(f"--port {port}: out of range. Give 0 to 65535.") from None
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise TristyleError(f"--port {port}: {reason}. Choose another one, or 0 for any free one.") from None


def main(argv: list[str] | None = None) -> None:
    """`stylize serve`. Mistakes end with one line on stderr and exit code 2; Ctrl-C ends it."""
    options = arguments().parse_args(argv)
    try:
        server = open_server(options.port, page_models(options.model))
    except TristyleError as error:
        print(f"stylize serve: {error}", file=sys.stderr)
        raise SystemExit(2) from None

    print(f"http://{HOST}:{server.server_address[1]}/   (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
