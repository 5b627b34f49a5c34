"""What is done with one picture of a job, or with a few at once: is it done already, read, segment, write.

Knows no record: it is told what the record says of a picture, and says what shall be recorded.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any, TypeAlias

from clip_as_rnn.batch.sources import Source
from clip_as_rnn.batch.storage import RemoteFolder, download, find_version
from clip_as_rnn.config import SegmenterConfig, flat_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.export.base import CLASSES_FILE, DatasetExporter, Sample
from clip_as_rnn.export.datasets import DatasetFormat, open_datasets
from clip_as_rnn.export.files import Format, Result, planned_paths, read_record, recorded_formats, save
from clip_as_rnn.export.provenance import describe_provenance
from clip_as_rnn.io.images import Picture, read_picture
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.state import EncodedTexts

Entry: TypeAlias = Mapping[str, Any]  # what the record says of one picture
_ON_PROCESSORS = 4  # pictures encoded together: more of them are a little faster, and hold more memory
_ON_ACCELERATORS = 8  # not measured
_PIXELS_AT_ONCE = 8_000_000  # of pictures in hand together; a larger one is alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done with every picture; goes as it is to another process or machine.

    Attributes:
        texts: what to look for, checked.
        preset: the name of the preset that `config` came from, for the record.
        config: all settings.
        folder: where the results go; it is there.
        url: where they go in the end, if that is no folder of this machine; they are made in `folder` first.
        formats: what to write of each picture.
        datasets: what to write of all of them together.
        skip_existing: leave out pictures whose results are there, of the same picture, texts, settings and models.
        images_at_once: so many are encoded together; what follows is done picture by picture. On processors results
            are the same to the last bit, on accelerators up to the rounding of batched products. None: what suits the
            device.
    """

    texts: tuple[str, ...]
    preset: str
    config: SegmenterConfig
    folder: Path
    url: str = ""
    formats: tuple[Format, ...]
    datasets: tuple[DatasetFormat, ...] = ()
    skip_existing: bool = False
    images_at_once: int | None = None

    def share(self, *, accelerated: bool) -> int:
        """Say how many pictures are done together."""
        return self.images_at_once or (_ON_ACCELERATORS if accelerated else _ON_PROCESSORS)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one picture: a result and where it was written, an error, or neither: its results were there.

    Attributes:
        entry: what is to be recorded; None where its results were there, and where there is no picture.
        segmentation: the result; None also where it was made in another process, and only its files are there.
    """

    source: Source
    entry: Entry | None = None
    segmentation: Segmentation | None = None
    written: Sequence[Path | str] = ()
    notes: Sequence[str] = ()
    error: InputError | None = None

    @property
    def path(self) -> Path:
        """The picture's path, for a URL one made of it."""
        return self.source.path

    @property
    def is_segmented(self) -> bool:
        """Whether results were made of it now."""
        return self.entry is not None and self.error is None


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A picture in hand.

    Attributes:
        file: that it was read from.
        version: of a picture under a URL, by which it is known again without reading it.
    """

    source: Source
    file: Path
    picture: Picture
    digest: str
    version: str = ""


def describe_settings(texts: Sequence[str], config: SegmenterConfig) -> dict[str, Any]:
    """Describe what makes the results of a run, models apart."""
    return {"texts": list(texts), **flat_settings(config)}


class PictureJob:
    """One job on its way, for several threads. Models and data sets are there from when they are first needed."""

    def __init__(
        self,
        job: Job,
        load_segmenter: Callable[[], Segmenter],
        begin: Callable[[Mapping[str, Any]], None] = lambda models: None,
    ) -> None:
        """Prepare; `begin` is told what identifies the models, once they are loaded, and may refuse them."""
        self._job = job
        self._load_segmenter = load_segmenter
        self._begin = begin
        self._loading = Lock()
        self._loaded: Segmenter | None = None
        self._texts: EncodedTexts | None = None
        self._stopped = Event()
        self._exporters: Mapping[DatasetFormat, DatasetExporter] = {}
        self._remote = RemoteFolder(job.url) if job.url else None
        self._brought = job.folder / ".pictures.part"  # those from URLs, while they are in hand

    def run(self, sources: Sequence[Source], entries: Mapping[str, Entry]) -> Iterator[Outcome]:
        """Do what is to be done with a few pictures, and say what became of each when it is known.

        `entries` is what is recorded of pictures that were made with this job's texts and settings, by name as given.
        After `stop`, those that were not begun are left out.

        Raises:
            CarError: something is wrong that concerns all pictures.
        """
        in_hand: list[_Read] = []
        begun, pixels = time.perf_counter(), 0
        for i, source in enumerate(sources, start=1):
            taken = self._take(source, entries)
            if isinstance(taken, Outcome):
                yield taken
            else:
                in_hand.append(taken)
                pixels += taken.picture.pixels.shape[0] * taken.picture.pixels.shape[1]
            if i == len(sources) or pixels > _PIXELS_AT_ONCE:
                yield from self._finish(in_hand, begun)
                in_hand, begun, pixels = [], time.perf_counter(), 0

    def stop(self) -> None:
        """Let no further picture begin; those that are on their way are finished."""
        self._stopped.set()

    def _finish(self, pictures: Sequence[_Read], begun: float) -> Iterator[Outcome]:
        """Encode pictures together, segment and write one after the other; `begun` is when the first was read.

        What is wrong with one does not touch the others.
        """
        if not pictures or self._stopped.is_set():
            return
        segmenter, texts = self.load(), self._encode_texts(self.load())
        encoded = segmenter.encode_each([one.picture.pixels for one in pictures])
        shared_s = (time.perf_counter() - begun) / len(pictures)
        for one, image in zip(pictures, encoded, strict=True):
            if self._stopped.is_set():
                return
            started = time.perf_counter()
            try:
                if isinstance(image, InputError):
                    raise image
                segmentation = segmenter.segment(image, texts, trace="figure" in self._job.formats)
            except InputError as error:  # the texts were checked before: it is the image
                yield fail(one.source, error)
            else:
                yield self._write(one, segmentation, shared_s + time.perf_counter() - started)

    def _encode_texts(self, segmenter: Segmenter) -> EncodedTexts:
        """Encode the texts, once for all pictures."""
        with self._loading:
            if self._texts is None:
                self._texts = segmenter.encode_texts(self._job.texts)
            return self._texts

    def close(self) -> None:
        """Finish the data sets."""
        close_datasets(self._job, self._exporters)
        shutil.rmtree(self._brought, ignore_errors=True)

    def load(self) -> Segmenter:
        """Load the models, once, and open what needs to know them.

        Raises:
            CarError: models that cannot be had or are refused, or a data set that cannot be written.
        """
        with self._loading:
            if self._loaded is None:
                segmenter = self._load_segmenter()
                self._begin(fingerprints(segmenter.describe()))
                self._exporters = open_job_datasets(self._job)
                self._loaded = segmenter
            return self._loaded

    def _take(self, source: Source, entries: Mapping[str, Entry]) -> _Read | Outcome:
        """Read a picture, unless it is done already or cannot be read."""
        if source.error is not None:
            return Outcome(source, error=source.error)
        file = source.path
        try:
            version = find_version(source.url) if source.url else ""
            if version and self._is_done(source, version, entries):
                return Outcome(source)
            if source.url:
                file = self._brought / f"{source.stem}{source.path.suffix}"
                download(source.url, file)
            digest = _digest(file) if os.path.isfile(file) else ""  # noqa: PTH113 - never raises
        except InputError as error:
            return fail(source, error)
        if not version and self._is_done(source, digest, entries):  # what it raises is the fault of the run
            return Outcome(source)
        try:
            return _Read(source, file, read_picture(file), digest, version)
        except InputError as error:
            return fail(source, InputError(str(error).replace(str(file), source.name)))

    def _write(self, one: _Read, segmentation: Segmentation, seconds: float) -> Outcome:
        """Write the results of one picture."""
        job, source = self._job, one.source
        provenance = describe_provenance(job.preset, self.load())
        about = {"image": source.name, "notes": list(one.picture.notes), **provenance, "image_sha256": one.digest}
        result = Result(segmentation, one.picture.pixels, about)
        written = save(result, job.folder, stem=source.stem, formats=job.formats) if job.formats else []
        for exporter in self._exporters.values():
            written += exporter.add(Sample(source.stem, one.file, segmentation))
        names = [path.relative_to(job.folder).as_posix() for path in written]
        if self._remote is not None:
            self._remote.put(job.folder, written)
        if source.url:
            one.file.unlink()
        entry = {
            "stem": source.stem,
            "image_sha256": one.digest,
            **({"image_version": one.version} if one.version else {}),
            "formats": [*job.formats, *job.datasets],
            "outputs": names,
            "found": list(segmentation.texts),
            "scores": [float(score) for score in segmentation.scores],
            "seconds": round(seconds, 3),
        }
        shown = [f"{job.url}/{name}" for name in names] if job.url else written
        return Outcome(source, entry, segmentation, shown, one.picture.notes)

    def _is_done(self, source: Source, identity: str, entries: Mapping[str, Entry]) -> bool:
        """Tell whether all results are there, made of what is asked for now; models are loaded only if all else is so.

        The record tells it, or with `skip_existing` the picture's own JSON. `identity` is the picture's digest, or its
        version under a URL. Outputs under a URL are not looked at one by one: to ask for them takes too long.
        """
        job, entry = self._job, entries.get(source.name)
        if entry is not None and "error" not in entry:
            known = entry.get("image_version" if source.url else "image_sha256")
            outputs = [] if job.url else [job.folder / name for name in entry["outputs"]]
            same = known == identity and {*job.formats, *job.datasets} <= set(entry["formats"])
            if same and all(path.exists() for path in outputs):
                self.load()  # other models are refused, or what they made counts no more
                return source.name in entries
        return job.skip_existing and not source.url and not job.url and self._is_recorded(source, identity)

    def _is_recorded(self, source: Source, digest: str) -> bool:
        """Tell whether all results are there, none younger than their JSON, which says that they are what is asked."""
        job = self._job
        (record,) = planned_paths(job.folder, source.stem, ["json"])
        stored = read_record(record)
        asked = {"image": source.name, "queries": job.texts, "settings": flat_settings(job.config)}
        if not set(job.formats) <= set(recorded_formats(stored)) or any(
            stored.get(name) != json.loads(json.dumps(value)) for name, value in asked.items()
        ):
            return False
        try:
            written_ns = record.stat().st_mtime_ns
            targets = planned_paths(job.folder, source.stem, job.formats)
            if any(target.stat().st_mtime_ns > written_ns for target in targets):
                return False
        except OSError:
            return False
        if stored.get("image_sha256") != digest:
            return False
        if fingerprints(stored.get("models")) != fingerprints(self.load().describe()):
            return False
        samples = (exporter.paths(source.stem, source.path) for exporter in self._exporters.values())
        return all(path.exists() for paths in samples for path in paths)


def fail(source: Source, error: InputError) -> Outcome:
    """Say that there is no result of a picture, and why."""
    return Outcome(source, {"stem": source.stem, "error": str(error)}, error=error)


def open_job_datasets(job: Job) -> dict[DatasetFormat, DatasetExporter]:
    """Open the data sets of a job, made or gone on with.

    Raises:
        InputError: one that is there has other classes, or cannot be written.
    """
    if job.url:
        for name in job.datasets:
            RemoteFolder(job.url).get(f"{name}/{CLASSES_FILE}", job.folder)
    return open_datasets(job.datasets, job.folder, job.texts)


def close_datasets(job: Job, exporters: Mapping[DatasetFormat, DatasetExporter]) -> None:
    """Make what concerns all pictures of each data set; of one under a URL, what that is made of is brought first."""
    remote = RemoteFolder(job.url) if job.url else None
    for name, exporter in exporters.items():
        if remote is None:
            exporter.close()
            continue
        for part in exporter.parts:
            remote.get(f"{name}/{part}", job.folder)
        exporter.close()
        for part in exporter.parts:
            shutil.rmtree(job.folder / name / part, ignore_errors=True)
        left = sorted(path for path in (job.folder / name).rglob("*") if path.is_file())
        remote.put(job.folder, left)


def fingerprints(models: object) -> dict[str, Any]:
    """Pick what identifies the weights out of a description of models; device and precision may differ."""
    named = models if isinstance(models, Mapping) else {}
    return {name: value for name, value in named.items() if name.endswith("fingerprint")}


def _digest(path: Path) -> str:
    """Digest a picture's file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"The image {str(path)!r} cannot be read: {error.strerror or error}.") from error
