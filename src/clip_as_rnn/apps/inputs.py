"""From words on a command line to texts and settings. Loads no model library, so that mistakes show at once."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import InputError

_COMMENT = "#"


def gather_texts(given: Sequence[str], file: Path | None) -> list[str]:
    """Join the texts given one by one with those of a file: one per line, empty lines and # comments left out.

    Raises:
        InputError: the file cannot be read, or a text is not Unicode.
    """
    texts = [*given, *(_read_lines(file) if file else ())]
    for text in texts:
        if not text.isprintable() and any("\ud800" <= mark <= "\udfff" for mark in text):  # bytes that were not UTF-8
            raise InputError(f"Expected texts in Unicode, but got {text!r}; check the terminal's encoding.")
    return texts


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
    hints = get_type_hints(SegmenterConfig)
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
    """Name the results of each image after it; where names meet, also regardless of case, -2, -3, ... is added."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        base = path.stem.encode(errors="surrogateescape")[:200].decode(errors="ignore") or "image"  # room for endings
        stem, count = base, 1
        while stem.casefold() in taken:
            count += 1
            stem = f"{base}-{count}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems
