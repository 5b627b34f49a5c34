"""Scores of label maps: pixels of the whole data set pooled, then IoU per class (Everingham et al., VOC).

Pure arithmetic on counts; knows nothing of files or models. Label 0 is background.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from clip_as_rnn.evaluation.counting import Counting
from clip_as_rnn.types import LabelMap

ConfusionMatrix: TypeAlias = Int[ndarray, "c c"]  # rows: truth, columns: prediction


@dataclass(frozen=True, slots=True)
class PixelCount:
    """How many pixels of label `truth` were given the label `predicted`."""

    truth: int
    predicted: int
    pixels: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores under one way of counting, all classes together; None where nothing was counted.

    Attributes:
        miou: mean IoU over the classes that the truth holds; a class that is only predicted has no say.
        pixel_accuracy: share of counted pixels that are right.
        mean_accuracy: mean over the same classes of the share of their pixels that are right.
        frequency_weighted_iou: IoU weighted with the classes' pixels.
    """

    counting: Counting
    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    frequency_weighted_iou: float | None


def count_pixels(truth: LabelMap, predicted: LabelMap) -> tuple[PixelCount, ...]:
    """Count every pair of true and predicted label; negative true labels are ignored. Ascending by pair."""
    counted = truth >= 0
    pairs = np.stack([truth[counted], predicted[counted]])  # 2 pixels
    found, pixels = np.unique(pairs, axis=1, return_counts=True) if pairs.size else (pairs, np.zeros(0, dtype=int))
    return tuple(PixelCount(int(t), int(p), int(n)) for (t, p), n in zip(found.T, pixels, strict=True))


def add_counts(matrix: ConfusionMatrix, counts: Iterable[PixelCount]) -> None:
    """Add one image's pixels to the matrix of the whole data set, in place."""
    for count in counts:
        matrix[count.truth, count.predicted] += count.pixels


@dataclass(frozen=True, slots=True, eq=False)
class _CountedPixels:
    """What one way of counting makes of a confusion matrix: pixels by class, and which classes count."""

    hits: Float[ndarray, " c"]
    truth: Float[ndarray, " c"]
    predicted: Float[ndarray, " c"]
    valid: Bool[ndarray, " c"]

    @property
    def ious(self) -> Float[ndarray, " v"]:
        """The IoU of each valid class."""
        unions = self.truth + self.predicted - self.hits
        return np.asarray(self.hits[self.valid] / unions[self.valid])


def score(matrix: ConfusionMatrix, counting: Counting) -> Scores:
    """Score a data set's pixels under one way of counting.

    - with_background: every pixel counts, and background is a class.
    - without_background_released: row and column 0 are cut, as the authors' release does, so that an object's pixels
      which were predicted as background count nowhere, not even as misses.
    - without_background_counted: only row 0 is cut, as is usual: such pixels are misses.
    """
    pixels = _count(matrix, counting)
    if not pixels.valid.any():
        return Scores(counting, None, None, None, None)
    hits, truth, ious = pixels.hits[pixels.valid], pixels.truth[pixels.valid], pixels.ious
    total = truth.sum()
    return Scores(
        counting=counting,
        miou=float(ious.mean()),
        pixel_accuracy=float(hits.sum() / total),
        mean_accuracy=float((hits / truth).mean()),
        frequency_weighted_iou=float((truth / total * ious).sum()),
    )


def class_ious(matrix: ConfusionMatrix, counting: Counting) -> tuple[float | None, ...]:
    """Return the IoU by label, from 0; None for classes that are not in the truth or not counted."""
    pixels = _count(matrix, counting)
    remaining = iter(pixels.ious.tolist())
    return tuple(next(remaining) if flag else None for flag in pixels.valid)


def _count(matrix: ConfusionMatrix, counting: Counting) -> _CountedPixels:
    first_row = 0 if counting == "with_background" else 1
    first_column = 1 if counting == "without_background_released" else 0
    truth = matrix[:, first_column:].sum(axis=1).astype(np.float64)  # c
    return _CountedPixels(
        hits=np.diag(matrix).astype(np.float64),
        truth=truth,
        predicted=matrix[first_row:].sum(axis=0).astype(np.float64),
        valid=(truth > 0) & (np.arange(len(matrix)) >= first_row),
    )


@dataclass(frozen=True, slots=True)
class Presence:
    """How well texts were kept and rejected, pooled over all pairs of image and text.

    A text is present where the truth holds at least one pixel of its class.
    """

    present: int = 0
    present_kept: int = 0
    absent: int = 0
    absent_kept: int = 0

    @property
    def recall(self) -> float | None:
        """Share of the present texts that were kept."""
        return _share(self.present_kept, self.present)

    @property
    def precision(self) -> float | None:
        """Share of the kept texts that are present."""
        return _share(self.present_kept, self.present_kept + self.absent_kept)

    @property
    def absent_rejected(self) -> float | None:
        """Share of the absent texts that were rejected."""
        return _share(self.absent - self.absent_kept, self.absent)

    def add(self, other: "Presence") -> "Presence":
        """Return the sum of two counts."""
        return Presence(
            self.present + other.present,
            self.present_kept + other.present_kept,
            self.absent + other.absent,
            self.absent_kept + other.absent_kept,
        )


def image_miou(counts: Collection[PixelCount]) -> float | None:
    """Return the mean IoU of one image over the labels of its truth, background included; None if nothing counts."""
    truth, predicted, hits = ({count.truth: 0 for count in counts} for _ in range(3))
    for count in counts:
        truth[count.truth] += count.pixels
        predicted[count.predicted] = predicted.get(count.predicted, 0) + count.pixels
        hits[count.truth] += count.pixels if count.truth == count.predicted else 0
    ious = [hits[label] / (truth[label] + predicted[label] - hits[label]) for label in truth]
    return sum(ious) / len(ious) if ious else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
