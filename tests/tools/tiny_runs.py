"""Sealed artifacts of a run that never happened, for tests of what is shown: drawn faces, made-up curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages.core.artifact import Artifact, seal
from stages.core.files import append_jsonl, write_bytes, write_json, write_jsonl
from stages.core.images import grid, write_image

SIZE = 32
READER = "reader-0123abcd"


def face(seed: int, style: str = "photo", size: int = SIZE) -> np.ndarray:
    """A drawn head, uint8 [size, size, 3]: shaded as a photo, flat and outlined in any other style."""
    rng = np.random.default_rng(seed)
    skin, hair, wall = (
        [int(value) for value in rng.integers(low, high, 3)] for low, high in ((120, 240), (20, 140), (60, 220))
    )
    big = np.full((256, 256, 3), wall, np.uint8)
    cv2.ellipse(big, (128, 120), (88, 100), 0, 0, 360, hair, -1)
    cv2.ellipse(big, (128, 140), (70, 86), 0, 0, 360, skin, -1)
    for side in (-1, 1):
        radius = 11 if style == "photo" else 18
        cv2.circle(big, (128 + 30 * side, 128), radius, (250, 250, 250), -1)
        cv2.circle(big, (128 + 30 * side, 128), radius // 2, (40, 30, 30), -1)
    cv2.ellipse(big, (128, 186), (26, 8 + seed % 8), 0, 0, 180, (150, 40, 50), -1)
    if style == "photo":
        noise = rng.normal(0, 6, big.shape) + np.linspace(30, -30, 256)[None, :, None]
        big = np.clip(big + noise, 0, 255).astype(np.uint8)
    else:
        cv2.ellipse(big, (128, 140), (70, 86), 0, 0, 360, (20, 20, 20), 4)
    return np.asarray(cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA))


def head(seed: int, size: int = SIZE) -> np.ndarray:
    """Coverage of the drawn head, uint8 [size, size]."""
    big = np.zeros((256, 256), np.uint8)
    cv2.ellipse(big, (128, 120), (88, 100), 0, 0, 360, 255, -1)
    cv2.ellipse(big, (128, 140), (70, 86), 0, 0, 360, 255, -1)
    return np.asarray(cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA))


def _finish(
    out: Path,
    kind: str,
    inputs: dict[str, Artifact],
    config: dict[str, Any],
    metrics: dict[str, Any],
    records: list[dict[str, Any]],
) -> Artifact:
    write_jsonl(out / "records.jsonl", records)
    code = {"version": "0", "git": "abc1234", "torch": "2", "isa": "AVX2", "threads": 1, "device": "cpu"}
    return seal(
        out,
        kind,
        config=config,
        inputs=inputs,
        metrics=metrics,
        code=code,
        cost={"seconds": 120.0, "cpu_seconds": 220.0},
    )


def _log(out: Path, phases: dict[str, dict[str, float]], images: int = 4000) -> None:
    rng = np.random.default_rng(1)
    for seen in range(100, images + 1, 100):
        for phase, values in phases.items():
            falling = (0.3 + np.exp(-seen / 900)) * rng.uniform(0.8, 1.2)
            shown = {name: value * falling for name, value in values.items()}
            append_jsonl(out / "log.jsonl", {"phase": phase, "images": seen, **shown})


def data(root: Path, people: int = 12, held: int = 10) -> Artifact:
    """A data set: one style, twins of the held-out people."""
    out = root / "data" / "d"
    rows: list[dict[str, Any]] = []
    for split, count, seed in (
        ("train", people, 0),
        ("heldout", held, 500),
        ("style", people, 200),
        ("heldout_style", held, 800),
    ):
        place = {
            "train": "photo",
            "heldout": "heldout/photo",
            "style": "style/comic",
            "heldout_style": "heldout/style/comic",
        }[split]
        for index in range(count):
            name = f"{index:06d}"
            write_image(out / place / f"{name}.png", face(seed + index, "photo" if "photo" in place else "comic"))
            if split == "heldout":
                write_image(out / "heldout/twin/comic" / f"{name}.png", face(seed + index, "comic"))
                write_image(out / "heldout/mask" / f"{name}.png", head(seed + index))
            rows.append(
                {
                    "id": name,
                    "split": split,
                    "person": seed + index,
                    "photo": f"{place}/{name}.png",
                    "style": "comic" if "style" in split else None,
                    "attributes": {"yaw": float(index)},
                    "source": "toy",
                    "licence": "Apache-2.0",
                    "licence_class": "open",
                }
            )
    config = {"_target_": "stages.datasets.rendered.stage.RenderedData", "size": SIZE, "count": people}
    return _finish(out, "data", {}, config, {"count": people, "size": SIZE}, rows)


def style(root: Path, inputs: dict[str, Artifact]) -> Artifact:
    """Twelve sampled pictures and a fusion strip."""
    out = root / "style" / "s"
    rows = []
    for index in range(12):
        image = f"images/{index:06d}.png"
        write_image(out / image, face(index + 40, "comic"))
        rows.append({"id": f"{index:06d}", "image": image, "seed": index, "psi": 0.7, "style": "comic"})
    strip = [face(row, "photo" if column == 0 else "comic") for row in range(3) for column in range(6)]
    write_image(out / "fusion.png", grid(np.stack(strip), 6))
    _log(
        out,
        {
            "style/generator": {"adversarial": 2.0},
            "style/discriminator": {"adversarial": 1.4, "r1": 300.0},
            "style/state": {"ada_p": 0.4},
        },
    )
    config = {"_target_": "stages.style.stage.StyleStage", "target": "comic", "train": {"images": 4000, "lr": 0.002}}
    metrics = {"kid": 0.04, "kid_sd": 0.004, "reader": READER, "coverage": 0.8}
    return _finish(out, "style", inputs, config, metrics, rows)


def pair(
    root: Path, inputs: dict[str, Artifact], translator: str = "mask", balance: str | None = None, shift: float = 0.0
) -> Artifact:
    """Ten pairs, one rejected, and raw outputs on the held-out people; `shift` moves them towards the style."""
    out = root / "pair" / f"{translator}-{balance}"
    for index in range(10):
        name = f"{index:06d}"
        write_image(out / "heldout" / f"{name}.png", face(500 + index, "comic"))
        write_image(out / "heldout/heatmap" / f"{name}.png", head(500 + index, 8))
        if translator == "mask":
            write_image(out / "heldout/mask" / f"{name}.png", head(500 + index))
        for folder, style in (("photo", "photo"), ("style", "comic")) if index < 9 else ():
            write_image(out / folder / f"{name}.png", face(index, style))
    rows = [
        {"id": f"{index:06d}", "identity": 0.7 - index / 50, "landmarks": 0.1, "background": 0.01, "clarity": 1.0,
         "agreement": 0.9 if translator == "mask" else None, "kept": index < 9,
         "reason": None if index < 9 else "identity"}
        for index in range(10)
    ]  # fmt: skip
    none = dict.fromkeys(("landmarks", "background", "clarity", "agreement"))
    write_json(out / "limits.json", {"limits": {"identity": 0.53, **none}, "pilot": 10})
    write_image(out / "rejects.png", grid(np.stack([face(9), face(9, "comic")]), 2))
    _log(
        out,
        {
            "pair/generator": {"adversarial": 1.0, "cycle": 12.0, "background": 0.5},
            "pair/discriminator": {"adversarial": 1.0},
        },
    )
    config = {
        "_target_": "stages.pair.stage.PairStage",
        "translator": {
            "_target_": "stages.pair.ugatit.UgatitTranslator", "mask_head": translator == "mask",
            "composite": translator != "plain", "balance": balance,
        },
        "curate": {"grow": 0.015, "feather": 0.015},
    }  # fmt: skip
    metrics = {
        "kept": 0.9, "identity": 0.66 - shift, "identity_low": 0.63 - shift, "identity_high": 0.68 - shift,
        "kid": 1.2 - 2 * shift, "kid_low": 1.0 - 2 * shift, "kid_high": 1.5 - 2 * shift, "photo_kid": 3.0,
        "twin_kid": 0.1, "twin_identity": 0.71, "background_error": 0.012, "face_error": 0.11, "photo_face_error": 0.15,
        "yaw_kept": 0.98, "smile_kept": 0.61, "twin_yaw_kept": 0.99, "twin_smile_kept": 0.72, "reader": READER,
    }  # fmt: skip
    return _finish(out, "pair", inputs, config, metrics, rows)


def student(root: Path, inputs: dict[str, Artifact]) -> Artifact:
    """Raw outputs on the held-out people with their scores."""
    out = root / "student" / f"s{inputs['pair'].path.name}"
    rows = []
    for index in range(10):
        write_image(out / "heldout" / f"{index:06d}.png", face(500 + index, "comic"))
        rows.append({"id": f"{index:06d}", "face_error": 0.05 + index / 100, "background_error": 0.01})
    _log(out, {"student/generator": {"l1": 0.3, "adversarial": 0.9, "edge": 0.2}})
    metrics = {
        "face_error": 0.095,
        "photo_face_error": 0.19,
        "face_ratio": 0.5,
        "background_error": 0.041,
        "kid": 0.03,
        "photo_kid": 0.1,
        "kid_ratio": 0.3,
        "edge_clarity_ratio": float("nan"),
        "reader": READER,
    }
    config = {"_target_": "stages.student.stage.StudentStage", "model": {"tier": "mid"}, "train": {"images": 4000}}
    return _finish(out, "student", inputs, config, metrics, rows)


def export(root: Path, inputs: dict[str, Artifact], model: bytes) -> Artifact:
    """student.onnx with the given bytes, and a card."""
    out = root / "export" / f"e{inputs['student'].path.name}"
    write_bytes(out / "student.onnx", model)
    card = {"input": {"name": "image", "range": [-1, 1]}, "ms": {"256": 5.2}, "title": "<b>&"}
    write_json(out / "card.json", card)
    metrics = {"bytes": 1_120_000, "cpu_ms": 5.2, "max_error": 1.2e-6}
    return _finish(out, "export", inputs, {"_target_": "stages.export.stage.ExportStage"}, metrics, [])


def chain(root: Path, translator: str = "mask", model: bytes = b"\0") -> dict[str, Artifact]:
    """All five artifacts under `root`."""
    made: dict[str, Artifact] = {"data": data(root)}
    made["style"] = style(root, dict(made))
    made["pair"] = pair(root, {"data": made["data"], "style": made["style"]}, translator)
    made["student"] = student(root, {"data": made["data"], "pair": made["pair"]})
    made["export"] = export(root, {"student": made["student"]}, model)
    return made
