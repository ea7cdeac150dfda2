"""A style set from candidates: what is written, what is left out, what a kill loses, and how much memory it takes."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tensors import to_tensor
from stages.core.tracking import Tracker
from stages.networks.face_reader import Reader, load_reader
from stages.networks.latents import latents
from stages.networks.stylegan2 import Generator
from stages.style.sampling import write as collect
from stages.style.sampling.candidates import Painter, Sampling, draw
from stages.style.sampling.distribution import Distribution
from stages.style.sampling.filters import Filters, References, judge, least_bad
from stages.style.sampling.score import background_variety
from stages.style.sampling.write import BatchWriter, write_style_set
from tests.tools import tiny_runs

NOTHING = Filters(quality=False, memorised=False, duplicates=False)


def network(seed: int = 0, resolution: int = 32, base: int = 256) -> Generator:
    torch.manual_seed(seed)
    net = Generator(8, 8, resolution, channel_base=base, channel_max=8).eval()
    net.mapping.w_avg.normal_()
    return net


def runtime(out: Path, workers: int = 2) -> Runtime:
    return Runtime("cpu", workers, Tracker(out))


def write(out: Path, sampling: Sampling, **more):
    out.mkdir(exist_ok=True, parents=True)
    arguments = {"source": None, "data": out / "none", "target": "comic", "runtime": runtime(out)} | more
    return write_style_set(out, network(), sampling=sampling, **arguments)


def everything(out: Path) -> dict[str, bytes]:
    """Names and bytes of what would be sealed."""
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(p.relative_to(out)): p.read_bytes() for p in files if ".scratch" not in p.parts}


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader()


@pytest.fixture
def gate(monkeypatch) -> dict[str, float]:
    """A gate that calls dark pictures broken; `limit` is set by the test."""
    setting = {"limit": 0.0}

    class Gate:
        def score(self, reading):
            return reading.features[:, 0].double() - setting["limit"]

        def broken(self, reading):
            return self.score(reading) < 0

    monkeypatch.setattr(References, "read", classmethod(lambda cls, *_: cls(gate=Gate())))
    return setting


def test_a_plain_set_is_what_the_generators_draw(tmp_path) -> None:
    twin = network(1)
    done = write(tmp_path, Sampling(count=7, psi=0.8, seed=3, batch=3, mirror=True, reject=NOTHING), source=twin)
    wanted, before = (draw(net, latents(8, range(3, 10)), 0.8, batch=3) for net in (network(), twin))
    for pictures in (wanted, before):
        pictures[1::2] = pictures[1::2, :, ::-1].copy()
    assert np.array_equal(done.drawn, wanted) and np.array_equal(done.source, before)
    rows = read_jsonl(tmp_path / "records.jsonl")
    assert rows[1] == {"id": "000001", "image": "images/000001.png", "seed": 4, "psi": 0.8, "style": "comic",
                       "mirrored": True}  # fmt: skip
    assert [row["seed"] for row in rows] == list(range(3, 10)) and rows == done.records
    codes = load_file(tmp_path / "latents.safetensors")
    assert codes.keys() == {"z", "w"} and torch.equal(codes["z"], latents(8, range(3, 10)))
    assert torch.allclose(codes["w"], network().mapping(codes["z"], 0.8)[:, 0], atol=1e-6)
    assert done.metrics == {"images": 7, "candidates": 7, "passed": 1, "readmitted": 0, "shortfall": 0}
    names = {name.split("/")[0] for name in everything(tmp_path)}
    assert names == {"images", "source", "records.jsonl", "latents.safetensors"}  # nothing was read


def test_a_kill_loses_a_batch_at_most_and_changes_no_byte(tmp_path, monkeypatch, gate, reader) -> None:
    gate["limit"] = 0.1
    sampling = Sampling(count=12, batch=2, reject=Filters(memorised=False), distribution=Distribution(oversample=4))
    settings = {"reader": reader, "source": network(1)}
    write(tmp_path / "whole", sampling, **settings)
    drawn: list[int] = []
    paint = Painter.__call__

    def dies(self, numbers):
        if len(drawn) == 10:
            raise KeyboardInterrupt
        drawn.extend(numbers)
        return paint(self, numbers)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Painter, "__call__", dies)
        write(tmp_path / "torn", sampling, **settings)
    finished = len(list((tmp_path / "torn/.scratch/sampling").glob("*.safetensors"))) * 2
    assert 10 - 2 * (collect.AHEAD + 1) <= finished <= 10  # a writer's queue and the batch at work

    def counts(self, numbers):
        drawn.extend(numbers)
        return paint(self, numbers)

    drawn.clear()
    monkeypatch.setattr(Painter, "__call__", counts)
    write(tmp_path / "torn", sampling, **settings)
    assert drawn[0] == finished and everything(tmp_path / "torn") == everything(tmp_path / "whole")
    drawn.clear()
    write(tmp_path / "torn", sampling, **settings)
    assert not drawn and everything(tmp_path / "torn") == everything(tmp_path / "whole")
    write(tmp_path / "torn", Sampling(count=3, reject=NOTHING))  # other settings start anew
    assert sorted(p.name for p in (tmp_path / "torn/images").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert not {"rejects.jsonl", "source/000000.png"} & everything(tmp_path / "torn").keys()


def test_broken_candidates_are_replaced_by_further_seeds(tmp_path, gate, reader) -> None:
    every = reader.read(to_tensor(draw(network(), latents(8, range(40)), 0.7))).features[:, 0]
    gate["limit"] = float(every.median())
    done = write(tmp_path, Sampling(count=20, psi=0.7, reject=Filters(duplicates=False)), reader=reader)
    good = [seed for seed in range(40) if every[seed] >= gate["limit"]]
    assert [row["seed"] for row in done.records[: len(good)]] == good[:20] and len(done.records) == 20
    rejects = read_jsonl(tmp_path / "rejects.jsonl")
    assert len(rejects) == done.metrics["rejected_quality"] == done.metrics["candidates"] * (1 - done.metrics["passed"])
    for row in rejects:
        assert row["reason"] == "quality" and row["score"] < 0 and row["seed"] not in good
    assert (tmp_path / "rejects.png").exists() and done.metrics["readmitted"] == done.metrics["shortfall"] == 0


def test_a_generator_that_only_breaks_still_fills_the_set_with_the_least_bad(tmp_path, gate, reader) -> None:
    gate["limit"] = 1e3
    done = write(tmp_path, Sampling(count=4), reader=reader)
    assert done.metrics["candidates"] == 12 and done.metrics["readmitted"] == 4 and done.metrics["passed"] == 0
    rows = read_jsonl(tmp_path / "rejects.jsonl")
    best = sorted(row["seed"] for row in sorted(rows, key=lambda row: -row["score"])[:4])
    assert [row["seed"] for row in done.records] == best and {row["readmitted"] for row in done.records} == {"quality"}
    assert sum(row.get("readmitted", False) for row in rows) == 4 and len(rows) == 12


def test_copies_and_repeats_are_found(reader) -> None:
    torch.manual_seed(0)
    training, features = torch.randn(50, 16), torch.randn(20, 16)
    features[3], features[7] = training[5], features[2]
    seen = {"features": features, "attributes": torch.zeros(20, 1)}
    seen |= {"quality": torch.linspace(-1, 18, 20), "broken": torch.arange(20) == 0}
    references = References(gate=object(), training=training, threshold=0.5)
    reasons, scores = judge(seen, Filters(), references)
    assert {i: r for i, r in enumerate(reasons) if r} == {0: "quality", 3: "memorised", 7: "duplicate"}
    assert scores[0] == -1 and scores[3] == scores[7] == 0 and np.isnan(scores[1])
    assert least_bad(reasons, scores, 2).tolist() == [0, 3]


def test_references_are_read_from_the_data(tmp_path, reader) -> None:
    data = tiny_runs.data(tmp_path, people=12, held=32).path
    found = References.read(reader, data, "comic", Filters(), 1)
    assert found.gate is not None and found.gate.count == 64 and found.training.shape[0] == 24 and found.threshold > 0
    few = References.read(reader, tiny_runs.data(tmp_path / "few").path, "photo", Filters(memorised=False), 1)
    assert few.gate is None and few.training is None


def test_a_distribution_is_aimed_at_and_told(tmp_path, reader) -> None:
    wish = Distribution(target="balanced", over=["yaw"], edges={"yaw": [-1.0, 1.0]}, oversample=4)
    every = reader.read(to_tensor(draw(network(), latents(8, range(24)), 1.0))).pose[:, 0]
    low, high = float(every.quantile(0.6)), float(every.quantile(0.8))
    wish.edges["yaw"] = [low, high]
    done = write(tmp_path, Sampling(count=15, psi=1.0, reject=NOTHING, distribution=wish), reader=reader)
    told = tmp_path / "distribution.json"
    row = json.loads(told.read_text())["attributes"]["yaw"]
    assert row["before"][0] > 0.5 and row["after"] == pytest.approx([1 / 3] * 3, abs=1e-4) == row["target"]
    assert done.metrics["distribution_distance"] < 0.02 and len(done.records) == 15 < done.metrics["candidates"] <= 60
    surplus = read_jsonl(tmp_path / "rejects.jsonl")
    assert {row["reason"] for row in surplus} == {"distribution"}
    assert len(surplus) + 15 == done.metrics["candidates"]


def test_inverted_photos_are_decoded_once_or_mixed(tmp_path) -> None:
    net = network()
    ws = net.mapping(latents(8, [100, 101, 102]), 1.0).clone()
    plain = Sampling(count=5, source="invert", reject=NOTHING)
    done = write(tmp_path / "plain", plain, ws=ws, photos=["a", "b", "c"])
    assert [row["photo"] for row in done.records] == ["a", "b", "c"] and "seed" not in done.records[0]
    assert done.metrics["shortfall"] == 2
    assert torch.equal(load_file(tmp_path / "plain/latents.safetensors")["ws"], ws)
    mixed = Sampling(count=5, source="invert", mix_from=16, psi=0.9, seed=7, reject=NOTHING)
    done = write(tmp_path / "mixed", mixed, ws=ws, photos=["a", "b", "c"])
    assert [(row["photo"], row["seed"]) for row in done.records] == list(zip("abcab", range(7, 12), strict=True))
    codes = load_file(tmp_path / "mixed/latents.safetensors")["ws"]
    assert torch.equal(codes[3, :3], ws[0, :3])  # conv0 of the 16 px block is the fourth of the ws
    assert torch.allclose(codes[:, 3:], net.mapping(latents(8, range(7, 12)), 0.9)[:, 3:], atol=1e-6)
    with pytest.raises(TristyleError, match="no inverted photos"):
        write(tmp_path / "none", plain)
    with pytest.raises(TristyleError, match=r"takes \(8, 8\)"):
        write(tmp_path / "wrong", plain, ws=ws[:, :4], photos=["a", "b", "c"])
    with pytest.raises(TristyleError, match="2 photos"):
        write(tmp_path / "ids", plain, ws=ws, photos=["a", "b"])


def test_a_cutoff_leaves_fine_layers_alone(tmp_path) -> None:
    write(tmp_path, Sampling(count=2, psi=0.5, cutoff=4, reject=NOTHING))
    codes = load_file(tmp_path / "latents.safetensors")
    assert codes.keys() == {"z", "ws"}
    assert torch.allclose(codes["ws"], network().mapping(codes["z"], 0.5, 4), atol=1e-6)
    assert not torch.allclose(codes["ws"][:, 3], codes["ws"][:, 4])


def test_the_writer_holds_no_more_than_it_was_told(tmp_path, monkeypatch) -> None:
    gates, under_way, most = threading.Semaphore(0), [0], [0]
    done: list[int] = []
    monkeypatch.setattr("stages.style.sampling.write.write_image", lambda *_: gates.acquire())

    def release() -> None:  # one batch at a time is let through, and only while the producer waits
        while len(done) < 6:
            gates.release(2)
            threading.Event().wait(0.005)

    thread = threading.Thread(target=release)
    thread.start()
    with BatchWriter(2, ahead=2) as writer:
        for i in range(6):
            writer.put(np.zeros((2, 4, 4, 3), np.uint8), [tmp_path / f"{i}{j}.png" for j in range(2)],
                       lambda i=i: done.append(i))  # fmt: skip
            under_way[0] = i + 1 - len(done)
            most[0] = max(most[0], under_way[0])
    thread.join()
    assert most[0] == 2 and done == list(range(6))
    with pytest.raises(OSError, match="full"), BatchWriter(1) as writer:
        monkeypatch.setattr(
            "stages.style.sampling.write.write_image", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
        )
        writer.put(np.zeros((1, 4, 4, 3), np.uint8), [tmp_path / "x.png"])


def _growth(out: Path, count: int, pipe) -> None:
    """In a child: megabytes by which its peak memory grows while a 1024 px generator draws a set."""
    collect.SHOWN = 1  # the summary's pictures are meant to be held, and are not what is asked about
    net = network(resolution=1024, base=2048)
    before = _peak()
    write_style_set(out, net, None, Sampling(count=count, reject=NOTHING), data=out, target="photo",
                    runtime=runtime(out, 1))  # fmt: skip
    pipe.send(_peak() - before)


def _peak() -> float:
    """Megabytes this process has held at most. Not `ru_maxrss`: a child's begins at what its parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read a peak from")
