"""Jobs in threads: they report, pass on what they return or raise, and can be stopped."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clip_as_rnn.apps.web.workers import StoppedError, Workers


def _run(work):
    """Run in a thread of its own: the browser's driver, started by other tests, has its loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def test_workers_tell_stages_then_the_outcome_and_pass_errors_on():
    def work(job):
        job.report("one")
        job.report("two")
        return 3

    def fail(job):
        raise ValueError("as it is")

    async def heard(job):
        return [news async for news in Workers(1).run("visitor", job)]

    assert _run(heard(work)) == ["one", "two", 3]
    with pytest.raises(ValueError, match="as it is"):
        _run(heard(fail))


def test_a_run_that_nobody_hears_stops():
    ended = threading.Event()
    going_on = threading.Event()

    def work(job):
        job.report("first")
        going_on.wait(10)
        try:
            job.report("second")
        except StoppedError:
            ended.set()
            raise

    async def listen_once():
        run = Workers(1).run("visitor", work)
        assert await anext(run) == "first"
        await run.aclose()
        going_on.set()

    _run(listen_once())
    assert ended.wait(10)


def test_a_visitor_who_leaves_stops_only_the_own_run():
    async def both():
        workers = Workers(2)
        runs = {name: workers.run(name, lambda job: (job.report("stage"), job.stop.wait(0.5))[1]) for name in "ab"}
        assert [await anext(run) for run in runs.values()] == ["stage", "stage"]
        workers.stop("a")
        return [await anext(run) for run in runs.values()]

    assert _run(both()) == [True, False]
