"""Referring prediction in both ways: all sentences of an object at once, as the authors do, and each by itself."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from clip_as_rnn.evaluation.polygons import Mask
from clip_as_rnn.evaluation.segmenting import Segmenting
from clip_as_rnn.result import Segmentation
from clip_as_rnn.types import RgbImage

_MAJORITY = 0.5  # of the scores
_SMALLEST_SHARE = 0.05  # of the image; a merged mask of no more is given up for the union


@dataclass(frozen=True, slots=True, eq=False)
class ReferredMasks:
    """What was found for one reference.

    Attributes:
        merged: one mask from all sentences together.
        single: one mask per sentence, each asked by itself.
        seconds: time spent in the segmenter.
    """

    merged: Mask
    single: tuple[Mask, ...]
    seconds: float


def merge_masks(found: Segmentation) -> Mask:
    """Merge the masks of several sentences about one object, as the authors' release does.

    A pixel belongs to the object if the masks there hold half of all scores. If that leaves no more than 5 % of the
    image, the union of the masks is taken instead. Nothing found gives an empty mask.
    """
    union = np.asarray(found.masks.any(axis=0))  # h w, all False where nothing was found
    total = float(found.scores.sum())
    if total <= 0:
        return union
    merged: Mask = np.tensordot(found.scores / total, found.masks.astype(np.float64), axes=1) >= _MAJORITY  # h w
    return merged if merged.mean() > _SMALLEST_SHARE else union


def predict_reference(segmenter: Segmenting, image: RgbImage, sentences: tuple[str, ...]) -> ReferredMasks:
    """Find the object that `sentences` refer to; a lone sentence is asked only once."""
    started = perf_counter()
    merged = merge_masks(segmenter.segment(image, sentences))
    if len(set(sentences)) == 1:
        single = (merged,) * len(sentences)
    else:
        single = tuple(merge_masks(segmenter.segment(image, (sentence,))) for sentence in sentences)
    return ReferredMasks(merged, single, perf_counter() - started)
