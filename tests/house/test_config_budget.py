"""The configuration stays small enough to read: what a class has as default is not written again in a yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stages.core.artifact import KINDS

ALL, ONE_JOB = 600, 150  # values in all yaml files; in the stages of one resolved job


def leaves(node: Any) -> int:
    """Values that somebody could set: scalars, and lists as one."""
    return sum(map(leaves, node.values())) if isinstance(node, dict) else 1


def test_all_files_together(root: Path) -> None:
    counts = {}
    for path in sorted((root / "conf").rglob("*.yaml")):
        node = yaml.safe_load(path.read_text()) or {}
        counts[path.relative_to(root).as_posix()] = leaves({k: v for k, v in node.items() if k != "defaults"})
    largest = sorted(counts.items(), key=lambda item: -item[1])[:8]
    assert sum(counts.values()) <= ALL, f"{sum(counts.values())} values; the largest: {largest}"


@pytest.mark.parametrize("overrides", [[], ["style/recipe=few-shot", "style/sweep=pareto"], ["pair=plain"]])
def test_one_job(root: Path, overrides: list[str]) -> None:
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        cfg = compose("config", overrides)
    counts = {kind: leaves(OmegaConf.to_container(cfg[kind])) for kind in KINDS}
    assert sum(counts.values()) <= ONE_JOB, counts
