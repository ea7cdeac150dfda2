"""The report: one file, everything in it, for any subset of the stages; and the index of a sweep."""

from __future__ import annotations

import base64
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from stages.core import shards
from stages.core.artifact import KINDS, Artifact, seal
from stages.core.files import write_bytes, write_json, write_jsonl
from stages.core.images import encode_png, write_image
from stages.report import charts
from stages.report import pair as report_pair
from stages.report import plane as report_plane
from stages.report.glossary import MEASURES, measure
from stages.report.index import write_index
from stages.report.markup import (
    curves,
    fit,
    folded,
    header,
    heading,
    join,
    note,
    number,
    page,
    section,
    table,
    tag,
    tile,
)
from stages.report.write import write_report
from tests.tools import tiny_runs

SECTIONS = {
    "data": ["What went in"],
    "style": ["From the base generator to the style", "Loss curves", "What was measured"],
    "pair": ["Pairs for the student", "People that no training has seen"],
    "student": ["People that no training has seen"],
    "export": ["Sizes and latencies"],
}
VOID = {"meta", "img", "line", "polyline", "br", "wbr", "link", "input"}


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
    row = re.search(r"<tr>(?:(?!</tr>).)*student</span><code>background_error</code>.*?</tr>", text, re.S)
    assert row and "0.041" in row.group() and "L1" in row.group() and "lower" in row.group()
    assert tiny_runs.READER in text and "n/a" in text
    assert "✗ at most 0.03 L1" in text and "✓ at most 0.65" in text and "1.12" in text
    assert "10.0 minutes" in text  # five stages of two minutes
    assert "12 photos and 12 style pictures" in text
    assert "&lt;b&gt;&amp;" in text  # the card's text is escaped


BAD = "<script>alert('x')</script>\"&"


def planted(chain: dict[str, Artifact], where: str) -> dict[str, Artifact]:
    """The chain with text that would be markup among an artifact's measures, their names, or its settings."""
    found = {}
    for kind, item in chain.items():
        manifest = json.loads(json.dumps(item.manifest))
        manifest[where] |= {"reader": BAD, BAD: BAD}
        found[kind] = Artifact(item.path, manifest)
    return found


@pytest.mark.parametrize("where", ["metrics", "config", "code"])
def test_no_text_of_a_manifest_becomes_markup(chain: dict[str, Artifact], tmp_path: Path, where: str) -> None:
    write_report(planted(chain, where), tmp_path / "report.html", BAD, BAD)
    text, page = parse(tmp_path / "report.html")
    assert "script" not in page.tags and "<script" not in text and "&lt;script&gt;" in text


def test_finished_markup_is_a_type_and_everything_else_is_text() -> None:
    assert tag("p", BAD) == Markup("<p>{}</p>").format(BAD) and "<script" not in tag("p", BAD)
    assert tag("i", tag("b", "x"), title=BAD).endswith("><b>x</b></i>")
    assert join([tag("b"), "<"]) == "<b></b>&lt;" and tag("line", x1=1, class_="a") == '<line x1="1" class="a"/>'
    for made in (note(BAD), tile(BAD, BAD, BAD, True, BAD), table((BAD,), [(BAD,)]), section(BAD, BAD, note(BAD)),
                 heading(BAD, note(BAD)), header(BAD, BAD), page(BAD, note(BAD)), folded(BAD, note(BAD))):  # fmt: skip
        assert isinstance(made, Markup) and "<script" not in made


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
    mask, plain = (tiny_runs.chain(tmp_path, name) for name in ("mask", "plain"))
    shorter = {kind: mask[kind] for kind in ("data", "style")}
    for name, artifacts in (("student-mask", mask), ("student-plain", plain), ("style-part", shorter)):
        reports.append(tmp_path / "reports" / name / "report.html")
        write_report(artifacts, reports[-1])
    write_index(reports, tmp_path / "index.html")
    text, page = parse(tmp_path / "index.html")
    assert "2 runs side by side" in text and "style-part" not in text
    assert "pair.translator.mask_head = true" in text and "pair.translator.mask_head = false" in text
    assert "data.size" not in text and "pair.translator.balance" not in text  # only what differs
    links = re.findall(r'<a href="([^"]+)"', text)
    assert len(set(links)) == 2 and all((tmp_path / link).is_file() for link in links)
    beside = [image for image in page.images if not str(image["alt"]).startswith("person")]
    assert all(place.startswith("data:image/") for place in page.loads) and len(beside) == 24
    assert text.index("held-out people") < text.index("The person or the style")  # students first, where there are any
    assert "0.500" in text


