"""One picture through the student, laid over the photo at the photo's own size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.apply.model import run_padded

if TYPE_CHECKING:
    import numpy as np


def stylize(session: Any, photo: np.ndarray, size: int | None = None) -> np.ndarray:
    """Stylise a whole photo.

    Args:
        session: see `open_model`.
        photo: uint8 [H, W, 3] RGB of any size.
        size: shorter side at which the network works; None = the size noted in the model, else the photo's own.

    Returns:
        uint8 [H, W, 3]. With p the photo, s its reduction, o = s + a (c - s) the network's output and "up" bicubic
        enlargement: up(o) + (1 - up(a)) (p - up(s)), so the photo's detail stays in the measure that nothing is painted
        there, and an unscaled photo gives o itself.
    """
    import cv2
    import numpy as np

    height, width = photo.shape[:2]
    noted = session.get_modelmeta().custom_metadata_map.get("tristyle.size", "")
    wanted = size or (int(noted) if noted.isdigit() else min(height, width))
    scale = wanted / min(height, width)
    if scale == 1:
        output = run_padded(session, photo)[0]
    else:
        reduced = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(photo, reduced, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        painted, alpha = run_padded(session, small)

        def enlarge(image: np.ndarray) -> np.ndarray:
            return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, -1)

        detail = photo - enlarge(small.astype(np.float32))
        output = enlarge(painted) + (1 - np.clip(enlarge(alpha), 0, 1)) * detail
    return np.clip(np.rint(output), 0, 255).astype(np.uint8)
