"""Scores of label maps: pixels of the whole data set pooled, then IoU per class (Everingham et al., VOC).

Beside them, presence: how well texts were kept and rejected. Pure arithmetic on counts; label 0 is background.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.registry import Counting, SemanticDataset
from clip_as_rnn.evaluation.datasets.vocabulary import Vocabulary
from clip_as_rnn.types import LabelMap

ConfusionMatrix: TypeAlias = Int[ndarray, "c c"]  # rows: truth, columns: prediction
COUNTINGS: tuple[Counting, ...] = get_args(Counting)


@dataclass(frozen=True, slots=True)
class PixelCount:
    """How many pixels of label `truth` were given the label `predicted`."""

    truth: int
    predicted: int
    pixels: int


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """What one image adds to the scores of its data set.

    Attributes:
        pixels: one entry per pair of true and predicted label.
        kept: labels of the texts that the classifier kept to the end, ascending, with a mask or without.
        masked: labels of those that refinement left a pixel, also where others cover all of their pixels.
        unknown_pixels: pixels left out because their value in the label image names no class.
        unknown_value: the first such value.
    """

    pixels: tuple[PixelCount, ...]
    kept: tuple[int, ...]
    masked: tuple[int, ...]
    unknown_pixels: int = 0
    unknown_value: int | None = None

    @property
    def present(self) -> tuple[int, ...]:
        """Labels that the truth holds, ascending, without background."""
        return tuple(sorted({count.truth for count in self.pixels} - {0}))


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


def image_miou(counts: Collection[PixelCount]) -> float | None:
    """Return the mean IoU of one image over the labels of its truth, background included; None if nothing counts."""
    truth, predicted, hits = ({count.truth: 0 for count in counts} for _ in range(3))
    for count in counts:
        truth[count.truth] += count.pixels
        predicted[count.predicted] = predicted.get(count.predicted, 0) + count.pixels
        hits[count.truth] += count.pixels if count.truth == count.predicted else 0
    ious = [hits[label] / (truth[label] + predicted[label] - hits[label]) for label in truth]
    return sum(ious) / len(ious) if ious else None


@dataclass(frozen=True, slots=True)
class PixelScores:
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


def score_pixels(matrix: ConfusionMatrix, counting: Counting) -> PixelScores:
    """Score a data set's pixels under one way of counting.

    - with_background: every pixel counts, and background is a class.
    - without_background_released: row and column 0 are cut, as the authors' release does, so that an object's pixels
      which were predicted as background count nowhere, not even as misses.
    - without_background_counted: only row 0 is cut, as is usual: such pixels are misses.
    """
    pixels = _count(matrix, counting)
    if not pixels.valid.any():
        return PixelScores(counting, None, None, None, None)
    hits, truth, ious = pixels.hits[pixels.valid], pixels.truth[pixels.valid], pixels.ious
    total = truth.sum()
    return PixelScores(
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
class PresenceCounts:
    """Pairs of image and text by whether the text was there and whether it was kept.

    A text is present where the truth holds at least one pixel of its class.
    """

    present: int = 0
    present_kept: int = 0
    absent: int = 0
    absent_kept: int = 0


@dataclass(frozen=True, slots=True)
class PresenceScores:
    """How well texts were kept and rejected, pooled over all pairs of image and text; None where there is none.

    Attributes:
        precision: share of the kept texts that are present.
        recall: share of the present texts that were kept.
        absent_rejected: share of the absent texts that were rejected.
    """

    counts: PresenceCounts
    precision: float | None
    recall: float | None
    absent_rejected: float | None


def score_presence(counts: PresenceCounts) -> PresenceScores:
    """Turn counts into shares."""
    return PresenceScores(
        counts,
        precision=_share(counts.present_kept, counts.present_kept + counts.absent_kept),
        recall=_share(counts.present_kept, counts.present),
        absent_rejected=_share(counts.absent - counts.absent_kept, counts.absent),
    )


class PresenceMetric:
    """Counts, by class, in how many images a text was kept that is there, and that is not.

    `absent_asked`: whether a text was looked for also where it is not; if not, no image counts for absent ones.
    """

    def __init__(self, label_count: int, *, absent_asked: bool = True) -> None:
        self._absent_asked = absent_asked
        self._images = 0
        self._present, self._present_kept, self._absent_kept = (np.zeros(label_count, dtype=np.int64) for _ in range(3))

    def update(self, present: Collection[int], kept: Collection[int]) -> None:
        """Add one image's labels."""
        self._images += 1
        self._present[list(present)] += 1
        self._present_kept[list({*present} & {*kept})] += 1
        self._absent_kept[list({*kept} - {*present})] += 1

    def counts(self, labels: slice) -> PresenceCounts:
        """Return the counts of some classes, pooled."""
        present = int(self._present[labels].sum())
        pairs = self._images * len(self._present[labels])
        return PresenceCounts(
            present=present,
            present_kept=int(self._present_kept[labels].sum()),
            absent=pairs - present if self._absent_asked else 0,
            absent_kept=int(self._absent_kept[labels].sum()),
        )

    def compute(self) -> PresenceScores:
        """Pool all classes."""
        return score_presence(self.counts(slice(1, None)))


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class: its IoU under each way of counting, its true pixels, and how often the classifier kept it."""

    label: int
    name: str
    text: str
    kind: str
    pixels: int
    ious: dict[Counting, float | None]
    presence: PresenceCounts


@dataclass(frozen=True, slots=True)
class SemanticScores:
    """What a report says about label maps.

    Attributes:
        presence: of what the classifier kept, which is the recurrence's own decision.
        masked_presence: of what still had a pixel after refinement.
    """

    scores: tuple[PixelScores, ...]
    presence: PresenceScores
    masked_presence: PresenceScores
    classes: tuple[ClassScores, ...]


class SemanticMetric:
    """Pools the pixels and the kept texts of a data set's label maps."""

    measure: ClassVar[str] = "mIoU"  # what the headline is

    def __init__(self, dataset: SemanticDataset, vocabulary: Vocabulary, *, absent_asked: bool = True) -> None:
        size = len(vocabulary.classes) + 1
        self._dataset = dataset
        self._vocabulary = vocabulary
        self._matrix: ConfusionMatrix = np.zeros((size, size), dtype=np.int64)
        self._kept = PresenceMetric(size, absent_asked=absent_asked)
        self._masked = PresenceMetric(size, absent_asked=absent_asked)

    def update(self, counts: ImageCounts) -> None:
        """Add one image.

        Raises:
            InputError: a label beyond the vocabulary, as records of another data set may hold.
        """
        pairs = ((count.truth, count.predicted) for count in counts.pixels)
        for label in (*(label for pair in pairs for label in pair), *counts.kept, *counts.masked):
            if not 0 <= label < len(self._matrix):
                raise InputError(f"Expected labels from 0 to {len(self._matrix) - 1} in the records, but got {label}.")
        add_counts(self._matrix, counts.pixels)
        self._kept.update(counts.present, counts.kept)
        self._masked.update(counts.present, counts.masked)

    def headline(self) -> float | None:
        """Return the mIoU under the data set's own way of counting."""
        return score_pixels(self._counted(self._dataset.headline), self._dataset.headline).miou

    def compute(self) -> SemanticScores:
        """Return scores, presence and classes."""
        ious = {counting: class_ious(self._counted(counting), counting) for counting in COUNTINGS}
        return SemanticScores(
            scores=tuple(score_pixels(self._counted(counting), counting) for counting in COUNTINGS),
            presence=self._kept.compute(),
            masked_presence=self._masked.compute(),
            classes=tuple(self._class_scores(label, ious) for label in range(len(self._matrix))),
        )

    def _counted(self, counting: Counting) -> ConfusionMatrix:
        """Return what is counted: the released way has only as many classes as the authors' release."""
        size = self._dataset.released_classes if counting == "without_background_released" else None
        return self._matrix[:size, :size]

    def _class_scores(self, label: int, ious: Mapping[Counting, Sequence[float | None]]) -> ClassScores:
        own = {counting: found[label] if label < len(found) else None for counting, found in ious.items()}
        pixels = int(self._matrix[label].sum())
        if label == 0:
            return ClassScores(0, "background", "", "background", pixels, own, PresenceCounts())
        entry = self._vocabulary.classes[label - 1]
        presence = self._kept.counts(slice(label, label + 1))
        return ClassScores(label, entry.name, entry.text, entry.kind, pixels, own, presence)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
