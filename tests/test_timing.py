"""Seconds by name: added up, shared, counted where an error ends the work, and with what a GPU still does."""

from types import SimpleNamespace

import pytest

from clip_as_rnn import timing
from clip_as_rnn.timing import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_seconds_add_up_by_name(clock):
    stopwatch = Stopwatch({"encode": 1.5})
    for name, seconds in (("propose", 2.0), ("classify", 3.0), ("propose", 4.0)):
        with stopwatch.measure(name):
            clock.now += seconds
    assert stopwatch.seconds == {"encode": 1.5, "propose": 6.0, "classify": 3.0}


def test_images_that_share_a_pass_share_its_seconds(clock):
    stopwatch = Stopwatch()
    with stopwatch.measure("classify", shared_by=4):
        clock.now += 2.0
    assert stopwatch.seconds == {"classify": 0.5}


def test_time_counts_although_an_error_ended_it(clock):
    stopwatch = Stopwatch()

    def interrupted():
        with stopwatch.measure("refine"):
            clock.now += 1.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stopwatch.seconds == {"refine": 1.0}


def test_what_a_gpu_was_asked_to_do_counts_where_it_was_asked(clock, monkeypatch):
    """The queue of a GPU, here two seconds of work before the block and three in it, is waited for at both ends."""
    queue, waited = [2.0], []

    def wait(device):
        waited.append(device)
        clock.now += sum(queue)
        queue.clear()

    monkeypatch.setattr(timing.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(timing.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(timing.torch.cuda, "synchronize", wait)
    stopwatch = Stopwatch()
    with stopwatch.measure("propose"):
        queue.append(3.0)
    assert stopwatch.seconds == {"propose": 3.0}
    assert waited == [0, 1, 0, 1]


def test_a_gpu_that_nothing_was_asked_of_is_left_alone(monkeypatch):
    """Waiting would take memory on it, and fail in a process that was forked from one that uses it."""
    monkeypatch.setattr(timing.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(timing.torch.cuda, "synchronize", lambda *_: pytest.fail("the GPU was touched"))
    with Stopwatch().measure("propose"):
        pass


def test_what_is_given_is_not_changed(clock):
    given = {"encode": 1.0}
    with Stopwatch(given).measure("encode"):
        clock.now += 1.0
    assert given == {"encode": 1.0}
