"""What `car segment` and `car demo` do: run the job and show what becomes of each picture.

Loads torch, so the commands import it only when there is work.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from rich.console import Console

from clip_as_rnn import loading
from clip_as_rnn.apps.cli.console import paths_line, result_line, result_table, say
from clip_as_rnn.apps.cli.parsing import choose, merged_away
from clip_as_rnn.apps.cli.run_progress import RunProgress
from clip_as_rnn.batch.job import Job, Outcome, describe_settings
from clip_as_rnn.batch.local import Threads, segment_files
from clip_as_rnn.batch.manifest import MANIFEST, Manifest
from clip_as_rnn.batch.ray import Cluster, segment_on_ray
from clip_as_rnn.batch.sources import Source, check_targets, list_sources
from clip_as_rnn.batch.storage import RecordMirror, RemoteFolder, is_url
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import InputError, suggest
from clip_as_rnn.export.datasets import DATASET_FORMATS, DatasetFormat, remove_datasets
from clip_as_rnn.export.files import FORMATS, Format, planned_paths
from clip_as_rnn.io.atomic import prepare_folder
from clip_as_rnn.loading import DType
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.segmenter import Segmenter

Engine = Literal["local", "ray"]
_ALL_FORMATS = (*FORMATS, *DATASET_FORMATS)
_FAILED_SOME, _FAILED_ALONE = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be done, as the command line asks for it.

    Attributes:
        images: files, folders of which every picture is taken, globs, URLs, or lists (@FILE).
        texts: what to look for.
        preset: the name of the preset that `config` came from, for the record.
        config: all settings.
        device, dtype: as `load_segmenter` takes them.
        output: where the results go, a folder or a URL.
        formats: names of formats, or several joined by commas.
        cache_dir: where models of the Hub are kept; None is Hugging Face's own folder.
        skip_existing: leave out images whose results are there, made with the same texts, settings and models.
        overwrite: begin anew what an earlier run began.
        workers: pictures on their way at once on a machine; None is as many as there are processors, up to 4.
        batch: pictures that are encoded together; None is what suits the device (`Job.images_at_once`).
        engine: local, or ray for several machines.
        ray_address: of a cluster of Ray that is up; None starts one on this machine.
    """

    images: Sequence[str]
    texts: Sequence[str]
    preset: str
    config: SegmenterConfig
    device: str
    dtype: str
    output: str
    formats: Sequence[str]
    cache_dir: Path | None = None
    skip_existing: bool = False
    overwrite: bool = False
    workers: int | None = None
    batch: int | None = None
    engine: str = "local"
    ray_address: str | None = None

    @property
    def folder(self) -> Path:
        """Where the results go, as a path."""
        return Path(self.output)


def run(request: Request) -> int:
    """Segment the pictures; return the exit code. Those that cannot be are told, and do not stop the rest.

    One picture is always segmented anew. Several are a run, which the folder's record goes on with.

    Raises:
        CarError: something is wrong that concerns all images: texts, settings, models, the folder.
    """
    texts = check_texts(request.texts)
    if away := merged_away(request.texts, texts):
        say(f"Note: Merged duplicate texts: {', '.join(repr(text) for text in away)}.")
    formats, datasets = parse_formats(request.formats)
    choose("dtype", request.dtype, DType)
    choose("--engine", request.engine, Engine)
    if request.skip_existing and any(is_url(word) for word in (*request.images, request.output)):
        raise InputError("--skip-existing looks at files and not at URLs; without it, the record says what is done.")
    if request.skip_existing and "json" not in formats:
        raise InputError("Expected the format json with --skip-existing: only that says what results were made from.")
    job = Job(
        texts=texts,
        preset=request.preset,
        config=request.config,
        folder=request.folder,
        formats=formats,
        datasets=datasets,
        skip_existing=request.skip_existing,
        images_at_once=request.batch,
    )
    is_away = is_url(request.output)
    with TemporaryDirectory(prefix="clip-as-rnn-") if is_away else nullcontext() as made:
        if made:
            job = replace(job, folder=Path(made), url=request.output.rstrip("/"))
        sources = list_sources(request.images, output=request.output)
        if len(sources) == 1:
            _prepare(sources, job, request.folder)
            _remove_earlier(job, request)
            return _FAILED_ALONE if _work(sources, job, request, None) else 0
        failures = _run_many(sources, job, request)
    if failures:
        record = f"{job.url}/{MANIFEST}" if job.url else str(job.folder / MANIFEST)
        say(f"{failures} of {len(sources)} pictures failed; {record!r} says why.")
    return _FAILED_SOME if failures else 0


