"""Own pictures in detail: what a folder holds, what is made of a file and kept, what is left out and why."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from stages.core.files import read_jsonl
from stages.core.images import read_image
from stages.core.runtime import Runtime
from stages.core.settings import ConfigError, TristyleError
from stages.core.tracking import Tracker, Unseen
from stages.datasets.folders import ingest as at_work
from stages.datasets.folders.cache import A_DAY, Cache, Crop, Entry, hand_out
from stages.datasets.folders.contact_sheet import contact_sheet
from stages.datasets.folders.duplicates import alike, near, perceptual_hash, thumbnail
from stages.datasets.folders.ingest import IngestJob, Treatment, ingest
from stages.datasets.folders.photo_quality import SEEN_FACE, Limits, brightness, occlusion, sharpness
from stages.datasets.folders.sources import PictureSource, Sources, listed
from stages.datasets.folders.stage import FolderData
from stages.faces.align import ffhq_quad
from stages.faces.detect import Found
from stages.pipeline.cli import main

SIDE = 64
POINTS = np.array([[0.38, 0.46], [0.62, 0.46], [0.5, 0.6], [0.41, 0.7], [0.59, 0.7]])  # in the FFHQ square, about


def texture(seed: int, size: int = SIDE) -> np.ndarray:
    """A picture with detail at all scales, unlike that of any other seed. uint8 [size, size, 3]."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 24, (n, n, 3)), (size, size), interpolation=cv2.INTER_CUBIC) for n in (4, 16, size)
    ]
    return (128 + sum(layers)).clip(0, 255).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def fill(root: Path, count: int = 20, size: int = SIDE) -> Path:
    """Photos in two folders and a style, all with masks, so that no network is needed."""
    head = np.zeros((size, size), np.uint8)
    head[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 255
    for index in range(count):
        name = f"{'ab'[index % 2]}/p{index:03d}.png"
        save(root / "photo" / name, texture(index, size))
        save(root / "mask" / name, head)
    for index in range(6):
        save(root / "style" / "ink" / f"s{index}.png", texture(1000 + index, size))
        save(root / "style_mask" / "ink" / f"s{index}.png", head)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "own")


def run(root: Path, out: Path, workers: int = 1, **options: object) -> SimpleNamespace:
    out.mkdir(parents=True, exist_ok=True)
    stage = FolderData(path=str(root), **{"size": 32, **options})  # type: ignore[arg-type]
    metrics = stage.run({}, out, Runtime("cpu", workers, Tracker(out)))
    records, rejects = (read_jsonl(out / name) for name in ("records.jsonl", "rejects.jsonl"))
    photos = {row["source"]: row for row in records if row["style"] is None}
    reasons = {(row["path"], row.get("face", 0)): row["reason"] for row in rejects}
    return SimpleNamespace(out=out, metrics=metrics, records=records, photos=photos, rejects=rejects, reasons=reasons)


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


# --------------------------------------------------------------------------------------------- what a folder holds


def test_folders_within_are_read_and_may_name_the_person(folder: Path, tmp_path: Path) -> None:
    save(folder / "photo" / "b" / "p000.png", texture(500))  # the same name in another folder is another person
    save(folder / "mask" / "b" / "p000.png", np.full((SIDE, SIDE), 255, np.uint8))
    save(folder / "photo" / "b" / "deep" / "x.png", texture(501))
    save(folder / "mask" / "b" / "deep" / "x.png", np.full((SIDE, SIDE), 255, np.uint8))
    (folder / "photo" / ".thumbs").mkdir()
    save(folder / "photo" / ".thumbs" / "p000.png", texture(502))
    made = run(folder, tmp_path / "runs" / "one")
    assert len(made.photos) == 22 and not made.rejects
    assert made.photos["photo/a/p000.png"]["person"] != made.photos["photo/b/p000.png"]["person"]
    assert all(row["mask_from"] == "given" for row in made.records)
    grouped = run(folder, tmp_path / "runs" / "two", person_pattern="^([^/]+)/")
    assert {row["person"] for row in grouped.photos.values()} == {"a", "b"}


