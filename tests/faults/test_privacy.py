"""Nothing phones home: the commands leave no file below a fresh HOME and make no call to another machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tools.tiny_student import tiny_model

COMMANDS = {
    "stylize": ["-m", "stages.apply", "x.png", "-o", "o.png", "--faces", "never", "--model", "m.onnx"],
    "tristyle": ["-m", "stages", "stage=data", "data=rendered", "data.size=32", "data.count=4", "data.style_count=2",
                 "data.heldout=4", "data.heldout_style=4", "workers=1"],
    "runtime": ["-c", "import stages, onnxruntime as o, time; o.InferenceSession('m.onnx'); time.sleep(2)"],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_calls_nobody_and_writes_nothing_home(tmp_path: Path, root: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    tiny_model(work / "m.onnx")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(work / "x.png")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_", "DO_NOT", "HF_"))}
    env |= {"HOME": str(home), "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    trace = shutil.which("strace")
    calls = [trace, "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(tmp_path / "calls")] if trace else []
    done = subprocess.run(
        [*calls, sys.executable, *COMMANDS[name]], cwd=work, env=env, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [path for path in home.rglob("*") if path.is_file()]
    if trace:
        text = (tmp_path / "calls").read_text()
        outside = [
            line for line in text.splitlines() if re.search(r"AF_INET6?\b|nscd", line) and "127.0.0.1" not in line
        ]
        assert not outside, outside[:5]


def test_the_switches_are_set_before_any_import() -> None:
    import stages

    assert stages and os.environ["ORT_DISABLE_TELEMETRY"] == "1" and os.environ["DO_NOT_TRACK"] == "1"
