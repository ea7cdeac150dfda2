"""From a composed config to sealed artifacts: open inputs, find the place, run or resume, seal, report.

This is where Hydra's `DictConfig` ends: a stage receives plain constructor arguments. Every stage that will run, and
every file that the config names, is checked before the first input is opened.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stages.core.artifact import (
    KINDS,
    SCRATCH,
    Artifact,
    ArtifactError,
    artifact_key,
    hash_path,
    locked,
    open_artifact,
    seal,
    sweep,
)
from stages.core.faults import REFERENCE, end
from stages.core.files import append_jsonl, read_jsonl, sweep_orphans, write_json
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.stage import Stage
from stages.core.tracking import Silent, Tracker
from stages.core.version import own_version
from stages.pipeline.compose import Settings, check_allow, described, instantiate_stages
from stages.pipeline.targets import source_files
from stages.training import distributed

COST = "cost"  # in the scratch folder: what each part took, for the sum that the sealing job writes down
SETTINGS = {
    *KINDS,
    "stage",
    "seed",
    "faces",
    "out",
    "device",
    "workers",
    "part",
    "force",
    "allow",
    "objective",
    "tracker",
}
GRACE = 10.0  # seconds that the other processes of a torchrun wait for the first one's end before they complain
REPORTS: list[Path] = []  # the reports of this process, in order: a sweep's index page sets them side by side


def run(cfg: DictConfig) -> float | None:
    """Run `cfg.stage` (or the chain that ends in an export), or one `part` of it; returns the measure `objective`.

    Raises:
        TristyleError: one line for the user.
    """
    if (words := _overrides()) is not None:
        check_allow(cfg, words)
    _check_keys(cfg)
    settings, stages, files = _opened(cfg)
    distributed.start(settings.device)
    resolved = {kind: described(cfg, kind) for kind in stages}

    # Refuse what would fail later, before the first stage runs.
    _check_out(settings.out)
    for kind, stage in stages.items():
        if settings.stage in ("all", kind):
            stage.check()

    # A stage's place follows from its settings and from the digests of its inputs.
    artifacts: dict[str, Artifact] = {}
    for kind, stage in stages.items():
        inputs = {name: artifacts[name] for name in stage.reads}
        if settings.part is not None and kind == settings.stage and not stage.shards(inputs):
            raise ConfigError("part", f"this {kind} stage is not made in parts", "Leave it out")
        config = _portable(resolved[kind], stage.files())
        key = artifact_key(kind, config, {name: item.digest for name, item in inputs.items()}, files[kind])
        place = settings.out / kind / key
        if settings.stage not in ("all", kind):
            artifacts[kind] = _input(place, kind, settings)
        elif made := _make(kind, stage, config, inputs, place, settings):
            artifacts[kind] = made

    if settings.part is not None or distributed.rank():
        return None
    return _report(artifacts, settings)


def _opened(cfg: DictConfig) -> tuple[Settings, dict[str, Stage], dict[str, dict[str, str]]]:
    """The settings, the stages that take part, and for each the digests of the files that it names.

    Where `stage=data` finds its artifact, the stages that follow are not looked at: none will run, and importing them
    takes longer than all the rest.
    """
    files: dict[str, dict[str, str]] = {}
    if cfg.stage == "data" and distributed.world() == 1:
        settings, stages = instantiate_stages(cfg, ("data",))
        files["data"] = _digests(stages["data"], described(cfg, "data"))
        config = _portable(described(cfg, "data"), stages["data"].files())
        if _finished(settings.out / "data" / artifact_key("data", config, {}, files["data"]), settings):
            return settings, stages, files
    settings, stages = instantiate_stages(cfg)
    last = list(stages)[-1]
    stages = {kind: stage for kind, stage in stages.items() if kind == last or _needed(kind, last, stages)}
    return (
        settings,
        stages,
        {kind: files.get(kind) or _digests(stage, described(cfg, kind)) for kind, stage in stages.items()},
    )


def _check_keys(cfg: DictConfig) -> None:
    """Refuse a setting that nothing reads, such as one added by `+foo=1`."""
    for key in cfg:
        if str(key) not in (*KINDS, *SETTINGS):
            raise ConfigError(str(key), "there is no such setting", "Remove it; `tristyle --help` lists what there is")


def _digests(stage: Stage, config: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that a stage names, and of the user's own modules that it is made of."""
    found = {key: stage.digest(key, Path(path)) for key, path in stage.files().items()}
    return found | {key: hash_path(path) for key, path in source_files(config).items()}


