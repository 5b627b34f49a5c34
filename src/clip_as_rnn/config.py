"""Every setting of the segmenter, and the presets: instances of one frozen class.

The comment of each field names the paper's symbol where it has one. Settings that exist only because the authors'
release differs from the paper say so; `docs/official.md` lists them all. Importing this module loads no model library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from clip_as_rnn.errors import InputError
from clip_as_rnn.prompts.texts import (
    BACKGROUND_GROUPS,
    BACKGROUND_RELEASE,
    COMMON_THINGS,
    ORIGAMI,
    PHOTO_TEMPLATES,
    VISUAL_PROMPTS,
    VisualPrompt,
)

Mode = Literal["semantic", "referring"]
BACKGROUND_PAPER = tuple(text for group in BACKGROUND_GROUPS.values() for text in group)

VIT_B16 = "openai/clip-vit-base-patch16"
VIT_L14 = "openai/clip-vit-large-patch14"
BUNDLED = "tiny"  # the CLIP in assets/tiny


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """All settings of one segmenter. Instances are checked when made and never change.

    Raises:
        InputError: a value out of its range; the message names the field, the value and the range.
    """

    # What is looked for
    mode: Mode = "semantic"  # semantic: texts compete for every pixel; referring: each text stands alone
    max_side_px: int | None = None  # larger images are shrunk to this before CLIP; masks return at full size

    # Stage 1: proposals
    model: str = VIT_B16  # f: a Hugging Face id, a local folder, or "tiny"
    proposals: Literal["cam", "dense"] = "cam"  # gradient CAM (paper), or patches compared with texts (ours)
    cam_threshold: float = 0.4  # lambda: the affinity acts inside the boxes of cam > lambda * max
    background_texts: tuple[str, ...] = BACKGROUND_RELEASE  # b: share the softmax, are never segmented
    drop_asked_background: bool = False  # leave out background texts that are asked for themselves
    first_proposal_template: str = ORIGAMI  # how step 1 words a text for f; the release uses "{}"
    proposal_template: str = ORIGAMI  # how later steps, and always the background texts, are worded
    affinity_layers: int = 8  # attention of the last so many layers spreads the CAM; 0 is off
    foreground_fallback: bool = False  # release: a CAM that is zero everywhere is redone without background texts
    clamp_boxes: bool = False  # release: boxes on 8-bit maps, last row and column never inside
    side_multiple_px: int | None = None  # sides are rounded up to this; None: the patch. The release always uses 16
    half_position_embeddings: bool = False  # release: position embeddings rounded to half precision, in f and g

    # Stage 2: the classifier
    classifier: str = VIT_L14  # g: a Hugging Face id, a local folder, or "tiny"
    mask_threshold: float = 0.4  # eta: what of a proposal the classifier is shown
    score_threshold: float = 0.6  # theta: a text below it is dropped
    visual_prompts: tuple[VisualPrompt, ...] = ("blur", "circle")  # marks, always drawn in the order of VISUAL_PROMPTS
    stuff_visual_prompts: tuple[VisualPrompt, ...] | None = (
        None  # marks for stuff in data sets that split; None: the same
    )
    templates: tuple[str, ...] = PHOTO_TEMPLATES  # how a text is worded for g; none: as proposal_template words it
    template_ensemble: Literal["feature", "probability"] = (
        "feature"  # mean feature; release: sum of softmaxes, softmaxed
    )
    contrast_texts: tuple[str, ...] = ()  # share the classifier's softmax, so that even a lone text can fail (ours)
    classifier_skipped_blocks: int = 0  # release: 1, the classifier's last block is left out
    classifier_view: Literal["crop", "whole"] = "crop"  # centre square of the image (CLIP), or all of it, squeezed

    # The recurrence
    strict_threshold: bool = False  # keep iff score > theta (release) instead of >= (paper)
    keep_best: bool = False  # release: where no text passes, the best one stays
    repeat_first_step: bool = False  # release: step 2 always runs, even if step 1 dropped nothing
    max_steps: int | None = None  # None: until no text drops (paper); 1: one filter; 0: no filter at all

    # Refinement
    crf: bool = True
    crf_max_side_px: int | None = None  # larger images are shrunk to this before the CRF; None: to `max_side_px`
    crf_iterations: int = 10
    crf_gaussian_xy: float = 1.0  # standard deviations in pixels and grey levels, weights as in CLIP-ES
    crf_gaussian_weight: float = 3.0
    crf_bilateral_xy: float = 67.0
    crf_bilateral_rgb: float = 3.0
    crf_bilateral_weight: float = 4.0
    crf_image: Literal["rgb", "bgr-wrapped"] = "rgb"  # release: BGR minus the mean, wrapped around at 256
    background_factor: float = 1.0  # exponent of the background's probability, 1 - max of the proposals
    drop_empty_masks: bool = True  # a text left without a single pixel is not found; the release keeps it

    def __post_init__(self) -> None:
        """Check ranges, choices and types."""
        for name in ("cam_threshold", "mask_threshold", "score_threshold"):
            _require(name, getattr(self, name), low=0.0, high=1.0)
        for name in ("crf_gaussian_xy", "crf_bilateral_xy", "crf_bilateral_rgb", "background_factor"):
            _require(name, getattr(self, name), low=1e-6, high=1e6)
        for name in ("crf_gaussian_weight", "crf_bilateral_weight"):
            _require(name, getattr(self, name), low=0.0, high=1e6)
        for name in ("affinity_layers", "classifier_skipped_blocks", "crf_iterations"):
            _require(name, getattr(self, name), low=0, high=1000)
        for name, low in (("max_steps", 0), ("max_side_px", 16), ("crf_max_side_px", 16), ("side_multiple_px", 1)):
            if getattr(self, name) is not None:
                _require(name, getattr(self, name), low=low, high=100_000)
        _check_kinds(self)
        for template in (self.first_proposal_template, self.proposal_template, *self.templates):
            if template.count("{}") != 1:
                raise InputError(f"Expected a template with exactly one {{}}, but got {template!r}.")


def _require(name: str, value: object, *, low: float, high: float) -> None:
    """Raise unless `value` is a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"Expected setting `{name}` to be a number from {low} to {high}, but got {value!r}.")


