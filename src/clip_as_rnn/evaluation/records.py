"""Results per image, one JSON line each, appended and synced as they come: a killed run loses no finished image.

Every number of a report is derived from these lines alone, so that a resumed run, or the merged runs of several shards,
report exactly what one run would have.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.metrics import PixelCount
from clip_as_rnn.evaluation.referring_metrics import Overlap

_ABANDONED_S = 600  # no file takes so long to write


@dataclass(frozen=True, slots=True)
class SemanticResult:
    """One image's pixels by true and predicted label, and labels of texts: `kept` and `masked` as in a prediction."""

    counts: tuple[PixelCount, ...]
    kept: tuple[int, ...]
    masked: tuple[int, ...]

    @property
    def present(self) -> tuple[int, ...]:
        """Labels that the truth holds, without background."""
        return tuple(sorted({count.truth for count in self.counts} - {0}))


@dataclass(frozen=True, slots=True)
class ReferringResult:
    """One reference's overlaps.

    Attributes:
        released: the merged mask of all sentences with the authors' reading of the truth.
        merged: the same mask with the usual reading.
        sentences: each sentence's own mask with the usual reading.
        has_target: whether the sentences refer to anything.
        is_empty: whether the merged mask has no pixel.
    """

    released: Overlap
    merged: Overlap
    sentences: tuple[Overlap, ...]
    has_target: bool
    is_empty: bool


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one image (or reference): a result, or the reason why there is none."""

    name: str
    seconds: float
    result: SemanticResult | ReferringResult | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record's line begins."""

    path: Path
    offset: int
    failed: bool


class RecordStore:
    """The records of one output folder: reads those of all shards, appends to those of one.

    Every line bears the `digest` of the run that made it, so that results gathered from several folders never mix
    what was made differently.
    """

    def __init__(self, folder: Path, digest: str, shard: str = "1-of-1") -> None:
        """Index what is there.

        Raises:
            InputError: a file holds results of another run.
        """
        self._path = folder / "records" / f"{shard}.ndjson"
        self._digest = digest
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, _Place] = {}
        for path in sorted(self._path.parent.glob("*.ndjson")):
            self._scan(path)

    def has_result(self, name: str) -> bool:
        """Tell whether `name` was evaluated; what failed before is to be tried again."""
        place = self._places.get(name)
        return place is not None and not place.failed

    def has_record(self, name: str) -> bool:
        """Tell whether `name` was evaluated or failed."""
        return name in self._places

    def read(self, name: str) -> Record:
        """Return the record of `name`, which must be there."""
        place = self._places[name]
        with place.path.open("rb") as stream:
            stream.seek(place.offset)
            return _decode(json.loads(stream.readline()))

    def append(self, record: Record) -> None:
        """Write a record to the disk before returning."""
        fields = {"run": self._digest, **_encode(record)}
        line = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        with self._path.open("ab") as stream:
            offset = stream.seek(0, os.SEEK_END)
            if _ends_torn(self._path, offset):  # killed in the middle of a line: leave it behind
                line, offset = b"\n" + line, offset + 1
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self._note(record.name, _Place(self._path, offset, record.failure is not None))

    def _scan(self, path: Path) -> None:
        """Index a file; a line that was torn off by a kill is no record, and its image will be done again."""
        for offset, line in _lines(path):
            try:
                fields = json.loads(line)
                digest, name, failed = fields.get("run"), fields["name"], fields["failure"] is not None
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            if digest != self._digest:
                raise InputError(
                    f"The results in {path} were not made as this folder's run.json says, but with another setting, "
                    "model, software or list of images; the two must not mix: take that file away."
                )
            self._note(name, _Place(path, offset, failed))

    def _note(self, name: str, place: _Place) -> None:
        """Remember a record; a result is never displaced by a failure."""
        if not place.failed or not self.has_result(name):
            self._places[name] = place


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is either not there, or the old one, or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid4().hex}.part")  # in the same folder: a move within one file system is atomic
    try:
        with part.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed runs left half written; what is younger may be another run's and under way."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # another shard was quicker
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()


def write_json(path: Path, content: object) -> None:
    """Write JSON that depends on nothing but its content."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON that a run wrote.

    Raises:
        InputError: it is not there or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Expected the output folder of `car evaluate`, but cannot read {path}: {error}.") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line with its offset."""
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            yield offset, line
            offset += len(line)


def _ends_torn(path: Path, size: int) -> bool:
    if size == 0:
        return False
    with path.open("rb") as stream:
        stream.seek(size - 1)
        return stream.read(1) != b"\n"


def _encode(record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": record.name, "seconds": record.seconds, "failure": record.failure}
    if isinstance(record.result, SemanticResult):
        fields["counts"] = [[count.truth, count.predicted, count.pixels] for count in record.result.counts]
        fields["kept"], fields["masked"] = list(record.result.kept), list(record.result.masked)
    elif isinstance(record.result, ReferringResult):
        overlaps = (record.result.released, record.result.merged, *record.result.sentences)
        fields["overlaps"] = [[overlap.intersection, overlap.union] for overlap in overlaps]
        fields["has_target"], fields["is_empty"] = record.result.has_target, record.result.is_empty
    return fields


def _decode(fields: dict[str, Any]) -> Record:
    result: SemanticResult | ReferringResult | None = None
    if "counts" in fields:
        counts = tuple(PixelCount(*count) for count in fields["counts"])
        result = SemanticResult(counts, tuple(fields["kept"]), tuple(fields["masked"]))
    elif "overlaps" in fields:
        released, merged, *sentences = (Overlap(*overlap) for overlap in fields["overlaps"])
        result = ReferringResult(released, merged, tuple(sentences), fields["has_target"], fields["is_empty"])
    return Record(fields["name"], fields["seconds"], result, fields["failure"])