def test_memory_does_not_grow_with_the_set(tmp_path) -> None:
    spawn, grown = multiprocessing.get_context("spawn"), []  # a fork would draw into what earlier tests have freed
    for count in (6, 14):  # both fill the writers' queue
        receive, send = spawn.Pipe(duplex=False)
        (tmp_path / str(count)).mkdir()
        child = spawn.Process(target=_growth, args=(tmp_path / str(count), count, send))
        child.start()
        grown.append(receive.recv() if receive.poll(120) else float("nan"))
        child.join()
    # Drawn at once, each further picture takes 44 MB, 350 MB in all. When threads free what they held moves a peak by
    # up to 80 MB, whatever the count, so that the limit lies between.
    assert grown[1] - grown[0] < 175 and grown[0] > 30, grown


def test_background_variety_counts_colours_outside_the_head() -> None:
    images = np.zeros((8, 64, 64, 3), np.uint8)
    mask = np.zeros((8, 64, 64), np.float32)
    mask[:, 16:48, 16:48] = 1
    images[:, 16:48, 16:48] = np.arange(8)[:, None, None, None] * 30  # heads alone differ
    assert background_variety(images, mask) == (pytest.approx(1), pytest.approx(0, abs=1e-4))
    images[::2, mask[0] == 0] = (200, 30, 30)
    clusters, spread = background_variety(images, mask)
    assert clusters == pytest.approx(2) and spread > 20
    assert background_variety(images, np.ones_like(mask)) == (0, 0)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"source": "photos"}, "source"),
        ({"mix_from": 16}, "mix_from"),
        ({"mix_from": 20, "source": "invert"}, "mix_from"),
        ({"cutoff": 0}, "cutoff"),
        ({"batch": 0}, "batch"),
    ],
)
def test_senseless_settings_are_refused(settings, match) -> None:
    with pytest.raises(ConfigError, match=match):
        Sampling(count=1, **settings)
    with pytest.raises(ConfigError, match="quantile"):
        Filters(quantile=0.7)
