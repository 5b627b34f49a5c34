"""Arithmetic of maps and masks: scaling, growing, boxes. Knows nothing of CLIP."""

from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from pycocotools import mask as coco
from torch import Tensor

from clip_as_rnn.types import PatchMaps, SoftMasks


def min_max_scale(maps: PatchMaps) -> PatchMaps:
    """Stretch every map to [0, 1]; a constant map becomes zero."""
    shifted = maps - maps.amin(dim=(1, 2), keepdim=True)
    peaks = shifted.amax(dim=(1, 2), keepdim=True)
    return shifted / peaks.where(peaks > 0, 1.0)


def grow_maps(maps: PatchMaps, size_hw: tuple[int, int]) -> SoftMasks:
    """Interpolate patch maps bilinearly to pixels (half-pixel centres, no antialiasing); on the CPU."""
    grown = torch.empty(len(maps), *size_hw)
    for row, patch_map in zip(grown.numpy(), maps.float().cpu().numpy(), strict=True):
        cv2.resize(patch_map, size_hw[::-1], dst=row, interpolation=cv2.INTER_LINEAR)
    return grown


def grow_masks(masks: Bool[ndarray, "n h w"], size_hw: tuple[int, int]) -> Bool[ndarray, "n H W"]:
    """Enlarge or shrink masks to another size, nearest neighbour."""
    if masks.shape[1:] == size_hw:
        return masks
    grown = np.empty((len(masks), *size_hw), dtype=bool)
    for i, mask in enumerate(masks):
        grown[i] = cv2.resize(mask.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return grown


def components_box_mask(mask: UInt8[ndarray, "gh gw"], *, clamp: bool) -> Float[Tensor, "gh gw"]:
    """Mark the bounding boxes of all 8-connected components of `mask`.

    With `clamp`, a box's right and bottom edge end at size - 1, exclusive, so that the last column and row stay out
    (as the authors' release does); without, a box holds all of its component.
    """
    height, width = mask.shape
    boxes = torch.zeros(mask.shape)
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
