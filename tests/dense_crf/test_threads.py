"""Threads that share tasks and loops."""

import threading

import pytest

from clip_as_rnn.dense_crf.threads import ThreadPool, run_whole
from clip_as_rnn.errors import InputError


def test_a_task_that_fails_reaches_the_caller() -> None:
    def fail() -> None:
        raise InputError("no")

    with ThreadPool(2) as pool, pytest.raises(InputError, match="no"):
        pool.run([fail, fail, fail])


def test_results_keep_the_order_of_the_tasks() -> None:
    with ThreadPool(3) as pool:
        assert pool.run([lambda i=i: i * i for i in range(50)]) == [i * i for i in range(50)]
        assert pool.run([]) == []


def test_the_caller_works_too() -> None:
    with ThreadPool(1) as pool:
        assert set(pool.run([threading.get_ident] * 3)) == {threading.get_ident()}


@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_the_parts_of_a_loop_cover_it_once(length: int) -> None:
    spans: list[tuple[int, int]] = []
    with ThreadPool(3) as pool:
        pool.split(length, spans.append)
    assert sorted(i for start, stop in spans for i in range(start, stop)) == list(range(length))
    run_whole(length, spans.append)
    assert spans[-1] == (0, length)
