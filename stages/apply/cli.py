"""`stylize`: pictures, folders and videos through an exported student. Needs onnxruntime, not torch.

    stylize photo.jpg -o out.png        stylize pictures/ -o out/        stylize clip.mp4 -o out.mp4
    stylize edit photo.jpg --set smile=+1    attributes of a face, see `stages.apply.edit`
    stylize verify out.png              what a file says of its origin
    stylize faces -o sheet.png          faces of nobody, drawn from scratch, see `stages.apply.from_scratch`
    stylize serve                       a page that runs the student on the camera, see `stages.apply.serve`
    stylize --version

The network works at the size it was trained at (`--size` changes that). What it changed is laid over the photo at the
photo's own size: where the network's matte is 0 the photo stays as it is, sharp.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from stages.apply.folder import SKIPPED, VIDEOS, WRITTEN
from stages.apply.model import SMALLEST, model_path
from stages.apply.stylizer import FACES, Options, Stylizer
from stages.apply.verify import verify
from stages.core.faults import end, settle_streams
from stages.core.mark import VIDEO_SUFFIXES, write_marked
from stages.core.settings import TristyleError

LARGEST = 4096  # px: --size
LISTED = 10  # skipped pictures that are listed on the screen
HELP = """
stylize edit PHOTO      changes attributes of a face: age, smile, ...; stylize edit --help lists how.
stylize verify FILE...  reports what files say of their origin; exit code 0 when all say synthetic, else 1.
stylize faces           draws faces from scratch with a model that can; `stylize faces --help`.
stylize serve           starts a page on this machine that runs the model in the browser, on the camera or on pictures.
stylize --version       prints the version.

