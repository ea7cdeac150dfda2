"""The README is true: its commands are what CI runs and can be composed, its files exist, its tree is whole."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
TRISTYLE = [command for command in COMMANDS if command[0] == "tristyle"]
TREE = next(block for kind, block in BLOCKS if kind == "text")


def makefile_targets() -> set[str]:
    """What `make` can be asked for."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def tree_paths() -> list[str]:
    """The paths that the tree names; an indented line is below the folder last named at the margin."""
    paths, stack = [], []
    for line in TREE.splitlines():
        match = re.match(r"( *)(\S+)  +\S", line)
        if not match:
            assert line.startswith(" " * 10) or not line.strip(), f"no phrase for: {line}"
            continue
        depth = len(match[1]) // 2
        stack = [*stack[:depth], match[2].rstrip("/")]
        paths.append("/".join(stack))
    return paths


def test_the_two_commands_are_what_ci_runs() -> None:
    makes = [command for command in COMMANDS if command[0] == "make"]
    assert makes[:2] == [["make", "demo"], ["make", "test"]]
    assert {command[1] for command in makes} <= makefile_targets()
    ci = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^exec make test\b", ci, re.MULTILINE)
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe and recipe[1].strip() == "$(BIN)/python -m pytest"


def test_make_demo_is_the_default_run() -> None:
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe and recipe[1].strip() == "$(BIN)/tristyle experiment=painted-64"


@pytest.mark.parametrize("command", TRISTYLE, ids=map(" ".join, TRISTYLE))
def test_every_tristyle_command_composes(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_dir

    from stages.pipeline.cli import freely
    from stages.pipeline.compose import instantiate_stages
    from stages.pipeline.hydra_private import split_jobs

    monkeypatch.chdir(tmp_path)
    arguments = [word for word in command[1:] if word != "-m"]
    if arguments == ["--help"]:
        return
    for word in arguments:  # folders and files of the reader's own, such as data.path=my_pictures
        name, _, value = word.partition("=")
        for place in re.findall(r"[\w./]+", value) if re.search(r"\.(path|start|parents|photos)$", name) else []:
            (tmp_path / place / "photo").mkdir(parents=True)
            (tmp_path / place / "training.ckpt").touch()
    jobs, _ = split_jobs(freely(arguments))
    assert len(jobs) == 1 or "-m" in command
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for job in jobs:
            instantiate_stages(compose("config", list(job)))


def test_every_stylize_command_parses() -> None:
    from stages.apply import arguments

    used = [command for command in COMMANDS if command[0] == "stylize"]
    assert used
    for command in used:
        arguments().parse_args(command[1:])


def test_every_program_is_one_that_is_installed() -> None:
    programs = {"make", ".", "tristyle", "torchrun", "stylize", "wandb", "python"}
    assert {command[0] for command in COMMANDS} <= programs
    modules = [command[2] for command in COMMANDS if command[:2] == ["python", "-m"]]
    assert modules and all((ROOT / f"{module.replace('.', '/')}.py").exists() for module in modules)


def test_every_path_in_the_text_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)
    named = re.findall(r"`((?:conf|data|stages|tests|notebooks|\.ci)/[\w./-]*)`", TEXT)
    absent = [path for path in [*links, *named] if not (ROOT / path).exists()]
    assert not absent, absent


def test_the_tree_names_every_file_with_a_phrase() -> None:
    paths = tree_paths()
    absent = [path for path in paths if "·" not in path and not (ROOT / path).exists()]
    assert not absent, f"in the tree but not there: {absent}"
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "stages").rglob("*.py")}
    left_out = {path for path in code if not path.endswith("__init__.py")} - set(paths)
    assert not left_out, f"there but not in the tree: {sorted(left_out)}"


def test_every_dependency_has_its_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["onnx"]]
    names = [re.split(r"[=<>!~]", item)[0] for item in wanted]
    section = TEXT.partition("## Dependencies")[2].partition("\n## ")[0]
    assert not [name for name in names if f"`{name}`" not in section]


def test_data_card_names_every_file() -> None:
    card = (ROOT / "data" / "README.md").read_text()
    kinds = (".safetensors", ".onnx", ".json", ".png", ".md", ".yaml")
    files = [path.name for path in (ROOT / "data").iterdir() if path.suffix in kinds and path.name != "README.md"]
    assert not [name for name in files if f"`{name}`" not in card]
