"""A yaml from elsewhere names classes of a list, and nothing else of this package or of Hydra is called by it."""

from __future__ import annotations

import dataclasses
import importlib
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from stages.core.settings import ConfigError
from stages.pipeline.hydra_private import check_hydra
from stages.pipeline.targets import OWN_TARGETS, find_class


def held(hint: Any) -> typing.Iterator[type]:
    """The dataclasses in a type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from held(part)


def test_the_list_is_what_conf_names_and_what_those_classes_hold(root: Path) -> None:
    yamls = "\n".join(path.read_text() for path in (root / "conf").rglob("*.yaml"))
    named = set(re.findall(r"^[^#\n]*?_target_: *(stages[\w.]+)", yamls, re.M)) - {
        "stages.pipeline.sweep.SweepCallback"
    }
    waiting, found = sorted(named), set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        module, _, member = name.rpartition(".")
        kind = getattr(importlib.import_module(module), member)
        if dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            waiting += [
                f"{c.__module__}.{c.__qualname__}" for f in dataclasses.fields(kind) for c in held(hints[f.name])
            ]
    assert found == OWN_TARGETS


@pytest.mark.parametrize(
    "target",
    [
        "stages.core.files.write_bytes", "stages.core.files.write_json", "stages.core.artifact.Path.unlink",
        "stages.core.artifact.shutil.rmtree", "stages.pipeline.run.os.system", "stages.pipeline.run.subprocess.run",
        "stages.core.artifact.locked", "stages.core.weights.load_network", "stages.faces.weights.main",
        "stages.pair.write.Path", "stages.core.workers.Pool", "stages.datasets.folders.cache.Cache",
        "stages.core.settings.Train.__init__", "stages", "stages.", "stages.core.settings", "builtins.eval",
        "os.system",
    ],
)  # fmt: skip
def test_nothing_else_is_found(target: str) -> None:
    with pytest.raises(ConfigError, match="pair._target_: .*(may name|outside)"):
        find_class(target, "pair._target_", [])


def test_an_allowed_package_gives_its_own_classes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lentpkg").mkdir()
    (tmp_path / "lentpkg" / "__init__.py").write_text("from lentpkg.mine import Mine\n")
    (tmp_path / "lentpkg" / "mine.py").write_text(
        "import os\nfrom pathlib import Path\nclass Mine: pass\ndef f(): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("lentpkg.Mine", "lentpkg.mine.Mine"):
        assert find_class(name, "k", ["lentpkg"]).__name__ == "Mine"
    for name in ("lentpkg.mine.Path", "lentpkg.mine.os", "lentpkg.mine.f", "lentpkg.mine.Mine.__init__"):
        with pytest.raises(ConfigError, match="is not a class of lentpkg|cannot be imported"):
            find_class(name, "k", ["lentpkg"])


def test_a_yaml_of_a_config_dir_writes_and_deletes_nothing(tristyle, tmp_path: Path) -> None:
    (tmp_path / "d" / "export").mkdir(parents=True)
    kept = tmp_path / "kept"
    kept.write_text("here")
    evil = {
        "write": f"_target_: stages.core.files.write_bytes\npath: {tmp_path / 'made'}\ndata: !!binary aGFsbG8=\n",
        "delete": "_target_: stages.core.artifact.Path.unlink\n"
        f"self: {{_target_: stages.core.artifact.Path, _args_: [{kept}]}}\n",
    }
    for name, text in evil.items():
        (tmp_path / "d" / "export" / f"{name}.yaml").write_text(text)
        line = tristyle("--config-dir", str(tmp_path / "d"), "~experiment", "stage=export", f"export={name}").line
        assert "export._target_" in line and "may name" in line
    assert kept.read_text() == "here" and not (tmp_path / "made").exists()


CALLS = {
    "callbacks": "callbacks:\n    evil: {_target_: stages.core.files.write_bytes, path: MADE, data: x}",
    "launcher": "launcher:\n    _target_: stages.core.files.write_json\n    path: MADE\n    value: 1",
    "factory": "job_logging:\n    version: 1\n    handlers: {e: {'()': stages.core.files.write_json, path: MADE}}",
    "file": "job_logging:\n    version: 1\n    handlers: {evil: {class: logging.FileHandler, filename: MADE}}",
    "class": "hydra_logging:\n    version: 1\n    handlers: {evil: {class: stages.core.files.write_json}}",
    "environment": "job:\n    env_set: {PATH: MADE}",
}


@pytest.mark.parametrize("name", CALLS)
def test_hydras_own_node_calls_and_writes_nothing(tristyle, tmp_path: Path, name: str) -> None:
    (tmp_path / "d" / "experiment").mkdir(parents=True)
    made = tmp_path / "made"
    text = f"# @package _global_\nhydra:\n  {CALLS[name]}\n".replace("MADE", str(made))
    (tmp_path / "d" / "experiment" / "evil.yaml").write_text(text)
    line = tristyle("--config-dir", str(tmp_path / "d"), "stage=data", "experiment=evil").line
    assert ("hydra." in line or "hydra_" in line or "BasicLauncher" in line) and not made.exists()


def test_what_the_user_types_is_the_users() -> None:
    node = {"hydra": {"job": {"env_set": {"A": "1"}}, "sweeper": {"_target_": "mypkg.Sweeper"}}, "allow": ["mypkg"]}
    check_hydra(node, ["hydra.job.env_set.A=1", "allow=[mypkg]"])
    with pytest.raises(ConfigError, match="env_set"):
        check_hydra(node, ["allow=[mypkg]"])
    with pytest.raises(ConfigError, match="sweeper"):
        check_hydra(node, ["hydra.job.env_set.A=1"])
