"""Masks as polygons, for formats that know nothing else.

Vertices are centers of pixels of the mask, so that whoever fills a polygon with its border, as OpenCV and Pillow do,
gets the mask back, pixel for pixel.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Int
from numpy import ndarray
from scipy.spatial import cKDTree

from clip_as_rnn.types import Mask

Ring = Int[ndarray, "_ 2"]  # x, y of pixels in pixels; the last vertex is joined to the first
_FEWEST_VERTICES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One 8-connected part of a mask: its border, and those of its holes."""

    border: Ring
    holes: tuple[Ring, ...]


def trace_parts(mask: Mask) -> list[Part]:
    """Trace the parts of a mask; none for an empty one. Rings of one or two pixels repeat them up to three vertices."""
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if hierarchy is None or not contours:
        return []
    parents = hierarchy[0, :, 3]
    rings = [_ring(contour) for contour in contours]
    return [Part(rings[i], tuple(rings[j] for j in np.flatnonzero(parents == i))) for i in np.flatnonzero(parents < 0)]


def join_rings(rings: list[Ring]) -> Ring:
    """Make one ring of several: from the nearest vertex there and back, on a line without width.

    By the even-odd rule a ring within another is a hole of it, and one outside a part.
    """
    path = rings[0]
    for ring in rings[1:]:
        distances, nearest = cKDTree(path).query(ring)
        here = int(np.argmin(distances))
        there = int(nearest[here])
        detour = np.concatenate([np.roll(ring, -here, axis=0), ring[here : here + 1]])
        path = np.concatenate([path[: there + 1], detour, path[there:]])
    return path


def _ring(contour: Int[ndarray, "_ 1 2"]) -> Ring:
    points = contour[:, 0]
    return np.concatenate([points, np.repeat(points[-1:], max(0, _FEWEST_VERTICES - len(points)), axis=0)])
