"""Where the cells of a frame's grid were, or will be, in the frames around it: dense optical flow, traced over cells.

Flow is DIS (Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016), as OpenCV has it. What a frame
shows where something comes into sight, or the flow errs, looks otherwise than its trace; `likeness` says how much so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from clip_as_rnn.types import RgbImage

_LIKE_RGB = 25.0  # gray levels by which a cell may differ from its trace, a standard deviation
_SMALLEST_PX = 24  # DIS needs some room for what it compares

CellFlow = Float[Tensor, "gh gw 2"]  # x and y, in cells


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Where each cell of one frame's grid lies in another one.

    Attributes:
        places: x and y in the other frame, from -1 to 1 between its edges, as `grid_sample` takes them.
        likeness: in [0, 1]; 0 outside of the other frame.
    """

    places: Float[Tensor, "gh gw 2"]
    likeness: Float[Tensor, "gh gw"]

    def sample(self, maps: Float[Tensor, "n _ _"]) -> Float[Tensor, "n gh gw"]:
        """Read maps of the other frame, of any grid, at the places of this one's cells."""
        return _sample(maps, self.places)


def coarsen_traces(traces: Mapping[int, Trace], scale: int) -> Mapping[int, Trace]:
    """Average the traces of a frame over cells that are so many times larger each way."""
    if not traces:
        return {}
    finer = [torch.cat([trace.places, trace.likeness[..., None]], -1) for trace in traces.values()]
    coarser = functional.avg_pool2d(torch.stack(finer).permute(0, 3, 1, 2), scale).permute(0, 2, 3, 1)
    return {offset: Trace(one[..., :2], one[..., 2]) for offset, one in zip(traces, coarser, strict=True)}


def trace_motion(images: Sequence[RgbImage], grid_hw: tuple[int, int], radius: int) -> list[Mapping[int, Trace]]:
    """Trace the cells of every frame to the frames up to `radius` before and behind it.

    Returns:
        For each frame its traces by offset, -1 being the frame before; offsets beyond either end are absent.
    """
    small = [torch.from_numpy(_shrink(image, grid_hw)).permute(2, 0, 1) for image in images]
    steps: dict[tuple[int, int], CellFlow] = {}
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images] if radius else []
    for t in range(len(gray) - 1):
        steps[t, t + 1] = _find_flow(gray[t], gray[t + 1], grid_hw)
        steps[t + 1, t] = _find_flow(gray[t + 1], gray[t], grid_hw)
    traces: list[Mapping[int, Trace]] = []
    for t, own in enumerate(small):
        found: dict[int, Trace] = {}
        for direction in (-1, 1):
            flow = torch.zeros(*grid_hw, 2, dtype=torch.float32)
            for other in range(t + direction, t + direction * (radius + 1), direction):
                if not 0 <= other < len(images):
                    break
                flow = flow + _sample(steps[other - direction, other].permute(2, 0, 1), _places(flow)).permute(1, 2, 0)
                places = _places(flow)
                difference = (_sample(small[other], places) - own).square().sum(0)
                is_inside = (places.abs() <= 1).all(-1)
                found[other - t] = Trace(places, torch.exp(-difference / (2 * _LIKE_RGB**2)) * is_inside)
        traces.append(found)
    return traces


def _find_flow(first: ndarray, second: ndarray, grid_hw: tuple[int, int]) -> CellFlow:
    """Find how far each cell moves from the first to the second gray frame; nowhere in frames too small to tell."""
    height, width = first.shape
    if min(height, width) < _SMALLEST_PX:
        return torch.zeros(*grid_hw, 2, dtype=torch.float32)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = _shrink(search.calc(first, second, np.zeros((height, width, 2), np.float32)), grid_hw)
    return torch.from_numpy(flow) * torch.tensor([grid_hw[1] / width, grid_hw[0] / height], dtype=torch.float32)


def _shrink(picture: ndarray, grid_hw: tuple[int, int]) -> Float[ndarray, "gh gw c"]:
    """Average a picture over cells."""
    return cv2.resize(picture.astype(np.float32), grid_hw[::-1], interpolation=cv2.INTER_AREA)


def _places(flow: CellFlow) -> Float[Tensor, "gh gw 2"]:
    """Say where cells that move so lie, from -1 to 1 between the edges."""
    height, width = flow.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centers = torch.stack([columns, rows], -1).float() + 0.5 + flow
    return 2 * centers / torch.tensor([width, height]) - 1


def _sample(maps: Float[Tensor, "n _ _"], places: Float[Tensor, "gh gw 2"]) -> Float[Tensor, "n gh gw"]:
    return functional.grid_sample(maps[None], places[None], padding_mode="border", align_corners=False)[0]
