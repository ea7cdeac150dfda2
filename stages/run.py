"""From a composed config to sealed artifacts: open inputs, find the place, run or resume, seal, report.

This is where Hydra's `DictConfig` ends: a stage receives plain constructor arguments. Every stage that will run, and
every file that the config names, is checked before the first input is opened.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omegaconf import DictConfig, OmegaConf

from stages.artifact import (
    KINDS,
    SCRATCH,
    Artifact,
    ArtifactError,
    artifact_key,
    hash_path,
    locked,
    open_artifact,
    seal,
)
from stages.config import ConfigError, TristyleError, choice, number
from stages.io import write_json
from stages.runtime import Runtime
from stages.style import published
from stages.tracking import Tracker

# ${published:KEY,${data.size}}: settings of the StyleGAN2-ADA paper that follow the pictures' size (style/recipe=auto).
OmegaConf.register_new_resolver("published", published.value, replace=True)

REPORTS: list[Path] = []  # the reports of this process, in order: a sweep's index page sets them side by side


class Stage(Protocol):
    """What every `stages/<kind>/stage.py` offers. `reads` names the artifact kinds it needs."""

    reads: ClassVar[tuple[str, ...]]

    def files(self) -> dict[str, Path]:
        """Config key -> file or folder it names; they are checked and hashed into the key."""
        ...

    def run(self, inputs: dict[str, Artifact], out: Path, runtime: Runtime) -> dict[str, float]:
        """Write the artifact's files under `out` and return its measures."""
        ...


@dataclass
class Settings:
    """The part of the config that does not change results."""

    stage: str
    out: Path
    device: str
    workers: int
    tracker: str
    force: bool
    objective: str | None

    def __post_init__(self) -> None:
        choice("stage", self.stage, ("all", *KINDS))
        number("workers", self.workers, 1, 256, integer=True)
        if self.objective is not None and self.objective.partition(".")[0] not in KINDS:
            raise ConfigError(
                "objective", f"{self.objective!r} is no measure", "Write <stage>.<measure>, e.g. student.face_error"
            )


def instantiate_stages(cfg: DictConfig) -> tuple[Settings, dict[str, Stage]]:
    """Build and check everything that a config describes, without opening an artifact.

    Raises:
        ConfigError: names the full key, the problem and the remedy.
    """
    settings = Settings(
        stage=cfg.stage, out=Path(cfg.out), device=_device(cfg.device), workers=cfg.workers,
        tracker=cfg.tracker.backend, force=cfg.force, objective=cfg.objective,
    )  # fmt: skip
    stages = {kind: _instantiate(cfg[kind], kind) for kind in KINDS}
    for kind in KINDS:
        for key, path in stages[kind].files().items():
            if not Path(path).exists():
                raise ConfigError(f"{kind}.{key}", f"{path} does not exist", "Check the path")
    return settings, {kind: stages[kind] for kind in wanted(settings.stage)}


def wanted(stage: str) -> list[str]:
    """The kinds whose settings take part in `stage=<stage>`: the whole chain up to it."""
    return list(KINDS) if stage == "all" else list(KINDS[: KINDS.index(stage) + 1])


