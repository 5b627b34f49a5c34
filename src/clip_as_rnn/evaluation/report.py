"""The report of a run, as data, as JSON and as a page of Markdown.

It holds no time and no path: equal runs have equal reports. Times are kept in a file of their own.
"""

import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clip_as_rnn.evaluation.clip_tables import render_clips
from clip_as_rnn.evaluation.datasets.registry import Dataset, ReferringDataset, SemanticDataset
from clip_as_rnn.evaluation.metrics.clips import ClipScores, VideoScores
from clip_as_rnn.evaluation.metrics.referring import GresScores, ReferringScores
from clip_as_rnn.evaluation.metrics.semantic import ClassScores, ImageCounts, SemanticScores
from clip_as_rnn.evaluation.protocol import Metric, Split, update_metric
from clip_as_rnn.evaluation.store import Record, RunDescription, writing_to
from clip_as_rnn.evaluation.tables import percent, table
from clip_as_rnn.io.atomic import write_json, write_text

MEASURES: Mapping[str, str] = {
    "with_background": "mIoU with background",
    "without_background_released": "mIoU without background, as released: objects taken for background do not count",
    "without_background_counted": "mIoU without background, as usual: objects taken for background are misses",
    "referring": "mIoU, all sentences together, the authors' masks",
    "jf": "J&F, labels matched to objects (unsupervised), mean over annotators",
    "j": "J, likewise",
    "f": "F, likewise",
}
_ACCURACIES = ("pixel accuracy", "mean accuracy", "frequency-weighted IoU")
_CLASS_COLUMNS = (
    "class",
    "kind",
    "IoU",
    "IoU without background, released",
    "IoU without background, counted",
    "pixels",
    "images with it",
    "kept in those",
    "kept in others",
)
_PRESENCE_COLUMNS = (
    "kept",
    "of these present (precision)",
    "present kept (recall)",
    "absent rejected",
    "present kept",
    "of present",
    "absent kept",
    "of absent",
)


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
    body: SemanticScores | ReferringScores | VideoScores
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]

    @property
    def headline(self) -> Comparison:
        """The number to quote: mIoU as the paper counts on this data set, or of all sentences with its masks."""
        return self.comparisons[0]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run took; `images` counts those with a result, clips by annotators or expressions included."""

    images: int
    seconds_per_image: float | None
    median_seconds_per_image: float | None
    total_seconds: float
    machine: Mapping[str, str]
    seconds_per_frame: float | None = None


def build_report(records: Sequence[Record], split: Split, description: RunDescription, metric: Metric) -> Report:
    """Pool the records of a run, in the order of the data set, with a metric that has counted nothing.

    Raises:
        InputError: a record is not of this data set.
    """
    for record in records:
        update_metric(metric, record)
    failures = tuple(Failure(record.name, record.failure) for record in records if record.failure is not None)
    body = metric.compute()
    name = str(description.protocol["split"])
    coverage = Coverage(
        published=split.dataset.expected.get(name),
        listed=len(split.names),
        asked=len(records),
        evaluated=len(records) - len(failures),
    )
    comparisons = _compare_with_paper(split.dataset, name, body)
    warnings = tuple(_unknown_labels(records))
    return Report(split.dataset.title, description, coverage, comparisons, body, failures, warnings)


def measure_time(records: Iterable[Record]) -> Timing:
    """Sum up the seconds that each image took in the segmenter."""
    done = [record for record in records if record.result is not None]
    seconds = [record.seconds for record in done]
    frames = sum(record.result.frames for record in done if isinstance(record.result, ClipScores))
    return Timing(
        images=len(seconds),
        seconds_per_image=statistics.fmean(seconds) if seconds else None,
        median_seconds_per_image=statistics.median(seconds) if seconds else None,
        total_seconds=sum(seconds),
        machine={"system": platform.platform(), "cpu_count": str(os.cpu_count()), "processor": platform.machine()},
        seconds_per_frame=sum(seconds) / frames if frames else None,
    )


def write_report(report: Report, timing: Timing, folder: Path) -> None:
    """Write `report.json`, `timing.json` and `report.md`.

    Raises:
        InputError: they cannot be written.
    """
    with writing_to(folder):
        write_json(folder / "report.json", asdict(report), indent=2, sync=True)
        write_json(folder / "timing.json", asdict(timing), indent=2, sync=True)
        write_text(folder / "report.md", render_report(report), sync=True)


def _compare_with_paper(
    dataset: Dataset, split: str, body: SemanticScores | ReferringScores | VideoScores
) -> tuple[Comparison, ...]:
    """Put every number of ours beside the paper's, where it has one for this split; the one to quote comes first."""
    if isinstance(body, VideoScores):
        papers = dataset.paper if split == dataset.split else {}
        return tuple(Comparison(name, papers.get(name), getattr(body.rows[0], name)) for name in ("jf", "j", "f"))
    if isinstance(body, ReferringScores):
        paper = dataset.paper.get(split) if isinstance(dataset, ReferringDataset) else None
        return (Comparison("referring", paper, body.rows[0].scores.miou),)
    quoted = dataset.headline if isinstance(dataset, SemanticDataset) else None
    paper_of = dataset.paper if isinstance(dataset, SemanticDataset) and split == dataset.split else {}
    rows = sorted(body.scores, key=lambda row: row.counting != quoted)  # stable
    return tuple(Comparison(row.counting, paper_of.get(row.counting), row.miou) for row in rows)


