"""Check what pip cannot install: Python's version and the shared libraries that OpenCV links. Standard library only."""

import ctypes
import sys

LIBRARIES = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0"}


def missing_packages() -> list[str]:
    """Debian names of the packages whose library cannot be loaded; empty outside Linux (the wheels bring their own)."""
    missing = []
    for library, package in LIBRARIES.items() if sys.platform.startswith("linux") else ():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(package)
    return missing


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before anything has checked
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try: make PYTHON=python3.11")
    if packages := missing_packages():
        sys.exit(f"OpenCV needs system libraries that are missing; run: apt-get install -y {' '.join(packages)}")
