"""What a run does with one image: predict, compare with the truth, keep the counts.

A task knows its data set and its segmenter; it knows nothing of folders of output, of resuming or of reports.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import CarError, InputError
from clip_as_rnn.evaluation.datasets import ReferringDataset, SemanticDataset
from clip_as_rnn.evaluation.labelled import (
    LabelledImage,
    check_same_size,
    read_labels,
    read_rgb,
)
from clip_as_rnn.evaluation.metrics import count_pixels
from clip_as_rnn.evaluation.passes import Asking, Pass, PassOrder, plan_passes, predict
from clip_as_rnn.evaluation.records import Record, ReferringResult, SemanticResult
from clip_as_rnn.evaluation.references import Reference
from clip_as_rnn.evaluation.referring_metrics import measure_overlap
from clip_as_rnn.evaluation.segmenting import Segmenting, check_wording
from clip_as_rnn.evaluation.sentences import predict_reference
from clip_as_rnn.evaluation.vocabulary import Vocabulary
from clip_as_rnn.types import LabelMap, RgbImage

_SHORTEST = "a"  # sentences differ by reference; one that is too long fails by itself


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """What became of one image.

    Attributes:
        record: what is kept of it; a failure names files from the data's root on, so that it is the same anywhere.
        labels: the predicted labels unless it failed; referring: 1 is the object.
        complaint: a failure with whole paths, for whoever is to mend it.
    """

    record: Record
    labels: LabelMap | None = None
    complaint: str | None = None


Evaluate: TypeAlias = Callable[[int], Evaluated]  # takes the position of an image in its split


@runtime_checkable
class Task(Protocol):
    """A data set's split and how each of its images is evaluated."""

    @property
    def names(self) -> Sequence[str]:
        """The images (or references) of the split, in order."""

    def configs(self, segmenter: Segmenting) -> tuple[SegmenterConfig, ...]:
        """Return the settings that each pass over an image is asked with."""

    def evaluator(self, segmenter: Segmenting) -> Evaluate:
        """Return what evaluates one image; an image that cannot be evaluated gives a record that says why.

        Raises:
            InputError: the settings cannot be asked with on any image.
        """

    def truth(self, position: int) -> LabelMap:
        """Return the true labels of the image at `position`; raises InputError."""

    def picture(self, position: int) -> RgbImage:
        """Return the image at `position`; raises InputError."""


@dataclass(frozen=True, slots=True)
class SemanticTask:
    """Every class of a vocabulary asked on every image."""

    dataset: SemanticDataset
    root: Path
    vocabulary: Vocabulary
    items: tuple[LabelledImage, ...]
    order: PassOrder
    asking: Asking

    @property
    def names(self) -> tuple[str, ...]:
        """The images of the split, in order."""
        return tuple(item.name for item in self.items)

    def configs(self, segmenter: Segmenting) -> tuple[SegmenterConfig, ...]:
        """Return the settings of each pass: those of things and stuff have other background texts."""
        return tuple(turn.segmenter.config for turn in plan_passes(segmenter, self.vocabulary, self.order))

    def evaluator(self, segmenter: Segmenting) -> Evaluate:
        """Plan and check the passes once and return what runs them on one image."""
        passes = plan_passes(segmenter, self.vocabulary, self.order)
        for turn in passes:
            check_wording(turn.segmenter, turn.texts)
        return partial(self._evaluate, passes)

    def _evaluate(self, passes: Sequence[Pass], position: int) -> Evaluated:
        """Segment one image and count its pixels; broken files and refusals become the record's failure."""
        item = self.items[position]
        try:
            image, truth = self.picture(position), self.truth(position)
            check_same_size(item, self.dataset, image, truth)
            found = predict(passes, image, asking=self.asking, present=np.unique(truth[truth > 0]).tolist())
        except CarError as error:
            return _failed(item.name, str(error), self.root)
        result = SemanticResult(count_pixels(truth, found.labels), found.kept, found.masked)
        return Evaluated(Record(item.name, found.seconds, result), found.labels)

    def truth(self, position: int) -> LabelMap:
        """Return the true labels of one image."""
        return read_labels(self.items[position], self.dataset, len(self.vocabulary.classes))

    def picture(self, position: int) -> RgbImage:
        """Return one image."""
        return read_rgb(self.items[position].image)


@dataclass(frozen=True, slots=True)
class ReferringTask:
    """Every reference's sentences asked on its image, together and one by one."""

    dataset: ReferringDataset
    root: Path
    items: tuple[Reference, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The references of the split, in order."""
        return tuple(item.name for item in self.items)

    def configs(self, segmenter: Segmenting) -> tuple[SegmenterConfig, ...]:
        """Return the settings of the segmenter, for there is one pass."""
        return (segmenter.config,)

    def evaluator(self, segmenter: Segmenting) -> Evaluate:
        """Check the settings with the shortest sentence there is and return what asks one reference."""
        check_wording(segmenter, (_SHORTEST,))
        return partial(self._evaluate, segmenter)

    def _evaluate(self, segmenter: Segmenting, position: int) -> Evaluated:
        """Find one referred object and measure the overlaps; broken files and refusals become the record's failure."""
        item = self.items[position]
        try:
            image, truth, released = self.picture(position), item.mask(), item.released_mask()
            _check_reference(item, self.dataset, image)
            found = predict_reference(segmenter, image, item.sentences)
        except CarError as error:
            return _failed(item.name, str(error), self.root)
        result = ReferringResult(
            released=measure_overlap(found.merged, released),
            merged=measure_overlap(found.merged, truth),
            sentences=tuple(measure_overlap(mask, truth) for mask in found.single),
            has_target=bool(item.segmentations),
            is_empty=not found.merged.any(),
        )
        return Evaluated(Record(item.name, found.seconds, result), found.merged.astype(np.int64))

    def truth(self, position: int) -> LabelMap:
        """Return 1 where the referred objects are."""
        return self.items[position].mask().astype(np.int64)

    def picture(self, position: int) -> RgbImage:
        """Return one image."""
        return read_rgb(self.items[position].image)


def _failed(name: str, complaint: str, root: Path) -> Evaluated:
    reason = complaint
    for folder in {root, root.resolve()}:
        prefix = str(folder / "x")[:-1]  # with its slash; nothing for the folder at hand
        reason = reason.replace(prefix, "") if prefix else reason
    return Evaluated(Record(name, 0.0, failure=reason), complaint=complaint)


def _check_reference(item: Reference, dataset: ReferringDataset, image: RgbImage) -> None:
    """Raise InputError unless the reference can be asked on its image."""
    if not item.sentences:
        raise InputError(f"Expected the reference {item.name} to have a sentence, but all of its sentences are blank.")
    if image.shape[:2] != item.size_hw:
        (height, width), (listed_height, listed_width) = image.shape[:2], item.size_hw
        raise InputError(
            f"Expected the image {item.image} to be {listed_width} x {listed_height} as instances.json says, "
            f"but it is {width} x {height}. {dataset.source}"
        )
