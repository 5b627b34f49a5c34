"""All that SAM sees in an image: masks at a grid of points, filtered, without doubles.

As the `SamAutomaticMaskGenerator` of SAM's authors computes it, on the whole image without crops (Kirillov et al. 2023,
appendix B). Masks are held as run lengths: one at a time is ever as large as the image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.refine.sam.boxes import mask_box, suppress_boxes
from clip_as_rnn.refine.sam.model import Sam, SamImage, explain_lack_of_memory, masks_of_size
from clip_as_rnn.refine.sam.runs import decode_runs, run_lengths
from clip_as_rnn.types import Mask

_STABILITY_OFFSET = 1.0  # logits by which the threshold is moved either way


@dataclass(frozen=True, slots=True)
class AutomaticRules:
    """Which masks of the grid are kept; a threshold of 0 or less filters nothing.

    Attributes:
        points_per_side: the grid has that many rows and columns.
        predicted_iou: what SAM thinks of a mask must be greater.
        stability: IoU of the mask at a higher and at a lower threshold, at least.
        box_nms: masks whose boxes overlap a better one's by a greater IoU are doubles.
    """

    points_per_side: int
    predicted_iou: float
    stability: float
    box_nms: float


@dataclass(frozen=True, slots=True, eq=False)
class AutomaticMasks:
    """Masks of one image in falling predicted IoU, each decoded when it is asked for.

    Attributes:
        size_hw: of the image.
        runs: lengths of runs of equal pixels per mask, row by row, the first of pixels outside.
        boxes: x0, y0, x1, y1, pixel indices, both ends inclusive.
        scores: the IoU that SAM predicts.
    """

    size_hw: tuple[int, int]
    runs: tuple[Int[ndarray, " _"], ...]
    boxes: Int[ndarray, "m 4"]
    scores: Float[ndarray, " m"]

    def __len__(self) -> int:
        """Count the masks."""
        return len(self.runs)

    def __getitem__(self, index: int) -> Mask:
        """Decode one mask."""
        return decode_runs(self.runs[index], self.size_hw)

    def take(self, indices: Sequence[int] | Int[ndarray, " k"]) -> "AutomaticMasks":
        """Choose some masks, in the order given."""
        chosen = np.asarray(indices, dtype=np.int64)
        return AutomaticMasks(
            self.size_hw, tuple(self.runs[i] for i in chosen), self.boxes[chosen], self.scores[chosen]
        )


def generate_masks(sam: Sam, image: SamImage, rules: AutomaticRules, *, points_at_once: int) -> AutomaticMasks:
    """Find everything in an encoded image.

    Args:
        sam: the model that encoded it.
        image: the image.
        rules: the grid and the filters.
        points_at_once: points in one decoder batch; changes memory and time alone.

    Raises:
        InputError: the device has too little memory for so many points at once, or for masks of the image's size.
    """
    runs, boxes, scores = [], [], []
    points = point_grid(rules.points_per_side, image.frame.size_hw)
    for start in range(0, len(points), points_at_once):
        answer = sam.decode_points(image, points[start : start + points_at_once])
        logits, predicted = answer.logits.flatten(0, 1), answer.scores.flatten()
        if rules.predicted_iou > 0:  # before anything grows to the size of the image
            passing = predicted > rules.predicted_iou
            logits, predicted = logits[passing], predicted[passing]
        for score, mask in zip(predicted.tolist(), _stable_masks(image, logits, rules.stability), strict=True):
            if mask is not None:
                runs.append(run_lengths(mask))
                boxes.append(mask_box(mask))
                scores.append(score)
    frames = np.array(boxes, np.int64).reshape(-1, 4)
    found = AutomaticMasks(image.frame.size_hw, tuple(runs), frames, np.array(scores, np.float64))
    return found.take(suppress_boxes(found.boxes, found.scores, rules.box_nms))


def point_grid(points_per_side: int, size_hw: tuple[int, int]) -> Float[ndarray, "n 2"]:
    """Spread points evenly over an image, row by row: x, y in pixels, half a step from the borders."""
    steps = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(steps * size_hw[1], steps * size_hw[0])
    return np.stack([x, y], -1).reshape(-1, 2)


def _stable_masks(image: SamImage, logits: Float[Tensor, "n s s"], threshold: float) -> Iterator[Mask | None]:
    """Grow one mask after the other to the image's size; None for one that the threshold's place would change."""
    for one in logits:
        with explain_lack_of_memory(masks_of_size(image.frame.size_hw)):
            grown = image.frame.grow_logits(one[None])[0]
            mask = (grown > 0).cpu().numpy() if threshold <= 0 or _is_stable(grown, threshold) else None
        yield mask


def _is_stable(logits: Float[Tensor, "h w"], threshold: float) -> bool:
    """Compare the mask at a higher and at a lower threshold of its logits; one without pixels is not stable."""
    high = torch.count_nonzero(logits > _STABILITY_OFFSET).item()
    low = torch.count_nonzero(logits > -_STABILITY_OFFSET).item()
    return low > 0 and high / low >= threshold
