"""Arithmetic of maps, masks and label maps: scaling, resizing, boxes, run lengths."""

from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from pycocotools import mask as coco
from torch import Tensor

from clip_as_rnn.types import LabelMap, Masks, PatchMaps, SoftMasks


def min_max_scale(maps: PatchMaps) -> PatchMaps:
    """Stretch every map to [0, 1]; a constant map becomes zero."""
    shifted = maps - maps.amin(dim=(1, 2), keepdim=True)
    peaks = shifted.amax(dim=(1, 2), keepdim=True)
    return shifted / peaks.where(peaks > 0, 1.0)


def upsample_maps(maps: PatchMaps, size_hw: tuple[int, int]) -> SoftMasks:
    """Interpolate patch maps bilinearly to pixels (half-pixel centers, no antialiasing); on the CPU."""
    upsampled = torch.empty(len(maps), *size_hw, dtype=torch.float32)
    for row, patch_map in zip(upsampled.numpy(), maps.float().cpu().numpy(), strict=True):
        cv2.resize(patch_map, size_hw[::-1], dst=row, interpolation=cv2.INTER_LINEAR)
    return upsampled


def resize_nearest(labels: LabelMap | Masks, size_hw: tuple[int, int]) -> Int[ndarray, "H W"] | Bool[ndarray, "n H W"]:
    """Resize a label map (h, w), or masks (n, h, w), to another size, nearest neighbor.

    A label map that changes its size has the least of 8, 16 and 32 bits that holds its labels.
    """
    if labels.shape[-2:] == size_hw:
        return labels
    if _is_label_map(labels):
        narrow: Int[ndarray, "h w"] = labels.astype(narrowest(int(labels.max(initial=0))), copy=False)
        return np.asarray(cv2.resize(narrow, size_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
    masks = np.empty((len(labels), *size_hw), dtype=bool)
    for i, mask in enumerate(labels):
        masks[i] = cv2.resize(mask.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return masks


def narrowest(label: int) -> type[np.signedinteger[Any]]:
    """Return the smallest integers, of 8, 16 or 32 bits, that hold the labels from 0 to this one."""
    return next(kind for kind in (np.int8, np.int16, np.int32) if label <= np.iinfo(kind).max)


def _is_label_map(labels: LabelMap | Masks) -> bool:
    return labels.dtype != bool


def drop_empty(labels: LabelMap | Masks, count: int) -> tuple[LabelMap | Bool[ndarray, "k h w"], Int[ndarray, " k"]]:
    """Leave out those of `count` texts that have no pixel, and number the others anew; also return which these are."""
    if not _is_label_map(labels):
        found = np.flatnonzero(labels.any(axis=(1, 2)))
        return labels[found], found
    found = np.flatnonzero(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    renumbered = np.zeros(count + 1, dtype=labels.dtype)
    renumbered[found + 1] = np.arange(1, len(found) + 1)
    return renumbered[labels], found


def components_box_mask(mask: UInt8[ndarray, "gh gw"], *, clamp: bool) -> Float[Tensor, "gh gw"]:
    """Mark the bounding boxes of all 8-connected components of `mask`.

    With `clamp`, a box's right and bottom edge end at size - 1, exclusive, so that the last column and row stay out
    (as the authors' release does); without, a box holds all of its component.
    """
    height, width = mask.shape
    boxes = torch.zeros(mask.shape, dtype=torch.float32)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for left, top, box_width, box_height, _ in stats[1:]:  # row 0 is the background
        right, bottom = left + box_width, top + box_height
        if clamp:
            right, bottom = min(right, width - 1), min(bottom, height - 1)
        boxes[top:bottom, left:right] = 1
    return boxes


def encode_rle(mask: Bool[ndarray, "h w"]) -> dict[str, Any]:
    """Encode a mask as COCO's compressed run lengths, column by column: `size` (h, w) and `counts`, ready for JSON."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
