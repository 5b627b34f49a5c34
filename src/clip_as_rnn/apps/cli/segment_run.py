"""What `car segment` and `car demo` do: run the job and show what becomes of each picture.

Loads torch, so the commands import it only when there is work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from clip_as_rnn import loading
from clip_as_rnn.apps.cli.console import paths_line, result_line, result_table, say
from clip_as_rnn.apps.cli.parsing import choose, merged_away
from clip_as_rnn.batch.local import Job, Outcome, segment_files
from clip_as_rnn.batch.sources import check_targets, list_sources
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import InputError, suggest
from clip_as_rnn.export.datasets import DATASET_FORMATS, DatasetFormat
from clip_as_rnn.export.files import FORMATS, Format, planned_paths
from clip_as_rnn.io.atomic import prepare_folder
from clip_as_rnn.loading import DType
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.segmenter import Segmenter

_ALL_FORMATS = (*FORMATS, *DATASET_FORMATS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be done, as the command line asks for it.

    Attributes:
        images: files, or folders of which every picture is taken.
        texts: what to look for.
        preset: the name of the preset that `config` came from, for the record.
        config: all settings.
        device, dtype: as `load_segmenter` takes them.
        folder: where the results go.
        formats: names of formats, or several joined by commas.
        cache_dir: where models of the Hub are kept; None is Hugging Face's own folder.
        skip_existing: leave out images whose results are there, made with the same texts, settings and models.
    """

    images: Sequence[Path]
    texts: Sequence[str]
    preset: str
    config: SegmenterConfig
    device: str
    dtype: str
    folder: Path
    formats: Sequence[str]
    cache_dir: Path | None = None
    skip_existing: bool = False


def run(request: Request) -> bool:
    """Segment the pictures; return whether every one could be. The others are told, and do not stop the rest.

    Raises:
        CarError: something is wrong that concerns all images: texts, settings, models, the folder.
    """
    texts = check_texts(request.texts)
    if away := merged_away(request.texts, texts):
        say(f"Note: Merged duplicate texts: {', '.join(repr(text) for text in away)}.")
    formats, datasets = parse_formats(request.formats)
    dtype = choose("dtype", request.dtype, DType)
    if request.skip_existing and "json" not in formats:
        raise InputError("Expected the format json with --skip-existing: only that says what results were made from.")
    sources = list_sources(request.images)
    targets = [one for source in sources for one in planned_paths(request.folder, source.stem, formats)]
    check_targets([source.path for source in sources], targets)
    prepare_folder(request.folder)
    job = Job(
        texts=texts,
        preset=request.preset,
        config=request.config,
        folder=request.folder,
        formats=formats,
        datasets=datasets,
        skip_existing=request.skip_existing,
    )
    failures = 0
    with _progress() as progress:
        bar = progress.add_task("", total=len(sources))

        def load() -> Segmenter:
            progress.update(bar, description="Loading the models")
            segmenter = loading.load_segmenter(
                job.config, device=request.device, dtype=dtype, cache_dir=request.cache_dir
            )
            segmenter.check_texts(texts)
            progress.update(bar, description="Segmenting")
            return segmenter

        for outcome in segment_files(sources, job, load):
            failures += outcome.error is not None
            _show(outcome, job.folder, progress.console, as_table=len(sources) == 1)
            progress.advance(bar)
    return not failures


def _show(outcome: Outcome, folder: Path, terminal: Console, *, as_table: bool) -> None:
    """Print messages to stderr and a result to stdout; where both are one terminal, above the progress bar."""
    for note in outcome.notes:
        say(f"Note: {note}", terminal)
    if outcome.error is not None:
        said, path = str(outcome.error), outcome.path
        say(f"Error: {said}" if path.name in said else f"Error: {path}: {said}", terminal)
    elif outcome.segmentation is None:
        say(f"Skipped {outcome.path}: its results are in {folder}.", terminal)
    else:
        stdout = Console()
        console = terminal if stdout.is_terminal and terminal.is_terminal else stdout
        if as_table:
            console.print(result_table(str(outcome.path), outcome.segmentation))
            say(paths_line(outcome.written), console)
        else:
            say(result_line(str(outcome.path), outcome.segmentation), console)


def parse_formats(names: Sequence[str]) -> tuple[tuple[Format, ...], tuple[DatasetFormat, ...]]:
    """Read names of formats, each of which may be several joined by commas: those of a picture, those of a data set.

    Raises:
        InputError: an unknown one; the message holds the nearest and all known ones.
    """
    asked = [name.strip() for joined in names for name in joined.split(",") if name.strip()]
    for name in asked:
        if name not in _ALL_FORMATS:
            raise InputError(f"No format named {name!r}.{suggest(name, _ALL_FORMATS)}")
    if not asked:
        raise InputError(f"Expected at least one format, but got none. Known: {', '.join(_ALL_FORMATS)}.")
    return tuple(one for one in FORMATS if one in asked), tuple(one for one in DATASET_FORMATS if one in asked)


def _progress() -> Progress:
    """Make a progress bar that vanishes at the end; without a terminal there is none."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal)
