"""`stylize serve`: its addresses and headers, nothing beside them, and one line for every mistake."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from stages.apply import serve
from stages.web import FOLDER, ISOLATION, RUNTIME, Model, site, write_site

MODEL = Path("data/student.onnx")


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    return root / MODEL


@pytest.fixture(scope="module")
def port(model: Path) -> Iterator[int]:
    server = serve.open_server(0, serve.page_models([model]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(port: int, address: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, address, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css?v=1", "text/css"),
        ("/models.json", "application/json"),
        ("/sample.jpg", "image/jpeg"),
        ("/vendor/ort.wasm.min.mjs", "text/javascript"),
        ("/vendor/ort-wasm-simd-threaded.wasm", "application/wasm"),
        ("/vendor/LICENSE.txt", "text/plain"),
    ],
)
def test_every_file_has_its_type_and_the_isolation_headers(port: int, address: str, kind: str) -> None:
    answer, data = ask(port, address)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith(kind)
    assert {name: answer.headers[name] for name in ISOLATION} == ISOLATION
    assert answer.headers["Content-Encoding"] is None and int(answer.headers["Content-Length"]) == len(data) > 0
    empty, nothing = ask(port, address, "HEAD")
    assert empty.status == 200 and nothing == b"" and empty.headers["Content-Length"] == str(len(data))


def test_the_runtime_is_the_release_that_its_notice_names(port: int) -> None:
    notice = (FOLDER / "vendor" / "NOTICE.txt").read_text()
    assert RUNTIME.replace("-web", "-web ").split()[-1] in notice
    named = re.findall(r"^([0-9a-f]{64})  (\S+)$", notice, re.MULTILINE)
    assert len(named) == 3
    for digest, name in named:
        plain, data = ask(port, f"/vendor/{name}")
        packed, small = ask(port, f"/vendor/{name}", Accept_Encoding="gzip, br")
        assert hashlib.sha256(data).hexdigest() == digest
        assert packed.headers["Content-Encoding"] == "gzip" and gzip.decompress(small) == data
        assert plain.headers["Vary"] == "Accept-Encoding"
    assert "MIT License" in (FOLDER / "vendor" / "LICENSE.txt").read_text()


@pytest.mark.parametrize(
    "address",
    ["/nothing", "/../serve.py", "/..%2f..%2fpyproject.toml", "//etc/passwd", "/vendor/../__init__.py", "/__init__.py",
     "/vendor/ort.wasm.min.mjs.gz", "/%00", "/models/", "/models/../../data/student.onnx"],
)  # fmt: skip
def test_nothing_else_is_there(port: int, address: str) -> None:
    answer, data = ask(port, address)
    assert answer.status == 404 and b"The page is at /" in data


def test_only_reading_is_answered(port: int) -> None:
    assert ask(port, "/", "POST", Content_Length="0")[0].status == 501


def test_models_are_listed_with_size_style_and_digest(port: int, model: Path) -> None:
    listed = json.loads(ask(port, "/models.json")[1])
    (entry,) = listed["models"]
    data = ask(port, f"/{entry['file']}")[1]
    assert data == model.read_bytes() and entry["sha256"] == hashlib.sha256(data).hexdigest()
    card = json.loads(model.with_suffix(".json").read_text())
    sides = card["inputs"][0]["sides"]
    assert entry["style"] == card["style"] and entry["size"] == sides["trained_at"]
    assert entry["step"] == sides["multiple_of"]


def test_several_models_have_names_of_their_own(model: Path, tmp_path: Path) -> None:
    for name in ("student.onnx", "student.int8.onnx"):
        shutil.copy(model, tmp_path / name)
    (tmp_path / "card.json").write_text(json.dumps({"tier": "wee"}))
    models = serve.page_models([tmp_path, model, tmp_path])
    assert [entry.path for entry in models] == [tmp_path / "student.onnx", tmp_path / "student.int8.onnx", model]
    names = [entry.name for entry in models]
    style = json.loads(model.with_suffix(".json").read_text())["style"]
    assert names[:2] == [f"{style}, wee", f"{style}, wee, int8"] and len(set(names)) == 3
    shutil.copy(model, tmp_path / "copy.onnx")
    twins = [entry.name for entry in serve.page_models([model, tmp_path / "student.onnx", tmp_path / "copy.onnx"])]
    assert len(set(twins)) == 3


def test_the_written_folder_is_the_served_page_unpacked(model: Path, tmp_path: Path) -> None:
    models = [Model(model, "comic", 64, "comic")]
    write_site(tmp_path, models)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {*site(models), "_headers"}
    assert (tmp_path / "vendor/ort-wasm-simd-threaded.wasm").read_bytes()[:4] == b"\0asm"
    assert "Cross-Origin-Opener-Policy: same-origin" in (tmp_path / "_headers").read_text()


def test_every_file_that_the_page_names_is_there() -> None:
    files = site([])
    for name, file in files.items():
        if not name.startswith("vendor/") and name.endswith((".html", ".js")):
            text = file.unpacked().decode()
            for found in re.findall(r"""(?:from|href=|src=|src = |URL\()\s*['"](?:\./)?([\w./-]+\.\w+)['"]""", text):
                assert found in files, f"{name} names {found}"
            assert not re.search(r"https?://(?!cv\.iptc\.org|iptc\.org|www\.w3\.org|ns\.)", text), (
                f"{name} names a host"
            )


def test_mistakes_are_one_line_with_exit_code_2(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        cases = [
            (["--port", number, "--model", str(model)], f"--port {number}: is taken"),
            (["--port", "70000", "--model", str(model)], "--port 70000"),
            (["--port", "0", "--model", str(tmp_path / "broken.onnx")], "broken.onnx"),
            (["--port", "0", "--model", str(model), str(tmp_path / "absent")], "absent"),
        ]
        for argv, named in cases:
            with pytest.raises(SystemExit) as stopped:
                serve.main(argv)
            error = capsys.readouterr().err
            assert stopped.value.code == 2 and named in error and error.count("\n") == 1, error


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom stages.apply import serve\n"
        "try:\n    serve.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(str({'torch', 'cv2', 'onnxruntime', 'PIL'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout and "--model" in done.stdout


def test_export_writes_the_page(tmp_path: Path, root: Path) -> None:
    pytest.importorskip("onnxscript")
    import numpy as np

    from stages.core.weights import save_network
    from stages.export.contract import ConversionSource, Signature
    from stages.export.web import Web
    from stages.networks.mobile import MobileStudent

    save_network(tmp_path / "student.safetensors", MobileStudent("nano"))
    np.savez(tmp_path / "calibration.npz", photo=np.zeros((1, 3, 64, 64), np.float32))
    paths = root / MODEL, tmp_path / "student.safetensors", tmp_path / "calibration.npz"
    signature = Signature.of(MobileStudent("nano"))
    source = ConversionSource(*paths, 64, signature, "comic")
    runtime = Web(precisions=["fp32"])
    runtime.check()
    folder = runtime.convert(source, "fp32", tmp_path)
    assert folder.name == "student.fp32.web" and (folder / "index.html").is_file()
    assert json.loads((folder / "models.json").read_text())["models"][0]["name"] == "comic, nano"
    run, photo = runtime.open(folder, signature, 1), np.zeros((1, 3, 64, 72), np.float32)
    output, alpha = run(photo)
    assert run.times([photo], 2) == []  # no browser's times
    assert output.shape == (1, 3, 64, 72) and alpha.shape == (1, 1, 64, 72)
