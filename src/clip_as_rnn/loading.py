"""Puts a segmenter together: the one place that knows every concrete part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from clip_as_rnn.classifiers.visual_prompts import Classifier, Exhibit, JudgingMemory, JudgingRules
from clip_as_rnn.config import BUNDLED, SegmenterConfig, flat_settings, with_settings
from clip_as_rnn.dense_crf.crf import Bilateral, Gaussian
from clip_as_rnn.encoders.clip import Clip
from clip_as_rnn.encoders.hub import load_clip
from clip_as_rnn.encoders.preprocess import limit_size, patch_pixels
from clip_as_rnn.encoders.text_cache import TextCache, cache_file
from clip_as_rnn.errors import InputError
from clip_as_rnn.presets import find_preset
from clip_as_rnn.proposals.grad_cam import ProposalMemory, ProposalRules, Proposer
from clip_as_rnn.refine.crf import FinishingRules, finish
from clip_as_rnn.result import Proposal
from clip_as_rnn.segmenter import Question, Segmenter
from clip_as_rnn.types import Masks, PatchMaps, ResizedImage, RgbImage, Scores

DType = Literal["auto", "float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEVICES = ("cpu", "cuda", "mps", "xpu")  # what torch computes on; others of its names hold no values or need plug-ins
Rules = TypeVar("Rules", ProposalRules, JudgingRules, FinishingRules)


def load_segmenter(
    preset: str | SegmenterConfig = "default",
    *,
    model: str | Path | None = None,
    classifier: str | Path | None = None,
    device: str = "auto",
    dtype: DType = "auto",
    cache_dir: str | Path | None = None,
    **settings: object,
) -> Segmenter["ClipView"]:
    """Load the models of a preset and put a segmenter together.

    Args:
        preset: a name of `PRESETS`, or settings of one's own.
        model: the proposal CLIP instead of the preset's: a Hugging Face id, a folder in CLIPModel format, or "tiny".
        classifier: the classifier CLIP, likewise.
        device: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
        dtype: "auto" takes bfloat16 where the processor multiplies it fast, float16 on older GPUs, else float32; the
            bundled model always runs in float32 then.
        cache_dir: where models of the Hub are kept and looked for, instead of Hugging Face's own folder.
        settings: any field of `SegmenterConfig` by name.

    Raises:
        InputError: an unknown preset, setting, device or precision, or a folder that holds no model.
        WeightsError: weights that cannot be had; the message says how to get them.
    """
    config = preset if isinstance(preset, SegmenterConfig) else find_preset(preset)
    chosen = {name: str(given) for name, given in (("model", model), ("classifier", classifier)) if given is not None}
    config = with_settings(config, {**settings, **chosen})
    place = choose_device(device)
    load = partial(_load, device=place, dtype=dtype, cache_dir=cache_dir)
    proposing = load(config.propose.model)
    judging = proposing if config.classify.classifier == config.propose.model else load(config.classify.classifier)
    return assemble(LoadedModels(proposing, judging, cache_file()), config)


def choose_device(device: str) -> torch.device:
    """Resolve "auto" and refuse devices that are not there.

    Raises:
        InputError: no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        if place.type in _DEVICES:
            torch.empty(0, device=place)
            return place
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise _no_device(device) from error
    raise _no_device(device)


def _no_device(device: str) -> InputError:
    return InputError(f"There is no device {device!r} on this machine; use 'auto', {', '.join(map(repr, _DEVICES))}.")


def choose_dtype(dtype: str, device: torch.device, source: str) -> torch.dtype:
    """Resolve "auto": what is fast on the device without a visible change of the masks.

    Raises:
        InputError: an unknown precision.
    """
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    if dtype != "auto":
        raise InputError(f"Expected dtype to be one of auto, {', '.join(_DTYPES)}, but got {dtype!r}.")
    if source == BUNDLED:
        return torch.float32  # small, and its published numbers should not depend on the processor
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # absent from older torch
    has_bf16 = device.type == "cpu" and any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if has_bf16 else torch.float32


