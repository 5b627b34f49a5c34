"""From words on a command line to texts and settings. Loads no model library, so that mistakes show at once."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args, get_origin

from clip_as_rnn.config import setting_types
from clip_as_rnn.errors import InputError

_COMMENT = "#"
_RESERVED_ENDING = "_labels"  # a_labels.json holds the classes of a, and would be the record of a_labels
_STEM_BYTES = 200  # of 255 that file systems allow; the rest is for endings
_LAST_LEVEL = 2


def gather_texts(given: Sequence[str], file: Path | None) -> list[str]:
    """Join the texts given one by one with those of a file: one per line, empty lines and # comments left out.

    Raises:
        InputError: the file cannot be read.
    """
    return [*given, *(_read_lines(file) if file else ())]


def _read_lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"The texts file {str(file)!r} cannot be read: {reason}.") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith(_COMMENT)]


def merged_away(given: Sequence[str], kept: Sequence[str]) -> list[str]:
    """List the texts that were given but merged into others."""
    left, away = set(kept), []
    for text in given:
        if text.strip() in left:
            left.remove(text.strip())
        else:
            away.append(text)
    return away


def parse_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE as the type of the setting of that name; an unknown name is kept for the config to refuse.

    Lists are written with commas (`blur,circle`) or as JSON (`["a, b", "c"]`); `none` and an empty value mean none.

    Raises:
        InputError: there is no = in it, or the value cannot be read.
    """
    settings: dict[str, Any] = {}
    hints = setting_types()
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"Expected a setting as NAME=VALUE, but got {assignment!r}.")
        settings[name.strip()] = _parse_value(name.strip(), value.strip(), hints)
    return settings


def _parse_value(name: str, value: str, hints: Mapping[str, Any]) -> Any:
    hint = hints.get(name, str)
    kinds = {get_origin(kind) or kind for kind in (hint, *get_args(hint))}
    if value.lower() in ("none", "null", "") and (type(None) in kinds or tuple in kinds):
        return None if type(None) in kinds else ()
    if tuple in kinds:
        return tuple(_parse_json(name, value) if value.startswith("[") else (item.strip() for item in value.split(",")))
    if bool in kinds and value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return number(value)
            except ValueError:
                continue
    return value


def _parse_json(name: str, value: str) -> list[Any]:
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError(f"The value of setting `{name}` is not JSON: {error}.") from error
    return list(parsed)


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """Name the results of each image after it, whatever the order of the images.

    Images that would share a name, also regardless of case, take their suffix into it (a_jpg, a_png), and if they still
    do, a digest of their path. So does a name that ends as files of results do: a_labels.json is of a.
    """
    levels = [int(path.stem.casefold().endswith(_RESERVED_ENDING)) for path in paths]
    while True:
        stems = [_stem(path, level) for path, level in zip(paths, levels, strict=True)]
        counts = Counter(stem.casefold() for stem in stems)
        meeting = [i for i, stem in enumerate(stems) if counts[stem.casefold()] > 1 and levels[i] < _LAST_LEVEL]
        if not meeting:
            return stems
        for i in meeting:
            levels[i] += 1


def _stem(path: Path, level: int) -> str:
    """Name an image's results: by its stem, also by its suffix, or also by a digest of its path."""
    stem = path.stem.encode(errors="surrogateescape")[:_STEM_BYTES].decode(errors="ignore") or "image"
    suffix = f"_{path.suffix.removeprefix('.')}" if level > 0 else ""
    whole = str(path).encode(errors="surrogateescape")
    return stem + suffix + (f"-{blake2b(whole, digest_size=4).hexdigest()}" if level == _LAST_LEVEL else "")
