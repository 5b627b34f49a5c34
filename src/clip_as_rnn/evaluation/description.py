"""What a run was made with: data set, every setting, models, software. Runs that differ in any of it never mix."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clip_as_rnn import __version__
from clip_as_rnn.config import flat_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.records import read_json, write_json
from clip_as_rnn.evaluation.segmenting import Segmenting

_PACKAGES = ("torch", "transformers", "numpy", "opencv-python-headless", "pillow", "pycocotools")
_FILE = "run.json"
_LISTED = 4  # entries of a list that a message repeats
_DIGITS = 16  # of a digest


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices of the evaluation itself; those of no use to a kind of data set are None."""

    dataset: str
    split: str
    passes: str | None
    asked: str | None
    texts: str | None


@dataclass(frozen=True, slots=True)
class RunDescription:
    """Everything that a result depends on, ready for JSON."""

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


def describe_run(preset: str, choices: Choices, segmenter: Segmenting) -> RunDescription:
    """Describe a run with the segmenter at hand."""
    return RunDescription(
        preset=preset,
        protocol=asdict(choices),
        settings={name: _plain(value) for name, value in sorted(flat_settings(segmenter.config).items())},
        models=dict(sorted(segmenter.describe().items())),
        software=_software(),
    )


def digest_run(description: RunDescription, names: Sequence[str]) -> str:
    """Return what marks the results of runs that are made alike on the same images: 16 hexadecimal digits."""
    content = json.dumps([asdict(description), list(names)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]


def claim_folder(folder: Path, description: RunDescription) -> None:
    """Write the description into an output folder, or check that the run already there has the same one.

    Raises:
        InputError: it differs; the message names the first difference and the way out.
    """
    if not (folder / _FILE).exists():
        write_json(folder / _FILE, asdict(description))
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
    try:
        return RunDescription(**read_json(folder / _FILE))
    except TypeError as error:
        raise InputError(f"Expected the description of a run in {folder / _FILE}, but: {error}.") from error


def list_differences(first: RunDescription, second: RunDescription) -> tuple[Discrepancy, ...]:
    """List every entry in which two descriptions differ."""
    return tuple(_differing(asdict(first), asdict(second)))


def _differing(found: Any, asked: Any, name: str = "") -> Iterator[Discrepancy]:
    if isinstance(found, Mapping) and isinstance(asked, Mapping):
        for key in sorted({*found, *asked}):
            yield from _differing(found.get(key), asked.get(key), f"{name}.{key}" if name else str(key))
    elif found != asked:
        yield Discrepancy(name, _in_short(found), _in_short(asked))


def _in_short(value: Any) -> str:
    """Write a value; of a long list, how many entries it has and the first ones."""
    if isinstance(value, list) and len(value) > _LISTED:
        return f"{len(value)} entries ({', '.join(str(item) for item in value[:_LISTED])}, ...)"
    return repr(value)


def _software() -> dict[str, str]:
    return {
        "clip-as-rnn": __version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plain(value: Any) -> Any:
    """Turn tuples into lists, as JSON gives them back."""
    return list(value) if isinstance(value, tuple) else value