def _check_kinds(config: SegmenterConfig) -> None:
    """Raise unless every field holds a value of its kind, and those with a closed list of values one of them."""
    hints = get_type_hints(SegmenterConfig)
    for field in fields(config):
        value, annotation = getattr(config, field.name), hints[field.name]
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        if value is None and NoneType in kinds:
            continue
        wanted = _unless_right(value, kinds[0])
        if wanted:
            raise InputError(f"Expected setting `{field.name}` to be {wanted}, but got {value!r}.")
    for prompt in (*config.visual_prompts, *(config.stuff_visual_prompts or ())):
        if prompt not in VISUAL_PROMPTS:
            raise InputError(f"No visual prompt named {prompt!r}.{hint(prompt, VISUAL_PROMPTS)}")


def _unless_right(value: object, kind: object) -> str | None:
    """Say what a value of this kind would be, unless `value` is one."""
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"one of {_listed(get_args(kind))}"
    if get_origin(kind) is tuple:
        return None if _is_texts(value) else "a tuple of texts"
    wanted = {bool: "true or false", int: "a whole number", str: "a text"}
    return wanted[kind] if kind in (bool, int, str) and not isinstance(value, kind) else None


def _is_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) and item.strip() for item in value)


def _listed(names: tuple[object, ...] | list[str]) -> str:
    return ", ".join(str(name) for name in names)


