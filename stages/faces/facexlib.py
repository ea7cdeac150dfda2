"""Parts of facexlib, the only place where it is imported: lazily, on the device that is asked for, nothing downloaded.

`import facexlib` loads torchvision, numba and all its detectors; a part that needs none of them is loaded by itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.settings import TristyleError

if TYPE_CHECKING:
    from torch import nn


def folder() -> Path | None:
    """Where facexlib is installed; None where it is not."""
    spec = importlib.util.find_spec("facexlib")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def part(name: str, file: str) -> types.ModuleType:
    """One file of facexlib, e.g. `part("parsing", "bisenet")`, loaded without the rest of the package.

    Raises:
        TristyleError: facexlib is not installed, or another version of it.
    """
    where = folder()
    if where is None:
        raise TristyleError("facexlib: not installed. Run: pip install facexlib")
    alone = types.ModuleType(f"facexlib_{name}")
    alone.__path__ = [str(where / name)]
    sys.modules.setdefault(alone.__name__, alone)
    try:
        return importlib.import_module(f"{alone.__name__}.{file}")
    except ImportError as error:
        raise TristyleError(f"facexlib: cannot be loaded ({error}). Run: pip install facexlib") from None


def retinaface(name: str) -> nn.Module:
    """RetinaFace with drawn weights, `resnet50` or `mobile0.25`: BGR less its mean -> boxes, scores, points.

    Raises:
        TristyleError: facexlib or torchvision cannot be imported.
    """
    try:
        from facexlib.detection.retinaface import RetinaFace
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit its torch fails with the second
        reason = str(error).splitlines()[0]
        raise TristyleError(f"facexlib: cannot be imported ({reason}). Run: pip install facexlib") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision the old way
        network: nn.Module = RetinaFace(network_name=name, device="cpu")
    return network


def fan() -> nn.Module:
    """FAN of four hourglasses for 98 landmarks, with drawn weights: [N, 3, 256, 256] in [0, 1] -> lists of heatmaps.

    Raises:
        TristyleError: see `part`.
    """
    network: nn.Module = part("alignment", "awing_arch").FAN(num_modules=4, num_landmarks=98, device="cpu")
    return network
