"""What every endpoint does with a request: read its body, check what it asks, wait for the answer, notice who left."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import HTTPException, Request

from clip_as_rnn.apps.pictures import TooManyPixelsError, check_claimed_size
from clip_as_rnn.apps.server.fetch import Fetcher
from clip_as_rnn.apps.server.jobs import Answer, BusyError, JobQueue, Question
from clip_as_rnn.apps.server.limits import Limits
from clip_as_rnn.apps.server.metrics import Metrics
from clip_as_rnn.apps.server.schema import Settings
from clip_as_rnn.config import with_settings
from clip_as_rnn.errors import CarError, InputError
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.segmenter import Segmenter

Result = TypeVar("Result")

_LEFT = 499  # what logs give to a client that left; nobody receives it
_THREADS = 2  # that render answers; each may hold a large picture's masks
_FETCHES = 8  # at a time
_STOP_S = 10.0
_SHOWN_CHARACTERS = 300


class Service:
    """The segmenter with its queue, its limits and its counters.

    Args:
        segmenter: what answers.
        preset: the name its settings came from, for the record.
        limits: what clients may ask.
        texts: what is looked for where a request names nothing.
        image_hosts: hosts from which images may be fetched by URL.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        preset: str,
        limits: Limits,
        texts: Sequence[str] = (),
        image_hosts: Sequence[str] = (),
    ) -> None:
        self.preset = preset
        self.limits = limits
        self.metrics = Metrics()
        self._texts = tuple(texts)
        self._fetcher = Fetcher(hosts=image_hosts, most_bytes=limits.picture_bytes, seconds=limits.body_seconds)
        self._queue = JobQueue(
            segmenter, waiting=limits.waiting, images_at_once=limits.images_at_once, metrics=self.metrics
        )
        self.metrics.watch_queue(lambda: len(self._queue))
        self._bodies = 0
        self._renderers = anyio.CapacityLimiter(_THREADS)
        self._fetchers = anyio.CapacityLimiter(_FETCHES)

    @property
    def segmenter(self) -> Segmenter:
        """What answers, with the server's settings."""
        return self._queue.segmenter

    def stop(self) -> None:
        """Give up all questions, and end the thread that answers."""
        self._queue.stop(_STOP_S)

    def check_room(self) -> None:
        """Raise HTTPException, 503, if the next question would be refused."""
        try:
            self._queue.check_room()
        except BusyError as error:
            raise _busy(error) from error

    async def read_body(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            HTTPException: no room for it (503), too slow (408) or too large (413).
        """
        self.check_room()
        if self._bodies >= self.limits.bodies:
            raise _busy(BusyError(1))
        self._bodies += 1
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                return await request.body()
        except TimeoutError as error:
            raise HTTPException(408, f"The request took more than {self.limits.body_seconds:g} s to arrive.") from error
        finally:
            self._bodies -= 1

    async def picture(self, written: str) -> bytes:
        """Return a picture's file from base64, a data URL, or the URL of an allowed host.

        Raises:
            HTTPException: it is none of these.
        """
        start = written[:10].lower()
        if start.startswith(("http:", "https:")):
            try:
                return await anyio.to_thread.run_sync(self._fetcher.fetch, written, limiter=self._fetchers)
            except InputError as error:
                raise HTTPException(422, str(error)[:_SHOWN_CHARACTERS]) from error
        encoded = written.partition(",")[2] if start.startswith("data:") else written
        try:
            return base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise HTTPException(422, "Expected an image in base64, but this is not base64.") from error

    def question(
        self, picture: bytes, texts: Sequence[str] | None, settings: Settings, *, trace: bool = False
    ) -> Question:
        """Check what is asked, as far as no model is needed.

        Raises:
            HTTPException: the picture is too large (413), or something cannot be used (422).
        """
        if len(picture) > self.limits.picture_bytes:
            raise HTTPException(413, f"Expected a picture of at most {self.limits.picture_bytes} bytes.")
        changes = settings.model_dump(exclude_none=True)
        try:
            if not picture:
                raise InputError("Expected an image, but got nothing.")
            self._check_amount((*(texts or ()), *changes.get("contrast_texts", ())))
            asked = check_texts(self._texts if texts is None else texts)
            check_claimed_size(picture, self.limits.picture_pixels)
            if changes:
                with_settings(self.segmenter.config, changes)
        except TooManyPixelsError as error:
            raise HTTPException(413, str(error)) from error
        except InputError as error:
            raise HTTPException(422, str(error)[:_SHOWN_CHARACTERS]) from error
        return Question(picture=picture, texts=asked, settings=tuple(sorted(changes.items())), trace=trace)

    def _check_amount(self, texts: Sequence[str]) -> None:
        most, longest = self.limits.texts, self.limits.text_characters
        if len(texts) > most:
            raise InputError(f"Expected at most {most} texts, but got {len(texts)}.")
        for text in texts:
            if len(text) > longest:
                raise InputError(f"Expected texts of at most {longest} characters, but {text[:30]!r}... is longer.")

    async def ask(self, request: Request, questions: Sequence[Question]) -> list[Answer]:
        """Wait for the answers; give the questions up when the client leaves or when it takes too long.

        Raises:
            HTTPException: no room (503), too slow (504), or something cannot be used (422).
        """
        try:
            jobs = self._queue.submit(questions)
        except BusyError as error:
            raise _busy(error) from error
        answers = asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
        answers.add_done_callback(_look)
        gone = asyncio.ensure_future(_leaving(request))
        try:
            await asyncio.wait((answers, gone), timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return list(answers.result())
            if gone.done():
                raise HTTPException(_LEFT, "The client left.")
            raise HTTPException(504, f"The answer takes more than {self.limits.seconds:g} s; ask for less at once.")
        except CarError as error:
            raise HTTPException(422, str(error)[:_SHOWN_CHARACTERS]) from error
        except asyncio.CancelledError as error:
            if not answers.cancelled():
                raise
            raise HTTPException(503, "The server is ending.", {"Retry-After": "10"}) from error
        finally:
            gone.cancel()
            answers.cancel()
            self._queue.leave(jobs)

    async def render(self, make: Callable[..., Result], *arguments: Any) -> Result:
        """Make a response's content in a thread, few at a time."""
        return await anyio.to_thread.run_sync(make, *arguments, limiter=self._renderers)


def _look(answers: "asyncio.Future[list[Answer]]") -> None:
    """Take note of how it ended, where nobody waits any more; asyncio would complain of it."""
    if not answers.cancelled():
        answers.exception()


async def _leaving(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _busy(error: BusyError) -> HTTPException:
    return HTTPException(503, str(error), {"Retry-After": str(error.retry_after_s)})
