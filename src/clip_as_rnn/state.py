"""What a segmentation is made of while it runs: stages, encoded images and texts, an image's hidden state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from clip_as_rnn.classifiers.base import MaskClassifier, MasksToClassify
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.proposals.base import MaskProposer
from clip_as_rnn.refine.base import MaskRefiner
from clip_as_rnn.result import Proposal, Rejection, Step
from clip_as_rnn.timing import Stopwatch
from clip_as_rnn.types import PatchMaps, ResizedImage, RgbImage, Scores, TextIndices


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """What a segmenter is made of; stages hold what was loaded, and nothing of any image."""

    proposer: MaskProposer
    classifier: MaskClassifier
    refiner: MaskRefiner


@runtime_checkable
class Models(Protocol):
    """Loaded models, of which stages are made for any settings."""

    def build_stages(self, config: SegmenterConfig) -> Stages:
        """Make stages; raises InputError where the settings do not suit the models, or ask for others."""

    def describe(self) -> Mapping[str, str]:
        """Name the models, what identifies their weights, the device and the precision."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a segmentation is about to do.

    Attributes:
        stage: encode, propose, classify or refine.
        step: of the recurrence, from 1; 0 before it.
        texts: how many texts, of all images at hand, the work is about.
    """

    stage: Literal["encode", "propose", "classify", "refine"]
    step: int
    texts: int


Callback: TypeAlias = Callable[[Progress], None]  # what it raises ends the segmentation


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """All that is known of an image before any text: made by `Segmenter.encode`, of use to that segmenter alone.

    Attributes:
        pixels: the image as it came.
        resized: as both encoders are given it.
        for_proposer, for_classifier: what they made of it.
        stages: whose they are.
        seconds: that it took.
    """

    pixels: RgbImage
    resized: ResizedImage
    for_proposer: Any
    for_classifier: Any
    stages: Stages
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTexts:
    """All that is known of texts before any image: the queries, what proposer and classifier made of them, seconds."""

    queries: tuple[str, ...]
    for_proposer: Any
    for_classifier: Any
    seconds: float


@dataclass(slots=True, eq=False)
class State:
    """One image in the recurrence: its hidden state h_t is `active`, the texts that passed every step so far.

    Attributes:
        related: what the proposer knows of this image and these texts.
        active: positions among the queries, ascending.
        proposal: the masks y_t of the running step, one per active text.
        steps: what every step proposed, scored and kept.
        converged: no step will change `active` any more, or none is left to take.
    """

    image: EncodedImage
    texts: EncodedTexts
    related: Any
    active: TextIndices
    stopwatch: Stopwatch
    proposal: Proposal = field(init=False)
    steps: list[Step] = field(default_factory=list)
    converged: bool = False

    def to_classify(self) -> MasksToClassify:
        """Put this step's masks before the classifier."""
        return MasksToClassify(self.image.for_classifier, self.texts.for_classifier, self.active, self.proposal.maps)

    def update(self, scores: Scores, config: SegmenterConfig) -> None:
        """Keep the texts that pass, record the step, and see whether another one can change anything."""
        most_steps = config.recurrence.max_steps
        kept = np.arange(len(scores)) if most_steps == 0 else passing(scores, config)
        texts = tuple(self.texts.queries[i] for i in self.active)
        size_hw = (self.image.resized.shape[0], self.image.resized.shape[1])
        proposed = self.proposal
        self.steps.append(Step(texts, proposed.cams, proposed.maps, scores, tuple(kept.tolist()), size_hw))
        repeats = config.recurrence.repeat_first_step and len(self.steps) == 1
        nothing_dropped = len(kept) == len(self.active) and not repeats
        out_of_steps = most_steps is not None and len(self.steps) >= most_steps
        self.converged = nothing_dropped or out_of_steps or len(kept) == 0
        self.active = self.active[kept]

    def final_maps(self, config: SegmenterConfig) -> PatchMaps:
        """Take the last step's maps of the texts that passed; the release falls back where all of them are zero."""
        last = self.steps[-1]
        maps = last.maps
        if config.propose.foreground_fallback and len(self.steps) > 1 and not maps.any():
            before = self.steps[-2]
            maps = before.maps[[before.texts.index(text) for text in last.texts]]
        return maps[list(last.kept)]


def passing(scores: Scores, config: SegmenterConfig) -> TextIndices:
    """Choose the scores that pass: s >= theta (paper), or s > theta and at least the best one (authors' release)."""
    threshold = config.classify.score_threshold
    passes = scores > threshold if config.recurrence.strict_threshold else scores >= threshold
    if config.recurrence.keep_best and not passes.any():
        return np.array([np.argmax(scores)])
    return np.flatnonzero(passes)


def reject(steps: Sequence[Step], config: SegmenterConfig) -> dict[str, Rejection]:
    """Say of every dropped text in which step it fell, and at what score."""
    bound = "not above" if config.recurrence.strict_threshold else "below"
    reason = f"score {bound} {config.classify.score_threshold:g}"
    return {
        step.texts[i]: Rejection(step.texts[i], number, float(step.scores[i]), reason)
        for number, step in enumerate(steps, start=1)
        for i in step.dropped
    }
