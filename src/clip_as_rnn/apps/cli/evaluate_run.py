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
from clip_as_rnn.apps.cli.progress import ProgressBar
from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.ablation import Ablation, ablate, idle_line
from clip_as_rnn.evaluation.ablation_variants import plan_variants
from clip_as_rnn.evaluation.compare import compare_runs
from clip_as_rnn.evaluation.datasets.registry import Dataset, ReferringDataset
from clip_as_rnn.evaluation.metrics.clips import VideoScores
from clip_as_rnn.evaluation.metrics.semantic import SemanticScores
from clip_as_rnn.evaluation.protocol import EvaluationProtocol, open_split
from clip_as_rnn.evaluation.report import MEASURES, Report
from clip_as_rnn.evaluation.runner import RunOptions, RunResult, evaluate
from clip_as_rnn.evaluation.tables import percent
from clip_as_rnn.io.atomic import prepare_folder
from clip_as_rnn.loading import DType
from clip_as_rnn.presets import find_preset
from clip_as_rnn.segmenter import Segmenter

_LETTERS = {"jf": "J&F", "j": "J", "f": "F"}
_LISTED = 20  # images in a comparison


@dataclass(frozen=True, slots=True)
class Loading:
    """What to load: a preset, a device and a precision, and whatever differs from the preset, models included."""

    preset: str
    device: str
    dtype: str
    settings: Mapping[str, Any]


def run(protocol: EvaluationProtocol, loading: Loading, options: RunOptions, folder: Path) -> bool:
    """Evaluate and tell the scores; return whether every image could be evaluated.

    Raises:
        InputError: data that is not where it should be, or a setting that cannot be.
        WeightsError: weights that cannot be had.
    """
    open_split(protocol)  # data that is missing, and a folder that cannot be written, show before models are loaded
    prepare_folder(folder)
    segmenter = _load(loading, _config(protocol, loading))
    with ProgressBar(Console(stderr=True)) as bar:
        result = evaluate(protocol, segmenter, folder, replace(options, progress=bar))
    return _tell_result(result, folder, Console())


def run_ablation(
    protocol: EvaluationProtocol, loading: Loading, options: RunOptions, folder: Path, parts: Sequence[str]
) -> bool:
    """Change one part at a time and tell the table; return whether every image could be evaluated.

    Raises:
        InputError: an unknown part, data that is not where it should be, or a setting that cannot be.
        WeightsError: weights that cannot be had.
    """
    config = _config(protocol, loading)
    plan_variants(config, parts)  # as in `run`, before models are loaded
    open_split(protocol)
    prepare_folder(folder)
    segmenter = _load(loading, config)
    with ProgressBar(Console(stderr=True)) as bar:
        shown = replace(options, progress=bar)
        ablation = ablate(protocol, segmenter, folder, parts, shown, partial(_reload, loading, config))
    return _tell_ablation(ablation, folder, Console())


def show_comparison(protocol: EvaluationProtocol, runs: tuple[Path, Path], folder: Path, *, limit: int | None) -> None:
    """Compare two runs and tell where the comparison is; no model is loaded.

    Raises:
        InputError: a folder holds no run, or one on other data.
    """
    comparison = compare_runs(protocol, *runs, folder, count=limit or _LISTED)
    say(f"{comparison.compared} images compared; see {folder / 'comparison.md'}", Console())


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


def _config(protocol: EvaluationProtocol, loading: Loading) -> SegmenterConfig:
    """Return the settings; sentences that refer are asked in referring mode unless the settings say otherwise."""
    mode = {"mode": "referring"} if isinstance(protocol.dataset, ReferringDataset) else {}
    return with_settings(find_preset(loading.preset), {**mode, **loading.settings})


def _load(loading: Loading, config: SegmenterConfig) -> Segmenter:
    dtype = choose("--dtype", loading.dtype, DType)
    return clip_as_rnn.loading.load_segmenter(config, device=loading.device, dtype=dtype)


