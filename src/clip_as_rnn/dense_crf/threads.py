"""Threads that share the work of one call."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numba

Result = TypeVar("Result")
Kernel = Callable[..., object]


class Team:
    """A few threads, the caller among them, that live as long as the `with` block.

    By default as many as numba would use: NUMBA_NUM_THREADS, or else one for each processor the process may use.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or int(numba.get_num_threads())
        self._helpers = ThreadPoolExecutor(max(1, self.size - 1))

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._helpers.shutdown()

    def each(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
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

        helpers = [self._helpers.submit(work) for _ in range(min(self.size, len(tasks)) - 1)]
        work()
        for helper in helpers:
            helper.result()
        return [results[place] for place in range(len(tasks))]

    def split(self, length: int, kernel: Kernel, *arguments: object) -> None:
        """Call kernel(*arguments, (start, stop)) for consecutive parts of range(length)."""
        parts = min(self.size, length)
        edges = [length * i // parts for i in range(parts + 1)] if parts else []
        self.each([partial(kernel, *arguments, span) for span in pairwise(edges)])


def alone(length: int, kernel: Kernel, *arguments: object) -> None:
    """Do what `Team.split` does, in the calling thread."""
    kernel(*arguments, (0, length))
