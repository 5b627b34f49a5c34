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


def hold(scores: Float[ndarray, "t n"], high: float, low: float, was_kept: Bool[ndarray, " n"]) -> Bool[ndarray, "t n"]:
    """Keep a text in every run of frames with scores from `low` on that touches one from `high` on, or a kept past.

    `was_kept` says which texts were kept in the frame before the first one.
    """
    passes, stays = scores >= high, scores >= low
    forward, backward = np.zeros_like(passes), np.zeros_like(passes)
    kept = was_kept
    for t in range(len(scores)):
        kept = forward[t] = stays[t] & (passes[t] | kept)
    kept = np.zeros_like(was_kept)
    for t in reversed(range(len(scores))):
        kept = backward[t] = stays[t] & (passes[t] | kept)
    return np.asarray(forward | backward)
