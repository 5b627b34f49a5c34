"""From the last proposals to masks: background, dense CRF, arg-max.

Semantic: all texts compete for every pixel. Referring: each text stands alone against the background, so masks may
overlap. A semantic result is one label map, whatever the number of texts: a mask per text would take n times its room.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.dense_crf.crf import DenseCrf, refine
from clip_as_rnn.dense_crf.kernels import PAPER_KERNELS, Bilateral, Gaussian, Kernel
from clip_as_rnn.ops import upsample_maps
from clip_as_rnn.refine.clip_crf import ClipMasks, Frames, RefinedFrame, Rows, SoftClips, join_frames, spread_frames
from clip_as_rnn.types import LabelMap, Masks, PatchMaps, RgbImage, SoftMasks

__all__ = ["Bilateral", "CrfRefiner", "Gaussian", "refine"]

_RELEASE_MEAN_BGR = (104.008, 116.669, 122.675)
_FLOATS_KEPT = 1 << 26  # of probabilities; more are made again in every iteration
_TEXTS_AT_ONCE = 2  # two texts against the background are four channels, which the CRF filters at the cost of one


@dataclass(frozen=True, kw_only=True, slots=True)
class CrfRefiner:
    """Gives every pixel to its most probable label, after a dense CRF or without one.

    The probabilities are (1 - max_c Y_c)^background_factor and Y_1..Y_n, which the CRF, if there is one, sharpens.
    Ties go to the background, then to the earlier text.
    """

    mode: Literal["semantic", "referring"] = "semantic"
    crf: bool = True
    iterations: int = 10
    kernels: tuple[Kernel, ...] = PAPER_KERNELS
    crf_image: Literal["rgb", "bgr-wrapped"] = "rgb"
    background_factor: float = 1.0
    kernel_frames: tuple[float, ...] = (0.05, 1.0)  # of each kernel, its deviation in time, for clips
    device: torch.device | str = "cpu"

    def refine(self, image: RgbImage, masks: PatchMaps) -> LabelMap | Masks:
        """Refine soft masks (n, gh, gw) in [0, 1] to the size of the image.

        Returns:
            Semantic mode: a label map (h, w), 0 for background and i + 1 for text i. Referring mode: masks (n, h, w).
        """
        if self.mode == "referring":
            found = np.zeros((len(masks), *image.shape[:2]), dtype=bool)
            for i, (background, text) in enumerate(self._one_by_one(image, masks)):
                found[i] = (text > background).cpu().numpy()
            return found
        if len(masks) == 0:
            return np.zeros(image.shape[:2], np.int64)
        if self.crf:
            labels = self._label_pixels(image, masks)
        else:
            best, text = _find_strongest(masks, image.shape[:2])
            labels = torch.where(self._background(best) >= best, 0, text + 1)
        return np.asarray(labels.cpu().numpy())

    def refine_softly(self, image: RgbImage, masks: PatchMaps) -> tuple[LabelMap | Masks, SoftMasks | None]:
        """Refine soft masks as `refine` does, and give what `marginals` gives of the same inference.

        The latter is None without a CRF, without texts, and where it would not fit into memory.
        """
        if not self.crf or len(masks) == 0 or (1 + len(masks)) * prod(image.shape[:2]) > _FLOATS_KEPT:
            return self.refine(image, masks), None
        if self.mode == "semantic":
            marginals = self._together(image, masks)
            return np.asarray(marginals.argmax(0).cpu().numpy()), marginals[1:]
        found = np.zeros((len(masks), *image.shape[:2]), dtype=bool)
        marginals = torch.empty(found.shape, dtype=torch.float32, device=self.device)
        for i, (background, text) in enumerate(self._one_by_one(image, masks)):
            found[i], marginals[i] = (text > background).cpu().numpy(), text
        return found, marginals

    def marginals(self, image: RgbImage, masks: PatchMaps) -> SoftMasks:
        """Give the probability of each text at each pixel, (n, h, w) in [0, 1], as the CRF leaves it.

        In semantic mode those of all texts and the background sum to 1, in referring mode those of each text and the
        background. Without a CRF they are the soft masks, enlarged.
        """
        if len(masks) == 0 or not self.crf:
            return upsample_maps(masks, image.shape[:2])
        if self.mode == "semantic":
            return self._together(image, masks)[1:]
        return torch.stack([text for _, text in self._one_by_one(image, masks)])

    def refine_clip(self, images: Frames, masks: ClipMasks) -> list[RefinedFrame]:
        """Refine the soft masks of several frames (t, h, w, 3) jointly; of each, what `refine_softly` gives.

        Frames that would not fit into memory together are refined in parts.
        """
        texts = np.unique(np.concatenate(masks.texts))
        if not self.crf or len(texts) == 0 or len(images) == 1:
            return [RefinedFrame(*self.refine_softly(*one)) for one in zip(images, masks.maps, strict=True)]
        if (1 + len(texts)) * prod(images.shape[:3]) > _FLOATS_KEPT:
            half = len(images) // 2
            first, last = slice(half), slice(half, None)
            return [
                *self.refine_clip(images[first], masks[first]),
                *self.refine_clip(images[last], masks[last]),
            ]
        shown = images if self.crf_image == "rgb" else np.stack([wrap_colors(image) for image in images])
        pairwise = join_frames(shown, self.kernels, self.kernel_frames, self.device)
        refine = self._label_clip if self.mode == "semantic" else self._cut_clip
        return refine(pairwise, spread_frames(masks, texts, images.shape[1:3]), masks.rows(texts))

    def _label_clip(self, pairwise: DenseCrf, soft: SoftClips, rows: Rows) -> list[RefinedFrame]:
        """Infer one label map per frame; a text that a frame dropped gets none of its pixels."""
        probabilities = torch.cat([self._background(soft.amax(0))[None], soft])
        marginals = pairwise.infer(probabilities, iterations=self.iterations, overwrite=True)
        kept = [marginals[[0, *(1 + of_frame)], t] for t, of_frame in enumerate(rows)]
        return [RefinedFrame(np.asarray(one.argmax(0).cpu().numpy()), one[1:]) for one in kept]

    def _cut_clip(self, pairwise: DenseCrf, soft: SoftClips, rows: Rows) -> list[RefinedFrame]:
        """Infer each text against the background alone."""
        marginals = torch.empty(2, *soft.shape, dtype=torch.float32)
        for first in range(0, len(soft), _TEXTS_AT_ONCE):
            some = soft[first : first + _TEXTS_AT_ONCE]
            problems = torch.stack([self._background(some), some], 1)  # b 2 t h w
            inferred = pairwise.infer(problems, iterations=self.iterations, overwrite=True)
            marginals[:, first : first + _TEXTS_AT_ONCE] = inferred.transpose(0, 1).cpu()
        kept = [marginals[:, of_frame, t] for t, of_frame in enumerate(rows)]  # 2 n h w
        return [RefinedFrame((text > background).numpy(), text) for background, text in kept]

    def _label_pixels(self, image: RgbImage, masks: PatchMaps) -> Int64[Tensor, "h w"]:
        """Infer the most probable of the background (0) and all texts."""
        size_hw = image.shape[:2]
        if (1 + len(masks)) * prod(size_hw) <= _FLOATS_KEPT:
            return self._together(image, masks).argmax(0)
        background = self._background(_find_strongest(masks, size_hw)[0])[None]

        def probabilities(first: int, last: int) -> SoftMasks:
            texts = upsample_maps(masks[max(first, 1) - 1 : last - 1], size_hw)
            return texts if first else torch.cat([background, texts])

        return self._pairwise(image).infer_labels(probabilities, 1 + len(masks), iterations=self.iterations)

    def _together(self, image: RgbImage, masks: PatchMaps) -> Float[Tensor, "1+n h w"]:
        """Infer the marginals of the background and of all texts, which share every pixel."""
        probabilities = torch.empty(1 + len(masks), *image.shape[:2], dtype=torch.float32)
        for i in range(len(masks)):
            probabilities[1 + i] = upsample_maps(masks[i : i + 1], image.shape[:2])[0]
        probabilities[0] = self._background(probabilities[1:].amax(0))
        return self._pairwise(image).infer(probabilities, iterations=self.iterations, overwrite=True)

    def _one_by_one(self, image: RgbImage, masks: PatchMaps) -> Iterator[Float[Tensor, "2 h w"]]:
        """Infer for each text the marginals of the background and of that text alone."""
        pairwise = self._pairwise(image) if self.crf and len(masks) else None
        for some in torch.split(masks, _TEXTS_AT_ONCE) if len(masks) else ():
            texts = upsample_maps(some, image.shape[:2])
            problems = torch.stack([self._background(texts), texts], 1)  # b 2 h w
            yield from pairwise.infer(problems, iterations=self.iterations) if pairwise else problems

    def _background(self, strongest: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
        """Give the background's probability where the strongest text has this one."""
        return (1 - strongest).clamp_(min=0).pow_(self.background_factor)

    def _pairwise(self, image: RgbImage) -> DenseCrf:
        return DenseCrf(image if self.crf_image == "rgb" else wrap_colors(image), self.kernels, device=self.device)


def wrap_colors(image: RgbImage) -> UInt8[ndarray, "h w 3"]:
    """Distort colors as the authors' release does before its CRF: BGR minus the mean, truncated, modulo 256."""
    shifted = np.trunc(image[:, :, ::-1].astype(np.float32) - np.array(_RELEASE_MEAN_BGR))
    return np.asarray(shifted.astype(np.int16).astype(np.uint8))


def _find_strongest(masks: PatchMaps, size_hw: tuple[int, int]) -> tuple[Float[Tensor, "h w"], Int64[Tensor, "h w"]]:
    """Find each pixel's largest soft mask and whose it is (the earlier of equals), enlarging one at a time."""
    best, text = torch.full(size_hw, -1.0), torch.zeros(size_hw, dtype=torch.int64)
    for i in range(len(masks)):
        upsampled = upsample_maps(masks[i : i + 1], size_hw)[0]
        text.masked_fill_(upsampled > best, i)
        torch.maximum(best, upsampled, out=best)
    return best, text
