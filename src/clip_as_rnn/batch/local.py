"""Pictures one after the other on this machine: read, segment, write. One that fails does not stop the rest."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_as_rnn.batch.sources import Source
from clip_as_rnn.config import SegmenterConfig, flat_settings
from clip_as_rnn.errors import InputError
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
        formats: what to write.
        skip_existing: leave out pictures whose results are there, of the same picture, texts, settings and models.
    """

    texts: tuple[str, ...]
    preset: str
    config: SegmenterConfig
    folder: Path
    formats: tuple[Format, ...]
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
    loaded: list[Segmenter] = []

    def segmenter() -> Segmenter:
        if not loaded:
            loaded.append(load_segmenter())
        return loaded[0]

    for source in sources:
        if source.error is not None:
            yield Outcome(source.path, error=source.error)
        elif job.skip_existing and _is_done(source, job, segmenter):
            yield Outcome(source.path)
        else:
            yield _segment_file(source, job, segmenter)


def _segment_file(source: Source, job: Job, segmenter: Callable[[], Segmenter]) -> Outcome:
    try:
        picture = read_picture(source.path)
        digest = _digest(source.path)
    except InputError as error:
        return Outcome(source.path, error=error)
    loaded = segmenter()
    try:
        segmentation = loaded.segment(picture.pixels, job.texts, trace="figure" in job.formats)
    except InputError as error:  # the texts were checked before: it is the image
        return Outcome(source.path, error=error)
    about = {"image": str(source.path), "notes": list(picture.notes), **describe_provenance(job.preset, loaded)}
    result = Result(segmentation, picture.pixels, {**about, "image_sha256": digest})
    written = save(result, job.folder, stem=source.stem, formats=job.formats)
    return Outcome(source.path, segmentation, written, picture.notes)


def _is_done(source: Source, job: Job, segmenter: Callable[[], Segmenter]) -> bool:
    """Tell whether all results are there, none younger than their record, made of what is asked for now.

    The models are loaded only if nothing else differs.
    """
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
    return _fingerprints(stored.get("models")) == _fingerprints(segmenter().describe())


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
