"""The recipes for real photographs, tiny and whole: base, transfers to many and to few pictures, pairs, student, file.

Rendered portraits stand in for photographs; what they are does not matter to the commands.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from stages.apply.cli import main as stylize
from stages.core.artifact import KINDS, open_artifact
from stages.core.images import read_image, write_image
from stages.pipeline import cli
from stages.style.weights.convert import main as formats
from tests.tools.foreign_weights import official_file
from tests.tools.portraits import rendered_data

TINY = [
    "workers=1", "device=cpu", "data.faces=square", "data.size=64", "style.train.images=16", "style.sampling.count=16",
    "pair.translator.width=4", "pair.train.images=8", "pair.train.batch=4", "student.train.images=16",
    "student.train.batch=8", "export.photos=2", "export.repeats=2", "export.calibration=4",
]  # fmt: skip


def tristyle(*arguments: str) -> None:
    """Call the console script in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tristyle", *arguments])
        cli.main()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIR of the recipes' comments: photo/, mask/, a style of many pictures and one of few."""
    folder = tmp_path_factory.mktemp("pictures")
    rendered_data(folder, count=24, styles=["comic", "figurine"], style_count=16)
    for picture in sorted((folder / "style" / "figurine").glob("*.png"))[8:]:
        picture.unlink()
    return folder


def only(folder: Path, kind: str, **config: object) -> Path:
    """The one artifact of a kind whose settings have these values."""
    found = []
    for manifest in folder.glob(f"{kind}/*/manifest.json"):
        settings = json.loads(manifest.read_text())["config"]
        if all(settings[key] == value for key, value in config.items()):
            found.append(manifest.parent)
    (place,) = found
    return place


@pytest.mark.parametrize("size", ["64", pytest.param("128", marks=pytest.mark.all)])
def test_base_transfers_pairs_student_and_file(size: str, pictures: Path, tmp_path: Path) -> None:
    common = [f"experiment=faces-{size}", f"data.path={pictures}", f"out={tmp_path}", *TINY]
    tristyle("-m", *common, "stage=data,style", "style/recipe=base")
    base = only(tmp_path, "style", target="photo")
    begin = f"style.start={base}"
    tristyle(*common, begin, "style.target=comic")
    tristyle(*common, begin, "style.target=figurine", "style/recipe=few-shot", "stage=style")
    assert len(list((tmp_path / "data").glob("[!.]*"))) == 1
    for kind in KINDS[2:]:
        (place,) = (tmp_path / kind).iterdir()
        assert open_artifact(place, kind).metrics
    few = only(tmp_path, "style", target="figurine")
    lineage = json.loads((few / "lineage.json").read_text())
    assert "photo" in json.dumps(lineage), "the style does not know that it came from the photos"
    tristyle(
        "-m", *common, "stage=data,style", "style/recipe=base", begin, "style.resume=true", "style.train.images=32"
    )
    assert len(list((tmp_path / "style").iterdir())) == 4


def ffhq_section(root: Path) -> list[list[str]]:
    """The commands of the section on an FFHQ file in the README of stage style."""
    (section,) = [
        part
        for part in (root / "stages" / "style" / "README.md").read_text().split("\n## ")
        if "FFHQ" in part.splitlines()[0]
    ]
    (block,) = re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_the_readmes_commands_run_with_an_official_file(
    root: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures / "photo", tmp_path / "faces" / "photo")
    shutil.copytree(pictures / "style" / "figurine", tmp_path / "faces" / "style" / "ink")
    official_file(tmp_path / "ffhq256.pkl", protocol=3, size=32)
    write_image(tmp_path / "selfie.jpg", read_image(next((pictures / "photo").glob("*.png"))))
    for program, *arguments in ffhq_section(root):
        if program == "tristyle":
            tristyle(*arguments, *TINY, "data.size=32")
        elif program == "stylize":
            stylize(arguments)
        else:
            assert arguments[:2] == ["-m", "stages.style.weights.convert"]
            formats(arguments[2:])
            assert "32" in capsys.readouterr().out
    (style,) = (tmp_path / "runs" / "style").iterdir()
    settings = json.loads((style / "manifest.json").read_text())["config"]
    assert settings["recipe"]["noise"] and settings["recipe"]["freeze_d"]
    assert (style / "fusion.png").exists() and (tmp_path / "ink.png").exists()