Exit codes: 0 done; 3 done, but some pictures of a folder were skipped (listed in skipped.txt there); 2 nothing could be
done, one line says why; 130 stopped with Ctrl-C. Run a folder again to continue it.
"""


def arguments() -> argparse.ArgumentParser:
    """The parser of `stylize`. Nothing heavy is imported to answer --help."""
    parser = argparse.ArgumentParser(
        prog="stylize",
        description="Stylise pictures, folders of pictures and videos with an exported student.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    # What is read and written.
    add = parser.add_argument
    add("input", type=Path, nargs="+", help="a picture, several pictures, a folder, or a video")
    add("-o", "--out", type=Path, help="file or folder to write; default: INPUT.stylized beside it")
    add(
        "--model",
        type=Path,
        help="a .onnx file, the folder of an export, or a shipped model: comic or faces (photographs), or rendered "
        "(the renderer's people); default: the last one in runs/export, else comic",
    )

    # How it is stylised.
    add(
        "--faces",
        choices=FACES,
        default="auto",
        help="auto: the faces found, the whole frame where there is none; always: faces only; never: the whole frame",
    )
    add(
        "--weights",
        type=Path,
        help="folder with facexlib's weights of RetinaFace, which finds tilted and turned faces too, and with Face "
        "Mesh's, which places them better; "
        "default: $TRISTYLE_WEIGHTS, else facexlib's own folder, else scikit-image's cascade",
    )
    add("--alpha", action="store_true", help="cut-outs: what was painted, on nothing (PNG or WebP)")
    add(
        "--size",
        type=int,
        help="px at which the network works: a face's square, or the frame's shorter side; default: as trained",
    )

    # Folders and videos.
    add("--jobs", type=int, help="processes for a folder, threads for one file; default: one a core")
    add(
        "--smooth",
        type=float,
        default=0.8,
        help="0 to 1: how much of the frame before is kept in a video where nothing but noise changed; default: 0.8",
    )
    return parser


def verify_arguments() -> argparse.ArgumentParser:
    """The parser of `stylize verify`."""
    parser = argparse.ArgumentParser(prog="stylize verify", description="Report what files say of their origin.")
    parser.add_argument("file", type=Path, nargs="+", help="PNG, JPEG, WebP, MP4 or MOV")
    return parser


def parser_for(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser that a command line is for, and the words left: of `serve`, `edit`, `faces`, `verify`, or plain."""
    if words[:1] == ["faces"]:
        from stages.apply import from_scratch

        return from_scratch.arguments(), words[1:]
    if words[:1] == ["serve"]:
        from stages.apply import serve

        return serve.arguments(), words[1:]
    if words[:1] == ["edit"]:
        from stages.apply import edit

        return edit.arguments(), words[1:]
    if words[:1] == ["verify"]:
        return verify_arguments(), words[1:]
    return arguments(), words


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script `stylize`. Mistakes end with one line on stderr and exit code 2."""
    settle_streams()
    words = sys.argv[1:] if argv is None else argv
    try:
        code = _command(words)
    except (Exception, KeyboardInterrupt) as error:
        raise SystemExit(end("stylize", error)) from None
    if code:
        raise SystemExit(code)


def _command(words: list[str]) -> int:
    """Run a command line; the exit code."""
    # The version and the server need no parser of pictures.
    if words == ["--version"]:
        from stages.core.version import own_version

        print(f"tristyle {own_version()}")
        return 0
    if words[:1] == ["serve"]:
        from stages.apply import serve

        serve.main(words[1:])
        return 0

    if words[:1] == ["edit"]:
        from stages.apply import edit

        return edit.main(words[1:])

    parser, rest = parser_for(words)
    given = parser.parse_args(rest)
    code = _run(words[:1], given)
    sys.stdout.flush()  # a closed pipe shows here, and not when Python has ended
    return code


def _run(word: list[str], given: argparse.Namespace) -> int:
    """Do what the first word of the command line asks for; the exit code."""
    if word == ["verify"]:
        return verify(given.file)
    if word == ["faces"]:
        from stages.apply import from_scratch

        print(from_scratch.draw_sheet(given.model, given.count, given.seed, given.out))
        return 0
    return _stylize(given)


def _stylize(given: argparse.Namespace) -> int:
    """Do what the command line asks for; the exit code."""
    # Check all numbers and places first: nothing is opened for a command that cannot succeed.
    if given.size is not None and not SMALLEST <= given.size <= LARGEST:
        raise TristyleError(f"--size {given.size}: out of range. Give {SMALLEST} to {LARGEST}.")
    if given.jobs is not None and given.jobs < 1:
        raise TristyleError(f"--jobs {given.jobs}: out of range. Give 1 or more.")
    if not 0 <= given.smooth <= 1:
        raise TristyleError(f"--smooth {given.smooth}: out of range. Give 0 to 1.")
    for path in given.input:
        if not path.exists():
            raise TristyleError(f"{path}: no such file or folder. Check the path.")

    # A folder, a video or one picture?
    first = given.input[0]
    if len(given.input) > 1 or first.is_dir():
        return _folder(given)
    out = given.out or _beside(first, given.alpha)
    _check_place(first, out)
    if first.suffix.lower() in VIDEOS or out.suffix.lower() in VIDEO_SUFFIXES:
        return _video(given, first, out)
    if out.suffix.lower() not in WRITTEN:
        raise TristyleError(f"{out}: unknown kind of picture. End -o in one of {', '.join(WRITTEN)}.")
    if given.alpha and out.suffix.lower() not in (".png", ".webp"):
        raise TristyleError(f"{out}: cannot keep transparency. End -o in .png or .webp for --alpha.")

    from stages.apply.picture import read_photo

    check_consent(first)
    photo = read_photo(first)
    stylizer = Stylizer(_options(given), given.jobs or 0)
    try:
        write_marked(out, stylizer(photo), stylizer.mark)
    except TristyleError as error:
        named = str(error) if str(error).startswith(f"{out}: ") else f"{first}: {error}"
        raise TristyleError(named) from None
    if stylizer.untouched:
        print(f"stylize: {first}: no face found, so the photo was left as it is", file=sys.stderr)
    print(out)
    return 0


def check_consent(source: Path) -> None:
    """Refuse a file that `sources.csv` beside it, or in a folder above, says no to."""
    from stages.core.consent import refusals

    if reason := refusals([source]).get(source):
        raise TristyleError(f"{source}: {reason}. Give another file, or correct that table.")


def _options(given: argparse.Namespace) -> Options:
    """The options of the command line. Raises TristyleError where the model cannot be used."""
    return Options(model_path(given.model), given.size, given.faces, given.weights, given.alpha)


def _beside(source: Path, alpha: bool) -> Path:
    """The output's place where -o is not given: INPUT.stylized beside the input."""
    suffix = source.suffix.lower()
    if suffix in VIDEOS:
        return source.with_name(f"{source.stem}.stylized{suffix if suffix in VIDEO_SUFFIXES else '.mp4'}")
    if suffix not in WRITTEN or alpha and suffix != ".webp":
        suffix = ".png"
    return source.with_name(f"{source.stem}.stylized{suffix}")


