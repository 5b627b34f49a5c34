"""Scores of label maps: pixels of the whole data set pooled, then IoU per class (Everingham et al., VOC).

Pure arithmetic on counts; knows nothing of files or models. Label 0 is background.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from clip_as_rnn.shapes import LabelMap

ConfusionMatrix: TypeAlias = Int[ndarray, "c c"]  # rows: truth, columns: prediction
Counting = Literal["with_background", "without_background_released", "without_background_counted"]
COUNTINGS: tuple[Counting, ...] = (
    "with_background",
    "without_background_released",
    "without_background_counted",
)


@dataclass(frozen=True, slots=True)
class PixelCount:
    """How many pixels of label `truth` were given the label `predicted`."""

    truth: int
    predicted: int
    pixels: int


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores under one way of counting; None where nothing was counted.

    Attributes:
        miou: mean IoU over the classes that the truth holds; a class that is only predicted has no say.
        pixel_accuracy: share of counted pixels that are right.
        mean_accuracy: mean over the same classes of the share of their pixels that are right.
        frequency_weighted_iou: IoU weighted with the classes' pixels.
        class_ious: by label, from 0; None for classes that are not in the truth or not counted.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    frequency_weighted_iou: float | None
    class_ious: tuple[float | None, ...]


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


def score(matrix: ConfusionMatrix, counting: Counting) -> Scores:
    """Score a data set's pixels under one way of counting.

    - with_background: every pixel counts, and background is a class.
    - without_background_released: row and column 0 are cut, as the authors' release does, so that an object's pixels
      which were predicted as background count nowhere, not even as misses.
    - without_background_counted: only row 0 is cut, as is usual: such pixels are misses.
    """
    first_row = 0 if counting == "with_background" else 1
    first_column = 1 if counting == "without_background_released" else 0
    hits = np.diag(matrix).astype(np.float64)  # c
    truth = matrix[:, first_column:].sum(axis=1).astype(np.float64)  # c
    predicted = matrix[first_row:].sum(axis=0).astype(np.float64)  # c
    valid = (truth > 0) & (np.arange(len(matrix)) >= first_row)
    if not valid.any():
        return Scores(None, None, None, None, (None,) * len(matrix))
    ious = hits[valid] / (truth + predicted - hits)[valid]
    total = truth[valid].sum()
    return Scores(
        miou=float(ious.mean()),
        pixel_accuracy=float(hits[valid].sum() / total),
        mean_accuracy=float((hits[valid] / truth[valid]).mean()),
        frequency_weighted_iou=float((truth[valid] / total * ious).sum()),
        class_ious=_spread(ious, valid),
    )


def _spread(values: Float[ndarray, " v"], valid: Bool[ndarray, " c"]) -> tuple[float | None, ...]:
    """Put the values of the valid classes back at their labels, None elsewhere."""
    remaining = iter(values.tolist())
    return tuple(next(remaining) if flag else None for flag in valid)


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


def count_presence(present: Collection[int], kept: Collection[int], asked: int) -> Presence:
    """Count one image, of which `asked` texts were asked; labels from 1."""
    both = len(set(present) & set(kept))
    return Presence(
        present=len(set(present)),
        present_kept=both,
        absent=asked - len(set(present)),
        absent_kept=len(set(kept)) - both,
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
