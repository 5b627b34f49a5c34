"""Threads that share tasks and loops."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import pytest

from clip_as_rnn.dense_crf.threads import ThreadPool, limit_threads, run_whole, usable_threads
from clip_as_rnn.errors import InputError
from forks import fork_ends


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


def test_a_thread_may_be_held_to_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 8)

    def held(count: int) -> int:
        limit_threads(count)
        return usable_threads()

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        assert [one.submit(held, count).result() for count in (3, 20, 4)] == [3, 8, 4]
        assert other.submit(usable_threads).result() == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_fork_refines_masks_where_its_parent_had_none_to_refine() -> None:
    before = f"""
from clip_as_rnn import load_segmenter
segmenter = load_segmenter("tiny", device="cpu")
picture = {str(files("clip_as_rnn") / "assets" / "demo" / "park.jpg")!r}
assert not segmenter.segment(picture, ["banana"]).texts
"""
    assert fork_ends(before, 'for _ in range(2): assert segmenter.segment(picture, ["dog", "tree"]).texts')
