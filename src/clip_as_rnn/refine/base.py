"""What the last stage offers: from soft masks over patches to the masks the user gets."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Int
from numpy import ndarray

from clip_as_rnn.refine.clip_crf import ClipMasks, Frames, RefinedFrame
from clip_as_rnn.result import Refinement
from clip_as_rnn.types import LabelMap, Mask, Masks, PatchMaps, RgbImage, Scores, SoftMasks


@runtime_checkable
class MaskRefiner(Protocol):
    """Turns the last proposals of one image into masks at that image's size."""

    def refine(self, image: RgbImage, masks: PatchMaps) -> LabelMap | Masks:
        """Refine one soft mask per text, (n, gh, gw) in [0, 1].

        Returns:
            Semantic mode: one label map (h, w), 0 for background and i + 1 for text i. Referring mode: masks
            (n, h, w), which may overlap. No texts give an empty label map or no masks.
        """

    def refine_softly(self, image: RgbImage, masks: PatchMaps) -> tuple[LabelMap | Masks, SoftMasks | None]:
        """Refine as `refine` does, and give the probability of each text at each pixel, (n, h, w), if there is one."""

    def refine_clip(self, images: Frames, masks: ClipMasks) -> list[RefinedFrame]:
        """Refine the masks of several frames jointly; of each, what `refine_softly` gives."""


@runtime_checkable
class MaskReplacer(Protocol):
    """Replaces masks by better ones of the same things, where it finds such."""

    def encode_image(self, image: RgbImage) -> Any:
        """Do, or put off, what depends on the image alone."""

    def refine(
        self,
        image: Any,
        found: LabelMap | Masks,
        scores: Scores,
        *,
        probabilities: SoftMasks | None = None,
        trace: bool = False,
    ) -> tuple[Int[ndarray, "H W"] | Bool[ndarray, "n H W"], dict[int, Refinement]]:
        """Return a label map or masks, as given, at the image's size, and what was decided, by the text's row."""


@runtime_checkable
class MaskTracker(Protocol):
    """Carries masks through the frames of a clip, as the replacer of the same model encoded them."""

    def follow(self, images: Iterable[Any], mask: Mask) -> Iterator[Mask | None]:
        """Follow the mask of the first image through the others, in the order given.

        Yields:
            For each image behind the first one its mask, at the image's size; None where there is none.
        """
