"""Every setting of the segmenter, nested by the stage that reads it.

The comment of each field names the paper's symbol where it has one. Settings that exist only because the authors'
release differs from the paper say so; `docs/official.md` lists them all. A setting's name is unique over all stages, so
that `--set` and keyword arguments take it without its stage. Importing this module loads no model library.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import sqrt
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from clip_as_rnn.errors import InputError, suggest
from clip_as_rnn.prompts.templates import ORIGAMI, PHOTO_TEMPLATES
from clip_as_rnn.prompts.word_lists import BACKGROUND_RELEASE

Mode = Literal["semantic", "referring"]
VisualPrompt = Literal["blur", "gray", "black", "circle", "rectangle", "contour"]
VISUAL_PROMPTS: tuple[VisualPrompt, ...] = get_args(VisualPrompt)  # in the order in which they are drawn

VIT_B16 = "openai/clip-vit-base-patch16"
VIT_L14 = "openai/clip-vit-large-patch14"
METACLIP2_B16 = "facebook/metaclip-2-worldwide-b16"
METACLIP2_L14 = "facebook/metaclip-2-worldwide-l14"
SIGLIP2_B16 = "google/siglip2-base-patch16-512"
TIPSV2_L14 = "google/tipsv2-l14"
SAM_HQ_HUGE = "syscv-community/sam-hq-vit-huge"
BUNDLED = "tiny"  # the CLIP in assets/tiny


Section = TypeVar("Section", bound="_Section")


def _number(default: float | None, low: float, high: float) -> Any:
    """Declare a setting that is a number in [low, high]."""
    return field(default=default, metadata={"range": (low, high)})


_FEWEST_TEXTS = 3  # theta rises no further for fewer


@dataclass(frozen=True, kw_only=True)
class _Section:
    """Settings that are checked when made and never change.

    Raises:
        InputError: a value out of its range; the message names the setting, the value and the range.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for one in fields(self):
            if _is_section(hints[one.name]):
                if not isinstance(getattr(self, one.name), hints[one.name]):
                    raise InputError(f"Expected `{one.name}` to be a {hints[one.name].__name__}; see `with_settings`.")
            else:
                _check_value(one.name, getattr(self, one.name), hints[one.name], one.metadata.get("range"))


@dataclass(frozen=True, kw_only=True)
class ProposeConfig(_Section):
    """Stage 1: one soft mask per text, by the proposal CLIP."""

    model: str = VIT_B16  # f: a Hugging Face id, a local folder, or "tiny"
    proposals: Literal["cam", "dense"] = "cam"  # gradient CAM (paper), or patches compared with texts (ours)
    cam_threshold: float = _number(0.4, 0.0, 1.0)  # lambda: the affinity acts inside the boxes of cam > lambda * max
    background_texts: tuple[str, ...] = BACKGROUND_RELEASE  # b: share the softmax, are never segmented
    drop_asked_background: bool = False  # leave out background texts that are asked for themselves
    first_proposal_template: str = ORIGAMI  # how step 1 words a text for f; the release uses "{}"
    proposal_template: str = ORIGAMI  # how later steps, and always the background texts, are worded
    affinity_layers: int = _number(8, 0, 1000)  # attention of the last so many layers spreads the CAM; 0 is off
    patch_shifts: int = _number(1, 1, 4)  # passes each way, for a finer grid (ours; dense without affinity)
    foreground_fallback: bool = False  # release: a CAM that is zero everywhere is redone without background texts
    clamp_boxes: bool = False  # release: boxes on 8-bit maps, last row and column never inside
    side_multiple_px: int | None = _number(None, 1, 100_000)  # sides are rounded up to this; None: the patch
    half_position_embeddings: bool = False  # release: position embeddings rounded to half precision, in f and g


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(_Section):
    """Stage 2: one score per mask, by the classifier CLIP."""

    classifier: str = VIT_L14  # g: a Hugging Face id, a local folder, or "tiny"
    classify_by: Literal["visual-prompts", "mask-tokens"] = (
        "visual-prompts"  # a picture per mask, or one for all (ours)
    )
    mask_token_block: int = _number(0, 0, 1000)  # mask tokens are the image's class token before this block
    mask_token_share: float = _number(0.0, 0.0, 1.0)  # a patch belongs to a mask that covers more than this of it
    mask_token_average: bool = False  # a mask's feature is the mean of those at eta / 2, eta and 2 eta
    mask_threshold: float = _number(0.4, 0.0, 1.0)  # eta: what of a proposal the classifier is shown
    score_threshold: float = _number(0.6, 0.0, 1.0)  # theta: a text below it is dropped
    score_threshold_texts: int | None = _number(None, 1, 100_000)  # N: theta is times sqrt(N / n), n asked; None: fixed
    certainty_weight: float = _number(0.0, 0.0, 1.0)  # w: a score is s^(1-w) c^w, c stage 1's certainty (ours); 0: s
    visual_prompts: tuple[VisualPrompt, ...] = ("blur", "circle")  # always drawn in the order of VISUAL_PROMPTS
    stuff_visual_prompts: tuple[VisualPrompt, ...] | None = None  # for stuff in data sets that split; None: the same
    templates: tuple[str, ...] = PHOTO_TEMPLATES  # how a text is worded for g; none: as proposal_template words it
    template_ensemble: Literal["feature", "probability"] = "feature"  # mean feature; release: sum of softmaxes
    contrast_texts: tuple[str, ...] = ()  # share the classifier's softmax, so that even a lone text can fail (ours)
    classifier_skipped_blocks: int = _number(0, 0, 1000)  # release: 1, the classifier's last block is left out
    classifier_view: Literal["crop", "whole"] = "crop"  # center square of the image (CLIP), or all of it, squeezed

    @property
    def judged_by(self) -> str:
        """Say in words how the classifier is shown a mask, and whether stage 1 has a say in the score."""
        drawn = ", ".join(prompt for prompt in VISUAL_PROMPTS if prompt in self.visual_prompts)
        shown = f"visual prompts ({drawn})" if drawn else "the plain image"
        if self.classify_by == "mask-tokens":
            shown = f"mask tokens from block {self.mask_token_block} on"
        return f"{shown}, and by how sure the proposals are" if self.certainty_weight else shown

    def threshold(self, texts: int) -> float:
        """Give theta for so many texts asked, at most 1: the more share a softmax, the less is left for each.

        One or two share it with the contrast texts more than with each other: for them theta is that of three.
        """
        if self.score_threshold_texts is None:
            return self.score_threshold
        return min(1.0, self.score_threshold * sqrt(self.score_threshold_texts / max(texts, _FEWEST_TEXTS)))


