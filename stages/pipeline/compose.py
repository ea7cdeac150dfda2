"""What a composed config describes, checked as a whole: the settings that change no result, and the stages.

Every stage that will run, and every file that the config names, is checked here before the first input is opened.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stages.core.artifact import KINDS
from stages.core.settings import ConfigError, choice, number
from stages.core.stage import Stage
from stages.core.tracking import Tracker
from stages.core.weights import allow_networks
from stages.pipeline.targets import TARGET, build, check_names, completed, find_class
from stages.style import presets as published
from stages.training import distributed

# ${published:KEY,${style.preset},${data.size}}: published settings of StyleGAN2-ADA (style/recipe=published).
OmegaConf.register_new_resolver("published", published.value, replace=True)


DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, and either under WSL


@dataclass
class Settings:
    """The part of the config that does not change results."""

    stage: str
    out: Path
    device: str
    workers: int
    tracker: Callable[..., Tracker]
    force: bool
    objective: str | None
    part: str | None = None

    def __post_init__(self) -> None:
        choice("stage", self.stage, ("all", *KINDS))
        number("workers", self.workers, 1, 256, integer=True)
        if self.part is not None:
            self._check_part(self.part)
        if self.objective is not None and self.objective.partition(".")[0] not in KINDS:
            raise ConfigError(
                "objective", f"{self.objective!r} is not a measure", "Write <stage>.<measure>, e.g. student.face_error"
            )

    @property
    def shard(self) -> bool:
        """Whether this process writes one shard, beside others that write theirs."""
        return self.part is not None and self.part != "train"

    def _check_part(self, part: str) -> None:
        if not re.fullmatch(r"train|0|[1-9]\d*", part):
            raise ConfigError("part", f"{part!r} is unknown", "Choose null, train, or a shard's number (0, 1, 2, ...)")
        if self.stage != "pair":
            raise ConfigError("part", f"stage={self.stage} is not made in parts", "Set stage=pair, or part=null")
        if self.shard and distributed.world() > 1:
            raise ConfigError("part", "one process writes a shard", "Leave torchrun to part=train, or to the whole")
        if self.shard and self.force:
            raise ConfigError("force", "would clear the shards of other jobs away", "Use it with part=train")


def instantiate_stages(cfg: DictConfig, kinds: Sequence[str] = KINDS) -> tuple[Settings, dict[str, Stage]]:
    """Build and check everything that a config describes, without opening an artifact.

    Args:
        cfg: the composed config.
        kinds: the stages that are looked at; those that take part must be among them.

    Raises:
        ConfigError: names the full key, the problem and the remedy.
    """
    settings = Settings(
        stage=cfg.stage, out=Path(cfg.out), device=_device(cfg.device), workers=cfg.workers,
        tracker=_tracker(cfg), force=cfg.force, objective=cfg.objective,
        part=None if cfg.get("part") is None else str(cfg.part),
    )  # fmt: skip
    stages = {kind: _instantiate(cfg, kind) for kind in kinds}

    # A file that is missing is found now, not after hours of an earlier stage.
    for kind in kinds:
        for key, path in stages[kind].files().items():
            if not Path(path).exists():
                raise ConfigError(f"{kind}.{key}", f"{path} does not exist", "Check the path")
    return settings, {kind: stages[kind] for kind in wanted(settings.stage)}


def described(cfg: DictConfig, kind: str) -> dict[str, Any]:
    """All settings of a stage, defaults included: what its artifact records and its key is made of."""
    if not isinstance(cfg.get(kind), DictConfig):
        raise ConfigError(kind, "no variant is chosen", f"Say {kind}=<variant>; `tristyle --help` lists them")
    node = OmegaConf.to_container(cfg[kind], resolve=True)
    settings: dict[str, Any] = completed(node, kind, allowed(cfg))
    return settings


def allowed(cfg: DictConfig) -> list[str]:
    """The packages beside this one whose classes the config may name; they may lie in the working folder."""
    packages = [str(package) for package in cfg.get("allow") or []]
    if packages and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    allow_networks(packages)
    return packages


def check_allow(cfg: DictConfig, words: Sequence[str]) -> None:
    """Refuse packages that a yaml allows: whoever runs a file from elsewhere has to see what code it calls.

    Args:
        cfg: the composed config.
        words: the job's settings on the command line.

    Raises:
        ConfigError: `allow` is not among them, or names something that is not a package.
    """
    for package in cfg.get("allow") or []:
        if not any(word.startswith("allow=") for word in words):
            raise ConfigError("allow", f"a yaml names {package!r}", "Say it on the command line: allow=[...]")
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", str(package)):
            raise ConfigError("allow", f"{package!r} is not the name of a package", "Write e.g. allow=[mypkg]")


def wanted(stage: str) -> list[str]:
    """The kinds whose settings take part in `stage=<stage>`: the whole chain up to it."""
    return list(KINDS) if stage == "all" else list(KINDS[: KINDS.index(stage) + 1])


def _device(name: str) -> str:
    together = distributed.world() > 1
    if name != "auto":
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", str(name)):
            raise ConfigError("device", f"{name!r} is unknown", "Choose auto, cpu, mps, cuda or cuda:<number>")
        if together and ":" in str(name):
            raise ConfigError("device", f"{name} for every process", "Choose cuda: torchrun gives each its own")
        _check_device(str(name))
        return str(name)
    driven = sys.platform != "linux" or any(Path(driver).exists() for driver in DRIVERS)
    if not driven and "torch" not in sys.modules:
        return "cpu"  # known without torch, which takes a second or two to load
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return "cuda" if together else f"cuda:{_job_number() % torch.cuda.device_count()}"


def _check_device(name: str) -> None:
    """Refuse an accelerator that this machine lacks."""
    if name == "cpu":
        return
    import torch

    kind, _, number = name.partition(":")
    there = torch.backends.mps.is_available() if kind == "mps" else torch.cuda.is_available()
    if not there or (number and int(number) >= torch.cuda.device_count()):
        raise ConfigError("device", f"{name} is not on this machine", "Choose auto or cpu")


def side_by_side(config: Any) -> bool:
    """Whether the jobs of this config with `hydra` in it run in processes of their own and in no order.

    That is with any launcher but Hydra's basic one.
    """
    return not str(config.hydra.launcher._target_).endswith(".BasicLauncher")


def _job_number() -> int:
    """Which of the jobs side by side on this machine this is, so that each gets a GPU in turn; 0 otherwise."""
    from hydra.core.hydra_config import HydraConfig

    found: Any = HydraConfig.instance().cfg
    if found is None or not side_by_side(found):
        return 0
    return int(OmegaConf.select(found, "hydra.job.num", default=0, throw_on_missing=False) or 0)


def _instantiate(cfg: DictConfig, kind: str) -> Stage:
    """The stage of one kind, built from its completed settings."""
    settings = described(cfg, kind)
    if TARGET not in settings:
        raise ConfigError(f"{kind}.{TARGET}", "no class is named", f"Name a stage, e.g. by {kind}=<variant>")
    stage = build(settings, kind, allowed(cfg))
    if not isinstance(stage, Stage):
        raise ConfigError(f"{kind}.{TARGET}", f"{settings[TARGET]} is not a stage", "Inherit stages.core.stage.Stage")
    return stage


def _tracker(cfg: DictConfig) -> Callable[..., Tracker]:
    """What makes a stage's tracker, from its folder, name and config."""
    if not isinstance(cfg.get("tracker"), DictConfig):
        raise ConfigError("tracker", "none is chosen", "Choose tracker=jsonl or tracker=wandb")
    node: Any = OmegaConf.to_container(cfg.tracker, resolve=True)
    settings = {name: value for name, value in node.items() if name != TARGET}
    if TARGET not in node:
        raise ConfigError(f"tracker.{TARGET}", "no class is named", "Choose tracker=jsonl or tracker=wandb")
    made = find_class(node[TARGET], f"tracker.{TARGET}", allowed(cfg))
    if not (isinstance(made, type) and issubclass(made, Tracker)):
        raise ConfigError(
            f"tracker.{TARGET}", f"{node[TARGET]} is not a tracker", "Inherit stages.core.tracking.Tracker"
        )
    check_names(settings, made, "tracker")
    return partial(made, **settings)
