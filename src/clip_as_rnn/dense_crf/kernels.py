"""The pairwise terms of images: Gaussian kernels over the position and the color of pixels.

A kernel lays the pixels out as points, in standard deviations, so that exp(-|f_i - f_j|^2 / 2) is its value for pixels
i and j.
"""

from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias

import torch
from torch import Tensor

from clip_as_rnn.errors import InputError


def check_weight(weight: float) -> None:
    """Raise InputError if a kernel's weight is not finite."""
    if not isfinite(weight):
        raise InputError(f"Expected a finite kernel weight, got {weight}.")


def _check_kernel(weight: float, **deviations: float) -> None:
    for name, value in deviations.items():
        if not (isfinite(value) and value > 0):
            raise InputError(f"Expected a standard deviation `{name}` above 0, got {value}.")
    check_weight(weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Smoothness: pixels near each other agree.

    `xy` is a standard deviation in pixels; `weight` is w_k, the cost of a disagreement.
    """

    xy: float
    weight: float

    def __post_init__(self) -> None:
        _check_kernel(self.weight, xy=self.xy)

    def features(self, image: Tensor) -> Tensor:
        """Lay out the pixels (3, h, w) as points (2, h w), in standard deviations."""
        return _positions(image, self.xy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bilateral:
    """Appearance: pixels of like color agree, within a distance.

    `xy` is a standard deviation in pixels, `rgb` one in gray levels (0 to 255); `weight` is w_k.
    """

    xy: float
    rgb: float
    weight: float

    def __post_init__(self) -> None:
        _check_kernel(self.weight, xy=self.xy, rgb=self.rgb)

    def features(self, image: Tensor) -> Tensor:
        """Lay out the pixels (3, h, w) as points (5, h w), in standard deviations."""
        return torch.cat([_positions(image, self.xy), _quotient(image.flatten(1).float(), self.rgb)])


Kernel: TypeAlias = Gaussian | Bilateral
PAPER_KERNELS: tuple[Kernel, ...] = (Gaussian(xy=1, weight=3), Bilateral(xy=67, rgb=3, weight=4))


def _positions(image: Tensor, xy: float) -> Tensor:
    """Columns and rows of the pixels (2, h w) in units of `xy`."""
    height, width = image.shape[-2:]
    across = _quotient(torch.arange(width, device=image.device).float(), xy)
    down = _quotient(torch.arange(height, device=image.device).float(), xy)
    return torch.stack([across.expand(height, width), down[:, None].expand(height, width)]).flatten(1)


def _quotient(values: Tensor, divisor: float) -> Tensor:
    """Divide exactly: by a plain number, CUDA would multiply by its rounded inverse."""
    return values / torch.full((), divisor, device=values.device)
