"""The output folder of a run: what it was made with, a record per image, and predictions.

Records are one JSON line each, appended and synced as they come: a killed run loses no finished image. Every number
of a report is derived from these lines alone, so that a resumed run, or the gathered runs of several shards, report
exactly what one run would have.
"""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clip_as_rnn.errors import InputError, describe_mismatch
from clip_as_rnn.evaluation.metrics.clips import SHARES, ClipScores, ObjectScores, Share
from clip_as_rnn.evaluation.metrics.referring import Overlap, ReferenceOverlaps
from clip_as_rnn.evaluation.metrics.semantic import ImageCounts, PixelCount
from clip_as_rnn.export.provenance import describe_provenance
from clip_as_rnn.io.atomic import write_json
from clip_as_rnn.segmenter import Segmenter

_PACKAGES = ("torch", "transformers", "numpy", "opencv-python-headless", "pillow", "pycocotools")
_DESCRIPTION = "run.json"
_LISTED = 4  # entries of a list that a message repeats
_DIGITS = 16  # of a digest
_MOST_PIXELS = 2**53  # more cannot be meant


@dataclass(frozen=True, slots=True)
class RunDescription:
    """Everything that a result depends on, ready for JSON. Runs that differ in any of it never mix."""

    preset: str
    protocol: Mapping[str, Any]
    settings: Mapping[str, Any]
    models: Mapping[str, str]
    software: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One entry in which two descriptions differ: its dotted name, and both values in short."""

    name: str
    first: str
    second: str


def describe_run(preset: str, protocol: Mapping[str, Any], segmenter: Segmenter) -> RunDescription:
    """Describe a run with the segmenter at hand."""
    made_by = describe_provenance(preset, segmenter)
    return RunDescription(
        preset=preset,
        protocol=protocol,
        settings={name: _plain(value) for name, value in sorted(made_by["settings"].items())},
        models=dict(sorted(made_by["models"].items())),
        software={
            "clip-as-rnn": made_by["version"],
            "python": platform.python_version(),
            **{package: _version(package) for package in _PACKAGES},
        },
    )


def digest_run(description: RunDescription, names: Sequence[str]) -> str:
    """Return what marks the results of runs that are made alike on the same images: 16 hexadecimal digits."""
    content = json.dumps([asdict(description), list(names)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]


def claim_folder(folder: Path, description: RunDescription) -> None:
    """Write the description into an output folder, or check that the run already there has the same one.

    Raises:
        InputError: it differs, and the message names the first difference and the way out; or it cannot be written.
    """
    if not (folder / _DESCRIPTION).exists():
        with writing_to(folder):
            write_json(folder / _DESCRIPTION, asdict(description), indent=2, sync=True)
        return
    for entry in list_differences(read_description(folder), description):
        raise InputError(
            f"The folder {folder} holds a run with {entry.name} = {entry.first}, but now it is {entry.second}; "
            "results of the two must not mix: choose another folder with -o, or go on with what that run used."
        )


def read_description(folder: Path) -> RunDescription:
    """Read the description of a run.

    Raises:
        InputError: the folder is not one of `car evaluate`.
    """
    path = folder / _DESCRIPTION
    content = read_json(path)
    kinds = {field.name: str if field.name == "preset" else dict for field in fields(RunDescription)}
    if not isinstance(content, dict) or {name: type(value) for name, value in content.items()} != kinds:
        raise InputError(f"Expected the {', '.join(kinds)} of a run in {path}, but that is something else.")
    return RunDescription(**content)


def read_json(path: Path) -> Any:
    """Read JSON that a run wrote.

    Raises:
        InputError: it is not there or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Expected the output folder of `car evaluate`, but cannot read {path}: {error}.") from error


def list_differences(first: RunDescription, second: RunDescription) -> tuple[Discrepancy, ...]:
    """List every entry in which two descriptions differ."""
    return tuple(_differing(asdict(first), asdict(second)))


def _differing(first: Any, second: Any, name: str = "") -> Iterator[Discrepancy]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in sorted({*first, *second}):
            yield from _differing(first.get(key), second.get(key), f"{name}.{key}" if name else str(key))
    elif first != second:
        yield Discrepancy(name, _in_short(first), _in_short(second))


