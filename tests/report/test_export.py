"""Stage three on the page: every exported file in one table, tiers side by side, and what was not measured said so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.core.artifact import Artifact, seal
from stages.core.files import write_json, write_jsonl
from stages.report.export import export_table, tier_table
from stages.report.index import write_index
from stages.report.write import write_report

COST = {"nano": 1.0, "low": 2.0, "mid": 2.6, "high": 8.0}
SHARE = {"fp32": 1.0, "fp16": 0.5, "int8": 0.27}


def run(out: Path, tier: str, runtime: str = "onnx", where: str = "all") -> dict[str, Artifact]:
    """A student and its export with made-up records; `where` "nowhere" is a runtime that does not run here."""
    metrics = {"parameters": 52384 * COST[tier], "macs_256": 145e6 * COST[tier], "size": 64}
    metrics |= {"edge_clarity_ratio": 1 - 0.1 / COST[tier], "kid_ratio": 0.3, "flicker": float("nan")}
    config = {"_target_": "stages.student.stage.StudentStage", "model": {"tier": tier}}
    student = seal(made(out / "student" / tier), "student", config=config, inputs={}, metrics=metrics)
    rows = []
    for precision, share in SHARE.items():
        row = {"runtime": runtime, "precision": precision, "file": f"student.{precision}.{runtime}"}
        row |= {"bytes": int(209_000 * COST[tier] * share), "sha256": f"{tier}-{runtime}-{precision}"}
        row |= dict.fromkeys(("max_error", "psnr", "edge_clarity", "ms_256_1", "ms_256_2", "ms_512_1", "ms_512_2"))
        if where == "all":
            ms = 2.1 * COST[tier]
            row |= {"max_error": 1e-6, "psnr": 160.2 * share**0.5, "edge_clarity": 1.004, "ms_256_1": ms}
            row |= {"ms_256_2": 0.6 * ms, "ms_512_1": 4.1 * ms, "ms_512_2": 2.3 * ms}
        rows.append(row)
    place = made(out / "export" / f"{tier}-{runtime}")
    write_json(place / "card.json", {"tier": tier})
    write_jsonl(place / "records.jsonl", rows)
    export = seal(place, "export", config={"runtime": runtime}, inputs={"student": student}, metrics={"bytes": 1.0})
    return {"student": student, "export": export}


def made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "student.bin").write_bytes(b"0")
    return path


def cells(html: str) -> list[list[str]]:
    """The texts of a table's rows."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.S)[1:]
    return [
        [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.S)] for row in rows
    ]


def test_every_file_has_a_row_in_order_of_tier_runtime_and_precision(tmp_path: Path) -> None:
    runs = [run(tmp_path, "mid", "mnn"), run(tmp_path, "mid"), run(tmp_path, "nano"), run(tmp_path, "nano")]
    html = export_table(runs)
    rows = cells(html)
    names = [("nano", "onnx"), ("mid", "onnx"), ("mid", "mnn")]
    assert [tuple(row[:3]) for row in rows] == [(*name, precision) for name in names for precision in SHARE]
    assert rows[0] == ["nano", "onnx", "fp32", "0.209", "160", "1.004", "2.1", "1.26", "8.61", "4.83"]
    assert "Phones: not measured" in html


def test_what_cannot_run_here_says_so(tmp_path: Path) -> None:
    rows = cells(export_table([run(tmp_path, "mid", "coreml", where="nowhere")]))
    assert [row[4] for row in rows] == ["not run here"] * 3 and all(row[3] and not row[6] for row in rows)


def test_a_file_without_times_is_not_measured(tmp_path: Path) -> None:
    found = run(tmp_path, "mid", "web")
    rows = [row | dict.fromkeys(("ms_256_1", "ms_256_2", "ms_512_1", "ms_512_2")) for row in found["export"].records()]
    write_jsonl(found["export"].path / "records.jsonl", rows)
    assert cells(export_table([found]))[0][4:7] == ["160", "1.004", "not measured"]


def test_a_phones_times_are_joined_by_the_files_digest(tmp_path: Path) -> None:
    measured = {"size": 256, "threads": 4, "network_ms": {"median": 21.04, "p95": 30}}
    device = {"name": "A <phone>", "browser": "Firefox 160"}
    models = [measured | {"sha256": "mid-onnx-int8"}, measured | {"sha256": "another"}]
    folder = tmp_path / "reports" / "measurements"
    write_json(folder / "phone.json", {"device": device, "models": models})
    write_json(folder / "foreign.json", [1, 2])
    (folder / "broken.json").write_text("{")
    html = export_table([run(tmp_path, "mid")])
    rows = cells(html)
    assert len(rows) == 4 and "not measured" not in html and "A &lt;phone&gt;" in html
    assert rows[3][0] == "mid" and "4 threads" in rows[3][1] and rows[3][2] == "int8" and rows[3][7] == "21"


def test_a_model_of_one_size_is_timed_at_that_size(tmp_path: Path) -> None:
    """Here, and elsewhere by the digest of the model in the page's folder."""
    found = run(tmp_path, "mid", "web")
    kept = ("runtime", "precision", "file", "bytes", "psnr", "edge_clarity")
    rows = [{key: row[key] for key in kept} | {"ms_128_1": 5.1, "ms_128_2": 3.2} for row in found["export"].records()]
    write_jsonl(found["export"].path / "records.jsonl", [rows[0] | {"sha256": "folder", "models": ["page"]}])
    timed = {"sha256": "page", "size": 128, "threads": 1, "network_ms": {"median": 33.3}}
    saved = {"device": {"name": "Pixel 9", "browser": "Chrome"}, "models": [timed]}
    write_json(tmp_path / "reports" / "measurements" / "phone.json", saved)
    html = export_table([found])
    assert "ms 128, 1" in html and "256" not in html
    assert [row[6:] for row in cells(html)] == [["5.1", "3.2"], ["33.3", ""]]


def test_tiers_stand_side_by_side_with_what_was_measured(tmp_path: Path) -> None:
    html = tier_table([run(tmp_path, "high"), run(tmp_path, "nano"), run(tmp_path, "nano", "mnn")])
    assert [row[0] for row in cells(html)] == ["nano", "high"]
    assert cells(html)[0] == [
        "nano",
        "0.0524",
        "0.145",
        "8.61",
        "0.9",
        "0.3",
    ]  # no column for the flicker, never measured
    assert tier_table([run(tmp_path, "mid")]) == ""


@pytest.mark.parametrize("runs", [[], [{}]])
def test_nothing_leaves_no_heading(runs: list) -> None:
    assert export_table(runs) == "" and tier_table(runs) == ""


def test_report_and_index_hold_the_tables(tmp_path: Path) -> None:
    reports = []
    for tier in ("nano", "mid"):
        reports.append(tmp_path / "reports" / tier / "report.html")
        write_report(run(tmp_path, tier), reports[-1])
        assert "Every tier, runtime and precision" in reports[-1].read_text()
    write_index(reports, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert "Tiers by compute, clarity and stylisation" in page and "Every tier, runtime and precision" in page