def _check_out(out: Path) -> None:
    """Refuse an `out` folder that holds something else than runs."""
    if out.exists() and not out.is_dir():
        raise ConfigError("out", f"{out} is a file", "Name a folder")
    known = {*KINDS, "reports", "wandb_runs", "index.html"}
    if out.is_dir():
        foreign = sorted(
            entry.name for entry in out.iterdir() if entry.name not in known and not entry.name.startswith(".")
        )
        if foreign:
            raise ConfigError("out", f"{out} holds something else ({foreign[0]})", "Name an empty or new folder")


def _needed(kind: str, target: str, stages: dict[str, Stage]) -> bool:
    """Whether `target` reads `kind`, directly or through another stage."""
    reads = stages[target].reads
    return kind in reads or any(_needed(kind, name, stages) for name in reads)


def _portable(config: Any, files: dict[str, Path]) -> Any:
    """The config without the paths it names: the files' digests stand for them, so a moved folder keeps its key."""
    names = {str(path): key for key, path in files.items()}

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replace(item) for name, item in value.items()}
        if isinstance(value, list):
            return [replace(item) for item in value]
        return f"file:{names[value]}" if isinstance(value, str) and value in names else value

    return replace(config)


def _input(place: Path, kind: str, settings: Settings) -> Artifact:
    try:
        # A hundred shards need not read all pictures a hundred times: the job that seals them checks every file.
        return open_artifact(place, kind, verify=not settings.shard and distributed.rank() == 0)
    except ArtifactError as error:
        if (place / "manifest.json").exists():
            raise
        raise ArtifactError(
            f"{place}: stage={settings.stage} needs the {kind} artifact with these settings. "
            f"Run stage={kind} (or stage=all) first."
        ) from error


def _make(
    kind: str, stage: Stage, config: dict[str, Any], inputs: dict[str, Artifact], place: Path, settings: Settings
) -> Artifact | None:
    """Open a finished artifact, or run (resume) the stage under the folder's lock and seal it; None after a part."""
    if distributed.first(int(_finished(place, settings))):
        say(f"{kind:<8} already done  {place}")
        if not distributed.rank():
            _tidy(place)
        return open_artifact(place, kind, verify=distributed.rank() == 0)
    with nullcontext() if distributed.rank() else locked(place, shared=settings.shard):
        if not distributed.first(int(_finished(place, settings))):  # by the run that held the lock until now
            if distributed.rank():
                stage.join(inputs, place, Runtime(settings.device, settings.workers, Silent(), settings.part))
            else:
                _work(kind, stage, config, inputs, place, settings)
    distributed.barrier()
    return open_artifact(place, kind, verify=False) if settings.part is None else None


def _tidy(place: Path) -> None:
    """Remove what a process left that was killed between the seal and its end; whoever reads on may hold the folder."""
    if (place / SCRATCH).exists() or any(place.glob(".*.tmp")):
        with suppress(ArtifactError, OSError), locked(place):
            sweep(place, finished=True)


def _finished(place: Path, settings: Settings) -> bool:
    return (place / "manifest.json").exists() and not settings.force


def _work(
    kind: str, stage: Stage, config: dict[str, Any], inputs: dict[str, Artifact], place: Path, settings: Settings
) -> None:
    """Run a stage in its locked place and seal it; run what `part` names and note down what that took."""
    begun, cpu = time.time(), _cpu_seconds()
    runtime = _prepare(kind, config, place, settings)
    metrics = stage.run(inputs, place, runtime)
    runtime.track.close(metrics)
    if settings.part is not None:
        append_jsonl(place / SCRATCH / COST / f"{settings.part}.jsonl", _cost(begun, cpu, []))
        done, shards = metrics["done"], metrics["shards"]
        left = f"{shards - done} of {shards} shards to write (part=range(0,{shards}))"
        say(f"{kind:<8} " + (f"shard {settings.part} done, {done} of {shards}" if settings.shard else f"ready, {left}"))
        return
    cost = _cost(begun, cpu, [row for file in (place / SCRATCH / COST).glob("*.jsonl") for row in read_jsonl(file)])
    seal(place, kind, config=config, inputs=inputs, metrics=metrics, code=_code(settings), cost=cost)
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, (int, float)))
    say(f"{kind:<8} done in {cost['seconds']:.0f} s  {numbers}")


