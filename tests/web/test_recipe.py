"""What the page says of how to repeat a run: the command and the Python lead to the very same settings."""

import shlex
from itertools import pairwise

import pytest

from clip_as_rnn.apps.cli.parsing import parse_settings
from clip_as_rnn.apps.web.controls import CONTROLS, chosen_settings, offered_presets
from clip_as_rnn.apps.web.recipe import as_command, as_python, differences
from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.presets import PRESETS, find_preset

CHANGES = {
    "model": "some/folder with a space",
    "score_threshold": 0.35,
    "contrast_texts": (),
    "background_texts": ("a, b", "it's"),
    "crf": False,
    "max_side_px": None,
}


def test_the_command_parses_back_to_the_config():
    config = with_settings(find_preset("default"), CHANGES)
    command = as_command("-my photo.jpg", ["cat", "--dog's"], "default", differences(config, find_preset("default")))
    words = shlex.split(command)
    options = list(pairwise(words))
    assert words[:3] == ["car", "segment", "./-my photo.jpg"]
    assert [value for name, value in options if name == "-t"] == ["cat", "--dog's"]
    models = {name.removeprefix("--"): value for name, value in options if name in ("--model", "--classifier")}
    settings = parse_settings([value for name, value in options if name == "--set"])
    assert with_settings(find_preset("default"), {**settings, **models}) == config


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


@pytest.mark.parametrize("name", PRESETS)
def test_an_untouched_preset_differs_in_nothing(name):
    """What its controls show, read back, is the preset itself."""
    preset = PRESETS[name]
    settings = chosen_settings(preset, preset.mode, [control.value(preset) for control in CONTROLS], long_side_px=500)
    assert with_settings(preset, settings) == preset


def test_a_large_picture_is_given_a_limit_where_the_preset_has_none():
    for name, limit in (("paper-voc", 1024), ("default", PRESETS["default"].max_side_px)):
        preset = PRESETS[name]
        values = [control.value(preset) for control in CONTROLS]
        assert chosen_settings(preset, preset.mode, values, long_side_px=4000)["max_side_px"] == limit


def test_the_page_opens_with_the_preset_it_was_started_with():
    for name in PRESETS:
        assert PRESETS[next(iter(offered_presets(PRESETS[name])))] == PRESETS[name]  # some are equal but for the name
    own = with_settings(find_preset("default"), {"score_threshold": 0.123})
    assert next(iter(offered_presets(own))) == "as started"
    assert next(iter(offered_presets(with_settings(find_preset("paper-voc"), {"model": "mine"})))) == "paper-voc"


def test_all_presets_are_offered_on_the_loaded_models():
    offered = offered_presets(with_settings(SegmenterConfig(), {"model": "mine", "classifier": "yours"}))
    assert set(PRESETS) <= set(offered)
    assert {(config.propose.model, config.classify.classifier) for config in offered.values()} == {("mine", "yours")}
