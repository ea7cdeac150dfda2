"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """Version of the distribution `tristyle`; ``checkout`` where only its source tree is there."""
    try:
        return version("tristyle")
    except PackageNotFoundError:
        return "checkout"