def _run_many(sources: Sequence[Source], job: Job, request: Request) -> int:
    """Run over several pictures, or go on with that; return how many failed."""
    _prepare(sources, job, request.folder)
    settings = describe_settings(job.texts, job.config)
    mirror = RecordMirror(RemoteFolder(job.url), job.folder / MANIFEST) if job.url else None
    with Manifest(
        job.folder, settings, overwrite=request.overwrite, mixed=request.skip_existing, mirror=mirror
    ) as manifest:
        named = list_sources(request.images, output=request.output, standing=manifest.stems)
        _prepare(named, job, request.folder)
        _remove_earlier(job, request)
        return _work(named, job, request, manifest)


def _prepare(sources: Sequence[Source], job: Job, place: Path) -> None:
    """Make the folder for results, once it is sure that none takes the place of a picture."""
    targets = [one for source in sources for one in planned_paths(place, source.stem, job.formats)]
    check_targets([source.path for source in sources], targets)
    prepare_folder(job.folder)
    if job.url:
        RemoteFolder(job.url).check()


def _remove_earlier(job: Job, request: Request) -> None:
    """With --overwrite, remove the data sets of earlier runs."""
    if request.overwrite:
        remove_datasets(job.folder)
        for name in DATASET_FORMATS if job.url else ():
            RemoteFolder(job.url).remove(name)


def _work(sources: Sequence[Source], job: Job, request: Request, manifest: Manifest | None) -> int:
    """Run the job under a progress bar and show what becomes of each picture; return how many failed."""
    failures = 0
    load = partial(_load, job, request.device, choose("dtype", request.dtype, DType), request.cache_dir)
    with RunProgress(total=len(sources)) as progress:
        for outcome in _outcomes(sources, job, request, manifest, load, progress):
            failures += outcome.error is not None
            _show(outcome, job, progress.console, as_table=len(sources) == 1)
            progress.advance(outcome)
    return failures


def _load(job: Job, device: str, dtype: DType, cache_dir: Path | None) -> Segmenter:
    segmenter = loading.load_segmenter(job.config, device=device, dtype=dtype, cache_dir=cache_dir)
    segmenter.check_texts(job.texts)
    return segmenter


def _outcomes(
    sources: Sequence[Source],
    job: Job,
    request: Request,
    manifest: Manifest | None,
    load: Callable[[], Segmenter],
    progress: RunProgress,
) -> Iterator[Outcome]:
    """Start the engine that is asked for; one picture alone needs no other than the local one."""
    threads = Threads.of_this_machine(1 if manifest is None else request.workers)
    if request.engine == "ray" and manifest is not None:
        progress.say_what("Segmenting, on Ray")
        cluster = Cluster(threads=threads, address=request.ray_address, gpus=request.device != "cpu")
        return segment_on_ray(sources, job, load, manifest=manifest, cluster=cluster)

    def load_and_say() -> Segmenter:
        progress.say_what("Loading the models")
        segmenter = load()
        progress.say_what("Segmenting")
        return segmenter

    accelerated = loading.choose_device(request.device).type != "cpu"
    return segment_files(sources, job, load_and_say, manifest=manifest, threads=threads, accelerated=accelerated)


def _show(outcome: Outcome, job: Job, terminal: Console, *, as_table: bool) -> None:
    """Print messages to stderr and a result to stdout; where both are one terminal, above the progress bar."""
    for note in outcome.notes:
        say(f"Note: {note}", terminal)
    if outcome.error is not None:
        said, name = str(outcome.error), outcome.source.name
        say(f"Error: {said}" if outcome.path.name in said else f"Error: {name}: {said}", terminal)
    elif outcome.entry is None:
        say(f"Skipped {outcome.source.name}: its results are in {job.url or job.folder}.", terminal)
    else:
        stdout = Console()
        console = terminal if stdout.is_terminal and terminal.is_terminal else stdout
        if as_table and outcome.segmentation is not None:
            console.print(result_table(outcome.source.name, outcome.segmentation))
            say(paths_line(outcome.written), console)
        else:
            found = dict(zip(outcome.entry["found"], outcome.entry["scores"], strict=True))
            say(result_line(outcome.source.name, found, len(job.texts)), console)


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
