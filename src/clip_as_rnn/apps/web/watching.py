"""One run at a time on the loaded models: progress in plain words while it works, and a way to stop it.

Knows the order of the stages; knows nothing of the page. The segmenter itself is untouched: its stages are wrapped.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Generic, TypeVar

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.result import Proposal
from clip_as_rnn.segmenter import Question, Segmenter, Stages, View
from clip_as_rnn.types import Masks, PatchMaps, RgbImage, Scores

Outcome = TypeVar("Outcome")


class StoppedError(Exception):
    """The run was told to stop; nobody waits for its result."""


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """What a run is handed: whom to tell of its progress, and whether to go on."""

    tell: Callable[[str], None]
    stop: Event = field(default_factory=Event)

    def enter(self, stage: str) -> None:
        """Say which stage begins.

        Raises:
            StoppedError: the run shall end here.
        """
        if self.stop.is_set():
            raise StoppedError
        self.tell(stage)


@dataclass(frozen=True, slots=True, eq=False)
class WatchedStages(Generic[View]):
    """The stages of a segmenter, each of which reports before it begins."""

    stages: Stages[View]
    watch: Watch
    most_steps: int
    refinement: str

    def check(self, texts: Sequence[str]) -> None:
        """Pass on."""
        self.stages.check(texts)

    def look(self, image: RgbImage, texts: Sequence[str]) -> View:
        """Report, and pass on."""
        self.watch.enter("Encoding the picture and the texts")
        return self.stages.look(image, texts)

    def propose(self, view: View, texts: Sequence[str], step: int) -> Proposal:
        """Report, and pass on."""
        self.watch.enter(f"Step {step + 1} of at most {self.most_steps}: proposing {_count(texts, 'mask')}")
        return self.stages.propose(view, texts, step)

    def classify(self, questions: Sequence[Question[View]]) -> list[Scores]:
        """Report, and pass on."""
        texts = [text for question in questions for text in question.texts]
        self.watch.enter(f"Judging {_count(texts, 'mask')}")
        return self.stages.classify(questions)

    def finish(self, view: View, maps: PatchMaps) -> Masks:
        """Report, and pass on."""
        self.watch.enter(self.refinement)
        return self.stages.finish(view, maps)

    def describe(self) -> Mapping[str, str]:
        """Pass on."""
        return self.stages.describe()


def watched(segmenter: Segmenter[View], watch: Watch, texts: Sequence[str]) -> Segmenter[View]:
    """Make a segmenter on the same models and settings that reports to `watch` and stops when it says so."""
    config = segmenter.config
    refinement = "Refining the edges (CRF)" if config.refine.crf else "Finishing the masks"
    return Segmenter(WatchedStages(segmenter.stages, watch, most_steps(texts, config), refinement), config)


def most_steps(texts: Sequence[str], config: SegmenterConfig) -> int:
    """Bound the number of steps: each but the last drops a text, unless the first is repeated."""
    bound = len(texts) + config.recurrence.repeat_first_step
    return bound if config.recurrence.max_steps is None else min(bound, max(1, config.recurrence.max_steps))


class Workers:
    """A fixed number of threads that outlive every run: more would each hold memory, and not be faster."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="segmenting")
        self._watches: dict[str, Watch] = {}

    def stop(self, session: str) -> None:
        """Stop a visitor's run before its next stage, if there is one."""
        if session in self._watches:
            self._watches[session].stop.set()

    async def run(self, session: str, work: Callable[[Watch], Outcome]) -> AsyncGenerator[str | Outcome, None]:
        """Yield the stages as they begin, then the outcome; what `work` raises is raised here.

        When the caller stops listening, the run stops before its next stage.
        """
        loop = asyncio.get_running_loop()
        stages: asyncio.Queue[str | None] = asyncio.Queue()
        watch = Watch(lambda stage: _from_thread(loop, stages, stage))
        self._watches[session] = watch
        future = self._threads.submit(work, watch)
        future.add_done_callback(lambda _: _from_thread(loop, stages, None))
        try:
            while (stage := await stages.get()) is not None:
                yield stage
            yield future.result()
        finally:
            watch.stop.set()
            if self._watches.get(session) is watch:
                del self._watches[session]
            future.cancel()
            future.add_done_callback(_forget)


def _from_thread(loop: asyncio.AbstractEventLoop, stages: "asyncio.Queue[str | None]", stage: str | None) -> None:
    if not loop.is_closed():  # the server has ended, nobody listens
        loop.call_soon_threadsafe(stages.put_nowait, stage)


def _forget(future: "Future[Outcome]") -> None:
    """Take notice of an error that nobody waits for any more."""
    if not future.cancelled():
        future.exception()


def _count(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"
