"""Settings: the presets' numbers against the published tables, and every sentence about a setting that cannot be."""

from dataclasses import FrozenInstanceError
from inspect import unwrap

import pytest

from clip_as_rnn.config import (
    VIT_B16,
    VIT_L14,
    SegmenterConfig,
    flat_settings,
    setting_types,
    with_settings,
)
from clip_as_rnn.errors import InputError
from clip_as_rnn.presets import PRESETS, find_preset
from clip_as_rnn.prompts.templates import PHOTO_TEMPLATES, fill
from clip_as_rnn.prompts.word_lists import BACKGROUND_GROUPS, BACKGROUND_PAPER, BACKGROUND_RELEASE

SEMANTIC = ("voc", "coco-object", "context", "pc459", "ade150", "ade847")
REFERRING = ("refcoco", "refcoco+", "refcocog", "gres")

# (eta, theta, lambda, classifier, visual prompts): the paper's table 5 and appendix F, else the authors' configs
PAPER = {
    "voc": (0.4, 0.6, 0.4, VIT_L14, {"circle", "blur"}),
    "coco-object": (0.5, 0.3, 0.5, VIT_L14, {"blur", "gray"}),
    "context": (0.6, 0.2, 0.4, VIT_L14, {"blur", "circle"}),
    "pc459": (0.4, 0.25, 0.7, VIT_L14, {"gray", "blur"}),
    "ade150": (0.6, 0.25, 0.7, VIT_L14, {"gray", "blur"}),
    "ade847": (0.6, 0.25, 0.7, VIT_L14, {"gray", "blur"}),
    "refcoco": (0.5, 0.3, 0.5, VIT_B16, {"circle", "blur"}),
    "refcoco+": (0.2, 0.1, 0.5, VIT_B16, {"circle", "blur"}),
    "refcocog": (0.5, 0.1, 0.6, VIT_B16, {"circle", "blur"}),
    "gres": (0.5, 0.0, 0.3, VIT_L14, {"circle"}),
}
OFFICIAL = PAPER | {
    "context": (0.6, 0.25, 0.4, VIT_L14, {"blur", "circle"}),
    "refcoco": (0.5, 0.3, 0.5, VIT_B16, {"circle"}),
}


def numbers(config):
    classify = config.classify
    prompts = set(classify.visual_prompts)
    return classify.mask_threshold, classify.score_threshold, config.propose.cam_threshold, classify.classifier, prompts


def test_the_presets_are_these():
    names = {"default", "tiny"} | {f"{family}-{name}" for family in ("paper", "official") for name in PAPER}
    assert set(PRESETS) == names


@pytest.mark.parametrize("name", PAPER)
def test_paper_presets_have_the_papers_numbers(name):
    assert numbers(PRESETS[f"paper-{name}"]) == PAPER[name]


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_presets_have_the_configs_numbers(name):
    assert numbers(PRESETS[f"official-{name}"]) == OFFICIAL[name]


@pytest.mark.parametrize("family", ["paper", "official"])
def test_modes_and_templates_are_those_of_the_task(family):
    for name in SEMANTIC:
        config = PRESETS[f"{family}-{name}"]
        assert (config.mode, config.classify.templates, config.propose.model) == ("semantic", PHOTO_TEMPLATES, VIT_B16)
    for name in REFERRING:
        config = PRESETS[f"{family}-{name}"]
        assert (config.mode, config.classify.templates, config.propose.model) == ("referring", (), VIT_B16)


def test_stuff_of_context_has_marks_of_its_own():
    for family in ("paper", "official"):
        assert set(PRESETS[f"{family}-context"].classify.stuff_visual_prompts) == {"blur", "gray"}


@pytest.mark.parametrize("name", PAPER)
def test_paper_presets_have_none_of_the_releases_behaviours(name):
    config = PRESETS[f"paper-{name}"]
    settings, plain = flat_settings(config), flat_settings(SegmenterConfig())
    for setting in (
        "first_proposal_template",
        "foreground_fallback",
        "clamp_boxes",
        "side_multiple_px",
        "half_position_embeddings",
        "template_ensemble",
        "classifier_skipped_blocks",
        "strict_threshold",
        "keep_best",
        "repeat_first_step",
        "crf_image",
        "contrast_texts",
        "classifier_view",
        "max_side_px",
        "crf_max_side_px",
    ):
        assert settings[setting] == plain[setting], setting
    assert config.propose.background_texts == BACKGROUND_PAPER


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_presets_have_all_of_the_releases_behaviours(name):
    config = PRESETS[f"official-{name}"]
    assert config.propose.background_texts == BACKGROUND_RELEASE
    assert config.propose.first_proposal_template == "{}"
    assert config.propose.side_multiple_px == 16
    assert config.classify.classifier_skipped_blocks == 1
    assert config.classify.template_ensemble == "probability"
    assert config.refine.crf_image == "bgr-wrapped"
    assert config.propose.foreground_fallback
    assert config.propose.clamp_boxes
    assert config.propose.half_position_embeddings
    assert config.recurrence.strict_threshold
    assert config.recurrence.keep_best
    assert config.recurrence.repeat_first_step
    assert not config.refine.drop_empty_masks
    assert config.classify.contrast_texts == ()


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_the_crf_is_that_of_the_paper_but_for_the_bundled_model(config):
    deviations = (config.refine.crf_gaussian_xy, config.refine.crf_bilateral_xy)
    weights = (config.refine.crf_gaussian_weight, config.refine.crf_bilateral_weight)
    assert (deviations, weights, config.refine.crf_iterations) == ((1, 67), (3, 4), 10)
    assert config.refine.crf_bilateral_rgb == (3 if config is not PRESETS["tiny"] else 13)


def test_a_lone_text_can_fail_only_where_we_recommend():
    assert {name for name, config in PRESETS.items() if config.classify.contrast_texts} == {"default", "tiny"}


def test_only_tiny_uses_the_bundled_model():
    assert {
        name for name, config in PRESETS.items() if "tiny" in (config.propose.model, config.classify.classifier)
    } == {"tiny"}


def test_texts_of_the_paper_are_counted_right():
    assert [len(group) for group in BACKGROUND_GROUPS.values()] == [32, 44, 36]
    assert len(set(BACKGROUND_PAPER)) == 112
    assert len(set(BACKGROUND_RELEASE)) == 23
    assert set(BACKGROUND_RELEASE) - set(BACKGROUND_PAPER) == {"helmet"}
    assert len(PHOTO_TEMPLATES) == 15


def test_a_text_is_put_into_its_template_as_it_is():
    assert fill("a clean origami {}.", ["cat", "a {brace}"]) == ["a clean origami cat.", "a clean origami a {brace}."]


def test_a_config_never_changes():
    with pytest.raises(FrozenInstanceError):
        SegmenterConfig().mode = "referring"


# What cannot be


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


def test_an_unknown_preset_is_met_with_the_nearest():
    with pytest.raises(
        InputError, match=r"No preset named 'pape-voc'\. Did you mean 'paper-voc'\? Known: default, tiny"
    ):
        find_preset("pape-voc")


def test_a_preset_unlike_any_is_met_with_all_of_them():
    with pytest.raises(InputError, match=r"No preset named 'xyz'\. Known: default, tiny, paper-voc"):
        find_preset("xyz")


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
    names = [name for section in (*sections, SegmenterConfig().refine) for name in vars(section)]
    assert len(names) + 2 == len(set(names)) + 2 == len(flat_settings(SegmenterConfig())) == len(setting_types())
