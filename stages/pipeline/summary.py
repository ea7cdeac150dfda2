"""The console summary of a finished run: what each stage cost and whether the promised numbers were reached."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from stages.core.artifact import Artifact
from stages.report.glossary import TARGETS, find


def summary(artifacts: Mapping[str, Artifact]) -> Table:
    """One row per stage (wall clock and CPU minutes of the run that made it), then one per promised number measured."""
    found = [(target, value) for target in TARGETS if (value := find(artifacts, target)) is not None]
    table = Table("", "reached", "at most", box=None, header_style="dim", show_header=bool(found))
    for kind, artifact in artifacts.items():
        cost = artifact.manifest.get("cost", {})
        table.add_row(kind, f"{cost.get('seconds', 0) / 60:.1f} min", "", style="dim")
    for target, value in found:
        colour = "green" if value <= target.limit else "red"
        table.add_row(target.label, f"[{colour}]{value:.3g} {target.unit}[/]", f"{target.limit:g} {target.unit}")
    return table


def print_summary(artifacts: Mapping[str, Artifact]) -> None:
    """Print `summary` on standard output; plain text where that is not a terminal."""
    Console(highlight=False).print(summary(artifacts))
