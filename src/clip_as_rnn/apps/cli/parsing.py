"""From words on a command line to texts and settings. Loads no model library, so that mistakes show at once."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from clip_as_rnn.config import setting_types
from clip_as_rnn.errors import InputError

_COMMENT = "#"
_MAX_BYTES = 10_000_000  # of a file of texts


def gather_texts(given: Sequence[str], file: Path | None) -> list[str]:
    """Join the texts given one by one with those of a file: one per line, empty lines and # comments left out.

    Raises:
        InputError: the file cannot be read.
    """
    return [*given, *(_read_lines(file) if file else ())]


def gather_models(**names: str | None) -> dict[str, str]:
    """Collect the settings of those models that were named: `model`, `classifier`, `sam`."""
    return {setting: name for setting, name in names.items() if name is not None}


def _read_lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)  # of a device, too, there may be more than memory holds
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"The texts file {str(file)!r} cannot be read: {reason}.") from error
    if len(content) > _MAX_BYTES:
        raise InputError(f"Expected a texts file of at most {_MAX_BYTES:,} bytes, but {str(file)!r} is larger.")
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
        if any("\ud800" <= char <= "\udfff" for char in assignment):  # bytes of a terminal that were not UTF-8
            raise InputError(f"Expected settings in Unicode, but got {assignment!r}; check the terminal's encoding.")
        settings[name.strip()] = _parse_value(name.strip(), value.strip(), hints)
    return settings


def choose(name: str, value: str, choices: Any) -> Any:
    """Return a value that is one of a Literal's; `name` is how messages call it.

    Raises:
        InputError: it is not.
    """
    if value not in get_args(choices):
        raise InputError(f"Expected {name} to be one of {', '.join(get_args(choices))}, but got {value!r}.")
    return value


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
    except RecursionError as error:
        raise InputError(f"The value of setting `{name}` has too many brackets for a list of texts.") from error
    return list(parsed)
