"""What the last stage offers: from soft masks over patches to the masks the user gets."""

from typing import Protocol, runtime_checkable

from clip_as_rnn.types import LabelMap, Masks, PatchMaps, RgbImage


@runtime_checkable
class MaskRefiner(Protocol):
    """Turns the last proposals of one image into masks at that image's size."""

    def refine(self, image: RgbImage, masks: PatchMaps) -> LabelMap | Masks:
        """Refine one soft mask per text, (n, gh, gw) in [0, 1].

        Returns:
            Semantic mode: one label map (h, w), 0 for background and i + 1 for text i. Referring mode: masks
            (n, h, w), which may overlap. No texts give an empty label map or no masks.
        """
