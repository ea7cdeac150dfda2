"""The library of styles: sealed style artifacts and where their generators come from.

``python -m stages.style.fusion.library runs`` lists the styles below a folder with their lineage. Each of them carries
a `lineage.json`, with its parents' lineages within:

    {"how": "transfer", "target": "comic", "weights": <sha256 of generator.safetensors>, "settings": {...},
     "parents": [{"how": "shipped", "name": "base64_generator.safetensors", "weights": <sha256>, "parents": []}]}

A parent that is an artifact also has its `digest`. No paths: an artifact may be moved.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.core.artifact import Artifact, open_artifact
from stages.core.files import read_json, sha256_file, write_json
from stages.core.settings import TristyleError

FILE = "lineage.json"
WEIGHTS = "generator.safetensors"
HOW = ("scratch", "transfer", "fusion", "shipped", "unrecorded")

Lineage = dict[str, Any]


def lineage(out: Path, how: str, target: str, parents: Sequence[Lineage], settings: Mapping[str, Any]) -> Lineage:
    """Write `lineage.json` beside the weights of a style artifact and return it.

    Args:
        out: the artifact's folder, `generator.safetensors` written.
        how: ``scratch``, ``transfer`` or ``fusion``.
        target: the style's name, or ``photo``.
        parents: what the weights started from (`of_artifact`, `of_file`); none for ``scratch``.
        settings: what was done to them, as JSON.
    """
    weights = sha256_file(out / WEIGHTS)
    found = {"how": how, "target": target, "weights": weights, "settings": dict(settings), "parents": list(parents)}
    write_json(out / FILE, found)
    return found


def of_artifact(artifact: Artifact | Path | str) -> Lineage:
    """The lineage of a sealed style artifact, with its digest.

    Raises:
        ArtifactError: no style artifact, or a damaged lineage.json.
    """
    if not isinstance(artifact, Artifact):
        artifact = open_artifact(artifact, "style", verify=False)
    file = artifact.path / FILE
    try:
        found: dict[str, Any] = read_json(file, {}, f"Move {artifact.path} away and run stage=style again.")
    except FileNotFoundError:  # an artifact of an earlier version
        weights = artifact.manifest["files"].get(WEIGHTS, {}).get("sha256")
        found = {"how": "unrecorded", "target": artifact.config.get("target"), "weights": weights, "parents": []}
    return {"digest": artifact.digest} | found


def of_file(path: Path, target: str = "photo") -> Lineage:
    """The lineage of a shipped or foreign weights file: its name and what its bytes are."""
    return {"how": "shipped", "name": path.name, "target": target, "weights": sha256_file(path), "parents": []}


def describe(found: Lineage) -> str:
    """A lineage on one line: ``comic + clay < photo``, a generation after each ``<``."""
    names, generation = [], [found]
    while generation:
        names.append(" + ".join(dict.fromkeys(str(item.get("target")) for item in generation)))
        generation = [parent for item in generation for parent in item.get("parents", [])]
    return " < ".join(names)


# ---------------------------------------------------------------------------------------------------------------------
# Listing


def styles(root: Path) -> list[Artifact]:
    """The sealed style artifacts below `root` (a run's `out`, or any folder above artifacts), the oldest first."""
    found = []
    for manifest in sorted(root.rglob("manifest.json")):
        try:
            kind = read_json(manifest, {}).get("kind")
        except TristyleError:
            continue
        if kind == "style":
            found.append(open_artifact(manifest.parent, "style", verify=False))
    return sorted(found, key=lambda artifact: (str(artifact.manifest["created"]), str(artifact.path)))


def table(artifacts: Sequence[Artifact]) -> str:
    """One line a style: folder, how it was made, lineage, KID, coverage, date."""
    rows = [("folder", "how", "lineage", "KID", "coverage", "made")]
    for artifact in artifacts:
        found = of_artifact(artifact)
        kid, rich = (_shown(artifact.metrics, name) for name in ("kid", "coverage"))
        made = str(artifact.manifest["created"])[:16].replace("T", " ")
        rows.append((str(artifact.path), str(found["how"]), describe(found), kid, rich, made))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _shown(metrics: Mapping[str, Any], name: str) -> str:
    value = metrics.get(name)
    return f"{value:.3g}" if isinstance(value, (int, float)) else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m stages.style.fusion.library [FOLDER ...]`` (default runs): print the table."""
    folders = list(sys.argv[1:] if arguments is None else arguments) or ["runs"]
    try:
        found = [artifact for folder in folders for artifact in styles(Path(folder))]
        print(table(found) if found else f"no sealed style below {', '.join(folders)}; run stage=style first")
    except TristyleError as error:
        print(f"tristyle: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
