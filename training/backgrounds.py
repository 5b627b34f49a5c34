"""Draw backgrounds that show no object: plain, graded, two zones, clouds, stripes, blobs, with grain.

Tensors in, tensors out, on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def draw_backgrounds(count: int, size_hw: tuple[int, int], grain_most: float, generator: torch.Generator) -> Tensor:
    """Draw `count` random backgrounds (count, 3, h, w) in [0, 1]; `grain_most` is the strongest grain's deviation."""
    h, w = size_hw
    device = generator.device
    y = torch.linspace(-1, 1, h, device=device).view(1, 1, h, 1).expand(count, 1, h, w)
    x = torch.linspace(-1, 1, w, device=device).view(1, 1, 1, w).expand(count, 1, h, w)
    field = torch.zeros(count, 1, h, w, device=device)
    kinds = (_plain, _gradient, _horizon, _noise, _noise, _stripes, _blobs)
    choice = torch.randint(len(kinds), (count,), generator=generator, device=device)
    for number, kind in enumerate(kinds):
        rows = (choice == number).nonzero()[:, 0]
        if len(rows):
            field[rows] = kind(x[rows], y[rows], generator)
    first, second = _colors(count, generator), _colors(count, generator)
    # Half of the backgrounds are low in contrast, as most real ones are.
    strength = torch.rand(count, 1, 1, 1, generator=generator, device=device).square()
    second = first + (second - first) * (0.25 + 0.75 * strength)
    picture = first + (second - first) * field
    shade = _noise(x, y, generator) - 0.5
    grain = torch.randn(count, 1, h, w, generator=generator, device=device)
    amount = torch.rand(count, 2, 1, 1, generator=generator, device=device).pow(3)
    return (picture + 0.4 * amount[:, :1] * shade + grain_most * amount[:, 1:] * grain).clamp(0, 1)


def _colors(count: int, generator: torch.Generator) -> Tensor:
    color = torch.rand(count, 3, 1, 1, generator=generator, device=generator.device)
    gray = color.mean(1, keepdim=True)
    vivid = torch.rand(count, 1, 1, 1, generator=generator, device=generator.device)
    light = torch.rand(count, 1, 1, 1, generator=generator, device=generator.device)
    mixed = gray + (color - gray) * (0.2 + 0.8 * vivid)
    return mixed + (1 - mixed) * 0.6 * light


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(len(like), 1, 1, 1, generator=generator, device=like.device)


def _plain(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return torch.zeros_like(x)


def _gradient(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    angle = _uniform(x, 0, 2 * math.pi, generator)
    return 0.5 + 0.5 * (x * angle.cos() + y * angle.sin())


def _horizon(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    height = (
        _uniform(x, -0.5, 0.6, generator)
        + _uniform(x, 0, 0.1, generator) * (x * _uniform(x, 1, 6, generator) + _uniform(x, 0, 6, generator)).sin()
    )
    return torch.sigmoid((y - height) * _uniform(x, 4, 80, generator))


def _noise(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    cells = int(2 ** torch.randint(1, 6, (1,), generator=generator, device=x.device).item())
    coarse = torch.rand(len(x), 1, cells, cells, generator=generator, device=x.device)
    return functional.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _stripes(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    angle = _uniform(x, 0, math.pi, generator)
    rate = _uniform(x, 4, 40, generator)
    wave = ((x * angle.cos() + y * angle.sin()) * rate).sin()
    cross = ((y * angle.cos() - x * angle.sin()) * rate).sin()
    checked = _uniform(x, 0, 1, generator) > 0.5
    return torch.where(checked, 0.5 + 0.5 * (4 * wave * cross).clamp(-1, 1), 0.5 + 0.5 * (4 * wave).clamp(-1, 1))


def _blobs(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    field = torch.zeros_like(x)
    for _ in range(5):
        dx = (x - _uniform(x, -1, 1, generator)) / _uniform(x, 0.05, 0.5, generator)
        dy = (y - _uniform(x, -1, 1, generator)) / _uniform(x, 0.05, 0.5, generator)
        boxy = _uniform(x, 0, 1, generator) > 0.5
        distance = torch.where(boxy, torch.maximum(dx.abs(), dy.abs()), (dx.square() + dy.square()).sqrt())
        field = torch.where(distance < 1, _uniform(x, 0, 1, generator), field)
    return field
