"""Settings: the presets' numbers against the published tables, and every sentence about a setting that cannot be."""

from dataclasses import FrozenInstanceError
from inspect import unwrap

import pytest

from clip_as_rnn.config import (
    SegmenterConfig,
    flat_settings,
    setting_types,
    with_settings,
)
from clip_as_rnn.errors import InputError
from clip_as_rnn.presets import PRESETS


def test_a_config_never_changes():
    with pytest.raises(FrozenInstanceError):
        SegmenterConfig().mode = "referring"


def make(**settings):
    """Make a config past the check of types in the tests, which would speak before ours."""
    return unwrap(with_settings)(SegmenterConfig(), settings)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True])
@pytest.mark.parametrize("name", ["mask_threshold", "score_threshold", "cam_threshold"])
def test_thresholds_lie_between_0_and_1(name, value):
    with pytest.raises(
        InputError, match=rf"Expected setting `{name}` to be a number from 0.0 to 1.0, but got {value}\."
    ):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        ("affinity_layers", -1, "from 0 to 1000"),
        ("classifier_skipped_blocks", -1, "from 0 to 1000"),
        ("crf_iterations", 1001, "from 0 to 1000"),
        ("crf_bilateral_rgb", 0, "from 1e-06 to 1000000.0"),
        ("crf_gaussian_weight", -1, "from 0.0 to 1000000.0"),
        ("background_factor", 0, "from 1e-06 to 1000000.0"),
        ("max_steps", -1, "from 0 to 100000"),
        ("max_side_px", 15, "from 16 to 100000"),
        ("crf_max_side_px", 15, "from 16 to 100000"),
        ("side_multiple_px", 0, "from 1 to 100000"),
    ],
)
def test_numbers_have_their_ranges(name, value, range_):
    with pytest.raises(InputError, match=rf"Expected setting `{name}` to be a number {range_}, but got {value}\."):
        make(**{name: value})


@pytest.mark.parametrize("name", ["affinity_layers", "crf_iterations", "max_steps", "max_side_px", "crf_max_side_px"])
def test_counts_are_whole_numbers(name):
    with pytest.raises(InputError, match=rf"Expected setting `{name}` to be a whole number, but got 20\.5\."):
        make(**{name: 20.5})


@pytest.mark.parametrize("name", ["model", "proposal_template"])
def test_texts_are_texts(name):
    with pytest.raises(InputError, match=rf"Expected setting `{name}` to be a text, but got 3\."):
        make(**{name: 3})


def test_a_choice_names_its_values():
    with pytest.raises(
        InputError, match=r"Expected setting `mode` to be one of semantic, referring, but got 'panoptic'\."
    ):
        make(mode="panoptic")


def test_a_switch_is_true_or_false():
    with pytest.raises(InputError, match=r"Expected setting `keep_best` to be true or false, but got 'yes'\."):
        make(keep_best="yes")


@pytest.mark.parametrize("value", ["sky", ("sky", " "), ("sky", 3)])
def test_lists_of_texts_hold_words(value):
    with pytest.raises(
        InputError, match=r"Expected setting `stuff_visual_prompts` to be a tuple of texts, but got 3\."
    ):
        make(stuff_visual_prompts=3)
    with pytest.raises(InputError, match=r"Expected setting `background_texts` to be a tuple of texts, but got .*sky"):
        make(background_texts=value)


def test_texts_of_settings_are_in_unicode():
    with pytest.raises(InputError, match=r"Expected setting `background_texts` in Unicode, but got '\\ud800'\."):
        with_settings(SegmenterConfig(), {"background_texts": ("sky", "\ud800")})


def test_an_unknown_visual_prompt_is_met_with_the_nearest():
    with pytest.raises(
        InputError, match=r"No visual prompt named 'grey'\. Did you mean 'gray'\? Known: blur, gray, black"
    ):
        make(visual_prompts=("grey",))
    with pytest.raises(InputError, match=r"No visual prompt named 'ring'\."):
        make(stuff_visual_prompts=("ring",))


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
@pytest.mark.parametrize("name", ["first_proposal_template", "proposal_template", "templates"])
def test_a_template_has_one_place_for_the_text(name, template):
    with pytest.raises(InputError, match=rf"Expected a template with exactly one \{{\}}, but got '{template}'\."):
        make(**{name: (template,) if name == "templates" else template})


def test_an_unknown_setting_is_met_with_the_nearest():
    with pytest.raises(
        InputError, match=r"No setting named 'mask_treshold'\. Did you mean 'mask_threshold'\? Known: mode"
    ):
        make(mask_treshold=0.5)


def test_lists_become_tuples_and_none_an_empty_one():
    config = make(templates=None, visual_prompts=["circle"], max_steps=None)
    assert (config.classify.templates, config.classify.visual_prompts, config.recurrence.max_steps) == (
        (),
        ("circle",),
        None,
    )
    assert make(stuff_visual_prompts=["gray"]).classify.stuff_visual_prompts == ("gray",)
    assert make(stuff_visual_prompts=None).classify.stuff_visual_prompts is None


def test_what_is_not_set_stays():
    changed = with_settings(PRESETS["official-voc"], {"crf": False})
    assert flat_settings(changed) == {**flat_settings(PRESETS["official-voc"]), "crf": False}


def test_every_setting_has_a_name_of_its_own():
    sections = [SegmenterConfig().propose, SegmenterConfig().classify, SegmenterConfig().recurrence]
    sections += [SegmenterConfig().refine, SegmenterConfig().video]
    names = [name for section in sections for name in vars(section)]
    assert len(names) + 2 == len(set(names)) + 2 == len(flat_settings(SegmenterConfig())) == len(setting_types())
