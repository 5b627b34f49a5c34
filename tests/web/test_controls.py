"""What the page offers to choose, and what of it a visitor may give."""

from pathlib import Path

import pytest

from clip_as_rnn.apps.web.controls import (
    CONTROLS,
    EXAMPLES,
    bounded_texts,
    chosen_settings,
    offered_controls,
    offered_presets,
)
from clip_as_rnn.config import SegmenterConfig, flat_settings, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.presets import OTHER_FAMILIES, PRESETS, find_preset


def _chosen(name, **changes):
    """Collect the settings of a run that takes a preset as it is, but for some controls."""
    preset = PRESETS[name]
    values = [changes.get(control.setting, control.value(preset)) for control in CONTROLS]
    return chosen_settings(preset, preset.mode, values, long_side_px=500)


@pytest.mark.parametrize("name", PRESETS)
def test_an_untouched_preset_differs_in_nothing(name):
    """What its controls show, read back, is the preset itself."""
    preset = PRESETS[name]
    values = [control.value(preset) for control in offered_controls(preset)]
    settings = chosen_settings(preset, preset.mode, values, long_side_px=500)
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
    assert {name for name, preset in PRESETS.items() if preset.refine.sam is None} - {*OTHER_FAMILIES} <= set(offered)
    assert {(config.propose.model, config.classify.classifier) for config in offered.values()} == {("mine", "yours")}


def test_presets_of_other_families_are_offered_only_where_the_page_was_started_with_one():
    assert not set(OTHER_FAMILIES) & set(offered_presets(PRESETS["default"]))
    assert set(OTHER_FAMILIES) & set(offered_presets(PRESETS["fast-tipsv2"])) == {"fast-tipsv2"}


def test_presets_made_for_a_sam_are_offered_only_where_the_page_was_started_with_one():
    """Their grid of points would keep other visitors waiting for minutes."""
    for started in (PRESETS["default"], with_settings(PRESETS["default"], {"sam": "a/sam"})):
        assert not any(name.endswith("-sam") for name in offered_presets(started))
    assert [name for name in offered_presets(PRESETS["paper-voc-sam"]) if name.endswith("-sam")] == ["paper-voc-sam"]


def test_a_theta_that_depends_on_the_number_of_texts_says_so():
    (theta,) = (control for control in CONTROLS if control.setting == "score_threshold")
    assert " This is for 40 texts; fewer must score more. Preset: " in theta.info(PRESETS["tiny"])
    assert "texts" not in theta.info(PRESETS["default"])


def test_a_switch_for_sam_appears_where_one_is_loaded():
    assert offered_controls(PRESETS["default"]) == CONTROLS
    started = with_settings(PRESETS["tiny"], {"sam": "a/sam"})
    for preset in offered_presets(started).values():
        *_, switch = offered_controls(preset)
        assert (switch.setting, switch.value(preset)) == ("sam", True)
        others = [control.value(preset) for control in CONTROLS]
        for value, sam in ((True, "a/sam"), (False, None)):
            assert chosen_settings(preset, preset.mode, [*others, value], long_side_px=500)["sam"] == sam
        with pytest.raises(InputError, match=r"^Expected on or off as 'Refine by SAM'\.$"):
            chosen_settings(preset, preset.mode, [*others, "a/nother"], long_side_px=500)


@pytest.mark.parametrize("setting", ["background_texts", "contrast_texts"])
def test_a_visitor_adds_a_bounded_number_of_texts_to_a_presets(setting):
    """All of a preset's are allowed, however many; they are encoded once."""
    given = flat_settings(PRESETS["default"])[setting]
    own = [f"thing {i}" for i in range(40)]
    assert _chosen("default", **{setting: [*own, *given, *given]})[setting] == (*own, *given)
    with pytest.raises(InputError, match=r"at most 40 texts of your own as '(Background|Contrast) texts'.* but got 41"):
        _chosen("default", **{setting: [*own, "one more", *given]})


@pytest.mark.parametrize("setting", ["background_texts", "contrast_texts"])
def test_a_visitors_text_is_not_endless(setting):
    assert _chosen("default", **{setting: ["x" * 300]})[setting] == ("x" * 300,)
    with pytest.raises(InputError, match=r"Expected a text of at most 300 characters, but 'x{30}'... is longer"):
        _chosen("default", **{setting: ["x" * 301]})


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.setting)
@pytest.mark.parametrize("value", [{"a": []}, "x", 5, [[]], [None], float("nan")])
def test_what_no_control_sends_is_an_error_of_input(control, value):
    with pytest.raises(InputError):
        with_settings(find_preset("default"), _chosen("default", **{control.setting: value}))


def test_the_examples_are_those_of_the_repository():
    examples = Path(__file__).parents[2] / "examples"
    assert {path.name: path.read_bytes() for path in EXAMPLES} == {
        path.name: path.read_bytes() for path in examples.glob("*.jpg")
    }


def test_texts_asked_twice_count_once():
    assert bounded_texts(["cat"] * 1000, "What to look for") == ("cat",)
