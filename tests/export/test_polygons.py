"""Masks as polygons: filled again, they are the masks."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clip_as_rnn.export.polygons import join_rings, trace_parts


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_parts_filled_again_are_the_mask(mask: np.ndarray):
    filled = np.zeros(mask.shape, np.uint8)
    for part in trace_parts(mask):
        cv2.fillPoly(filled, [part.border, *part.holes], 1)
    np.testing.assert_array_equal(filled.astype(bool), mask)


def test_an_empty_mask_has_no_parts_and_a_pixel_has_three_vertices():
    mask = np.zeros((4, 5), bool)
    assert trace_parts(mask) == []
    mask[2, 3] = True
    (part,) = trace_parts(mask)
    assert (part.border.tolist(), part.holes) == ([[3, 2]] * 3, ())


@pytest.mark.parametrize("seed", range(5))
def test_a_joined_ring_encloses_what_its_rings_do_and_walks_the_lines_between_them_twice(seed: int):
    random = np.random.default_rng(seed)
    mask = cv2.resize(random.random((6, 7)).astype(np.float32), (70, 60)) > 0.5
    rings = [ring for part in trace_parts(mask) for ring in (part.border, *part.holes)]
    joined = join_rings(rings)
    steps = np.linalg.norm(np.roll(joined, -1, axis=0) - joined, axis=1).sum()
    lengths = sum(np.linalg.norm(np.roll(ring, -1, axis=0) - ring, axis=1).sum() for ring in rings)
    assert lengths <= steps <= lengths + 2 * 70 * len(rings)
    filled = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [joined], 1).astype(bool)
    between = np.zeros(mask.shape, np.uint8)
    tree_lines = [(a, b) for a, b in zip(joined.tolist(), np.roll(joined, -1, axis=0).tolist(), strict=True)]
    for a, b in tree_lines:
        if tree_lines.count((b, a)):  # there and back
            cv2.line(between, a, b, 1)
    assert not (filled != mask)[between == 0].any()
