"""`stylize edit`: attributes of a face changed by an exported editor. Needs onnxruntime, not torch.

    stylize edit photo.jpg --set age=+1 smile=+1 -o out.png          strengths from -2 to 2, several at once
    stylize edit photo.jpg --set smile=+1 --region mouth -o out.png  local: only there
    stylize edit photo.jpg --sheet -o sheet.png                      each attribute at five strengths

What the editor changes in a face's square, against what it makes of the square without an edit, is added to the photo:
where nothing changes the photo stays as it is, sharp.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from stages.apply.cli import check_consent
from stages.apply.face_squares import Face, open_finder
from stages.apply.folder import WRITTEN
from stages.apply.heads import paint_heads
from stages.apply.model import EDITOR, check_digest, created, editor_names, is_editor, open_session, trained_size
from stages.core.mark import write_marked
from stages.core.settings import TristyleError

if TYPE_CHECKING:
    import numpy as np

WEAKEST, STRONGEST = -2.0, 2.0
COLUMNS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # strengths on a sheet
SHOWN = 256  # px that a photo's longer side has on a sheet
WHOLE = "background"  # the label that is not a region of the face


class Editor:
    """An editor opened once, with strengths and regions that may be set anew.

    It stands where `paint_heads` wants a session of one photo.

    Args:
        path: the ONNX file.

    Attributes:
        attributes: names, in the order of the vector.
        regions: names that `within` may be given.
        strengths: of the attributes, each from -2 to 2.
        shares: of the edit that show in each label, 0 or 1.
        size: px a side of the squares that it takes.

    Raises:
        TristyleError: not an editor, or onnxruntime is missing.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.session = open_session(path, threads)
        if not is_editor(self.session):
            raise TristyleError(f"{path}: not an editor. Export it again: stage=export export=editor.")
        self.size = trained_size(self.session) or 0
        self.attributes, labels = editor_names(self.session)
        self.regions = [name for name in labels if name != WHOLE]
        self.strengths = dict.fromkeys(self.attributes, 0.0)
        self.shares = dict.fromkeys(labels, 1.0)

    def set(self, strengths: dict[str, float]) -> None:
        """Choose the edit; attributes that are not named stay.

        Raises:
            TristyleError: an unknown attribute, or a strength out of range.
        """
        for name, value in strengths.items():
            if name not in self.attributes:
                raise TristyleError(f"--set {name}: unknown. Choose of: {', '.join(self.attributes)}.")
            if not WEAKEST <= value <= STRONGEST:
                raise TristyleError(f"--set {name}={value:g}: out of range. Give {WEAKEST:g} to {STRONGEST:g}.")
        self.strengths = dict.fromkeys(self.attributes, 0.0) | strengths

    def within(self, regions: Sequence[str]) -> None:
        """Keep the edit within regions of the face; none: everywhere.

        Raises:
            TristyleError: no region of that name.
        """
        for region in regions:
            if region not in self.regions:
                raise TristyleError(f"--region {region}: unknown. Choose of: {', '.join(self.regions)}.")
        self.shares = {name: float(not regions or name in regions) for name in self.shares}

    # What `paint_heads` asks of a session.

    def get_inputs(self) -> list[Any]:
        """The photo alone."""
        return list(self.session.get_inputs()[:1])

    def get_outputs(self) -> list[Any]:
        """Two: the picture, and a matte."""
        return list(self.session.get_outputs())

    def get_modelmeta(self) -> Any:
        """Of the file, with the square's side as the only one that it takes."""
        notes = self.session.get_modelmeta().custom_metadata_map
        return SimpleNamespace(custom_metadata_map=notes | {"tristyle.multiple_of": str(self.size)})

    def run(self, _: None, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The edited square [1, 3, R, R] in [-1, 1], and how much of the photo's detail goes [1, 1, R, R] in [0, 1]."""
        import numpy as np

        vectors = {"attributes": self.strengths, "regions": self.shares}
        given = {name: np.array([list(chosen.values())], np.float32) for name, chosen in vectors.items()}
        return list(self.session.run(None, values | given))


def editor_path(given: Path | None) -> Path:
    """The editor's file.

    Args:
        given: a file or the folder of an export; None: of the newest one in ./runs.

    Raises:
        TristyleError: there is none, or it changed since it was exported.
    """
    if given is None:
        file = last_editor()
        if file is None:
            raise TristyleError(
                "--model: no editor in runs/export. Run tristyle stage=export export=editor, or name a file."
            )
    else:
        file = given / EDITOR if given.is_dir() else given
        if not file.is_file():
            raise TristyleError(
                f"{given}: no editor here. Give a file made by stage=export export=editor, or its folder."
            )
    check_digest(file)
    return file


def last_editor() -> Path | None:
    """The newest editor in ./runs; None where there is none."""
    finished = sorted(Path("runs/export").glob("*/manifest.json"), key=created)
    files = [file for manifest in finished if (file := manifest.with_name(EDITOR)).exists()]
    return files[-1] if files else None


def edit_photo(editor: Editor, photo: np.ndarray, faces: list[Face]) -> np.ndarray:
    """Edit the faces of a photo uint8 [H, W, 3]: the same shape."""
    return paint_heads(editor, photo, faces, editor.size)[0]


def sheet(editor: Editor, photo: np.ndarray, faces: list[Face]) -> np.ndarray:
    """A photo at five strengths of each attribute, one attribute a row: uint8 [H, W, 3]."""
    import cv2
    import numpy as np

    scale = SHOWN / max(photo.shape[:2])
    shape = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    rows = []
    for name in editor.attributes:
        row = []
        for value in COLUMNS:
            editor.set({name: value})
            shown = cv2.resize(edit_photo(editor, photo, faces), shape, interpolation=how)
            strip = np.full((24, shape[0], 3), 255, np.uint8)
            label = f"{name} {value:+g}" if value else name
            cv2.putText(strip, label, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (35, 35, 35), 1, cv2.LINE_AA)
            row.append(np.concatenate([strip, shown]))
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


# ------------------------------------------------------------------------------------------------------ command line


def arguments() -> argparse.ArgumentParser:
    """The parser of `stylize edit`."""
    parser = argparse.ArgumentParser(prog="stylize edit", description="Edit attributes of the faces in a photo.")
    add = parser.add_argument
    add("input", type=Path, help="a picture")
    add("-o", "--out", type=Path, help="file to write: .png, .jpg or .webp; default: INPUT.edited.png beside it")
    add("--set", nargs="+", default=[], metavar="NAME=STRENGTH", help="attributes and strengths from -2 to 2")
    add("--region", help="keep the edit within regions: mouth,eye,nose,hair,...")
    add("--sheet", action="store_true", help="show each attribute at five strengths")
    add(
        "--model",
        type=Path,
        help="an editor's .onnx file or the folder of its export; default: the last one in runs/export",
    )
    add("--weights", type=Path, help="folder with facexlib's weights of RetinaFace, see `stylize --help`")
    add("--faces", choices=("always", "never"), default="always", help="never: the photo itself is the face's square")
    return parser


def parse_settings(words: list[str]) -> dict[str, float]:
    """``["age=+1", "smile=-0.5"]`` -> strengths by name.

    Raises:
        TristyleError: a word that is not NAME=STRENGTH, or an attribute that is named twice.
    """
    found: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            strength = float(value)
        except ValueError:
            raise TristyleError(f"--set {word}: not NAME=STRENGTH. Write e.g. smile=+1.") from None
        if name in found:
            raise TristyleError(f"--set {word}: names {name} twice. Give one strength.")
        found[name] = strength
    return found


def run(given: argparse.Namespace) -> Path:
    """Do what the command line asks for; the file written.

    Raises:
        TristyleError: no edit, no face, or something that cannot be read or written.
    """
    from stages.apply.picture import read_photo
    from stages.core.files import sha256_file

    strengths = parse_settings(given.set)
    if bool(strengths) == given.sheet:
        problem = "both it and --sheet are given" if given.sheet else "nothing to do"
        raise TristyleError(f"--set: {problem}. Give --set NAME=STRENGTH, or --sheet.")
    out = given.out or given.input.with_name(f"{given.input.stem}.edited.png")
    if out.suffix.lower() not in WRITTEN:
        raise TristyleError(f"{out}: unknown kind of picture. End -o in one of {', '.join(WRITTEN)}.")
    if out.exists() and given.input.exists() and out.samefile(given.input):
        raise TristyleError(f"{out}: is the input itself. Choose another place for -o.")

    # The whole command is checked before a picture is opened.
    path = editor_path(given.model)
    editor = Editor(path)
    editor.set(strengths)
    editor.within(given.region.split(",") if given.region is not None else [])

    check_consent(given.input)
    photo = read_photo(given.input)
    height, width = photo.shape[:2]
    faces = [Face((width - 1) / 2, (height - 1) / 2, min(height, width))]
    if given.faces == "always":
        faces = open_finder(given.weights)(photo)
    if not faces:
        raise TristyleError(
            f"{given.input}: no face found. Crop it closer, or say --faces never for a cut-out portrait."
        )
    made = sheet(editor, photo, faces) if given.sheet else edit_photo(editor, photo, faces)
    write_marked(out, made, sha256_file(path))
    return Path(out)


def main(words: list[str]) -> int:
    """`stylize edit`; the exit code."""
    print(run(arguments().parse_args(words)))
    return 0