def test_pairs_are_shown_from_photo_to_twin(chain: dict[str, Artifact], tmp_path: Path) -> None:
    write_report(chain, tmp_path / "report.html")
    text, page = parse(tmp_path / "report.html")
    titles = ["photo", "raw translation", "attention", "its mask", "laid over the photo", "true twin"]
    shown = [str(image["alt"]) for image in page.images if str(image["alt"]).startswith("person")]
    assert shown == [f"person {index:06d}: {title}" for index in range(6) for title in titles]
    assert "identity, limit 0.53" in text and text.count('class="front limit"') == 1
    assert (
        re.search(r"smile</td><td[^>]*>0.61</td><td[^>]*>0.72", text)
        and "9 of 10 pairs kept; left out: 1 for ide" in text
    )
    assert "Scores of all 1 left out" in text and "agreement of masks" in text
    assert "The person or the style" not in text  # one run has no plane


def test_what_a_pair_stage_did_not_make_is_left_out(tmp_path: Path) -> None:
    data = tiny_runs.data(tmp_path)
    style = tiny_runs.style(tmp_path, {"data": data})
    pair = tiny_runs.pair(tmp_path, {"data": data, "style": style}, "region")
    for name in ("limits.json", "rejects.png", "photo/000000.png", "heldout/heatmap/000001.png"):
        (pair.path / name).unlink()
    write_jsonl(pair.path / "records.jsonl", [*pair.records(), {"id": "x", "kept": False, "unreadable": "torn"}])
    write_report({"data": data, "style": style, "pair": pair}, tmp_path / "report.html")
    text, page = parse(tmp_path / "report.html")
    alts = [str(image["alt"]) for image in page.images]
    assert "person 000000: attention" in alts and "person 000001: attention" not in alts
    assert not [alt for alt in alts if "its mask" in alt or "rejected" in alt]
    assert "front limit" not in text and "1 for unreadable" in text
    assert len([alt for alt in alts if alt.startswith("kept pair")]) == 8  # of nine, one lost its photo


def test_kept_pairs_are_shown_from_shards_too(tmp_path: Path) -> None:
    members = {
        f"{kind}.png": encode_png(tiny_runs.face(3, style)) for kind, style in (("photo", "photo"), ("style", "c"))
    }
    [places] = shards.write_tar(tmp_path / "shards/000000.tar", [("a", members)])
    shown = report_pair.couple(tmp_path, {"id": "a", "shard": "shards/000000.tar", "members": places})
    assert shown is not None and shown.shape == (96, 192, 3)
    assert np.array_equal(shown[:, :96], fit(tiny_runs.face(3), 96))
    assert report_pair.couple(tmp_path, {"id": "b"}) is None


def test_heat_is_lighter_where_it_is_hotter() -> None:
    heat = np.repeat(np.linspace(0, 255, 8).round().astype(np.uint8)[None], 8, 0)
    shown = report_pair.heat_over(np.full((64, 64, 3), 120, np.uint8), heat)
    light = (shown @ np.array([0.2126, 0.7152, 0.0722]))[32]
    assert shown.shape == (64, 64, 3) and (np.diff(light) >= -0.5).all() and light[-1] > light[0] + 120


def sweep(root: Path, runs: dict[tuple[str, str | None], float]) -> list[Path]:
    """Reports of pair artifacts of (variant, balance) -> how far towards the style, on one data set."""
    data = tiny_runs.data(root)
    style = tiny_runs.style(root, {"data": data})
    reports = []
    for (kind, balance), shift in runs.items():
        pair = tiny_runs.pair(root, {"data": data, "style": style}, kind, balance, shift)
        reports.append(root / "reports" / f"pair-{kind}-{balance}" / "report.html")
        write_bytes(reports[-1], b"a page of its own")
        places = {item.kind: os.path.relpath(item.path, reports[-1].parent) for item in (data, style, pair)}
        write_json(reports[-1].with_suffix(".json"), {"artifacts": places})
    return reports


