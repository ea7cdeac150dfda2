"""The report: one file, everything in it, for any subset of the stages; and the index of a sweep."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from stages import io
from stages.artifact import KINDS, Artifact
from stages.measures import MEASURES, measure
from stages.page import curves, fit, number
from stages.report import write_index, write_report

SECTIONS = {
    "data": ["What went in"],
    "style": ["From the base generator to the style", "Loss curves", "What was measured"],
    "pair": ["Pairs for the student", "People that no training has seen"],
    "student": ["People that no training has seen"],
    "export": ["Sizes and latencies"],
}
VOID = {"meta", "img", "line", "polyline", "br", "link", "input"}


class Page(HTMLParser):
    """Collects tags, the places that load something, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.loads += [str(value) for name, value in attrs if name in ("src", "srcset", "poster", "data", "action")]
        self.loads += [str(found["href"])] if tag != "a" and "href" in found else []
        if tag == "img":
            self.images.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(path: Path) -> tuple[str, Page]:
    text, page = path.read_text(), Page()
    page.feed(text)
    assert not page.open
    return text, page


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return tiny_runs.chain(tmp_path_factory.mktemp("runs"))


def test_everything_is_inside_the_one_file(chain: dict[str, Artifact], tmp_path: Path) -> None:
    write_report(chain, tmp_path / "report.html", command="tristyle data.count=12")
    text, page = parse(tmp_path / "report.html")
    assert all(place.startswith("data:image/") for place in page.loads) and len(page.loads) > 50
    assert not set(page.tags) & {"script", "iframe", "object", "link"}
    assert "@import" not in text and "url(" not in text
    assert all(image["alt"] for image in page.images)
    first = base64.b64decode(str(page.images[0]["src"]).partition("base64,")[2])
    assert first.startswith(b"\x89PNG")
    for titles in SECTIONS.values():
        assert all(title in text for title in titles)
    assert "tristyle data.count=12" in text and "prefers-color-scheme:dark" in text and "width=device-width" in text
    for artifact in chain.values():
        assert artifact.digest[:16] in text and artifact.path.name in text