def hint(name: str, known: Sequence[str]) -> str:
    """Say which known name is nearest to an unknown one, and list all, for the end of a message."""
    close = get_close_matches(name, known, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"{guess} Known: {_listed(list(known))}."


def _variant(base: SegmenterConfig, *changes: Mapping[str, Any]) -> SegmenterConfig:
    """Replace fields; later changes win over earlier ones, and the new instance checks itself."""
    merged: dict[str, Any] = {}
    for change in changes:
        merged.update(change)
    return replace(base, **merged)


_DEFAULT = SegmenterConfig(
    max_side_px=640,
    background_texts=BACKGROUND_PAPER,
    drop_asked_background=True,
    contrast_texts=BACKGROUND_RELEASE,
    score_threshold=0.4,
    classifier_view="whole",
)

_TINY = _variant(
    _DEFAULT,
    {
        "model": BUNDLED,
        "classifier": BUNDLED,
        "proposals": "dense",
        "background_texts": BACKGROUND_RELEASE,
        "contrast_texts": BACKGROUND_RELEASE + COMMON_THINGS,
        "affinity_layers": 0,
        "mask_threshold": 0.2,
        "score_threshold": 0.14,
        "visual_prompts": ("black",),
        "max_side_px": 256,  # about what it was trained on
        "crf_max_side_px": 640,
        "crf_bilateral_rgb": 13.0,
        "background_factor": 3.0,
    },
)

_PAPER = SegmenterConfig(background_texts=BACKGROUND_PAPER, visual_prompts=("circle", "blur"), drop_empty_masks=False)

_OFFICIAL_BEHAVIOUR: Mapping[str, Any] = {
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

# Numbers per data set: the paper's where it gives them (table 5, appendix F), else those of the authors' configs.
_SEMANTIC: Mapping[str, Mapping[str, Any]] = {
    "voc": {"mask_threshold": 0.4, "score_threshold": 0.6, "cam_threshold": 0.4},
    "coco-object": {"mask_threshold": 0.5, "score_threshold": 0.3, "cam_threshold": 0.5},
    "context": {"mask_threshold": 0.6, "score_threshold": 0.2, "cam_threshold": 0.4},
    "pc459": {"mask_threshold": 0.4, "score_threshold": 0.25, "cam_threshold": 0.7},
    "ade150": {"mask_threshold": 0.6, "score_threshold": 0.25, "cam_threshold": 0.7},
    "ade847": {"mask_threshold": 0.6, "score_threshold": 0.25, "cam_threshold": 0.7},
}
_SEMANTIC_MARKS: Mapping[str, Mapping[str, Any]] = {
    "voc": {"visual_prompts": ("circle", "blur")},
    "coco-object": {"visual_prompts": ("blur", "gray")},
    "context": {"visual_prompts": ("blur", "circle"), "stuff_visual_prompts": ("blur", "gray")},
    "pc459": {"visual_prompts": ("gray", "blur")},
    "ade150": {"visual_prompts": ("gray", "blur")},
    "ade847": {"visual_prompts": ("gray", "blur")},
}
_REFERRING: Mapping[str, Mapping[str, Any]] = {
    "refcoco": {"classifier": VIT_B16, "mask_threshold": 0.5, "score_threshold": 0.3, "cam_threshold": 0.5},
    "refcoco+": {"classifier": VIT_B16, "mask_threshold": 0.2, "score_threshold": 0.1, "cam_threshold": 0.5},
    "refcocog": {"classifier": VIT_B16, "mask_threshold": 0.5, "score_threshold": 0.1, "cam_threshold": 0.6},
    "gres": {"classifier": VIT_L14, "mask_threshold": 0.5, "score_threshold": 0.0, "cam_threshold": 0.3},
}
_OFFICIAL_OVERRIDES: Mapping[str, Mapping[str, Any]] = {  # where config and paper disagree
    "context": {"score_threshold": 0.25},
    "refcoco": {"visual_prompts": ("circle",)},
}


def _presets() -> dict[str, SegmenterConfig]:
    presets = {"default": _DEFAULT, "tiny": _TINY}
    for name, numbers in _SEMANTIC.items():
        presets[f"paper-{name}"] = _variant(_PAPER, numbers, _SEMANTIC_MARKS[name])
    for name, numbers in _REFERRING.items():
        marks = ("circle",) if name == "gres" else ("circle", "blur")
        both = {**numbers, "mode": "referring", "templates": (), "visual_prompts": marks}
        presets[f"paper-{name}"] = _variant(_PAPER, both)
    for name in (*_SEMANTIC, *_REFERRING):
        overrides = _OFFICIAL_OVERRIDES.get(name, {})
        presets[f"official-{name}"] = _variant(presets[f"paper-{name}"], _OFFICIAL_BEHAVIOUR, overrides)
    return presets


PRESETS: Mapping[str, SegmenterConfig] = _presets()


def find_preset(name: str) -> SegmenterConfig:
    """Look a preset up by name.

    Raises:
        InputError: there is none; the message holds the nearest name and all known ones.
    """
    if name not in PRESETS:
        raise InputError(f"No preset named {name!r}.{hint(name, list(PRESETS))}")
    return PRESETS[name]


def with_settings(config: SegmenterConfig, settings: Mapping[str, Any]) -> SegmenterConfig:
    """Replace some settings by name; lists become tuples, and None an empty tuple where a tuple is wanted.

    Raises:
        InputError: an unknown name (the message holds the nearest one) or a value out of range.
    """
    hints = get_type_hints(SegmenterConfig)
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in hints:
            raise InputError(f"No setting named {name!r}.{hint(name, list(hints))}")
        wants_tuple = get_origin(hints[name]) is tuple
        changes[name] = tuple(value) if isinstance(value, list) else () if value is None and wants_tuple else value
    return _variant(config, changes)
