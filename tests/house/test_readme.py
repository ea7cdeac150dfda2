"""The READMEs and the headers of conf/ are true: their commands compose, their files exist, their indexes are whole.

Every README is read: the root's, each folder's, the lab log and the project files in `.github/`. A command counts when
it stands in a fenced block (`bash`, or after `$ ` in `console`), in a code span, or on an indented line of a header.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
LONGEST_README = 220  # lines of the root's
FOLDERS = sorted(path.parent for path in (ROOT / "stages").rglob("README.md"))
PAGES = [
    README,
    *(folder / "README.md" for folder in FOLDERS),
    *(ROOT / name for name in ("data/README.md", "tests/README.md", "notebooks/LOG.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
HEADERS = sorted((ROOT / "conf").rglob("*.yaml"))
PROGRAMS = ("tristyle", "stylize", "python", "torchrun", "make")
OTHERS = {".", "wandb", "pip", "git", "export", "pre-commit", ".ci/run"}
ROOTS = r"(?:conf|data|stages|tests|notebooks|\.ci|\.github)"
# settings that name the reader's own files
PLACES = r"(\.path|\.pictures|\.start|\.parents|\.photos|\.parser|\.recogniser|\.landmarks)$"


@dataclass(frozen=True)
class Command:
    """One command line and where it stands."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {' '.join(self.words)}"


