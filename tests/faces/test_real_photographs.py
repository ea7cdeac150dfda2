"""Faces of photographs: found, squared up as FFHQ is, their landmarks, and the weights that others made for it."""

from __future__ import annotations

import csv
import http.server
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.core.images import read_image
from stages.core.settings import TristyleError
from stages.faces import detect, landmarks, weights
from stages.faces.align import crop, ffhq_quad, five_of_68, side_of, to_crop
from stages.faces.detect import Detector, Found, RetinaDetector, SharpDetector, yaw_of
from stages.faces.facexlib import fan, part, retinaface
from stages.faces.landmarks import FanLandmarks, MeshLandmarks, from_98, peaks
from stages.faces.recognise import open_recogniser
from stages.faces.weights import WEIGHTS, Weight, find_weight
from stages.networks.facemesh import FaceMesh

FIVE = np.array([[40.0, 50], [60, 50], [50, 62], [42, 72], [58, 72]])
MOBILE = "detection_mobilenet0.25_Final.pth"


def turned(points: np.ndarray, angle: float, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    return points @ np.array([[cos, sin], [-sin, cos]]) + shift


# ------------------------------------------------------------------------------------------------------------ align


def test_the_square_is_that_of_ffhq() -> None:
    """Upright: e = (20, 0), m = (0, 22); |x| = max(2 * 20, 1.8 * 22) = 40, centre (50, 50 + 2.2)."""
    quad = ffhq_quad(FIVE)
    assert np.allclose(quad, [[10, 12.2], [10, 92.2], [90, 92.2], [90, 12.2]]) and side_of(quad) == pytest.approx(80)
    longer = FIVE + [[0, 0], [0, 0], [0, 0], [0, 8], [0, 8]]  # 1.8 * 30 = 54 decides now
    assert side_of(ffhq_quad(longer)) == pytest.approx(108)


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_the_square_turns_with_the_face(angle: float) -> None:
    again = ffhq_quad(turned(FIVE, angle, 2.5, (7, -3)))
    assert np.allclose(again, turned(ffhq_quad(FIVE), angle, 2.5, (7, -3)))


def test_68_landmarks_give_the_square_of_their_five_points() -> None:
    many = np.random.default_rng(0).uniform(0, 100, (68, 2))
    many[36:42] += FIVE[0] - many[36:42].mean(0)
    many[42:48] += FIVE[1] - many[42:48].mean(0)
    many[[30, 48, 54]] = FIVE[2:]
    assert np.allclose(five_of_68(many), FIVE) and np.allclose(ffhq_quad(many), ffhq_quad(FIVE))


def test_points_that_make_no_square_are_refused() -> None:
    for points in (np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2))):
        with pytest.raises(ValueError, match="points"):
            ffhq_quad(points)


def test_a_crop_of_whole_pixels_is_a_copy() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    quad = np.array([[9.5, 4.5], [9.5, 36.5], [41.5, 36.5], [41.5, 4.5]])
    out, outside = crop(picture, quad, 32)
    assert np.array_equal(out, picture[5:37, 10:42]) and outside == 0


