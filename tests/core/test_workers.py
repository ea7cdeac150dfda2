"""The one pool: order, bounds and faults, of threads and of processes."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from stages.core.settings import ConfigError, TristyleError
from stages.core.workers import Pool, in_order


def _square(number: int) -> int:
    if number == 7:
        raise ConfigError("number", "7 is unlucky", "Choose another")
    return number * number


def _process(number: int) -> tuple[int, int, bool]:
    """Number, process, and whether Ctrl-C is ignored."""
    return number, os.getpid(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def _killed(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_threads_give_results_in_order_and_hand_on_errors() -> None:
    assert list(in_order(_square, (n for n in range(50) if n != 7), 4)) == [n * n for n in range(50) if n != 7]

    found = in_order(_square, range(50), 4)
    assert [next(found) for _ in range(7)] == [n * n for n in range(7)]
    with pytest.raises(ConfigError, match="unlucky"):
        next(found)


def test_items_are_taken_only_as_they_are_needed() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield len(taken) - 1

    found = in_order(str, endless(), 3, ahead=2)
    for number in range(5):
        assert next(found) == str(number) and len(taken) == number + 6
    found.close()


def test_one_process_is_this_one() -> None:
    assert [row[1] for row in in_order(_process, range(3), 1, processes=True)] == [os.getpid()] * 3


def test_processes_are_others_and_deaf_to_ctrl_c() -> None:
    rows = list(in_order(_process, range(12), 2, processes=True))
    assert [row[0] for row in rows] == list(range(12)) and all(row[2] for row in rows)
    assert os.getpid() not in {row[1] for row in rows}


def test_errors_cross_from_a_process_and_a_killed_one_is_one_line() -> None:
    with pytest.raises(ConfigError, match="number: 7 is unlucky. Choose another"):
        list(in_order(_square, range(20), 2, processes=True))
    with pytest.raises(TristyleError, match="a process was killed.* Run with --jobs 1") as caught:
        list(in_order(_killed, range(20), 2, processes=True, remedy="Run with --jobs 1."))
    assert "\n" not in str(caught.value)


def test_a_pool_can_drop_what_waits() -> None:
    gate, done = threading.Event(), []

    def call(number: int) -> int:
        gate.wait(10)
        done.append(number)
        return number

    with Pool[int](1) as pool:
        for number in range(5):
            pool.submit(call, number)
        pool.drop()
        pool.submit(call, 9)
        gate.set()
        assert len(pool) == 1 and pool.collect() == 9
    assert done in ([0, 9], [9])  # the first may have begun