def name_of(page: Path) -> str:
    """A page's path for a test's id."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: (language, content)."""
    return [(kind, block) for kind, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```\w*\n.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def split_line(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of one line: split at `&&` and `;`, without comments and settings of the environment."""
    words = shlex.split(line.replace("; ", " ; "), comments=True)
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in (";", "&&"):
            command.append(word)
        else:
            while command and re.fullmatch(r"[A-Z_]+=\S*", command[0]):
                command.pop(0)
            if command:
                yield command[0].removeprefix(".venv/bin/"), *command[1:]
            command = []


def lines_of_page(text: str) -> Iterator[str]:
    """The command lines of a page in Markdown."""
    for kind, block in blocks(text):
        joined = re.sub(r"\\\n\s*", " ", block)
        if kind == "bash":
            yield from (line for line in joined.splitlines() if line.strip() and not line.startswith("#"))
        elif kind == "console":
            yield from (line[2:] for line in joined.splitlines() if line.startswith("$ "))
    for paragraph in re.split(r"\n\s*\n|\n(?=[|-])", prose(text)):  # a span may go over two lines, not over two rows
        for span in re.findall(r"`([^`]+)`", paragraph):
            words = span.split()
            if len(words) > 1 and words[0] in PROGRAMS and "..." not in span:
                yield " ".join(words)


def lines_of_header(text: str) -> Iterator[str]:
    """The command lines of a yaml file's header: indented by two spaces at least, or after `or: `.

    Three spaces end a command; what follows is a remark.
    """
    header = re.match(r"(#.*\n)*", text)
    assert header
    joined = re.sub(r"\\\n#\s*", " ", header[0])
    for line in joined.splitlines():
        if not line.startswith("#  "):
            continue
        for part in re.split(r"(?<=,) or: |^# +", line):
            if part.split(" ")[0].rstrip(";,") in PROGRAMS:
                yield re.split(r"\s{3,}", part)[0].rstrip(",")


@cache
def commands() -> tuple[Command, ...]:
    """Every command of every page and header."""
    found = []
    for page in [*PAGES, *HEADERS]:
        text = page.read_text()
        for line in lines_of_header(text) if page.suffix == ".yaml" else lines_of_page(text):
            found += [Command(page, words) for words in split_line(line.replace("<name>", "ink"))]
            if page.suffix == ".yaml" and found[-1].words[0] not in PROGRAMS:
                found.pop()  # a remark after `;`
    return tuple(found)


def of(*programs: str) -> list[Command]:
    """The commands of some programs."""
    return [command for command in commands() if command.words[0] in programs]


def jobs_of(command: Command) -> list[tuple[str, ...]]:
    """The jobs of a `tristyle` or `torchrun -m stages` command: the overrides of each; of a long sweep two jobs."""
    from stages.pipeline.cli import freely
    from stages.pipeline.hydra_private import split_jobs

    words = list(command.words[1:])
    if command.words[0] == "torchrun":
        words = words[words.index("stages") + 1 :]
    overrides = [word for word in words if word not in ("-m", "--multirun")]
    if any(word.startswith("-") or word == "pair=mine" for word in overrides):
        return []  # --help, --cfg, --config-dir, and a variant of the reader's own: the tests of the pipeline run those
    jobs = [tuple(job) for job in split_jobs(freely(overrides))[0]]
    assert len(jobs) == 1 or "-m" in words, f"{command}: a sweep without -m"
    return [jobs[0], jobs[-1]] if len(jobs) > 6 else jobs


def make_places(folder: Path, job: tuple[str, ...]) -> None:
    """Stand-ins for the reader's own folders and files, such as data.path=my_pictures."""
    for word in job:
        name, _, value = word.partition("=")
        for place in re.findall(r"[\w./-]+", value) if re.search(PLACES, name) else []:
            if place in ("null", "base", "scratch", "reader", "facexlib") or (folder / place).exists():
                continue
            if Path(place).suffix:
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                (folder / place).touch()
            else:
                (folder / place / "photo").mkdir(parents=True)
                for file in (
                    "training.ckpt",
                    *(f"{name}.safetensors" for name in ("student", "faces", "discriminator")),
                ):
                    (folder / place / file).touch()


def test_the_root_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST_README


def test_every_tristyle_command_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_dir

    from stages.core.settings import TristyleError
    from stages.pipeline.compose import instantiate_stages

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.pipeline.compose._check_device", lambda name: None)  # some commands are for a GPU
    used = of("tristyle", "torchrun")
    assert len(used) > 60, "where are the commands?"
    done: set[tuple[str, ...]] = set()
    wrong = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for command in used:
            for job in jobs_of(command):
                if job in done:
                    continue
                done.add(job)
                make_places(tmp_path, job)
                try:
                    instantiate_stages(compose("config", list(job)))
                except (TristyleError, Exception) as error:  # noqa: B014  every mistake is listed, not the first alone
                    wrong.append(f"{command}\n    {type(error).__name__}: {str(error).splitlines()[0]}")
    assert not wrong, "\n".join(wrong)


def test_every_stylize_command_parses() -> None:
    from stages.apply.cli import parser_for

    used = of("stylize")
    assert len(used) > 8
    for command in used:
        parser, rest = parser_for(list(command.words[1:]))
        try:
            parser.parse_args(rest)
        except SystemExit as stop:
            raise AssertionError(str(command)) from stop


def test_every_module_that_is_run_exists_and_has_the_options() -> None:
    named = [(str(c), c.words[2], c.words[3:]) for c in of("python") if c.words[1:2] == ("-m",)]
    for page in HEADERS:  # in a header a module may be named within a sentence, too
        named += [(name_of(page), module, ()) for module in re.findall(r"python -m ([\w.]+\w)", page.read_text())]
    assert len(named) > 20
    for where, module, words in named:
        if module in ("pytest", "venv", "pip"):
            continue
        place = ROOT / module.replace(".", "/")
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        assert file.exists(), f"{where}: there is no {file}"
        text = "".join(source.read_text() for source in (place.glob("*.py") if place.is_dir() else [file]))
        assert '__name__ == "__main__"' in text or place.is_dir(), f"{where}: {file} is not a program"
        absent = [word for word in words if word.startswith("--") and f'"{word.partition("=")[0]}"' not in text]
        assert not absent, f"{where}: {file} knows no {absent}"


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {(str(command), target) for command in of("make") for target in command.words[1:]}
    for page in HEADERS:
        asked |= {(name_of(page), target) for target in re.findall(r"needs [^:\n]*: make ([\w-]+)", page.read_text())}
    assert asked and not [where for where, target in asked if target not in targets]


def test_every_program_is_one_that_is_installed() -> None:
    unknown = {str(command) for command in commands() if command.words[0] not in {*PROGRAMS, *OTHERS}}
    assert not unknown, "\n".join(sorted(unknown))


def test_the_first_commands_are_what_ci_runs() -> None:
    makes = [command.words[1] for command in commands() if command.page == README and command.words[0] == "make"]
    assert makes[0] == "demo" and "test" in makes
    makefile = (ROOT / "Makefile").read_text()
    for target, wanted in (("demo", "tristyle experiment=rendered-64"), ("test", "python -m pytest -n auto")):
        recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        assert recipe and recipe[1].strip().startswith(f"$(BIN)/{wanted}")
    assert re.search(r"^exec make test\b", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def anchors(text: str) -> set[str]:
    """What `#` of a link into a page may name."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_path_resolves(page: Path) -> None:
    text = page.read_text()
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        place, _, anchor = target.partition("#")
        if re.match(r"\w+:", place):
            continue
        linked = (page.parent / place).resolve() if place else page
        if not linked.exists():
            wrong.append(target)
        elif anchor and anchor not in anchors(linked.read_text()):
            wrong.append(target)
    for path in re.findall(rf"`({ROOTS}/[\w./-]*)`", prose(text)):
        if not (ROOT / path).exists() and "/mine." not in path:  # `mine` is the reader's own
            wrong.append(path)
    assert not wrong, wrong


def index_of(page: Path) -> set[str]:
    """The Python files that a folder's README lists: code spans `name.py` or `folder/name.py` before its first `##`.

    A bare name after `folder/name.py` on the same line lies in that folder, too.
    """
    opening = re.split(r"^## (?!Files)", prose(page.read_text()), maxsplit=1, flags=re.MULTILINE)[0]
    found = set()
    for line in opening.splitlines():
        within = ""
        for span in re.findall(r"`([\w/]+\.py)`", line):
            if not re.match(rf"{ROOTS}/", span):
                within = span.rpartition("/")[0] or within
                found.add(f"{within}/{Path(span).name}" if within else span)
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folders_readme_names_every_file_and_no_other(folder: Path) -> None:
    page = folder / "README.md"
    nested = [other for other in FOLDERS if other != folder and folder in other.parents]
    code = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if path.name != "__init__.py" and not any(other in path.parents for other in nested)
    }
    named = {name for name in index_of(page) if Path(name).name != "__init__.py"}
    assert not named - code - {"__main__.py"}, f"{name_of(page)}: its index names files that are not there"
    assert not code - named - {"__main__.py"}, f"{name_of(page)}: give each of these a row in its index"
    others = [path.name for path in folder.iterdir() if path.suffix in (".js", ".html", ".css", ".csv", ".jpg")]
    assert not [name for name in others if f"`{name}`" not in page.read_text()], name_of(page)


def test_every_folder_of_code_has_a_readme() -> None:
    folders = {path for path in (ROOT / "stages").iterdir() if path.is_dir() and list(path.rglob("*.py"))}
    assert not [folder.name for folder in folders if not (folder / "README.md").exists()]


def test_the_root_readme_names_every_folder_of_stages() -> None:
    text = README.read_text()
    folders = sorted(path.parent.name for path in (ROOT / "stages").glob("*/__init__.py"))
    assert not [name for name in folders if f"](stages/{name}/README.md)" not in text]


def test_the_roots_example_of_a_variant_is_the_one_that_is_tested() -> None:
    tested = blocks((ROOT / "stages" / "pipeline" / "README.md").read_text())
    shown = [block for block in blocks(README.read_text()) if block[0] in ("python", "yaml")]
    assert shown and not [block for block in shown if block not in tested]


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    wanted = tomllib.loads(text)["project"]["dependencies"]
    assert not [item for item in wanted if not re.search(rf'"{re.escape(item)}", +# \w', text)]


def test_data_card_names_every_file() -> None:
    card = (ROOT / "data" / "README.md").read_text()
    kinds = (".safetensors", ".onnx", ".json", ".png", ".gif", ".md", ".yaml")
    files = [path.name for path in (ROOT / "data").iterdir() if path.suffix in kinds and path.name != "README.md"]
    assert not [name for name in files if f"`{name}`" not in card]
