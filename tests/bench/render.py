"""Pictures a core-second of the renderer of people, and of its styles.

    python -m tests.bench.render                       # about two minutes, one thread
    python -m tests.bench.render --sizes 64 --people 40

CPU seconds of one thread, whole pictures with their truth, other people each time. The first ones, which compile and
fill caches, do not count.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time

import cv2

from stages.datasets.rendered.person import sample_person, sample_view
from stages.datasets.rendered.render import photo
from stages.datasets.rendered.styles import twins


def picture(number: int, size: int, arm: str) -> None:
    person, view = sample_person(number), sample_view(number)
    if arm == "photo":
        photo(person, view, size)
    else:
        twins.styled(person, view, size, arm)


def rate(arm: str, size: int, people: int) -> float:
    """Pictures a core-second."""
    for number in range(3):
        picture(number, size, arm)
    start = time.process_time()
    for number in range(100, 100 + people):
        picture(number, size, arm)
    return people / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--arms", nargs="+", default=["photo", *twins.STYLES])
    parser.add_argument("--profile", action="store_true", help="also the costliest functions")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print("pictures a core-second".ljust(26), *(f"{arm:>12}" for arm in options.arms))
    for size in options.sizes:
        people = max(6, options.people * 64 // size)
        print(f"{size} px".ljust(26), *(f"{rate(arm, size, people):12.2f}" for arm in options.arms), flush=True)
    if options.profile:
        profile = cProfile.Profile()
        profile.enable()
        rate(options.arms[0], options.sizes[0], options.people)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)


if __name__ == "__main__":
    main()
