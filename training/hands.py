"""Draw sprites as many other hands might: lit like solids, hatched, on paper, in few tones, as line drawings.

Cheap filters of premultiplied RGBA pictures (n, 4, s, s) in [0, 1], each for a share of them. The outline stays where
it is, so masks stay exact. Tensors in, tensors out, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_LUMA = (0.299, 0.587, 0.114)


def draw_by_other_hands(layers: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Apply each filter to its share of the pictures, times `strength`."""
    n, device = len(layers), layers.device
    rgb, alpha = layers[:, :3], layers[:, 3:]
    rgb = (rgb / alpha.clamp(min=1e-3)).clamp(0, 1)
    for share, change in _FILTERS:
        rows = (torch.rand(n, generator=generator, device=device) < share * strength).nonzero()[:, 0]
        if len(rows):
            rgb[rows] = change(rgb[rows], alpha[rows], generator).clamp(0, 1)
    return torch.cat([rgb * alpha, alpha], 1)


def _light(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Light the picture as if it bulged: its blurred outline and its tones are its height."""
    height = functional.avg_pool2d(alpha, 9, 1, 4, count_include_pad=False)
    height = functional.avg_pool2d(height, 9, 1, 4, count_include_pad=False) + 0.15 * _luma(rgb)
    padded = functional.pad(height, (1, 1, 1, 1), mode="replicate")
    slope_x = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    slope_y = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    angle = _uniform(rgb, -math.pi, math.pi, generator)
    facing = (slope_x * angle.cos() + slope_y * angle.sin()) * _uniform(rgb, 1.5, 5, generator)
    gleam = (facing - 0.25).clamp(min=0) * _uniform(rgb, 0, 1.5, generator)
    return rgb * (1 + facing.clamp(-0.6, 0.5)) + gleam


def _hatch(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Let stripes carry the dark tones."""
    side = rgb.shape[-1]
    axis = torch.linspace(-1, 1, side, device=rgb.device)
    angle, rate = _uniform(rgb, 0, math.pi, generator), _uniform(rgb, 12, 60, generator)
    wave = ((axis * angle.cos() + axis.view(-1, 1) * angle.sin()) * rate).sin()
    return rgb * (1 - _uniform(rgb, 0.2, 0.7, generator) * (1 - _luma(rgb)) * (wave > 0))


def _paper(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Give it a grain of a random coarseness."""
    cells = int(2 ** torch.randint(2, 7, (1,), generator=generator, device=rgb.device).item())
    noise = torch.randn(len(rgb), 1, cells, cells, generator=generator, device=rgb.device)
    noise = functional.interpolate(noise, size=rgb.shape[-2:], mode="bilinear", align_corners=False)
    return rgb * (1 + _uniform(rgb, 0.05, 0.3, generator) * noise)


def _few_tones(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Round every channel to a few levels."""
    levels = torch.randint(2, 6, (len(rgb), 1, 1, 1), generator=generator, device=rgb.device)
    return (rgb * levels).round() / levels


def _lines(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Keep the edges as ink, on a plain body."""
    picture = rgb * alpha + (1 - alpha)
    edges = functional.max_pool2d(picture, 3, 1, 1) + functional.max_pool2d(-picture, 3, 1, 1)
    ink = (edges.amax(1, keepdim=True) * _uniform(rgb, 1.5, 4, generator)).clamp(0, 1)
    body = 1 - 0.4 * torch.rand(len(rgb), 3, 1, 1, generator=generator, device=rgb.device)
    return body * (1 - ink) + _uniform(rgb, 0, 0.3, generator) * ink


def _silhouette(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Leave little but the outline: one color, and a trace of the tones."""
    color = torch.rand(len(rgb), 3, 1, 1, generator=generator, device=rgb.device)
    return color + _uniform(rgb, 0.1, 0.4, generator) * (_luma(rgb) - 0.5)


def _mix_channels(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Mix the color channels at random, about their mean."""
    mix = torch.eye(3, device=rgb.device) + 0.35 * torch.randn(len(rgb), 3, 3, generator=generator, device=rgb.device)
    mix = mix / mix.sum(2, keepdim=True).clamp(min=0.4)
    return torch.einsum("nij,njhw->nihw", mix, rgb)


def _soften(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Blur the inside, or sharpen it."""
    premultiplied = functional.avg_pool2d(rgb * alpha, 5, 1, 2)
    blurred = premultiplied / functional.avg_pool2d(alpha, 5, 1, 2).clamp(min=1e-3)
    return rgb + _uniform(rgb, -1, 0.9, generator) * (blurred - rgb)


def _flatten(rgb: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Lower the contrast, towards a random gray, or invert a little of the tones."""
    gray = _uniform(rgb, 0.1, 0.9, generator)
    return gray + (rgb - gray) * _uniform(rgb, 0.35, 1.2, generator)


def _luma(rgb: Tensor) -> Tensor:
    return (rgb * torch.tensor(_LUMA, device=rgb.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(len(like), 1, 1, 1, generator=generator, device=like.device)


_Filter = Callable[[Tensor, Tensor, torch.Generator], Tensor]
_FILTERS: tuple[tuple[float, _Filter], ...] = (  # how often, in the order in which they are laid on each other
    (0.08, _few_tones),
    (0.12, _mix_channels),
    (0.05, _silhouette),
    (0.07, _lines),
    (0.2, _soften),
    (0.15, _flatten),
    (0.3, _light),
    (0.1, _hatch),
    (0.15, _paper),
)
