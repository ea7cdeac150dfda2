"""Makes data/people: of the assets that people_sources.py gathered, those that the renderer draws, and their evidence.

    python .ci/people_pack.py ASSETS data/people

Hair, brows, lashes and beards are grown by program (stages/datasets/rendered/hair.py), so their meshes and pictures
stay out; so do skins of 512 px, whose evidence is the weaker, and shapes that are not used. Nothing enters without a
row in manifest.csv.
"""

import argparse
import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np

PIECES = {
    "clothes/fedora", "clothes/female_casualsuit01", "clothes/female_elegantsuit01", "clothes/female_sportsuit01",
    "clothes/male_casualsuit02", "clothes/male_casualsuit03", "clothes/male_casualsuit04", "clothes/male_casualsuit05",
    "clothes/male_casualsuit06", "clothes/male_elegantsuit01", "clothes/male_worksuit01", "eyes/high-poly",
    "teeth/teeth_base", "tongue/tongue01",
}  # fmt: skip
KINDS = ("macro", "local", "asymmetry", "unit")  # of targets
PARTS = ("ids", "w", "d", "rest", "triangles", "uv", "uv_triangles", "hide")


def targets(assets: Path, out: Path) -> set[str]:
    """Keep the shapes of the kinds above; their names."""
    with np.load(assets / "targets.npz") as stored:
        names, kinds, starts = stored["names"].tolist(), stored["kind"].tolist(), stored["start"]
        index, offset = stored["index"], stored["offset"]
    kept = [k for k, kind in enumerate(kinds) if kind in KINDS]
    rows = [slice(starts[k], starts[k + 1]) for k in kept]
    np.savez_compressed(
        out / "targets.npz",
        names=np.array([names[k] for k in kept]),
        kind=np.array([kinds[k] for k in kept]),
        start=np.cumsum([0] + [int(starts[k + 1] - starts[k]) for k in kept]),
        index=np.concatenate([index[row] for row in rows]),
        offset=np.concatenate([offset[row] for row in rows]),
    )
    return {names[k] for k in kept}


def pieces(assets: Path, out: Path, index: dict) -> None:
    """Keep the arrays of the pieces that `index` names."""
    with np.load(assets / "pieces.npz") as stored:
        kept = {
            f"{entry['key']}.{part}": stored[f"{entry['key']}.{part}"] for entry in index.values() for part in PARTS
        }
    np.savez_compressed(out / "pieces.npz", **kept)


def manifest(assets: Path, out: Path, shapes: set[str], files: set[str]) -> None:
    """Keep the rows of what was kept; every kept picture must have one."""
    with open(assets / "manifest.csv", newline="") as stored:
        rows = list(csv.reader(stored))
    kept, proven = [rows[0]], set()
    for row in rows[1:]:
        asset = row[0]
        part, _, name = asset.partition(": ")
        pictures = set(re.findall(r"[\w-]+/[\w-]+\.(?:jpg|png)", asset))
        if asset.startswith("skins/"):
            stem = asset.split("_head.jpg")[0]
            pictures = {f"{stem}_head.jpg", f"{stem}_low.jpg"}
        first = next(iter(re.findall(r"[\w-]+/[\w-]+\.(?:jpg|png)|^[\w.]+$", asset)), "")
        fits = {
            "targets.npz": name in shapes,
            "pieces.npz": name in PIECES,
            "mesh.npz": True,
        }.get(part, first in files | {"evidence/skin_badges.png", "marks.json", "index.json"})
        if fits:
            kept.append([cell.replace("tools/make_pack.py", ".ci/people_sources.py") for cell in row])
            proven |= pictures
    unproven = files - proven
    if unproven:
        raise SystemExit(f"{', '.join(sorted(unproven))}: no row of evidence in {assets}/manifest.csv. Leave it out.")
    with open(out / "manifest.csv", "w", newline="") as written:
        csv.writer(written, lineterminator="\n").writerows(kept)


def main() -> None:
    """Copy and cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    assets, out = options.assets, options.out
    out.mkdir(parents=True, exist_ok=True)
    index = json.loads((assets / "index.json").read_text())
    chosen = {name: entry for name, entry in index["pieces"].items() if name in PIECES}
    skins = {name: entry for name, entry in index["skins"].items() if entry["native"] == 2048}
    files = {name for entry in chosen.values() for name in (entry["picture"] or {}).values()}
    files |= {entry[part] for entry in skins.values() for part in ("head", "low")}
    for name in [*sorted(files), "mesh.npz", "marks.json", "evidence/skin_badges.png"]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(assets / name, out / name)
    shutil.copyfile(assets.parent / "LICENSE-CC0.txt", out / "LICENSE-CC0.txt")
    (out / "index.json").write_text(json.dumps({"pieces": chosen, "skins": skins}, indent=1) + "\n")
    pieces(assets, out, chosen)
    manifest(assets, out, targets(assets, out), files)


if __name__ == "__main__":
    main()
