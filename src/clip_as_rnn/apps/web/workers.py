"""Work in threads of its own: it reports in words what it does next, and can be stopped between two pieces of it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import TypeVar

Result = TypeVar("Result")


class StoppedError(Exception):
    """The job was told to stop; nobody waits for its result."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What work is handed: where to report its progress, and whether to go on."""

    send: Callable[[str], None]
    stop: Event = field(default_factory=Event)

    def report(self, message: str) -> None:
        """Say what comes next.

        Raises:
            StoppedError: the job shall end here.
        """
        if self.stop.is_set():
            raise StoppedError
        self.send(message)


class Workers:
    """A fixed number of threads that outlive every job: more would each hold memory, and not be faster."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="segmenting")
        self._jobs: dict[str, Job] = {}

    def stop(self, session: str) -> None:
        """Stop a visitor's job before its next piece of work, if there is one."""
        if session in self._jobs:
            self._jobs[session].stop.set()

    async def run(self, session: str, work: Callable[[Job], Result]) -> AsyncGenerator[str | Result, None]:
        """Yield each message that differs from the one before it, then the result; what `work` raises is raised here.

        When the caller stops listening, the job stops before its next piece of work.
        """
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[str | None] = asyncio.Queue()
        job = Job(lambda message: _from_thread(loop, messages, message))
        self._jobs[session] = job
        future = self._threads.submit(work, job)
        future.add_done_callback(lambda _: _from_thread(loop, messages, None))
        try:
            shown = None
            while (message := await messages.get()) is not None:
                if message != shown:
                    yield message
                shown = message
            yield future.result()
        finally:
            job.stop.set()
            if self._jobs.get(session) is job:
                del self._jobs[session]
            future.cancel()
            future.add_done_callback(_forget)


def _from_thread(loop: asyncio.AbstractEventLoop, messages: "asyncio.Queue[str | None]", message: str | None) -> None:
    if not loop.is_closed():  # the server has ended, nobody listens
        loop.call_soon_threadsafe(messages.put_nowait, message)


def _forget(future: "Future[Result]") -> None:
    """Take notice of an error that nobody waits for any more."""
    if not future.cancelled():
        future.exception()
