"""Around a multirun: check every job before the first one runs, and set the runs side by side afterwards.

Jobs may run in processes of their own, on other machines too (`launch=`). All they leave the sweep is a file,
`<out>/.sweep/<time>/jobs/<number>.json`: the reports that the job wrote, or the error that ended it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from stages.core.artifact import KINDS
from stages.core.files import read_json
from stages.core.settings import ConfigError, TristyleError
from stages.pipeline.compose import side_by_side
from stages.pipeline.hydra_private import job_error, split_jobs
from stages.training import distributed


class SweepCallback(Callback):
    """Hydra's basic launcher finds a mistake in job five after hours of jobs one to four. This one does not."""

    def __init__(self) -> None:
        self.jobs: list[str] = []  # what sets each job apart from the others: the swept settings

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Refuse a launcher where there is nothing to launch: Hydra would leave it out without a word.

        Raises:
            SystemExit: 2, with one line.
        """
        with _refusing():
            if side_by_side(config):
                raise ConfigError(
                    "launch", "is for the jobs of a multirun, and this is one job", "Add -m, or leave launch= out"
                )

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Compose and instantiate every job of the sweep; jobs that differ in `part` alone count as one.

        Raises:
            SystemExit: 2, with one line that names the key.
        """
        from hydra import compose

        from stages.pipeline.compose import check_allow, instantiate_stages

        jobs, swept = split_jobs(config.hydra.overrides.task)
        self.jobs = [
            " ".join(word.removeprefix("++") for word in job if word.partition("=")[0] in swept) for job in jobs
        ]
        checked: dict[tuple[str, ...], Any] = {}
        with _refusing():
            # Every job is composed once; of a stage in parts one job stands for all.
            for job in jobs:
                settings = _without_part(job)
                if settings not in checked:
                    cfg = compose(config_name="config", overrides=list(settings))
                    check_allow(cfg, settings)
                    checked[settings] = instantiate_stages(cfg)[0]
            parts = [_part(job) for job in jobs]
            for job, part in zip(jobs, parts, strict=True):
                replace(checked[_without_part(job)], part=part)

            # What no job alone can see.
            if len({entry.out for entry in checked.values()}) > 1:
                remedy = "Give a sweep one folder; runs lie in it by settings"
                raise ConfigError("out", "differs from job to job", remedy)
            if side_by_side(config):
                _check_order({entry.stage for entry in checked.values()}, set(parts))

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """Begin a list of this job's reports."""
        from stages.pipeline.run import REPORTS

        REPORTS.clear()

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """Leave the sweep a word of how the job went. A user's mistake ends this job and no other."""
        from hydra.core.utils import JobStatus
        from omegaconf.errors import OmegaConfBaseException

        from stages.core.files import write_json
        from stages.pipeline.run import REPORTS, full_errors

        if config.hydra.mode is None or config.hydra.mode.name != "MULTIRUN":
            return
        word: dict[str, Any] = {"reports": [str(path) for path in REPORTS]}
        error = job_error(job_return)
        mendable = isinstance(error, (TristyleError, OmegaConfBaseException)) and not full_errors()
        if job_return.status == JobStatus.FAILED and mendable:
            word["error"] = str(error).splitlines()[0]
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        write_json(_word(config, config.hydra.job.num), word)

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Write the index page of all runs of the sweep; say what went wrong.

        Raises:
            SystemExit: 2, after one line for every job that failed.
        """
        from stages.pipeline.run import say
        from stages.report.index import write_index

        words = [_read(_word(config, number)) for number in range(len(self.jobs))]
        reports = [Path(path) for word in words for path in word["reports"]]
        if reports:
            index = Path(config.out) / "index.html"
            write_index(list(dict.fromkeys(reports)), index)
            say(f"index    {index}")
        failed = [(job, word["error"]) for job, word in zip(self.jobs, words, strict=True) if "error" in word]
        for job, error in failed:
            print(f"tristyle: {job}: {error}", file=sys.stderr, flush=True)
        if failed:
            raise SystemExit(2)


@contextmanager
def _refusing() -> Iterator[None]:
    """End the program at a mistake, with its traceback where that is wanted: Hydra would only warn and go on."""
    from stages.pipeline.run import one_line_errors

    try:
        with one_line_errors():
            yield
    except Exception as error:
        traceback.print_exception(error)
        raise SystemExit(2) from None


def _check_order(stages: set[str], parts: set[str | None]) -> None:
    """Refuse jobs of which one needs another to be done: side by side they have no order."""
    remedy = "Sweep one after another, or leave launch= out"
    if len(stages) > 1:
        chain = ", ".join(kind for kind in ("all", *KINDS) if kind in stages)
        raise ConfigError("launch", f"jobs side by side have no order, and {chain} need one", remedy)
    if len(parts) > 1 and parts & {None, "train"}:
        raise ConfigError("launch", "shards are written after part=train and before the seal", remedy)
    if distributed.world() > 1:
        raise ConfigError("launch", "does not go with torchrun, whose processes train together", "Choose one of them")


def _without_part(job: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in job if not word.startswith("part="))


def _part(job: list[str]) -> str | None:
    """The `part` that a job's overrides name."""
    named = [word.partition("=")[2] for word in job if word.startswith("part=")]
    return named[-1] if named and named[-1] != "null" else None


def _word(config: Any, number: int) -> Path:
    return Path(config.hydra.sweep.dir) / "jobs" / f"{number}.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(read_json(file, {}))
    except (OSError, TristyleError):
        return {"reports": [], "error": f"ended without a word; its log lies below {file.parent.parent}"}