@pytest.mark.parametrize("size", [128, 64, 23, 8])
@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi])
def test_a_crop_lies_where_its_points_say(size: int, angle: float) -> None:
    """A slope is kept by every sampling that is in its right place: a pixel's value is the slope at its centre."""
    y, x = np.mgrid[:200, :240]
    picture = np.stack([x, y, 100 + 0.2 * x - 0.3 * y], axis=-1).round().astype(np.uint8)
    quad = turned(np.array([[-40.0, -40], [-40, 40], [40, 40], [40, -40]]), angle, 1, (118.3, 97.6))
    out, outside = crop(picture, quad, size)
    place = np.array([[0, 0], [size - 1, 0], [size // 2, size // 3]])
    pixels = out[place[:, 1], place[:, 0], :2].astype(float)
    assert outside == 0 and np.abs(to_crop(pixels, quad, size) - place).max() < 0.9 * max(1, size / 80)


def test_what_is_reduced_is_averaged() -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[::2] = 255  # stripes that any thinning out would show
    quad = np.array([[15.5, 15.5], [15.5, 239.5], [239.5, 239.5], [239.5, 15.5]])
    for size in (16, 32, 56, 112):
        assert np.abs(crop(picture, quad, size)[0].astype(int) - 127).max() <= 16


def test_beyond_the_border_the_picture_is_mirrored_and_told() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    quad = np.array([[-10.5, -0.5], [-10.5, 39.5], [29.5, 39.5], [29.5, -0.5]])
    out, outside = crop(picture, quad, 40)
    assert outside == pytest.approx(0.25) and np.array_equal(out[:, :10], picture[:, 10:0:-1])


# ----------------------------------------------------------------------------------------------------------- detect


def test_anchors_and_decoding_are_those_of_retinaface() -> None:
    import facexlib.detection.retinaface_utils as theirs
    from facexlib.detection.retinaface import generate_config

    height, width = 72, 104
    priors = theirs.PriorBox(generate_config("mobile0.25"), image_size=(height, width)).forward()
    ours = detect._anchors(height, width)
    sides = np.array([width, height, width, height])
    assert np.allclose(priors.numpy() * sides, np.concatenate([ours, ours[:, 2:]], axis=1), atol=1e-3)
    generator = torch.Generator().manual_seed(0)
    boxes, points = (torch.randn(len(ours), n, generator=generator) for n in (4, 10))
    decoded = detect._decode(ours, boxes.numpy(), points.numpy())
    expected = theirs.decode(boxes, priors, [0.1, 0.2]).numpy() * sides
    assert np.allclose(decoded[:, :4], expected - 0.5, atol=1e-3)
    expected = theirs.decode_landm(points, priors, [0.1, 0.2]).numpy() * np.tile([width, height], 5)
    assert np.allclose(decoded[:, 4:], expected - 0.5, atol=1e-3)


def test_boxes_of_one_face_vote_and_faces_stay_apart() -> None:
    def row(score: float, left: float, side: float) -> np.ndarray:
        return np.concatenate([[score, left, 0, left + side, side], np.tile([left, 0], 5)])

    faces = detect._vote(np.stack([row(0.9, 0, 10), row(0.99, 1, 10), row(0.8, 40, 20), row(0.85, 7, 8)]))
    assert [face.score for face in faces] == [0.8, 0.99, 0.85]  # by size; the last overlaps the first by a quarter
    assert faces[1].points[0, 0] == pytest.approx((0.9 * 0 + 0.99 * 1) / 1.89) and faces[0].box == (40, 0, 60, 20)
    assert detect._vote(np.zeros((0, 15))) == []


@pytest.mark.parametrize("yaw", [-50.0, -20.0, 0.0, 35.0])
def test_yaw_is_read_off_the_nose(yaw: float) -> None:
    head = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.6, -detect.NOSE], [-0.4, 1, 0], [0.4, 1, 0]])
    turn = math.radians(yaw)
    seen = np.stack([head[:, 0] * math.cos(turn) - head[:, 2] * math.sin(turn), head[:, 1]], axis=1)
    assert yaw_of(turned(seen, 0.3, 40, (9, 9))) == pytest.approx(yaw, abs=1e-6)


def test_retinaface_sees_any_size_and_batch_alike(shared: Path) -> None:
    path = shared / "data" / "weights" / MOBILE
    if not path.is_file():
        pytest.skip("no weights of RetinaFace in the shared material")
    from skimage import data

    picture = np.ascontiguousarray(data.astronaut())
    detector = RetinaDetector(path, "mobile0.25")
    (face,) = detector(picture)
    assert detector.id == f"retinaface-mobile0.25-{WEIGHTS[MOBILE].sha256[:8]}"
    assert np.abs(face.points[:3] - [[204, 110], [245, 108], [226, 135]]).max() < 12 and abs(face.yaw_deg) < 20
    other = picture[:400, 60:]
    first, second = detector.batch([other, picture])
    assert np.abs(second[0].points - face.points).max() < 0.01
    assert np.abs(first[0].points + [60, 0] - face.points).max() < 8
    assert detector(np.zeros((60, 60, 3), np.uint8)) == [] and detector(picture[:1, :1]) == []


class Fixed(Detector):
    id = "fixed"

    def __init__(self, faces: list[Found]) -> None:
        self.faces = faces

    def __call__(self, picture: np.ndarray) -> list[Found]:
        return self.faces


class Wide(landmarks.Landmarks):
    """Landmarks that all lie at 5, 5 but for the mouth's corners and the eyes; scores as given."""

    id = "wide"

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def __call__(self, picture, points):
        seen = np.full((len(points), 68, 2), 5.0)
        seen[:, 42:48], seen[:, 54] = (15, 5), (15, 20)
        return seen, np.array(self.scores)


