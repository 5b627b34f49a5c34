"""Masks as run lengths: what many masks of a large image are kept as until one is looked at."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from clip_as_rnn.types import Mask


def run_lengths(mask: Mask) -> Int[ndarray, " r"]:
    """Count the equal pixels in a row, over and over, row by row; the first count is of pixels outside, may be 0."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    borders = np.concatenate([[0] if flat[0] else [], [0], changes, [flat.size]])
    return np.diff(borders).astype(np.int32)


def decode_runs(runs: Int[ndarray, " r"], size_hw: tuple[int, int]) -> Mask:
    """Draw the mask of this size that has these run lengths."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size_hw)
