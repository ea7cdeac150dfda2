"""The published training settings of StyleGAN2-ADA as one table, and `auto`, which derives them from size and GPUs.

Source: arXiv 2006.06676 (appendix C) and the settings that its official training program names. The yaml file of
`style/recipe=published` takes its numbers from here: it calls `value` as
``${published:KEY,${style.preset},${data.size},${style.start}}``. Neither torch nor Hydra is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.core.settings import ConfigError, choice, image_size

CHANNEL_BASE, CHANNEL_MAX = 32768, 512  # feature maps at fmaps 1: min(32768 / resolution, 512)
ADA_TARGET, ADA_EVERY = 0.6, 4
ADA_IMAGES = {"scratch": 500_000, "transfer": 100_000}  # in which p could move from 0 to 1
EMA_RAMP = 0.05  # `auto` from scratch; a transfer has no ramp


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published setting.

    Args:
        batch: images per update, over all GPUs.
        mbstd_group: samples in a group of the minibatch statistic.
        fmaps: factor on the number of feature maps.
        lr: Adam's learning rate, before the correction for lazy regularisation.
        r1_gamma: weight of R1.
        ema_images: half-life of the averaged generator, in images.
        mapping_layers: of the mapping network.
    """

    batch: int
    mbstd_group: int
    fmaps: float
    lr: float
    r1_gamma: float
    ema_images: float
    mapping_layers: int = 8

    @property
    def channel_base(self) -> int:
        """Feature maps times resolution, where `CHANNEL_MAX` does not bind."""
        return int(CHANNEL_BASE * self.fmaps)


TABLE = {
    "stylegan2": Published(batch=32, mbstd_group=4, fmaps=1, lr=0.002, r1_gamma=10.0, ema_images=10_000),
    "paper256": Published(batch=64, mbstd_group=8, fmaps=0.5, lr=0.0025, r1_gamma=1.0, ema_images=20_000),
    "paper512": Published(batch=64, mbstd_group=8, fmaps=1, lr=0.0025, r1_gamma=0.5, ema_images=20_000),
    "paper1024": Published(batch=32, mbstd_group=4, fmaps=1, lr=0.002, r1_gamma=2.0, ema_images=10_000),
}
AUTO = "auto"
PRESETS = (AUTO, *TABLE)


def auto(size: int, gpus: int = 1) -> Published:
    """The setting that ``auto`` derives for images of `size` px on `gpus` GPUs.

    Raises:
        ConfigError: a size that is not a power of two, or there is no GPU.
    """
    image_size("size", size, 8, 4096)
    if gpus < 1:
        raise ConfigError("gpus", f"{gpus} is out of range", "Give at least 1")
    batch = max(min(gpus * min(4096 // size, 32), 64), gpus)
    return Published(
        batch=batch,
        mbstd_group=min(batch // gpus, 4),
        fmaps=1 if size >= 512 else 0.5,
        lr=0.002 if size >= 1024 else 0.0025,
        r1_gamma=0.0002 * size**2 / batch,
        ema_images=batch * 10_000 / 32,
        mapping_layers=2,
    )


def value(key: str, preset: str, size: int, start: str = "scratch") -> int | float | None:
    """One number of a published setting, for a yaml file.

    Args:
        key: a field of `Published`, ``channel_base``, ``ada_images`` or ``ema_ramp`` (None: no ramp).
        preset: ``auto`` (on one GPU), or a row of `TABLE`.
        size: of the images, px.
        start: as in the stage style: anything but ``scratch`` is a transfer.

    Raises:
        ConfigError: an unknown key or preset, or a size that is not a power of two.
    """
    choice("style.preset", preset, PRESETS)
    setting = auto(size) if preset == AUTO else TABLE[preset]
    transfer = start != "scratch"
    numbers: dict[str, int | float | None] = {
        name: getattr(setting, name) for name in (*Published.__dataclass_fields__, "channel_base")
    }
    numbers["ada_images"] = ADA_IMAGES["transfer" if transfer else "scratch"]
    numbers["ema_ramp"] = EMA_RAMP if preset == AUTO and not transfer else None
    choice("published", key, numbers)
    return numbers[key]
