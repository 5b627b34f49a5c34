"""What `car evaluate` does: load, run or go on, report. Loads torch, so the command line imports it only for work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import clip_as_rnn.loading
from clip_as_rnn.apps.cli.console import say
from clip_as_rnn.apps.cli.parsing import choose
from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.ablation import Ablation, ablate, idle_line, plan_variants
from clip_as_rnn.evaluation.benchmark import Conduct, Outcome, Question, evaluate, open_task
from clip_as_rnn.evaluation.comparison import compare_runs
from clip_as_rnn.evaluation.datasets import Dataset, ReferringDataset
from clip_as_rnn.evaluation.markdown import percent
from clip_as_rnn.evaluation.progress import ProgressBar
from clip_as_rnn.evaluation.report import MEASURES, Report
from clip_as_rnn.evaluation.runner import RunOptions
from clip_as_rnn.evaluation.tallies import SemanticBody
from clip_as_rnn.loading import ClipView, DType
from clip_as_rnn.presets import find_preset
from clip_as_rnn.segmenter import Segmenter

_LISTED = 20  # images in a comparison


@dataclass(frozen=True, slots=True)
class Loading:
    """What to load: a preset, a device and a precision, and whatever differs from the preset, models included."""

    preset: str
    device: str
    dtype: str
    settings: Mapping[str, Any]


def run(question: Question, loading: Loading, options: RunOptions, folder: Path) -> bool:
    """Evaluate and tell the scores; return whether every image could be evaluated.

    Raises:
        InputError: data that is not where it should be, or a setting that cannot be.
        WeightsError: weights that cannot be had.
    """
    open_task(question)  # data that is missing shows before models are loaded
    segmenter = _load(loading, _config(question, loading))
    with ProgressBar(Console(stderr=True)) as bar:
        outcome = evaluate(question, segmenter, folder, Conduct(loading.preset, options, bar))
    return _tell_outcome(outcome, folder, Console())


def run_ablation(question: Question, loading: Loading, options: RunOptions, folder: Path, parts: Sequence[str]) -> bool:
    """Change one part at a time and tell the table; return whether every image could be evaluated.

    Raises:
        InputError: an unknown part, data that is not where it should be, or a setting that cannot be.
        WeightsError: weights that cannot be had.
    """
    config = _config(question, loading)
    plan_variants(config, parts)  # as with the data, before models are loaded
    open_task(question)
    segmenter = _load(loading, config)
    with ProgressBar(Console(stderr=True)) as bar:
        conduct = Conduct(loading.preset, options, bar)
        ablation = ablate(question, segmenter, folder, parts, conduct, partial(_reload, loading, config))
    return _tell_ablation(ablation, folder, Console())


def show_comparison(question: Question, runs: tuple[Path, Path], folder: Path, *, limit: int | None) -> None:
    """Compare two runs and tell where the comparison is; no model is loaded.

    Raises:
        InputError: a folder holds no run, or one on other data.
    """
    contrast = compare_runs(question, *runs, folder, count=limit or _LISTED)
    say(f"{contrast.compared} images compared; see {folder / 'comparison.md'}", Console())


def default_root(dataset: Dataset) -> Path:
    """Return where a data set of the repository's own lies, below the current folder.

    Raises:
        InputError: it is not there, or is none of the repository's own.
    """
    if dataset.root is None:
        raise InputError(f"Expected --root, the folder that holds {dataset.title}. {dataset.source}")
    if not Path(dataset.root).is_dir():
        raise InputError(
            f"There is no folder {dataset.root} here, expected to hold {dataset.title}; give it with --root. "
            f"{dataset.source}"
        )
    return Path(dataset.root)


def _config(question: Question, loading: Loading) -> SegmenterConfig:
    """Return the settings; sentences that refer are asked in referring mode unless the settings say otherwise."""
    mode = {"mode": "referring"} if isinstance(question.dataset, ReferringDataset) else {}
    return with_settings(find_preset(loading.preset), {**mode, **loading.settings})


def _load(loading: Loading, config: SegmenterConfig) -> Segmenter[ClipView]:
    dtype = choose("--dtype", loading.dtype, DType)
    return clip_as_rnn.loading.load_segmenter(config, device=loading.device, dtype=dtype)


def _reload(loading: Loading, config: SegmenterConfig, dtype: str) -> Segmenter[ClipView]:
    return _load(replace(loading, dtype=dtype), config)


def _tell_outcome(outcome: Outcome, folder: Path, console: Console) -> bool:
    if outcome.report is None:
        say(f"{outcome.missing} images are left to other shards; the report follows when they are done.", console)
        if outcome.failures:
            say(f"{outcome.failures} images could not be evaluated; they are tried again by the next run.", console)
        return not outcome.failures
    console.print(_summary(outcome.report))
    timing = outcome.timing
    if timing.seconds_per_image is not None and timing.median_seconds_per_image is not None:
        mean, median = f"{timing.seconds_per_image:.3f}", f"{timing.median_seconds_per_image:.3f}"
        say(f"{mean} s per image (median {median}) over {timing.images} images.", console)
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
