"""What a segmentation yields: the texts found, their masks and scores, and how they came about."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from scipy.ndimage import find_objects

from clip_as_rnn.errors import DependencyError, InputError
from clip_as_rnn.ops import encode_rle, resize_nearest, upsample_maps
from clip_as_rnn.types import LabelMap, Mask, Masks, PatchMaps, Scores, SoftMasks

if TYPE_CHECKING:
    from supervision import Detections


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """What stage 1 proposes in one step, one value per patch; row i belongs to text i.

    Attributes:
        cams: before the affinity, in [0, 1].
        maps: after the affinity, in [0, 1].
        certainty: how sure stage 1 is that each text is there at all, in [0, 1]; maps are stretched, and do not tell.
            None: it does not say.
    """

    cams: PatchMaps
    maps: PatchMaps
    certainty: Scores | None = None


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
        return upsample_maps(self.maps, self.size_hw)

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
    """Whether SAM's masks replaced the mask of a text, what the IoU of the two was, and why it was decided so."""

    replaced: bool
    iou: float
    reason: str
    pictures: RefinementPictures | None = None

    def in_words(self) -> dict[str, Any]:
        """Describe it for JSON, without the pictures."""
        return {"replaced": self.replaced, "iou": self.iou, "reason": self.reason}


class _MasksField:
    """The field `masks` of a segmentation; made of its label map, if it has one, when first asked for."""

    def __get__(self, instance: "Segmentation | None", owner: type) -> Masks:
        """Return the masks (n, h, w)."""
        if instance is None:
            raise AttributeError("masks")  # a field without a default
        held = instance.__dict__
        labels = held.get("labels")
        if held["masks"] is None and labels is not None:
            masks = np.empty((len(instance), *labels.shape), dtype=bool)
            for i, mask in enumerate(masks):
                np.equal(labels, i + 1, out=mask)
            held["masks"] = masks
            held["labels"] = None  # from now on the masks count, which the caller may change
        made: Masks = held["masks"]
        return made

    def __set__(self, instance: "Segmentation", masks: Masks) -> None:
        """Keep masks that are given."""
        instance.__dict__["masks"] = masks


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The texts found in one image, each with its mask and its score.

    Row i of `masks`, `boxes` and `scores` belongs to `texts[i]`; rejected texts are absent from all of them.
    In semantic mode the masks are disjoint; in referring mode they may overlap.

    Attributes:
        queries: every text asked, in the order asked, duplicates merged.
        texts: those found, in the order asked.
        masks: (n, h, w) bool, at the input's size. Of a segmentation that was made from a label map they are made when
            they are first asked for: a thousand masks take a thousand times the memory of the map.
        scores: (n,) in [0, 1]: the classifier's last verdict on each text.
        rejections: one per text that was not found, in the order asked.
        trace: every step, if it was asked for.
        judged_by: how the classifier was shown the masks, in words.
        seconds: time spent per stage, by name; work that several images or questions share is booked once.
        refinements: with SAM, what was decided about each text's mask, by text.
    """

    queries: tuple[str, ...]
    texts: tuple[str, ...]
    masks: Masks
    scores: Scores
    rejections: tuple[Rejection, ...] = ()
    trace: Trace | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    refinements: Mapping[str, Refinement] = field(default_factory=dict)
    judged_by: str = ""

    def __post_init__(self) -> None:
        """Check that the rows belong together.

        Raises:
            InputError: the numbers of texts, masks and scores differ.
        """
        counts = (len(self.texts), len(self.masks), len(self.scores))
        if len(set(counts)) > 1:
            raise InputError(f"Expected one mask and one score per text, but got texts, masks, scores: {counts}.")

    @classmethod
    def from_label_map(
        cls,
        labels: LabelMap,
        *,
        queries: tuple[str, ...],
        texts: tuple[str, ...],
        scores: Scores,
        **others: Any,
    ) -> "Segmentation":
        """Make a segmentation of one label map (h, w), 0 for background and i + 1 for `texts[i]`.

        Raises:
            InputError: the map has a label without a text, or there is not one score per text.
        """
        lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
        if lowest < 0 or highest > len(texts):
            raise InputError(f"Expected labels from 0 to {len(texts)}, but got some from {lowest} to {highest}.")
        none_made = np.broadcast_to(np.False_, (len(texts), *labels.shape))  # takes no memory
        segmentation = cls(queries=queries, texts=texts, masks=none_made, scores=scores, **others)
        segmentation.__dict__.update(labels=labels, masks=None if texts else none_made)
        return segmentation

    @property
    def _labels(self) -> LabelMap | None:
        labels: LabelMap | None = self.__dict__.get("labels")
        return labels

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        height, width = self.masks.shape[1:] if self._labels is None else self._labels.shape
        return height, width

    @property
    def boxes(self) -> Int[ndarray, "n 4"]:
        """Boxes around the masks, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; zeros for an empty mask."""
        boxes = np.zeros((len(self), 4), dtype=np.int64)
        if self._labels is not None:
            slices = find_objects(self._labels, max_label=len(self))
        else:
            slices = [one for mask in self.masks for one in find_objects(mask.astype(np.uint8), max_label=1)]
        for box, place in zip(boxes, slices, strict=True):
            if place is not None:
                rows, columns = place
                box[:] = columns.start, rows.start, columns.stop, rows.stop
        return boxes

    def __len__(self) -> int:
        """Count the texts found."""
        return len(self.texts)

    def __repr__(self) -> str:
        """Name the size, what was found with its score, and what was not."""
        height, width = self.size_hw
        found = ", ".join(f"{text} {score:.2f}" for text, score in zip(self.texts, self.scores, strict=True))
        rejected = ", ".join(rejection.text for rejection in self.rejections)
        return f"Segmentation({width}x{height}, found: {found or 'nothing'}; rejected: {rejected or 'nothing'})"

    def label_map(self, *, dtype: type[np.signedinteger[Any]] = np.int32) -> LabelMap:
        """Paint the masks into one map of integers, 32 bits by default: 0 is background, i + 1 is `texts[i]`.

        Where masks overlap, the higher score wins; among equal scores, the later text.
        """
        if self._labels is not None:
            return self._labels.astype(dtype)
        labels = np.zeros(self.size_hw, dtype=dtype)
        for i in np.argsort(self.scores, kind="stable"):
            labels[self.masks[i]] = i + 1
        return labels

    def each_mask(self) -> Iterator[Mask]:
        """Yield the masks one after the other; those of a label map are made in turn and not kept."""
        for row in range(len(self)):
            yield self.mask_at(row)

    def mask_at(self, row: int) -> Mask:
        """Return the mask of `texts[row]`; that of a label map is made and not kept."""
        return np.asarray(self.masks[row] if self._labels is None else self._labels == row + 1)

    def resize_masks(self, size_hw: tuple[int, int]) -> Bool[ndarray, "n H W"]:
        """Return the masks at another size, nearest neighbor; those of a label map are not made at this one."""
        if self._labels is None:
            return resize_nearest(self.masks, size_hw)
        labels = resize_nearest(self._labels, size_hw)
        return np.asarray(labels == np.arange(1, len(self) + 1)[:, None, None])

    def to_coco(self, *, image_id: int = 1) -> list[dict[str, Any]]:
        """List one COCO annotation per text found, ready for JSON: compressed run lengths, box (x, y, w, h), score.

        `category_id` counts the queries from 1, so that it is the same on every image that was asked the same texts.
        """
        annotations = []
        for i, (mask, box) in enumerate(zip(self.each_mask(), self.boxes.tolist(), strict=True)):
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": i + 1,
                    "image_id": image_id,
                    "category_id": self.queries.index(self.texts[i]) + 1,
                    "segmentation": encode_rle(mask),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "score": float(self.scores[i]),
                }
            )
        return annotations

    def to_supervision(self) -> "Detections":
        """Make `supervision.Detections`: boxes, masks, scores as confidence, texts as `data["class_name"]`.

        `class_id` counts the queries from 0, so that it is the same on every image that was asked the same texts.

        Raises:
            DependencyError: supervision is not installed.
        """
        try:
            import supervision  # optional, and it takes a second
        except ImportError as error:
            raise DependencyError("Detections need supervision; install it: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            mask=self.masks,
            confidence=self.scores.astype(np.float32),
            class_id=np.array([self.queries.index(text) for text in self.texts], dtype=int),
            data={"class_name": np.array(self.texts, dtype=np.str_)},
        )


Segmentation.masks = _MasksField()  # type: ignore[assignment] # a descriptor, behind the field of that name
