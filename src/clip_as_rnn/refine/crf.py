"""From the last proposals to the masks the user gets: background, dense CRF, one label or none per pixel.

Semantic: all texts compete for every pixel. Referring: each text stands alone against the background, so masks may
overlap. Knows nothing of CLIP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.dense_crf.crf import Bilateral, DenseCrf, Gaussian, refine
from clip_as_rnn.ops import grow_maps
from clip_as_rnn.types import LabelMap, Masks, PatchMaps, RgbImage, SoftMasks

__all__ = ["Bilateral", "Gaussian", "finish", "refine"]

_RELEASE_MEAN_BGR = (104.008, 116.669, 122.675)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishingRules:
    """The settings of the last stage, by their names in `SegmenterConfig`."""

    mode: Literal["semantic", "referring"]
    crf: bool
    crf_iterations: int
    kernels: tuple[Gaussian | Bilateral, ...]
    crf_image: Literal["rgb", "bgr-wrapped"]
    background_factor: float


def finish(image: RgbImage, maps: PatchMaps, rules: FinishingRules, device: torch.device) -> Masks:
    """Turn the last proposals of one image into masks at the image's size; row i belongs to text i.

    A pixel goes to the largest of (1 - max_c Y_c)^background_factor and Y_1..Y_n after the CRF; ties go to the
    background, then to the earlier text.
    """
    if len(maps) == 0:
        return np.zeros((0, *image.shape[:2]), dtype=bool)
    sharpen = _sharpener(image, rules, device)
    if rules.mode == "semantic":
        labels = _label(grow_maps(maps, image.shape[:2]), rules.background_factor, sharpen)
        return np.stack([labels == i + 1 for i in range(len(maps))])
    alone = (_label(grow_maps(one[None], image.shape[:2]), rules.background_factor, sharpen) for one in maps)
    return np.stack([labels == 1 for labels in alone])


def with_background(proposals: SoftMasks, factor: float) -> Float[Tensor, "1+n h w"]:
    """Put the background's probability, (1 - max_c Y_c)^factor, before those of the texts."""
    rest = (1 - proposals.amax(0, keepdim=True)).clamp(min=0)
    return torch.cat([rest**factor, proposals])


def wrap_colours(image: RgbImage) -> UInt8[ndarray, "h w 3"]:
    """Distort colours as the authors' release does before its CRF: BGR minus the mean, truncated, modulo 256."""
    shifted = np.trunc(image[:, :, ::-1].astype(np.float32) - np.array(_RELEASE_MEAN_BGR))
    return np.asarray(shifted.astype(np.int16).astype(np.uint8))


def _sharpener(image: RgbImage, rules: FinishingRules, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Build the CRF's pairwise terms once per image; the identity where the CRF is off."""
    if not rules.crf:
        return lambda probabilities: probabilities
    colours = image if rules.crf_image == "rgb" else wrap_colours(image)
    crf = DenseCrf(colours, rules.kernels, device=device)
    return lambda probabilities: crf.infer(probabilities, iterations=rules.crf_iterations)


def _label(proposals: SoftMasks, factor: float, sharpen: Callable[[Tensor], Tensor]) -> LabelMap:
    labels: LabelMap = sharpen(with_background(proposals, factor)).argmax(0).cpu().numpy()
    return labels