def _prepare(kind: str, config: dict[str, Any], place: Path, settings: Settings) -> Runtime:
    """Make a locked place ready for its stage."""
    _check_place(place)
    if settings.force:
        _clear(place)
    if not settings.shard:  # shards share the folder
        sweep(place)
    if not settings.shard:
        say(f"{kind:<8} {'resuming' if (place / SCRATCH).exists() else 'running'}  {place}")
    (place / SCRATCH / COST).mkdir(parents=True, exist_ok=True)
    write_json(place / "config.json", config)
    make = Tracker if settings.shard else settings.tracker  # no dashboard run of its own for every shard
    tracker = make(place, name=f"{kind}-{place.name[:6]}", config=config)
    return Runtime(settings.device, settings.workers, tracker, settings.part)


def _cost(begun: float, cpu: float, parts: list[dict[str, float]]) -> dict[str, float]:
    """Seconds and CPU seconds since `begun` and `cpu`, with those of the parts that other processes did."""
    own = {"seconds": time.time() - begun, "cpu_seconds": _cpu_seconds() - cpu}
    return {name: round(value + sum(part[name] for part in parts), 1) for name, value in own.items()}


def _check_place(place: Path) -> None:
    """Refuse a folder with files that no run has made: they would be sealed or lost. A run writes config.json first."""
    foreign = sorted(entry.name for entry in place.iterdir() if not entry.name.startswith("."))
    if foreign and "config.json" not in foreign:
        raise ArtifactError(f"{place}: holds something else ({foreign[0]}). Move it, or set out=<another folder>.")


def _clear(place: Path) -> None:
    """`force=true`: forget a finished or half-finished artifact."""
    import shutil

    (place / "manifest.json").unlink(missing_ok=True)
    for entry in place.iterdir():
        if entry.name != ".lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _cpu_seconds() -> float:
    """CPU seconds of this process and its finished children."""
    return sum(os.times()[:4])


def _code(settings: Settings) -> dict[str, Any]:
    """What made an artifact: versions, instruction set, threads, device."""
    import torch

    here = Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "version": own_version(),
        "git": git.stdout.strip(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": settings.workers,
        "processes": distributed.world(),
        "device": settings.device,
    }


def _report(artifacts: dict[str, Artifact], settings: Settings) -> float | None:
    from stages.pipeline.summary import print_summary

    last = list(artifacts.values())[-1]
    path = settings.out / "reports" / f"{last.kind}-{last.path.name}" / "report.html"
    sweep_orphans(path.parent)
    sweep_orphans(settings.out)
    _write_report(artifacts, path)
    REPORTS.append(path)
    print_summary(artifacts)
    say(f"report   {path}")
    for name, file in (("model", "student.onnx"), ("pictures", "heldout")):
        found = [item.path / file for item in artifacts.values() if (item.path / file).exists() and item.kind != "data"]
        if found:
            say(f"{name:<8} {found[-1]}")
    if settings.objective is None:
        return None
    kind, _, name = settings.objective.partition(".")
    if kind not in artifacts or name not in artifacts[kind].metrics:
        known = ", ".join(f"{kind}.{name}" for kind, item in artifacts.items() for name in item.metrics)
        raise ConfigError("objective", f"{settings.objective!r} was not measured", f"Choose one of: {known}")
    return float(artifacts[kind].metrics[name])


def _write_report(artifacts: dict[str, Artifact], path: Path) -> None:
    from stages.report.write import write_report

    write_report(artifacts, path, command=_command())


def _overrides() -> list[str] | None:
    """This job's settings on the command line, as they were typed (see `cli.freely`); None where there was none."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    return [word.removeprefix("++") for word in HydraConfig.get().overrides.task]


def _command() -> str:
    """This job's command line, which the report shows for making the run again."""
    return shlex.join(["tristyle", *(_overrides() or [])])


def say(line: str) -> None:
    """One line of the console summary, by the first of the processes that train together."""
    if distributed.rank() == 0:
        print(line, flush=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors meant for users into one line on stderr and exit code 2; HYDRA_FULL_ERROR=1 shows the traceback."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        let_the_first_speak()
        if full_errors():
            raise
        who = f"tristyle: process {distributed.rank()}" if distributed.rank() else "tristyle"
        if isinstance(error, OmegaConfBaseException):
            error = TristyleError(f"{str(error).splitlines()[0]}. {REFERENCE}")
        raise SystemExit(end(who, error)) from None


def let_the_first_speak() -> None:
    """Before another process of a torchrun complains: the first one may have failed and said why, which ends all."""
    if distributed.rank():
        time.sleep(GRACE)


def full_errors() -> bool:
    """Whether the user asked for tracebacks (HYDRA_FULL_ERROR=1)."""
    return os.environ.get("TRISTYLE_FULL_ERROR") == "1"
