"""Augmentation of a student's pairs: its settings, what it needs to know of the pairs, and the batches that it changes.

What is done to one pair stands in `stages.student.change`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from stages.core.artifact import Artifact
from stages.core.settings import ConfigError, TristyleError, number
from stages.core.shards import pictures
from stages.training.loading import Allowance, Indexed, Kept


@dataclass(kw_only=True)
class Augment:
    """Shares of the pairs that each step changes, 0 to 1, and how it changes the drawing.

    Args:
        geometry: cropped, scaled, turned, seen at a slant.
        backgrounds: before another place; pairs must say what the people in them cover, as those of `pair=twins` do.
        occluders: with something before the person: sunglasses, hands, hair, a microphone, text.
        camera: another camera's exposure, colours, contrast, vignette, blur, noise and compression of the photo.
        tone: no share of pairs: how much of that camera's exposure, colours, contrast and vignette the drawn person
            takes, too. At 0 a photo's light says nothing of the drawing's: light skin that a camera has darkened may be
            dark skin, and is drawn in between.
    """

    geometry: float = 0.0
    backgrounds: float = 0.0
    occluders: float = 0.0
    camera: float = 0.0
    tone: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number(name, value, 0, 1)
        if self.tone and not self.camera:
            raise ConfigError("tone", "there is no camera whose light a drawing could take", "Set camera, or tone=0")

    @property
    def on(self) -> bool:
        """Whether anything is changed at all."""
        return any(vars(self).values())


@dataclass(kw_only=True)
class Augmentation:
    """How the pairs of a batch are changed, and what more is known of them.

    Attributes:
        settings: the shares of each step.
        cover: uint8 [N, H, W, 3], see `stages.student.change.StudentPair`; None where that is unknown.
        eyes: float [N, 2, 2], likewise, NaN where they are unknown.
        workers: threads that change pictures.
    """

    settings: Augment
    cover: Indexed | None = None
    eyes: np.ndarray | None = None
    workers: int = 1


def load_augmentation(pair: Artifact, settings: Augment, workers: int, allowance: Allowance) -> Augmentation | None:
    """What augmentation needs of the kept pairs; None where nothing is to be changed.

    Raises:
        TristyleError: other backgrounds are wanted, and the pairs do not say what the people in them cover.
    """
    if not settings.on:
        return None
    rows = [row for row in pair.records() if row.get("kept", True) and not row.get("unreadable")]
    known = bool(rows) and ("cover" in rows[0] or "cover.png" in rows[0].get("members", {}))
    if settings.backgrounds and not known:
        raise TristyleError(
            f"student.model.augment.backgrounds: the pairs of {pair.path} do not say what their people cover. "
            f"Use pair=twins, or say student.model.augment.backgrounds=0."
        )
    cover = Kept(pictures(pair.path, ("cover",), workers)[0], allowance) if known else None
    eyes = np.array([row.get("eyes") or np.full((2, 2), np.nan) for row in rows], np.float32)
    return Augmentation(settings=settings, cover=cover, eyes=eyes, workers=workers)


def changes(
    photo: Indexed, style: Indexed, mask: Indexed, seed: int, augmentation: Augmentation
) -> Callable[[np.ndarray, np.ndarray], tuple[dict[str, np.ndarray], np.ndarray]]:
    """Makes the augmented photos and styles, and the masks, of some pairs at some image counts."""
    from stages.student.change import StudentPair, augmented  # needs OpenCV

    settings, cover, eyes = augmentation.settings, augmentation.cover, augmentation.eyes
    pool = ThreadPoolExecutor(augmentation.workers)

    def change(chosen: np.ndarray, counts: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        generators = [np.random.default_rng([seed, 2, int(count)]) for count in counts]
        first = [photo[chosen], style[chosen], mask[chosen]]
        covers = [None] * len(chosen) if cover is None else cover[chosen]
        others = [None] * len(chosen) if cover is None else _others(generators)

        def one(row: int) -> StudentPair:
            eye = None if eyes is None or np.isnan(eyes[chosen[row]]).any() else eyes[chosen[row]]
            pictures_ = [images[row] for images in first]
            pair = StudentPair(pictures_[0], pictures_[1], pictures_[2], covers[row], eye, others[row])
            return augmented(pair, settings, generators[row])

        made = list(pool.map(one, range(len(chosen))))
        found = {"photo": np.stack([pair.photo for pair in made]), "style": np.stack([pair.style for pair in made])}
        return found, np.stack([pair.mask for pair in made])

    def _others(generators: list[np.random.Generator]) -> list[tuple[np.ndarray, np.ndarray] | None]:
        assert cover is not None
        chances = [(rng.random(), int(rng.integers(len(photo)))) for rng in generators]
        wanted = [chance < settings.backgrounds / 2 for chance, _ in chances]
        numbers = np.array([number for (_, number), use in zip(chances, wanted, strict=True) if use], int)
        if not len(numbers):
            return [None] * len(generators)
        given = iter(zip(photo[numbers], cover[numbers][..., 0], strict=True))
        return [next(given) if use else None for use in wanted]

    return change
