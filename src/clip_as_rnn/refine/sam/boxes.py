"""Boxes around masks: their frame, their overlap, and which of them say the same.

A box is x0, y0, x1, y1 in pixel indices, both ends inclusive, as SAM's own generator counts them: its area is
(x1 - x0) (y1 - y0), so a mask one pixel high or wide has none.
"""

from typing import overload

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from torch import Tensor, from_numpy

from clip_as_rnn.errors import InputError
from clip_as_rnn.types import Mask

Array = ndarray | Tensor


@overload
def suppress_boxes(
    boxes: Shaped[ndarray, "m 4"], scores: Shaped[ndarray, " m"], iou_threshold: float
) -> Int[ndarray, " k"]: ...


@overload
def suppress_boxes(
    boxes: Shaped[Tensor, "m 4"], scores: Shaped[Tensor, " m"], iou_threshold: float
) -> Int[Tensor, " k"]: ...


def suppress_boxes(
    boxes: Shaped[Array, "m ..."], scores: Shaped[Array, "_ ..."], iou_threshold: float
) -> Int[Array, " k"]:
    """Drop every box that overlaps a better one too much (greedy non-maximum suppression).

    Args:
        boxes: x0, y0, x1, y1.
        scores: the best box goes first; among equal scores the one listed first.
        iou_threshold: a box falls if its IoU with a kept one is greater; boxes without area fall to none.

    Returns:
        Indices of the boxes kept, best first, in an array of the kind of `boxes`.

    Raises:
        InputError: there are not as many scores as boxes, or the boxes have not four numbers each.
    """
    if len(boxes) != len(scores):
        raise InputError(f"Expected one score per box, but got {len(boxes)} boxes and {len(scores)} scores.")
    corners, values = _as_floats(boxes), _as_floats(scores)
    if len(corners) == 0:
        corners = corners.reshape(0, 4)
    if corners.shape[1:] != (4,) or values.ndim != 1:
        raise InputError(f"Expected boxes (m, 4) and scores (m,), but got {corners.shape} and {values.shape}.")
    kept = _suppress(corners, values, iou_threshold)
    return from_numpy(kept).to(boxes.device) if isinstance(boxes, Tensor) else kept


def mask_box(mask: Mask) -> Int[ndarray, "4"]:
    """Frame the true pixels of one mask; zeros where there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return np.zeros(4, dtype=np.int64)
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.int64)


def _suppress(boxes: Float[ndarray, "m 4"], scores: Float[ndarray, " m"], iou_threshold: float) -> Int[ndarray, " k"]:
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)
    waiting = np.argsort(-scores, kind="stable")
    kept = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[waiting, :2])
        high = np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        shared = (high - low).clip(min=0).prod(1)
        union = areas[best] + areas[waiting] - shared
        overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        waiting = waiting[overlap <= iou_threshold]
    return np.array(kept, dtype=np.int64)


def _as_floats(values: Shaped[Array, "..."]) -> Float[ndarray, "..."]:
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)