def test_landmarks_sharpen_what_was_found_and_clear_out_what_was_not() -> None:
    face = Found(FIVE, (30, 40, 70, 80), 0.9, yaw_of(FIVE))
    box = replace(face, yaw_deg=None)
    profile = replace(face, yaw_deg=-75.0)
    detector = SharpDetector(Fixed([face, face, box, box, box, profile]), Wide(0.99, 0.3, 0.99, 0.7, 0.2, 0.99))
    found = detector(np.zeros((9, 9, 3), np.uint8))
    assert detector.id == "fixed+wide" and len(found) == 5
    sharp = [one.landmarks is not None for one in found]
    assert sharp == [True, False, True, False, False] and [one.seen for one in found] == [True, True, True, False, True]
    assert np.allclose(found[0].points[[0, 1]], [[5, 5], [15, 5]]) and found[0].yaw_deg != face.yaw_deg


def test_faces_of_real_photographs_are_found_and_their_eyes_hit(shared: Path) -> None:
    """All scenes, and each fortieth portrait with ground-truth masks; `stages.evaluate.faces` has all numbers."""
    from stages.evaluate.faces import precision, scenes

    data = shared / "data"
    if not (data / "weights" / MOBILE).is_file():
        pytest.skip("no weights of RetinaFace in the shared material")
    detector = detect.open_detector(data / "weights")
    seen, clear, false = scenes(data / "portraits_hr" / "full", detector)
    assert (clear, false) == (51, 0) and seen / clear >= 0.98
    errors, missed = precision(data / "parsing_gt" / "celebamask512", detector, 40)
    assert missed == 0 and len(errors) >= 20 and np.quantile(errors, 0.95) < 0.03


# -------------------------------------------------------------------------------------------------------- landmarks


def test_98_become_68_as_facexlib_says() -> None:
    theirs = part("alignment", "convert_98_to_68_landmarks").landmark_98_to_68
    many = np.random.default_rng(0).uniform(0, 256, (98, 2))
    assert np.allclose(from_98(many), theirs(many), atol=1e-4) and from_98(many[None]).shape == (1, 68, 2)


def test_peaks_are_found_to_a_quarter_pixel() -> None:
    y, x = np.mgrid[:64, :64]
    places = np.array([[[10.2, 20.7], [33.0, 5.3]], [[0.0, 0.0], [63.0, 63.0]]])
    heat = np.exp(-((x - places[..., 0, None, None]) ** 2 + (y - places[..., 1, None, None]) ** 2) / 4)
    seen, heights = peaks(heat)
    assert np.abs(seen - places).max() <= 0.3 and heights.shape == (2, 2) and heights.min() > 0.9
    assert np.allclose(seen[1], places[1])


