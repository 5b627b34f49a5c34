"""The stages of a segmenter, the models they are made of, and what a run reports of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from clip_as_rnn.classifiers.base import MaskClassifier
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.proposals.base import MaskProposer
from clip_as_rnn.refine.base import MaskRefiner, MaskReplacer, MaskTracker


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """What a segmenter is made of; stages hold what was loaded, and nothing of any image."""

    proposer: MaskProposer
    classifier: MaskClassifier
    refiner: MaskRefiner
    replacer: MaskReplacer | None = None
    tracker: MaskTracker | None = None  # of the masks that the replacer leaves, in clips


@runtime_checkable
class Models(Protocol):
    """Loaded models, of which stages are made for any settings."""

    def build_stages(self, config: SegmenterConfig) -> Stages:
        """Make stages; raises InputError where the settings do not suit the models, or ask for others."""

    def describe(self, config: SegmenterConfig) -> Mapping[str, str]:
        """Name the models that these settings use, what identifies their weights, the device and the precision."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a segmentation is about to do.

    Attributes:
        stage: encode, propose, classify, refine, or with SAM also sam.
        step: of the recurrence, from 1; 0 before it and beside it.
        texts: how many texts, of all images at hand, the work is about.
        done, total: pieces of the work that are done, of how many; 0 of 0 where they are not counted.
    """

    stage: Literal["encode", "propose", "classify", "refine", "sam"]
    step: int
    texts: int
    done: int = 0
    total: int = 0


Callback: TypeAlias = Callable[[Progress], None]  # what it raises ends the segmentation