@dataclass(frozen=True, kw_only=True)
class RecurrenceConfig(_Section):
    """Which texts go on to the next step, and when the steps end."""

    strict_threshold: bool = False  # keep iff score > theta (release) instead of >= (paper)
    keep_best: bool = False  # release: where no text passes, the best one stays
    repeat_first_step: bool = False  # release: step 2 always runs, even if step 1 dropped nothing
    max_steps: int | None = _number(None, 0, 100_000)  # None: until no text drops (paper); 1: one filter; 0: none


@dataclass(frozen=True, kw_only=True)
class RefineConfig(_Section):
    """After the recurrence: from soft masks to exact ones."""

    crf: bool = True
    crf_max_side_px: int | None = _number(None, 16, 100_000)  # larger images are shrunk for the CRF; None: max_side_px
    crf_iterations: int = _number(10, 0, 1000)
    crf_gaussian_xy: float = _number(1.0, 1e-6, 1e6)  # deviations in pixels and gray levels, weights as in CLIP-ES
    crf_gaussian_weight: float = _number(3.0, 0.0, 1e6)
    crf_bilateral_xy: float = _number(67.0, 1e-6, 1e6)
    crf_bilateral_rgb: float = _number(3.0, 1e-6, 1e6)
    crf_bilateral_weight: float = _number(4.0, 0.0, 1e6)
    crf_image: Literal["rgb", "bgr-wrapped"] = "rgb"  # release: BGR minus the mean, wrapped around at 256
    score_weight: float = _number(0.0, 0.0, 100.0)  # exponent of the score that a proposal is multiplied with (ours)
    part_weight: float = _number(0.0, 0.0, 100.0)  # likewise of a mask part's own score over the best part's (ours)
    background_factor: float = _number(1.0, 1e-6, 1e6)  # exponent of the background's probability, 1 - max proposal
    drop_empty_masks: bool = True  # a text left without a single pixel is not found; the release keeps it

    sam: str | None = None  # a Hugging Face id or a local folder; None: the masks stay as the CRF leaves them
    sam_mode: Literal["prompts", "automatic"] = "prompts"  # SAM is asked about each mask (ours), or for all (paper)
    sam_iom_threshold: float = _number(0.7, 0.0, 1.0)  # phi_iom: what of SAM's automatic masks belongs to a mask
    sam_overlap_floor: float = _number(0.05, 0.0, 1.0)  # release's min_pred_threshold: one that covers less does not
    sam_iou_threshold: float | None = _number(0.7, 0.0, 1.0)  # phi_iou: above it SAM's replaces; None: always (demo)
    sam_points_per_side: int = _number(64, 1, 1024)  # of the grid of the automatic masks
    sam_predicted_iou: float = _number(0.88, 0.0, 1.0)  # automatic masks that SAM thinks less of are dropped; 0: none
    sam_stability: float = _number(0.95, 0.0, 1.0)  # likewise those that depend on the threshold of their logits
    sam_box_nms: float = _number(0.7, 0.0, 1.0)  # likewise those whose box overlaps a better one's by more
    sam_parts: int = _number(8, 1, 1000)  # connected parts of a mask that SAM is asked about at most
    sam_prompts_at_once: int = _number(32, 1, 100_000)  # prompts or points in one decoder batch: time and memory alone


