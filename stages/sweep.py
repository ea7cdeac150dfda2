"""Around a multirun: check every job before the first one runs, and set the runs side by side afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback


class SweepCallback(Callback):
    """Hydra's basic launcher finds a mistake in job five after hours of jobs one to four. This one does not."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Compose and instantiate every job of the sweep.

        Raises:
            SystemExit: 2, with one line that names the key.
        """
        from hydra import compose
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from stages.run import REPORTS, instantiate_stages, one_line_errors

        REPORTS.clear()  # a second sweep in one process starts its own index
        parsed = OverridesParser.create().parse_overrides(config.hydra.overrides.task)
        with one_line_errors():
            for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None):
                for overrides in batch:
                    instantiate_stages(compose(config_name="config", overrides=list(overrides)))

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Write the index page of all runs of the sweep."""
        from stages.report import write_index
        from stages.run import REPORTS, say

        if REPORTS:
            index = Path(config.out) / "index.html"
            write_index(list(dict.fromkeys(REPORTS)), index)
            say(f"index    {index}")
