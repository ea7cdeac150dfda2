"""Sheets to choose a style from: what is in the cells, and the command line over sealed artifacts."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.artifact import seal
from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.core.weights import save_network
from stages.networks.latents import latents
from stages.networks.stylegan2 import Generator
from stages.style.editing.directions import Direction, Edit, draw_edited
from stages.style.editing.sheet import GAP, PAD, Row, edited_rows, fused_row, heading, layout, main, style_sheet, text
from stages.style.fusion.fuse import Fusion, fuse
from stages.style.sampling.candidates import draw


@pytest.fixture(scope="module")
def pair() -> tuple[Generator, Generator]:
    """A generator and a child of it."""
    torch.manual_seed(0)
    source = Generator(8, 8, 32, channel_base=256, channel_max=8).eval()
    child = copy.deepcopy(source)
    with torch.no_grad():
        for p in child.parameters():
            p += 0.2 * torch.randn_like(p)
    return source, child


@pytest.fixture(scope="module")
def runs(pair, tmp_path_factory) -> Path:
    """runs/style with two sealed styles of one name."""
    root = tmp_path_factory.mktemp("runs")
    source, child = pair
    for key in ("abcd1234", "ef560000"):
        out = root / "style" / key
        names = {
            "source": source,
            "transferred": child,
            "generator": fuse(*pair, Fusion(schedule="constant", high=0.5)),
        }
        for name, network in names.items():
            save_network(out / f"{name}.safetensors", network)
        seal(out, "style", config={"target": "comic", "key": key}, inputs={}, metrics={})
    return root


def test_rows_hold_what_they_say(pair) -> None:
    source, child = pair
    z = latents(8, range(3))
    row = fused_row("comic", source, child, z, [0.0, 0.5, 1.0], psi=0.7)
    assert row.pictures.shape == (3, 3, 32, 32, 3)
    assert np.array_equal(row.pictures[:, 0], draw(source, z, 0.7))
    assert np.array_equal(row.pictures[:, 2], draw(child, z, 0.7))
    half = fuse(source, child, Fusion(schedule="constant", high=0.5, mapping=0.5))
    assert np.array_equal(row.pictures[:, 1], draw(half, z, 0.7))
    edit, directions = Edit(direction="yaw", alpha=9.0), {"yaw": Direction(torch.eye(8)[2], 1.0)}
    (turned,) = edited_rows("comic", child, z, {"turn": edit}, directions, [-1.0, 0.0], psi=0.7)
    assert (turned.title, turned.note) == ("comic", "turn")
    expected = draw_edited(child, z, [Edit(direction="yaw", alpha=-1.0)], directions)
    assert np.array_equal(turned.pictures[:, 0], expected)
    assert np.array_equal(turned.pictures[:, 1], draw(child, z, 0.7))
    with pytest.raises(TristyleError, match="alphas"):
        fused_row("comic", source, child, z, [1.5], psi=0.7)


def test_every_picture_stands_in_its_place() -> None:
    """Flat pictures of one grey each: found again at the place of their row, person and column."""
    greys = np.arange(2 * 3 * 2).reshape(2, 3, 2) * 15 + 20  # rows, people, columns
    rows = [
        Row(title, "", np.broadcast_to(grey[:, :, None, None, None], (3, 2, 64, 64, 3)).astype(np.uint8))
        for title, grey in zip(("first", "second"), greys, strict=True)
    ]
    sheet = layout(rows, ["a", "b"], face=128)
    side, block = 128, 2 * (128 + PAD) - PAD
    left, top = sheet.shape[1] - 3 * (block + GAP), sheet.shape[0] - 2 * (side + PAD) - GAP + PAD
    for index in np.ndindex(greys.shape):
        row, person, column = index
        y, x = top + row * (side + PAD), left + person * (block + GAP) + column * (side + PAD)
        cell = sheet[y : y + side, x : x + side]
        assert (cell == greys[index]).all(), index
        assert (sheet[y - 1 if row else y + side, x : x + side] == 255).all()
    for names, place in (("titles", sheet[top:, :left]), ("heading", sheet[:top, left:])):
        assert (place < 100).any(), names
    assert (sheet[: top + side, :left].min(axis=(0, 2))[: left - 4] < 100).any()


def test_a_title_stands_once_and_notes_each_time() -> None:
    picture = np.full((1, 1, 64, 64, 3), 255, np.uint8)
    ink = [
        int((layout([Row(title, "note", picture) for title in titles], ["a"]) < 128).sum())
        for titles in (["one"], ["one", "one"], ["one", "two"])
    ]
    assert ink[0] <= ink[1] < ink[2]


def test_text_fits_its_line_and_headings_their_columns() -> None:
    word = text("comic, gray", 20)
    assert word.shape[0] == 20 and word.dtype == np.uint8
    dark = (word < 128).any(axis=(1, 2)).nonzero()[0]
    assert 1 <= dark.min() and dark.max() <= 18  # neither the tall letters nor the deep ones are cut
    assert text("comic, gray", 40).shape[1] == pytest.approx(2 * word.shape[1], rel=0.1)
    band = heading(["x", "", "x"], 300, 32)
    inked = (band < 160).any(axis=(0, 2)).nonzero()[0]
    assert inked[inked < 150].mean() == pytest.approx(50, abs=3)
    assert inked[inked > 150].mean() == pytest.approx(250, abs=3)
    assert heading(["source"], 64).shape == (16, 64, 3)


def test_the_sheet_has_a_row_for_each_style_and_edit(pair) -> None:
    source, child = pair
    z = latents(8, range(2))
    plain = style_sheet({"comic": child, "photo": source}, source, z, [0.0, 1.0])
    directions = {"yaw": Direction(torch.eye(8)[2], 1.0), "smile": Direction(torch.eye(8)[3], 1.0)}
    edits = {name: Edit(direction=name, alpha=1.0) for name in directions}
    edited = style_sheet({"comic": child}, source, z, [-1.0, 1.0], edits, {"comic": directions})
    assert plain.shape[0] == edited.shape[0] and plain.dtype == np.uint8
    with pytest.raises(TristyleError, match="no direction yaw"):
        style_sheet({"comic": child}, source, z, [1.0], edits, {})


def test_command_draws_every_style_under_runs(runs, tmp_path, capsys) -> None:
    main([str(runs), "-o", str(tmp_path / "all.png"), "--alphas", "0,1", "--people", "2"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "all.png")
    main([str(runs / "style/abcd1234"), "-o", str(tmp_path / "one.png"), "--alphas", "0,1", "--people", "2"])
    both, one = (read_image(tmp_path / name) for name in ("all.png", "one.png"))
    assert both.shape[0] == one.shape[0] + 128 + PAD


def test_command_draws_edits(runs, tmp_path) -> None:
    out = tmp_path / "edits.png"
    options = ["--edits", "yaw,sefa1", "--alphas", "-2,0,2", "--people", "1", "--samples", "24"]
    main([str(runs / "style/abcd1234"), "-o", str(out), *options])
    sheet = read_image(out)
    left = sheet.shape[1] - 3 * (128 + PAD) + PAD - GAP
    cells = [
        [sheet[-GAP - (2 - row) * (128 + PAD) + PAD :][:128, left + k * (128 + PAD) :][:, :128] for k in range(3)]
        for row in range(2)
    ]
    assert np.array_equal(cells[0][1], cells[1][1])  # alpha 0 is the same person in both rows
    assert not np.array_equal(cells[0][0], cells[0][1]) and not np.array_equal(cells[0][2], cells[1][2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no finished style artifact"),
        (["RUNS", "--edits", "age"], "'age' is unknown"),
        (["RUNS", "--alphas", "one"], "not numbers"),
        (["RUNS", "--alphas", "-1,2"], "out of range"),
        (["RUNS", "--people", "0"], "people"),
        (["RUNS", "--psi", "nan"], "psi"),
        (["RUNS", "--samples", "3", "--edits", "yaw"], "count"),
        (["RUNS", "--edits", "yaw", "--keep", "age"], "conditioned_on"),
        (["RUNS", "-o", "sheet.jpg"], "End -o in .png"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(runs, arguments: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(runs) if word == "RUNS" else word for word in arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1


def test_a_changed_artifact_is_refused(runs, tmp_path, capsys) -> None:
    place = tmp_path / "copy"
    shutil.copytree(runs / "style/abcd1234", place)
    (place / "source.safetensors").write_bytes(b"other")
    with pytest.raises(SystemExit):
        main([str(place), "-o", str(tmp_path / "sheet.png")])
    assert "changed since the artifact was sealed" in capsys.readouterr().err
