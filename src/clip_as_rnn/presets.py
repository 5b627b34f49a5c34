"""The presets: named instances of the configuration.

`default`, `fast`, `fast-*` and `tiny` are ours; `paper-*` hold the paper's numbers (table 5, appendix F), or those of
the authors' configs where it gives none; `paper-*-sam` add SAM to them, `official-*` what the authors' release does
differently, setting by setting.
"""

from collections.abc import Mapping
from typing import Any

from clip_as_rnn.config import (
    BUNDLED,
    METACLIP2_B16,
    METACLIP2_L14,
    SAM_HQ_HUGE,
    SIGLIP2_B16,
    TIPSV2_L14,
    VIT_B16,
    VIT_L14,
    SegmenterConfig,
    with_settings,
)
from clip_as_rnn.errors import InputError, suggest
from clip_as_rnn.prompts.templates import PHOTO
from clip_as_rnn.prompts.word_lists import BACKGROUND_PAPER, BACKGROUND_RELEASE, COMMON_THINGS

_STEADY: Mapping[str, Any] = {  # tuned with the bundled CLIP on clips of other drawings than data/clips has
    "window_frames": 16,
    "context_frames": 4,
    "smooth_frames": 3.0,
    "smooth_scale": 4,
    "evidence_frames": 2.0,
    "stay_share": 0.7,
    "sam_track_frames": 16,  # not measured
}
_DEFAULT: Mapping[str, Any] = {
    **_STEADY,
    "max_side_px": 640,
    "background_texts": BACKGROUND_PAPER,
    "drop_asked_background": True,
    "contrast_texts": BACKGROUND_RELEASE,
    "score_threshold": 0.4,
    "classifier_view": "whole",
}
_FAST: Mapping[str, Any] = {  # its thresholds are reasoned, and not measured on real weights
    **_DEFAULT,
    "classify_by": "mask-tokens",
}
_PLAIN: Mapping[str, Any] = {"first_proposal_template": PHOTO, "proposal_template": PHOTO}  # origami is CLIP's
_OTHER_FAMILIES: Mapping[str, Mapping[str, Any]] = {  # likewise; one image pass serves both stages but for MetaCLIP 2's
    "fast-metaclip2": {**_FAST, "model": METACLIP2_B16, "classifier": METACLIP2_L14},
    "fast-siglip2": {**_FAST, **_PLAIN, "model": SIGLIP2_B16, "classifier": SIGLIP2_B16},
    "fast-tipsv2": {
        **{**_FAST, **_PLAIN, "model": TIPSV2_L14, "classifier": TIPSV2_L14},
        "proposals": "dense",  # its patches were trained against texts
    },
}
OTHER_FAMILIES = tuple(_OTHER_FAMILIES)  # presets whose models are no CLIPs
NOT_MEASURED = ("fast", *OTHER_FAMILIES)  # presets of ours whose masks nobody has measured on real weights
_TINY: Mapping[str, Any] = {
    **_DEFAULT,
    "model": BUNDLED,
    "classifier": BUNDLED,
    "proposals": "dense",
    "background_texts": BACKGROUND_RELEASE,
    "contrast_texts": BACKGROUND_RELEASE + COMMON_THINGS,
    "affinity_layers": 0,
    "mask_threshold": 0.2,
    "classify_by": "mask-tokens",
    "score_threshold": 0.14,
    "score_threshold_texts": 40,
    "certainty_weight": 0.7,
    "visual_prompts": ("black",),
    "max_side_px": 192,  # the largest that it was trained on
    "patch_shifts": 2,
    "smooth_scale": 2,
    "crf_max_side_px": 640,
    "crf_bilateral_xy": 40.0,
    "crf_bilateral_rgb": 13.0,
    "crf_bilateral_weight": 8.0,
    "background_factor": 3.0,
    "score_weight": 0.25,
    "part_weight": 2.0,
}
_PAPER: Mapping[str, Any] = {
    "background_texts": BACKGROUND_PAPER,
    "visual_prompts": ("circle", "blur"),
    "drop_empty_masks": False,
}
_OFFICIAL: Mapping[str, Any] = {
    "background_texts": BACKGROUND_RELEASE,
    "first_proposal_template": "{}",
    "foreground_fallback": True,
    "clamp_boxes": True,
    "side_multiple_px": 16,
    "half_position_embeddings": True,
    "template_ensemble": "probability",
    "classifier_skipped_blocks": 1,
    "strict_threshold": True,
    "keep_best": True,
    "repeat_first_step": True,
    "crf_image": "bgr-wrapped",
}
_SEMANTIC: Mapping[str, Mapping[str, Any]] = {
    "voc": {"mask_threshold": 0.4, "score_threshold": 0.6, "cam_threshold": 0.4},
    "coco-object": {
        **{"mask_threshold": 0.5, "score_threshold": 0.3, "cam_threshold": 0.5},
        "visual_prompts": ("blur", "gray"),
    },
    "context": {
        **{"mask_threshold": 0.6, "score_threshold": 0.2, "cam_threshold": 0.4},
        "visual_prompts": ("blur", "circle"),
        "stuff_visual_prompts": ("blur", "gray"),
    },
    "pc459": {
        **{"mask_threshold": 0.4, "score_threshold": 0.25, "cam_threshold": 0.7},
        "visual_prompts": ("gray", "blur"),
    },
    "ade150": {
        **{"mask_threshold": 0.6, "score_threshold": 0.25, "cam_threshold": 0.7},
        "visual_prompts": ("gray", "blur"),
    },
    "ade847": {
        **{"mask_threshold": 0.6, "score_threshold": 0.25, "cam_threshold": 0.7},
        "visual_prompts": ("gray", "blur"),
    },
}
_REFERRING: Mapping[str, Mapping[str, Any]] = {
    "refcoco": {"classifier": VIT_B16, "mask_threshold": 0.5, "score_threshold": 0.3, "cam_threshold": 0.5},
    "refcoco+": {"classifier": VIT_B16, "mask_threshold": 0.2, "score_threshold": 0.1, "cam_threshold": 0.5},
    "refcocog": {"classifier": VIT_B16, "mask_threshold": 0.5, "score_threshold": 0.1, "cam_threshold": 0.6},
    "ref-davis17": {  # the paper says no more than "only dense CRF": every frame by itself, as in RefCOCO
        **{"classifier": VIT_B16, "mask_threshold": 0.5, "score_threshold": 0.3, "cam_threshold": 0.5},
    },
    "gres": {
        **{"classifier": VIT_L14, "mask_threshold": 0.5, "score_threshold": 0.0, "cam_threshold": 0.3},
        "visual_prompts": ("circle",),
    },
}
_OFFICIAL_NUMBERS: Mapping[str, Mapping[str, Any]] = {  # where the authors' configs and the paper disagree
    "context": {"score_threshold": 0.25},
    "refcoco": {"visual_prompts": ("circle",)},
}
_UNRELEASED = ("ref-davis17",)  # the release has no code for clips
_SAM: Mapping[str, Any] = {"sam": SAM_HQ_HUGE, "sam_mode": "automatic"}  # thresholds: the paper's are the defaults
_WITH_SAM = ("voc", "coco-object", "context")  # for which the paper reports it


def _presets() -> dict[str, SegmenterConfig]:
    paper = {name: {**_PAPER, **numbers} for name, numbers in _SEMANTIC.items()}
    paper |= {name: {**_PAPER, "mode": "referring", "templates": (), **both} for name, both in _REFERRING.items()}
    named: dict[str, Mapping[str, Any]] = {"default": _DEFAULT, "fast": _FAST, "tiny": _TINY, **_OTHER_FAMILIES}
    named |= {f"paper-{name}": settings for name, settings in paper.items()}
    named |= {f"paper-{name}-sam": {**paper[name], **_SAM} for name in _WITH_SAM}
    named |= {
        f"official-{name}": {**settings, **_OFFICIAL, **_OFFICIAL_NUMBERS.get(name, {})}
        for name, settings in paper.items()
        if name not in _UNRELEASED
    }
    return {name: with_settings(SegmenterConfig(), settings) for name, settings in named.items()}


PRESETS: Mapping[str, SegmenterConfig] = _presets()


def find_preset(name: str) -> SegmenterConfig:
    """Look a preset up by name.

    Raises:
        InputError: there is none; the message holds the nearest name and all known ones.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"No preset named {name!r}.{suggest(str(name), list(PRESETS))}")
    return PRESETS[name]
