"""The page in a real browser, with a camera that plays a file: what it draws is what onnxruntime computes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

onnxruntime = pytest.importorskip("onnxruntime")

from stages import apply  # noqa: E402
from stages.apply import serve  # noqa: E402
from stages.apply.edit import Editor  # noqa: E402
from stages.apply.face_squares import Face  # noqa: E402
from stages.apply.heads import paint_heads  # noqa: E402
from stages.apply.model import open_model  # noqa: E402
from stages.core.files import sha256_file  # noqa: E402
from stages.core.images import write_image  # noqa: E402
from stages.web import write_site  # noqa: E402
from tests.tools.chromium import Chromium, find_chromium, write_camera  # noqa: E402
from tests.tools.portraits import portrait  # noqa: E402

pytestmark = [pytest.mark.all, pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")]

PERSON = 5_000_010
FLAT = (220, 140, 90)  # a colour that reaches the page exactly


def person(height: int, width: int) -> np.ndarray:
    """A portrait in the middle of a flat wall."""
    side = min(height, width)
    wall = np.full((height, width, 3), FLAT, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    picture = Image.fromarray(portrait(PERSON, min(side, 512)).image)
    wall[top : top + side, left : left + side] = np.asarray(picture.resize((side, side)))
    wall[: side // 4] = FLAT
    return wall


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    return root / "data" / "student.onnx"


@pytest.fixture(scope="module")
def session(model: Path) -> object:
    return apply.open_model(model)


@pytest.fixture(scope="module")
def trained(session) -> int:
    return int(session.get_modelmeta().custom_metadata_map["tristyle.size"])


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page as `stylize serve` serves it, with two models (the same weights twice)."""
    copy = tmp_path_factory.mktemp("models") / "copy.onnx"
    shutil.copy(model, copy)
    with running(serve.open_server(0, serve.page_models([model, copy]))) as url:
        yield url


class running:
    """A server in a thread for a block; its address."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    camera = write_camera(tmp_path_factory.mktemp("camera") / "camera.y4m", [person(240, 320)] * 4)
    with Chromium(camera) as opened:
        yield opened


@pytest.fixture
def page(browser: Chromium, address: str) -> Chromium:
    """The page, its sample stylised, nothing to complain about."""
    browser.viewport(1280, 800)
    open_page(browser, address)
    return browser


def open_page(browser: Chromium, address: str) -> None:
    browser.console.clear()
    browser.open(address)
    browser.until("message.hidden && numbers.textContent.includes('network')")
    assert not browser.console


def expected(session, photo: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of these pixels, float [H, W, 3] in 0..255."""
    values = (photo.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    output = session.run(None, {session.get_inputs()[0].name: values})[0][0].transpose(1, 2, 0)
    return np.clip((output + 1) * 127.5, 0, 255)


def both(browser: Chromium) -> tuple[np.ndarray, np.ndarray]:
    """Photo and result of one moment: both canvases are read in one go."""
    photo, styled = browser.pixels("photo", "styled")
    return photo, styled


def give(browser: Chromium, path: Path) -> None:
    """Choose a file, as a person does in the dialog."""
    document = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=document, selector="#open")["nodeId"]
    browser.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)


def downloaded(browser: Chromium, folder: Path, press: str) -> Path:
    """Press a button that saves a file; the file."""
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.run(f"document.getElementById('{press}').click()")
    end = time.monotonic() + 20
    while not (found := [path for path in folder.iterdir() if path.suffix in (".png", ".json")]):
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.05)
    return found[0]


def test_sides_are_multiples_of_what_the_network_takes(page: Chromium) -> None:
    shown = [
        page.run(f"import('./frame.js').then(({{ layout }}) => layout(1032, 768, 256, {whole}, {step}))")
        for whole, step in (("true", 8), ("true", 32), ("false", 32))
    ]
    assert [(place["width"], place["height"]) for place in shown] == [(344, 256), (352, 256), (256, 256)]


