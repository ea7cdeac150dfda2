"""What is taken from Hydra that it does not promise to keep: for hydra-core 1.3 (pyproject.toml pins it below 1.4).

`tests/pipeline/test_hydra_private.py` fails when a version changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