def _unknown_labels(records: Iterable[Record]) -> Iterator[str]:
    """Warn of label values that name no class, in one sentence."""
    found = [(r.name, r.result) for r in records if isinstance(r.result, ImageCounts) and r.result.unknown_pixels]
    if found:
        pixels = sum(counts.unknown_pixels for _, counts in found)
        name, counts = found[0]
        yield (
            f"{pixels:,} pixels in {len(found):,} images have a value that is no class of the vocabulary and count "
            f"nowhere, first the value {counts.unknown_value} in {name}; are the label images of this data set?"
        )


def render_report(report: Report) -> str:
    """Render a report: scores and the paper's, presence, classes, failures, and all that the run was made with."""
    match report.body:
        case SemanticScores():
            body = _semantic(report.body)
        case VideoScores():
            body = render_clips(report.body)
        case ReferringScores():
            body = _referring(report.body)
    warnings = (f"**Warning:** {warning}" for warning in report.warnings)
    parts = [_head(report), *warnings, _comparison(report), *body, *_failures(report), *_description(report)]
    return "\n\n".join(parts) + "\n"


def _head(report: Report) -> str:
    protocol, coverage = report.run.protocol, report.coverage
    published = "" if coverage.published is None else f"; the published split has {coverage.published}"
    failed = len(report.failures)
    lines = [
        f"# {report.title}, split {protocol['split']}",
        "",
        f"Preset `{report.run.preset}`; evaluated {coverage.evaluated} of {coverage.asked} asked "
        f"({coverage.listed} in the split at hand{published}); {failed} could not be evaluated.",
        "Scores are percentages. Seconds per image are in `timing.json`, for they differ from run to run.",
    ]
    return "\n".join(lines)


def _comparison(report: Report) -> str:
    rows = [(MEASURES[row.measure], percent(row.paper), percent(row.ours)) for row in report.comparisons]
    return "## Beside the paper\n\n" + table(("measure", "paper", "ours"), rows)


def _semantic(body: SemanticScores) -> Iterator[str]:
    scores = [
        (
            MEASURES[row.counting].removeprefix("mIoU "),
            percent(row.miou),
            percent(row.pixel_accuracy),
            percent(row.mean_accuracy),
            percent(row.frequency_weighted_iou),
        )
        for row in body.scores
    ]
    yield "## Scores\n\n" + table(("counting", "mIoU", *_ACCURACIES), scores)
    yield "## Presence of texts, over all images\n\n" + _presence(body)
    yield "## Classes\n\n" + table(_CLASS_COLUMNS, [_class_cells(row) for row in body.classes])


def _presence(body: SemanticScores) -> str:
    """Tell the classifier's decisions from what refinement left of them."""
    rows = [
        (
            title,
            *(percent(presence.precision), percent(presence.recall), percent(presence.absent_rejected)),
            *(str(presence.counts.present_kept), str(presence.counts.present)),
            *(str(presence.counts.absent_kept), str(presence.counts.absent)),
        )
        for title, presence in (
            ("by the classifier", body.presence),
            ("with a pixel left after refinement", body.masked_presence),
        )
    ]
    return table(_PRESENCE_COLUMNS, rows)


def _class_cells(row: ClassScores) -> tuple[str, ...]:
    name = row.name if row.text in ("", row.name) else f"{row.name} (asked: {row.text})"
    presence = row.presence
    seen = (str(presence.present), str(presence.present_kept), str(presence.absent_kept))
    cells = seen if row.label else ("-", "-", "-")
    return (name, row.kind, *(percent(iou) for iou in row.ious.values()), str(row.pixels), *cells)


def _referring(body: ReferringScores) -> Iterator[str]:
    thresholds = [f"P@{precision.threshold}" for precision in body.rows[0].scores.precisions]
    rows = [
        (
            f"{row.asked}; truth: {row.truth}",
            str(row.scores.count),
            percent(row.scores.miou),
            percent(row.scores.oiou),
            *(percent(precision.share) for precision in row.scores.precisions),
        )
        for row in body.rows
    ]
    yield "## Scores\n\n" + table(("asked", "masks", "mIoU", "oIoU", *thresholds), rows)
    if body.gres is not None:
        yield _gres(body.gres)


def _gres(scores: GresScores) -> str:
    rows = [
        ("gIoU", percent(scores.giou)),
        ("cIoU", percent(scores.ciou)),
        ("N-acc (no target, empty mask)", percent(scores.n_accuracy)),
        ("T-acc (a target, some mask)", percent(scores.t_accuracy)),
    ]
    return "## Generalized referring, the usual scores\n\n" + table(("score", "%"), rows)


def _failures(report: Report) -> Iterator[str]:
    if report.failures:
        lines = "\n".join(f"- `{failure.name}`: {failure.reason}" for failure in report.failures)
        yield f"## Not evaluated: {len(report.failures)}\n\n{lines}"


def _description(report: Report) -> Iterator[str]:
    sections = {
        "Protocol": report.run.protocol,
        "Models": report.run.models,
        "Software": report.run.software,
        "Settings": report.run.settings,
    }
    for title, entries in sections.items():
        yield f"## {title}\n\n" + table(("name", "value"), [(name, _value(entry)) for name, entry in entries.items()])


def _value(entry: object) -> str:
    return ", ".join(str(item) for item in entry) if isinstance(entry, list) else str(entry)
