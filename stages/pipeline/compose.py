"""What a composed config describes, checked as a whole: the settings that change no result, and the stages.

Every stage that will run, and every file that the config names, is checked here before the first input is opened.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omegaconf import DictConfig, OmegaConf

from stages.core.artifact import KINDS, Artifact
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, choice, number
from stages.style import presets as published
from stages.training import distributed

# ${published:KEY,${style.preset},${data.size}}: published settings of StyleGAN2-ADA (style/recipe=published).
OmegaConf.register_new_resolver("published", published.value, replace=True)


DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, and either under WSL


class Stage(Protocol):
    """What every `stages/<kind>/stage.py` offers. `reads` names the artifact kinds it needs.

    A stage that trains also has `join`, with the arguments of `run`: the training alone, which writes nothing, for all
    processes of a torchrun but the first. One that needs what may not be installed has `check`, which raises before
    any stage runs.
    """

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
    part: str | None = None

    def __post_init__(self) -> None:
        choice("stage", self.stage, ("all", *KINDS))
        number("workers", self.workers, 1, 256, integer=True)
        if self.part is not None:
            self._check_part(self.part)
        if self.objective is not None and self.objective.partition(".")[0] not in KINDS:
            raise ConfigError(
                "objective", f"{self.objective!r} is no measure", "Write <stage>.<measure>, e.g. student.face_error"
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
        kinds: the stages that are looked at; those that take part must be among them.

    Raises:
        ConfigError: names the full key, the problem and the remedy.
    """
    settings = Settings(
        stage=cfg.stage, out=Path(cfg.out), device=_device(cfg.device), workers=cfg.workers,
        tracker=cfg.tracker.backend, force=cfg.force, objective=cfg.objective,
        part=None if cfg.get("part") is None else str(cfg.part),
    )  # fmt: skip
    stages = {kind: _instantiate(cfg[kind], kind) for kind in kinds}
    for kind in kinds:
        for key, path in stages[kind].files().items():
            if not Path(path).exists():
                raise ConfigError(f"{kind}.{key}", f"{path} does not exist", "Check the path")
    return settings, {kind: stages[kind] for kind in wanted(settings.stage)}


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
        return str(name)
    driven = sys.platform != "linux" or any(Path(driver).exists() for driver in DRIVERS)
    if not driven and "torch" not in sys.modules:
        return "cpu"  # known without torch, which takes a second or two to load
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return "cuda" if together else f"cuda:{_job_number() % torch.cuda.device_count()}"


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
