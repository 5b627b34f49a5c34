"""Masks from COCO's polygons and run lengths, by pycocotools."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Int, UInt8
from numpy import ndarray
from pycocotools import mask as coco_mask

from clip_as_rnn.errors import InputError

Mask: TypeAlias = Bool[ndarray, "h w"]
Segmentation: TypeAlias = Sequence[Any] | Mapping[str, Any]  # COCO's `segmentation`: polygons, or one RLE

_TRIANGLE = 6  # coordinates: x and y of three corners; fewer enclose nothing


def union_mask(segmentation: Segmentation, size_hw: tuple[int, int]) -> Mask:
    """Return every pixel that any polygon covers: the usual reading."""
    return np.asarray(_layers(segmentation, size_hw) > 0)


def once_covered_mask(segmentation: Segmentation, size_hw: tuple[int, int]) -> Mask:
    """Return the pixels that exactly one polygon covers.

    The authors' release compares the sum of the polygons with 1, so where polygons overlap the object has a hole.
    """
    return np.asarray(_layers(segmentation, size_hw) == 1)


def _layers(segmentation: Segmentation, size_hw: tuple[int, int]) -> Int[ndarray, "h w"]:
    """Count how many polygons (or run-length masks) cover each pixel.

    Raises:
        InputError: COCO's format is not kept, nothing is given, or a run-length mask has another size.
    """
    height, width = size_hw
    layers = np.zeros(size_hw, dtype=np.int64)
    try:
        if not len(segmentation):
            raise ValueError("there is none")
        for part in [segmentation] if isinstance(segmentation, Mapping) else segmentation:
            if isinstance(part, Mapping) or len(part) >= _TRIANGLE:
                layers += _decode(_encoded(part, height, width))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"Expected polygons or run lengths of a {width} x {height} image, but: {error}.") from error
    return layers


def _decode(encoded: Any) -> UInt8[ndarray, "h w"]:
    """Turn compressed run lengths into a mask of 0 and 1."""
    with warnings.catch_warnings():
        # pycocotools' arrays predate the `copy` keyword of numpy 2, which says so at every call.
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.asarray(coco_mask.decode(encoded))


def _encoded(part: Any, height: int, width: int) -> Any:
    """Turn one polygon or one run-length mask, compressed or not, into compressed run lengths."""
    if not isinstance(part, Mapping):
        if len(part) % 2:
            raise ValueError(f"a polygon has {len(part)} coordinates, an odd number")
        return coco_mask.frPyObjects([part], height, width)[0]
    if list(part["size"]) != [height, width]:
        raise ValueError(f"the run lengths are of a {part['size'][1]} x {part['size'][0]} image")
    return coco_mask.frPyObjects(part, height, width) if isinstance(part["counts"], list) else part
