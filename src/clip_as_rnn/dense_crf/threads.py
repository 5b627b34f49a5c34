"""Threads that share the work of one call."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numba

Result = TypeVar("Result")
Loop = Callable[..., object]
_of_thread = threading.local()


def usable_threads() -> int:
    """Count the threads that a call from this thread may use: NUMBA_NUM_THREADS, or else one for each processor.

    `numba.get_num_threads` is not asked: it starts threads of OpenMP, and in a fork it lets torch wait for such as
    are not there.
    """
    most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined] # set at import
    return min(most, getattr(_of_thread, "limit", most))


def limit_threads(count: int) -> None:
    """Let calls from this thread use so many threads at most."""
    _of_thread.limit = count


class ThreadPool:
    """A few threads, the calling one among them, that live as long as the `with` block.

    By default as many as this thread may use.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or usable_threads()
        self._others = ThreadPoolExecutor(max(1, self.size - 1))

    def __enter__(self) -> "ThreadPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._others.shutdown()

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the tasks, begun in the given order; return their results in that order."""
        waiting = deque(enumerate(tasks))
        results: dict[int, Result] = {}

        def work() -> None:
            while waiting:
                try:
                    place, task = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                results[place] = task()

        others = [self._others.submit(work) for _ in range(min(self.size, len(tasks)) - 1)]
        work()
        for other in others:
            other.result()
        return [results[place] for place in range(len(tasks))]

    def split(self, length: int, loop: Loop, *arguments: object) -> None:
        """Call loop(*arguments, (start, stop)) for consecutive parts of range(length), one for each thread."""
        parts = min(self.size, length)
        edges = [length * i // parts for i in range(parts + 1)] if parts else []
        self.run([partial(loop, *arguments, span) for span in pairwise(edges)])


def run_whole(length: int, loop: Loop, *arguments: object) -> None:
    """Do what `ThreadPool.split` does, in the calling thread."""
    loop(*arguments, (0, length))
