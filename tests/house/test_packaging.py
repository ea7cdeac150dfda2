"""The package works as sdist, wheel and bare checkout, away from the repository and its editable install."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

# Hides the editable install that runs the tests, so that a bare checkout cannot borrow its stages.conf.
BARE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
import stages
assert stages.__file__.startswith(sys.argv[1]), stages.__file__
del sys.argv[1]
from stages.pipeline.cli import main
main()
"""


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command with PYTHONPATH=path; its standard output. Fails with all it printed."""
    env = {**os.environ, "PYTHONPATH": str(path or "")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is made of, so that building leaves nothing behind in the repository."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("stages", "conf", "data"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist (so that one proves the other)."""
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, checkout, cwd=dist)
    assert len(list(dist.glob("tristyle-*.tar.gz"))) == 1
    return next(dist.glob("tristyle-*.whl"))


def test_every_folder_of_code_is_a_listed_package(root: Path) -> None:
    listed = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {".".join(path.parent.relative_to(root).parts) for path in (root / "stages").rglob("*.py")}
    assert listed == folders | {"stages.conf", "stages.data"}


def test_conf_and_data_hold_no_code(root: Path) -> None:
    code = [path for name in ("conf", "data") for path in (root / name).rglob("*.py")]
    assert {path.relative_to(root).as_posix() for path in code} == {"conf/__init__.py", "data/__init__.py"}


def test_wheel_holds_one_package_and_every_file(wheel: Path, root: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"stages"}
    tracked = subprocess.run(["git", "ls-files", "conf", "data"], cwd=root, capture_output=True, text=True).stdout
    absent = [name for name in tracked.split() if f"stages/{name}" not in names]
    assert not absent, f"not in the wheel: {absent}"


def test_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel, cwd=work)
    assert "stage" in run(target / "bin" / "tristyle", "--help", cwd=work, path=target)
    assert "usage" in run(target / "bin" / "stylize", "--help", cwd=work, path=target).lower()
    tiny = ("data.size=32", "data.count=4", "data.style_count=4", "data.heldout=4", "data.heldout_style=4")
    run(target / "bin" / "tristyle", "stage=data", "workers=1", *tiny, cwd=work, path=target)
    assert len(list(work.glob("runs/data/*/manifest.json"))) == 1


def test_bare_checkout_composes(checkout: Path, tmp_path: Path) -> None:
    text = run(sys.executable, "-c", BARE, checkout, "--cfg", "job", cwd=tmp_path, path=checkout)
    assert re.search(r"_target_: stages\.pair\.stage\.\w+", text)


RUNTIMES = ("mnn", "ncnn", "litert", "coreml")  # each with a lock of its own: their requirements do not go together


@pytest.mark.parametrize("name", ["requirements", *RUNTIMES])
def test_lock_names_every_dependency_and_no_place(root: Path, name: str) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = name in RUNTIMES
    lock = (root / ".ci" / "locks" / f"{name}.lock" if own else root / "requirements.lock").read_text()
    assert not re.search(r"://|--index|--find-links|--extra-index|file:|^/|^-e", lock, re.MULTILINE)
    pinned = {re.split(r"[=<>!~ ]", line)[0] for line in lock.splitlines() if re.match(r"[a-z]", line)}
    main = [*project["dependencies"], *(item for extra in extras if extra not in RUNTIMES for item in extras[extra])]
    wanted = {re.split(r"[=<>!~]", item)[0].lower() for item in (extras[name] if own else main)}
    assert wanted <= pinned, wanted - pinned
    for block in re.split(r"\n(?=[a-z])", lock.strip()):
        assert "--hash=sha256:" in block, f"no hash: {block.splitlines()[0]}"
