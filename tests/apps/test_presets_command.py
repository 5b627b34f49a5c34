"""`car presets` and `car --version`: what they print."""

import json
from collections.abc import Callable

import clip_as_rnn
import command
from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.presets import PRESETS
from command import Ending

car, loads, photo = command.car, command.loads, command.photo  # fixtures


def test_presets_are_listed_and_shown(car: Callable[..., Ending]):
    listed = car("presets").out
    assert all(f" {name} " in listed for name in PRESETS)
    shown = [line.split() for line in car("presets", "paper-voc").out.splitlines()]
    assert ["*", "score_threshold", "0.6", "0.4"] in shown
    assert ["mask_threshold", "0.4"] in shown


def test_presets_are_printed_for_programs(car: Callable[..., Ending]):
    every = json.loads(car("presets", "--json").out)
    assert set(every) == set(PRESETS)
    one = json.loads(car("presets", "tiny", "--json").out)
    assert with_settings(SegmenterConfig(), {k: v for k, v in one["tiny"].items() if v is not None}) == PRESETS["tiny"]


def test_an_unknown_preset_is_refused(car: Callable[..., Ending]):
    end = car("presets", "tini")
    assert end.code == 2
    assert end.err.startswith("Error: No preset named 'tini'. Did you mean 'tiny'? Known: default, ")


def test_version_is_printed(car: Callable[..., Ending]):
    end = car("--version")
    assert (end.code, end.out) == (0, f"clip-as-rnn {clip_as_rnn.__version__}\n")