def test_numbers_carry_unit_direction_reader_and_verdict(chain: dict[str, Artifact], tmp_path: Path) -> None:
    write_report(chain, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    row = re.search(r"<tr>(?:(?!</tr>).)*<code>background_error</code>.*?</tr>", text, re.S)
    assert row and "0.041" in row.group() and "L1" in row.group() and "lower" in row.group()
    assert tiny_runs.READER in text and "n/a" in text
    assert "✗ at most 0.03 L1" in text and "✓ at most 0.7" in text and "1.12" in text
    assert "10.0 minutes" in text  # five stages of two minutes
    assert "12 photos and 12 style pictures" in text
    assert "&lt;b&gt;&amp;" in text  # the card's text is escaped


@pytest.mark.parametrize(
    "present", [*(KINDS[:count] for count in range(1, 6)), ("export",), ("student",), ("pair", "data")]
)
def test_any_subset_of_stages_makes_a_report(
    chain: dict[str, Artifact], tmp_path: Path, present: tuple[str, ...]
) -> None:
    write_report({kind: chain[kind] for kind in present}, tmp_path / "report.html", "A <run>")
    text, _ = parse(tmp_path / "report.html")
    assert "A &lt;run&gt;" in text
    for kind, titles in SECTIONS.items():
        if kind not in present and kind != "pair":
            assert titles[0] not in text or any(titles[0] in SECTIONS[name] for name in present)
    has_people = "data" in present and bool({"pair", "student"} & set(present))
    assert ("People that no training has seen" in text) == has_people


def test_people_are_the_first_and_the_worst(chain: dict[str, Artifact], tmp_path: Path) -> None:
    write_report(chain, tmp_path / "report.html")
    _, page = parse(tmp_path / "report.html")
    students = [str(image["alt"]) for image in page.images if str(image["alt"]).startswith("student")]
    assert [alt[-6:] for alt in students] == [f"{index:06d}" for index in [*range(8), 9, 8]]
    twins = [image for image in page.images if str(image["alt"]).startswith("true twin")]
    assert len(twins) == len(students)


def test_curves_draw_every_scalar_of_every_phase() -> None:
    log = [
        {"phase": f"pair/{phase}", "images": step * 10, "loss": 1 / step, "_raw": 10.0**-step}
        for step in range(1, 9)
        for phase in ("g", "d")
    ]
    drawn = curves(log)  # type: ignore[arg-type]
    assert drawn.count("<svg") == 4 and drawn.count(", log<") == 2
    assert "nan" not in curves([*log, {"phase": "pair/g", "images": 90, "loss": float("nan")}])  # type: ignore[arg-type]
    assert curves([]) == "" and curves([{"phase": "g", "images": 1, "loss": 1.0}]) == ""
    points = re.search(r'class="raw"[^>]*points="([^"]+)"', drawn)
    assert points
    heights = [float(point.split(",")[1]) for point in points.group(1).split()]
    assert heights[0] == 0 and heights[-1] == 100 and heights == sorted(heights)  # from the top edge to the bottom


def test_small_things() -> None:
    assert [number(value) for value in (0.12345, 12, 1234567, float("nan"), 2e-7)] == [
        "0.1235",
        "12",
        "1\u202f234\u202f567",
        "n/a",
        "2.00e-07",
    ]
    assert fit(np.zeros((32, 32, 3), np.uint8), 160).shape == (160, 160, 3)
    assert fit(np.zeros((512, 512, 3), np.uint8), 128).shape == (128, 128, 3)
    assert measure("kid_ratio").unit == "×" and measure("photo_kid").better == "" and measure("novel").meaning == ""
    assert len({entry.pattern for entry in MEASURES}) == len(MEASURES)


def test_index_sets_runs_side_by_side(tmp_path: Path) -> None:
    reports = []
    mask, plain = (tiny_runs.chain(tmp_path, name) for name in ("MaskTranslator", "PlainTranslator"))
    shorter = {kind: mask[kind] for kind in ("data", "style")}
    for name, artifacts in (("student-mask", mask), ("student-plain", plain), ("style-part", shorter)):
        reports.append(tmp_path / "reports" / name / "report.html")
        write_report(artifacts, reports[-1])
    write_index(reports, tmp_path / "index.html")
    text, page = parse(tmp_path / "index.html")
    assert "2 runs side by side" in text and "style-part" not in text
    assert "pair.translator._target_ = MaskTranslator" in text and "PlainTranslator" in text
    assert "pair.translator._target_ = " in text and "data.size" not in text  # only what differs
    links = re.findall(r'<a href="([^"]+)"', text)
    assert len(links) == 2 and all((tmp_path / link).is_file() for link in links)
    assert all(place.startswith("data:image/") for place in page.loads) and len(page.images) == 24
    assert "0.500" in text


def test_torn_log_and_missing_pictures_do_not_stop_the_report(tmp_path: Path) -> None:
    made = tiny_runs.chain(tmp_path)
    with open(made["style"].path / "log.jsonl", "a") as file:
        file.write('{"phase": "style/gen')
    (made["pair"].path / "heldout" / "000003.png").unlink()
    (made["style"].path / "fusion.png").unlink()
    write_report(made, tmp_path / "report.html")
    _, page = parse(tmp_path / "report.html")
    alts = [image["alt"] for image in page.images]
    assert "student of held-out person 000003" in alts and "pair of held-out person 000003" not in alts


def test_a_sweep_of_fusions_is_drawn(chain: dict[str, Artifact], tmp_path: Path) -> None:
    style = tiny_runs.style(tmp_path, {"data": chain["data"]})
    row = {"family": "swap", "images": 100, "kid": 1.5, "coverage": 0.95, "broken_share": 0.0}
    points = [
        {**row, "label": name, "kid": kid} for name, kid in (("source", 4.0), ("transferred", 2.0), ("swap-8", 1.5))
    ]
    measured = {"kid": 1.62, "coverage": 0.93}
    found = {
        "rule": {"coverage_min": 0.9, "kid_ratio_max": 1.25, "met": True}, "count": 20, "chosen": "swap-8",
        "knee": "swap-8", "front": ["swap-8"], "broken_share": {"swap": 0.125}, "points": points,
        "confirmed": {"transferred": {"kid": 2.1, "coverage": 0.71}, "chosen": measured},
    }  # fmt: skip
    io.write_json(style.path / "pareto.json", found)
    ladder = [{"images": images, "kid": 4 - images, "coverage": 1.0, "recall": 0.0} for images in (0, 1, 2)]
    io.write_json(style.path / "ladder.json", ladder)
    write_report({"style": style}, tmp_path / "report.html")
    text, page = parse(tmp_path / "report.html")
    assert "coverage 0.93 and KID 1.62, the plain transfer 0.71 and 2.1" in text and "12.5 %" in text
    assert text.count('class="ring"') == 1 and "swap-8 keeps the rule" in text
    assert text.count('class="line"') == 3  # KID, coverage, recall
