"""Class-aware affinity (CLIP-ES, Lin et al., CVPR 2023): attention spreads a map within boxes of its strong parts."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clip_as_rnn.ops import components_box_mask
from clip_as_rnn.types import PatchMaps

Affinity = Float[Tensor, "p p"]
_SINKHORN_ROUNDS = 3
_LOWERING = 0.1
_ROWS_AT_ONCE = 1024


def normalize_affinity(attention: Affinity) -> Affinity:
    """Turn mean attention into CLIP-ES's symmetric affinity: three rounds of columns, then rows, summing to one."""
    affinity = attention.clone()
    for _ in range(_SINKHORN_ROUNDS):
        affinity /= affinity.sum(0, keepdim=True)
        affinity /= affinity.sum(1, keepdim=True)
    return affinity.add_(affinity.T.clone()).mul_(0.5)


def spread(affinity: Affinity, maps: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Apply the squared affinity, as two products with the maps and never as a matrix.

    In float64: a spread map is nearly constant, and scaling it to [0, 1] brings its last digits forward.
    """
    once = _multiply_exactly(affinity, maps.T)
    return _multiply_exactly(affinity, once).T.float().to(maps.device)


def _multiply_exactly(affinity: Affinity, columns: Float[Tensor, "p n"]) -> Float[Tensor, "p n"]:
    """Multiply in float64, a block of rows at a time; on the CPU where the device, as Apple's, has no float64."""
    columns = columns.to(affinity.device if affinity.is_cuda else "cpu", torch.float64)
    starts = range(0, len(affinity), _ROWS_AT_ONCE)
    return torch.cat([affinity[i : i + _ROWS_AT_ONCE].to(columns) @ columns for i in starts])


def box_masks(cams: PatchMaps, threshold: float, *, clamp: bool) -> PatchMaps:
    """Mark, per map, the boxes around all components above `threshold` times its maximum.

    With `clamp` as the authors' release does it: 8-bit maps, an integer threshold lowered until something passes, and
    the last row and column left out.
    """
    boxes = torch.zeros_like(cams)
    for i, cam in enumerate(cams.numpy()):
        above = _above_in_8_bits(cam, threshold) if clamp else cam > threshold * cam.max()
        boxes[i] = components_box_mask(above.astype(np.uint8), clamp=clamp)
    return boxes


def _above_in_8_bits(cam: Float[np.ndarray, "gh gw"], threshold: float) -> np.ndarray:
    levels = (cam * 255).astype(np.uint8)
    while True:
        above = levels > int(threshold * int(levels.max()))
        if above.any() or threshold <= 0:
            return above
        threshold -= _LOWERING