def test_links_and_folders_that_are_no_pictures_are_told_and_not_followed(folder: Path, tmp_path: Path) -> None:
    photo = folder / "photo"
    outside = save(tmp_path / "elsewhere" / "secret.png", texture(77))
    (photo / "out.png").symlink_to(outside)
    (photo / "loop").symlink_to(photo, target_is_directory=True)
    (photo / "self.png").symlink_to(photo / "self.png")
    (photo / "within.png").symlink_to(photo / "a" / "p000.png")
    (photo / "named.jpg").mkdir()
    save(photo / "named.jpg" / "in.png", texture(78))
    faults = {entry.name: entry.fault for entry in listed(photo) if entry.fault}
    assert set(faults) == {"out.png", "loop", "self.png", "named.jpg"} and "out of the folder" in faults["out.png"]
    assert "within.png" in {entry.name for entry in listed(photo) if not entry.fault}
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("photo", "mask", "style", "style_mask"):
        (linked / name).symlink_to(folder / name, target_is_directory=True)
    assert len(run(linked, tmp_path / "runs" / "linked").photos) == 20  # the top folders may be links


def test_licence_and_consent_come_from_sources_csv(folder: Path, tmp_path: Path) -> None:
    (folder / "sources.csv").write_text(
        "pattern,licence,licence_class,consent,author\n"
        'photo/a/*,"CC0, by the museum",open,yes,Ann\n'
        "photo/a/p002.png,,research/non-commercial,,\n"
        "photo/*/p004.png,,,no,\n"
        "photo/a/p004.png,,open,no,\n"
        "style/*,MIT,open,,\n"
        "photo/nowhere/*,MIT,open,,\n"
    )
    made = run(folder, tmp_path / "runs" / "all", licence="mine")
    row = made.photos["photo/a/p000.png"]
    assert [row[key] for key in ("licence", "licence_class", "consent", "author")] == [
        "CC0, by the museum", "open", "yes", "Ann",
    ]  # fmt: skip
    assert (
        made.photos["photo/a/p002.png"]["licence_class"] == "research/non-commercial"
    )  # a path counts before a pattern
    assert made.photos["photo/a/p002.png"]["licence"] == "mine"
    assert made.photos["photo/b/p001.png"]["licence_class"] == "unknown"
    assert "consent" in made.reasons["photo/a/p004.png", 0] and made.metrics["sources_idle"] == 2
    open_only = run(folder, tmp_path / "runs" / "open", only=["open"])
    assert {name.split("/")[1] for name in open_only.photos} == {"a"} and len(open_only.photos) == 8
    assert "licence class unknown" in open_only.reasons["photo/b/p001.png", 0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,licence\na,b\n", "path"),
        ("licence\nb\n", "pattern"),
        ("pattern,licence\nphoto/*,CC0, by me\n", "line 2"),
        ("pattern,licence\n,MIT\n", "line 2"),
        ("", "pattern"),
    ],
)
def test_a_wrong_sources_csv_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "sources.csv").write_text(text)
    with pytest.raises(TristyleError, match=named) as caught:
        Sources(tmp_path, PictureSource())
    assert "sources.csv" in str(caught.value) and "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------- kept, gone on with, the same


def test_what_was_made_is_kept_and_only_a_changed_photo_is_made_anew(folder: Path, tmp_path: Path, monkeypatch) -> None:
    done: list[str] = []
    real = at_work._cut

    def counted(task: IngestJob, entry: Entry, data: bytes) -> list:
        done.append(task.file.name)
        return real(task, entry, data)

    monkeypatch.setattr(at_work, "_cut", counted)
    first = run(folder, tmp_path / "runs" / "one")
    assert len(done) == 26
    done.clear()
    again = run(folder, tmp_path / "runs" / "two")
    assert not done and contents(again.out) == contents(first.out)
    save(folder / "photo" / "a" / "p006.png", texture(600))
    save(folder / "mask" / "b" / "p007.png", np.full((SIDE, SIDE), 255, np.uint8))
    changed = run(folder, tmp_path / "runs" / "three")
    assert sorted(done) == ["a/p006.png", "b/p007.png"]
    fresh = run(folder, tmp_path / "other" / "three")  # another cache: everything anew
    assert contents(fresh.out) == contents(changed.out) != contents(first.out)
    done.clear()
    run(folder, tmp_path / "runs" / "limits", limits=Limits(sharpness=0.1), heldout=0.3, licence="new")
    assert not done, "limits, the split and licences need no picture to be read again"
    run(folder, tmp_path / "runs" / "size", size=64)
    assert len(done) == 26


def test_any_number_of_processes_makes_the_same(folder: Path, tmp_path: Path) -> None:
    fill(folder, 40)
    alone = run(folder, tmp_path / "alone" / "x")
    together = run(folder, tmp_path / "together" / "x", workers=2)
    assert contents(together.out) == contents(alone.out)


