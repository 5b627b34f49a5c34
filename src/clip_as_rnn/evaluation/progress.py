"""Show how far a run is: a bar with the time left and the running mIoU, or plain lines where there is no terminal."""

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from clip_as_rnn.evaluation.records import Record

_LINE_INTERVAL_S = 30.0  # between lines of a log


class ProgressBar:
    """A watcher of runs on a terminal; failures are told as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("mIoU {task.fields[score]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title, self._total, self._done = "", 0, 0
        self._spoken_at = 0.0

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, title: str, *, total: int, done: int) -> None:
        """Begin a bar of `total` images, `done` of which are done already."""
        self._title, self._total, self._done = title, total, done
        self._spoken_at = time.monotonic()
        self._task = self._bar.add_task(escape(title), total=total, completed=done, score="-")
        if done:
            self._console.print(f"{escape(title)}: {done} of {total} are done already.")

    def advance(self, record: Record, headline: float | None) -> None:
        """Move on by one image."""
        self._done += 1
        score = "-" if headline is None else f"{100 * headline:.2f}"
        if record.failure is not None:
            self._console.print(f"[red]Not evaluated:[/red] {escape(record.failure)}")
        if self._task is not None:
            self._bar.update(self._task, advance=1, score=score)
        if not self._console.is_terminal and time.monotonic() - self._spoken_at > _LINE_INTERVAL_S:
            self._spoken_at = time.monotonic()
            self._console.print(f"{escape(self._title)}: {self._done} of {self._total}, mIoU {score}")
