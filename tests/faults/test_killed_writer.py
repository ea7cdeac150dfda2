"""kill -9 of processes that write pairs, anywhere: no pair lost, none twice, shards byte-equal to an undisturbed run.

Run as a program it is the worker's parent: it imports torch once and forks its workers before torch has done anything,
kills them, and prints what became of each.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNT, PER_SHARD, SIZE = 30, 12, 32  # three shards
FORMATS = ("tar", "files")


# ------------------------------------------------------------------------------------------------------- the test


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run and a killed one in each format, and what happened to the workers."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "log.json").write_text(done.stdout)
    return folder


def files(out: Path) -> dict[str, bytes]:
    found = (path for path in out.rglob("*") if path.is_file() and ".scratch" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("form", FORMATS)
def test_killed_writers_leave_the_bytes_of_an_undisturbed_run(runs: Path, form: str) -> None:
    whole, killed = files(runs / f"{form}-whole"), files(runs / f"{form}-killed")
    assert set(whole) == set(killed)  # so no temporary file is left either
    assert [name for name in whole if whole[name] != killed[name]] == []
    log = json.loads((runs / "log.json").read_text())[form]
    assert log.count("killed") >= 7 and log[-1] == "done"  # seven at a step; the random ones may come late


@pytest.mark.parametrize("form", FORMATS)
def test_no_pair_is_lost_and_none_is_there_twice(runs: Path, form: str) -> None:
    rows = [json.loads(line) for line in (runs / f"{form}-killed/records.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"{i:06d}" for i in range(COUNT)]
    kept = [row["id"] for row in rows if row["kept"]]
    assert 0 < len(kept) < COUNT
    if form == "files":
        assert sorted(path.stem for path in (runs / "files-killed/style").iterdir()) == kept
        assert len(list((runs / "files-killed/raw").iterdir())) == COUNT
    else:
        from stages.core.shards import Shards

        assert Shards(sorted((runs / "tar-killed/shards").glob("*.tar"))).keys == kept


# ---------------------------------------------------------------------------------------------------- the program


def work(out: Path, form: str, part: str | None, steps: int | None) -> None:
    """In a forked worker: write `part` with an untrained translator; die by SIGKILL at step `steps` of the writing."""
    import torch

    from stages.core.runtime import Runtime
    from stages.core.tracking import Tracker
    from stages.networks.face_reader import Reader
    from stages.networks.ugatit import ResnetGenerator
    from stages.pair.curate import Curate, Limit
    from stages.pair.inputs import Translated
    from stages.pair.photo_sets import Photos
    from stages.pair.ugatit import translator_painter
    from stages.pair.write import Write, write_pairs
    from tests.tools.pair_toys import heads

    if steps is not None:
        die_at(steps)
    torch.manual_seed(0)
    generator = ResnetGenerator(4, 1, SIZE, light=True, mask=True).eval()
    reader = Reader(widths=(8, 8, 8, 8, 8), lateral=8).eval()
    photos, masks = heads(COUNT, 0, False, SIZE)
    made = Translated(Photos([f"{i:06d}" for i in range(COUNT)], photos, masks), translator_painter(generator, "cpu"))
    write = Write(format=form, per_shard=PER_SHARD)
    out.mkdir(exist_ok=True)
    curate = Curate(clarity=Limit(worst=0.2))
    write_pairs(made, out, curate, write, reader, Runtime("cpu", 2, Tracker(out), part))


def die_at(steps: int) -> None:
    """Kill this process at the `steps`-th call that makes something appear or last on disk: before it or after it."""
    left = itertools.count(steps - 2, -2)  # one number a call, whichever thread it comes from

    def counted(real):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            now = next(left)
            if now == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            found = real(*arguments)
            if now == -1:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return call

    os.replace, os.fsync, os.unlink = counted(os.replace), counted(os.fsync), counted(os.unlink)


def forked(*arguments: object) -> int:
    """The id of a new process that does `work`."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.dup2(2, 1)  # standard output is the parent's report
            work(*arguments)  # type: ignore[arg-type]
            code = 0
        finally:
            os._exit(code)
    return process


def outcome(process: int) -> str:
    status = os.waitpid(process, 0)[1]
    return "killed" if os.WIFSIGNALED(status) else "done" if os.WEXITSTATUS(status) == 0 else "failed"


def killed_run(out: Path, form: str) -> list[str]:
    """Kill writers at one step after another, then two at a time at random moments, then let one finish."""
    log = [outcome(forked(out, form, "train", steps)) for steps in (1, 2, None)]
    log += [outcome(forked(out, form, None, steps)) for steps in (1, 2, 4, 7, 13)]
    chance = random.Random(0)
    for _ in range(2):
        pair = [forked(out, form, part, None) for part in ("1", "2")]
        time.sleep(chance.uniform(0.05, 0.4))
        for process in pair:
            os.kill(process, signal.SIGKILL)
        log += [outcome(process) for process in pair]
    return [*log, outcome(forked(out, form, None, None))]


def main(folder: Path) -> None:
    import torch  # noqa: F401 - once, for all workers
    from kornia.metrics import ssim  # noqa: F401

    import stages.pair.write  # noqa: F401

    log = {}
    for form in FORMATS:
        log[form] = [outcome(forked(folder / f"{form}-whole", form, None, None))]
        log[form] += killed_run(folder / f"{form}-killed", form)
    print(json.dumps(log))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
