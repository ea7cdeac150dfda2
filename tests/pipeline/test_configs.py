"""Every yaml composes and instantiates; the command line answers quickly because it imports nothing heavy."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stages.core.artifact import KINDS
from stages.core.settings import ConfigError
from stages.core.tracking import Tracker, WandbTracker
from stages.pipeline.run import instantiate_stages

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml"))
VARIANTS = [tuple(name.removesuffix(".yaml").rsplit("/", 1)) for name in FILES if "/" in name]
EXPERIMENTS = [name for group, name in VARIANTS if group == "experiment"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder that `data.path` may name; ingesting checks its pictures later."""
    (tmp_path / "photo").mkdir()
    return tmp_path


def composed(*overrides: str):
    """The configuration that `tristyle <overrides>` would run."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def fill(cfg, folder: Path):
    """Give the settings that have no default (marked null or ???: a person's own folder) a value that exists.

    Likewise where the default is a file that only some have.
    """
    if cfg.style.get("start", "base") not in ("base", "scratch"):
        cfg.style.start = str(folder)
    if OmegaConf.select(cfg, "data.path", throw_on_missing=False) is None and "path" in cfg.data:
        cfg.data.path = str(folder)
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, str(folder))
    return cfg


def test_there_is_something_to_test() -> None:
    assert {group for group, _ in VARIANTS} >= {*KINDS, "tracker", "experiment"}
    assert "rendered-64" in EXPERIMENTS


@pytest.mark.parametrize("name", FILES)
def test_every_file_opens_with_what_it_is_and_the_command(name: str) -> None:
    comment = re.match(r"(?:#.*\n)+", (CONF / name).read_text())
    assert comment and "tristyle" in comment.group(), f"conf/{name} opens without a comment that shows its command"


@pytest.mark.parametrize(("group", "variant"), VARIANTS, ids=map("=".join, VARIANTS))
def test_every_variant_composes_and_instantiates(group: str, variant: str, pictures: Path) -> None:
    settings, stages = instantiate_stages(fill(composed(f"{group}={variant}"), pictures))
    assert list(stages) == list(KINDS)
    assert settings.tracker.func is (WandbTracker if variant == "wandb" else Tracker)
    for kind, stage in stages.items():
        assert set(stage.reads) < set(KINDS[: KINDS.index(kind)]) | {kind}
        assert all(isinstance(path, Path) for path in stage.files().values())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_only_overrides(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert "# @package _global_" in text
    assert "_target_" not in text, "an experiment chooses and sets; classes belong to the groups"
    unknown = set(OmegaConf.create(text)) - {"defaults", *composed()}
    assert not unknown, unknown


def test_targets_outside_the_package_are_refused(pictures: Path) -> None:
    with pytest.raises(ConfigError, match="outside this package"):
        instantiate_stages(composed("pair._target_=os.system"))


def test_user_config_dir_adds_a_variant(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    text = (CONF / "student" / "pix2pix.yaml").read_text()
    (tmp_path / "student" / "mine.yaml").write_text(text)
    cfg = composed(f"hydra.searchpath=[file://{tmp_path}]", "student=mine")
    assert "student" in instantiate_stages(cfg)[1]


def test_default_is_the_demo() -> None:
    assert composed() == composed("experiment=rendered-64", "stage=all")


START = """
import sys
from hydra import compose, initialize_config_dir
from stages.pipeline.run import instantiate_stages
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    instantiate_stages(compose("config", []))
slow = {"kornia", "scipy", "skimage", "torchvision", "facexlib", "wandb", "onnx", "onnxruntime"}
print(*sorted(slow & set(sys.modules)))
"""


def test_a_run_starts_without_what_it_may_not_need() -> None:
    command = [sys.executable, "-c", START, str(CONF)]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [], "a start would wait for these"


HELP = """
import contextlib, io, json, sys
from importlib import import_module
name, *sys.argv = sys.argv[1:]
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
    import_module(name).main()
heavy = sorted({"torch", "wandb", "cv2", "kornia", "onnxruntime", "facexlib"} & set(sys.modules))
print(json.dumps({"heavy": heavy, "said": said.getvalue()}))
"""


@pytest.mark.parametrize(("module", "program"), [("stages.pipeline.cli", "tristyle"), ("stages.apply", "stylize")])
def test_help_answers_without_heavy_imports(module: str, program: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HELP, module, program, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert program in answer["said"]
    assert answer["heavy"] == [], f"--help would wait for {answer['heavy']}"
