"""A video, frame by frame: constant memory, its sound kept, smoothed along time, marked, and whole or absent.

Frames keep their times. Sound is copied as it is where MP4 takes its codec, else encoded again as AAC. What a camera
wrote about place and device is not copied.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stages.apply.steadiness import Steady, Watcher
from stages.apply.stylizer import Options, Stylizer
from stages.apply.tracks import Tracks
from stages.core import colour
from stages.core.decode import MAX_PIXELS, shown
from stages.core.mark import SOURCE_TYPE, mark_video
from stages.core.settings import TristyleError

# Codecs of sound that are copied; all others are coded anew as AAC.
COPIED = {"mp4": ("aac", "mp3", "ac3", "eac3", "alac", "opus"), "mov": ("aac", "mp3", "ac3", "eac3", "alac")}
UNTAGGED_HD = (1280, 577)  # px: from this width or height on, players take colours without a tag for BT.709
BT601, RGB = 5, 0  # codes of matrices (ITU-T H.273)
ENCODERS = {"libx264": {"crf": "18", "preset": "medium"}, "mpeg4": {"qscale": "3"}}
PEEKS = 8  # key frames looked at to see whether a video shows faces
GLANCES = 40  # frames decoded for that, at most
WEBP_FRAMES = 16  # full pictures of MAX_PIXELS that an animated WebP may hold: it is read into memory
READ = "Give an MP4, MOV, MKV, WebM or AVI file"


def stylize_video(source: Path, out: Path, options: Options, smooth: float, threads: int = 0) -> str:
    """Stylise a video into an MP4 or MOV file.

    Args:
        source: the video.
        out: the file to write, .mp4, .m4v or .mov.
        options: how to stylise.
        smooth: see `Steady`.
        threads: of the network; 0 = one a core.

    Returns:
        A line that reports frames and flicker.

    Raises:
        TristyleError: PyAV is missing; `source` is not a video, or has no frames or, where they alone are wanted, no
            faces; `out` cannot be written; or what `Stylizer` raises.
    """
    from stages.core.tracking import Progress

    av = _av()
    with _opened(av, source) as reader:
        stream = _pictures(reader, source)

        # Whether to paint faces or whole frames is decided once, or the video would switch between both.
        stylizer = Stylizer(options, threads, still=False)
        whole = options.faces == "auto" and not stylizer.faces_only
        if stylizer.find and whole and not _shows_faces(av, source, stylizer):
            stylizer.find = None

        stylize = FrameStylizer(stylizer, smooth)
        progress = Progress("stylize", _expected(reader, stream), "frames")
        with _Writer(av, out, reader, stream) as writer:
            for frame in _frames(av, source, reader, stream, writer):
                writer.write(stylize(_upright(frame)), frame)
                progress.total = max(progress.total, writer.count)
                progress.update(writer.count)

            # Leaving the block by an error removes the unfinished output.
            if not writer.count:
                raise TristyleError(f"{source}: has no frames that can be decoded. {READ}.")
            if options.faces == "always" and not stylize.faces:
                raise TristyleError(f"{source}: no face found. Leave --faces out, or give a model of whole frames.")
            kept = stylizer.faces_only and not stylize.faces  # nothing in it is synthetic
            writer.finish(None if kept else stylizer.digest)
        progress.total = writer.count
        progress.close()

    before, after = stylize.flicker()
    report = f"{writer.count} frames"
    if writer.lost:
        report += f", left out: {writer.lost} of {len(writer.sounds) + writer.lost} sounds, which cannot be decoded"
    if stylizer.find and not stylize.faces:
        report += ", no face found, so all were left as they are"
    if not math.isnan(after):
        report += f", flicker {after:.2f} of 255"
        report += f" ({before:.2f} without smoothing)" if smooth else ""
    return report


def _av() -> Any:
    """The module of PyAV. Raises TristyleError that names the extra."""
    try:
        import av
    except ImportError as error:
        raise TristyleError(f"PyAV cannot be imported ({error}). Run: pip install 'tristyle[video]'") from None
    av.logging.set_level(None)
    return av


def _reason(error: Exception) -> str:
    """An error in a few words, one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


# ---------------------------------------------------------------------------------------------------------------------
# Stylising