@dataclass(frozen=True, slots=True, eq=False)
class ClipView:
    """One image on its way through the stages: shrunk for CLIP, shrunk for the CRF, and what each stage knows of it."""

    image: RgbImage
    crf_image: ResizedImage
    proposing: ProposalMemory
    judging: JudgingMemory

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels as CLIP sees it."""
        return self.image.shape[0], self.image.shape[1]


class LoadedModels:
    """The two CLIPs of a segmenter, which may be one, and their text features, kept in `text_cache` if given."""

    def __init__(self, proposing: Clip, judging: Clip, text_cache: Path | None) -> None:
        self.proposing = proposing
        self.judging = judging
        self.proposing_texts = TextCache(proposing, text_cache)
        self.judging_texts = self.proposing_texts if judging is proposing else TextCache(judging, text_cache)


class ClipStages:
    """The stages of CaR on two loaded CLIPs, under one set of settings."""

    def __init__(self, models: LoadedModels, config: SegmenterConfig) -> None:
        self.models = models
        self._config = config
        self._proposer = Proposer(models.proposing, models.proposing_texts, _pick(ProposalRules, config))
        ensemble = config.classify.template_ensemble if config.classify.templates else "feature"
        templates = config.classify.templates or (config.propose.proposal_template,)
        rules = _pick(JudgingRules, config, template_ensemble=ensemble, templates=templates)
        self._classifier = Classifier(models.judging, models.judging_texts, rules)
        self._finishing = _pick(FinishingRules, config, kernels=_kernels(config))

    def check(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text, as it will be worded, is too long for one of the CLIPs."""
        config = self._config
        for template in (config.propose.first_proposal_template, config.propose.proposal_template):
            self.models.proposing.check_lengths(texts, template)
        for template in config.classify.templates:
            self.models.judging.check_lengths(texts, template)

    def look(self, image: RgbImage, texts: Sequence[str]) -> ClipView:
        """Shrink an image to the size limit and pass it through the proposal CLIP."""
        clip = self.models.proposing
        small = limit_size(image, self._config.max_side_px)
        multiple_px = self._config.propose.side_multiple_px or clip.patch_px
        pixels = patch_pixels(small, multiple_px, clip.patch_px, clip.preparation)
        crf_image = limit_size(image, self._config.refine.crf_max_side_px or self._config.max_side_px)
        return ClipView(small, crf_image, self._proposer.look(pixels, texts), self._classifier.look(small, texts))

    def propose(self, view: ClipView, texts: Sequence[str], step: int) -> Proposal:
        """Stage 1; in referring mode every text shares its softmax with the background alone."""
        return self._proposer(view.proposing, texts, step)

    def classify(self, questions: Sequence[Question[ClipView]]) -> list[Scores]:
        """Stage 2, for several images at once."""
        return self._classifier([Exhibit(one.view.judging, one.maps, one.texts) for one in questions])

    def finish(self, view: ClipView, maps: PatchMaps) -> Masks:
        """Refine the last proposals to masks of the size that the CRF works at."""
        return finish(view.crf_image, maps, self._finishing, self.models.proposing.device)

    def describe(self) -> Mapping[str, str]:
        """Name the models, what identifies their weights, the device and the precision."""
        proposing, judging = self.models.proposing, self.models.judging
        return {
            "model": self._config.propose.model,
            "model_fingerprint": proposing.fingerprint,
            "classifier": self._config.classify.classifier,
            "classifier_fingerprint": judging.fingerprint,
            "device": str(proposing.device),
            "dtype": str(proposing.dtype).removeprefix("torch."),
            "classifier_dtype": str(judging.dtype).removeprefix("torch."),
        }


def _load(source: str, *, device: torch.device, dtype: str, cache_dir: str | Path | None) -> Clip:
    return load_clip(source, device=device, dtype=choose_dtype(dtype, device, source), cache_dir=cache_dir)


def assemble(models: LoadedModels, config: SegmenterConfig) -> Segmenter[ClipView]:
    """Put stages around loaded models."""

    def rebuild(other: SegmenterConfig) -> Segmenter[ClipView]:
        if (other.propose.model, other.classify.classifier) != (config.propose.model, config.classify.classifier):
            raise InputError("Other models need a segmenter of their own; call load_segmenter.")
        return assemble(models, other)

    return Segmenter(ClipStages(models, config), config, rebuild)


def _pick(rules: type[Rules], config: SegmenterConfig, **others: Any) -> Rules:
    """Take a stage's settings from the config by their names."""
    names = {field.name for field in fields(rules)} - set(others)
    settings = flat_settings(config)
    return rules(**{name: settings[name] for name in names}, **others)


def _kernels(config: SegmenterConfig) -> tuple[Gaussian | Bilateral, ...]:
    return (
        Gaussian(xy=config.refine.crf_gaussian_xy, weight=config.refine.crf_gaussian_weight),
        Bilateral(
            xy=config.refine.crf_bilateral_xy,
            rgb=config.refine.crf_bilateral_rgb,
            weight=config.refine.crf_bilateral_weight,
        ),
    )
