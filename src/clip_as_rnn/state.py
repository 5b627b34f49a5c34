"""The state of the recurrence: an encoded image, encoded texts, and h_t, the texts of the image that are left."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from clip_as_rnn.classifiers.base import MasksToClassify
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.result import Proposal, Rejection, Step
from clip_as_rnn.stages import Stages
from clip_as_rnn.timing import Stopwatch
from clip_as_rnn.types import PatchMaps, ResizedImage, RgbImage, Rows, Scores, TextIndices


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """All that is known of an image before any text: made by `Segmenter.encode`, of use to that segmenter alone.

    Attributes:
        pixels: the image as it came.
        resized: as both encoders are given it.
        proposer_encoding, classifier_encoding, replacer_encoding: what the stages made of it; each reads its own alone.
        stages: those that encoded it.
        seconds: that it took.
    """

    pixels: RgbImage
    resized: ResizedImage
    proposer_encoding: Any
    classifier_encoding: Any
    replacer_encoding: Any
    stages: Stages
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTexts:
    """All that is known of texts before any image: made by `Segmenter.encode_texts`, of use to that segmenter alone.

    Attributes:
        queries: the texts, stripped and merged.
        proposer_encoding, classifier_encoding: what the stages made of them; each reads its own alone.
        stages: those that encoded them.
        seconds: that it took.
    """

    queries: tuple[str, ...]
    proposer_encoding: Any
    classifier_encoding: Any
    stages: Stages
    seconds: float


@dataclass(slots=True, eq=False)
class State:
    """One image in the recurrence: its hidden state h_t is `active`, the texts that passed every step so far.

    Attributes:
        proposer_state: what the proposer's `init_state` made of this image and these texts.
        active: positions among the queries, ascending.
        proposal: the masks y_t of the running step, one per active text.
        detail: the last masks of the texts that passed on a finer grid, where the frames of a clip have told it.
        part_weights: of each patch of the last masks of the texts that passed, where their parts were judged.
        steps: what every step proposed, scored and kept.
        converged: no step will change `active` any more, or none is left to take.
        in_clip: other frames had a say in what passed.
    """

    image: EncodedImage
    texts: EncodedTexts
    proposer_state: Any
    active: TextIndices
    stopwatch: Stopwatch
    proposal: Proposal = field(init=False)
    detail: PatchMaps | None = None
    part_weights: PatchMaps | None = None
    steps: list[Step] = field(default_factory=list)
    converged: bool = False
    in_clip: bool = False

    def to_classify(self, maps: PatchMaps | None = None) -> MasksToClassify:
        """Put masks before the classifier, one per active text: this step's, or others."""
        image, texts = self.image.classifier_encoding, self.texts.classifier_encoding
        return MasksToClassify(image, texts, self.active, self.proposal.maps if maps is None else maps)

    def update(self, scores: Scores, config: SegmenterConfig, passed: Rows | None = None) -> None:
        """Keep the texts that pass, record the step, and see whether another one can change anything.

        `passed` are the rows that pass, where the scores of this image alone do not decide it.
        """
        most_steps = config.recurrence.max_steps
        self.in_clip = passed is not None
        passed = passing(scores, config, len(self.texts.queries)) if passed is None else passed
        kept = np.arange(len(scores)) if most_steps == 0 else passed
        texts = tuple(self.texts.queries[i] for i in self.active)
        size_hw = (self.image.resized.shape[0], self.image.resized.shape[1])
        proposed = self.proposal
        self.steps.append(Step(texts, proposed.cams, proposed.maps, scores, tuple(kept.tolist()), size_hw))
        repeats = config.recurrence.repeat_first_step and len(self.steps) == 1
        nothing_dropped = len(kept) == len(self.active) and not repeats
        self.converged = nothing_dropped or len(self.steps) == most_steps or len(kept) == 0
        self.active = self.active[kept]

    def final_maps(self, config: SegmenterConfig) -> PatchMaps:
        """Take the last step's maps of the texts that passed; the release falls back where all of them are zero."""
        last = self.steps[-1]
        maps = last.maps
        if config.propose.foreground_fallback and len(self.steps) > 1 and not maps.any():
            before = self.steps[-2]
            maps = before.maps[[before.texts.index(text) for text in last.texts]][list(last.kept)]
        else:
            maps = maps[list(last.kept)] if self.detail is None else self.detail
        if self.part_weights is not None:
            maps = maps * self.part_weights.to(maps)
        if config.refine.score_weight:
            weights = torch.from_numpy(self.final_scores() ** config.refine.score_weight)
            maps = maps * weights[:, None, None]
        return maps

    def final_scores(self) -> Scores:
        """Take the last step's scores of the texts that passed."""
        last = self.steps[-1]
        return last.scores[list(last.kept)]


def weigh(scores: Scores, certainty: Scores | None, weight: float) -> Scores:
    """Mix the classifier's scores with the proposer's certainty, where it says one: s^(1-w) c^w, a geometric mean."""
    if certainty is None or weight == 0:
        return scores
    mixed: Scores = scores ** (1 - weight) * certainty**weight
    return mixed


def passing(scores: Scores, config: SegmenterConfig, asked: int) -> Rows:
    """Choose the rows that pass: s >= theta (paper), or s > theta and at least the best one (authors' release).

    `asked` is the number of texts in step 1, on which theta may depend.
    """
    threshold = config.classify.threshold(asked)
    passes = scores > threshold if config.recurrence.strict_threshold else scores >= threshold
    if config.recurrence.keep_best and not passes.any():
        return np.array([np.argmax(scores)])
    return np.flatnonzero(passes)


def reject(steps: Sequence[Step], config: SegmenterConfig, *, in_clip: bool = False) -> dict[str, Rejection]:
    """Say of every dropped text in which step it fell, and at what score."""
    bound = "not above" if config.recurrence.strict_threshold else "below"
    reason = f"score {bound} {config.classify.threshold(len(steps[0].texts)):.3g}" if steps else ""
    if in_clip and config.video.peak_frames:
        reason = "too little of it in this frame, or in the best of those around"
    return {
        step.texts[i]: Rejection(step.texts[i], number, float(step.scores[i]), reason)
        for number, step in enumerate(steps, start=1)
        for i in step.dropped
    }
