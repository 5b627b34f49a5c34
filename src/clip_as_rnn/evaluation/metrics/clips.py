"""Scores of a data set of clips: J, F and J&F in both conventions, flicker, and where texts were found.

Flicker is the share of pixels whose predicted label changes from one frame to the next where the true one does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Integer
from numpy import ndarray

from clip_as_rnn.evaluation.metrics.video import VOID, SequenceScores, boundary_accuracy, region_similarity

LabelMaps = Integer[ndarray, "t h w"]


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """J and F of each object of a clip, in [0, 1]."""

    j: tuple[float, ...]
    f: tuple[float, ...]

    @classmethod
    def of(cls, scores: SequenceScores) -> "ObjectScores":
        """Take the means over the frames."""
        return cls(tuple(map(float, scores.j)), tuple(map(float, scores.f)))


@dataclass(frozen=True, slots=True)
class Share:
    """So many of a total."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        """The share of 1; None of nothing."""
        return self.count / self.total if self.total else None

    def __add__(self, other: "Share") -> "Share":
        """Pool two shares."""
        return Share(self.count + other.count, self.total + other.total)


NOTHING = Share(0, 0)
SHARES = ("flicker", "present", "gone", "absent", "never")  # of a sample's scores


@dataclass(frozen=True, slots=True)
class ClipScores:
    """What one sample adds to the scores of its data set.

    Attributes:
        group: the annotator, or nothing where expressions are asked one by one.
        frames: of the clip.
        unsupervised, semi_supervised: by the conventions of DAVIS; of single expressions, both are over all frames
            with labels as they are.
        flicker: pixels that change.
        present: frames in which an object was found, of those in which it shows itself.
        gone: frames in which one was not found, of those in which it does not.
        absent: frames in which a text about nothing in the clip was not found.
        never: such texts that were found in no frame.
    """

    group: str
    frames: int
    unsupervised: ObjectScores | None = None
    semi_supervised: ObjectScores | None = None
    flicker: Share = NOTHING
    present: Share = NOTHING
    gone: Share = NOTHING
    absent: Share = NOTHING
    never: Share = NOTHING


def measure_flicker(truth: LabelMaps, predicted: LabelMaps) -> Share:
    """Count the pixels whose predicted label changes from frame to frame where the true one, not void, does not."""
    is_still = (truth[1:] == truth[:-1]) & (truth[1:] != VOID)
    return Share(int(((predicted[1:] != predicted[:-1]) & is_still).sum()), int(is_still.sum()))


def score_masks(truth: Bool[ndarray, "t h w"], predicted: Bool[ndarray, "t h w"]) -> ObjectScores:
    """Score the masks of one expression over all frames, as Ref-YouTube-VOS and MeViS do."""
    pairs = [(wanted[None], found[None]) for wanted, found in zip(truth, predicted, strict=True)]
    j = np.mean([region_similarity(found, wanted)[0, 0] for wanted, found in pairs])
    f = np.mean([boundary_accuracy(found, wanted)[0, 0] for wanted, found in pairs])
    return ObjectScores((float(j),), (float(f),))


@dataclass(frozen=True, slots=True)
class VideoRow:
    """Scores in one convention: means over objects, of one annotator or of all of them; None where nothing counts."""

    convention: str
    annotator: str
    objects: int
    j: float | None
    f: float | None

    @property
    def jf(self) -> float | None:
        """The mean of both."""
        return None if self.j is None or self.f is None else (self.j + self.f) / 2


@dataclass(frozen=True, slots=True)
class VideoScores:
    """What a report says about clips; shares of 1, None where the data says nothing of it.

    Attributes:
        rows: the mean over the annotators of each convention, then each annotator.
        flicker: share of the pixels that change where the truth does not.
        recall: share of the frames with an object in which it was found.
        gone_rejected: share of the frames without it in which it was not.
        absent_rejected: share of the frames in which texts about nothing in the clip were not found.
        never_found: share of such texts that were found in no frame.
    """

    rows: tuple[VideoRow, ...]
    frames: int
    flicker: float | None
    recall: float | None
    gone_rejected: float | None
    absent_rejected: float | None
    never_found: float | None


class VideoMetric:
    """Pools the scores of a data set's clips."""

    measure: ClassVar[str] = "J&F"  # what the headline is

    def __init__(self) -> None:
        self._clips: list[ClipScores] = []

    def update(self, scores: ClipScores) -> None:
        """Add one sample."""
        self._clips.append(scores)

    def headline(self) -> float | None:
        """Return J&F by the convention of the field's scripts, averaged over annotators."""
        return self.compute().rows[0].jf

    def compute(self) -> VideoScores:
        """Return the scores in both conventions, and what was found where."""
        groups = sorted({one.group for one in self._clips})
        rows: list[VideoRow] = []
        for convention in ("unsupervised", "semi-supervised"):
            by_group = [_average(self._clips, convention, group) for group in groups]
            rows.append(_mean_row(convention, by_group))
            rows.extend(by_group if len(groups) > 1 else ())
        pooled = {name: sum((getattr(one, name) for one in self._clips), NOTHING).value for name in SHARES}
        return VideoScores(
            rows=tuple(rows),
            frames=sum(one.frames for one in self._clips),
            flicker=pooled["flicker"],
            recall=pooled["present"],
            gone_rejected=pooled["gone"],
            absent_rejected=pooled["absent"],
            never_found=pooled["never"],
        )


def _average(clips: Sequence[ClipScores], convention: str, group: str) -> VideoRow:
    """Average over the objects of all clips of one annotator."""
    own = [
        one.unsupervised if convention == "unsupervised" else one.semi_supervised for one in clips if one.group == group
    ]
    j = [value for scores in own if scores for value in scores.j]
    f = [value for scores in own if scores for value in scores.f]
    return VideoRow(convention, group, len(j), _mean(j), _mean(f))


def _mean_row(convention: str, rows: Sequence[VideoRow]) -> VideoRow:
    """Average over annotators."""
    j, f = ([value for row in rows if (value := getattr(row, name)) is not None] for name in ("j", "f"))
    return VideoRow(convention, "all", sum(row.objects for row in rows), _mean(j), _mean(f))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
