"""Show how far a run over pictures is: a bar with images/s, time left and failures; lines without a terminal."""

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from clip_as_rnn.apps.cli.console import say
from clip_as_rnn.batch.job import Outcome

_LINE_INTERVAL_S = 30.0  # between lines of a log
_SPEED_PERIOD_S = 600.0  # the time left is told from the images of the last minutes


class RunProgress:
    """A bar that vanishes at the end. Pictures that were done before count as done, but not for the speed."""

    def __init__(
        self, *, total: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True)
        self._clock = clock
        self._total, self._done, self._segmented, self._failures = total, 0, 0, 0
        self._began_at = self._spoke_at = clock()
        columns = (
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.description}"),
        )
        self._bar = Progress(
            *columns,
            console=self.console,
            transient=True,
            redirect_stdout=False,
            disable=not self.console.is_terminal,
            speed_estimate_period=_SPEED_PERIOD_S,
            get_time=clock,
        )
        self._task = self._bar.add_task("", total=total, speed="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say_what(self, doing: str) -> None:
        """Name what is being done."""
        self._bar.update(self._task, description=doing)

    def advance(self, outcome: Outcome) -> None:
        """Move on by one picture."""
        now = self._clock()
        if not self._segmented and not outcome.is_segmented:
            self._began_at = now
        self._done += 1
        self._segmented += outcome.is_segmented
        self._failures += outcome.error is not None
        speed = self._speed(now)
        self._bar.update(self._task, advance=1, speed=speed)
        if not self.console.is_terminal and now - self._spoke_at > _LINE_INTERVAL_S:
            self._spoke_at = now
            say(
                f"{self._done} of {self._total} pictures{', ' * bool(speed)}{speed}{self._time_left(now)}", self.console
            )

    def _speed(self, now: float) -> str:
        per_s = self._per_second(now)
        failed = f"{self._failures} failed" if self._failures else ""
        return ", ".join(words for words in (f"{per_s:.2f} images/s" if per_s else "", failed) if words)

    def _time_left(self, now: float) -> str:
        per_s = self._per_second(now)
        return f", {timedelta(seconds=round((self._total - self._done) / per_s))} left" if per_s else ""

    def _per_second(self, now: float) -> float:
        return self._segmented / (now - self._began_at) if now > self._began_at else 0.0
