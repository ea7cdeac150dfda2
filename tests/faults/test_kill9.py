"""kill -9 of whole commands, at random moments and around renames: each resumes to the same digest and leaves nothing.

The first stage, killed once. `make soak` kills all stages, 200 times in all (KILLS, SEED).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.kill9 import STAGES

KILLS, SEED = os.environ.get("KILLS"), os.environ.get("SEED", "1")
MOMENTS = {"a rename": ["--at-rename"], "any moment": []}


@pytest.mark.all
@pytest.mark.parametrize("moment", MOMENTS if KILLS else ["a rename"])
def test_killed_runs_end_with_the_same_digest_and_leave_nothing(moment: str, tmp_path: Path, root: Path) -> None:
    kills, stages = int(KILLS or 1), STAGES if KILLS else STAGES[:1]
    words = ["--work", str(tmp_path), "--kills", str(kills), "--seed", SEED, "--minutes", "600", "--stages", *stages]
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.kill9", *words, *MOMENTS[moment]], cwd=root, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["trials"] == kills and summary["kills"] > 0
    assert summary["resume_failed"] == summary["debris"] == summary["orphans"] == 0, done.stdout[-4000:]
    assert not any(summary["other_digest"].values()), done.stdout[-4000:]
