"""The queue before the segmenter: bounded, in order, and emptied by one thread, which puts like questions together.

Files wait, not pixels: a picture is decoded when it is its turn.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from typing import Any

from clip_as_rnn.apps.server.metrics import Metrics
from clip_as_rnn.errors import CarError, InputError
from clip_as_rnn.io.images import Picture, read_picture
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Progress
from clip_as_rnn.state import EncodedImage

_log = logging.getLogger(__name__)
_LONGEST_RETRY_S = 60
_MEMORY = 0.2  # weight of the newest duration in the running mean


class BusyError(Exception):
    """The queue is full, or has closed; there may be room after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"The server is busy; ask again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class _AllLeftError(Exception):
    """Nobody waits any more for what is being computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of one picture.

    Attributes:
        picture: the content of its file.
        texts: what to look for, checked.
        settings: names and values of settings that differ from the server's.
        trace: keep every step.
    """

    picture: bytes = field(repr=False)
    texts: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...] = ()
    trace: bool = False

    def goes_with(self, other: "Question") -> bool:
        """Tell whether both can be answered side by side, as they differ in the picture alone."""
        return (self.texts, self.settings, self.trace) == (other.texts, other.settings, other.trace)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What was found, what should be known of the picture, and the segmenter with the settings it was found by."""

    segmentation: Segmentation
    notes: tuple[str, ...]
    segmenter: Segmenter


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A question on its way; `left` is set once nobody waits for the answer."""

    question: Question
    future: "Future[Answer]" = field(default_factory=Future)
    left: Event = field(default_factory=Event)


class JobQueue:
    """Holds the jobs that wait, and works on them in a thread of its own.

    Args:
        segmenter: what answers.
        waiting: how many jobs wait at most.
        images_at_once: how many jobs are done side by side at most.
        metrics: told of every batch.
    """

    def __init__(self, segmenter: Segmenter, *, waiting: int, images_at_once: int, metrics: Metrics) -> None:
        self.segmenter = segmenter
        self._room = waiting
        self._images_at_once = images_at_once
        self._metrics = metrics
        self._waiting: deque[Job] = deque()
        self._changed = Condition()
        self._running: list[Job] = []
        self._open = True
        self._image_s = 1.0  # running mean
        self._thread = Thread(target=self._work, name="segmenting", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Count the jobs that wait."""
        return len(self._waiting)

    def check_room(self, count: int = 1) -> None:
        """Raise BusyError unless that many more jobs may wait."""
        if not self._open or len(self._waiting) + count > self._room:
            wait_s = math.ceil(self._image_s * (len(self._waiting) + len(self._running)))
            raise BusyError(min(max(1, wait_s), _LONGEST_RETRY_S))

    def submit(self, questions: Sequence[Question]) -> list[Job]:
        """Let all questions wait for their turn, or none.

        Raises:
            BusyError: there is no room.
        """
        jobs = [Job(question) for question in questions]
        with self._changed:
            self.check_room(len(jobs))
            self._waiting.extend(jobs)
            self._changed.notify_all()
        return jobs

    def leave(self, jobs: Sequence[Job]) -> None:
        """Give up jobs: those that wait go, those that run end before their next piece of work if all others left."""
        with self._changed:
            for job in jobs:
                job.left.set()
                with suppress(ValueError):
                    self._waiting.remove(job)

    def stop(self, seconds: float) -> None:
        """Take no more jobs, give up those that are left, and wait for the thread to end."""
        with self._changed:
            self._open = False
            left = [*self._waiting, *self._running]
            self._changed.notify_all()
        self.leave(left)
        self._thread.join(seconds)

    def _work(self) -> None:
        while batch := self._take():
            started = time.perf_counter()
            self._answer(batch)
            image_s = (time.perf_counter() - started) / len(batch)
            self._image_s += _MEMORY * (image_s - self._image_s)
            with self._changed:
                self._running = []

    def _take(self) -> list[Job]:
        """Take the job that waited longest and those like it; empty once the queue has closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            if not self._waiting:
                return []
            first = self._waiting[0]
            alike = [job for job in self._waiting if job.question.goes_with(first.question)][: self._images_at_once]
            for job in alike:
                self._waiting.remove(job)
            self._running = alike
            return alike

    def _answer(self, batch: list[Job]) -> None:
        """Answer like questions side by side; one with a picture that cannot be used does not end the others."""

        def report(_: Progress) -> None:
            if all(job.left.is_set() for job in batch):
                raise _AllLeftError

        question = batch[0].question
        try:
            segmenter = self.segmenter.replace(**dict(question.settings)) if question.settings else self.segmenter
            encoded = _encode(batch, segmenter)
            images = [image for _, _, image in encoded]
            segmentations = segmenter.segment_many(
                images,
                question.texts,
                trace=question.trace,
                images_at_once=max(1, len(images)),
                callback=report,
            )
            for (job, picture, _), segmentation in zip(encoded, segmentations, strict=True):
                self._metrics.count(segmentation, images=len(images))
                _settle(job, Answer(segmentation, picture.notes, segmenter))
        except _AllLeftError:
            for job in batch:
                job.future.cancel()
        except Exception as error:  # a mistake in texts or settings, or a bug: it is those waiting who are told
            if not isinstance(error, CarError):
                _log.debug("These questions could not be answered.", exc_info=error)
            for job in batch:
                _settle(job, error)


def _encode(jobs: Sequence[Job], segmenter: Segmenter) -> list[tuple[Job, Picture, EncodedImage]]:
    """Decode and encode the pictures of jobs, together; settle those that fail or for which nobody waits."""
    read = []
    for job in jobs:
        if job.left.is_set():
            job.future.cancel()
            continue
        try:
            read.append((job, read_picture(job.question.picture)))
        except CarError as error:
            _settle(job, error)
    encoded = []
    for (job, picture), image in zip(read, segmenter.encode_each([one.pixels for _, one in read]), strict=True):
        if isinstance(image, InputError):
            _settle(job, image)
        else:
            encoded.append((job, picture, image))
    return encoded


def _settle(job: Job, outcome: Answer | Exception) -> None:
    """Hand over an answer or an error, unless nobody waits for it or it was settled before."""
    if job.future.done() or not job.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
