"""Work ahead of a consumer: in order, bounded, cancelled when the consumer stops, errors at their turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from magicmm.prefetch import prefetch


def test_results_come_in_order_whichever_worker_is_faster() -> None:
    second_done = threading.Event()

    def work(task: int) -> int:
        if task == 0:
            assert second_done.wait(10)
        if task == 1:
            second_done.set()
        return task * task

    assert list(prefetch(range(50), work, workers=4, window=8)) == [task * task for task in range(50)]


@pytest.mark.parametrize("window", [1, 3, 16])
def test_no_more_than_the_window_is_taken_ahead_of_the_consumer(window: int) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(100):
            taken.append(task)
            yield task

    results = prefetch(tasks(), lambda task: task, workers=4, window=window)
    assert taken == []
    for result in results:
        assert len(taken) <= result + 1 + window
    assert len(taken) == 100


def test_closing_cancels_what_has_not_started() -> None:
    started: list[int] = []
    release = threading.Event()

    def work(task: int) -> int:
        started.append(task)
        assert task == 0 or release.wait(10)
        return task

    results = prefetch(range(100), work, workers=2, window=50)
    assert next(results) == 0
    release.set()
    results.close()
    count = len(started)
    assert count < 60
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("magicmm-decode")]
    assert len(started) == count


def test_an_error_comes_out_at_its_turn_and_ends_the_workers() -> None:
    def work(task: int) -> int:
        if task == 3:
            raise ValueError("third")
        return task

    results = prefetch(range(10), work, workers=2, window=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="third"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("magicmm-decode")]


def test_no_tasks_give_no_results() -> None:
    assert list(prefetch([], lambda task: task, workers=2, window=4)) == []
