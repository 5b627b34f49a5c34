"""The same run again, without the page: as a command line and as Python."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from clip_as_rnn.config import SegmenterConfig, flat_settings

_MODELS = ("model", "classifier", "sam")


def differences(config: SegmenterConfig, base: SegmenterConfig) -> dict[str, Any]:
    """List the settings in which `config` is not `base`, by name."""
    ours, theirs = flat_settings(config), flat_settings(base)
    return {name: value for name, value in ours.items() if value != theirs[name]}


def as_command(image: str, texts: Sequence[str], preset: str, changes: Mapping[str, Any]) -> str:
    """Write the run as a command for a POSIX shell; it writes all that the page offers to download."""
    words = ["car", "segment", f"./{image}" if image.startswith("-") else image]
    for text in texts:
        words += ["-t", text]
    words += ["--preset", preset]
    for name, value in changes.items():
        words += [f"--{name}", value] if name in _MODELS and value else ["--set", f"{name}={_assigned(value)}"]
    return shlex.join([*words, "--figure"])


def as_python(image: str, texts: Sequence[str], preset: str, changes: Mapping[str, Any]) -> str:
    """Write the run as Python."""
    settings = "".join(f", {name}={value!r}" for name, value in changes.items())
    return "\n".join(
        (
            "from clip_as_rnn import load_segmenter",
            "",
            f"segmenter = load_segmenter({preset!r}{settings})",
            f"result = segmenter.segment({image!r}, {list(texts)!r}, trace=True)",
            "print(result.texts, result.scores, result.rejections)",
        )
    )


def _assigned(value: object) -> str:
    """Write a value as `car segment --set` reads it."""
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False) if value else "none"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
