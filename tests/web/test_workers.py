"""Runs that report and can be stopped, on the made-up stages of the page's tests."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from made_up_stages import made_up_segmenter

from clip_as_rnn.apps.web.watching import most_steps, watched
from clip_as_rnn.apps.web.workers import Job, StoppedError, Workers
from clip_as_rnn.config import with_settings
from clip_as_rnn.presets import find_preset

IMAGE = np.zeros((30, 40, 3), np.uint8)
TEXTS = ("dog", "ghost")


def _run(work):
    """Run in a thread of its own: the browser's driver, started by other tests, has its loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def test_every_stage_is_told_in_order():
    told = []
    watched(made_up_segmenter(find_preset("default")), Job(told.append), TEXTS).segment(IMAGE, TEXTS)
    assert told == [
        "Encoding the picture and the texts",
        "Step 1 of at most 2: proposing 2 masks",
        "Judging 2 masks",
        "Step 2 of at most 2: proposing 1 mask",
        "Judging 1 mask",
        "Refining the edges (CRF)",
    ]


def test_watching_changes_no_result():
    plain = made_up_segmenter(find_preset("default"))
    seen = watched(plain, Job(lambda _: None), TEXTS).segment(IMAGE, TEXTS)
    assert seen.texts == plain.segment(IMAGE, TEXTS).texts
    assert (seen.masks == plain.segment(IMAGE, TEXTS).masks).all()


def test_a_stopped_run_ends_before_its_next_stage():
    told = []

    def tell(stage):
        told.append(stage)
        if stage.startswith("Judging"):
            job.stop.set()

    job = Job(tell)
    with pytest.raises(StoppedError):
        watched(made_up_segmenter(find_preset("default")), job, TEXTS).segment(IMAGE, TEXTS)
    assert told[-1] == "Judging 2 masks"


def test_the_bound_on_steps_holds_for_every_kind_of_recurrence():
    texts = ["a", "b", "c"]
    for settings, bound in (({}, 3), ({"repeat_first_step": True}, 4), ({"max_steps": 1}, 1), ({"max_steps": 0}, 1)):
        assert most_steps(texts, with_settings(find_preset("default"), settings)) == bound


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
