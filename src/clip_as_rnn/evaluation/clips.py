"""What a clip is asked, and how the answer is compared with its truth.

The texts of one sample are asked together; where their masks overlap, the higher score wins. Texts about nothing in the
clip are asked beside them, and what they take from others is lost.
"""

from time import perf_counter

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from numpy import ndarray

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.video import VideoSample, VideoSplit
from clip_as_rnn.evaluation.evaluated import Evaluated, or_failure
from clip_as_rnn.evaluation.metrics.clips import (
    ClipScores,
    ObjectScores,
    Share,
    VideoMetric,
    measure_flicker,
    score_masks,
)
from clip_as_rnn.evaluation.metrics.video import VOID, Task, score_sequence
from clip_as_rnn.evaluation.store import Record
from clip_as_rnn.segmenter import Segmenter

_SHORTEST = "a"  # expressions differ by clip; one that is too long fails by itself
LabelMaps = Integer[ndarray, "t h w"]
FoundTable = Bool[ndarray, "t n"]


class VideoEvaluator:
    """Segments clips of a split for the expressions about them and scores the label maps.

    Raises:
        InputError: the settings cannot be used on any clip, as a text is too long.
    """

    def __init__(self, split: VideoSplit, segmenter: Segmenter) -> None:
        segmenter.check_texts((_SHORTEST,))
        self.split = split
        self._segmenter = segmenter

    def new_metric(self) -> VideoMetric:
        """Return a metric that has counted nothing."""
        return VideoMetric()

    def evaluate(self, position: int) -> Evaluated:
        """Segment the clip at `position` and score it; what cannot be done is the record's failure."""
        sample = self.split.samples[position]
        return or_failure(sample.name, self.split.root, lambda: self._evaluate(position))

    def _evaluate(self, position: int) -> Evaluated:
        sample, truth = self.split.samples[position], self.split.read_truth(position)
        started = perf_counter()
        labels, found = self._predict(position)
        seconds = perf_counter() - started
        if truth is not None and truth.shape != labels.shape:
            raise InputError(
                f"Expected label maps {labels.shape} like the frames of {sample.name}, but got {truth.shape}."
            )
        scores = score_clip(sample, truth, labels, found, by_annotator=self.split.dataset.annotators is not None)
        frames = {path.stem: one for path, one in zip(sample.frames, labels, strict=True)}
        return Evaluated(Record(sample.name, seconds, scores), frames=frames)

    def _predict(self, position: int) -> tuple[UInt8[ndarray, "t h w"], FoundTable]:
        """Give the label maps of the objects meant, and which texts were found in which frame."""
        sample = self.split.samples[position]
        asked = (*sample.texts, *sample.absent)
        by_annotator = self.split.dataset.annotators is not None
        numbers: dict[str, int] = {}
        for text, number in zip(sample.texts, sample.objects, strict=True):
            numbers.setdefault(text, number if by_annotator else 1)  # what is said of two objects means the first
        labels, found = [], np.zeros((len(sample.frames), len(asked)), dtype=bool)
        if not asked:
            shapes = [frame.shape[:2] for frame in self.split.read_frames(position)]
            return np.zeros((len(shapes), *shapes[0]), np.uint8), found
        results = self._segmenter.segment_video(self.split.read_frames(position), asked)
        for t, result in enumerate(results):
            of_row = np.array([0, *(numbers.get(text, 0) for text in result.texts)], dtype=np.uint8)
            labels.append(of_row[result.label_map()])
            found[t] = [text in result.texts for text in asked]
        return np.stack(labels), found


def score_clip(
    sample: VideoSample, truth: LabelMaps | None, labels: LabelMaps, found: FoundTable, *, by_annotator: bool
) -> ClipScores:
    """Score the label maps of one sample; `found` says of its texts, then of its absent ones, where they were found."""
    group = sample.name.split("/")[0] if by_annotator else ""
    if truth is None:
        return ClipScores(group, len(labels))
    if by_annotator:
        scores = [_score(truth, labels, "unsupervised"), _score(truth, labels, "semi-supervised")]
    else:
        meant = truth == sample.objects[0]
        truth = meant.astype(np.uint8)
        scores = [score_masks(meant, labels == 1)] * 2
    shown = np.stack([(truth == number).any(axis=(1, 2)) for number in sample.objects], 1)  # t n
    own, absent = found[:, : len(sample.texts)], found[:, len(sample.texts) :]
    return ClipScores(
        group=group,
        frames=len(labels),
        unsupervised=scores[0],
        semi_supervised=scores[1],
        flicker=measure_flicker(truth, labels),
        present=Share(int((own & shown).sum()), int(shown.sum())),
        gone=Share(int((~own & ~shown).sum()), int((~shown).sum())),
        absent=Share(int((~absent).sum()), absent.size),
        never=Share(int((~absent.any(axis=0)).sum()), absent.shape[1]),
    )


def _score(truth: LabelMaps, labels: LabelMaps, task: Task) -> ObjectScores | None:
    """Score in a convention of DAVIS; None where it counts no object."""
    if not np.where(truth[0] == VOID, 0, truth[0]).any():
        return None
    return ObjectScores.of(score_sequence(truth, labels, task=task))
