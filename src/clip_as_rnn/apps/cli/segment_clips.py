"""What `car segment` does with clips: one after the other, with a bar over the frames, and a table of what was found.

Loads torch, so the command imports it only when there is work.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from clip_as_rnn import loading
from clip_as_rnn.apps.cli.console import in_table, paths_line, say
from clip_as_rnn.apps.cli.parsing import choose
from clip_as_rnn.apps.cli.segment_run import Request
from clip_as_rnn.batch.sources import check_targets, unique_stems
from clip_as_rnn.batch.storage import is_url
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.atomic import prepare_folder
from clip_as_rnn.io.video import SUFFIXES, open_video
from clip_as_rnn.loading import DType
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.video.clip import ClipJob, ClipSummary, Container, segment_clip


def is_clip(word: str, *, frames: bool) -> bool:
    """Tell whether a path stands for a clip: by its ending, or a folder if those are said to hold frames."""
    path = Path(word)
    return path.suffix.lower() in SUFFIXES or (frames and path.is_dir())


def run_clips(request: Request, words: Sequence[str], *, container: str) -> bool:
    """Segment clips; return whether every one could be. The others are told, and do not stop the rest.

    Raises:
        CarError: something is wrong that concerns all clips: texts, settings, models, the folder.
    """
    texts, dtype = check_texts(request.texts), choose("dtype", request.dtype, DType)
    clips = [Path(word) for word in words]
    for url in (word for word in (*words, request.output) if is_url(word)):
        raise InputError(f"Clips are read from files and written to a folder, but got {url!r}; copy them first.")
    jobs = [
        ClipJob(
            source=path,
            texts=texts,
            preset=request.preset,
            folder=request.folder,
            stem=stem,
            container=choose("--video", container, Container),
        )
        for path, stem in zip(clips, unique_stems(clips), strict=True)
    ]
    check_targets(clips, [job.path(f"_overlay.{job.container}") for job in jobs])
    prepare_folder(request.folder)
    loaded: list[Segmenter] = []
    failures = 0
    for job in jobs:
        try:
            open_video(job.source)  # a mistake shows before the models are loaded
            loaded = loaded or [_load(request, texts, dtype)]
            summary = _segment(job, loaded[0])
        except InputError as error:
            failures += 1
            say(f"Error: {error}")
            continue
        for note in summary.notes:
            say(f"Note: {note}")
        Console().print(_table(job, summary))
        say(paths_line(summary.written), Console())
    return not failures


def _load(request: Request, texts: Sequence[str], dtype: DType) -> Segmenter:
    segmenter = loading.load_segmenter(request.config, device=request.device, dtype=dtype, cache_dir=request.cache_dir)
    segmenter.check_texts(texts)
    return segmenter


def _segment(job: ClipJob, segmenter: Segmenter) -> ClipSummary:
    """Segment a clip under a bar with the time left; without a terminal there is none."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"Frames of {job.source.name}", total=None)
        return segment_clip(
            job, segmenter, lambda done, count: progress.update(bar, completed=done, total=count and max(count, done))
        )


def _table(job: ClipJob, summary: ClipSummary) -> Table:
    """List of each text in how many frames it was found, from when to when, and its mean score there."""
    table = Table(title=in_table(f"{job.source}: {summary.frames} frames"), title_justify="left", box=SIMPLE_HEAD)
    for heading, justify in (
        ("text", "left"),
        ("frames", "right"),
        ("from", "right"),
        ("to", "right"),
        ("score", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type] # mypy widens the literals of the tuple
    for one in summary.appearances:
        seconds = ("", "") if one.first_s is None else (f"{one.first_s:.2f} s", f"{one.last_s:.2f} s")
        score = "never found" if one.score is None else f"{one.score:.2f}"
        table.add_row(in_table(one.text), str(one.frames), *seconds, score)
    return table
