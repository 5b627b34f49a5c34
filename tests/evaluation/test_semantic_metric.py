"""Scores of label maps, against hand-made tables and against torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from clip_as_rnn.evaluation.metrics.semantic import (
    COUNTINGS,
    PixelCount,
    PresenceCounts,
    PresenceMetric,
    add_counts,
    class_ious,
    count_pixels,
    image_miou,
    score_pixels,
    score_presence,
)

CLASSES = 5


def pooled(*pairs):
    matrix = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for truth, predicted in pairs:
        add_counts(matrix, count_pixels(np.array(truth), np.array(predicted)))
    return matrix


def test_pixels_are_pooled_over_the_data_set_not_averaged_over_images():
    """One image all right, one all wrong: the mean over images would be 0.5 in either split of the pixels."""
    matrix = pooled(([[1, 1, 1]], [[1, 1, 1]]), ([[1]], [[2]]))
    assert score_pixels(matrix, "with_background").miou == pytest.approx(3 / 4)


def test_a_background_pixel_for_an_object_is_a_miss_only_where_it_is_counted():
    matrix = pooled(([[0, 0, 1, 1, 1, 2]], [[0, 1, 1, 0, 0, 2]]))
    by_counting = {counting: score_pixels(matrix, counting).miou for counting in COUNTINGS}
    assert by_counting["with_background"] == pytest.approx(np.mean([1 / 4, 1 / 4, 1]))
    assert by_counting["without_background_released"] == pytest.approx(np.mean([1 / 1, 1]))
    assert by_counting["without_background_counted"] == pytest.approx(np.mean([1 / 3, 1]))


def test_negative_labels_count_nowhere():
    counts = count_pixels(np.array([[-1, -1, 1]]), np.array([[1, 2, 1]]))
    assert counts == (PixelCount(1, 1, 1),)


def test_a_class_that_is_only_predicted_has_no_iou_of_its_own_but_costs_the_class_it_covers():
    matrix = pooled(([[1, 1]], [[1, 3]]))
    assert class_ious(matrix, "with_background") == (None, 0.5, None, None, None)
    assert score_pixels(matrix, "with_background").miou == 0.5


def test_nothing_counted_scores_nothing():
    for counting in COUNTINGS:
        matrix = pooled(([[-1]], [[1]]))
        found = score_pixels(matrix, counting)
        assert (found.miou, found.pixel_accuracy, found.frequency_weighted_iou) == (None, None, None)
        assert class_ious(matrix, counting) == (None,) * CLASSES


def test_accuracies_and_frequency_weights_by_hand():
    found = score_pixels(pooled(([[1, 1, 1, 2]], [[1, 1, 0, 2]])), "with_background")
    assert found.pixel_accuracy == pytest.approx(3 / 4)
    assert found.mean_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert found.frequency_weighted_iou == pytest.approx(3 / 4 * 2 / 3 + 1 / 4 * 1)


def random_maps(seed):
    random = np.random.default_rng(seed)
    truth = random.integers(-1, random.integers(1, CLASSES + 1), size=(3, 6, 7))
    predicted = np.where(
        random.random(truth.shape) < 0.5, np.maximum(truth, 0), random.integers(0, CLASSES, truth.shape)
    )
    return truth, predicted


def jaccard(truth, predicted):
    target, answer = torch.from_numpy(truth), torch.from_numpy(predicted)
    return multiclass_jaccard_index(answer, target, CLASSES, average="none", ignore_index=-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_counting_equals_torchmetrics_pooled_jaccard(seed):
    """The two countings without background are the plain one on fewer pixels."""
    truth, predicted = random_maps(seed)
    matrix = pooled(*zip(truth, predicted, strict=True))
    truths = {
        "with_background": truth,
        "without_background_released": np.where((truth > 0) & (predicted > 0), truth, -1),
        "without_background_counted": np.where(truth > 0, truth, -1),
    }
    for counting, counted in truths.items():
        found, expected = score_pixels(matrix, counting), jaccard(counted, predicted)
        labels = [label for label in range(CLASSES) if (counted == label).any()]
        for label in range(CLASSES):
            if label in labels:
                assert class_ious(matrix, counting)[label] == pytest.approx(float(expected[label]))
        if labels:
            assert found.miou == pytest.approx(float(expected[labels].mean()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pixel_accuracy_equals_torchmetrics(seed):
    truth, predicted = random_maps(seed)
    found = score_pixels(pooled(*zip(truth, predicted, strict=True)), "with_background")
    answer, target = torch.from_numpy(predicted).flatten(), torch.from_numpy(truth).flatten()
    if (truth >= 0).any():
        expected = multiclass_accuracy(answer, target, CLASSES, average="micro", ignore_index=-1)
        assert found.pixel_accuracy == pytest.approx(float(expected))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_score_of_one_image_equals_the_score_of_a_data_set_that_holds_only_it(seed):
    truth, predicted = random_maps(seed)
    counts = count_pixels(truth[0], predicted[0])
    matrix = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    add_counts(matrix, counts)
    assert image_miou(counts) == pytest.approx(score_pixels(matrix, "with_background").miou)


def test_presence_shares_are_of_all_pairs_of_image_and_text():
    metric = PresenceMetric(1 + 10)
    metric.update(present=[1, 2], kept=[1, 3])
    metric.update(present=[3], kept=[3])
    total = metric.compute()
    assert total.counts == PresenceCounts(present=3, present_kept=2, absent=17, absent_kept=1)
    assert total.recall == pytest.approx(2 / 3)
    assert total.precision == pytest.approx(2 / 3)
    assert total.absent_rejected == pytest.approx(16 / 17)


def test_presence_of_nothing_is_no_number():
    scores = score_presence(PresenceCounts())
    assert (scores.recall, scores.precision, scores.absent_rejected) == (None, None, None)
