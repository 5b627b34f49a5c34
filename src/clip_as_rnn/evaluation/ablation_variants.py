"""What an ablation changes: for every part of CaR its variants, as settings, texts per image or precision."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any

from clip_as_rnn.config import VISUAL_PROMPTS, SegmenterConfig, VideoConfig, VisualPrompt, flat_settings, with_settings
from clip_as_rnn.errors import InputError, suggest
from clip_as_rnn.evaluation.protocol import TextSelection
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.prompts.word_lists import BACKGROUND_PAPER, BACKGROUND_RELEASE, COMMON_THINGS

_AFFINITY_LAYERS = SegmenterConfig().propose.affinity_layers


@dataclass(frozen=True, slots=True)
class Variant:
    """One change to one part, and the folder that its run has within the ablation's.

    Attributes:
        changes: settings other than the base's.
        selection: which texts an image is asked for, where that is not the base's.
        dtype: the precision, where that is not the base's.
    """

    part: str
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    folder: str = "base"
    selection: TextSelection | None = None
    dtype: str | None = None


def plan_variants(
    config: SegmenterConfig, parts: Sequence[str], *, selection: TextSelection = "all", dtype: str | None = None
) -> tuple[Variant, ...]:
    """List the base and every variant of the parts; one that changes nothing shares the base's folder and run.

    `selection` and `dtype` are the base's; without a precision none is known to be.

    Raises:
        InputError: an unknown part, or one that the settings have nothing of.
    """
    variants = [Variant("base", "as set")]
    for part in parts:
        if part not in PARTS:
            raise InputError(f"No part named {part!r} to ablate.{suggest(part, list(PARTS))}")
        for variant in PARTS[part](config):
            same_run = variant.selection in (None, selection) and variant.dtype in (None, dtype)
            is_base = same_run and with_settings(config, variant.changes) == config
            variants.append(replace(variant, folder="base" if is_base else _folder_name(part, variant.name)))
    return tuple(variants)


def _folder_name(part: str, name: str) -> str:
    return f"{part}-{name}".replace(" ", "-").replace("+", "-").replace(",", "")


def _recurrence(_: SegmenterConfig) -> Iterator[Variant]:
    yield Variant("recurrence", "off", {"max_steps": 0})
    yield Variant("recurrence", "one filter", {"max_steps": 1})
    yield Variant("recurrence", "until stable", {"max_steps": None})


def _background(_: SegmenterConfig) -> Iterator[Variant]:
    yield Variant("background", "none", {"background_texts": ()})
    for texts in (BACKGROUND_RELEASE, BACKGROUND_PAPER):
        yield Variant("background", f"{len(texts)} texts", {"background_texts": texts})


def _classifier(config: SegmenterConfig) -> Iterator[Variant]:
    """Yield both ways of judging masks, and the blocks of a small CLIP from which on mask tokens can be bound."""
    yield Variant("classifier", f"visual prompts: {'+'.join(config.classify.visual_prompts)}", _prompted())
    for block in range(6):
        changes = {"classify_by": "mask-tokens", "mask_token_block": block}
        yield Variant("classifier", f"mask tokens from block {block}", changes)


def _prompts(_: SegmenterConfig) -> Iterator[Variant]:
    """Yield visual prompts for things and stuff alike."""
    yield Variant("prompts", "none", _prompted(()))
    for prompt in VISUAL_PROMPTS:
        yield Variant("prompts", prompt, _prompted((prompt,)))


def _prompt_pairs(_: SegmenterConfig) -> Iterator[Variant]:
    for pair in combinations(VISUAL_PROMPTS, 2):
        yield Variant("prompt-pairs", "+".join(pair), _prompted(pair))


def _prompted(prompts: tuple[VisualPrompt, ...] | None = None) -> dict[str, Any]:
    """Judge masks by visual prompts: by these, or by those that are set."""
    chosen = {} if prompts is None else {"visual_prompts": prompts, "stuff_visual_prompts": None}
    return {"classify_by": "visual-prompts", **chosen}


def _parts(_: SegmenterConfig) -> Iterator[Variant]:
    yield Variant("parts", "whole masks", {"part_weight": 0.0})
    for weight in (0.5, 1.0, 2.0):
        yield Variant("parts", f"weight {weight:g}", {"part_weight": weight})


def _crf(_: SegmenterConfig) -> Iterator[Variant]:
    yield Variant("crf", "off", {"crf": False})
    yield Variant("crf", "on", {"crf": True})


def _sam(config: SegmenterConfig) -> Iterator[Variant]:
    """Yield no SAM, and both ways of using the one that the settings name.

    Raises:
        InputError: they name none.
    """
    if config.refine.sam is None:
        raise InputError("The part 'sam' needs a SAM to change; name one with --sam.")
    yield Variant("sam", "off", {"sam": None})
    yield Variant("sam", "prompts", {"sam_mode": "prompts"})
    yield Variant("sam", "all masks", {"sam_mode": "automatic"})


def _classifier_depth(_: SegmenterConfig) -> Iterator[Variant]:
    for skipped in (0, 1, 2):
        yield Variant("classifier-depth", f"{skipped} blocks skipped", {"classifier_skipped_blocks": skipped})


def _proposals(_: SegmenterConfig) -> Iterator[Variant]:
    for source, layers in product(("cam", "dense"), (0, 2, _AFFINITY_LAYERS)):
        name = f"{source}, affinity of {layers} layers" if layers else f"{source} without affinity"
        yield Variant("proposals", name, {"proposals": source, "affinity_layers": layers})


def _contrast(_: SegmenterConfig) -> Iterator[Variant]:
    """Yield no contrast texts, grounds alone, and grounds with common things, for all texts at once and one by one."""
    choices: dict[str, tuple[str, ...]] = {
        "off": (),
        "23 grounds": BACKGROUND_RELEASE,
        "grounds and things": BACKGROUND_RELEASE + COMMON_THINGS,
    }
    selections: tuple[tuple[TextSelection | None, str], ...] = ((None, ""), ("each", ", each text alone"))
    for selection, suffix in selections:
        for name, texts in choices.items():
            yield Variant("contrast", f"{name}{suffix}", {"contrast_texts": texts}, selection=selection)


def _thresholds(config: SegmenterConfig) -> Iterator[Variant]:
    """Yield thresholds around those of the settings; lambda acts with the affinity alone, which is then turned on."""
    symbols = {"mask_threshold": "eta", "score_threshold": "theta", "cam_threshold": "lambda"}
    for setting, symbol in symbols.items():
        is_idle = setting == "cam_threshold" and not config.propose.affinity_layers
        others = {"affinity_layers": _AFFINITY_LAYERS} if is_idle else {}
        for shift in (-0.1, 0.1):
            value = round(flat_settings(config)[setting] + shift, 6)
            if 0 <= value <= 1:
                name = f"{symbol} {value:g}" + (" with affinity" if is_idle else "")
                yield Variant("thresholds", name, {setting: value, **others})


def _semantics(_: SegmenterConfig) -> Iterator[Variant]:
    """Yield the behavior of the authors' release and that of the paper's text, whatever the numbers."""
    paper, official = flat_settings(PRESETS["paper-voc"]), flat_settings(PRESETS["official-voc"])
    differing = [name for name in paper if paper[name] != official[name]]
    yield Variant("semantics", "paper", {name: paper[name] for name in differing})
    yield Variant("semantics", "official", {name: official[name] for name in differing})


def _precision(_: SegmenterConfig) -> Iterator[Variant]:
    for dtype in ("float32", "bfloat16"):
        yield Variant("precision", dtype, dtype=dtype)


def _video(config: SegmenterConfig) -> Iterator[Variant]:
    """Yield every frame by itself, and what looks across frames without one part, or with one more."""
    plain, clip = VideoConfig(), config.video
    yield Variant("video", "every frame by itself", vars(plain))
    yield Variant("video", "scores not pooled", {"evidence_frames": 0.0})
    yield Variant("video", "no hysteresis", {"stay_share": 1.0})
    yield Variant("video", "found by the best frames", {"stay_share": 0.6, "peak_frames": 4, "peak_odds": 1.5})
    yield Variant("video", "proposals not smoothed", {"smooth_frames": 0.0})
    yield Variant("video", "proposals smoothed over patches", {"smooth_scale": 1})
    yield Variant(
        "video", "scores pooled alone", {**vars(plain), **_windows(clip), "evidence_frames": clip.evidence_frames}
    )
    yield Variant("video", "hysteresis alone", {**vars(plain), **_windows(clip), "stay_share": clip.stay_share})
    smooth = {"smooth_frames": clip.smooth_frames, "smooth_scale": clip.smooth_scale}
    yield Variant("video", "proposals smoothed alone", {**vars(plain), **_windows(clip), **smooth})
    yield Variant("video", "one CRF per window", {"clip_crf": True})
    yield Variant("video", "one CRF per frame", {"clip_crf": False})
    if config.refine.sam is not None:
        yield Variant("video", "masks not followed", {"sam_track_frames": 1})


def _windows(clip: VideoConfig) -> dict[str, int]:
    return {"window_frames": clip.window_frames, "context_frames": clip.context_frames}


PARTS: Mapping[str, Callable[[SegmenterConfig], Iterator[Variant]]] = {
    "recurrence": _recurrence,
    "background": _background,
    "classifier": _classifier,
    "prompts": _prompts,
    "prompt-pairs": _prompt_pairs,
    "parts": _parts,
    "crf": _crf,
    "sam": _sam,
    "classifier-depth": _classifier_depth,
    "proposals": _proposals,
    "contrast": _contrast,
    "thresholds": _thresholds,
    "semantics": _semantics,
    "precision": _precision,
    "video": _video,
}
