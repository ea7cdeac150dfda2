"""Stage pair in parts, by Hydra's launchers and by torchrun: what comes out is what one process would have written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from stages.core.artifact import open_artifact, seal
from stages.core.files import read_jsonl, write_jsonl
from stages.core.images import write_image
from stages.core.weights import load_network
from stages.pipeline import cli
from tests.tools.pair_toys import heads

TINY = [
    "pair.translator.precision=float32",  # two processes round bfloat16 sums otherwise than one
    "workers=1", "device=cpu", "data.size=32", "data.count=9", "data.style_count=1", "data.heldout=4",
    "data.heldout_style=4", "pair.train.images=4", "++pair.write.format=tar", "++pair.write.per_shard=3",
]  # fmt: skip
SHARDS = 3


def tristyle(*arguments: str) -> None:
    """Call the console script in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tristyle", *arguments, *TINY])
        cli.main()


def put_style(place: Path) -> None:
    """A style set where a run looks for it, without training one."""
    images, _ = heads(8, 1, style=True)
    names = [f"images/{number:06d}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        write_image(place / name, image)
    write_jsonl(place / "records.jsonl", [{"id": name[7:13], "image": name, "style": "comic"} for name in names])
    seal(place, "style", config={}, inputs={}, metrics={})


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and style."""
    out = tmp_path_factory.mktemp("started") / "runs"
    tristyle("stage=data", f"out={out}")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        said: list[str] = []
        patch.setattr(sys.stderr, "write", said.append)
        tristyle("stage=pair", f"out={out}")
    place = re.search(r"tristyle: (\S+): stage=pair needs", "".join(said))
    assert place, said
    put_style(Path(place[1]))
    return out


@pytest.fixture(scope="module")
def trained(started: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair stage of which only the writing is left."""
    out = copied(started, tmp_path_factory.mktemp("trained"))
    tristyle("stage=pair", "part=train", f"out={out}")
    return out


@pytest.fixture(scope="module")
def whole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    out = copied(trained, tmp_path_factory.mktemp("whole"))
    tristyle("stage=pair", f"out={out}")
    return files(out)


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left() -> Iterator[None]:
    """joblib keeps its processes for the next call."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


def copied(out: Path, folder: Path) -> Path:
    """A copy of a run."""
    return Path(shutil.copytree(out, folder / "runs", ignore=shutil.ignore_patterns("index.html", ".sweep")))


def pair_place(out: Path) -> Path:
    """The only pair artifact below `out`."""
    (place,) = (out / "pair").iterdir()
    return place


def files(out: Path) -> dict[str, bytes]:
    """What is sealed in the pair artifact."""
    place = pair_place(out)
    return {name: (place / name).read_bytes() for name in open_artifact(place, "pair").manifest["files"]}


def test_joblib_writes_shards_side_by_side_and_one_mistake_fails_alone(
    trained: Path, whole: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = copied(trained, tmp_path)
    with pytest.raises(SystemExit) as stop:
        tristyle("-m", "stage=pair", f"part=0,{SHARDS},2", "launch=joblib", "hydra.launcher.n_jobs=2", f"out={out}")
    said = capfd.readouterr()
    assert stop.value.code == 2
    complaints = [line for line in said.err.splitlines() if line.startswith("tristyle:")]
    assert len(complaints) == 1 and f"part={SHARDS}" in complaints[0] and "Traceback" not in said.err
    assert "shard 0 done" in said.out and "shard 2 done, " in said.out
    place = pair_place(out)
    assert not (place / "manifest.json").exists() and not (out / "index.html").exists()
    before = {file: file.stat().st_mtime_ns for file in (place / "shards").glob("*.tar")}
    assert len(before) == 2
    tristyle("stage=pair", f"out={out}")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert files(out) == whole


def test_submitit_writes_a_shard_and_leaves_its_logs_in_the_run(
    trained: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = copied(trained, tmp_path)
    tristyle("-m", "stage=pair", "part=1", "launch=submitit", "hydra/launcher=submitit_local", f"out={out}")
    assert list(out.glob(".sweep/*/logs/*/*_log.out")) and [entry.name for entry in tmp_path.iterdir()] == ["runs"]
    spent = [row for file in (pair_place(out) / ".scratch" / "cost").glob("*.jsonl") for row in read_jsonl(file)]
    assert len(spent) == 2  # the training and one shard
    tristyle("stage=pair", f"out={out}")
    assert files(out) == whole
    cost = open_artifact(pair_place(out), "pair").manifest["cost"]
    assert cost["cpu_seconds"] > sum(row["cpu_seconds"] for row in spent)


def test_two_processes_of_a_torchrun_train_one_translator(started: Path, trained: Path, tmp_path: Path) -> None:
    out = copied(started, tmp_path)
    command = [
        Path(sys.executable).with_name("torchrun"),
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "stages.pipeline.cli",
    ]
    done = subprocess.run(
        [*command, "stage=pair", "part=train", f"out={out}", *TINY], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("running") == done.stdout.count("ready") == 1  # the second process has nothing to say
    assert not (out / "reports" / "pair").exists()
    one, two = (load_network(pair_place(place) / "translator.safetensors", "cpu") for place in (trained, out))
    for name, weight in two.state_dict().items():
        assert weight.allclose(one.state_dict()[name], atol=1e-4), name


@pytest.mark.parametrize("error", ["joblib.externals.loky.process_executor.TerminatedWorkerError",
                                   "submitit.core.utils.UncompletedJobError"])  # fmt: skip
def test_a_job_that_is_killed_ends_in_one_line(
    error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hydra

    module, name = error.rsplit(".", 1)

    def lose(*_: object, **__: object) -> None:
        raise getattr(import_module(module), name)("the worker is gone")

    monkeypatch.setattr(hydra, "main", lose)
    with pytest.raises(SystemExit) as stop:
        tristyle("-m")
    line = capsys.readouterr().err
    assert stop.value.code == 2 and "killed, or out of memory" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["stage=pair", "launch=joblib"], "launch: "),
        (["-m", "stage=style,pair", "launch=joblib"], "style, pair"),
        (["-m", "stage=pair", "part=train,0", "launch=joblib"], "part=train"),
        (["-m", "stage=pair", "part=0,x", "launch=joblib"], "'x'"),
        (["-m", "stage=data", "out=a,b"], "out: "),
    ],
)
def test_what_cannot_be_launched_is_refused_in_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        tristyle(*arguments)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("tristyle: ") and line.count("\n") == 1 and named in line
    assert not list(tmp_path.iterdir())
