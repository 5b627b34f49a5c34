"""What the evaluation needs of a segmenter, and what one prediction is. Any object with these methods will do."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.result import Segmentation
from clip_as_rnn.types import RgbImage


@runtime_checkable
class TextChecking(Protocol):
    """What knows how long a text may be."""

    def check(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text, as the settings word it, cannot be read."""


@runtime_checkable
class Segmenting(Protocol):
    """A segmenter, as the evaluation uses it."""

    @property
    def config(self) -> SegmenterConfig:
        """Every setting in force."""

    @property
    def stages(self) -> TextChecking:
        """The parts that read texts."""

    def segment(self, image: RgbImage, texts: Sequence[str], *, trace: bool = False) -> Segmentation:
        """Find `texts` in `image`."""

    def replace(self, **settings: Any) -> "Segmenting":
        """Return a segmenter on the same loaded models with other settings."""

    def describe(self) -> Mapping[str, str]:
        """Name the models' fingerprints, the device and the precision."""


def check_wording(segmenter: Segmenting, texts: Sequence[str]) -> None:
    """Check before the first image what would otherwise fail on every one of them.

    Raises:
        InputError: a text, a background text or a contrast text is too long as the settings word it.
    """
    config = segmenter.config
    segmenter.stages.check((*texts, *config.classify.contrast_texts))
    unjudged = segmenter.replace(templates=())  # the classifier's templates never word a background text
    unjudged.stages.check(config.propose.background_texts)
