"""Reads the JSON files of model folders, which may come from anybody."""

import json
from pathlib import Path
from typing import Any

_MAX_JSON_BYTES = 64 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        ValueError: it holds something else, or nothing, or too much.
        OSError: it cannot be read.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path.name} has more than {_MAX_JSON_BYTES >> 20} MiB")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON file ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content