def test_masks_do_not_depend_on_which_pictures_are_read_together(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for index in range(5):
        save(root / f"p{index}.png", texture(index))
    recipe = Treatment(size=32)
    tasks = [IngestJob(file, None, recipe) for file in listed(root)]
    bar = Unseen("data", 1)
    together = ingest(tasks, tmp_path / "a", 1, bar)
    one_by_one = [ingest([task], tmp_path / "b", 1, bar)[0] for task in reversed(tasks)][::-1]
    assert together == one_by_one and all(entry.crops[0].mask for entry in together)


def test_killed_half_way_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    root = fill(tmp_path / "own", 300)
    lines = "from pathlib import Path; from stages.datasets.folders.stage import FolderData"
    lines += "; from stages.core.runtime import Runtime"
    lines += "; from stages.core.tracking import Tracker; out = Path(r'{}'); out.mkdir(parents=True, exist_ok=True)"
    lines += "; FolderData(path=r'{}', size=32).run({{}}, out, Runtime('cpu', 2, Tracker(out)))"
    out = tmp_path / "killed" / "x"
    code = f"if __name__ == '__main__':\n    {lines.format(out, root)}\n"
    (tmp_path / "job.py").write_text(code)
    job = subprocess.Popen([sys.executable, tmp_path / "job.py"], stderr=subprocess.DEVNULL, cwd=Path.cwd())
    begun = time.monotonic()
    while len(list((tmp_path / "killed").rglob("*.json"))) < 32:
        assert job.poll() is None and time.monotonic() - begun < 300
        time.sleep(0.01)
    children = [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]
    job.send_signal(signal.SIGKILL)
    job.wait()
    kept = len(list((tmp_path / "killed").rglob("*.json")))
    while any(_alive(pid) for pid in children):  # they end with their parent
        assert time.monotonic() - begun < 300
        time.sleep(0.05)
    assert kept < 306
    assert contents(run(root, out).out) == contents(run(root, tmp_path / "whole" / "x").out)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_damaged_result_is_made_anew(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path / "runs" / "one")
    before = contents(first.out)
    pictures = sorted((tmp_path / "runs" / ".ingest").rglob("*.png"))
    descriptions = sorted((tmp_path / "runs" / ".ingest").rglob("*.json"))
    os.unlink(pictures[0])
    descriptions[3].write_text(descriptions[3].read_text()[:50])
    copy = pictures[5].read_bytes()
    os.unlink(pictures[5])
    pictures[5].write_bytes(copy[:-1] + b"x")
    assert contents(run(folder, tmp_path / "runs" / "two").out) == before


def test_the_cache_is_trimmed_of_what_is_old_and_unfinished(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    for key in ("aa", "bb", "cc"):
        cache.save(Entry(key, crops=[Crop()]), [(b"p" * 1000, b"m" * 1000)])
    now = time.time()
    for age, key in enumerate(("cc", "aa", "bb")):  # cc was used last
        for file in (tmp_path / "cache").rglob(f"{key}*"):
            os.utime(file, (now - (age + 0.5) * A_DAY,) * 2)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    orphan = tmp_path / "cache" / "a" / f".x.png.{dead.pid}.tmp"
    living = tmp_path / "cache" / "a" / f".x.png.{os.getpid()}.tmp"
    for file in (orphan, living):
        file.write_bytes(b"half")
    cache.trim(5000)
    assert cache.load("bb") is None and cache.load("aa") and cache.load("cc")
    assert living.exists() and not orphan.exists()
    for file in (tmp_path / "cache").rglob("aa*"):
        os.utime(file, (now - 2 * A_DAY,) * 2)
    cache.trim(0)
    assert cache.load("aa") is None and cache.load("cc"), "what was used within a day stays"


def test_a_result_removed_in_use_is_told(tmp_path: Path) -> None:
    with pytest.raises(TristyleError, match="Run again"):
        hand_out(tmp_path / "gone.png", tmp_path / "out" / "x.png")


def test_a_file_changed_or_removed_while_the_folder_is_read_is_told(folder: Path, tmp_path: Path) -> None:
    bar = Unseen("data", 1)
    for harm in (lambda file: save(file, texture(900, 80)), lambda file: file.unlink()):
        tasks = [IngestJob(file, None, Treatment(size=32)) for file in listed(folder / "photo")]
        harm(tasks[3].file.path)
        with pytest.raises(TristyleError, match="Run again") as caught:
            ingest(tasks, tmp_path / "cache", 1, bar)
        assert str(tasks[3].file.path) in str(caught.value)


# ------------------------------------------------------------------------------------------------- scores and limits


def test_sharpness_falls_with_blur_at_any_size() -> None:
    for size in (64, 256):
        picture = texture(1, size)
        scores = [
            sharpness(cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture) for sigma in (0, 0.7, 1.5, 3)
        ]
        assert scores == sorted(scores, reverse=True) and scores[0] > 0.4 and scores[2] < 0.35 and scores[3] < 0.25
    along = cv2.GaussianBlur(texture(1, 256), (25, 1), 4)  # moved, so blurred in one direction alone
    assert sharpness(along) < 0.25
    sharp_face = cv2.GaussianBlur(texture(2, 256), (0, 0), 6)
    sharp_face[56:200, 56:200] = texture(2, 256)[56:200, 56:200]
    assert sharpness(sharp_face) > 0.4, "a background out of focus is no fault"
    assert sharpness(np.full((64, 64, 3), 90, np.uint8)) == 0


def test_brightness_is_that_of_the_middle() -> None:
    picture = np.full((100, 100, 3), 255, np.uint8)
    picture[20:80, 20:80] = (0, 255, 0)
    assert brightness(picture) == pytest.approx(0.587)


def test_occlusion_is_the_share_of_the_face_that_is_none() -> None:
    shares = np.zeros((19, 64, 64))
    shares[1] = 1
    assert occlusion(shares, POINTS) == 0
    left, right = (POINTS[:, 0].min(), POINTS[:, 0].max())
    middle = round((left + right) / 2 * 64)
    shares[1, :, middle:], shares[13, :, middle:] = 0, 1  # hair over one half
    assert occlusion(shares, POINTS) == pytest.approx(0.5, abs=0.06)
    assert all(label in SEEN_FACE for label in (1, 2, 3, 10)) and not {0, 13, 14, 17, 18} & set(SEEN_FACE)


def test_limits_say_what_is_wrong_and_leave_alone_what_was_not_measured() -> None:
    limits = Limits(sharpness=0.2, dark=0.1, bright=0.9, face=100, yaw=45, occlusion=0.2, outside=0.3)
    good = {"sharpness": 0.4, "brightness": 0.5, "face": 200.0, "yaw": -30.0, "occlusion": 0.1, "outside": 0.0}
    assert limits.reason(good) == "" and limits.reason(dict.fromkeys(good)) == "" and Limits().reason(good) == ""
    for score, value, words in (
        ("sharpness", 0.1, "blurred"), ("brightness", 0.05, "dark"), ("brightness", 0.95, "overexposed"),
        ("face", 60.0, "small"), ("yaw", -60.0, "turned"), ("occlusion", 0.4, "covered"), ("outside", 0.5, "border"),
    ):  # fmt: skip
        assert words in limits.reason({**good, score: value})
    with pytest.raises(ConfigError):
        Limits(yaw=120)


def test_photos_beyond_a_limit_are_listed_with_their_scores(folder: Path, tmp_path: Path) -> None:
    save(folder / "photo" / "a" / "p000.png", cv2.GaussianBlur(texture(0), (0, 0), 5))
    save(folder / "photo" / "a" / "p002.png", texture(2) // 12)
    save(folder / "style" / "ink" / "s0.png", cv2.GaussianBlur(texture(3), (0, 0), 5))  # flat styles are no fault
    made = run(folder, tmp_path / "runs" / "x", limits=Limits(sharpness=0.2, dark=0.1))
    assert set(made.reasons) == {("photo/a/p000.png", 0), ("photo/a/p002.png", 0)}
    assert "blurred" in made.reasons["photo/a/p000.png", 0] and "dark" in made.reasons["photo/a/p002.png", 0]
    row = next(row for row in made.rejects if row["path"] == "photo/a/p000.png")
    assert row["scores"]["sharpness"] < 0.2 and len(row["sha256"]) == 64
    assert made.metrics["rejected"] == 2 and made.metrics["style_count"] == 5


# --------------------------------------------------------------------------------------------------------- duplicates


def test_near_finds_what_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    hashes = [int(value) for value in rng.integers(0, 1 << 63, 60, dtype=np.uint64)]
    for index in range(60):  # each again with up to six bits turned
        bits = rng.choice(64, rng.integers(0, 7), replace=False)
        hashes.append(hashes[index] ^ sum(1 << int(bit) for bit in bits))
    for most in (0, 3, 4):
        slow: dict[int, int] = {}
        for number, value in enumerate(hashes):
            firsts = [n for n in range(number) if n not in slow and (hashes[n] ^ value).bit_count() <= most]
            if firsts:
                slow[number] = firsts[0]
        assert near(hashes, most, lambda a, b: True) == slow and len(slow) > 5


def test_a_picture_encoded_again_is_one_with_its_source_and_others_are_not() -> None:
    pictures = [cv2.GaussianBlur(texture(seed, 256), (0, 0), 1) for seed in range(12)]
    for picture in pictures:
        again = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
        again = cv2.resize(again, (128, 128), interpolation=cv2.INTER_AREA)
        assert (perceptual_hash(picture) ^ perceptual_hash(again)).bit_count() <= 4
        assert alike(thumbnail(picture), thumbnail(again))
    distances = [
        (perceptual_hash(a) ^ perceptual_hash(b)).bit_count() for a in pictures for b in pictures if a is not b
    ]
    assert min(distances) > 8
    tinted = pictures[0].copy()
    tinted[..., 2] = np.minimum(tinted[..., 2].astype(int) + 30, 255)
    assert not alike(thumbnail(pictures[0]), thumbnail(tinted))


def test_of_two_nearly_equal_photos_the_larger_stays(folder: Path, tmp_path: Path) -> None:
    large = cv2.GaussianBlur(texture(700, 256), (0, 0), 1.5)
    save(folder / "photo" / "a" / "copy.png", cv2.resize(large, (96, 96), interpolation=cv2.INTER_AREA))
    save(folder / "photo" / "z.jpg", large, quality=60)
    for name in ("a/copy", "z"):
        save(folder / "mask" / f"{name}.png", np.full((96, 96), 255, np.uint8))
    made = run(folder, tmp_path / "runs" / "x")
    assert made.reasons == {("photo/a/copy.png", 0): "nearly the same picture as photo/z.jpg"}
    assert not run(folder, tmp_path / "runs" / "y", duplicates=None).rejects


# -------------------------------------------------------------------------------------------------------------- faces


class Detector:
    """Finds the faces that a test says are there, by the photo's width."""

    def __init__(self, faces: dict[int, list[tuple[float, float, float]]]) -> None:
        self.faces = faces

    def __call__(self, picture: np.ndarray) -> list[Found]:
        found = []
        for left, top, side in self.faces.get(picture.shape[1], []):
            points = POINTS * side + [left, top]
            found.append(Found(points, (left, top, left + side, top + side), 0.99, 12.34))
        return found


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos 300 px wide with two faces, 200 px wide with one, 150 px with none, 100 px with a tiny one."""
    root = fill(tmp_path / "own", 0)
    (root / "photo").mkdir()
    for index in range(4):
        save(root / "photo" / f"two{index}.png", texture(10 + index, 300))
        save(root / "photo" / f"one{index}.png", texture(20 + index, 200))
    save(root / "photo" / "none.png", texture(30, 150))
    save(root / "photo" / "tiny.png", texture(31, 100))
    faces = {300: [(20, 40, 120), (170, 60, 90)], 200: [(60, 50, 100)], 100: [(10, 10, 8)]}
    monkeypatch.setattr(at_work, "_detector", lambda weights: Detector(faces))
    return root


def test_photos_are_cut_along_the_largest_face_or_along_all(group: Path, tmp_path: Path) -> None:
    made = run(group, tmp_path / "runs" / "aligned", faces="aligned", duplicates=None)
    assert len(made.photos) == 8 and made.metrics["found"] == pytest.approx(0.9)
    assert (
        "no face found" in made.reasons["photo/none.png", 0]
        and "half of data.size" in made.reasons["photo/tiny.png", 0]
    )
    row = made.photos["photo/two0.png"]
    assert row["faces"] == 2 and row["face"] == 0 and row["scores"]["yaw"] == 12.3
    assert np.allclose(row["quad"], ffhq_quad(POINTS * 120 + [20, 40]), atol=0.01)
    assert row["scores"]["face"] == pytest.approx(np.hypot(*np.subtract(row["quad"][3], row["quad"][0])), abs=0.1)
    assert 0 <= row["scores"]["occlusion"] <= 1 and row["mask_from"] == "parser"
    everyone = run(group, tmp_path / "runs" / "all", faces="all", duplicates=None)
    people = [row["person"] for row in everyone.records if row["source"] == "photo/two1.png"]
    assert people == ["two1", "two1#1"] and everyone.metrics["count"] + everyone.metrics["heldout"] == 12
    strict = run(group, tmp_path / "runs" / "strict", faces="all", duplicates=None, limits=Limits(face=100))
    assert ("photo/two1.png", 1) in strict.reasons and ("photo/two1.png", 0) not in strict.reasons


def test_a_given_mask_is_cut_along_the_face_with_its_photo(group: Path, tmp_path: Path) -> None:
    for index in range(4):
        mask = cv2.resize(texture(10 + index, 300)[..., 1], (150, 150), interpolation=cv2.INTER_AREA)
        save(group / "mask" / f"two{index}.png", np.maximum(mask, 1))
    made = run(group, tmp_path / "runs" / "x", faces="aligned", duplicates=None, size=64)
    row = made.photos["photo/two0.png"]
    photo, mask = read_image(made.out / row["photo"]), read_image(made.out / row["mask"])
    assert row["mask_from"] == "given"
    assert np.corrcoef(photo[..., 1].ravel(), mask[..., 0].ravel())[0, 1] > 0.8  # it was the photo's own green


def test_twins_of_photos_that_are_cut_along_faces_are_refused(group: Path, tmp_path: Path) -> None:
    save(group / "style" / "ink" / "one1.png", texture(90))
    with pytest.raises(TristyleError, match="data.faces=square"):
        run(group, tmp_path / "runs" / "x", faces="aligned")
    assert run(group, tmp_path / "runs" / "y", faces="aligned", twins=False).photos


def test_real_faces_are_found_upright_and_named_when_they_are_not(shared: Path, tmp_path: Path) -> None:
    pictures, weights = shared / "data" / "portraits_hr" / "wild512", shared / "data" / "weights"
    if not pictures.is_dir() or not weights.is_dir():
        pytest.skip("no development photos")
    root = fill(tmp_path / "own", 0)
    names = sorted(file.name for file in pictures.iterdir())[:60:15]
    for name in names:
        save(root / "photo" / name, read_image(pictures / name))
    save(root / "photo" / "turned.png", read_image(pictures / names[0])[::-1])
    made = run(root, tmp_path / "runs" / "x", faces="aligned", weights=str(weights))
    assert {row.split("/")[1] for row in made.photos} >= set(names)
    for name in names:  # they were cut along the same square before
        quad = np.array(made.photos[f"photo/{name}"]["quad"])
        assert np.abs(quad - [[0, 0], [0, 511], [511, 511], [511, 0]]).max() < 512 * 0.08


# ------------------------------------------------------------------------------------------------------------ summary


def test_the_contact_sheet_shows_what_is_used_and_what_is_not(folder: Path, tmp_path: Path) -> None:
    before = run(folder, tmp_path / "runs" / "x")
    (folder / "photo" / "page.jpg").write_text("<html>404")
    save(folder / "photo" / "soft.png", cv2.GaussianBlur(texture(0), (0, 0), 5))
    after = run(folder, tmp_path / "runs" / "y", limits=Limits(sharpness=0.2))
    sheets = [read_image(made.out / "sheet.png") for made in (before, after)]
    assert sheets[1].shape[0] > sheets[0].shape[0] and sheets[0].shape[1] == sheets[1].shape[1]
    assert set(after.reasons) == {("photo/page.jpg", 0), ("photo/soft.png", 0)}
    assert contact_sheet([], [], Cache(tmp_path)).shape[2] == 3


def test_a_second_run_tells_that_it_is_done_without_loading_torch(folder: Path, tmp_path: Path, monkeypatch) -> None:
    words = [
        "stage=data",
        "data=folders",
        f"data.path={folder}",
        "data.size=32",
        f"out={tmp_path / 'runs'}",
        "workers=1",
    ]

    def here() -> set[str]:
        monkeypatch.setattr(sys, "argv", ["tristyle", *words])
        main()
        return {path.name for path in (tmp_path / "runs" / "data").iterdir() if not path.name.startswith(".")}

    keys = here()
    code = "import sys; from stages.pipeline.cli import main; main(); "
    code += "print('torch' if 'torch' in sys.modules else 'light')"
    command = [sys.executable, "-c", code, *words]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "already done" in said and "light" in said
    page = next((tmp_path / "runs" / "reports").rglob("report.html")).read_text()
    assert "Contact sheet" in page and "Scores of the photos" in page
    save(folder / "photo" / "a" / "p000.png", texture(999))
    assert len(keys) == 1 and len(here() - keys) == 1
