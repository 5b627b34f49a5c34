"""What the evaluation needs of a segmenter, and what one prediction is. Any object with these methods will do."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.result import Segmentation
from clip_as_rnn.shapes import RgbImage


@runtime_checkable
class Segmenting(Protocol):
    """A segmenter, as the evaluation uses it."""

    @property
    def config(self) -> SegmenterConfig:
        """Every setting in force."""

    def segment(self, image: RgbImage, texts: Sequence[str], *, trace: bool = False) -> Segmentation:
        """Find `texts` in `image`."""

    def replace(self, **settings: Any) -> "Segmenting":
        """Return a segmenter on the same loaded models with other settings."""

    def describe(self) -> Mapping[str, str]:
        """Name the models' fingerprints, the device and the precision."""
