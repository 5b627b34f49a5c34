"""Pooling and hysteresis against what they are by definition."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_as_rnn.temporal.evidence import hold, pool_scores


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
    kept = hold(np.stack([row, row], 1), 0.4, 0.2, np.array([was_kept, False]))
    assert kept[:, 0].tolist() == held_by_definition(row, 0.4, 0.2, was_kept).tolist()
    assert kept[:, 1].tolist() == held_by_definition(row, 0.4, 0.2, False).tolist()


def test_a_dip_does_not_interrupt_what_is_seen_on_both_sides():
    scores = np.array([[0.6], [0.3], [0.6], [0.1], [0.3]], np.float32)
    assert hold(scores, 0.5, 0.25, np.array([False]))[:, 0].tolist() == [True, True, True, False, False]
