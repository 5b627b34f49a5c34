"""The presets' numbers against the published tables, and the names they are found by."""

from dataclasses import replace

import pytest

from clip_as_rnn.config import (
    VIT_B16,
    VIT_L14,
    SegmenterConfig,
    VideoConfig,
    flat_settings,
)
from clip_as_rnn.errors import InputError
from clip_as_rnn.presets import NOT_MEASURED, OTHER_FAMILIES, PRESETS, find_preset
from clip_as_rnn.prompts.templates import PHOTO_TEMPLATES
from clip_as_rnn.prompts.word_lists import BACKGROUND_PAPER, BACKGROUND_RELEASE

SEMANTIC = ("voc", "coco-object", "context", "pc459", "ade150", "ade847")
WITH_SAM = ("voc", "coco-object", "context")
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
    names = {"default", "fast", "tiny", *OTHER_FAMILIES} | {
        f"{family}-{name}" for family in ("paper", "official") for name in PAPER
    }
    names |= {f"paper-{name}-sam" for name in WITH_SAM}
    assert set(PRESETS) == names | {"paper-ref-davis17"}  # of which the authors released no code


def test_clips_are_steadied_in_our_presets_alone():
    steady = PRESETS["default"].video
    assert steady == PRESETS["fast"].video != VideoConfig()
    assert PRESETS["tiny"].video == replace(steady, smooth_scale=2)  # of proposals that are twice as fine as patches
    for name in set(PRESETS) - {"default", "tiny", "fast", *OTHER_FAMILIES}:
        assert PRESETS[name].video == VideoConfig()


@pytest.mark.parametrize("name", WITH_SAM)
def test_presets_with_sam_are_their_siblings_with_the_papers_sam(name):
    settings, sibling = flat_settings(PRESETS[f"paper-{name}-sam"]), flat_settings(PRESETS[f"paper-{name}"])
    assert {one: value for one, value in settings.items() if value != sibling[one]} == {
        "sam": "syscv-community/sam-hq-vit-huge",
        "sam_mode": "automatic",
    }
    assert (settings["sam_iom_threshold"], settings["sam_iou_threshold"]) == (0.7, 0.7)
    grid = ("sam_overlap_floor", "sam_points_per_side", "sam_predicted_iou", "sam_stability", "sam_box_nms")
    assert tuple(settings[one] for one in grid) == (0.05, 64, 0.88, 0.95, 0.7)  # the authors' voc.yaml


def test_without_being_asked_for_sam_is_off():
    assert {name for name, config in PRESETS.items() if config.refine.sam} == {f"paper-{name}-sam" for name in WITH_SAM}


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
def test_paper_presets_have_none_of_the_releases_behaviors(name):
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
def test_official_presets_have_all_of_the_releases_behaviors(name):
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
    own = config is PRESETS["tiny"]
    assert (deviations, weights) == (((1, 40), (3, 8)) if own else ((1, 67), (3, 4)))
    assert (config.refine.crf_bilateral_rgb, config.refine.crf_iterations) == (13 if own else 3, 10)


def test_a_lone_text_can_fail_only_where_we_recommend():
    assert {name for name, config in PRESETS.items() if config.classify.contrast_texts} == {
        *("default", "fast", "tiny", *OTHER_FAMILIES)
    }


def test_masks_are_judged_by_mask_tokens_only_where_we_recommend():
    by_tokens = {name for name, config in PRESETS.items() if config.classify.classify_by == "mask-tokens"}
    assert by_tokens == {"fast", "tiny", *OTHER_FAMILIES}


def test_scores_are_mixed_and_scaled_for_the_bundled_model_alone():
    off = {
        **{"certainty_weight": 0.0, "score_threshold_texts": None, "score_weight": 0.0},
        **{"part_weight": 0.0, "patch_shifts": 1},
    }
    for name, config in PRESETS.items():
        settings = flat_settings(config)
        assert {one for one in off if settings[one] != off[one]} == (set(off) if name == "tiny" else set())


def test_fast_is_default_with_mask_tokens():
    default, fast = flat_settings(PRESETS["default"]), flat_settings(PRESETS["fast"])
    assert {name for name in default if default[name] != fast[name]} == {"classify_by"}


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_presets_of_other_families_are_fast_but_for_models_and_wording(name):
    fast, other = flat_settings(PRESETS["fast"]), flat_settings(PRESETS[name])
    changed = {setting for setting in fast if fast[setting] != other[setting]}
    assert {"model", "classifier"} <= changed
    assert changed <= {"model", "classifier", "proposals", "proposal_template", "first_proposal_template"}
    assert name in NOT_MEASURED


def test_only_tiny_uses_the_bundled_model():
    assert {
        name for name, config in PRESETS.items() if "tiny" in (config.propose.model, config.classify.classifier)
    } == {"tiny"}


def test_an_unknown_preset_is_met_with_the_nearest():
    with pytest.raises(
        InputError, match=r"No preset named 'pape-voc'\. Did you mean 'paper-voc'\? Known: default, fast, tiny"
    ):
        find_preset("pape-voc")


def test_a_preset_unlike_any_is_met_with_all_of_them():
    with pytest.raises(InputError, match=r"No preset named 'xyz'\. Known: default, fast, tiny, fast-metaclip2"):
        find_preset("xyz")
