"""Scores of referring segmentation: mIoU, oIoU, precision at thresholds; gIoU, cIoU and N-acc of GRES.

Pure arithmetic on overlaps of masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Pixels that a mask and the true one share, and pixels that either covers."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union; 0 where both masks are empty, as the authors count."""
        return self.intersection / self.union if self.union else 0.0


def measure_overlap(mask: Bool[ndarray, "h w"], truth: Bool[ndarray, "h w"]) -> Overlap:
    """Count the pixels of two masks."""
    return Overlap(int(np.count_nonzero(mask & truth)), int(np.count_nonzero(mask | truth)))


@dataclass(frozen=True, slots=True)
class Precision:
    """The share of masks whose IoU is at least `threshold`."""

    threshold: float
    share: float


@dataclass(frozen=True, slots=True)
class OverlapScores:
    """Scores over `count` masks; None where there is none.

    Attributes:
        miou: mean of the masks' IoU.
        oiou: all intersections over all unions.
    """

    count: int
    miou: float | None
    oiou: float | None
    precisions: tuple[Precision, ...]


def score_overlaps(overlaps: Sequence[Overlap]) -> OverlapScores:
    """Score masks that each have one true mask."""
    if not overlaps:
        return OverlapScores(0, None, None, ())
    ious = np.array([overlap.iou for overlap in overlaps])
    union = sum(overlap.union for overlap in overlaps)
    return OverlapScores(
        count=len(overlaps),
        miou=float(ious.mean()),
        oiou=sum(overlap.intersection for overlap in overlaps) / union if union else 0.0,
        precisions=tuple(Precision(limit, float((ious >= limit).mean())) for limit in THRESHOLDS),
    )


@dataclass(frozen=True, slots=True)
class GresScores:
    """Scores of generalized referring segmentation (Liu et al., CVPR 2023); None where nothing was counted.

    Attributes:
        giou: mean IoU, where a sentence without target counts 1 for an empty mask and 0 for any other.
        ciou: all intersections over all unions; what is marked for a sentence without target adds to the unions.
        n_accuracy: share of the sentences without target that got an empty mask.
        t_accuracy: share of the sentences with a target that got a mask that is not empty.
    """

    giou: float | None
    ciou: float | None
    n_accuracy: float | None
    t_accuracy: float | None


@dataclass(frozen=True, slots=True)
class GresSample:
    """One sentence's overlap with the union of its targets, whether it has any, and whether its mask is empty."""

    overlap: Overlap
    has_target: bool
    is_empty: bool


def score_gres(samples: Sequence[GresSample]) -> GresScores:
    """Score sentences that refer to any number of objects; a mask is empty when it has no pixel at all."""
    with_target = [sample for sample in samples if sample.has_target]
    without = [sample for sample in samples if not sample.has_target]
    ious = [sample.overlap.iou for sample in with_target] + [float(sample.is_empty) for sample in without]
    union = sum(sample.overlap.union for sample in samples)
    return GresScores(
        giou=_mean(ious),
        ciou=sum(sample.overlap.intersection for sample in samples) / union if union else None,
        n_accuracy=_mean([float(sample.is_empty) for sample in without]),
        t_accuracy=_mean([float(not sample.is_empty) for sample in with_target]),
    )


@dataclass(frozen=True, slots=True)
class ReferenceOverlaps:
    """What one reference adds to the scores of its data set.

    Attributes:
        released: the merged mask of all sentences with the authors' reading of the truth.
        merged: the same mask with the usual reading.
        sentences: each sentence's own mask with the usual reading.
        has_target: whether the sentences refer to anything.
        is_empty: whether the merged mask has no pixel.
    """

    released: Overlap
    merged: Overlap
    sentences: tuple[Overlap, ...]
    has_target: bool
    is_empty: bool


@dataclass(frozen=True, slots=True)
class ReferringRow:
    """Scores of one way to ask and to read the truth."""

    asked: str
    truth: str
    scores: OverlapScores


@dataclass(frozen=True, slots=True)
class ReferringScores:
    """What a report says about referred objects; `gres` only where sentences may have no target."""

    rows: tuple[ReferringRow, ...]
    gres: GresScores | None


class ReferringMetric:
    """Pools the overlaps of a data set's references."""

    measure: ClassVar[str] = "mIoU"  # what the headline is

    def __init__(self, *, generalized: bool) -> None:
        self._generalized = generalized
        self._references: list[ReferenceOverlaps] = []
        self._iou_sum = 0.0

    def update(self, overlaps: ReferenceOverlaps) -> None:
        """Add one reference."""
        self._references.append(overlaps)
        self._iou_sum += overlaps.released.iou

    def headline(self) -> float | None:
        """Return the mIoU as the authors count it."""
        return self._iou_sum / len(self._references) if self._references else None

    def compute(self) -> ReferringScores:
        """Return the scores of each way to ask and to read the truth."""
        released, usual = "pixels in exactly one polygon", "union of the polygons"
        if self._generalized:
            released, usual = "the first object, pixels in exactly one polygon", "union of all objects"
        found = self._references
        rows = (
            ReferringRow("all sentences together", released, score_overlaps([one.released for one in found])),
            ReferringRow("all sentences together", usual, score_overlaps([one.merged for one in found])),
            ReferringRow(
                "each sentence by itself", usual, score_overlaps([each for one in found for each in one.sentences])
            ),
        )
        samples = [GresSample(one.merged, one.has_target, one.is_empty) for one in found]
        return ReferringScores(rows, score_gres(samples) if self._generalized else None)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
