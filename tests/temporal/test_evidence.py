"""Pooling and hysteresis against what they are by definition."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_as_rnn.temporal.evidence import find_peaks, hold, pool_scores, scale_odds


def test_pooled_scores_are_means_that_fall_off_with_distance():
    scores = np.random.default_rng(0).random((7, 3), dtype=np.float32)
    pooled = pool_scores(scores, 2.0)
    for t in range(7):
        weights = [math.exp(-abs(t - other) / 2) for other in range(7)]
        assert pooled[t] == pytest.approx(np.average(scores, axis=0, weights=weights), rel=1e-5)


def test_without_frames_to_pool_over_scores_stay_as_they_are():
    scores = np.random.default_rng(0).random((5, 2), dtype=np.float32)
    assert np.array_equal(pool_scores(scores, 0.0), scores)


def held_by_definition(scores, high, low, was_kept):
    """Keep each run of frames from `low` on that has one from `high` on, or continues a kept past."""
    kept = np.zeros(len(scores), bool)
    t = 0
    while t < len(scores):
        end = t
        while end < len(scores) and scores[end] >= low:
            end += 1
        kept[t:end] = bool((scores[t:end] >= high).any()) or (t == 0 and was_kept)
        t = end + 1
    return kept


@given(st.lists(st.sampled_from((0.1, 0.3, 0.5)), min_size=1, max_size=12), st.booleans())
def test_a_text_stays_in_runs_that_touch_the_high_threshold_or_a_kept_past(scores, was_kept):
    row = np.array(scores, np.float32)
    both = np.stack([row, row], 1)
    kept = hold(both >= 0.4, both >= 0.2, np.array([was_kept, False]))
    assert kept[:, 0].tolist() == held_by_definition(row, 0.4, 0.2, was_kept).tolist()
    assert kept[:, 1].tolist() == held_by_definition(row, 0.4, 0.2, False).tolist()


def test_a_dip_does_not_interrupt_what_is_seen_on_both_sides():
    scores = np.array([[0.6], [0.3], [0.6], [0.1], [0.3]], np.float32)
    kept = hold(scores >= 0.5, scores >= 0.25, np.array([False]))
    assert kept[:, 0].tolist() == [True, True, True, False, False]


def test_where_a_text_passes_and_may_not_stay_it_is_not_kept():
    passes, stays = np.array([[True], [True], [True]]), np.array([[False], [True], [False]])
    assert hold(passes, stays, np.array([True]))[:, 0].tolist() == [False, True, False]


def test_the_peak_is_the_mean_of_a_texts_own_best_frames():
    scores = np.array([[0.1, 0.8], [0.9, 0.2], [0.5, 0.4], [0.3, 0.0]], np.float32)
    assert find_peaks(scores, 2) == pytest.approx([0.7, 0.6])
    assert find_peaks(scores, 1) == pytest.approx([0.9, 0.8])
    assert find_peaks(scores, 9) == pytest.approx([0.45, 0.35])


@given(st.floats(0.0, 1.0), st.floats(0.01, 100.0))
def test_odds_are_scaled_and_stay_probabilities(probability, factor):
    scaled = scale_odds(probability, factor)
    assert 0 <= scaled <= 1
    assert scaled * (1 - probability) == pytest.approx(factor * probability * (1 - scaled))
