"""What a text's scores in the frames of a clip say together: pooled over time, and decided with hysteresis."""

import math

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray


def time_weight(offset: int, frames: float) -> float:
    """Weigh what is so many frames away, exp(-|offset| / frames); with 0 frames only the frame itself counts."""
    if offset == 0:
        return 1.0
    return math.exp(-abs(offset) / frames) if frames else 0.0


def pool_scores(scores: Float[ndarray, "t n"], frames: float) -> Float[ndarray, "t n"]:
    """Average each text's scores over the frames around each frame, the near ones most."""
    count = len(scores)
    weights = np.array([[time_weight(t - other, frames) for other in range(count)] for t in range(count)])
    pooled = weights @ scores / weights.sum(axis=1, keepdims=True)
    return np.asarray(pooled.astype(scores.dtype))


def find_peaks(scores: Float[ndarray, "t n"], frames: int) -> Float[ndarray, " n"]:
    """Average each text's best scores over so many frames, or over all if there are fewer.

    What is there shows itself well in some frames, however badly in others; what is not rarely does in any.
    """
    peaks = np.sort(scores, axis=0)[-frames:].mean(axis=0)
    return np.asarray(peaks.astype(scores.dtype))


def scale_odds(probability: float, factor: float) -> float:
    """Multiply the odds p / (1 - p) of a probability, and return the probability that has them."""
    return factor * probability / (1 - probability + factor * probability)


def hold(
    passes: Bool[ndarray, "t n"], stays: Bool[ndarray, "t n"], was_kept: Bool[ndarray, " n"]
) -> Bool[ndarray, "t n"]:
    """Keep a text in every run of frames in which it may stay that touches one in which it passes, or a kept past.

    A frame in which a text passes and may not stay counts nothing. `was_kept` says which texts were kept in the frame
    before the first one.
    """
    forward, backward = np.zeros_like(passes), np.zeros_like(passes)
    kept = was_kept
    for t in range(len(passes)):
        kept = forward[t] = stays[t] & (passes[t] | kept)
    kept = np.zeros_like(was_kept)
    for t in reversed(range(len(passes))):
        kept = backward[t] = stays[t] & (passes[t] | kept)
    return np.asarray(forward | backward)
