"""What `car segment` and `car demo` do: read, segment, write, report; one image after the other.

Loads torch, so the command line imports it only when there is work.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

import clip_as_rnn
from clip_as_rnn import loading
from clip_as_rnn.apps.cli.console import paths_line, result_line, result_table, say
from clip_as_rnn.apps.cli.parsing import merged_away, unique_stems
from clip_as_rnn.config import SegmenterConfig, flat_settings
from clip_as_rnn.errors import InputError, suggest
from clip_as_rnn.export.files import FORMATS, Format, Result, planned_paths, prepare_folder, read_record, save
from clip_as_rnn.io.images import SUFFIXES, Picture, read_picture
from clip_as_rnn.loading import ClipView, DType
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
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
        skip_existing: leave out images whose results are there, made with the same texts and settings.
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


def run(job: Job) -> bool:
    """Do a job; return whether every image could be segmented. The others are reported, and do not stop the rest.

    Raises:
        CarError: something is wrong that concerns all images: texts, settings, models, the folder.
    """
    texts = check_texts(job.texts)
    if away := merged_away(job.texts, texts):
        say(f"Note: Merged duplicate texts: {', '.join(repr(text) for text in away)}.")
    formats, dtype = parse_formats(job.formats), parse_dtype(job.dtype)
    if job.skip_existing and "json" not in formats:
        raise InputError("Expected the format json with --skip-existing: only that says what results were made from.")
    paths = list(dict.fromkeys(expand_folders(job.images)))
    stems = unique_stems(paths)
    _check_targets(paths, [one for stem in stems for one in planned_paths(job.folder, stem, formats)])
    prepare_folder(job.folder)
    with _progress() as progress:
        bar = progress.add_task("", total=len(paths))
        worker = _Worker(job, texts, formats, dtype, lambda message: progress.update(bar, description=escape(message)))
        for path, stem in zip(paths, stems, strict=True):
            _show(worker.do(path, stem), progress.console, as_table=len(paths) == 1)
            progress.advance(bar)
    return not worker.failures


def _check_targets(images: Sequence[Path], targets: Sequence[Path]) -> None:
    """Raise InputError if a result would take the place of a picture that is to be segmented."""
    pictures = {_real(path) for path in images}
    for target in targets:
        if _real(target) in pictures:
            raise InputError(
                f"The result {str(target)!r} would overwrite a picture that is to be segmented, or is the result of an "
                "earlier run; choose another folder with -o."
            )


def _real(path: Path) -> Path:
    """Follow links; a path that cannot be looked at stays, and is reported with the images."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # a null byte, links in a circle
        return path


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    """What became of one image: messages, and unless it was left out, the result and where it was written."""

    path: Path
    messages: tuple[str, ...] = ()
    segmentation: Segmentation | None = None
    written: Sequence[Path] = ()