def _device(name: str) -> str:
    if name != "auto":
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", str(name)):
            raise ConfigError("device", f"{name!r} is unknown", "Choose auto, cpu, mps, cuda or cuda:<number>")
        return str(name)
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_targets(node: Any, key: str) -> None:
    """Refuse any `_target_` outside this package: a yaml file must not be able to call arbitrary code."""
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and not str(target).startswith("stages."):
            raise ConfigError(f"{key}._target_", f"{target!r} is outside this package", "Name a class below stages.")
        for name, value in node.items():
            _check_targets(value, f"{key}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_targets(value, f"{key}.{index}")


def _instantiate(node: DictConfig, kind: str) -> Stage:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    _check_targets(OmegaConf.to_container(node, resolve=True), kind)
    try:
        stage: Stage = instantiate(node, _convert_="object")
        return stage
    except InstantiationException as error:
        place = re.search(r"full_key: (\S+)", str(error))
        prefix = place.group(1) if place else kind
        prefix = prefix if prefix.startswith(kind) else f"{kind}.{prefix}"
        cause: BaseException | None = error.__cause__
        if isinstance(cause, ConfigError):
            raise ConfigError(f"{prefix}.{cause.key}", cause.problem, cause.remedy) from error
        if isinstance(cause, TypeError):
            wrong = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
            if wrong:
                raise ConfigError(f"{prefix}.{wrong.group(1)}", "no such setting", "Check the spelling") from error
        while cause is not None and cause.__cause__ is not None:
            cause = cause.__cause__
        raise ConfigError(
            prefix, str(cause or error).splitlines()[0], "Check this part of the configuration"
        ) from error


def run(cfg: DictConfig) -> float | None:
    """Run `cfg.stage` (or the whole chain) and return the measure that `objective` names.

    Raises:
        TristyleError: one line for the user.
    """
    settings, stages = instantiate_stages(cfg)
    resolved = {kind: OmegaConf.to_container(cfg[kind], resolve=True) for kind in stages}
    files = {
        kind: {key: hash_path(Path(path)) for key, path in stage.files().items()} for kind, stage in stages.items()
    }
    _check_out(settings.out)
    artifacts: dict[str, Artifact] = {}
    for kind, stage in stages.items():
        if settings.stage not in ("all", kind) and not _needed(kind, settings.stage, stages):
            continue
        inputs = {name: artifacts[name] for name in stage.reads}
        config = _portable(resolved[kind], stage.files())
        key = artifact_key(kind, config, {name: item.digest for name, item in inputs.items()}, files[kind])
        place = settings.out / kind / key
        if settings.stage in ("all", kind):
            artifacts[kind] = _make(kind, stage, config, inputs, place, settings)
        else:
            artifacts[kind] = _input(place, kind, settings)
    return _report(artifacts, settings)


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
        return open_artifact(place, kind)
    except ArtifactError as error:
        if (place / "manifest.json").exists():
            raise
        raise ArtifactError(
            f"{place}: stage={settings.stage} needs the {kind} artifact with these settings. "
            f"Run stage={kind} (or stage=all) first."
        ) from error


def _make(
    kind: str, stage: Stage, config: dict[str, Any], inputs: dict[str, Artifact], place: Path, settings: Settings
) -> Artifact:
    """Open a finished artifact, or run (resume) the stage under the folder's lock and seal it."""
    if (place / "manifest.json").exists() and not settings.force:
        artifact = open_artifact(place, kind)
        say(f"{kind:<8} already done  {place}")
        return artifact
    with locked(place):
        _check_place(place)
        if settings.force:
            _clear(place)
        say(f"{kind:<8} {'resuming' if (place / SCRATCH).exists() else 'running'}  {place}")
        (place / SCRATCH).mkdir(exist_ok=True)
        write_json(place / "config.json", config)
        begun, cpu = time.time(), _cpu_seconds()
        tracker = Tracker(place, settings.tracker, name=f"{kind}-{place.name[:6]}", config=config)
        metrics = stage.run(inputs, place, Runtime(settings.device, settings.workers, tracker))
        tracker.close(metrics)
        cost = {"seconds": round(time.time() - begun, 1), "cpu_seconds": round(_cpu_seconds() - cpu, 1)}
        artifact = seal(place, kind, config=config, inputs=inputs, metrics=metrics, code=_code(settings), cost=cost)
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, (int, float)))
    say(f"{kind:<8} done in {cost['seconds']:.0f} s  {numbers}")
    return artifact


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
    from importlib.metadata import PackageNotFoundError, version

    import torch

    try:
        own = version("tristyle")
    except PackageNotFoundError:
        own = "checkout"
    here = Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "version": own,
        "git": git.stdout.strip(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": settings.workers,
        "device": settings.device,
    }


def _report(artifacts: dict[str, Artifact], settings: Settings) -> float | None:
    from stages.summary import print_summary

    last = list(artifacts.values())[-1]
    path = settings.out / "reports" / f"{last.kind}-{last.path.name}" / "report.html"
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
    from stages.report import write_report

    write_report(artifacts, path, command=_command())


def _command() -> str:
    """This job's command line, which the report shows for making the run again."""
    from hydra.core.hydra_config import HydraConfig

    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return shlex.join(["tristyle", *overrides])


def say(line: str) -> None:
    """One line of the console summary."""
    print(line, flush=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors meant for users into one line on stderr and exit code 2; HYDRA_FULL_ERROR=1 shows the traceback."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (TristyleError, OmegaConfBaseException) as error:
        if os.environ.get("TRISTYLE_FULL_ERROR") == "1":
            raise
        print(f"tristyle: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
