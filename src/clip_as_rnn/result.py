"""What a segmentation yields: the texts found, their masks and scores, and how they came about.

Knows nothing of models, files or colours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import grow_maps
from clip_as_rnn.types import LabelMap, Mask, Masks, PatchMaps, Scores, SoftMasks


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """What stage 1 proposes in one step, one value per patch; row i belongs to text i.

    Attributes:
        cams: before the affinity, in [0, 1].
        maps: after the affinity, in [0, 1].
    """

    cams: PatchMaps
    maps: PatchMaps


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One turn of the recurrence: what was proposed for each text, and which texts passed.

    Attributes:
        texts: the texts alive when the step began; row i of every array belongs to `texts[i]`.
        cams: the proposals as they leave CLIP, one value per patch, in [0, 1].
        maps: the same after the affinity: what the masks are made of, in [0, 1].
        scores: the classifier's verdicts, in [0, 1].
        kept: indices into `texts` of those that passed, ascending.
        size_hw: the size in pixels at which the proposals were judged.
    """

    texts: tuple[str, ...]
    cams: PatchMaps
    maps: PatchMaps
    scores: Scores
    kept: tuple[int, ...]
    size_hw: tuple[int, int]

    @property
    def proposals(self) -> SoftMasks:
        """Grow the maps to `size_hw`; computed at each access, for a thousand texts are too many to keep."""
        return grow_maps(self.maps, self.size_hw)

    @property
    def dropped(self) -> tuple[int, ...]:
        """Indices into `texts` of those that failed, ascending."""
        kept = set(self.kept)
        return tuple(i for i in range(len(self.texts)) if i not in kept)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Every step of one run of the recurrence, in order."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a text is not among the found: dropped in step `step` (from 1) at `score`, for `reason`."""

    text: str
    step: int
    score: float
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class RefinementPictures:
    """What SAM saw in the place of one mask, every so many-th pixel of it.

    Attributes:
        before: the mask as the dense CRF left it, (h, w).
        candidates: the masks of SAM whose union was compared with it, (k, h, w).
        after: the mask that stayed or came, (h, w); another text may have taken pixels from it since.
    """

    before: Mask
    candidates: Masks
    after: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Refinement:
    """Whether SAM's masks replaced the mask of text `index`, what their IoU was, and why it was decided so."""

    index: int
    replaced: bool
    iou: float
    reason: str
    pictures: RefinementPictures | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The texts found in one image, each with its mask and its score.

    Row i of `masks` and of `scores` belongs to `texts[i]`; rejected texts are absent from all three.
    In semantic mode the masks are disjoint; in referring mode they may overlap.

    Attributes:
        queries: every text asked, in the order asked, duplicates merged.
        texts: those found, in the order asked.
        masks: (n, h, w) bool, at the input's size.
        scores: (n,) in [0, 1]: the classifier's last verdict on each text.
        rejections: one per text that was not found, in the order asked.
        trace: every step, if it was asked for.
        seconds: time spent per stage, by name.
    """

    queries: tuple[str, ...]
    texts: tuple[str, ...]
    masks: Masks
    scores: Scores
    rejections: tuple[Rejection, ...] = ()
    trace: Trace | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the rows belong together.

        Raises:
            InputError: the numbers of texts, masks and scores differ.
        """
        counts = (len(self.texts), len(self.masks), len(self.scores))
        if len(set(counts)) > 1:
            raise InputError(f"Expected one mask and one score per text, but got texts, masks, scores: {counts}.")

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.masks.shape[1], self.masks.shape[2]

    def label_map(self) -> LabelMap:
        """Paint the masks into one map: 0 is background, i + 1 is `texts[i]`.

        Where masks overlap, the higher score wins; among equal scores, the later text.
        """
        labels = np.zeros(self.size_hw, dtype=np.int64)
        for i in np.argsort(self.scores, kind="stable"):
            labels[self.masks[i]] = i + 1
        return labels
