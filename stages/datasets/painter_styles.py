"""The domains' looks: how photo, comic, clay and sketch turn material, light and form into paint."""

import numpy as np

from stages.datasets.painter_canvas import Floats
from stages.datasets.painter_face import Look
from stages.datasets.person import View


class PhotoLook(Look):
    """Soft light: ambient from the sky, a coloured key, red where light bleeds through skin, a little shine."""

    name = "photo"
    shine = {"skin": 0.075, "hair": 0.16, "hat": 0.0}

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.key = np.asarray(view.key, np.float32) * np.float32(view.strength * 1.16)
        self.ambient = np.asarray(view.ambient, np.float32)

    def tone(self, material: str, albedo: Floats, shade: Floats, gloss: Floats | None = None) -> Floats:
        flesh = material in ("skin", "neck", "ear", "lip")
        out = np.empty((3, *np.broadcast_shapes(albedo.shape[1:], shade.shape)), np.float32)
        bleed = np.float32(0.34) * shade * np.maximum(1 - shade, 0) if flesh else None
        for plane in range(3):
            light = shade * self.key[plane] + self.ambient[plane]
            if bleed is not None and plane == 0:
                light = light + bleed
            out[plane] = albedo[plane] * light
            if gloss is not None:
                tint = albedo[plane] * np.float32(1.6) + np.float32(0.05) if material == "hair" else np.float32(1)
                out[plane] += gloss * (self.key[plane] * np.float32(self.shine.get(material, 0.05))) * tint
        return out