def test_fan_of_facexlib_is_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    path = tmp_path / "alignment_WFLW_4HG.pth"
    torch.save({"state_dict": {key: value.half() for key, value in fan().state_dict().items()}}, path)
    assert landmarks.find_landmarks(tmp_path) == path
    reader = landmarks.open_landmarks(tmp_path)
    assert isinstance(reader, FanLandmarks) and reader.id.startswith("fan-")
    picture = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    seen, scores = reader(picture, [FIVE])
    square = landmarks._square(FIVE)
    assert seen.shape == (1, 68, 2) and 0 <= scores[0] <= 1
    assert (to_crop(seen[0], square, 1) > -0.6).all() and (to_crop(seen[0], square, 1) < 0.6).all()
    assert reader(picture, [])[0].shape == (0, 68, 2)

    def planted(images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        heat = torch.zeros(1, 99, 64, 64)
        heat[:, :98, 31:33, 31:33] = 1  # the middle of the frame, 31.5: the first of four, moved by no neighbour's lead
        return [heat], []

    monkeypatch.setattr(reader, "network", planted)
    middle = reader(picture, [FIVE])[0][0, 0]
    assert np.abs(middle - square.mean(0)).max() < side_of(square) / 64


def test_face_mesh_is_the_published_one(shared: Path) -> None:
    """Against points that the published weights gave on another implementation of the network and of the crop."""
    folder = shared / "data"
    if not (folder / "weights" / "facemesh.pth").is_file():
        pytest.skip("no weights of Face Mesh in the shared material")
    known = np.load(folder / "labels" / "facemesh468.npz")
    with open(folder / "manifest.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    reader = landmarks.open_landmarks(folder / "weights")
    assert isinstance(reader, MeshLandmarks)
    apart = []
    for index in range(0, len(known["files"]), 250):
        name = str(known["files"][index])
        if not rows[name]["landmarks5"]:
            continue
        five = np.array(rows[name]["landmarks5"].split(), float).reshape(5, 2)
        mesh, scores = reader.mesh(read_image(folder / name), [five])
        off = np.linalg.norm(mesh[0, :, :2] - known["xy_q32"][index] / 32, axis=1).mean()
        apart.append(off / side_of(ffhq_quad(five)))
        assert abs(scores[0] - known["score"][index]) < 0.05
    assert len(apart) >= 6 and max(apart) < 0.005


def test_face_mesh_runs_without_its_weights_and_refuses_others(tmp_path: Path) -> None:
    network = FaceMesh()
    assert sum(value.numel() for value in network.parameters()) == 604_685
    points, scores = network(torch.zeros(2, 3, 192, 192))
    assert points.shape == (2, 468, 3) and scores.shape == (2,) and ((0 <= scores) & (scores <= 1)).all()
    torch.save(retinaface("mobile0.25").state_dict(), tmp_path / "facemesh.pth")
    with pytest.raises(TristyleError, match=r"facemesh\.pth: not the file it should be .* Copy the file again"):
        landmarks.open_landmarks(tmp_path)


def test_open_and_shut_eyes() -> None:
    face = np.zeros((68, 2))
    face[36:42] = [[0, 0], [1, -1], [2, -1], [3, 0], [2, 1], [1, 1]]
    face[42:48] = [[0, 0], [1, 0], [2, 0], [3, 0], [2, 0], [1, 0]]
    assert np.allclose(landmarks.eye_openness(face), [2 / 3, 0])


# ---------------------------------------------------------------------------------------------------------- weights


class Answer(http.server.BaseHTTPRequestHandler):
    """Weights at /good, others' bytes at /other, half of them at /cut, a page at /page; nothing else."""

    def do_GET(self) -> None:
        body = {"/good": b"weights" * 99, "/cut": b"weights" * 99, "/other": b"others", "/page": b"\n<!doctype html>"}
        data = body.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.path == "/cut" else data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def test_the_table_names_files_addresses_and_only_digests_that_were_taken(shared: Path) -> None:
    for name, weight in WEIGHTS.items():
        assert weight.address.startswith("https://") and weight.what and weight.terms
        file = shared / "data" / "weights" / name
        if file.is_file():
            assert weights.state_of(file.parent, name) == ("found", weight.sha256)
    hashed = {name for name, weight in WEIGHTS.items() if weight.sha256}
    assert hashed == {MOBILE, "facemesh.pth", "mobilefacenet_068.ckpt"}  # no other file was here to be hashed


def test_a_download_is_whole_and_checked(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    digest = hashlib.sha256(b"weights" * 99).hexdigest()
    monkeypatch.setitem(WEIGHTS, "good.pth", Weight("good", "free", f"{server}/good", digest))
    assert weights.main([str(tmp_path), "--download", "good.pth"]) == 0
    assert "0.0 MB from http" in capsys.readouterr().out and (tmp_path / "good.pth").read_bytes() == b"weights" * 99
    (tmp_path / "good.pth").unlink()
    for path, words in {"cut": "cannot be fetched", "page": "web page", "other": "another file", "none": "404"}.items():
        monkeypatch.setitem(WEIGHTS, "good.pth", Weight("good", "free", f"{server}/{path}", digest))
        assert weights.main([str(tmp_path), "--download", "good.pth"]) == 2
        line = capsys.readouterr().err
        assert words in line and digest in line and line.count("\n") == 1, line
    monkeypatch.setitem(WEIGHTS, "good.pth", Weight("good", "free", "http://127.0.0.1:9/x", digest))
    assert weights.main([str(tmp_path), "--download", "good.pth"]) == 2
    assert "cannot be fetched" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    assert weights.main([str(tmp_path), "--download", "evil.pth"]) == 2 and "no such weights" in capsys.readouterr().err


def test_a_digest_that_is_not_known_is_noted_at_first_use(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WEIGHTS, "new.pth", Weight("new", "free", f"{server}/other"))
    weights.download(tmp_path, "new.pth")
    assert weights.state_of(tmp_path, "new.pth")[0] == "found, noted"
    (tmp_path / "new.pth").write_bytes(b"changed")
    assert weights.state_of(tmp_path, "new.pth")[0].startswith("changed, was ")
    monkeypatch.setitem(WEIGHTS, "own.pth", Weight("own", "free", "https://example.org/own.pth"))
    (tmp_path / "own.pth").write_bytes(b"own")
    find_weight(tmp_path, "own.pth")
    assert set(json.loads((tmp_path / weights.NOTES).read_text())) == {"new.pth", "own.pth"}


def test_missing_weights_are_told_with_all_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    for folder in (None, tmp_path):
        with pytest.raises(TristyleError) as error:
            find_weight(folder, "facemesh.pth")
        line, weight = str(error.value), WEIGHTS["facemesh.pth"]
        assert all(word in line for word in ("facemesh.pth", weight.address, weight.sha256, "--download"))
        assert "\n" not in line and (str(folder) in line if folder else "faces.weights" in line)
    with pytest.raises(TristyleError, match="its SHA-256 is not known here"):
        find_weight(tmp_path, "parsing_bisenet.pth")
    assert landmarks.find_landmarks(tmp_path) is None  # they only sharpen
    with pytest.raises(TristyleError) as error:
        detect.open_detector(tmp_path)
    line, weight = str(error.value), WEIGHTS[MOBILE]
    assert all(word in line for word in (str(tmp_path / MOBILE), weight.address, weight.sha256)) and "\n" not in line
    with pytest.raises(
        TristyleError, match="recognition_arcface_ir_se50.pth: no such file .*https://github.com/xinntao"
    ):
        open_recogniser(str(tmp_path / "recognition_arcface_ir_se50.pth"))
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    assert weights.main([]) == 0
    told = capsys.readouterr().out
    assert all(f"{name}: missing" in told for name in WEIGHTS)


# ----------------------------------------------------------------------------------------------------- dependencies


def run_without(names: tuple[str, ...], code: str) -> str:
    """What a script prints that runs where these packages are not installed."""
    script = f"import sys\nsys.modules.update(dict.fromkeys({names!r}))\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_looking_for_faces_starts_without_torch_and_without_facexlib() -> None:
    told = run_without(
        ("torch", "facexlib", "torchvision"),
        """
import numpy as np
from skimage import data
from stages.apply.face_squares import open_finder
from stages.faces.align import crop, ffhq_quad
from stages.faces.detect import open_detector
picture = np.ascontiguousarray(data.astronaut())
assert len(open_finder()(picture)) == 1
(face,) = open_detector()(picture)
print(crop(picture, ffhq_quad(face.points), 64)[0].shape, face.seen)
""",
    )
    assert told.strip() == "(64, 64, 3) False"


def test_without_facexlib_its_networks_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / MOBILE).write_bytes(b"")
    told = run_without(
        ("facexlib",),
        f"""
from stages.core.settings import TristyleError
from stages.faces.detect import open_detector
from stages.faces import weights
from stages.faces.facexlib import part
weights._verify = lambda *file: None  # whose digest an empty file has not
for attempt in (lambda: open_detector({str(tmp_path)!r}), lambda: part("alignment", "awing_arch")):
    try:
        attempt()
    except TristyleError as error:
        print(error)
""",
    )
    assert told.count("pip install facexlib") == 2 and told.count("\n") == 2


def test_aligned_photos_are_read_without_facexlib(tmp_path: Path) -> None:
    """`data=folders` with `faces=square`, masks given: neither detector nor parser is asked for."""
    from PIL import Image

    for place in ("photo", "mask", "style/noise"):
        (tmp_path / "in" / place).mkdir(parents=True)
        for number in range(9):
            noise = np.random.default_rng([number, len(place)]).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            noise = noise[..., 0] if place == "mask" else noise
            Image.fromarray(noise).save(tmp_path / "in" / place / f"{number}.png")
    told = run_without(
        ("facexlib",),
        f"""
from pathlib import Path
from stages.datasets.folders.stage import FolderData
from stages.core.runtime import Runtime
from stages.core.tracking import Silent
runtime = Runtime("cpu", 1, Silent())
print(FolderData(path={str(tmp_path / "in")!r}, size=64).run({{}}, Path({str(tmp_path / "out")!r}), runtime))
""",
    )
    assert "'count': 8.0" in told
