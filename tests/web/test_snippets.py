"""What the page says of how to repeat a run: the command and the Python lead to the very same settings."""

import shlex
from itertools import pairwise

import pytest

from clip_as_rnn.apps.cli.parsing import parse_settings
from clip_as_rnn.apps.web.snippets import as_command, as_python, differences
from clip_as_rnn.config import with_settings
from clip_as_rnn.presets import find_preset

CHANGES = {
    "model": "some/folder with a space",
    "score_threshold": 0.35,
    "contrast_texts": (),
    "background_texts": ("a, b", "it's"),
    "crf": False,
    "max_side_px": None,
    "sam": "some/sam folder",
    "sam_iou_threshold": None,
}
MODELS = ("--model", "--classifier", "--sam")


def test_the_command_parses_back_to_the_config():
    config = with_settings(find_preset("default"), CHANGES)
    command = as_command("-my photo.jpg", ["cat", "--dog's"], "default", differences(config, find_preset("default")))
    words = shlex.split(command)
    options = list(pairwise(words))
    assert words[:3] == ["car", "segment", "./-my photo.jpg"]
    assert [value for name, value in options if name == "-t"] == ["cat", "--dog's"]
    models = {name.removeprefix("--"): value for name, value in options if name in MODELS}
    settings = parse_settings([value for name, value in options if name == "--set"])
    assert with_settings(find_preset("default"), {**settings, **models}) == config


def test_a_sam_of_the_preset_can_be_turned_off():
    preset = find_preset("paper-voc-sam")
    changes = differences(with_settings(preset, {"sam": None}), preset)
    words = shlex.split(as_command("a.jpg", ["cat"], "paper-voc-sam", changes))
    assert "--sam" not in words
    assert with_settings(preset, parse_settings([words[words.index("--set") + 1]])).refine.sam is None


def test_the_python_runs_to_the_config(monkeypatch):
    made = []
    monkeypatch.setattr(
        "clip_as_rnn.loading.load_segmenter", lambda preset, **settings: made.append((preset, settings))
    )
    config = with_settings(find_preset("default"), CHANGES)
    code = as_python("it's.jpg", ["a 'b'"], "default", differences(config, find_preset("default")))
    with pytest.raises(AttributeError, match="segment"):  # the stand-in makes no segmenter
        exec(code, {})
    ((preset, settings),) = made
    assert with_settings(find_preset(preset), settings) == config
