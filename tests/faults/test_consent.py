"""A no is a no: in any spelling, in any line, under any name, at every door; what cannot be understood is refused."""

from __future__ import annotations

import ast
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.apply import main as stylize
from stages.core.consent import refusals, usable
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tracking import Tracker
from stages.datasets.folders.stage import FolderData
from stages.pair.inputs import photo_files
from stages.pair.photo_sets import pictures_below
from tests.tools.tiny_student import tiny_model

HEAD = "pattern,licence,licence_class,consent,author\n"
SIDE = 64
STAGES = Path(__file__).resolve().parents[2] / "stages"

# Every function that looks what lies in a folder which somebody else filled. Each asks who may be used.
READERS = {
    "apply/folder.py _jobs", "datasets/folders/stage.py _read", "evaluate/faces.py eyes", "evaluate/faces.py scenes",
    "evaluate/faces.py sets", "evaluate/landmarks.py faces", "evaluate/parser.py portraits",
    "evaluate/people.py _some", "evaluate/portraits.py _of_table", "evaluate/portraits.py style_pictures",
    "evaluate/realism.py photographs",
    "metrics/__main__.py read_folder", "pair/photo_sets.py pictures_below", "recipes/finetune.py load_pairs",
    "student/photographs.py open_photographs", "style/few_pictures.py _paths", "style/expanded/encode.py read_photos",
    "recipes/parser_labels.py load_labelled", "recipes/parser_labels.py load_photos", "apply/cli.py check_consent",
}  # fmt: skip
# Those that list what tristyle made or ships, or no pictures.
OWN = {
    "apply/edit.py", "apply/folder.py", "apply/model.py", "apply/serve.py", "apply/video.py", "core/artifact.py",
    "core/consent.py", "core/files.py", "core/walk.py", "datasets/folders/cache.py", "style/augmentation_leak.py",
    "datasets/folders/sources.py", "datasets/rendered/people.py",
    "export/stage.py", "export/web.py", "metrics/heldout.py", "pipeline/cli.py", "pipeline/run.py", "report/export.py",
    "report/index.py", "report/notebook.py", "report/pair.py", "report/plane.py", "report/student.py",
    "report/write.py", "student/blaze_fewshot.py", "student/teacher.py",
    "style/editing/sheet.py", "style/finish.py", "style/fusion/library.py", "style/sampling/filters.py",
    "style/sampling/score.py", "style/stage.py", "web/__init__.py", "evaluate/portraits.py styles_of",
    "datasets/folders/stage.py run", "datasets/folders/stage.py _root", "recipes/base_generator.py",
}  # fmt: skip
LISTS = {"iterdir", "glob", "rglob", "walk", "scandir", "listdir", "listed", "below"}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Twelve photos of two people and four style pictures, with masks, so that no network is needed."""
    root = tmp_path / "own"
    rng = np.random.default_rng(0)
    for place, count in (("photo/anna", 6), ("photo/bert", 6), ("style/ink", 4)):
        for index in range(count):
            for folder, colour in ((place, rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)), (masks(place), head())):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(colour).save(root / folder / f"{index}.png")
    return root


def masks(place: str) -> str:
    return place.replace("photo", "mask").replace("style/", "style_mask/")


def head() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[16:48, 16:48] = 255
    return mask


def say(root: Path, *lines: str, head: str = HEAD, name: str = "sources.csv") -> None:
    (root / name).write_text(head + "".join(line + "\n" for line in lines), encoding="utf-8")


def used(root: Path) -> set[str]:
    """The photos that `data=folders` uses."""
    out = root.parent / "out"
    out.mkdir(exist_ok=True)
    stage = FolderData(path=str(root), size=32, duplicates=None, twins=False)
    stage.run({}, out, Runtime("cpu", 1, Tracker(out)))
    from stages.core.files import read_jsonl

    return {row["source"] for row in read_jsonl(out / "records.jsonl") if row["source"].startswith("photo/")}


@pytest.mark.parametrize("word", ["no", "No", "NO", " no ", "ＮＯ", "no\u200b", "n\u00ado", "no\0", "\ufeffno"])
def test_a_no_in_any_spelling_counts(own: Path, word: str) -> None:
    say(own, f"photo/anna/*,,,{word},")
    assert {name.split("/")[1] for name in used(own)} == {"bert"}


@pytest.mark.parametrize("word", ["withdrawn", "refused", "nein", "false", "FALSE", "0", "n", "yes?", "non", "ja", "x"])
def test_a_word_that_is_not_on_the_list_is_refused(own: Path, word: str) -> None:
    say(own, f"photo/anna/*,,,{word},")
    with pytest.raises(TristyleError, match=r"sources.csv: line 2: consent .* unknown. Write one of yes, no, unknown"):
        used(own)


@pytest.mark.parametrize("word", ["Open source", "free", "CC0", "research"])
def test_classes_of_licences_are_a_list(own: Path, word: str) -> None:
    say(own, f"photo/anna/*,,{word},yes,")
    with pytest.raises(TristyleError, match="licence_class .* unknown. Write one of open"):
        used(own)
    for setting in ({"licence_class": word}, {"only": [word]}):
        with pytest.raises(ConfigError, match="Choose one of: open"):
            FolderData(path=str(own), **setting)  # type: ignore[arg-type]
    say(own, "photo/anna/*,,OPEN ,yes,")
    assert len(used(own)) == 12


@pytest.mark.parametrize(
    "line", ["photo/carl/*", "photo\\anna\\1.png", "/photo/anna/1.png", "photo/Anna/*", "anna", "photo/anna/1.PNG"]
)
def test_a_no_that_names_nothing_is_refused(own: Path, line: str) -> None:
    say(own, "photo/*,,,yes,", f"{line},,,no,")
    with pytest.raises(TristyleError, match=r"sources.csv: line 3 says no to .* names nothing"):
        used(own)


@pytest.mark.parametrize("line", ["photo/anna", "photo/anna/", "./photo/anna/*", "photo/anna/?.png", "*/anna/*"])
def test_a_no_to_a_folder_or_a_pattern_counts(own: Path, line: str) -> None:
    say(own, f"{line},,,no,")
    assert {name.split("/")[1] for name in used(own)} == {"bert"}


@pytest.mark.parametrize(
    "lines",
    [
        ("photo/*,,,yes,", "photo/anna/*,,,no,"),
        ("photo/anna/*,,,no,", "photo/*,,,yes,"),
        ("photo/anna/0.png,,,yes,", "photo/anna/*,,,no,"),
        ("photo/anna,,,yes,", "photo/anna,,,no,", "photo/anna/1.png,,,yes,"),
    ],
)
def test_a_no_beats_every_other_line(own: Path, lines: tuple[str, ...]) -> None:
    say(own, *lines)
    assert {name.split("/")[1] for name in used(own)} == {"bert"}


def test_a_name_that_exists_is_not_a_pattern(own: Path) -> None:
    for name in ("me[1].png", "what?.png", "a*b.png"):
        (own / "photo" / "anna" / "0.png").rename(own / "photo" / name)
        say(own, f"photo/{name},,,no,")
        found = used(own)
        assert f"photo/{name}" not in found and len(found) >= 9
        (own / "photo" / name).rename(own / "photo" / "anna" / "0.png")


@pytest.mark.parametrize(("disk", "table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_compared_as_text(own: Path, disk: str, table: str) -> None:
    name = "Zoë.png"
    (own / "photo" / "anna" / "0.png").rename(own / "photo" / unicodedata.normalize(disk, name))  # type: ignore[arg-type]
    say(own, f"photo/{unicodedata.normalize(table, name)},,,no,")  # type: ignore[arg-type]
    assert len(used(own)) == 11


@pytest.mark.parametrize(
    ("head", "line", "fault"),
    [
        (HEAD, "photo/anna/0.png,no", "fewer cells than columns"),
        ("pattern,consent,consent\n", "photo/anna/0.png,no,yes", "a column stands twice"),
        ("pattern;consent\n", "photo/anna/0.png;no", "is unknown"),
        (HEAD, '"photo/anna/0.png,,,no,', "cannot be read as CSV"),
    ],
)
def test_a_table_that_may_hide_a_no_is_refused(own: Path, head: str, line: str, fault: str) -> None:
    say(own, line, head=head)
    with pytest.raises(TristyleError, match=fault) as caught:
        used(own)
    assert str(caught.value).startswith(f"{own / 'sources.csv'}: ") and "\n" not in str(caught.value)


def test_the_table_counts_under_any_case_and_is_one_file(own: Path) -> None:
    say(own, "photo/anna/*,,,no,", name="Sources.CSV")
    assert len(used(own)) == 6
    say(own, "photo/*,,,yes,")
    with pytest.raises(TristyleError, match="a second sources.csv"):
        used(own)
    for name in ("Sources.CSV", "sources.csv"):
        (own / name).unlink()
    (own / "Sources.csv").mkdir()
    with pytest.raises(TristyleError, match="Sources.csv: not a regular file"):
        used(own)


def test_a_refused_picture_is_refused_under_another_name(own: Path) -> None:
    anna = own / "photo" / "anna" / "1.png"
    (own / "photo" / "bert" / "copy.png").write_bytes(anna.read_bytes())
    (own / "photo" / "bert" / "link.png").symlink_to(anna)
    say(own, "photo/anna/1.png,,,no,")
    assert len(used(own)) == 11


def test_further_photos_of_pairs_ask_too(own: Path) -> None:
    assert len(pictures_below(own / "photo")) == 12
    say(own, "photo/anna/*,,,no,")
    assert {name.split("/")[0] for name in pictures_below(own / "photo")} == {"bert"}
    assert len(pictures_below(own / "photo" / "bert")) == 6 and not pictures_below(own / "photo" / "anna")
    assert own / "sources.csv" in photo_files(str(own / "photo")).values()  # so it enters the key
    say(own, "photo/anna/*,,,nein,")
    from stages.pair.cartoon_filter import CartoonPairs
    from stages.pair.write import Write

    with pytest.raises(TristyleError, match="nein"):
        CartoonPairs(target="ink", write=Write(photos=str(own / "photo"))).check()


def test_fine_tuning_and_recipes_ask_too(own: Path) -> None:
    from stages.recipes.finetune import load_pairs
    from stages.recipes.parser_labels import load_labelled

    say(own, "photo/anna/1.png,,,no,", "photo/anna/3.png,,,no,")
    assert load_pairs(own / "photo" / "anna", own / "mask" / "anna")[2] == ["0", "2", "4", "5"]
    for mask in (own / "mask" / "anna").iterdir():
        Image.fromarray((head() > 0).astype(np.uint8)).save(mask)
    assert load_labelled(own / "photo" / "anna", own / "mask" / "anna")[1] == ["0", "2", "4", "5"]


def test_stylize_asks_too(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    say(own, "photo/anna/1.png,,,no,")
    words = ["--model", str(tiny_model(tmp_path / "tiny.onnx")), "--faces", "never"]
    with pytest.raises(SystemExit) as stop:
        stylize([str(own / "photo" / "anna" / "1.png"), "-o", str(tmp_path / "o.png"), *words])
    assert stop.value.code == 2 and "no consent, by sources.csv" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        stylize([str(own / "photo"), "-o", str(tmp_path / "o"), "--jobs", "1", *words])
    assert stop.value.code == 3 and len(list((tmp_path / "o").rglob("*.png"))) == 11
    assert "anna/1.png: no consent" in (tmp_path / "o" / "skipped.txt").read_text()


def test_another_programs_table_above_is_left_alone(own: Path) -> None:
    (own.parent / "sources.csv").write_text("name,url\na,b\n")
    assert len(used(own)) == 12
    say(own.parent, "own/photo/anna/*,,,no,")
    assert len(used(own)) == 6
    assert usable([own / "photo" / "anna" / "1.png"]) == [] and len(refusals(own.rglob("*.png"))) == 6


def test_every_reader_of_peoples_pictures_asks() -> None:
    """A new function that lists a folder has to be put into one of the two lists above, and the readers ask."""
    asking, listing = set(), set()
    for path in sorted(STAGES.rglob("*.py")):
        name = path.relative_to(STAGES).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            called = {
                call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                for call in ast.walk(node)
                if isinstance(call, ast.Call)
            }
            if called & {"usable", "refusals"}:
                asking.add(f"{name} {node.name}")
            if called & LISTS:
                listing.add(f"{name} {node.name}")
    asking -= {f"core/consent.py {name}" for name in ("usable", "refusals")}
    assert asking == READERS
    unknown = {where for where in listing - READERS if where not in OWN and where.split(" ")[0] not in OWN}
    assert not unknown, f"does it read people's pictures? {unknown}"