def test_the_camera_is_drawn_as_onnxruntime_computes_it(page: Chromium, session, trained: int) -> None:
    page.run("camera.click()")
    page.until("numbers.textContent.includes('frames/s')")
    for mirrored in (True, False):
        page.run(f"mirror.checked = {str(mirrored).lower()}")
        time.sleep(1)
        photo, styled = both(page)
        assert photo.shape == (trained, trained, 3)
        assert np.abs(photo[: trained // 8].astype(int) - FLAT).max() <= 1
        assert np.abs(styled - expected(session, photo)).max() <= 1
        assert np.abs(styled.astype(int) - photo).max() > 20  # it did paint something
        if mirrored:
            first = photo
    assert np.abs(first[:, ::-1].astype(int) - photo).mean() < 1
    page.run("framing.value = 'whole'")
    page.until(f"photo.height === {trained} && photo.width > {trained}")
    time.sleep(0.5)
    photo, styled = both(page)
    assert (
        photo.shape[0] == trained
        and photo.shape[1] % 8 == 0
        and photo.shape[1] / trained == pytest.approx(4 / 3, abs=0.07)
    )
    assert np.abs(styled - expected(session, photo)).max() <= 1
    assert page.run("crossOriginIsolated")
    threads = max(1, min(page.run("navigator.hardwareConcurrency") - 1, 4))  # one core is left to camera and page
    assert ("one thread" if threads == 1 else f"{threads} threads") in page.run("numbers.textContent")
    page.run("camera.click()")
    assert page.run("photoName.textContent") == "last frame" and not page.run("!!document.body.dataset.camera")


def test_a_picture_of_the_models_size_is_what_onnxruntime_computes(
    page: Chromium, session, trained: int, tmp_path: Path
) -> None:
    photo = person(trained, trained + 40)
    write_image(tmp_path / "small.png", photo)
    give(page, tmp_path / "small.png")
    page.until("photoName.textContent === 'small.png' && styled.width > styled.height")
    shown, styled = both(page)
    assert np.array_equal(shown, photo)
    assert np.abs(styled - expected(session, photo)).max() <= 1


def test_a_larger_picture_keeps_its_size_and_its_unpainted_detail(
    page: Chromium, session, trained: int, tmp_path: Path
) -> None:
    photo = person(4 * trained, 5 * trained)
    photo[:, : trained // 2] = np.random.default_rng(0).integers(0, 255, (4 * trained, trained // 2, 3))
    write_image(tmp_path / "large.png", photo)
    give(page, tmp_path / "large.png")
    page.until(f"styled.width === {5 * trained}")
    shown, styled = both(page)
    assert np.array_equal(shown, photo)
    reference = apply.stylize(session, photo).astype(int)
    assert np.abs(styled - reference).mean() < 0.3 * np.abs(photo - reference).mean()
    page.run("size.value = '256'; size.dispatchEvent(new Event('change'))")
    if trained < 256:
        page.until("numbers.textContent.startsWith('320 × 256 px')")


def test_what_is_saved_is_the_result_and_says_that_it_is_synthetic(page: Chromium, model: Path, tmp_path: Path) -> None:
    from stages.core.mark import read_mark, xmp

    _, styled = both(page)
    path = downloaded(page, tmp_path, "save")
    assert path.name.startswith("tristyle-")
    with Image.open(path) as image:
        image.load()  # checks every chunk's CRC
        assert np.array_equal(np.asarray(image.convert("RGB")), styled)
        assert image.info["XML:com.adobe.xmp"] == xmp(sha256_file(model)).decode()
    mark = read_mark(path)
    assert mark is not None and mark.synthetic and mark.version == f"sha256:{sha256_file(model)}"


def test_measuring_saves_every_models_figures(page: Chromium, model: Path, tmp_path: Path, trained: int) -> None:
    page.run("measuring.open = true; device.value = ' a test ' ; measure.click()")
    page.until("!report.disabled", 120)
    figures = json.loads(downloaded(page, tmp_path, "report").read_text())
    assert figures["kind"] == "tristyle measurement" and figures["runtime"].startswith("onnxruntime-web 1.")
    device = figures["device"]
    assert device["name"] == "a test" and device["cores"] == os.cpu_count() and device["isolated"] is True
    assert any("Chrom" in name for name in device["browser"])
    counts = sorted({1, min(2, os.cpu_count() or 1), min(8, os.cpu_count() or 1)})
    assert [row["threads"] for row in figures["models"]] == counts * 2
    for row in figures["models"]:
        assert row["size"] == trained and row["runs"] >= 50 and len(row["sha256"]) == 64
        for part in ("frame_to_drawn_ms", "network_ms"):
            assert 0 < row[part]["median"] <= row[part]["p95"]
        assert row["network_ms"]["median"] < row["frame_to_drawn_ms"]["median"]
    assert page.run("figures.tBodies[0].rows.length") == len(figures["models"])


def test_another_model_can_be_chosen(page: Chromium) -> None:
    assert page.run("[...model.options].length") == 2 and not page.run("modelField.hidden")
    page.run("model.value = 1; model.dispatchEvent(new Event('change'))")
    page.until("message.hidden && numbers.textContent.includes('network')")


def test_a_picture_that_lies_on_its_side_is_turned(page: Chromium, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90 degrees
    Image.fromarray(person(240, 320)).save(tmp_path / "turned.jpg", exif=exif)
    give(page, tmp_path / "turned.jpg")
    page.until("photoName.textContent === 'turned.jpg' && styled.width === 240 && styled.height === 320")


@pytest.mark.parametrize(("name", "remedy"), [("notes.txt", "Use a PNG"), ("huge.png", "Shrink it")])
def test_what_cannot_be_taken_is_named_with_the_remedy(page: Chromium, tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    Image.new("L", (8192, 8192)).save(tmp_path / "huge.png")
    give(page, tmp_path / name)
    text = page.until("message.classList.contains('bad') && message.textContent")
    assert name in text and remedy in text


def test_a_picture_can_be_dropped(page: Chromium) -> None:
    page.run("""(async () => {
        const data = new DataTransfer();
        data.items.add(new File([await (await fetch('sample.jpg')).blob()], 'dropped.jpg'));
        dispatchEvent(new DragEvent('dragover', { dataTransfer: data }));
        if (drop.hidden) throw new Error('nothing says that it may be dropped');
        dispatchEvent(new DragEvent('drop', { dataTransfer: data }));
    })()""")
    page.until("photoName.textContent === 'dropped.jpg' && drop.hidden")


@pytest.mark.parametrize(("width", "height"), [(320, 568), (390, 844), (768, 1024), (1280, 800)])
def test_nothing_sticks_out_and_everything_can_be_pressed(page: Chromium, width: int, height: int) -> None:
    page.viewport(width, height, phone=width < 700)
    page.run("measuring.open = true; document.body.dataset.camera = 'on'")
    assert page.run("document.documentElement.scrollWidth") <= width
    small = page.run(
        "[...document.querySelectorAll('button, .button, select, summary')].filter((element) => element.offsetParent)"
        ".filter((element) => element.getBoundingClientRect().height < 36).map((element) => element.textContent)"
    )
    assert small == []
    page.run("delete document.body.dataset.camera")


def test_the_page_can_send_nothing_elsewhere(page: Chromium) -> None:
    class Witness(BaseHTTPRequestHandler):
        asked: list[str] = []

        def do_GET(self) -> None:
            self.asked.append(self.path)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with running(HTTPServer(("127.0.0.1", 0), Witness)) as elsewhere:
        sent = f"fetch('{elsewhere}', {{ method: 'POST', body: 'x', mode: 'no-cors' }})"
        assert page.run(f"{sent}.then(() => 'sent', () => 'refused')") == "refused"
        image = f"Object.assign(new Image(), {{ onload: done, onerror: done, src: '{elsewhere}' }})"
        page.run(f"new Promise((done) => {image}).then(() => 0)")
        page.run(f"navigator.sendBeacon('{elsewhere}', 'x')")
        time.sleep(0.3)
    assert Witness.asked == []


@pytest.mark.parametrize(
    ("allow", "camera", "said"), [(False, True, "was not allowed"), (True, False, "No camera was found")]
)
def test_without_a_camera_a_sentence_says_what_to_do(
    address: str, tmp_path: Path, allow: bool, camera: bool, said: str
) -> None:
    film = write_camera(tmp_path / "camera.y4m", [person(64, 64)]) if camera else None
    with Chromium(film, allow) as browser:
        open_page(browser, address)
        browser.run("camera.click()")
        text = browser.until("message.classList.contains('bad') && message.textContent")
        assert said in text and "open a picture" in text


KEPT = """(() => {
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => (window.kept = await ask(wanted));
})()"""  # the page's camera, as `kept`


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NotReadableError", "Another program holds the camera. Close it"),
        ("NotAllowedError", "The camera was not allowed. Allow it"),
        ("AbortError", "The camera did not open (what broke). Try again"),
    ],
)
def test_a_camera_that_does_not_open_is_named_with_the_remedy(page: Chromium, name: str, said: str) -> None:
    page.run(f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('what broke', '{name}') }}")
    page.run("camera.click()")
    text = page.until("message.classList.contains('bad') && message.textContent")
    assert said in text and "open a picture" in text
    page.until("!camera.disabled && camera.textContent === 'Start camera' && !open.disabled")


def test_an_address_that_browsers_give_no_camera_says_where_it_works(page: Chromium) -> None:
    page.run("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.run("camera.click()")
    text = page.until("message.classList.contains('bad') && message.textContent")
    assert "https" in text and "Pictures work here" in text


def test_a_camera_pulled_out_leaves_its_last_frame_and_can_start_again(page: Chromium) -> None:
    page.run(KEPT)
    page.run("camera.click()")
    page.until("numbers.textContent.includes('frames/s')")
    page.run("kept.getVideoTracks()[0].dispatchEvent(new Event('ended'))")
    assert "The camera stopped." in page.until("message.classList.contains('bad') && message.textContent")
    assert page.run("photoName.textContent") == "last frame"
    page.run("camera.click()")
    page.until("message.hidden && numbers.textContent.includes('frames/s')")
    page.run("kept.getVideoTracks()[0].dispatchEvent(new Event('mute'))")
    assert "gives no picture" in page.until("message.classList.contains('bad') && message.textContent")
    page.run("kept.getVideoTracks()[0].dispatchEvent(new Event('unmute'))")
    page.until("message.hidden")
    page.run("camera.click()")


def test_a_camera_that_cannot_be_played_is_closed_again(page: Chromium) -> None:
    page.run(KEPT)
    page.run("HTMLMediaElement.prototype.play = () => Promise.reject(new DOMException('broken', 'NotSupportedError'))")
    page.run("camera.click()")
    text = page.until("message.classList.contains('bad') && message.textContent")
    assert "The camera did not open (broken)" in text and "open a picture" in text
    assert page.run("kept.getVideoTracks()[0].readyState") == "ended"


def test_a_camera_without_a_single_frame_is_given_up(page: Chromium) -> None:
    page.run("""(() => {
        const later = window.setTimeout.bind(window);
        window.setTimeout = (action, wait, ...rest) => later(action, wait / 10, ...rest);
        window.kept = document.createElement('canvas').captureStream(0);
        navigator.mediaDevices.getUserMedia = async () => kept;
    })()""")
    page.run("camera.click()")
    text = page.until("message.classList.contains('bad') && message.textContent", 10)
    assert "gives no picture" in text and "open a picture" in text
    assert page.run("!camera.disabled && kept.getVideoTracks()[0].readyState") == "ended"


def test_without_shared_memory_the_network_works_on_one_thread(browser: Chromium, address: str, session) -> None:
    browser.send("Emulation.setHardwareConcurrencyOverride", hardwareConcurrency=4)
    script = "delete globalThis.SharedArrayBuffer"
    added = browser.send("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
    try:
        open_page(browser, address)
        assert (
            browser.run("navigator.hardwareConcurrency") == 4 and browser.run("typeof SharedArrayBuffer") != "function"
        )
        assert "one thread" in browser.run("numbers.textContent")
        browser.run("camera.click()")
        browser.until("numbers.textContent.includes('frames/s')")
        photo, styled = both(browser)
        assert np.abs(styled - expected(session, photo)).max() <= 1
        browser.run("camera.click()")
    finally:
        browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=added)
        browser.send("Emulation.setHardwareConcurrencyOverride", hardwareConcurrency=os.cpu_count())


def test_two_tabs_work_side_by_side(page: Chromium, address: str, session) -> None:
    first = page.tab
    page.run("camera.click()")
    page.until("numbers.textContent.includes('frames/s')")
    second = page.open_tab()
    try:
        open_page(page, address)
        page.run("camera.click()")
        for tab in (second, first):
            page.tab = tab
            page.until("message.hidden && numbers.textContent.includes('frames/s')")
            photo, styled = both(page)
            assert np.abs(styled - expected(session, photo)).max() <= 1
        page.tab = second
        page.send("Page.close")
    finally:
        page.tab = first
    page.run("camera.click()")
    assert page.run("photoName.textContent") == "last frame"


def test_a_picture_of_50_million_pixels_is_shown_and_saved(page: Chromium, tmp_path: Path) -> None:
    Image.fromarray(person(433, 650)).resize((8660, 5774)).save(tmp_path / "large.jpg")
    give(page, tmp_path / "large.jpg")
    page.until("photoName.textContent === 'large.jpg' && styled.width === 2048 && styled.height === 1365", 60)
    photo, styled = both(page)
    assert photo.shape == styled.shape and np.abs(styled.astype(int) - photo).max() > 20
    said = "“large.jpg” is shown and saved reduced to 2048 × 1365 px."
    assert page.run("message.textContent") == said and page.run("!message.hidden && !message.matches('.bad')")
    page.run("model.value = 1; model.dispatchEvent(new Event('change'))")
    page.until(f"message.textContent === '{said}' && !save.disabled", 60)  # the other model's result is as small
    (tmp_path / "saved").mkdir()
    with Image.open(downloaded(page, tmp_path / "saved", "save")) as image:
        assert image.size == (2048, 1365)
    page.run("camera.click()")
    page.until("message.hidden && numbers.textContent.includes('frames/s')")
    page.run("camera.click()")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_model_that_is_not_finite_is_refused_and_nothing_of_it_is_saved(
    browser: Chromium, model: Path, tmp_path: Path, value: str
) -> None:
    import onnx

    # Every weight of one kind of the copy is not a number.
    network = onnx.load(model)
    for weight in network.graph.initializer:
        held = onnx.numpy_helper.to_array(weight)
        if held.dtype == np.float32 and held.ndim == 4:
            weight.CopyFrom(onnx.numpy_helper.from_array(np.full_like(held, float(value)), weight.name))
    onnx.save(network, tmp_path / "bad.onnx")

    # The good one works before and after it.
    with running(serve.open_server(0, serve.page_models([model, tmp_path / "bad.onnx"]))) as url:
        open_page(browser, url)
        for running_camera in (False, True):
            if running_camera:
                browser.run("camera.click()")
                browser.until("numbers.textContent.includes('frames/s')")
            browser.run("model.value = 1; model.dispatchEvent(new Event('change'))")
            text = browser.until("message.classList.contains('bad') && message.textContent")
            assert "not finite" in text and "another model" in text
            photo, styled = both(browser)
            assert np.array_equal(photo, styled) and browser.run("save.disabled && !document.body.dataset.camera")
            browser.run("model.value = 0; model.dispatchEvent(new Event('change'))")
            browser.until("message.hidden && numbers.textContent.includes('network') && !save.disabled")


def test_a_static_host_without_headers_works_on_one_thread(
    browser: Chromium, model: Path, session, tmp_path: Path
) -> None:
    site = tmp_path / "site" / "below"
    write_site(site, serve.page_models([model]))
    with running(static(tmp_path / "site")) as address:
        open_page(browser, f"{address}below/")
        assert not browser.run("crossOriginIsolated") and "one thread" in browser.run("numbers.textContent")
        browser.run("camera.click()")
        browser.until("numbers.textContent.includes('frames/s')")
        photo, styled = both(browser)
        assert np.abs(styled - expected(session, photo)).max() <= 1
        next((site / "models").glob("*.onnx")).write_bytes(b"no model")
        browser.open(f"{address}below/?again")
        text = browser.until("message.classList.contains('bad') && message.textContent")
        assert "could not be loaded" in text and "Export it again" in text
        (site / "models.json").unlink()
        browser.open(f"{address}below/?without")
        assert "models.json" in browser.until("message.classList.contains('bad') && message.textContent")


@pytest.mark.parametrize("script", ["worker.js", "vendor/ort.wasm.min.mjs"])
def test_scripts_that_do_not_load_are_said_at_every_choice_and_fetched_again(
    browser: Chromium, model: Path, tmp_path: Path, script: str
) -> None:
    shutil.copy(model, tmp_path / "copy.onnx")
    site = tmp_path / "site"
    models = serve.page_models([model, tmp_path / "copy.onnx"])
    write_site(site, models)
    (site / script).rename(tmp_path / "away")
    with running(static(site)) as address:
        browser.open(address)
        for choice in (0, 1, 0):
            text = browser.until("message.classList.contains('bad') && message.textContent")
            assert f"“{models[choice].name}”" in text and "scripts of the page could not be loaded" in text
            assert "reload the page" in text and browser.run("camera.disabled && save.disabled && !model.disabled")
            browser.run(f"model.value = {1 - choice}; model.dispatchEvent(new Event('change'))")

        # With the connection back, the same page works.
        browser.until(f"message.classList.contains('bad') && message.textContent.includes('“{models[1].name}”')")
        (tmp_path / "away").rename(site / script)
        browser.run("model.value = 1; model.dispatchEvent(new Event('change'))")
        browser.until("message.hidden && numbers.textContent.includes('network') && !save.disabled")
        assert both(browser)[1].std() > 1


def static(folder: Path) -> HTTPServer:
    """Any static host: no isolation headers."""

    class Quiet(SimpleHTTPRequestHandler):
        extensions_map = {
            **SimpleHTTPRequestHandler.extensions_map,
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
        }

        def log_message(self, *_: object) -> None: ...

    return ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))


FIND = """(async () => {
    const { Faces } = await import('./faces.js');
    const found = await new Faces().find(photo);
    return found.map(({ left, top, side }) => [left + side / 2, top + side / 2, side]);
})()"""


def group(people: int, side: int = 220) -> np.ndarray:
    """People beside each other on a flat wall."""
    portraits = [Image.fromarray(portrait(PERSON + number, 256).image) for number in range(people)]
    wall = np.full((side + 60, people * side, 3), FLAT, np.uint8)
    for number, picture in enumerate(portraits):
        wall[30:-30, number * side : (number + 1) * side] = np.asarray(picture.resize((side, side)))
    return wall


@pytest.fixture(scope="module")
def blaze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a student that draws faces, and of its generator alone."""
    from stages.export.onnx import export_onnx
    from tests.tools import tiny_blaze

    folder = tmp_path_factory.mktemp("blaze")
    notes = {"tristyle.size": str(tiny_blaze.SIZE), "tristyle.style": "toy", "tristyle.faces": "only"}
    for name, network in zip(("student", "faces"), tiny_blaze.networks(), strict=True):
        export_onnx(network, folder / f"{name}.onnx", notes)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def blaze_address(blaze: Path) -> Iterator[str]:
    with running(serve.open_server(0, serve.page_models([blaze / "student.onnx"]))) as url:
        yield url


def test_faces_are_found_where_stylize_finds_them_without_weights(
    browser: Chromium, blaze_address: str, tmp_path: Path
) -> None:
    from stages.apply.face_squares import face_of_points
    from stages.faces.detect import CascadeDetector

    open_page(browser, blaze_address)
    page, detector, number = browser, CascadeDetector(), 0
    for name, picture in [("wall", person(300, 420)), ("group", group(4)), ("flat", np.full((200, 300, 3), FLAT))]:
        write_image(tmp_path / f"{name}.png", picture.astype(np.uint8))
        give(page, tmp_path / f"{name}.png")
        page.until(f"photoName.textContent === '{name}.png' && photo.width === {picture.shape[1]}")
        found, wanted = page.run(FIND), [face_of_points(face.points) for face in detector(picture.astype(np.uint8))]
        assert len(found) == len(wanted), name
        for x, y, side in found:
            nearest = min(wanted, key=lambda face: np.hypot(face.x - x, face.y - y))
            assert np.hypot(nearest.x - x, nearest.y - y) < 0.06 * nearest.side
            assert abs(np.log(side / nearest.side)) < 0.12
        number += len(found)
    assert number >= 4


def test_a_model_of_one_size_paints_the_faces_and_draws_faces_from_scratch(
    browser: Chromium, blaze: Path, blaze_address: str, tmp_path: Path
) -> None:
    from stages.core.mark import read_mark
    from tests.tools import tiny_blaze

    open_page(browser, blaze_address)
    assert browser.run("numbers.textContent").startswith(f"one face at {tiny_blaze.SIZE} px")
    assert browser.run("size.options.length") == 1 and not browser.run("scratch.hidden")

    # The face is painted as `stylize` paints it; the wall beside it stays as it is, to the bit.
    wide = person(300, 420)
    write_image(tmp_path / "wide.png", wide)
    give(browser, tmp_path / "wide.png")
    browser.until("photo.width === 420 && !save.disabled && message.hidden")
    photo, styled = both(browser)
    assert np.array_equal(photo, wide) and np.array_equal(styled[:, :20], wide[:, :20])
    x, y, side = browser.run(FIND)[0]
    wanted, _ = paint_heads(open_model(blaze / "student.onnx"), wide, [Face(x - 0.5, y - 0.5, side)])
    change = wanted.astype(int) - wide
    assert np.abs(change).max() > 20
    assert np.corrcoef(change.ravel(), (styled.astype(int) - wide).ravel())[0, 1] > 0.95

    # Without a face nothing is painted or saved, and the page says so.
    write_image(tmp_path / "flat.png", np.full((90, 120, 3), FLAT, np.uint8))
    give(browser, tmp_path / "flat.png")
    browser.until("photo.width === 120 && message.textContent.startsWith('No face was found')")
    assert np.array_equal(*both(browser)) and browser.run("save.disabled")

    # The camera: its face is followed.
    browser.run("camera.click()")
    browser.until("numbers.textContent.includes('frames/s') && photo.width > 120")
    photo, styled = both(browser)
    assert np.abs(styled.astype(int) - photo).max() > 20 and "no face" not in browser.run("numbers.textContent")
    browser.run("camera.click()")
    browser.until("!save.disabled")

    seen = []
    for _ in range(2):
        browser.run("styled.width = 8; scratch.click()")
        browser.until(f"styled.width === {tiny_blaze.SIZE}")
        seen.append(both(browser)[1])
    assert not np.array_equal(*seen) and seen[0].std() > 1
    assert "a face of nobody" in browser.run("numbers.textContent")
    (tmp_path / "saved").mkdir()
    saved = read_mark(downloaded(browser, tmp_path / "saved", "save"))
    assert saved is not None and saved.version == f"sha256:{sha256_file(blaze / 'faces.onnx')}"


def test_an_editor_has_sliders_that_edit_the_picture_on_show(browser: Chromium, model: Path, tmp_path: Path) -> None:
    from stages.core.runtime import Runtime
    from stages.core.tracking import Tracker
    from stages.export.editor import EditorExport
    from tests.tools import tiny_editor

    (tmp_path / "export").mkdir()
    inputs = {"style": tiny_editor.style(tmp_path / "style"), "data": tiny_editor.data(tmp_path / "data")}
    EditorExport(photos=1, repeats=1).run(inputs, tmp_path / "export", Runtime("cpu", 1, Tracker(tmp_path / "export")))
    editor = Editor(tmp_path / "export" / "editor.onnx")

    def choose(control: str, value: object, event: str = "input") -> str:
        found = f"document.getElementById('{control}')"
        return f"{found}.value = '{value}'; {found}.dispatchEvent(new Event('{event}'));"

    def change(words: str, before: np.ndarray) -> np.ndarray:
        """The result after these words, once it is another one."""
        browser.run(words)
        end = time.monotonic() + 20
        while np.array_equal(after := both(browser)[1], before):
            assert time.monotonic() < end, "the picture did not change"
            time.sleep(0.05)
        return after

    with running(serve.open_server(0, serve.page_models([tmp_path / "export", model]))) as url:
        open_page(browser, url)
        assert browser.run("edits.querySelectorAll('input').length") == len(tiny_editor.NAMES)
        photo, untouched = both(browser)
        assert np.abs(untouched.astype(int) - photo).max() <= 1

        # A slider moved is the edit that `stylize edit` makes of the face.
        whole = change(choose("edit-age", 2), untouched)
        told = "[...document.getElementById('edits').querySelectorAll('output')].map((o) => o.textContent).join()"
        assert browser.run(told) == "+2.0,0.0,0.0"
        editor.set({"age": 2.0})
        x, y, side = browser.run(FIND)[0]
        wanted, _ = paint_heads(editor, photo, [Face(x - 0.5, y - 0.5, side)])
        edit = wanted.astype(int) - photo
        assert np.corrcoef(edit.ravel(), (whole.astype(int) - photo).ravel())[0, 1] > 0.9

        # Within a region it changes less; Reset takes it back.
        local = change(choose("region", "mouth"), whole)
        photo = photo.astype(int)
        assert np.abs(whole - photo).sum() > np.abs(local - photo).sum() > 0
        assert np.array_equal(change("reset.click()", local), untouched)

        # Another model, chosen while a slider moves, gets no edit.
        browser.run(choose("edit-age", 1) + choose("model", 1, "change"))
        browser.until("edits.hidden && !save.disabled && styleName.textContent !== 'edited'")
        browser.until("message.hidden && numbers.textContent.includes('network')")
        assert both(browser)[1].std() > 1
