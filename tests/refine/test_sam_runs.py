"""Masks as run lengths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clip_as_rnn.refine.sam.runs import decode_runs, run_lengths


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 5))))
def test_run_lengths_hold_the_mask(mask):
    runs = run_lengths(mask)
    assert runs.sum() == mask.size
    assert (runs[1:] > 0).all()
    np.testing.assert_array_equal(decode_runs(runs, mask.shape), mask)


def test_the_first_run_is_of_pixels_outside():
    assert run_lengths(np.array([[True, True, False]])).tolist() == [0, 2, 1]
    assert run_lengths(np.array([[False, False], [False, True]])).tolist() == [3, 1]