def test_the_plane_orders_runs_from_person_to_style(tmp_path: Path) -> None:
    runs: dict[tuple[str, str | None], float] = {
        ("mask", "style"): 0.2, ("mask", "id"): 0.0, ("mask", "even"): 0.1, ("plain", None): 0.15,
    }  # fmt: skip
    reports = sweep(tmp_path, runs)
    worse = reports[3].parents[2] / "pair/plain-None/manifest.json"
    manifest = json.loads(worse.read_text())
    manifest["metrics"] |= {"kid": 1.1, "kid_low": float("nan"), "background_error": 0.4}
    worse.write_text(json.dumps(manifest))
    write_index([*reports, reports[0]], tmp_path / "index.html")
    text, page = parse(tmp_path / "index.html")
    plane = text[text.index("The person or the style") :]
    assert text.index("The person or the style") < text.index("the true twins")  # without students it comes first
    order = ["photo", "mask id", "mask even", "plain", "mask style", "true twin"]
    shown = [str(image["alt"]) for image in page.images if str(image["alt"]).startswith("person")]
    assert shown == [f"person {index:06d}: {name}" for index in range(5) for name in order]
    assert "beats in both: mask id, mask even, mask style;" in plane and plane.count("● <a") == 3
    assert plane.count('class="span"') == 7  # a cross each, but no height for an interval without an end
    identity = re.search(r"identity ↑</th>(.*?)</tr>", plane)
    assert identity and re.findall(r"<td[^>]*>(?:<[^>]+>)*([\d.]+)", identity.group(1)) == [
        "1",
        "0.66",
        "0.56",
        "0.51",
        "0.46",
        "0.71",
    ]
    assert "<b>0.66</b>" in identity.group(1) and identity.group(1).count("<b>") == 1
    assert (
        "<code>pair=<wbr>mask pair/<wbr>balance=<wbr>even</code>" in plane and "<code>pair=<wbr>plain</code>" in plane
    )
    links = re.findall(r'<a href="([^"]+)"', plane)
    assert len(set(links)) == 4 and all((tmp_path / link).is_file() for link in links)


def test_only_runs_on_the_same_people_share_a_plane(tmp_path: Path) -> None:
    reports = [*sweep(tmp_path / "one", {("mask", "id"): 0.0}), *sweep(tmp_path / "two", {("mask", "style"): 0.1})]
    changed = tmp_path / "two/data/d/manifest.json"
    changed.write_text(changed.read_text().replace('"digest": "', '"digest": "f', 1))
    write_index(reports, tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert "2 runs side by side" in text and "The person or the style" not in text


def test_runs_are_named_by_what_differs() -> None:
    def made(target: str, name: str, **settings: Any) -> report_plane.PairRun:
        manifest = {"kind": "pair", "config": {"_target_": target, **settings}, "metrics": {}}
        return report_plane.PairRun(Artifact(Path(name), manifest), Artifact(Path("data"), {"kind": "data"}), "comic")

    stage = "stages.pair.stage.PairStage"
    region = {"mask_head": False, "composite": True}
    runs = [
        made("stages.pair.latent.LatentPairs", "l"), made(stage, "m", translator={"mask_head": True, "balance": "id"}),
        made(stage, "r", translator=region, train={"lr": 0.001}),
        made(stage, "s", translator=region, train={"lr": 0.002}),
        made("stages.pair.given.GivenPairs", "0123456789"), made("stages.pair.given.GivenPairs", "abcdefghij"),
    ]  # fmt: skip
    names = ["latent", "mask id", "region, lr=0.001", "region, lr=0.002", "given, 01234567", "given, abcdefgh"]
    assert report_plane.labels(runs) == names


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    places = [(0.5, 1.0), (0.9, 3.0), (0.7, 2.0), (0.7, 1.5), (0.6, 1.5), (0.4, 1.2)]
    assert report_plane.front(places) == [1, 3, 0]
    beaten = {i for i, (a, b) in enumerate(places) for c, d in places if c >= a and d <= b and (c, d) != (a, b)}
    assert set(range(len(places))) - beaten == set(report_plane.front(places))


def test_a_distribution_is_stacked_and_cut_by_its_limit() -> None:
    parts = {"kept": [0.5] * 6 + [0.9] * 4, "out": [0.1, 0.1, float("nan")], "else": []}
    drawn = charts.distribution("score", parts, limit=0.3, bins=4)
    heights = [float(value) for value in re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)]
    assert heights == [120, 80, 40] and "kept, 0.5 to 0.7: 6" in drawn and "out, 0.1 to 0.3: 2" in drawn
    at = re.search(r'class="front limit" x1="([\d.]+)"', drawn)
    assert at and float(at.group(1)) == pytest.approx(280 / 4)
    assert charts.distribution("score", {"kept": [float("nan")]}) == "" and "<rect" in charts.distribution(
        "s", {"a": [1.0]}
    )