class FrameStylizer:
    """Stylises the frames of one video in their order; memory does not grow with their number.

    Args:
        stylizer: finds faces where it has a finder, else paints whole frames.
        smooth: see `Steady`.

    Attributes:
        faces: the most faces that were painted in a frame so far.
    """

    def __init__(self, stylizer: Stylizer, smooth: float) -> None:
        self._stylizer = stylizer
        self._watcher, self._tracks, self._steady = Watcher(), Tracks(), Steady(smooth)
        self.faces = 0

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Stylise the next frame, uint8 [H, W, 3] -> the same. All frames have one size."""
        movement = self._watcher(frame)
        if self._stylizer.find is None:
            painted, matte = self._stylizer.paint(frame)
        else:
            found = self._stylizer.find(frame) if self._tracks.due(movement) else None
            faces, strengths = self._tracks.step(found, movement, frame.shape[:2])
            self.faces = max(self.faces, len(faces))
            painted, matte = self._stylizer.paint(frame, faces, strengths)
        return self._steady(painted, matte, movement)

    def flicker(self) -> tuple[float, float]:
        """See `Steady.flicker`."""
        return self._steady.flicker()


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@contextmanager
def _opened(av: Any, source: Path) -> Iterator[Any]:
    """The opened video for a block. Raises TristyleError where it is not one."""
    # An open file and not its name, which may hold anything: `file:`, `%d`, bytes that are not UTF-8.
    with ExitStack() as opened:
        try:
            file = opened.enter_context(_file(source))
            container = opened.enter_context(av.open(file, metadata_errors="ignore"))
        except (av.error.FFmpegError, OSError, ValueError, LookupError) as error:
            raise TristyleError(f"{shown(source)}: not a video that can be read ({_reason(error)}). {READ}.") from None
        yield container


def _file(source: Path) -> Any:
    """The open file; of an animated WebP, which FFmpeg does not read, the same frames as an APNG in memory."""
    if not source.is_file():
        raise TristyleError(f"{shown(source)}: not a regular file. {READ}.")
    with open(source, "rb") as file:
        webp = file.read(12)[8:] == b"WEBP"
    if not webp:
        return open(source, "rb")
    import io

    from PIL import Image

    made = io.BytesIO()
    with Image.open(source, formats=("WEBP",)) as opened:
        if opened.width * opened.height * getattr(opened, "n_frames", 1) > MAX_PIXELS * WEBP_FRAMES:
            raise TristyleError(f"{shown(source)}: too many frames for a WebP. Convert it to MP4.")
        opened.save(made, "PNG", save_all=True)
    made.seek(0)
    return made


def _pictures(container: Any, source: Path) -> Any:
    """The video stream; the cover picture of a song does not count. Raises TristyleError where there is none."""
    for stream in container.streams.video:
        if not stream.disposition & type(stream.disposition).attached_pic:
            stream.thread_type = "AUTO"
            return stream
    raise TristyleError(f"{source}: has no video in it. {READ}.")


def _expected(container: Any, stream: Any) -> int:
    """The number of frames that the file claims; 0 where it does not say."""
    if stream.frames:
        return int(stream.frames)
    seconds = container.duration / 1_000_000 if container.duration else 0
    return round(seconds * float(stream.average_rate or 0))


def _frames(av: Any, source: Path, container: Any, stream: Any, writer: _Writer) -> Iterator[Any]:
    """Decoded frames in order; sound on the way goes to the writer. A damaged packet is left out."""
    for packet in container.demux(stream, *writer.sounds):
        if packet.stream is not stream:
            writer.sound(packet)
            continue
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            continue
        except (av.error.FFmpegError, LookupError, ValueError) as error:
            raise TristyleError(f"{shown(source)}: cannot be decoded ({_reason(error)}). {READ}.") from None
        yield from decoded


def _shows_faces(av: Any, source: Path, stylizer: Stylizer) -> bool:
    """Whether a face is found in one of the first key frames."""
    assert stylizer.find is not None
    with _opened(av, source) as container:
        stream = _pictures(container, source)
        stream.codec_context.skip_frame = "NONKEY"
        looked = 0
        with suppress(av.error.FFmpegError):
            for number, frame in enumerate(container.decode(stream)):
                if number % max(1, GLANCES // PEEKS) == 0:
                    looked += 1
                    if stylizer.find(_upright(frame)):
                        return True
                if looked >= PEEKS:
                    break
    return False


def _upright(frame: Any) -> np.ndarray:
    """A frame as uint8 RGB [H, W, 3], turned as its player would, with even sides (what H.264 takes)."""
    turned = _displayed(_colours(frame), frame)
    height, width = turned.shape[:2]
    return np.ascontiguousarray(turned[: height // 2 * 2, : width // 2 * 2])


def _colours(frame: Any) -> np.ndarray:
    """A frame as stored -> uint8 sRGB [H, W, 3], as players show it: what is transparent on white."""
    trc, primaries = int(frame.color_trc), int(frame.color_primaries)
    if frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components):
        rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
        pixels, alpha = rgba[..., :3], rgba[..., 3:]
        return np.asarray(((pixels * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))

    # Phones' HDR: more than 8 bits on the way, then tone-mapped.
    if trc in (colour.PQ, colour.HLG):
        if primaries not in colour.PRIMARIES:
            primaries = colour.BT2020
        deep = frame.to_ndarray(format="rgb48le", **_matrix(frame))
        return colour.to_srgb(deep, primaries, trc)
    if primaries in (colour.BT2020, 11, 12):  # a wide gamut with the usual curve
        return colour.to_srgb(frame.to_ndarray(format="rgb24", **_matrix(frame)), primaries, colour.SRGB)
    return np.asarray(frame.to_ndarray(format="rgb24", **_matrix(frame)))


def _matrix(frame: Any) -> dict[str, Any]:
    """How YUV becomes RGB where the frame does not say so: as players guess it, by its size."""
    if not frame.format.name.startswith("yuv") or int(frame.colorspace) not in (2, 3):
        return {}
    hd = frame.width >= UNTAGGED_HD[0] or frame.height >= UNTAGGED_HD[1]
    return {"src_colorspace": "ITU709" if hd else "ITU601"}


def _display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """a, b, c, d of what a player applies: x' = a x + c y, y' = b x + d y; None where there is none.

    Only whole turns and flips count.
    """
    for data in (frame.side_data[index] for index in range(len(frame.side_data))):
        if "DISPLAYMATRIX" in str(data.type):
            a, b, _, c, d = (round(int(value) / 65536) for value in np.frombuffer(bytes(data), "<i4")[:5])
            return (a, b, c, d) if sorted(map(abs, (a, b, c, d))) == [0, 0, 1, 1] and abs(a) == abs(d) else None
    return None


def _displayed(image: np.ndarray, frame: Any) -> np.ndarray:
    """A frame's pixels [H, W, 3] turned and mirrored as its player would; selfies are mirrored."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image
    a, b, c, d = matrix
    if not a:
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: d or 1, :: a or 1]


