"""The dense CRF over the frames of a clip together: kernels over (x, y, t) and (x, y, t, r, g, b).

A pixel is joined to those of like color near it in its own frame and in those around it, so that labels neither flicker
nor stop at a frame. The memory it takes grows with the number of frames, so a clip is given window by window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.dense_crf.crf import DenseCrf
from clip_as_rnn.dense_crf.kernels import Kernel
from clip_as_rnn.ops import upsample_maps
from clip_as_rnn.types import LabelMap, Masks, SoftMasks

Frames: TypeAlias = UInt8[ndarray, "t h w 3"]
Rows: TypeAlias = Sequence[Int[ndarray, "_"]]  # of each frame, where its texts stand among those of all frames
SoftClips: TypeAlias = Float[Tensor, "n t h w"]  # in [0, 1], one per text of any frame


@dataclass(frozen=True, slots=True, eq=False)
class ClipMasks:
    """The soft masks of a window's frames.

    Attributes:
        maps: of each frame, one per text that it kept.
        texts: of each frame, which texts these are, ascending.
    """

    maps: Sequence[Float[Tensor, "_ gh gw"]]
    texts: Sequence[Int[ndarray, "_"]]

    def __getitem__(self, some: slice) -> "ClipMasks":
        """Take some of the frames."""
        return ClipMasks(self.maps[some], self.texts[some])

    def rows(self, texts: Int[ndarray, " n"]) -> Rows:
        """Say for each frame where its texts stand among `texts`, those of all frames."""
        return [np.searchsorted(texts, of_frame) for of_frame in self.texts]


@dataclass(frozen=True, slots=True, eq=False)
class RefinedFrame:
    """What refinement made of one frame: a label map or masks, and the texts' probabilities if there are any."""

    masks: LabelMap | Masks
    probabilities: SoftMasks | None = None


def join_frames(
    images: Frames, kernels: Sequence[Kernel], frames: Sequence[float], device: torch.device | str
) -> DenseCrf:
    """Join the pixels of all frames; `frames` has the standard deviation in time of each kernel."""
    count, height, width = images.shape[:3]
    times = torch.arange(count, dtype=torch.float32)[:, None].expand(1, count, height * width)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    features: list[Float[Tensor, "d p"]] = []
    for kernel, deviation in zip(kernels, frames, strict=True):
        in_frame = torch.stack([kernel.features(image) for image in pixels], 1)  # d t hw
        features.append(torch.cat([in_frame, times / deviation]).flatten(1))
    weights = [kernel.weight for kernel in kernels]
    return DenseCrf.from_features(features, weights, (count, height, width), device=device)


def spread_frames(masks: ClipMasks, texts: Int[ndarray, " n"], size_hw: tuple[int, int]) -> SoftClips:
    """Enlarge the soft masks of all frames, and lay them out by text; zero where a frame has dropped it."""
    soft = torch.zeros(len(texts), len(masks.maps), *size_hw, dtype=torch.float32)
    for t, (maps, rows) in enumerate(zip(masks.maps, masks.rows(texts), strict=True)):
        soft[rows, t] = upsample_maps(maps, size_hw)
    return soft
