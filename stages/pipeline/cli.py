"""`tristyle`: compose the configuration and run it. Hydra is loaded when there is something to compose."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.faults import REFERENCE, end, settle_streams
from stages.core.settings import ConfigError, TristyleError
from stages.pipeline.renamed import RENAMED_KEYS
from stages.training import distributed
from stages.training.signals import unmoved

HELP = """\
tristyle: photographs and a handful of style pictures in, a real-time portrait stylizer out.

  tristyle                              run the whole chain with experiment=rendered-64
  tristyle stage=STAGE                  run one stage: data | style | pair | student | export
  tristyle -m pair=mask,plain           run the variants one after another, compare them on a page
  tristyle -m stage=pair part=0,1 launch=joblib    write shards of pairs side by side
  tristyle data=folders data.path=DIR   your own photo/ and style/<name>/ pictures
  tristyle style.train.images=20000     change any setting
  tristyle --config-dir=. pair=mine allow=[mypkg]  a class of your own (stages/pipeline/README.md)
  tristyle --cfg job                    print all settings
  tristyle --cfg job --resolve -p pair  print one stage's settings
  tristyle --version                    print the version
  tristyle --hydra-help                 flags of the configuration framework

Choices (GROUP=OPTION):
"""

# What joblib and submitit raise when a job's process is gone. Either is an extra, so they are known by name.
LOST = ("TerminatedWorkerError", "UncompletedJobError")
LOST_LINE = (
    "a job's process ended without a word: killed, or out of memory. What was finished stays; run the same command "
    "again, with fewer jobs at a time (hydra.launcher.n_jobs) where memory is short."
)

OWN_SETTING = re.compile(r"(data|style|pair|student|export|tracker)(\.\w+)+=")  # no group (style/recipe=), no +, no ~
MOST_LINES = 100  # of a message of Hydra's: all choices of a group are named
CONF = Path(__file__).resolve().parents[2] / "conf"  # a checkout; an installed wheel has stages/conf instead


def conf_path() -> str:
    """Hydra's config path: the checkout's folder, else the packaged one."""
    return str(CONF) if (CONF / "config.yaml").exists() else "pkg://stages.conf"


def _help() -> str:
    """The help text with the options of every config group. Read from the folder: composing takes a second."""
    folder = CONF if CONF.is_dir() else Path(__file__).resolve().parents[1] / "conf"
    groups: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.yaml")):
        group = file.parent.relative_to(folder).as_posix()
        groups.setdefault(group, []).append(file.stem)
    groups.pop(".")
    return HELP + "".join(f"  {group}: {', '.join(options)}\n" for group, options in sorted(groups.items()))


def main() -> None:
    """Console entry point. Exit code 2 and one line for everything a user can mend."""
    settle_streams()
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(_help())
        return
    if sys.argv[1:] == ["--version"]:
        from stages.core.version import own_version

        print(f"tristyle {own_version()}")
        return
    if hasattr(signal, "SIGUSR1") and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, unmoved)  # a queue's warning; a training keeps its state then
    with _left_together():
        _compose_and_run()


def freely(arguments: Sequence[str]) -> list[str]:
    """Command-line words with which every setting of a stage can be set, whether a yaml mentions it or not.

    Hydra refuses `pair.train.accumulate=2` where no yaml writes it, for it does not know the classes. It is handed
    `++pair.train.accumulate=2`, and the class refuses what it does not have.

    Raises:
        ConfigError: a variant's old name.
    """
    for key, _, value in (word.partition("=") for word in arguments):
        for option in value.split(","):
            if new := RENAMED_KEYS.get(f"{key}={option}"):
                raise ConfigError(f"{key}={option}", f"is called {new} now", f"Write {new}")
    return [f"++{word}" if OWN_SETTING.match(word) else word for word in arguments]


def _compose_and_run() -> None:
    # Hydra prints compose errors itself and leaves with 1 unless asked for the exception; ours is one line and 2.
    os.environ["TRISTYLE_FULL_ERROR"] = os.environ.get("HYDRA_FULL_ERROR", "0")
    full = os.environ["TRISTYLE_FULL_ERROR"] == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from stages.pipeline.hydra_private import guard_hydra
    from stages.pipeline.run import (
        let_the_first_speak,  # this import also registers the resolver that the yaml files use
    )

    typed = sys.argv
    try:
        guard_hydra()
        sys.argv = [typed[0], *freely(typed[1:])]
        hydra.main(config_path=conf_path(), config_name="config", version_base="1.3")(_job)()
    except (HydraException, OmegaConfBaseException, TristyleError) as error:
        let_the_first_speak()
        if full:
            raise
        print(f"tristyle: {_first_lines(error)}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except (Exception, KeyboardInterrupt) as error:
        let_the_first_speak()
        if full:
            raise
        if type(error).__name__ in LOST:
            error = TristyleError(LOST_LINE)
        raise SystemExit(end("tristyle", error)) from None
    finally:
        sys.argv = typed
        os.environ["HYDRA_FULL_ERROR"] = os.environ["TRISTYLE_FULL_ERROR"]


def _job(cfg: Any) -> float | None:
    """One composed job. SystemExit, unlike an exception, also stops the jobs that follow in a sweep.

    Jobs side by side go on without the one that failed; `SweepCallback` says at the end what became of it.
    """
    from hydra.core.hydra_config import HydraConfig

    from stages.pipeline.compose import side_by_side
    from stages.pipeline.run import one_line_errors, run

    if side_by_side(HydraConfig.instance().cfg):
        return run(cfg)
    with one_line_errors():
        return run(cfg)


@contextmanager
def _left_together() -> Iterator[None]:
    """The processes of a torchrun end together, or at once after a failure: torch aborts one that ends connected.

    They end without Python's own clean-up: now and then a thread of the connection outlives it, which aborts, too.
    """
    try:
        yield
    except BaseException as error:
        if not _connected():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        _leave(int(error.code or 0) if isinstance(error, SystemExit) else 1)
    if _connected():
        from torch import distributed

        distributed.barrier()
        distributed.destroy_process_group()
        _leave(0)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _connected() -> bool:
    if distributed.world() == 1:
        return False
    import torch

    return torch.distributed.is_initialized()


def _first_lines(error: Exception) -> str:
    """Hydra's message on one line: what is wrong, and the options it knows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    noise = ("full_key", "object_type", "reference_type", "To append", "Config search path", "provider=")
    kept = [line for line in lines if not line.startswith(noise)]
    text = "; ".join(kept[:MOST_LINES]).replace(":; ", ": ").rstrip(".")
    if word := getattr(error, "override", None):
        key, _, value = str(word).lstrip("+").partition("=")
        quoted = f"'{key}=\"{value}\"'" if value else "'KEY=\"VALUE\"'"
        return f"{key}: {value!r} cannot be read as it stands. Quote it twice, for the shell and for Hydra: {quoted}"
    if "nterpolation" in text:
        return f"{text}. {REFERENCE}"
    if "hydra/launcher" in text:
        return f"{text}. Install the launchers: pip install 'tristyle[launch]'"
    return text + (". Check the spelling; `tristyle --help` lists the settings." if "ould not" in text else "")


if __name__ == "__main__":
    main()
