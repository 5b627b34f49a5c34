"""What a name in the configuration stands for: the one place that knows every concrete part of a segmenter."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from clip_as_rnn.classifiers.base import MaskClassifier
from clip_as_rnn.classifiers.mask_tokens import MaskTokenClassifier
from clip_as_rnn.classifiers.template_ensemble import TemplateEnsemble
from clip_as_rnn.classifiers.visual_prompts import VisualPromptClassifier
from clip_as_rnn.config import BUNDLED, SegmenterConfig, with_settings
from clip_as_rnn.encoders.hub import load_encoder
from clip_as_rnn.encoders.text_cache import TextCache, cache_file
from clip_as_rnn.encoders.transformer import TransformerEncoder
from clip_as_rnn.errors import InputError
from clip_as_rnn.precision import own_precision
from clip_as_rnn.presets import find_preset
from clip_as_rnn.proposals.base import PatchProposer
from clip_as_rnn.proposals.grad_cam import GradCamProposer
from clip_as_rnn.proposals.patch_similarity import PatchSimilarityProposer
from clip_as_rnn.refine.crf import Bilateral, CrfRefiner, Gaussian
from clip_as_rnn.refine.sam.automatic import AutomaticRules
from clip_as_rnn.refine.sam.mask_cache import mask_cache_folder
from clip_as_rnn.refine.sam.matching import MatchRules
from clip_as_rnn.refine.sam.model import Sam
from clip_as_rnn.refine.sam.refiner import SamRefiner, SamRules
from clip_as_rnn.refine.sam.tracker import SamTracker
from clip_as_rnn.refine.sam.weights import load_sam
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Stages

DType = Literal["auto", "float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEVICES = ("cpu", "cuda", "mps", "xpu")  # what torch computes on; others of its names hold no values or need plug-ins


@own_precision()
def load_segmenter(  # noqa: PLR0913 - the public door, all but one by keyword
    preset: str | SegmenterConfig = "default",
    *,
    model: str | Path | None = None,
    classifier: str | Path | None = None,
    device: str = "auto",
    dtype: DType = "auto",
    cache_dir: str | Path | None = None,
    text_cache: bool = True,
    **settings: object,
) -> Segmenter:
    """Load the models of a preset and put a segmenter together.

    Args:
        preset: a name of `PRESETS`, or settings of one's own.
        model: the proposal CLIP instead of the preset's: a Hugging Face id, a folder in CLIPModel format, or "tiny".
        classifier: the classifier CLIP, likewise.
        device: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
        dtype: "auto" takes bfloat16 where the processor multiplies it fast, float16 on older GPUs, else float32; the
            bundled model always runs in float32 then.
        cache_dir: where models of the Hub are kept and looked for, instead of Hugging Face's own folder.
        text_cache: keep the features of texts on disk from run to run; see `encoders.text_cache`.
        settings: any setting of `SegmenterConfig` by name; `sam` is a Hugging Face id or a folder, as `model` is.

    Raises:
        InputError: an unknown preset, setting, device or precision, or a folder that holds no model.
        WeightsError: weights that cannot be had; the message says how to get them.
        DependencyError: a part that the settings ask for is not installed.
    """
    config = preset if isinstance(preset, SegmenterConfig) else find_preset(preset)
    named = {"model": model, "classifier": classifier, "sam": settings.get("sam")}
    chosen = {name: str(given) for name, given in named.items() if given is not None}
    config = with_settings(config, {**settings, **chosen})
    place = choose_device(device)
    load = partial(_load, device=place, dtype=dtype, cache_dir=cache_dir)
    sam = None
    if name := config.refine.sam:
        sam = load_sam(name, device=place, dtype=choose_dtype(dtype, place, name), cache_dir=cache_dir)
    proposal_encoder = load(config.propose.model)
    same = config.classify.classifier == config.propose.model
    models = ClipModels(
        names=(config.propose.model, config.classify.classifier, config.refine.sam),
        proposal_encoder=proposal_encoder,
        classifier_encoder=proposal_encoder if same else load(config.classify.classifier),
        text_cache=cache_file() if text_cache else None,
        sam=sam,
    )
    return Segmenter(models.build_stages(config), config, models)


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


def _load(source: str, *, device: torch.device, dtype: str, cache_dir: str | Path | None) -> TransformerEncoder:
    return load_encoder(source, device=device, dtype=choose_dtype(dtype, device, source), cache_dir=cache_dir)


class ClipModels:
    """The two CLIPs of a segmenter, which may be one, under the names they were asked for, and their text features.

    The SAM, if there is one, comes third.
    """

    def __init__(
        self,
        names: tuple[str, str, str | None],
        proposal_encoder: TransformerEncoder,
        classifier_encoder: TransformerEncoder,
        text_cache: Path | None,
        sam: Sam | None = None,
    ) -> None:
        self.names = names
        self.sam = sam
        self.proposal_encoder = proposal_encoder
        self.classifier_encoder = classifier_encoder
        self._proposal_texts = TextCache(proposal_encoder, text_cache)
        same = classifier_encoder is proposal_encoder
        self._classifier_texts = self._proposal_texts if same else TextCache(classifier_encoder, text_cache)

    def build_stages(self, config: SegmenterConfig) -> Stages:
        """Put stages around the loaded models.

        Raises:
            InputError: the settings ask for other models, or for what these cannot do; a SAM may be left unused.
        """
        asked = (config.propose.model, config.classify.classifier, config.refine.sam)
        if asked not in (self.names, (*self.names[:2], None)):
            raise InputError("Other models need a segmenter of their own; call load_segmenter.")
        self._check_settings(config)
        return Stages(
            self._build_proposer(config),
            self._build_classifier(config),
            self._build_refiner(config),
            self._build_replacer(config),
            self._build_tracker(config),
        )

    def describe(self, config: SegmenterConfig) -> Mapping[str, str]:
        """Name the models that these settings use, what identifies their weights, the device and the precision."""
        proposal, classifier = self.proposal_encoder, self.classifier_encoder
        described = {
            "model": self.names[0],
            "model_fingerprint": proposal.fingerprint,
            "classifier": self.names[1],
            "classifier_fingerprint": classifier.fingerprint,
            "device": str(proposal.device),
            "dtype": str(proposal.dtype).removeprefix("torch."),
            "classifier_dtype": str(classifier.dtype).removeprefix("torch."),
        }
        if self.sam is not None and config.refine.sam is not None:
            described["sam"], described["sam_fingerprint"] = str(self.names[2]), self.sam.fingerprint
            described["sam_dtype"] = str(self.sam.dtype).removeprefix("torch.")
            described["sam_type"] = self.sam.family if self.sam.memory is None else "sam2_video"
        return described

    def _check_settings(self, config: SegmenterConfig) -> None:
        """Refuse settings that make no sense for the family of the model that they are for."""
        for encoder in (self.proposal_encoder, self.classifier_encoder):
            encoder.refuse(half_position_embeddings=config.propose.half_position_embeddings)
        self.classifier_encoder.refuse(
            classifier_skipped_blocks=config.classify.classifier_skipped_blocks,
            mask_token_block=config.classify.mask_token_block,
        )

    def _build_proposer(self, config: SegmenterConfig) -> PatchProposer:
        proposer = GradCamProposer if config.propose.proposals == "cam" else PatchSimilarityProposer
        return proposer(self.proposal_encoder, self._proposal_texts, config.propose, config.mode)

    def _build_classifier(self, config: SegmenterConfig) -> MaskClassifier:
        classify, encoder = config.classify, self.classifier_encoder
        ensemble = TemplateEnsemble(
            self.classifier_encoder,
            self._classifier_texts,
            templates=classify.templates or (config.propose.proposal_template,),
            ensemble=classify.template_ensemble if classify.templates else "feature",
            contrast_texts=classify.contrast_texts,
        )
        half_positions = config.propose.half_position_embeddings
        if classify.classify_by == "visual-prompts":
            return VisualPromptClassifier(encoder, ensemble, classify, half_positions=half_positions)
        return MaskTokenClassifier(encoder, ensemble, classify, half_positions=half_positions)

    def _build_refiner(self, config: SegmenterConfig) -> CrfRefiner:
        refine = config.refine
        return CrfRefiner(
            mode=config.mode,
            crf=refine.crf,
            iterations=refine.crf_iterations,
            kernels=(
                Gaussian(xy=refine.crf_gaussian_xy, weight=refine.crf_gaussian_weight),
                Bilateral(xy=refine.crf_bilateral_xy, rgb=refine.crf_bilateral_rgb, weight=refine.crf_bilateral_weight),
            ),
            crf_image=refine.crf_image,
            kernel_frames=(config.video.clip_crf_gaussian_frames, config.video.clip_crf_bilateral_frames),
            background_factor=refine.background_factor,
            device=self.proposal_encoder.device,
        )

    def _build_replacer(self, config: SegmenterConfig) -> SamRefiner | None:
        refine = config.refine
        if self.sam is None or refine.sam is None:
            return None
        rules = SamRules(
            way=refine.sam_mode,
            matching=MatchRules(refine.sam_iom_threshold, refine.sam_overlap_floor, refine.sam_iou_threshold),
            automatic=AutomaticRules(
                refine.sam_points_per_side, refine.sam_predicted_iou, refine.sam_stability, refine.sam_box_nms
            ),
            parts=refine.sam_parts,
            at_once=refine.sam_prompts_at_once,
        )
        return SamRefiner(self.sam, rules, cache=mask_cache_folder())

    def _build_tracker(self, config: SegmenterConfig) -> SamTracker | None:
        """Follow masks through clips where the SAM is one that can, and the settings ask for it."""
        if self.sam is None or self.sam.memory is None or config.refine.sam is None:
            return None
        return SamTracker(self.sam) if config.video.sam_track_frames > 1 else None
