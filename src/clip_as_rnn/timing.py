"""How long each stage takes; what a GPU was asked to do is waited for, so that it counts where it belongs."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch


class Stopwatch:
    """Adds up seconds by name."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = defaultdict(float, seconds or {})

    @contextmanager
    def measure(self, name: str, *, shared_by: int = 1) -> Iterator[None]:
        """Add the time that a `with` block takes to `name`, divided by the number of images that share it."""
        _wait_for_gpu()
        started = time.perf_counter()
        try:
            yield
        finally:
            _wait_for_gpu()
            self.seconds[name] += (time.perf_counter() - started) / shared_by


def _wait_for_gpu() -> None:
    """Wait for every GPU that this process computes on; one that it does not use is left alone."""
    if cast(Callable[[], bool], torch.cuda.is_initialized)():
        for device in range(torch.cuda.device_count()):
            torch.cuda.synchronize(device)
