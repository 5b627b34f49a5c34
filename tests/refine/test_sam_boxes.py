"""Boxes of masks and their suppression, against slow definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip_as_rnn.errors import InputError
from clip_as_rnn.refine.sam import suppress_boxes
from clip_as_rnn.refine.sam.boxes import mask_box

boxes_and_scores = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), max_size=9
).map(
    lambda rows: (
        np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], dtype=np.float64).reshape(-1, 4),
        np.array([score for *_, score in rows], dtype=np.float64),
    )
)


def defined(boxes, scores, threshold):
    """Take the best box left, drop what overlaps it, and again."""
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if iou(boxes[best], boxes[i]) <= threshold]
    return kept


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


@given(boxes_and_scores, st.sampled_from((0.0, 0.25, 0.5, 0.7, 0.9)))
def test_equals_the_definition(given_boxes, threshold):
    boxes, scores = given_boxes
    kept = suppress_boxes(boxes, scores, threshold)
    assert kept.tolist() == defined(boxes, scores, threshold)
    assert kept.dtype == np.int64


@given(boxes_and_scores)
def test_what_is_kept_does_not_overlap_and_falls_in_score(given_boxes):
    boxes, scores = given_boxes
    kept = suppress_boxes(boxes, scores, 0.5)
    assert all(iou(boxes[i], boxes[j]) <= 0.5 for i in kept for j in kept if i < j)
    assert (np.diff(scores[kept]) <= 0).all()


def test_of_equal_boxes_the_first_of_the_best_stays():
    assert suppress_boxes(np.array([[0, 0, 4, 4]] * 3), np.array([0.5, 0.9, 0.9]), 0.7).tolist() == [1]


def test_boxes_of_one_line_suppress_nothing():
    """A mask one pixel high has a box without area, as SAM's generator counts it."""
    assert suppress_boxes(np.array([[0, 3, 9, 3], [0, 3, 9, 3]]), np.array([0.9, 0.8]), 0.0).tolist() == [0, 1]


@pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
def test_no_boxes_leave_none(kind):
    assert suppress_boxes(kind((0, 4)), kind(0), 0.7).shape == (0,)


def test_no_boxes_need_no_columns():
    assert suppress_boxes(np.array([]), np.array([]), 0.7).tolist() == []


def test_a_box_is_four_numbers():
    with pytest.raises(InputError, match=r"^Expected boxes \(m, 4\) and scores \(m,\), but got \(2, 5\) and \(2,\)\.$"):
        suppress_boxes(np.zeros((2, 5)), np.zeros(2), 0.7)


def test_every_box_needs_a_score():
    with pytest.raises(InputError, match=r"^Expected one score per box, but got 3 boxes and 2 scores\.$"):
        suppress_boxes(np.zeros((3, 4)), np.zeros(2), 0.7)


def test_gives_back_the_kind_it_was_given():
    boxes, scores = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 3]]), torch.tensor([0.1, 0.2], dtype=torch.bfloat16)
    kept = suppress_boxes(boxes, scores, 0.7)
    assert isinstance(kept, torch.Tensor)
    assert kept.tolist() == [1]


def test_a_box_holds_its_mask():
    mask = np.zeros((5, 6), bool)
    assert mask_box(mask).tolist() == [0, 0, 0, 0]
    mask[1:3, 2:5] = True
    assert mask_box(mask).tolist() == [2, 1, 4, 2]