def test_labels_of_the_plane_keep_apart() -> None:
    points = [charts.Dot(0.5 + 0.001 * i, 1.0 + 0.001 * i, "p", "k", f"label {i}") for i in range(3)]
    drawn = charts.scatter([*points, charts.Dot(0, 0, "p", "k"), charts.Dot(1, 2, "p", "k", "far")], "x", "y")
    tags = re.findall(r'class="tag" x="([\d.]+)" y="([\d.]+)"( text-anchor="end")?>([^<]+)', drawn)
    boxes = []
    for x, y, end, label in tags:
        wide = 6.4 * len(label)
        left = float(x) - (wide if end else 0)
        assert left >= charts.LEFT and left + wide <= charts.WIDTH
        boxes.append((left, float(y) - 10, left + wide, float(y) + 2))
    assert len(boxes) == 4
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert min(one[2], other[2]) <= max(one[0], other[0]) or min(one[3], other[3]) <= max(one[1], other[1])


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


def test_an_editor_shows_its_modes_edits_and_attributes(chain: dict[str, Artifact], tmp_path: Path) -> None:
    style = tiny_runs.style(tmp_path, {"data": chain["data"]})
    for name in ("modes", "editing", "change"):
        write_bytes(style.path / f"{name}.png", encode_png(tiny_runs.face(3, "photo")))
    metrics = {"moved_age": 1.254, "moved_smile": 0.5, "classifier_age": 0.871, "editor_psnr": 31.0, "leak": 0.1}
    style = Artifact(style.path, style.manifest | {"metrics": style.metrics | metrics})
    write_bytes(tmp_path / "export" / "e" / "editor.onnx", b"0")
    export = seal(
        tmp_path / "export" / "e", "export", config={}, inputs={"style": style}, metrics={"editor_bytes": 5e6}
    )
    write_report({"style": style, "export": export}, tmp_path / "report.html")
    text, page = parse(tmp_path / "report.html")
    shown = {image["alt"] for image in page.images}
    assert shown >= {"photo, and each mode", "each attribute from -2 to 2", "the same edits: dark is unchanged"}
    assert re.search(r"age.*?1\.25.*?0\.87", text) and "reconstruction" in measure("editor_psnr").meaning
    assert "stylize edit photo.png --sheet -o sheet.png" in text and "student.onnx" not in text

    write_report(chain, tmp_path / "plain.html")
    assert "Edits at five strengths" not in (tmp_path / "plain.html").read_text()


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
    write_json(style.path / "pareto.json", found)
    ladder = [{"images": images, "kid": 4 - images, "coverage": 1.0, "recall": 0.0} for images in (0, 1, 2)]
    write_json(style.path / "ladder.json", ladder)
    write_report({"style": style}, tmp_path / "report.html")
    text, page = parse(tmp_path / "report.html")
    assert "coverage 0.93 and KID 1.62, the plain transfer 0.71 and 2.1" in text and "12.5 %" in text
    assert text.count('class="ring"') == 1 and "swap-8 keeps the rule" in text
    assert text.count('class="line"') == 3  # KID, coverage, recall


def test_a_generator_for_phones_has_a_section_of_its_own(tmp_path: Path) -> None:
    """Its sheets, the paper's phones, and ours once the page has timed this very file."""
    made = tiny_runs.chain(tmp_path)
    assert "The generator on the phone" not in _text(made, tmp_path)
    for name in ("teacher", "pyramid", "encoding", "few-shot"):
        write_image(made["student"].path / "preview" / f"{name}.png", np.zeros((20, 30, 3), np.uint8))
    write_jsonl(made["export"].path / "records.jsonl", [{"runtime": "onnx", "precision": "fp32", "sha256": "ab"}])
    said = _text(made, tmp_path)
    for words in ("The generator on the phone", "The pyramid of heads", "A style from few pictures", "Galaxy S20"):
        assert words in said
    assert "no phone measured" in said

    timed = {"sha256": "ab", "size": 256, "threads": 1, "network_ms": {"median": 21.5}}
    small = timed | {"size": 128, "network_ms": {"median": 6.25}}
    saved = {"device": {"name": "Pixel 9", "browser": ["Chrome"]}, "models": [timed, small]}
    write_json(tmp_path / "reports" / "measurements" / "one.json", saved)
    said = _text(made, tmp_path)
    assert "no phone measured" not in said and "this model on Pixel 9" in said and "21.5 (1 threads)" in said
    assert "6.25 (1 threads)" in said and "128 px" in said


def _text(artifacts: dict[str, Artifact], folder: Path) -> str:
    write_report(artifacts, folder / "report.html")
    return (folder / "report.html").read_text()
