"""Soft masks averaged over the frames of a clip, along the motion."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from clip_as_rnn.temporal.evidence import time_weight
from clip_as_rnn.temporal.motion import Trace

Held = Bool[ndarray, "t n"]


def smooth_maps(
    maps: Float[Tensor, "t n gh gw"], held: Held, traces: Sequence[Mapping[int, Trace]], frames: float
) -> Float[Tensor, "t n gh gw"]:
    """Average the maps of every frame with those of the frames around it; see `smooth_frame`."""
    return torch.stack([smooth_frame(maps, held, t, traces[t], frames) for t in range(len(maps))])


def smooth_frame(
    maps: Float[Tensor, "t n gh gw"], held: Held, t: int, traces: Mapping[int, Trace], frames: float
) -> Float[Tensor, "n h w"]:
    """Average the maps of frame t with those of the frames around it, read where its cells lie there.

    A frame d away counts exp(-d / frames), and less where it looks otherwise; one whose map is not `held` counts
    nothing. The frame itself counts 1, so a map that nothing agrees with stays as it is. The traces' cells may be finer
    than patches: what moves is cut into patches differently in every frame, and together they tell more.
    """
    weights = torch.from_numpy(held).float()[..., None, None]  # t n 1 1
    grid_hw = next((tuple(trace.likeness.shape) for trace in traces.values()), tuple(maps.shape[2:]))
    total = functional.interpolate(maps[t][None], size=grid_hw, mode="bilinear", align_corners=False)[0]
    weight = torch.ones_like(total)
    for offset, trace in traces.items():
        share = time_weight(offset, frames) * weights[t + offset] * trace.likeness
        total += share * trace.sample(maps[t + offset])
        weight += share
    return total / weight