def _in_short(value: Any) -> str:
    """Write a value; of a long list, how many entries it has and the first ones."""
    if isinstance(value, list) and len(value) > _LISTED:
        return f"{len(value)} entries ({', '.join(str(item) for item in value[:_LISTED])}, ...)"
    return repr(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plain(value: Any) -> Any:
    """Turn tuples into lists, as JSON gives them back."""
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one image (or reference): a result, or the reason why there is none."""

    name: str
    seconds: float
    result: ImageCounts | ReferenceOverlaps | ClipScores | None = None
    failure: str | None = None


class RecordStore:
    """The records of one output folder: reads those of all shards, appends to those of one.

    Every line bears the `digest` of the run that made it, so that results gathered from several folders never mix
    what was made differently.
    """

    def __init__(self, folder: Path, digest: str, shard: str = "1-of-1") -> None:
        self._folder = folder / "records"
        self._path = self._folder / f"{shard}.ndjson"
        self._digest = digest

    def read(self) -> dict[str, Record]:
        """Return the records that are there, by name; a result is never displaced by a failure.

        A line that was torn off by a kill is no record, and its image will be done again.

        Raises:
            InputError: a file holds results of another run, or something else than records.
        """
        records: dict[str, Record] = {}
        for path in sorted(self._folder.glob("*.ndjson")):
            for record in self._read_file(path):
                if record.failure is None or record.name not in records or records[record.name].failure is not None:
                    records[record.name] = record
        return records

    def append(self, record: Record) -> None:
        """Write a record to the disk before returning.

        Raises:
            InputError: it cannot be written.
        """
        entry = {"run": self._digest, **_encode(record)}
        line = json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        with writing_to(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as stream:
                end = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, end - 1))
                if stream.read(1) not in (b"", b"\n"):  # killed in the middle of a line: leave it behind
                    line = b"\n" + line
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())

    def _read_file(self, path: Path) -> Iterator[Record]:
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
            except ValueError:  # torn off
                continue
            except RecursionError as error:
                raise _foreign_line(path, number, "it is nested too deeply") from error
            if not isinstance(entry, dict):
                raise _foreign_line(path, number, f"expected an object, but got {type(entry).__name__}")
            if entry.get("run") != self._digest:
                raise InputError(
                    f"The results in {path} were not made as this folder's run.json says, but with another setting, "
                    "model, software or list of images; the two must not mix: take that file away."
                )
            try:
                yield _decode(entry)
            except (KeyError, TypeError, ValueError) as error:
                raise _foreign_line(path, number, describe_mismatch(error)) from error


def _foreign_line(path: Path, number: int, reason: str) -> InputError:
    return InputError(f"Line {number} of {path} is no record of `car evaluate` ({reason}); take that line away.")


def _encode(record: Record) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": record.name, "seconds": record.seconds, "failure": record.failure}
    if isinstance(record.result, ImageCounts):
        entry["counts"] = [[count.truth, count.predicted, count.pixels] for count in record.result.pixels]
        entry["kept"], entry["masked"] = list(record.result.kept), list(record.result.masked)
        if record.result.unknown_value is not None:
            entry["unknown"] = [record.result.unknown_pixels, record.result.unknown_value]
    elif isinstance(record.result, ReferenceOverlaps):
        overlaps = (record.result.released, record.result.merged, *record.result.sentences)
        entry["overlaps"] = [[overlap.intersection, overlap.union] for overlap in overlaps]
        entry["has_target"], entry["is_empty"] = record.result.has_target, record.result.is_empty
    elif isinstance(record.result, ClipScores):
        entry["clip"] = asdict(record.result)
    return entry


def _decode(entry: Mapping[str, Any]) -> Record:
    """Read the entry of a line; what is not as `_encode` writes it raises KeyError, TypeError or ValueError."""
    name, seconds, failure = entry["name"], entry["seconds"], entry["failure"]
    result: ImageCounts | ReferenceOverlaps | ClipScores | None = None
    if "clip" in entry:
        result = _decode_clip(entry["clip"])
    elif "counts" in entry:
        pixels = tuple(PixelCount(*_counts(count)) for count in entry["counts"])
        result = ImageCounts(pixels, _counts(entry["kept"]), _counts(entry["masked"]), **_unknown(entry))
    elif "overlaps" in entry:
        released, merged, *sentences = (Overlap(*_counts(overlap)) for overlap in entry["overlaps"])
        result = ReferenceOverlaps(
            released, merged, tuple(sentences), _flag(entry["has_target"]), _flag(entry["is_empty"])
        )
    is_either = isinstance(failure, str) if result is None else failure is None
    if not isinstance(name, str) or not is_either or not math.isfinite(seconds):
        raise ValueError("expected a name, seconds, and a result or a failure")
    return Record(name, float(seconds), result, failure)


def _decode_clip(entry: Mapping[str, Any]) -> ClipScores:
    """Read the scores of a clip."""
    conventions: dict[str, Any] = {}
    for name in ("unsupervised", "semi_supervised"):
        held = entry[name]
        conventions[name] = None if held is None else ObjectScores(_shares(held["j"]), _shares(held["f"]))
    shares: dict[str, Any] = {name: Share(*_counts([entry[name]["count"], entry[name]["total"]])) for name in SHARES}
    return ClipScores(group=str(entry["group"]), frames=_counts([entry["frames"]])[0], **conventions, **shares)


def _shares(values: list[Any]) -> tuple[float, ...]:
    if not all(isinstance(value, float | int) and 0 <= value <= 1 for value in values):
        raise ValueError(f"expected shares of 1, but got {_in_short(values)}")
    return tuple(map(float, values))


def _unknown(entry: Mapping[str, Any]) -> dict[str, int]:
    """Read how many pixels had unknown values, and the first such value, which may be negative."""
    if "unknown" not in entry:
        return {}
    pixels, value = entry["unknown"]
    if type(value) is not int:
        raise ValueError(f"expected a value of a label image, but got {value!r}")
    return {"unknown_pixels": _counts([pixels])[0], "unknown_value": value}


def _counts(values: list[Any]) -> tuple[int, ...]:
    if not all(type(value) is int and 0 <= value < _MOST_PIXELS for value in values):
        raise ValueError(f"expected numbers of pixels or labels, but got {_in_short(values)}")
    return tuple(values)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, but got {value!r}")
    return value


def prediction_path(folder: Path, name: str) -> Path:
    """Return where the predicted label map of an image lies."""
    return folder / "predictions" / f"{name}.png"


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say in one sentence what cannot be written, as on a full disk.

    Raises:
        InputError: something within could not be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"The results cannot be written to {str(folder)!r}: {error.strerror or error}.") from error
