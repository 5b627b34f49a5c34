"""Scores of referred objects, by hand and against pycocotools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from clip_as_rnn.evaluation.datasets.referring import once_covered_mask, union_mask
from clip_as_rnn.evaluation.metrics.referring import (
    GresSample,
    Overlap,
    Precision,
    measure_overlap,
    score_gres,
    score_overlaps,
)


def test_mean_and_overall_iou_differ_where_objects_differ_in_size():
    scores = score_overlaps([Overlap(90, 100), Overlap(0, 100), Overlap(1, 2)])
    assert scores.count == 3
    assert scores.miou == pytest.approx((0.9 + 0 + 0.5) / 3)
    assert scores.oiou == pytest.approx(91 / 202)
    assert scores.precisions[0] == Precision(0.5, 2 / 3)  # at least, not above
    assert scores.precisions[-1] == Precision(0.9, 1 / 3)


def test_an_empty_union_counts_as_zero():
    assert Overlap(0, 0).iou == 0
    scores = score_overlaps([Overlap(0, 0)])
    assert (scores.miou, scores.oiou) == (0, 0)


def test_no_reference_has_no_score():
    scores = score_overlaps([])
    assert (scores.count, scores.miou, scores.oiou, scores.precisions) == (0, None, None, ())


def test_an_empty_mask_is_right_where_nothing_is_meant():
    samples = [
        GresSample(Overlap(50, 100), has_target=True, is_empty=False),
        GresSample(Overlap(0, 40), has_target=True, is_empty=True),
        GresSample(Overlap(0, 0), has_target=False, is_empty=True),
        GresSample(Overlap(0, 60), has_target=False, is_empty=False),
    ]
    scores = score_gres(samples)
    assert scores.giou == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert scores.ciou == pytest.approx(50 / 200)
    assert scores.n_accuracy == pytest.approx(1 / 2)
    assert scores.t_accuracy == pytest.approx(1 / 2)


def test_gres_scores_of_nothing_are_no_numbers():
    scores = score_gres([])
    assert (scores.giou, scores.ciou, scores.n_accuracy, scores.t_accuracy) == (None, None, None, None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_iou_equals_pycocotools(seed):
    random = np.random.default_rng(seed)
    masks = random.random((2, 9, 13)) < random.random((2, 1, 1))
    encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    expected = float(coco_mask.iou([encoded[0]], [encoded[1]], [0])[0, 0])
    assert measure_overlap(*masks).iou == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_union_of_polygons_equals_pycocotools_merged_run_lengths(seed):
    random = np.random.default_rng(seed)
    polygons = [random.uniform(0, 30, size=2 * random.integers(3, 7)).tolist() for _ in range(random.integers(1, 5))]
    merged = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 30, 30)))
    assert np.array_equal(union_mask(polygons, (30, 30)), merged.astype(bool))
    assert not (once_covered_mask(polygons, (30, 30)) & ~merged.astype(bool)).any()