@dataclass(frozen=True, kw_only=True)
class VideoConfig(_Section):
    """How the frames of a clip look at each other (ours); as it stands, every frame is segmented by itself."""

    window_frames: int = _number(1, 1, 1000)  # frames that go through the recurrence side by side: bounds the memory
    context_frames: int = _number(0, 0, 100)  # frames before and behind that a frame looks at
    smooth_frames: float = _number(0.0, 0.0, 100.0)  # proposals are averaged along the motion, exp(-distance / this)
    smooth_scale: int = _number(1, 1, 8)  # and at last refined on a grid so many times finer than that of patches
    evidence_frames: float = _number(0.0, 0.0, 100.0)  # scores are pooled over frames likewise
    stay_share: float = _number(1.0, 0.0, 1.0)  # a text that was found stays while its score is this share of theta
    peak_frames: int = _number(0, 0, 1000)  # texts are found by the mean of their best so many frames; 0: by any frame
    peak_odds: float = _number(1.0, 1e-3, 1e3)  # the odds of theta are times this for them: the best promise too much
    clip_crf: bool = False  # one dense CRF over all frames of a window, instead of one per frame
    clip_crf_gaussian_frames: float = _number(0.05, 1e-3, 100.0)  # its deviations in time; far below 1: frames apart
    clip_crf_bilateral_frames: float = _number(1.0, 1e-3, 100.0)
    sam_track_frames: int = _number(1, 1, 1000)  # frames of a stretch in which a SAM 2 for clips follows masks; 1: none


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(_Section):
    """All settings of one segmenter."""

    mode: Mode = "semantic"  # semantic: texts compete for every pixel; referring: each text stands alone
    max_side_px: int | None = _number(None, 16, 100_000)  # larger images are shrunk for CLIP; masks return at full size
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    recurrence: RecurrenceConfig = field(default_factory=RecurrenceConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    video: VideoConfig = field(default_factory=VideoConfig)


def flat_settings(config: SegmenterConfig) -> dict[str, Any]:
    """List every setting by its name, whatever its stage."""
    settings: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        settings.update(vars(value) if isinstance(value, _Section) else {one.name: value})
    return settings


def setting_types() -> dict[str, Any]:
    """Return the type of every setting by its name, as annotated."""
    types: dict[str, Any] = {}
    for name, annotation in get_type_hints(SegmenterConfig).items():
        types.update(get_type_hints(annotation) if _is_section(annotation) else {name: annotation})
    return types


def with_settings(config: SegmenterConfig, settings: Mapping[str, Any]) -> SegmenterConfig:
    """Replace some settings by name; lists become tuples, and None an empty tuple where a tuple is wanted.

    Raises:
        InputError: an unknown name (the message holds the nearest one) or a value out of range.
    """
    types = setting_types()
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in types:
            raise InputError(f"No setting named {name!r}.{suggest(name, list(types))}")
        wants_tuple = get_origin(types[name]) is tuple
        changes[name] = tuple(value) if isinstance(value, list) else () if value is None and wants_tuple else value
    return _replace(config, changes)


def _replace(config: Section, changes: Mapping[str, Any]) -> Section:
    """Replace the named settings of a section and of the sections in it; what is made anew checks itself."""
    replaced: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if isinstance(value, _Section):
            replaced[one.name] = _replace(value, changes)
        elif one.name in changes:
            replaced[one.name] = changes[one.name]
    return replace(config, **replaced)


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, _Section)


def _check_value(name: str, value: object, annotation: Any, limits: tuple[float, float] | None) -> None:
    """Raise InputError unless a setting's value is of its type, within its limits and among its choices."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if value is None and NoneType in kinds:
        return
    if limits is not None:
        low, high = limits
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise InputError(f"Expected setting `{name}` to be a number from {low} to {high}, but got {value!r}.")
    if wanted := _unless_right(value, kinds[0]):
        raise InputError(f"Expected setting `{name}` to be {wanted}, but got {value!r}.")
    for item in value if isinstance(value, tuple) else (value,):
        if name.endswith("visual_prompts") and item not in VISUAL_PROMPTS:
            raise InputError(f"No visual prompt named {item!r}.{suggest(str(item), VISUAL_PROMPTS)}")
        if isinstance(value, tuple) and any("\ud800" <= char <= "\udfff" for char in str(item)):
            raise InputError(f"Expected setting `{name}` in Unicode, but got {item!r}.")
        if name.endswith(("template", "templates")) and str(item).count("{}") != 1:
            raise InputError(f"Expected a template with exactly one {{}}, but got {item!r}.")


def _unless_right(value: object, kind: object) -> str | None:
    """Say what a value of this type would be, unless `value` is one."""
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"one of {', '.join(str(choice) for choice in get_args(kind))}"
    if get_origin(kind) is tuple:
        return None if _is_texts(value) else "a tuple of texts"
    wanted = {bool: "true or false", int: "a whole number", str: "a text"}
    return wanted[kind] if kind in (bool, int, str) and not isinstance(value, kind) else None


def _is_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) and item.strip() for item in value)
