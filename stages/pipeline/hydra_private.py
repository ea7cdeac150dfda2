"""What is taken from Hydra that it does not promise to keep: for hydra-core 1.3 (pyproject.toml pins it below 1.4).

`tests/pipeline/test_hydra_private.py` fails when a version changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from stages.core.settings import ConfigError


def split_jobs(words: Sequence[str]) -> tuple[list[list[str]], set[str]]:
    """The jobs that Hydra's own sweeper makes of a command line.

    Args:
        words: settings of a multirun, e.g. ``["pair=mask,plain", "workers=1"]``.

    Returns:
        The words of every job, and the keys that are swept.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(words))
    swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for batch in batches for job in batch], swept


def job_error(job_return: Any) -> BaseException | None:
    """What ended a job; None for one that came to its end. The public property would print before it raises."""
    found = job_return._return_value
    return found if isinstance(found, BaseException) else None


# What Hydra itself may build. Its own node of the config is as open to a yaml file as any other.
HYDRA_TARGETS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "stages.pipeline.sweep.SweepCallback",
)
HANDLERS = ("logging.StreamHandler", "logging.NullHandler")
LOG_FOLDER = "${hydra.runtime.output_dir}/"


def guard_hydra() -> None:
    """From now on refuse a composed config whose `hydra` node would call or write something of a yaml's choice."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    load = ConfigLoaderImpl.load_configuration
    if hasattr(load, "guarded"):
        return

    def checked(loader: Any, *arguments: Any, **options: Any) -> Any:
        cfg = load(loader, *arguments, **options)
        words = options.get("overrides") or (arguments[1] if len(arguments) > 1 else [])
        check_hydra(OmegaConf.to_container(cfg, resolve=False), words)
        return cfg

    checked.guarded = True  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_configuration = checked  # type: ignore[assignment, method-assign]


def check_hydra(cfg: Any, words: Sequence[str]) -> None:
    """Refuse what a yaml would have Hydra call, log to, or set in the environment.

    Args:
        cfg: the whole config, not resolved.
        words: the settings on the command line: what stands there was typed by the user.

    Raises:
        ConfigError: names the key.
    """
    node = cfg.get("hydra") or {}
    packages = cfg.get("allow") or [] if any(word.startswith("allow=") for word in words) else []

    # Classes that Hydra builds, and the handlers of its logs, which may be any callable and write any file.
    for key, value in _leaves(node, "hydra"):
        if key.endswith("._target_") and value not in HYDRA_TARGETS:
            if not any(str(value).startswith(f"{package}.") for package in packages):
                raise ConfigError(
                    key, f"{value!r} is not a plugin that is known", "Say allow=[<its package>], or remove it"
                )

        # Logging builds classes by names of its own, and may write to any file.
        if not key.startswith(("hydra.job_logging.", "hydra.hydra_logging.")):
            continue
        name = key.rpartition(".")[2]
        to_file = value == "logging.FileHandler" or name == "filename" and str(value).startswith(LOG_FOLDER)
        bad_class = name == "class" and value not in HANDLERS and not to_file
        bad_place = name == "filename" and (not to_file or ".." in str(value))
        if (
            name == "()"
            or bad_class
            or bad_place
            or str(value).startswith(("ext://", "cfg://"))
            and "sys.std" not in value
        ):
            raise ConfigError(key, f"{value!r} is not a log that is written here", "Leave hydra's logging as it is")

    if (node.get("job") or {}).get("env_set") and not any("hydra.job.env_set" in word for word in words):
        raise ConfigError("hydra.job.env_set", "a yaml sets the environment", "Set it on the command line")


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{key}.{number}")
    else:
        yield key, node
