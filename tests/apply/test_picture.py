"""A single picture: any photo read as it looks, marked as synthetic and read back, nothing of the camera, cut-outs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from stages.apply import main
from stages.apply.picture import cut_out, read_photo
from stages.core.files import sha256_file, temporary_path
from stages.core.images import write_image
from stages.core.mark import SOURCE_TYPES, Mark, read_mark

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.tools.tiny_student import half_bright, tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "student.onnx")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_mark_is_read_back(suffix: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / f"out{suffix}"
    write_image(photo, half_bright(64, 64))
    main([str(photo), "-o", str(out), "--model", str(model)])
    digest = f"sha256:{sha256_file(model)}"
    assert read_mark(out) == Mark("trainedAlgorithmicMedia", "tristyle", digest)
    capsys.readouterr()
    main(["verify", str(out)])
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: synthetic") and digest in said
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(out), str(photo)])
    assert stop.value.code == 1 and "carries no mark" in capsys.readouterr().out


def test_marks_of_others_are_understood(tmp_path: Path) -> None:
    image = Image.fromarray(half_bright(32, 32))
    for term, synthetic in (("compositeWithTrainedAlgorithmicMedia", True), ("digitalCapture", False)):
        packet = f"<x><e:DigitalSourceType>\n {SOURCE_TYPES}{term}</e:DigitalSourceType></x>"
        image.save(tmp_path / "other.jpg", xmp=packet.encode())
        mark = read_mark(tmp_path / "other.jpg")
        assert mark == Mark(term) and mark.synthetic is synthetic
    image.save(tmp_path / "plain.jpg")
    assert read_mark(tmp_path / "plain.jpg") is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_nothing_of_the_camera_is_copied(suffix: str, model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera of mine"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 27.0), 3: "E", 4: (2.0, 17.0, 42.0)})
    Image.fromarray(half_bright(64, 64)).save(tmp_path / "photo.jpg", exif=exif, comment=b"at home")
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.getexif().get_ifd(0x8825)
    out = tmp_path / f"out{suffix}"
    main([str(tmp_path / "photo.jpg"), "-o", str(out), "--model", str(model)])
    with Image.open(out) as image:
        assert not image.getexif() and "comment" not in image.info
    data = out.read_bytes()
    assert not any(word in data for word in (b"Camera of mine", b"at home", b"Exif\0\0"))


def test_photos_are_read_as_they_look(tmp_path: Path) -> None:
    colour = np.broadcast_to(np.array([200, 120, 40], np.uint8), (24, 32, 3))
    true = Image.fromarray(np.ascontiguousarray(colour))
    true.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(read_photo(tmp_path / "cmyk.jpg").astype(int) - colour).max() <= 3
    grey = Image.fromarray(np.full((24, 32), 257 * 90, np.uint16))
    for name in ("deep.png", "deep.tif"):
        grey.save(tmp_path / name)
        assert (read_photo(tmp_path / name) == 90).all()
    true.save(tmp_path / "plain.tif")
    clear = true.copy().convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.webp", lossless=True)
    assert np.array_equal(read_photo(tmp_path / "plain.tif"), colour)
    assert (read_photo(tmp_path / "clear.webp") == 255).all()
    lab = ImageCms.createProfile("LAB")  # of another kind of colour: left aside
    true.save(tmp_path / "odd.png", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    true.save(tmp_path / "torn.png", icc_profile=b"no profile")
    assert all(np.array_equal(read_photo(tmp_path / name), colour) for name in ("odd.png", "torn.png"))


def test_a_colour_profile_is_obeyed(tmp_path: Path) -> None:
    """sRGB with red and green exchanged: the same numbers look like the exchanged colour."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    assert red < 400 and green < 400  # in the table of tags
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    stored = np.broadcast_to(np.array([200, 100, 50], np.uint8), (20, 20, 3))
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(data, "PNG", icc_profile=bytes(profile))
    (tmp_path / "swapped.png").write_bytes(data.getvalue())
    seen = read_photo(tmp_path / "swapped.png")[0, 0].astype(int)
    assert np.abs(seen - [100, 200, 50]).max() <= 3


def test_a_cut_out_is_whole_inside_and_free_of_the_ground_at_its_rim() -> None:
    rows, columns = np.mgrid[:120, :160]
    radius = np.hypot(rows - 60, columns - 80)
    covered = np.clip((40.5 - radius) / 3, 0, 1).astype(np.float32)  # a soft rim of three pixels
    painted = np.full((120, 160, 3), 200.0) * (1 - covered[..., None]) + np.array([30, 60, 90]) * covered[..., None]
    uneven = covered * 0.6
    uneven[radius < 8] = 0  # lips
    uneven[np.hypot(rows - 10, columns - 10) < 3] = 1  # a speck
    cut = cut_out(np.rint(painted).astype(np.uint8), uneven)
    assert cut.shape == (120, 160, 4)
    assert (cut[radius < 36, 3] == 255).all() and not cut[radius > 46].any()
    seen = cut[..., 3] > 20
    assert np.abs(cut[seen][:, :3].astype(int) - [30, 60, 90]).max() <= 12
    assert not cut_out(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.float32)).any()


@pytest.mark.parametrize(("alpha", "name"), [(False, "photo.stylized.jpg"), (True, "photo.stylized.png")])
def test_the_output_lies_beside_the_photo(alpha: bool, name: str, model: Path, tmp_path: Path) -> None:
    Image.fromarray(half_bright(64, 64)).save(tmp_path / "photo.jpg", quality=100)
    main([str(tmp_path / "photo.jpg"), "--model", str(model), "--faces", "never", *["--alpha"] * alpha])
    with Image.open(tmp_path / name) as image:
        assert image.mode == ("RGBA" if alpha else "RGB") and image.size == (64, 64)


@pytest.mark.parametrize("name", ["photo.png", "a[1]*.png", "x" * 230 + ".png"])
def test_what_a_killed_run_left_beside_the_output_is_swept(name: str, model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / name, half_bright(64, 64))
    out = tmp_path / f"{Path(name).stem}.stylized.png"
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, other, alive = (
        temporary_path(path).with_suffix("").with_suffix(f".{process}.tmp")
        for path, process in ((out, ended.pid), (tmp_path / "b.stylized.png", ended.pid), (out, os.getpid()))
    )
    for file in (left, other, alive):
        file.write_bytes(b"half")
    main([str(tmp_path / name), "--model", str(model), "--faces", "never"])
    assert out.exists() and not left.exists()
    assert other.exists() and alive.exists()  # of another output; of a process that may be writing


def test_verify_and_help_import_nothing_heavy(tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", half_bright(32, 32))
    code = (
        "import sys\nfrom stages.apply import main\n"
        f"try:\n    main(['verify', {str(tmp_path / 'photo.png')!r}])\nexcept SystemExit:\n    pass\n"
        "sys.exit(str({'torch', 'numpy', 'cv2', 'onnxruntime'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "carries no mark" in done.stdout and not done.stderr.strip(), done.stderr


@pytest.mark.parametrize("shape", [(16, 3000), (3000, 17)])
def test_a_strip_of_paper_does_not_fill_the_memory(shape: tuple[int, int], model: Path) -> None:
    from stages.apply.model import open_model
    from stages.apply.picture import LONGEST, paint_whole

    session, sides = open_model(model), []

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

        def run(self, names: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            sides.append(max(next(iter(feed.values())).shape))
            return session.run(names, feed)

    image, matte = paint_whole(Spy(), half_bright(*shape), 256)
    assert image.shape == (*shape, 3) and matte.shape == shape and sides[0] <= LONGEST