def _reload(loading: Loading, config: SegmenterConfig, dtype: str) -> Segmenter:
    return _load(replace(loading, dtype=dtype), config)


def _tell_result(result: RunResult, folder: Path, console: Console) -> bool:
    if result.report is None:
        say(f"{result.missing} images are left to other shards; the report follows when they are done.", console)
        if result.failures:
            say(f"{result.failures} images could not be evaluated; they are tried again by the next run.", console)
        return not result.failures
    console.print(_summary(result.report))
    timing = result.timing
    if timing.seconds_per_image is not None and timing.median_seconds_per_image is not None:
        mean, median = f"{timing.seconds_per_image:.3f}", f"{timing.median_seconds_per_image:.3f}"
        if timing.seconds_per_frame is not None:
            say(f"{timing.seconds_per_frame:.3f} s per frame over {timing.images} samples.", console)
        else:
            say(f"{mean} s per image (median {median}) over {timing.images} images.", console)
    if result.failures:
        asked = result.report.coverage.asked
        say(f"{result.failures} of {asked} could not be evaluated and are in no score; the report names them.", console)
    for warning in result.report.warnings:
        say(f"Warning: {warning}", console)
    if result.is_written:
        say(f"Report: {folder / 'report.md'}", console)
    else:
        say(f"The report in {folder} is about more images and stays as it is.", console)
    return not result.failures


def _summary(report: Report) -> Table:
    """Lay out the scores beside the paper's, and what was kept and rejected."""
    summary = Table("measure", "paper", "ours", title=f"{report.title}, split {report.run.protocol['split']}")
    for row in report.comparisons:
        summary.add_row(MEASURES[row.measure], percent(row.paper), percent(row.ours))
    if isinstance(report.body, SemanticScores):
        presence = report.body.presence
        summary.add_row("present texts that were kept", "-", percent(presence.recall))
        summary.add_row("absent texts that were rejected", "-", percent(presence.absent_rejected))
        summary.add_row("kept texts that are present", "-", percent(presence.precision))
        return summary
    if isinstance(report.body, VideoScores):
        _add_clips(summary, report.body)
        return summary
    for asked in report.body.rows[1:]:
        summary.add_row(f"mIoU, {asked.asked}, {asked.truth}", "-", percent(asked.scores.miou))
    return summary


def _add_clips(summary: Table, body: VideoScores) -> None:
    semi = next(row for row in body.rows if row.convention == "semi-supervised")
    for name in ("jf", "j", "f"):
        summary.add_row(f"{_LETTERS[name]}, labels as they are (semi-supervised)", "-", percent(getattr(semi, name)))
    summary.add_row("flicker: pixels that change where the truth does not", "-", percent(body.flicker))
    summary.add_row("frames with the object in which it was found", "-", percent(body.recall))
    summary.add_row("frames without it in which it was not", "-", percent(body.gone_rejected))
    summary.add_row("frames in which absent texts were rejected", "-", percent(body.absent_rejected))
    summary.add_row("absent texts that were never found", "-", percent(body.never_found))


def _tell_ablation(ablation: Ablation, folder: Path, console: Console) -> bool:
    if ablation.idle:
        say(idle_line(ablation.idle), console)
    if not ablation.rows:
        say("Some images are left to other shards; the table follows when they are done.", console)
        return not ablation.failures
    summary = Table("part", "variant", "score", "to base", "kept", "rejected", "flicker", title=ablation.measure)
    for row in ablation.rows:
        numbers = (row.miou, row.difference, row.recall, row.absent_rejected, row.flicker)
        summary.add_row(row.part, row.variant, *(percent(number) for number in numbers))
    console.print(summary)
    if ablation.is_written:
        say(f"Table: {folder / 'ablation.md'}", console)
    else:
        say(f"The table in {folder} is about more images and stays as it is.", console)
    return not ablation.failures
