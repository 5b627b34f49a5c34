"""Evaluate a segmenter on a data set, image by image, and write the report: resumes, shards, saves predictions.

Images and masks are gone before the next ones come; what stays of each is its name and a few numbers.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.evaluated import Evaluated
from clip_as_rnn.evaluation.protocol import (
    EvaluationProtocol,
    Evaluator,
    make_evaluator,
    open_split,
    update_metric,
)
from clip_as_rnn.evaluation.report import Report, Timing, build_report, measure_time, write_report
from clip_as_rnn.evaluation.store import (
    Record,
    RecordStore,
    RunDescription,
    claim_folder,
    describe_run,
    digest_run,
    prediction_path,
    read_json,
    writing_to,
)
from clip_as_rnn.io.atomic import prepare_folder, remove_parts, staging
from clip_as_rnn.io.label_maps import write_label_map
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.video.drawing import davis_palette


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a data set; every image belongs to exactly one."""

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        """Return a name for files."""
        return f"{self.index}-of-{self.count}"

    def holds(self, position: int) -> bool:
        """Tell whether the image at `position` belongs to this shard: every `count`-th does."""
        return position % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """Read `i/n`, with i from 1 to n.

    Raises:
        InputError: it is anything else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match and 1 <= int(match[1]) <= int(match[2]):
        return Shard(int(match[1]), int(match[2]))
    raise InputError(f"Expected a shard as i/n with i from 1 to n, such as 2/4, but got {text!r}.")


@runtime_checkable
class ProgressListener(Protocol):
    """Whoever shows how far a run is."""

    def start(self, title: str, *, total: int, done: int, measure: str) -> None:
        """Take note of what begins: `done` of its `total` images are done already; `measure` names the score."""

    def advance(self, record: Record, headline: float | None) -> None:
        """Take note of one more image, and of the score over all so far."""


class _NoProgress:
    """Shows nothing."""

    def start(self, title: str, *, total: int, done: int, measure: str) -> None:
        """Show nothing."""

    def advance(self, record: Record, headline: float | None) -> None:
        """Show nothing."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How much to run, what to keep and to whom to show it; none of it changes a result.

    Attributes:
        limit: only the first so many images; None: all.
        shard: the part of them to run now.
        save_predictions: write each label map as a PNG.
    """

    limit: int | None = None
    shard: Shard = Shard()
    save_predictions: bool = False
    progress: ProgressListener = field(default_factory=_NoProgress)

    def __post_init__(self) -> None:
        """Check the limit.

        Raises:
            InputError: it is below 1.
        """
        if self.limit is not None and self.limit < 1:
            raise InputError(f"Expected a limit of at least 1 image, but got {self.limit}.")


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave.

    Attributes:
        report: there once every image of every shard is done.
        timing: of all images of the run that are done.
        missing: images that are left to other shards.
        failures: images that could not be evaluated.
        is_written: the report is in the folder; not where one on more images stands there already.
    """

    report: Report | None
    timing: Timing
    missing: int
    failures: int
    is_written: bool = False


def evaluate(protocol: EvaluationProtocol, segmenter: Segmenter, folder: Path, options: RunOptions) -> RunResult:
    """Evaluate a segmenter, or go on with it, and write the report into `folder` when all is done.

    Raises:
        InputError: the data is not where it should be, the settings can be used on no image, or the folder cannot be
            written or holds results that were made otherwise.
    """
    evaluator = make_evaluator(open_split(protocol), segmenter, protocol)
    description = describe_run(protocol.preset, protocol.describe(), segmenter)
    prepare_folder(folder)
    remove_parts(prediction_path(folder, "").parent)
    claim_folder(folder, description)
    names = evaluator.split.names
    store = RecordStore(folder, digest_run(description, names), str(options.shard))
    _evaluate_images(evaluator, store, folder, options)
    return _conclude(evaluator, store.read(), description, folder, names[: options.limit])


def _evaluate_images(evaluator: Evaluator, store: RecordStore, folder: Path, options: RunOptions) -> None:
    """Evaluate every image of the shard that is not done yet; what failed before is tried again."""
    names = evaluator.split.names[: options.limit]
    mine = [position for position in range(len(names)) if options.shard.holds(position)]
    records, metric = store.read(), evaluator.new_metric()
    done = {position for position in mine if _is_done(names[position], records, folder, options)}
    for position in sorted(done):
        update_metric(metric, records[names[position]])
    title = f"{evaluator.split.dataset.title}, {folder.name}"
    options.progress.start(title, total=len(mine), done=len(done), measure=metric.measure)
    for position in (position for position in mine if position not in done):
        evaluated = evaluator.evaluate(position)
        if options.save_predictions:
            _save_predictions(evaluated, folder)
        store.append(evaluated.record)  # last, so that a record means that all is there
        update_metric(metric, evaluated.record)
        options.progress.advance(_with_whole_paths(evaluated), metric.headline())


def _save_predictions(evaluated: Evaluated, folder: Path) -> None:
    """Write the label map of an image, or those of a clip in a folder, which is there only when all of them are."""
    path = prediction_path(folder, evaluated.record.name)
    with writing_to(folder):
        if evaluated.labels is not None:
            write_label_map(path, evaluated.labels)
        if evaluated.frames:
            home, palette = path.with_suffix(""), davis_palette()
            with staging(home.parent, home.name) as stage:
                for name, labels in evaluated.frames.items():
                    write_label_map(stage / home.name / f"{name}.png", labels, palette=palette)
                shutil.rmtree(home, ignore_errors=True)
                (stage / home.name).rename(home)


def _is_done(name: str, records: Mapping[str, Record], folder: Path, options: RunOptions) -> bool:
    path = prediction_path(folder, name)
    has_result = name in records and records[name].result is not None
    return has_result and (not options.save_predictions or path.is_file() or path.with_suffix("").is_dir())


def _with_whole_paths(evaluated: Evaluated) -> Record:
    """Return the record with whole paths in its failure, for whoever is to mend it."""
    return replace(evaluated.record, failure=evaluated.complaint) if evaluated.complaint else evaluated.record


def _conclude(
    evaluator: Evaluator, found: Mapping[str, Record], description: RunDescription, folder: Path, names: Sequence[str]
) -> RunResult:
    """Write the report on the images `names` if all of them are done, unless one on more images stands there."""
    records = [found[name] for name in names if name in found]
    result = RunResult(
        report=None,
        timing=measure_time(records),
        missing=len(names) - len(records),
        failures=sum(record.failure is not None for record in records),
    )
    if result.missing:
        return result
    report = build_report(records, evaluator.split, description, evaluator.new_metric())
    is_written = _count_reported(folder) <= len(records)
    if is_written:
        write_report(report, result.timing, folder)
    return replace(result, report=report, is_written=is_written)


def _count_reported(folder: Path) -> int:
    """Return how many images the folder's report is about; 0 where there is none."""
    try:
        return int(read_json(folder / "report.json")["coverage"]["asked"])
    except (InputError, LookupError, TypeError, ValueError):
        return 0
