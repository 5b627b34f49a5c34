"""Stage 2, s_t = g(x, y_t, h_(t-1)): what a mask classifier offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from clip_as_rnn.encoders.base import Tick, ignore_tick
from clip_as_rnn.types import PatchMaps, RgbImages, Scores, TextIndices


@dataclass(frozen=True, slots=True, eq=False)
class MasksToClassify:
    """The proposals of one image in one step.

    Attributes:
        image, texts: what the classifier's `encode_images`, of one, and `encode_texts` returned.
        active: the texts that are left; row i of `masks` is proposed for text `active[i]`.
        masks: (k, gh, gw) in [0, 1].
    """

    image: Any
    texts: Any
    active: TextIndices
    masks: PatchMaps


@runtime_checkable
class MaskClassifier(Protocol):
    """Scores masks. Holds what was loaded, and nothing of any image; states are its own."""

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text, as it will be worded, is too long."""

    def encode_images(self, images: RgbImages) -> list[Any]:
        """Do all that depends on each image alone; images of any sizes, none to many."""

    def encode_texts(self, texts: Sequence[str], tick: Tick = ignore_tick) -> Any:
        """Do all that depends on the texts alone; `tick` is called before each batch of them."""

    def classify(self, masks: Sequence[MasksToClassify], tick: Tick = ignore_tick) -> list[Scores]:
        """Score the masks of several images at once: does each show its text? In [0, 1], one array per image.

        `tick` is called before each batch of masks.
        """
