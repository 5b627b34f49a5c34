"""The report of a run, as data and as JSON. It holds no time and no path: equal runs have equal reports.

Times are kept in a file of their own, for they differ from run to run.
"""

import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from clip_as_rnn.evaluation.datasets import Dataset, ReferringDataset, SemanticDataset
from clip_as_rnn.evaluation.description import RunDescription
from clip_as_rnn.evaluation.records import Record, write_json
from clip_as_rnn.evaluation.runner import Run
from clip_as_rnn.evaluation.tallies import ReferringBody, SemanticBody, Tally
from clip_as_rnn.evaluation.tasks import ReferringTask, SemanticTask

MEASURES: Mapping[str, str] = {
    "with_background": "mIoU with background",
    "without_background_released": "mIoU without background, as released: objects taken for background do not count",
    "without_background_counted": "mIoU without background, as usual: objects taken for background are misses",
    "referring": "mIoU, all sentences together, the authors' masks",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be evaluated, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A number of the paper beside ours, both as shares of 1; None where there is none."""

    measure: str
    paper: float | None
    ours: float | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the data set was evaluated.

    Attributes:
        published: images (or references) in the published split; None where that is not known.
        listed: those found in the split at hand.
        asked: those the run is about, after a limit.
        evaluated: those that gave a result; failures are the rest.
    """

    published: int | None
    listed: int
    asked: int
    evaluated: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run found out, but for how long it took; the first comparison is of the number to quote."""

    title: str
    run: RunDescription
    coverage: Coverage
    comparisons: tuple[Comparison, ...]
    body: SemanticBody | ReferringBody
    failures: tuple[Failure, ...]

    @property
    def headline(self) -> Comparison:
        """The number to quote: mIoU as the paper counts on this data set, or of all sentences with its masks."""
        return self.comparisons[0]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run took; `images` counts those with a result."""

    images: int
    seconds_per_image: float | None
    median_seconds_per_image: float | None
    total_seconds: float
    machine: Mapping[str, str]


def build_report(run: Run, task: SemanticTask | ReferringTask, description: RunDescription, tally: Tally) -> Report:
    """Pool every record of a run with an empty tally."""
    failures: list[Failure] = []
    for record in run.records():
        tally.add(record)
        if record.failure is not None:
            failures.append(Failure(record.name, record.failure))
    body = tally.body()
    split = str(description.protocol["split"])
    coverage = Coverage(
        published=task.dataset.expected.get(split),
        listed=len(task.names),
        asked=len(run.names),
        evaluated=len(run.names) - len(failures),
    )
    comparisons = _compare_with_paper(task.dataset, split, body)
    return Report(task.dataset.title, description, coverage, comparisons, body, tuple(failures))


def measure_time(run: Run) -> Timing:
    """Sum up the seconds that each image took in the segmenter."""
    seconds = [record.seconds for record in run.records() if _has_result(record)]
    return Timing(
        images=len(seconds),
        seconds_per_image=statistics.fmean(seconds) if seconds else None,
        median_seconds_per_image=statistics.median(seconds) if seconds else None,
        total_seconds=sum(seconds),
        machine={"system": platform.platform(), "cpu_count": str(os.cpu_count()), "processor": platform.machine()},
    )


def write_report_json(report: Report, timing: Timing, folder: Path) -> None:
    """Write `report.json` and `timing.json`."""
    write_json(folder / "report.json", asdict(report))
    write_json(folder / "timing.json", asdict(timing))


def _compare_with_paper(dataset: Dataset, split: str, body: SemanticBody | ReferringBody) -> tuple[Comparison, ...]:
    """Put every number of ours beside the paper's, where it has one for this split; the one to quote comes first."""
    if isinstance(body, ReferringBody):
        paper = dataset.paper.get(split) if isinstance(dataset, ReferringDataset) else None
        return (Comparison("referring", paper, body.rows[0].scores.miou),)
    quoted = dataset.headline if isinstance(dataset, SemanticDataset) else None
    paper_of = dataset.paper if isinstance(dataset, SemanticDataset) and split == dataset.split else {}
    rows = sorted(body.scores, key=lambda row: row.counting != quoted)  # stable
    return tuple(Comparison(row.counting, paper_of.get(row.counting), row.miou) for row in rows)


def _has_result(record: Record) -> bool:
    return record.result is not None
