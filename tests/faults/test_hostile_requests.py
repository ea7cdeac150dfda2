"""`stylize serve` believes no other name, no other site's page, and no endless patience."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.apply import serve
from stages.web import FOLDER, POLICY, Model
from tests.tools.tiny_student import tiny_model


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("onnxruntime")
    model = tiny_model(tmp_path_factory.mktemp("m") / "m.onnx")
    server: Any = serve.open_server(0, [Model(model, "m", 64)])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(port: int, text: bytes, wait: float = 5) -> bytes:
    """Everything that the server answers to some bytes until it hangs up or is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        connection.sendall(text)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except OSError:
            pass
    return found


def get(port: int, *headers: str, path: str = "/models.json", wait: float = 5) -> bytes:
    lines = [f"GET {path} HTTP/1.1", *headers, "Connection: close", "", ""]
    return ask(port, "\r\n".join(lines).encode(), wait)


def test_the_right_names_are_answered(port: int) -> None:
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert get(port, f"Host: {name}").startswith(b"HTTP/1.1 200")
        assert get(port, f"Host: {name}", f"Origin: http://localhost:{port}").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:PORT", "",
        "127.0.0.1:PORT.evil.example", "0.0.0.0:PORT", "[::1]:PORT", "evil@127.0.0.1:PORT",
    ],
)  # fmt: skip
def test_another_name_is_misdirected(port: int, host: str) -> None:
    answer = get(port, f"Host: {host}".replace("PORT", str(port)))
    assert answer.startswith(b"HTTP/1.1 421") and b"models" not in answer.partition(b"\r\n\r\n")[2]


def test_no_name_and_two_names_are_misdirected(port: int) -> None:
    assert get(port).startswith(b"HTTP/1.1 421")
    assert get(port, f"Host: localhost:{port}", "Host: evil.example").startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost:PORT", "http://localhost", "file://"]
)
def test_another_sites_page_is_forbidden(port: int, origin: str) -> None:
    answer = get(port, f"Host: localhost:{port}", f"Origin: {origin}".replace("PORT", str(port)))
    assert answer.startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("path", ["/", "/nowhere", "/%", "//", "/app.js"])
def test_every_answer_has_the_policy(port: int, path: str) -> None:
    head = get(port, f"Host: localhost:{port}", path=path).partition(b"\r\n\r\n")[0].decode()
    assert f"Content-Security-Policy: {POLICY}; frame-ancestors 'none'" in head and "X-Frame-Options: DENY" in head


def test_the_header_says_what_the_page_says() -> None:
    text = (FOLDER / "index.html").read_text()
    assert re.search(r'Content-Security-Policy"\s+content="([^"]*)"', text)[1] == POLICY  # type: ignore[index]


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://[::1 HTTP/1.1", b"GET / HTTP/9.9", b"NONSENSE", b"\xff\xfe", b"POST / HTTP/1.1",
        b"GET " + b"/" * 70_000 + b" HTTP/1.1", b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000,
    ],
)  # fmt: skip
def test_nonsense_is_answered_in_a_line(port: int, line: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    answer = ask(port, line + f"\r\nHost: localhost:{port}\r\n\r\n".encode())
    assert re.match(rb"HTTP/1.[01] [45]", answer) and b"frame-ancestors" in answer
    assert "Traceback" not in capfd.readouterr().err


def test_a_body_is_not_the_next_request(port: int) -> None:
    body = f"GET /models.json HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"
    text = f"GET /nowhere HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    assert ask(port, text.encode()).count(b"HTTP/1.1 ") == 1


def test_slow_clients_are_hung_up_on_and_few(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PATIENCE", 0.5)
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.1\r\n")
    time.sleep(0.2)
    threads = [thread for thread in threading.enumerate() if "process_request" in thread.name]
    assert len(threads) <= serve.MOST_THREADS
    ended = time.monotonic() + 10
    answer = b""
    while not answer and time.monotonic() < ended:  # the first ones are cut off, and there is room again
        for connection in slow:
            try:
                connection.send(b"a")  # byte by byte: never idle, never done
            except OSError:
                pass
        answer = get(port, f"Host: localhost:{port}", wait=0.5)
        time.sleep(0.1)
    assert answer.startswith(b"HTTP/1.1 200")
    for connection in slow:
        connection.close()


def test_unpacked_bytes_are_kept_once(port: int) -> None:
    from stages.web import site

    files = [file for file in site([]).values() if file.packed]
    assert files and all(file.unpacked() is file.unpacked() for file in files)
    assert Path(FOLDER).is_dir()
