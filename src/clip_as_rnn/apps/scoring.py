"""What `car evaluate` does: load, run or go on, report. Loads torch, so the command line imports it only for work."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from clip_as_rnn import build
from clip_as_rnn.apps.report import say
from clip_as_rnn.build import ClipView
from clip_as_rnn.config import find_preset, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation import passes
from clip_as_rnn.evaluation.ablation import Ablation, ablate, idle_line
from clip_as_rnn.evaluation.benchmark import Conduct, Outcome, Question, evaluate, open_task
from clip_as_rnn.evaluation.comparison import compare_runs
from clip_as_rnn.evaluation.datasets import Dataset, ReferringDataset
from clip_as_rnn.evaluation.markdown import percent
from clip_as_rnn.evaluation.progress import ProgressBar
from clip_as_rnn.evaluation.report import MEASURES, Report
from clip_as_rnn.evaluation.runner import RunOptions, Shard, parse_shard
from clip_as_rnn.evaluation.tallies import SemanticBody
from clip_as_rnn.evaluation.vocabulary import Wording
from clip_as_rnn.segmenter import Segmenter

_LISTED = 20  # images in a comparison
_CHECKOUT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Loading:
    """What to load: a preset, a device and a precision, and whatever differs from the preset, models included."""

    preset: str
    device: str
    dtype: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asking:
    """How to ask; None for the split or the passes: those of the data set and the preset."""

    split: str | None
    passes: str | None
    which: str
    wording: str


@dataclass(frozen=True, slots=True)
class Extent:
    """How much to run: so many images, of which one shard, with or without their predictions."""

    limit: int | None
    shard: str | None
    save_predictions: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done, as the command line asks for it.

    Attributes:
        root: None: where the data set lies in a checkout.
        parts: what to ablate; none: a plain run.
        compare: the folders of two runs; then nothing is evaluated.
    """

    dataset: Dataset
    root: Path | None
    folder: Path
    loading: Loading
    asking: Asking
    extent: Extent
    parts: tuple[str, ...]
    compare: tuple[Path, Path] | None


def run(job: Job) -> bool:
    """Do the job; tell whether every image could be evaluated.

    Raises:
        InputError: data that is not where it should be, or a choice that does not exist.
        WeightsError: weights that cannot be had.
    """
    console, question = Console(), _question(job)
    if job.compare is not None:
        contrast = compare_runs(question, *job.compare, job.folder, count=job.extent.limit or _LISTED)
        say(f"{contrast.compared} images compared; see {job.folder / 'comparison.md'}", console)
        return True
    shard = parse_shard(job.extent.shard) if job.extent.shard else Shard()
    options = RunOptions(job.extent.limit, shard, job.extent.save_predictions)
    open_task(question)  # data that is missing shows before models are loaded
    segmenter = _load(job)
    with ProgressBar(Console(stderr=True)) as bar:
        conduct = Conduct(job.loading.preset, options, bar)
        if job.parts:
            ablation = ablate(question, segmenter, job.folder, job.parts, conduct)
        else:
            outcome = evaluate(question, segmenter, job.folder, conduct)
    if job.parts:
        return _tell_ablation(ablation, job.folder, console)
    return _tell_outcome(outcome, job.folder, console)


def _load(job: Job) -> Segmenter[ClipView]:
    """Load a segmenter; sentences that refer are asked in referring mode unless the settings say otherwise."""
    mode = {"mode": "referring"} if isinstance(job.dataset, ReferringDataset) else {}
    config = with_settings(find_preset(job.loading.preset), {**mode, **job.loading.settings})
    dtype = _choice("--dtype", job.loading.dtype, build.DType)
    return build.load_segmenter(config, device=job.loading.device, dtype=dtype)


def _question(job: Job) -> Question:
    order = job.asking.passes or ("official" if job.loading.preset.startswith("official-") else "paper")
    return Question(
        dataset=job.dataset,
        root=job.root or _bundled_root(job.dataset),
        split=job.asking.split,
        order=_choice("--passes", order, passes.PassOrder),
        asking=_choice("--ask", job.asking.which, passes.Asking),
        wording=_choice("--texts", job.asking.wording, Wording),
    )


def _bundled_root(dataset: Dataset) -> Path:
    """Return where a data set lies in the checkout that is at hand."""
    if dataset.root is None:
        raise InputError(f"Expected --root, the folder that holds {dataset.title}. {dataset.source}")
    here = Path(dataset.root)
    return here if here.is_dir() else _CHECKOUT / dataset.root


def _tell_outcome(outcome: Outcome, folder: Path, console: Console) -> bool:
    if outcome.report is None:
        say(f"{outcome.missing} images are left to other shards; the report follows when they are done.", console)
        if outcome.failures:
            say(f"{outcome.failures} images could not be evaluated; they are tried again by the next run.", console)
        return not outcome.failures
    console.print(_summary(outcome.report))
    if outcome.timing.seconds_per_image is not None:
        say(f"{outcome.timing.seconds_per_image:.3f} s per image over {outcome.timing.images} images.", console)
    if outcome.failures:
        asked = outcome.report.coverage.asked
        say(
            f"{outcome.failures} of {asked} could not be evaluated and are in no score; the report names them.", console
        )
    say(f"Report: {folder / 'report.md'}", console)
    return not outcome.failures


def _summary(report: Report) -> Table:
    """Lay out the scores beside the paper's, and what was kept and rejected."""
    summary = Table("measure", "paper", "ours", title=f"{report.title}, split {report.run.protocol['split']}")
    for row in report.comparisons:
        summary.add_row(MEASURES[row.measure], percent(row.paper), percent(row.ours))
    if isinstance(report.body, SemanticBody):
        presence = report.body.presence
        summary.add_row("present texts that were kept", "-", percent(presence.recall))
        summary.add_row("absent texts that were rejected", "-", percent(presence.absent_rejected))
        summary.add_row("kept texts that are present", "-", percent(presence.precision))
        return summary
    for asked in report.body.rows[1:]:
        summary.add_row(f"mIoU, {asked.asked}, {asked.truth}", "-", percent(asked.scores.miou))
    return summary


def _tell_ablation(ablation: Ablation, folder: Path, console: Console) -> bool:
    if ablation.idle:
        say(idle_line(ablation.idle), console)
    if not ablation.rows:
        say("Some images are left to other shards; the table follows when they are done.", console)
        return not ablation.failures
    summary = Table("part", "variant", "mIoU", "to base", "kept", "rejected", title=ablation.measure)
    for row in ablation.rows:
        numbers = (row.miou, row.difference, row.recall, row.absent_rejected)
        summary.add_row(row.part, row.variant, *(percent(number) for number in numbers))
    console.print(summary)
    say(f"Table: {folder / 'ablation.md'}", console)
    return not ablation.failures


def _choice(name: str, value: str, choices: Any) -> Any:
    """Return a value that is one of a Literal's.

    Raises:
        InputError: it is not.
    """
    if value not in get_args(choices):
        raise InputError(f"Expected {name} to be one of {', '.join(get_args(choices))}, but got {value!r}.")
    return value
