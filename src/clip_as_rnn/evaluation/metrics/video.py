"""Scores of a segmented clip: region similarity J, boundary accuracy F, their mean J&F, exactly as DAVIS 2017 counts.

Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation" (CVPR 2016), as the
official code davis2017-evaluation reads it. Label maps hold 0 for background, 1..n for objects and, in the truth, 255
for void. Frames are compared one at a time, so that a clip takes little more memory than its label maps.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from numpy import ndarray
from scipy.optimize import linear_sum_assignment

from clip_as_rnn.errors import InputError
from clip_as_rnn.types import Masks

Task = Literal["unsupervised", "semi-supervised"]
LabelMaps: TypeAlias = Integer[ndarray, "..."]  # t h w, one label map per frame
Table: TypeAlias = Float[ndarray, "p o"]  # one value per predicted label and object

VOID = 255
MOST_PROPOSALS = 20  # labels that an unsupervised result may hold
BOUNDARY_TOLERANCE = 0.008  # of the frame's diagonal
_AXES = 3
_FEWEST_FRAMES = 3  # of a semi-supervised clip, which loses its first and its last one


@dataclass(frozen=True, slots=True, eq=False)
class SequenceScores:
    """Scores of one clip; row i belongs to object i + 1 of the truth.

    Attributes:
        j_frames: region similarity in each counted frame, in [0, 1].
        f_frames: boundary accuracy in each counted frame, in [0, 1].
    """

    j_frames: Float[ndarray, "objects frames"]
    f_frames: Float[ndarray, "objects frames"]

    @property
    def j(self) -> Float[ndarray, " objects"]:
        """Region similarity of each object, averaged over frames."""
        return np.asarray(self.j_frames.mean(axis=1))

    @property
    def f(self) -> Float[ndarray, " objects"]:
        """Boundary accuracy of each object, averaged over frames."""
        return np.asarray(self.f_frames.mean(axis=1))

    @property
    def jf(self) -> float:
        """Mean of both over the objects; NaN where the clip has none."""
        return float((self.j.mean() + self.f.mean()) / 2) if len(self.j_frames) else float("nan")


def score_sequence(truth: LabelMaps, predicted: LabelMaps, *, task: Task) -> SequenceScores:
    """Score the label maps (t, h, w) of one clip.

    As many objects count as the largest label in the first frame of the truth says; labels that are not predicted
    count as empty masks.

    Args:
        truth: 0 is background, 255 void.
        predicted: 0 is background.
        task: "unsupervised" matches predicted labels to objects one to one so that J&F is greatest, counts every frame
            and leaves void pixels out; "semi-supervised" takes labels as they are, leaves out the first and the last
            frame and counts void as background.

    Raises:
        InputError: clips of different shapes, too few frames, negative labels, or more predicted labels than allowed:
            20 of an unsupervised result, those of the truth of a semi-supervised one.
    """
    _check_clips(truth, predicted, task)
    is_matched = task == "unsupervised"
    objects = int(np.where(truth[0] == VOID, 0, truth[0]).max())
    if not is_matched:
        truth, predicted = truth[1:-1], predicted[1:-1]
    labels, most = int(predicted.max()), MOST_PROPOSALS if is_matched else objects
    if labels > most:
        raise InputError(f"Expected predicted labels up to {most} in a clip of the {task} task, but got {labels}.")
    j, f = np.empty((2, max(labels, objects), objects, len(truth)))
    for t, (wanted, found) in enumerate(zip(truth, predicted, strict=True)):
        void = (wanted == VOID) & is_matched
        targets, proposals = split_labels(wanted, objects, void), split_labels(found, len(j), void)
        j[..., t], f[..., t] = region_similarity(proposals, targets), boundary_accuracy(proposals, targets)
    order = _match((j.mean(axis=2) + f.mean(axis=2)) / 2) if is_matched else np.arange(objects)
    return SequenceScores(j[order, np.arange(objects)], f[order, np.arange(objects)])


def _check_clips(truth: LabelMaps, predicted: LabelMaps, task: Task) -> None:
    if task not in get_args(Task):
        raise InputError(f"Expected task to be one of {', '.join(get_args(Task))}, but got {task!r}.")
    if truth.ndim != _AXES or truth.shape != predicted.shape or not truth.size:
        raise InputError(f"Expected label maps (t, h, w) of one size, but got {truth.shape} and {predicted.shape}.")
    if task == "semi-supervised" and len(truth) < _FEWEST_FRAMES:
        raise InputError(
            f"Expected {_FEWEST_FRAMES} frames or more for the semi-supervised task, but got {len(truth)}."
        )
    if (least := min(int(truth.min()), int(predicted.min()))) < 0:
        raise InputError(f"Expected labels of 0 or more, but got {least}.")


def _match(quality: Table) -> Int[ndarray, " o"]:
    """Choose a predicted label of its own for each object so that the sum is greatest (Hungarian assignment).

    The official code reports the pairs in the order of the predicted labels; here they are in that of the objects.
    """
    proposals, objects = linear_sum_assignment(-quality)
    return np.asarray(proposals[np.argsort(objects)])


def split_labels(labels: Integer[ndarray, "h w"], count: int, void: Bool[ndarray, "h w"]) -> Masks:
    """Take the labels 1 to `count` of a frame apart into masks, void pixels left out of all."""
    return np.asarray((labels == np.arange(1, count + 1)[:, None, None]) & ~void)


def region_similarity(masks: Bool[ndarray, "p h w"], truth: Bool[ndarray, "o h w"]) -> Table:
    """Compare every mask with every true one: intersection over union (J), 1 where both are empty."""
    shared = _count_common(masks, truth)
    union = _count(masks)[:, None] + _count(truth) - shared
    return np.asarray(np.where(union == 0, 1.0, shared / np.maximum(union, 1)))


def boundary_accuracy(masks: Bool[ndarray, "p h w"], truth: Bool[ndarray, "o h w"]) -> Table:
    """Compare the boundary of every mask with that of every true one: F-measure, each to be found near the other.

    Near is within a disk of 0.008 of the diagonal, rounded up to pixels. Two masks without a boundary agree (1), one
    with and one without do not (0); an empty frame has no boundary, nor has a full one.
    """
    lines, true_lines = trace_boundaries(masks), trace_boundaries(truth)
    drawn, wanted = _count(lines)[:, None], _count(true_lines)
    precision = _count_common(lines, _widen(true_lines)) / np.maximum(drawn, 1)
    recall = _count_common(_widen(lines), true_lines) / np.maximum(wanted, 1)
    total = precision + recall
    measured = 2 * precision * recall / np.where(total == 0, 1.0, total)
    return np.asarray(np.where((drawn == 0) & (wanted == 0), 1.0, measured))


def trace_boundaries(masks: Masks) -> Masks:
    """Mark the pixels that differ from their right, lower or lower right neighbor.

    In the last column only the lower neighbor counts, in the last row only the right one, in the corner none.
    """
    lines = np.zeros_like(masks)
    lines[:, :, :-1] |= masks[:, :, :-1] ^ masks[:, :, 1:]
    lines[:, :-1] |= masks[:, :-1] ^ masks[:, 1:]
    lines[:, :-1, :-1] |= masks[:, :-1, :-1] ^ masks[:, 1:, 1:]
    return lines


def _widen(lines: Masks) -> Masks:
    """Mark what is within the tolerance of each line."""
    radius_px = int(np.ceil(BOUNDARY_TOLERANCE * np.linalg.norm(lines.shape[1:])))
    squares = np.arange(-radius_px, radius_px + 1) ** 2
    disk = (squares[:, None] + squares <= radius_px**2).astype(np.uint8)
    wide = np.zeros_like(lines)
    for i in np.flatnonzero(lines.any(axis=(1, 2))):
        wide[i] = cv2.dilate(lines[i].astype(np.uint8), disk)
    return wide


def _count(masks: Masks) -> Int[ndarray, " n"]:
    return np.asarray(np.count_nonzero(masks, axis=(1, 2)), dtype=np.int64)


def _count_common(masks: Bool[ndarray, "p h w"], truth: Bool[ndarray, "o h w"]) -> Int[ndarray, "p o"]:
    """Count the pixels that every mask shares with every true one."""
    counts = np.zeros((len(masks), len(truth)), dtype=np.int64)
    for i in np.flatnonzero(masks.any(axis=(1, 2))):
        counts[i] = [np.count_nonzero(masks[i] & one) for one in truth]
    return counts
