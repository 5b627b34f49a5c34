"""Pictures one after the other on this machine: read, segment, write. One that fails does not stop the rest."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clip_as_rnn.batch.sources import Source
from clip_as_rnn.config import SegmenterConfig, flat_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.export.base import DatasetExporter, Sample
from clip_as_rnn.export.datasets import DatasetFormat, open_datasets
from clip_as_rnn.export.files import Format, Result, planned_paths, read_record, recorded_formats, save
from clip_as_rnn.export.provenance import describe_provenance
from clip_as_rnn.io.images import read_picture
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done with every picture.

    Attributes:
        texts: what to look for, checked.
        preset: the name of the preset that `config` came from, for the record.
        config: all settings.
        folder: where the results go; it is there.
        formats: what to write of each picture.
        datasets: what to write of all of them together.
        skip_existing: leave out pictures whose results are there, of the same picture, texts, settings and models.
    """

    texts: tuple[str, ...]
    preset: str
    config: SegmenterConfig
    folder: Path
    formats: tuple[Format, ...]
    datasets: tuple[DatasetFormat, ...] = ()
    skip_existing: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one picture: a result and where it was written, an error, or neither: its results were there."""

    path: Path
    segmentation: Segmentation | None = None
    written: Sequence[Path] = ()
    notes: Sequence[str] = ()
    error: InputError | None = None


def segment_files(sources: Iterable[Source], job: Job, load_segmenter: Callable[[], Segmenter]) -> Iterator[Outcome]:
    """Segment pictures and write the results of each; yield what became of it.

    `load_segmenter` is called when the first picture is in hand, so that mistakes show before models are loaded.

    Raises:
        CarError: something is wrong that concerns all pictures: models, the folder.
    """
    run = _Run(job, load_segmenter)
    try:
        for source in sources:
            yield run.take(source)
    finally:
        run.close()


class _Run:
    """One job on its way: the models and the data sets are there from when they are first needed."""

    def __init__(self, job: Job, load_segmenter: Callable[[], Segmenter]) -> None:
        self._job = job
        self._load_segmenter = load_segmenter
        self._exporters: Mapping[DatasetFormat, DatasetExporter] = {}

    @cached_property
    def _segmenter(self) -> Segmenter:
        segmenter = self._load_segmenter()
        self._exporters = open_datasets(self._job.datasets, self._job.folder, self._job.texts)
        return segmenter

    def take(self, source: Source) -> Outcome:
        """Do what is to be done with one picture."""
        if source.error is not None:
            return Outcome(source.path, error=source.error)
        if self._job.skip_existing and self._is_done(source):
            return Outcome(source.path)
        return self._segment(source)

    def close(self) -> None:
        """Finish the data sets."""
        for exporter in self._exporters.values():
            exporter.close()

    def _segment(self, source: Source) -> Outcome:
        job = self._job
        try:
            picture = read_picture(source.path)
            digest = _digest(source.path)
        except InputError as error:
            return Outcome(source.path, error=error)
        segmenter = self._segmenter
        try:
            segmentation = segmenter.segment(picture.pixels, job.texts, trace="figure" in job.formats)
        except InputError as error:  # the texts were checked before: it is the image
            return Outcome(source.path, error=error)
        about = {"image": str(source.path), "notes": list(picture.notes), **describe_provenance(job.preset, segmenter)}
        result = Result(segmentation, picture.pixels, {**about, "image_sha256": digest})
        written = save(result, job.folder, stem=source.stem, formats=job.formats) if job.formats else []
        for exporter in self._exporters.values():
            written += exporter.add(Sample(source.stem, source.path, segmentation))
        return Outcome(source.path, segmentation, written, picture.notes)

    def _is_done(self, source: Source) -> bool:
        """Tell whether all results are there, none younger than their record, made of what is asked for now.

        The models are loaded only if nothing else differs.
        """
        job = self._job
        (record,) = planned_paths(job.folder, source.stem, ["json"])
        stored = read_record(record)
        asked = {"image": str(source.path), "queries": job.texts, "settings": flat_settings(job.config)}
        if not set(job.formats) <= set(recorded_formats(stored)) or any(
            stored.get(name) != json.loads(json.dumps(value)) for name, value in asked.items()
        ):
            return False
        try:
            written_ns = record.stat().st_mtime_ns
            targets = planned_paths(job.folder, source.stem, job.formats)
            if any(target.stat().st_mtime_ns > written_ns for target in targets):
                return False
            if not source.path.is_file() or stored.get("image_sha256") != _digest(source.path):
                return False
        except (OSError, InputError):
            return False
        if _fingerprints(stored.get("models")) != _fingerprints(self._segmenter.describe()):
            return False
        samples = (exporter.paths(source.stem, source.path) for exporter in self._exporters.values())
        return all(path.exists() for paths in samples for path in paths)


def _fingerprints(models: object) -> dict[str, Any]:
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
