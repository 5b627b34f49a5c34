"""What the command line says: results, presets and messages, on the terminal."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clip_as_rnn.config import SegmenterConfig, flat_settings
from clip_as_rnn.presets import NOT_MEASURED, PRESETS

if TYPE_CHECKING:  # the result module loads torch, which `car --help` must not
    from clip_as_rnn.result import Segmentation

_LISTED = {  # setting: heading, the paper's symbols
    "mode": "mode",
    "mask_threshold": "eta",
    "score_threshold": "theta",
    "cam_threshold": "lambda",
    "visual_prompts": "visual prompts",
    "classifier": "classifier",
}
_LIST_ITEMS = 6
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(words: str) -> str:
    """Write out the signs that a terminal obeys instead of showing: control characters, breaks, turns of direction."""
    return _OBEYED.sub(lambda sign: sign.group().encode("unicode_escape").decode(), words)


def in_table(words: str) -> str:
    """Prepare words of a user's for a table: neither markup nor a sign that a terminal obeys."""
    return escape(plain(words))


def say(message: str, console: Console | None = None) -> None:
    """Print one line as it is, without wrapping or markup; to stderr unless told otherwise."""
    message = plain(message)
    (console or Console(stderr=True)).print(message, soft_wrap=True, markup=False, highlight=False, emoji=False)


def result_table(title: str, segmentation: "Segmentation") -> Table:
    """Make a table of all texts in the order asked: found with score and area, or rejected at which step and why."""
    table = Table(title=in_table(title), title_justify="left")
    for heading in ("text", "result", "score", "remark"):
        table.add_column(heading, justify="right" if heading == "score" else "left")
    shares = {text: float(mask.mean()) for text, mask in zip(segmentation.texts, segmentation.each_mask(), strict=True)}
    scores = dict(zip(segmentation.texts, segmentation.scores, strict=True))
    rejected = {rejection.text: rejection for rejection in segmentation.rejections}
    for text in segmentation.queries:
        if text in shares:
            share = f"covers {shares[text]:.1%} of the image"
            table.add_row(in_table(text), "[bold green]found[/]", f"{scores[text]:.2f}", share)
        elif text in rejected:
            rejection = rejected[text]
            verdict = f"[yellow]rejected at step {rejection.step}[/]"
            table.add_row(f"[dim]{in_table(text)}[/]", verdict, f"{rejection.score:.2f}", escape(rejection.reason))
    return table


def result_line(title: str, found: Mapping[str, float], asked: int) -> str:
    """Say in one line what was found, with its scores, of so many texts."""
    scored = ", ".join(f"{text} {score:.2f}" for text, score in found.items()) or "nothing found"
    return f"{title}: {scored}; {asked - len(found)} rejected"


def paths_line(paths: Sequence[Path | str]) -> str:
    """Say in one line where results were written."""
    return "Wrote " + ", ".join(str(path) for path in paths)


def presets_table() -> Table:
    """Make a table of all presets with the settings in which they differ most."""
    caption = f"car presets NAME shows all settings of one. Not measured on real weights: {', '.join(NOT_MEASURED)}."
    table = Table(caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("preset", no_wrap=True)
    for heading in _LISTED.values():
        table.add_column(heading, no_wrap=True)
    for name, config in PRESETS.items():
        settings = flat_settings(config)
        words = [_shown(settings[setting]) for setting in _LISTED]
        table.add_row(name, *(word.removeprefix("openai/clip-vit-").replace("-patch", "/") for word in words))
    return table


def preset_table(name: str, config: SegmenterConfig) -> Table:
    """Make a table of all settings of one preset; those that differ from the default are marked and set in bold."""
    table = Table(title=f"{name}: * differs from the preset default", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("setting", no_wrap=True)
    table.add_column("value")
    table.add_column("in default", style="dim")
    default = flat_settings(PRESETS["default"])
    for setting, value in flat_settings(config).items():
        if value == default[setting]:
            table.add_row(f"  {setting}", _shown(value), "")
        else:
            table.add_row(f"[bold]* {setting}[/]", f"[bold]{_shown(value)}[/]", _shown(default[setting]))
    return table


def presets_json(configs: Mapping[str, SegmenterConfig]) -> dict[str, dict[str, Any]]:
    """Describe presets in numbers, lists and words only."""
    return {name: flat_settings(config) for name, config in configs.items()}


def _shown(value: object) -> str:
    """Write a setting's value for people; long lists are cut, and say so."""
    if not isinstance(value, tuple):
        return in_table(str(value))
    words = ", ".join(str(item) for item in value[:_LIST_ITEMS]) or "(none)"
    return in_table(words if len(value) <= _LIST_ITEMS else f"{words}, ... {len(value)} in all")