def _check_place(source: Path, out: Path) -> None:
    """Raises TristyleError where `out` cannot be written without loss."""
    if out.is_dir():
        raise TristyleError(f"{out}: is a folder. Give -o a file.")
    if out.exists() and out.samefile(source):
        raise TristyleError(f"{out}: is the input itself. Choose another place for -o.")


def _folder(given: argparse.Namespace) -> int:
    """Stylise a folder or several files and report; the exit code."""
    from stages.apply.folder import stylize_folder

    sources, out = given.input, given.out
    folders = [path for path in sources if path.is_dir()]
    if len(sources) > 1 and folders:
        raise TristyleError(f"{folders[0]}: is a folder. Give one folder, or several files.")
    if out is None and len(sources) > 1:
        raise TristyleError("--out: several pictures need a folder. Give -o FOLDER.")

    # Where the outputs go.
    if out is None:
        out = sources[0].resolve().with_name(f"{sources[0].resolve().name}.stylized")
    if out.exists() and not out.is_dir():
        raise TristyleError(f"{out}: is a file. Give -o a folder.")
    if folders and out.exists() and out.samefile(folders[0]):
        raise TristyleError(f"{out}: is the input itself. Choose another folder for -o.")

    done = stylize_folder(sources, out, _options(given), given.jobs or _cores())
    rate = f" ({done.painted / done.seconds:.1f} a second)" if done.painted and done.seconds else ""
    parts = [f"{done.painted} stylised{rate}"]
    parts += [f"{done.kept} there already"] * bool(done.kept)
    parts += [f"{done.others} other files left alone"] * bool(done.others)
    parts += [f"{done.untouched} without a face left as they are"] * bool(done.untouched)
    parts += [f"{len(done.skipped)} skipped, see {out / SKIPPED}"] * bool(done.skipped)
    for name, reason in sorted(done.skipped.items())[:LISTED]:
        print(f"stylize: skipped {name}: {reason}", file=sys.stderr)
    print(f"{out}: {', '.join(parts)}")
    if not done.skipped:
        return 0
    return 3 if done.painted or done.kept or done.untouched else 2


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _video(given: argparse.Namespace, source: Path, out: Path) -> int:
    """Stylise a video and report; the exit code."""
    if out.suffix.lower() not in VIDEO_SUFFIXES:
        raise TristyleError(f"{out}: unknown kind of video. End -o in one of {', '.join(VIDEO_SUFFIXES)}.")
    if given.alpha:
        raise TristyleError("--alpha: videos are written without transparency. Give pictures, or leave it out.")
    from stages.apply.video import stylize_video

    check_consent(source)
    report = stylize_video(source, out, _options(given), given.smooth, given.jobs or 0)
    print(f"{out}: {report}")
    return 0