@dataclass(slots=True, eq=False)
class _Worker:
    """Segments images one by one with a segmenter that is loaded once, when the first image is in hand."""

    job: Job
    texts: tuple[str, ...]
    formats: tuple[Format, ...]
    dtype: DType
    announce: Callable[[str], None]
    failures: int = 0
    _segmenter: Segmenter[ClipView] | None = None

    def do(self, path: Path, stem: str) -> _Outcome:
        """Read, segment and write one image."""
        folder = self.job.folder
        if self.job.skip_existing and self._is_done(path, stem):
            return _Outcome(path, (f"Skipped {path}: its results are in {folder}.",))
        try:
            picture = read_picture(path)
        except InputError as error:
            return self._failed(path, error)
        segmenter = self._loaded()
        self.announce(f"Segmenting {path.name}")
        try:
            segmentation = segmenter.segment(picture.pixels, self.texts, trace="figure" in self.formats)
        except InputError as error:  # the texts were checked before: it is the image
            return self._failed(path, error)
        result = Result(segmentation, picture.pixels, self._about(path, picture, segmenter))
        written = save(result, folder, stem=stem, formats=self.formats)
        return _Outcome(path, tuple(f"Note: {note}" for note in picture.notes), segmentation, written)

    def _failed(self, path: Path, error: InputError) -> _Outcome:
        self.failures += 1
        said = str(error)
        return _Outcome(path, (f"Error: {said}" if path.name in said else f"Error: {path}: {said}",))

    def _is_done(self, path: Path, stem: str) -> bool:
        """Tell whether all results are there, of this image and none younger than their record, made as now asked."""
        targets = planned_paths(self.job.folder, stem, self.formats)
        (record,) = planned_paths(self.job.folder, stem, ["json"])
        stored, asked = read_record(record), {"image": str(path), "queries": self.texts, "settings": self._settings()}
        if any(stored.get(name) != json.loads(json.dumps(value)) for name, value in asked.items()):
            return False
        try:
            return all(one.stat().st_mtime_ns <= record.stat().st_mtime_ns for one in (path, *targets))
        except OSError:
            return False

    def _settings(self) -> dict[str, Any]:
        return flat_settings(self.job.config)

    def _loaded(self) -> Segmenter[ClipView]:
        if self._segmenter is None:
            self.announce("Loading the models")
            job = self.job
            segmenter = loading.load_segmenter(job.config, device=job.device, dtype=self.dtype, cache_dir=job.cache_dir)
            segmenter.stages.check(self.texts)
            self._segmenter = segmenter
        return self._segmenter

    def _about(self, path: Path, picture: Picture, segmenter: Segmenter[ClipView]) -> dict[str, Any]:
        """Record what made a result, for the JSON."""
        return {
            "image": str(path),
            "notes": list(picture.notes),
            "preset": self.job.preset,
            "settings": self._settings(),
            "models": dict(segmenter.describe()),
            "version": clip_as_rnn.__version__,
        }


def _show(outcome: _Outcome, terminal: Console, *, as_table: bool) -> None:
    """Print messages to stderr and a result to stdout; where both are one terminal, above the progress bar."""
    for message in outcome.messages:
        say(message, terminal)
    if outcome.segmentation is None:
        return
    stdout = Console()
    console = terminal if stdout.is_terminal and terminal.is_terminal else stdout
    if as_table:
        console.print(result_table(str(outcome.path), outcome.segmentation))
        say(paths_line(outcome.written), console)
    else:
        say(result_line(str(outcome.path), outcome.segmentation), console)


def parse_formats(names: Sequence[str]) -> tuple[Format, ...]:
    """Read names of formats, each of which may be several joined by commas.

    Raises:
        InputError: an unknown one; the message holds the nearest and all known ones.
    """
    asked = [name.strip() for joined in names for name in joined.split(",") if name.strip()]
    for name in asked:
        if name not in FORMATS:
            raise InputError(f"No format named {name!r}.{suggest(name, FORMATS)}")
    if not asked:
        raise InputError(f"Expected at least one format, but got none. Known: {', '.join(FORMATS)}.")
    return tuple(known for known in FORMATS if known in asked)


def expand_folders(paths: Sequence[Path]) -> Iterator[Path]:
    """Replace every folder by the pictures in it, by name; a folder without any stays, to be reported.

    Raises:
        InputError: a folder cannot be listed.
    """
    for path in paths:
        try:
            inside = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES) if _is_folder(path) else []
        except OSError as error:
            raise InputError(f"The folder {str(path)!r} cannot be listed: {error.strerror}.") from error
        yield from inside or [path]


def _is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; one that cannot be looked at is none, and is reported with the images."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, a null byte
        return False


def parse_dtype(name: str) -> DType:
    """Read the name of a precision.

    Raises:
        InputError: an unknown one.
    """
    known: tuple[DType, ...] = get_args(DType)
    for dtype in known:
        if dtype == name:
            return dtype
    raise InputError(f"Expected dtype to be one of {', '.join(known)}, but got {name!r}.")


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
