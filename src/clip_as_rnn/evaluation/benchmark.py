"""Evaluate one segmenter on one data set, from the files to the report."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clip_as_rnn.evaluation.datasets import Dataset, SemanticDataset
from clip_as_rnn.evaluation.description import Choices, claim_folder, describe_run
from clip_as_rnn.evaluation.labelled import list_images, read_vocabulary
from clip_as_rnn.evaluation.markdown import render_report
from clip_as_rnn.evaluation.passes import Asking, PassOrder
from clip_as_rnn.evaluation.records import write_atomically
from clip_as_rnn.evaluation.references import list_references
from clip_as_rnn.evaluation.report import Report, Timing, build_report, measure_time, write_report_json
from clip_as_rnn.evaluation.runner import RunOptions, Watcher, go_through, open_run
from clip_as_rnn.evaluation.segmenting import Segmenting
from clip_as_rnn.evaluation.tallies import ReferringTally, SemanticTally, Tally
from clip_as_rnn.evaluation.tasks import ReferringTask, SemanticTask
from clip_as_rnn.evaluation.vocabulary import Wording


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be evaluated on.

    Attributes:
        split: None: the one that the paper reports.
        order: how things and stuff are asked for.
        asking: which texts are asked on an image, and whether together.
        wording: which texts the classes are asked for with.
    """

    dataset: Dataset
    root: Path
    split: str | None = None
    order: PassOrder = "paper"
    asking: Asking = "all"
    wording: Wording = "paper"

    @property
    def split_name(self) -> str:
        """The split in force."""
        return self.split or self.dataset.split


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a run is carried out: the preset's name for the report, how much to run, and who watches."""

    preset: str
    options: RunOptions
    watcher: Watcher


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave.

    Attributes:
        report: there once every image of every shard is done.
        missing: images that are left to other shards.
        failures: images that could not be evaluated.
    """

    report: Report | None
    timing: Timing
    missing: int
    failures: int


def open_task(question: Question) -> SemanticTask | ReferringTask:
    """List what is to be evaluated.

    Raises:
        InputError: the data is not where it should be; the message says where that is and where it comes from.
    """
    dataset, root, split = question.dataset, question.root, question.split_name
    if isinstance(dataset, SemanticDataset):
        items = list_images(dataset, root, split)
        vocabulary = read_vocabulary(dataset, root, split).worded(question.wording)
        return SemanticTask(dataset, root, vocabulary, items, question.order, question.asking)
    return ReferringTask(dataset, root, list_references(dataset, root, split))


def evaluate(question: Question, segmenter: Segmenting, folder: Path, conduct: Conduct) -> Outcome:
    """Evaluate a segmenter, or go on with it, and write the report into `folder` when all is done.

    Raises:
        InputError: the data is not where it should be, the settings can be asked with on no image, or the folder holds
            results that were made otherwise.
    """
    task = open_task(question)
    evaluate_one = task.evaluator(segmenter)
    description = describe_run(conduct.preset, _choices(question), segmenter)
    claim_folder(folder, description)
    title = f"{question.dataset.title}, {folder.name}"
    reopen = partial(open_run, title, task, description, folder, conduct.options)
    go_through(reopen(), evaluate_one, empty_tally(task), conduct.watcher)
    run = reopen()  # anew: other shards may have written meanwhile
    timing = measure_time(run)
    missing = sum(not run.store.has_record(name) for name in run.names)
    failures = sum(not run.store.has_result(name) for name in run.names) - missing
    if missing:
        return Outcome(None, timing, missing, failures)
    report = build_report(run, task, description, empty_tally(task))
    write_report_json(report, timing, folder)
    write_atomically(folder / "report.md", render_report(report).encode())
    return Outcome(report, timing, missing, failures)


def empty_tally(task: SemanticTask | ReferringTask) -> Tally:
    """Return a tally that fits the task and has counted nothing."""
    if isinstance(task, SemanticTask):
        return SemanticTally(task.dataset, task.vocabulary, absent_asked=task.asking != "present")
    return ReferringTally(generalized=task.dataset.generalized)


def _choices(question: Question) -> Choices:
    """Describe the choices that matter for the kind of data set."""
    is_semantic = isinstance(question.dataset, SemanticDataset)
    return Choices(
        dataset=question.dataset.name,
        split=question.split_name,
        passes=question.order if is_semantic else None,
        asked=question.asking if is_semantic else None,
        texts=question.wording if is_semantic else None,
    )
