"""The masks that SAM is to refine, one per text, whether they lie in a stack or in one label map."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from clip_as_rnn.ops import resize_nearest
from clip_as_rnn.refine.sam.boxes import mask_box
from clip_as_rnn.types import LabelMap, Mask, Masks


@dataclass(frozen=True, slots=True, eq=False)
class TextMasks:
    """One mask per text, each made when it is asked for: a thousand of a large photo would not fit into memory.

    Attributes:
        found: masks (n, h, w), which may overlap, or a label map (h, w), 0 for background and i + 1 for text i.
        count: how many texts there are.
    """

    found: Masks | LabelMap
    count: int

    def __len__(self) -> int:
        """Count the texts."""
        return self.count

    def __getitem__(self, index: int) -> Mask:
        """Make the mask of one text."""
        if index >= self.count:
            raise IndexError(index)
        return np.asarray(self.found == index + 1 if self.is_label_map else self.found[index])

    @property
    def is_label_map(self) -> bool:
        """Tell a label map from a stack of masks."""
        return self.found.ndim == 2  # noqa: PLR2004 - h, w

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.found.shape[-2], self.found.shape[-1]

    def areas(self) -> Int[ndarray, " n"]:
        """Count the pixels of each text."""
        if self.is_label_map:
            return np.bincount(self.found.ravel(), minlength=self.count + 1)[1:].astype(np.int64)
        return np.asarray(self.found.sum((1, 2), dtype=np.int64))

    def count_shared(self, mask: Mask) -> Int[ndarray, " n"]:
        """Count the pixels that each text shares with a mask."""
        left, top, right, bottom = mask_box(mask)
        window = (..., slice(top, bottom + 1), slice(left, right + 1))
        if self.is_label_map:
            return np.bincount(self.found[window][mask[window]], minlength=self.count + 1)[1:].astype(np.int64)
        return np.asarray((self.found[window] & mask[window]).sum((1, 2), dtype=np.int64))

    def grow(self, size_hw: tuple[int, int]) -> "TextMasks":
        """Enlarge or shrink all of them, nearest neighbor."""
        return TextMasks(resize_nearest(self.found, size_hw), self.count)
