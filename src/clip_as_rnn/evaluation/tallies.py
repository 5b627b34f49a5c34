"""Pool the records of a run into the body of its report, one record at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from clip_as_rnn.evaluation.counting import COUNTINGS, Counting
from clip_as_rnn.evaluation.datasets import SemanticDataset
from clip_as_rnn.evaluation.metrics import (
    ConfusionMatrix,
    Presence,
    Scores,
    add_counts,
    class_ious,
    score,
)
from clip_as_rnn.evaluation.records import Record, ReferringResult, SemanticResult
from clip_as_rnn.evaluation.referring_metrics import (
    GresSample,
    GresScores,
    Overlap,
    ReferringScores,
    score_gres,
    score_overlaps,
)
from clip_as_rnn.evaluation.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class PresenceScores:
    """How well texts were kept and rejected, pooled over all pairs of image and text."""

    counts: Presence
    precision: float | None
    recall: float | None
    absent_rejected: float | None


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: its IoU under each way of counting, its true pixels, and how often the classifier kept it."""

    label: int
    name: str
    text: str
    kind: str
    pixels: int
    ious: dict[Counting, float | None]
    presence: Presence


@dataclass(frozen=True, slots=True)
class SemanticBody:
    """What a report says about label maps.

    Attributes:
        presence: of what the classifier kept, which is the recurrence's own decision.
        masked_presence: of what still had a pixel after refinement.
    """

    scores: tuple[Scores, ...]
    presence: PresenceScores
    masked_presence: PresenceScores
    classes: tuple[ClassRow, ...]


@dataclass(frozen=True, slots=True)
class ReferringRow:
    """Scores of one way to ask and to read the truth."""

    asked: str
    truth: str
    scores: ReferringScores


@dataclass(frozen=True, slots=True)
class ReferringBody:
    """What a report says about referred objects; `gres` only where sentences may have no target."""

    rows: tuple[ReferringRow, ...]
    gres: GresScores | None


@runtime_checkable
class Tally(Protocol):
    """Pools records."""

    def add(self, record: Record) -> None:
        """Add one record; a failure adds nothing."""

    def headline(self) -> float | None:
        """Return the one number to watch."""

    def body(self) -> SemanticBody | ReferringBody:
        """Return everything the report says about the records so far."""


class _PresenceTally:
    """Counts, by class, in how many images a text was kept that is there, and that is not."""

    def __init__(self, size: int, *, absent_asked: bool) -> None:
        self._absent_asked = absent_asked
        self._images = 0
        self._present, self._present_kept, self._absent_kept = (np.zeros(size, dtype=np.int64) for _ in range(3))

    def add(self, present: set[int], kept: set[int]) -> None:
        """Add one image."""
        self._images += 1
        self._present[list(present)] += 1
        self._present_kept[list(present & kept)] += 1
        self._absent_kept[list(kept - present)] += 1

    def of(self, label: int) -> Presence:
        """Return the counts of one class."""
        present = int(self._present[label])
        absent = self._images - present if self._absent_asked else 0
        return Presence(present, int(self._present_kept[label]), absent, int(self._absent_kept[label]))

    def scores(self) -> PresenceScores:
        """Pool all classes."""
        total = Presence()
        for label in range(1, len(self._present)):
            total = total.add(self.of(label))
        return PresenceScores(total, total.precision, total.recall, total.absent_rejected)


class SemanticTally:
    """Pools the pixels and the kept texts of label maps."""

    def __init__(self, dataset: SemanticDataset, vocabulary: Vocabulary, *, absent_asked: bool = True) -> None:
        size = len(vocabulary.classes) + 1
        self._dataset = dataset
        self._vocabulary = vocabulary
        self._matrix: ConfusionMatrix = np.zeros((size, size), dtype=np.int64)
        self._kept = _PresenceTally(size, absent_asked=absent_asked)
        self._masked = _PresenceTally(size, absent_asked=absent_asked)

    def add(self, record: Record) -> None:
        """Add one image's pixels and kept texts."""
        if not isinstance(record.result, SemanticResult):
            return
        add_counts(self._matrix, record.result.counts)
        self._kept.add(set(record.result.present), set(record.result.kept))
        self._masked.add(set(record.result.present), set(record.result.masked))

    def headline(self) -> float | None:
        """Return the mIoU under the data set's own way of counting."""
        return score(self._counted(self._dataset.headline), self._dataset.headline).miou

    def body(self) -> SemanticBody:
        """Return scores, presence and classes."""
        ious = {counting: class_ious(self._counted(counting), counting) for counting in COUNTINGS}
        return SemanticBody(
            scores=tuple(score(self._counted(counting), counting) for counting in COUNTINGS),
            presence=self._kept.scores(),
            masked_presence=self._masked.scores(),
            classes=tuple(self._row(label, ious) for label in range(len(self._matrix))),
        )

    def _counted(self, counting: Counting) -> ConfusionMatrix:
        """Return what is counted: the released way has only as many classes as the authors' release."""
        size = self._dataset.released_classes if counting == "without_background_released" else None
        return self._matrix[:size, :size]

    def _row(self, label: int, ious: Mapping[Counting, Sequence[float | None]]) -> ClassRow:
        own = {counting: found[label] if label < len(found) else None for counting, found in ious.items()}
        pixels = int(self._matrix[label].sum())
        if label == 0:
            return ClassRow(0, "background", "", "background", pixels, own, Presence())
        entry = self._vocabulary.classes[label - 1]
        return ClassRow(label, entry.name, entry.text, entry.kind, pixels, own, self._kept.of(label))


class ReferringTally:
    """Pools the overlaps of referred objects."""

    def __init__(self, *, generalized: bool) -> None:
        self._generalized = generalized
        self._released: list[Overlap] = []
        self._merged: list[Overlap] = []
        self._sentences: list[Overlap] = []
        self._samples: list[GresSample] = []
        self._iou_sum = 0.0

    def add(self, record: Record) -> None:
        """Add one reference's overlaps."""
        result = record.result
        if not isinstance(result, ReferringResult):
            return
        self._released.append(result.released)
        self._merged.append(result.merged)
        self._sentences.extend(result.sentences)
        self._iou_sum += result.released.iou
        if self._generalized:
            self._samples.append(GresSample(result.merged, result.has_target, result.is_empty))

    def headline(self) -> float | None:
        """Return the mIoU as the authors count it."""
        return self._iou_sum / len(self._released) if self._released else None

    def body(self) -> ReferringBody:
        """Return the scores of each way to ask and to read the truth."""
        released, usual = "pixels in exactly one polygon", "union of the polygons"
        if self._generalized:
            released, usual = "the first object, pixels in exactly one polygon", "union of all objects"
        rows = (
            ReferringRow("all sentences together", released, score_overlaps(self._released)),
            ReferringRow("all sentences together", usual, score_overlaps(self._merged)),
            ReferringRow("each sentence by itself", usual, score_overlaps(self._sentences)),
        )
        return ReferringBody(rows, score_gres(self._samples) if self._generalized else None)
