"""Soft masks averaged over the frames of a clip, along the motion."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.temporal.evidence import time_weight
from clip_as_rnn.temporal.motion import Trace


def smooth_maps(
    maps: Float[Tensor, "t n gh gw"], held: Bool[ndarray, "t n"], traces: Sequence[Mapping[int, Trace]], frames: float
) -> Float[Tensor, "t n gh gw"]:
    """Average every map with those of the frames around it, read where its patches lie there.

    A frame d away counts exp(-d / frames), and less where it looks otherwise; one whose map is not `held` counts
    nothing. The frame itself counts 1, so a map that nothing agrees with stays as it is.
    """
    weights = torch.from_numpy(held).float()[..., None, None]  # t n 1 1
    smoothed = torch.empty_like(maps)
    for t, by_offset in enumerate(traces):
        total, weight = maps[t].clone(), torch.ones(maps.shape[1:], dtype=torch.float32)
        for offset, trace in by_offset.items():
            share = time_weight(offset, frames) * weights[t + offset] * trace.likeness
            total += share * trace.sample(maps[t + offset])
            weight += share
        smoothed[t] = total / weight
    return smoothed