def _sideways(frame: Any) -> bool:
    """Whether a player swaps width and height."""
    matrix = _display_matrix(frame)
    return not matrix[0] if matrix else bool(round(frame.rotation / 90) % 2)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


class _Writer:
    """Writes the output beside its place and renames it there at the end; left early, it leaves nothing."""

    def __init__(self, av: Any, out: Path, reader: Any, stream: Any) -> None:
        self.av, self.out, self.stream = av, out, stream
        self.count, self.last = 0, -1
        self.temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        self.kind = "mov" if out.suffix.lower() == ".mov" else "mp4"
        self.sounds = [sound for sound in reader.streams.audio if sound.codec_context is not None]
        self.lost = len(reader.streams.audio) - len(self.sounds)
        self._tracks: dict[int, tuple[Any, Any]] = {}  # index of a sound -> its output, its resampler
        self._video: Any = None
        self._container: Any = None
        self._waiting: list[Any] = []  # sound that came before the first frame: the frame's size opens the file

    def __enter__(self) -> _Writer:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        """Begin the temporary file with its streams."""
        # Remove what a killed process left.
        for stale in self.out.parent.glob(f".{self.out.name}.*.tmp"):
            if not _alive(stale.name.split(".")[-2]):
                stale.unlink(missing_ok=True)

        with self._named_errors():
            self.out.parent.mkdir(parents=True, exist_ok=True)
            options = {"movflags": "+faststart"}
            self._container = self.av.open(f"file:{self.temporary}", "w", format=self.kind, options=options)
            self._container.metadata["comment"] = f"Synthetic: {SOURCE_TYPE}"
            self._video = self._new_video()
            for sound in self.sounds:
                self._tracks[sound.index] = self._new_sound(sound)

    def __exit__(self, *error: object) -> None:
        if self._container is not None:
            with suppress(Exception):  # the error that ends the block is the one to report
                self._container.close()
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)

    def _new_video(self) -> Any:
        """The output's stream of pictures, with the input's rate and times, in BT.709."""
        name = next(name for name in ENCODERS if name in self.av.codecs_available)
        rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        made = self._container.add_stream(name, rate=rate, options=ENCODERS[name])
        made.pix_fmt = "yuv420p"
        made.codec_context.time_base = made.time_base = self.stream.time_base
        made.codec_context.colorspace = made.codec_context.color_primaries = made.codec_context.color_trc = 1  # BT.709
        made.codec_context.color_range = 1  # limited
        return made

    def _new_sound(self, sound: Any) -> tuple[Any, Any]:
        """The output's stream for a sound, and its resampler; None where the sound is copied."""
        if sound.codec_context.name in COPIED[self.kind]:
            return self._container.add_stream_from_template(sound), None
        rate = sound.codec_context.sample_rate or 44100
        made = self._container.add_stream("aac", rate=rate)
        return made, self.av.AudioResampler(format="fltp", layout="stereo", rate=rate)

    def write(self, image: np.ndarray, frame: Any) -> None:
        """Add a picture, uint8 [H, W, 3], at the time of the frame that it was made of."""
        # The first picture sets size and pixel shape; later ones of another size are resized.
        if not self.count:
            self._video.height, self._video.width = image.shape[:2]
            ratio = self.stream.sample_aspect_ratio
            if ratio:
                turned = _sideways(frame)
                self._video.codec_context.sample_aspect_ratio = 1 / ratio if turned else ratio
        elif (self._video.height, self._video.width) != image.shape[:2]:
            import cv2

            image = cv2.resize(image, (self._video.width, self._video.height), interpolation=cv2.INTER_AREA)

        # Times must rise: a frame without one follows the last.
        made = self.av.VideoFrame.from_ndarray(image, format="rgb24")
        made = made.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        self.last = max(self.last + 1, frame.pts if frame.pts is not None else 0)
        made.pts, made.time_base = self.last, self.stream.time_base
        with self._named_errors():
            self._container.mux(self._video.encode(made))
        self.count += 1

        waiting, self._waiting = self._waiting, []
        for packet in waiting:
            self.sound(packet)

    def sound(self, packet: Any) -> None:
        """Add a packet of sound, as it is or encoded again."""
        # Sound before the first picture waits: the picture's size opens the file.
        if not self.count:
            self._waiting.append(packet)
            return

        made, resampler = self._tracks[packet.stream.index]
        if resampler is None:
            if packet.dts is not None:
                packet.stream = made
                with self._named_errors():
                    self._container.mux(packet)
            return

        with suppress(self.av.error.FFmpegError, LookupError):
            for frame in packet.decode():
                with self._named_errors():
                    for part in resampler.resample(frame):
                        self._container.mux(made.encode(part))

    def finish(self, digest: str | None) -> None:
        """Write what the encoders still hold, close, mark (None: no mark), and put the file in its place."""
        with self._named_errors():
            self._container.mux(self._video.encode(None))
            for made, resampler in self._tracks.values():
                if resampler is not None:
                    for part in resampler.resample(None):
                        self._container.mux(made.encode(part))
                    self._container.mux(made.encode(None))

            # Closed and marked, the file is complete; only then it takes its place.
            self._container.close()
            self._container = None
            if digest is not None:
                mark_video(self.temporary, digest)
            with open(self.temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(self.temporary, self.out)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turns errors of writing into TristyleError for a block."""
        try:
            yield
        except (self.av.error.FFmpegError, OSError, ValueError) as error:
            raise TristyleError(
                f"{self.out}: cannot be written ({_reason(error)}). Make room, or choose another place for -o."
            ) from None


def _alive(process: str) -> bool:
    """Whether a process of this id runs."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
