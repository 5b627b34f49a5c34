"""Draw a sprite as another hand might have: other colors, shading, outline, proportions.

What the model should learn of a thing is what all drawings of it share. Tensors in, tensors out, on any device;
pictures are premultiplied RGBA in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.concepts import COLORS

LUMA = (0.299, 0.587, 0.114)


def warp(uv: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Bend the sprite's own coordinates (n, h, w, 2 as x, y in [-1, 1]): shear, perspective, one slow wave each way."""
    n, device = len(uv), uv.device
    chance = 2 * torch.rand(10, n, 1, 1, generator=generator, device=device) - 1
    u, v = uv[..., 0], uv[..., 1]
    amount = strength * torch.rand(n, 1, 1, generator=generator, device=device)
    wave_u = (math.pi * ((1 + 0.5 * chance[0]) * v + 0.5 * chance[1] * u + chance[2])).sin()
    wave_v = (math.pi * ((1 + 0.5 * chance[3]) * u + 0.5 * chance[4] * v + chance[5])).sin()
    depth = 1 + amount * (chance[8] * u + chance[9] * v)
    u, v = u * depth, v * depth
    return torch.stack([u + amount * (2 * chance[6] * v + wave_u), v + amount * (2 * chance[7] * u + wave_v)], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorJitter:
    """How far natural colors vary: largest change of gain, offset and saturation, and the hue's spread in radians."""

    gain: float = 0.15
    offset: float = 0.06
    saturation: float = 0.3
    hue: float = 0.12


def recolor(layer: Tensor, color: Tensor, jitter: ColorJitter, far_share: float, generator: torch.Generator) -> Tensor:
    """Tint the objects that have a color's number; change the others' colors, `far_share` of them beyond nature."""
    n, device = len(layer), layer.device
    rgb, alpha = layer[:, :3], layer[:, 3:]
    luma = (rgb * torch.tensor(LUMA, device=device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    palette = torch.tensor(list(COLORS.values()), device=device, dtype=torch.float32) / 255
    tint = palette[color.clamp(min=0)][:, :, None, None]
    tint = tint + 0.06 * torch.randn(tint.shape, generator=generator, device=device)
    tinted = tint * (0.45 * alpha + 0.9 * luma)
    chance = torch.rand(3, n, 1, 1, 1, generator=generator, device=device) * 2 - 1
    gain, offset, vivid = (
        1 + jitter.gain * chance[0],
        jitter.offset * chance[1],
        1 + jitter.saturation * chance[2],
    )
    natural = (luma + (rgb - luma) * vivid) * gain + offset * alpha
    natural = _turn_hue(natural, jitter.hue, far_share, generator)
    mixed = torch.where((color >= 0).view(n, 1, 1, 1), tinted, natural)
    return torch.cat([torch.minimum(mixed.clamp(min=0), alpha), alpha], 1)


def redraw(layer: Tensor, color: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Give `share` of the objects another tone curve, as many a shading, and half as many an outline.

    The curve differs by channel, which changes colors, except for objects that have a color's number.
    """
    n, _, h, w = layer.shape
    device = layer.device
    lot = torch.rand(3, n, 1, 1, 1, generator=generator, device=device)
    rgb, alpha = layer[:, :3], layer[:, 3:]
    gamma = (0.4 * torch.randn(n, 3, 1, 1, generator=generator, device=device)).exp()
    gamma = torch.where((color >= 0).view(n, 1, 1, 1), gamma[:, :1], gamma)
    curved = (rgb / alpha.clamp(min=1e-3)).clamp(1e-3, 1).pow(gamma) * alpha
    rgb = torch.where(lot[0] < share, curved, rgb)
    rgb = torch.where(lot[1] < share, rgb * _shading(n, (h, w), generator), rgb)
    wide = functional.max_pool2d(alpha, 3, stride=1, padding=1)
    ink = (torch.rand(n, 3, 1, 1, generator=generator, device=device) * 1.6 - 0.6).clamp(0, 1)
    outlined = lot[2] < share / 2
    alpha, ring = torch.where(outlined, wide, alpha), torch.where(outlined, wide - alpha, 0.0)
    return torch.cat([torch.minimum(rgb + ink * ring, alpha), alpha], 1)


def _shading(n: int, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Light that falls off along a random direction: (n, 1, h, w), about 0.6 to 1.2."""
    device = generator.device
    direction = torch.randn(2, n, 1, 1, generator=generator, device=device)
    phase = torch.rand(n, 1, 1, generator=generator, device=device)
    y = torch.linspace(-1, 1, size_hw[0], device=device).view(1, -1, 1)
    x = torch.linspace(-1, 1, size_hw[1], device=device).view(1, 1, -1)
    return (0.9 + 0.3 * (3 * (direction[0] * y + direction[1] * x) + 6.28 * phase).sin())[:, None]


def _turn_hue(rgb: Tensor, spread: float, far_share: float, generator: torch.Generator) -> Tensor:
    """Rotate colors about the gray axis: a little for all, a lot for `far_share` of them."""
    n, device = len(rgb), rgb.device
    far = torch.rand(n, generator=generator, device=device) < far_share
    angle = torch.randn(n, generator=generator, device=device) * torch.where(far, math.pi / 2, spread)
    cos, sin = angle.cos().view(n, 1, 1), angle.sin().view(n, 1, 1) / math.sqrt(3)
    third = torch.full((3, 3), 1 / 3, device=device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device)
    turn = cos * torch.eye(3, device=device) + sin * cross + (1 - cos) * third  # n 3 3
    return torch.einsum("nij,njhw->nihw", turn, rgb)
