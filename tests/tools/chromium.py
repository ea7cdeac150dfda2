"""A headless Chromium for tests and films: DevTools over a pipe, with a camera that plays a file. No extra packages.

The flags and the camera file: see `Chromium` and `write_camera`. It is the only way in: the page has no test hook.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BINARIES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --mute-audio "
    "--disable-features=Translate --force-color-profile=srgb --remote-debugging-pipe"
).split()


def find_chromium() -> str | None:
    """Path of the browser, or None."""
    return next((path for name in BINARIES if (path := shutil.which(name))), None)


def write_camera(path: Path, frames: Sequence[np.ndarray], rate: int = 30) -> Path:
    """Frames uint8 [H, W, 3] RGB (even sides) as .y4m, which Chromium plays in a loop as its fake camera.

    YUV 4:2:0 of BT.601 in studio range: an even colour arrives exactly as it was.
    """
    import cv2

    height, width = frames[0].shape[:2]
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{rate}:1 Ip A1:1 C420mpeg2\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2YUV_I420).tobytes())
    return path


class Chromium:
    """A headless browser with one tab, or more; a context manager.

    Args:
        camera: .y4m file that the fake camera plays; None = no camera is there.
        allow: whether a page that asks for the camera gets it.
    """

    def __init__(self, camera: Path | None = None, allow: bool = True, timeout: float = 60) -> None:
        binary = find_chromium()
        assert binary, "no Chromium"

        # An empty profile, and a camera that plays a file.
        self.timeout = timeout
        self.profile = Path(tempfile.mkdtemp(prefix="chromium-"))
        flags = [*FLAGS, f"--user-data-dir={self.profile}"]
        if camera is not None:
            flags += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"]
        if allow:
            flags.append("--use-fake-ui-for-media-stream")

        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        # DevTools speaks over descriptors 3 and 4; bash puts them there without code between fork and exec.
        command = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", binary, *flags, "about:blank"]
        self.process = subprocess.Popen(
            command, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)

        # A thread sorts what the browser says.
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._shots: list[dict[str, Any]] = []
        self.console: list[str] = []
        self._closed = False
        threading.Thread(target=self._listen, daemon=True).start()

        # One page; every later command goes to it, until another tab is opened.
        self._next = 0
        self.tab = ""
        self.open_tab()

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._out)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _listen(self) -> None:
        """Read messages, separated by zero bytes, until the browser ends: answers, errors, pictures of the screen."""
        pending = b""
        while data := os.read(self._in, 1 << 20):
            # The last piece may be half a message.
            *whole, pending = (pending + data).split(b"\0")
            for line in whole:
                message = json.loads(line)
                with self._news:
                    if "id" in message:
                        self._answers[message["id"]] = message
                    elif message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                        self.console.append(json.dumps(message["params"]))
                    elif message["method"] == "Page.screencastFrame":
                        self._shots.append(message["params"])
                    self._news.notify_all()

        with self._news:
            self._closed = True
            self._news.notify_all()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._next += 1
        number = self._next
        message = {"id": number, "method": method, "params": parameters}
        if self.tab and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.tab
        os.write(self._out, json.dumps(message).encode() + b"\0")
        with self._news:
            done = self._news.wait_for(lambda: number in self._answers or self._closed, self.timeout)
            assert done and not self._closed, f"{method}: no answer"
            answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open_tab(self) -> str:
        """Open an empty tab beside the others. Commands go to `tab`: this one, until another one's name is set."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.tab = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        return self.tab

    def open(self, address: str) -> None:
        """Go to an address; returns when its scripts have begun."""
        self.send("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The JSON value of an expression, awaited if it is a promise. An exception in the page fails."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"].get("exception", answer)
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = 30) -> Any:
        """Wait until an expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(condition)):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}\n{self.console[-5:]}"
            time.sleep(0.05)
        return value

    def pixels(self, *canvases: str) -> list[np.ndarray]:
        """uint8 [H, W, 3] of canvases, named by their ids, all of one moment: no script runs in between."""
        script = """(names) => names.map((name) => {
            const canvas = document.getElementById(name);
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            let text = '';
            for (let i = 0; i < data.length; i += 32768) text += String.fromCharCode(...data.subarray(i, i + 32768));
            return [canvas.height, canvas.width, btoa(text)];
        })"""
        read = self.run(f"({script})({json.dumps(canvases)})")
        flat = [(height, width, np.frombuffer(base64.b64decode(text), np.uint8)) for height, width, text in read]
        return [data.reshape(height, width, 4)[..., :3].copy() for height, width, data in flat]

    def viewport(self, width: int, height: int, dark: bool = False, scale: float = 1, phone: bool = False) -> None:
        """Size of the page in CSS px, its colour scheme, and how many pixels a CSS px has."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path | None = None, whole: bool = False) -> bytes:
        """PNG of what is visible, or of the whole page; also written to `path`."""
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def film(self, seconds: float) -> list[tuple[float, bytes]]:
        """What is visible, whenever it changes: (time in s, PNG), in order, as fast as the browser can tell."""
        self._shots.clear()
        self.send("Page.startScreencast", format="png")
        shots, end = [], time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with self._news:
                self._news.wait_for(lambda: self._shots or self._closed, left)
                fresh, self._shots = self._shots, []
            for shot in fresh:
                self.send("Page.screencastFrameAck", sessionId=shot["sessionId"])
                shots.append((shot["metadata"]["timestamp"], base64.b64decode(shot["data"])))
        self.send("Page.stopScreencast")
        return shots
