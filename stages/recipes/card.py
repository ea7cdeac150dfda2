"""The card of shipped weights: `<weights>.json` beside them, in one shape for every recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from stages.core.files import sha256_file, write_json


def write_card(
    weights: Path,
    network: nn.Module,
    *,
    kind: str,
    command: str,
    about: dict[str, Any],
    recipe: dict[str, Any],
    heldout: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write what weights are, how they were made, and what they score on people that no training saw.

    Args:
        weights: the file, already written. The card lies beside it.
        network: what it holds, for its count of parameters.
        kind: first word of the id, e.g. `reader`.
        command: what a reader types to make it again.
        about: further facts in order: input, licence, data, ...
        recipe: settings that decide the result, and minutes.
        heldout: scores of the file as saved; None where nothing was scored.

    Returns:
        the card as written.
    """
    digest = sha256_file(weights)
    card: dict[str, Any] = {
        "id": f"{kind}-{digest[:8]}",
        "sha256": digest,
        "bytes": weights.stat().st_size,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **about,
        "recipe": {"command": command, **recipe},
    }
    if heldout is not None:
        card["heldout"] = heldout
    write_json(weights.with_suffix(".json"), card)
    return card
