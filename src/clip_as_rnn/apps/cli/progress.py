"""Show how far a run is: a bar with the time left and the running score, or plain lines where there is no terminal."""

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from clip_as_rnn.apps.cli.console import in_table
from clip_as_rnn.evaluation.store import Record

_LINE_INTERVAL_S = 30.0  # between lines of a log
_SPEED_PERIOD_S = 3600.0  # the time left is told from the images of the last hour, for one may take minutes


class ProgressBar:
    """Listens to runs and shows them on a terminal; failures are told as they come."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[measure]} {task.fields[score]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=_SPEED_PERIOD_S,
            get_time=clock,
        )
        self._task: TaskID | None = None
        self._title, self._measure, self._total, self._done = "", "", 0, 0
        self._spoken_at = 0.0

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, title: str, *, total: int, done: int, measure: str) -> None:
        """Begin a bar of `total` images, `done` of which are done already; `measure` names the score."""
        self._title, self._measure, self._total, self._done = title, measure, total, done
        self._spoken_at = self._clock()
        self._task = self._bar.add_task(in_table(title), total=total, completed=done, measure=measure, score="-")
        if done:
            self._say(f"{title}: {done} of {total} are done already.")

    def advance(self, record: Record, headline: float | None) -> None:
        """Move on by one image."""
        self._done += 1
        score = "-" if headline is None else f"{100 * headline:.2f}"
        if record.failure is not None:
            self._say(Text.assemble((f"Not evaluated, {record.name}:", "red"), " ", record.failure))
        if self._task is not None:
            self._bar.update(self._task, advance=1, score=score)
        if not self._console.is_terminal and self._clock() - self._spoken_at > _LINE_INTERVAL_S:
            self._spoken_at = self._clock()
            self._say(f"{self._title}: {self._done} of {self._total}, {self._measure} {score}{self._time_left()}")

    def _time_left(self) -> str:
        """Say how long the rest will take; nothing before two images are done."""
        left = None if self._task is None else self._bar.tasks[self._task].time_remaining
        return "" if left is None else f", {timedelta(seconds=int(left))} left"

    def _say(self, message: str | Text) -> None:
        """Print one line as it is, however narrow the console."""
        self._console.print(message, soft_wrap=True, markup=False, highlight=False)
