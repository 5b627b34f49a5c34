"""Compose scenes from sprites on tensors, with exact masks.

Every scene says which pixel belongs to which object, so masks, coverage and captions are exact. Runs on any device.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from training.backgrounds import draw_backgrounds
from training.concepts import COLORS
from training.hands import draw_by_other_hands
from training.restyle import ColorJitter, recolor, redraw, warp
from training.sprites import STYLES, Sprites

MARGIN = 1.12  # room around a redrawn sprite, for what it is bent and outlined to
RESTYLED_PX = 64
LEVELS = 3  # sprite sheet at full, half and quarter size, so that small objects are not aliased


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneRules:
    """How scenes are composed. Sizes are fractions of the image's short side."""

    max_objects: int = 4
    single_share: float = 0.3
    single_size: tuple[float, float] = (0.4, 1.0)
    several_size: tuple[float, float] = (0.2, 0.55)
    tint_share: float = 0.15
    empty_share: float = 0.03
    max_angle: float = 0.35  # radians
    color_jitter: ColorJitter = field(default_factory=ColorJitter)
    hue_share: float = 0.1  # of the objects in natural colors, whose hue is turned far
    grain: float = 0.08
    warp: float = 0.0  # of the sprite's half side
    redraw_share: float = 0.0  # of the objects, each for another tone curve and another shading
    hands: float = 0.0  # how often the filters of `hands` are used, 1 their own shares; 0: drawn as ever


@dataclass(frozen=True, slots=True)
class Scenes:
    """A batch of scenes; slot k of `concepts` and `colors` is the object drawn k-th, -1 where there is none."""

    images: Tensor  # (b, 3, h, w) in [0, 1]
    owners: Tensor  # (b, h, w) int64: 0 background, k + 1 slot k
    concepts: Tensor  # (b, slots) int64
    colors: Tensor  # (b, slots) int64, an index into COLORS, -1 for natural colors

    def first(self, count: int) -> Scenes:
        """Take the first scenes."""
        return Scenes(self.images[:count], self.owners[:count], self.concepts[:count], self.colors[:count])

    def followed_by(self, other: Scenes) -> Scenes:
        """Join two batches of scenes of one size."""
        names = ("images", "owners", "concepts", "colors")
        return Scenes(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in names))

    def masks(self) -> Tensor:
        """Return the visible mask of every slot: (b, slots, h, w) bool."""
        slots = torch.arange(1, self.concepts.shape[1] + 1, device=self.owners.device)
        return self.owners[:, None] == slots.view(1, -1, 1, 1)


class SpriteSheet:
    """Sprites on a device, ready to be pasted."""

    def __init__(self, sprites: Sprites, concept_weights: Tensor, device: torch.device) -> None:
        rgba = torch.from_numpy(sprites.rgba).permute(0, 3, 1, 2).float()
        rgba[:, :3] *= rgba[:, 3:] / 255  # premultiplied, so that edges interpolate cleanly
        self.side = rgba.shape[-1]
        self.atlas = _build_atlas(rgba).to(device)
        self.concept = torch.from_numpy(sprites.concept).long().to(device)
        mono = torch.from_numpy(sprites.style == STYLES.index("mono")).to(device)
        self.mono = mono
        # Every concept has its weight, shared by its drawings; one-color icons count less.
        weight = torch.where(mono, 0.25, 1.0)
        per_concept = torch.zeros(len(concept_weights), device=device).index_add_(0, self.concept, weight)
        self.weights = weight * concept_weights.to(device)[self.concept] / per_concept[self.concept]


def _build_atlas(rgba: Tensor) -> Tensor:
    return _levels(rgba).round().byte()


def _levels(rgba: Tensor) -> Tensor:
    """Lay pictures (n, 4, s, s) beside their halves and quarters: (n, 4, s, 3/2 s)."""
    side = rgba.shape[-1]
    atlas = torch.zeros(len(rgba), 4, side, side * 3 // 2, device=rgba.device)
    atlas[..., :side] = rgba
    atlas[..., : side // 2, side:] = functional.avg_pool2d(rgba, 2)
    atlas[..., side // 2 : side * 3 // 4, side : side * 5 // 4] = functional.avg_pool2d(rgba, 4)
    return atlas


def compose(
    sheet: SpriteSheet, count: int, size_hw: tuple[int, int], rules: SceneRules, generator: torch.Generator
) -> Scenes:
    """Draw `count` random scenes."""
    device = generator.device
    canvas = draw_backgrounds(count, size_hw, rules.grain, generator)
    owners = torch.zeros(count, *size_hw, dtype=torch.long, device=device)
    numbers, sizes = _choose_sizes(count, rules, generator)
    concepts = torch.full((count, rules.max_objects), -1, device=device)
    colors = torch.full((count, rules.max_objects), -1, device=device)
    centers = torch.zeros(count, rules.max_objects, 2, device=device)
    for slot in range(rules.max_objects):
        rows = (numbers > slot).nonzero()[:, 0]
        if not len(rows):
            break
        chosen = torch.multinomial(sheet.weights, len(rows), replacement=True, generator=generator)
        centers[rows, slot] = _place(centers[rows, :slot], sizes[rows, slot], size_hw, generator)
        color = _choose_colors(sheet.mono[chosen], rules.tint_share, generator)
        reach = sizes[rows, slot]
        to_sprite = _poses(centers[rows, slot], reach, size_hw, rules.max_angle, generator)
        layer = _draw(sheet.atlas[chosen].float() / 255, to_sprite, reach * min(size_hw), color, rules, generator)
        canvas[rows] = layer[:, :3] + canvas[rows] * (1 - layer[:, 3:])
        owners[rows] = torch.where(layer[:, 3] > 0.5, slot + 1, owners[rows])
        concepts[rows, slot] = sheet.concept[chosen]
        colors[rows, slot] = color
    return Scenes(canvas.clamp(0, 1), owners, concepts, colors)


def _draw(
    drawings: Tensor,
    to_sprite: Tensor,
    sizes_px: Tensor,
    color: Tensor,
    rules: SceneRules,
    generator: torch.Generator,
) -> Tensor:
    """Lay drawings of an atlas into empty pictures, changed as the rules say: premultiplied (n, 4, h, w)."""
    if rules.hands:
        drawings, to_sprite = _restyle(drawings, color, rules, generator), to_sprite / MARGIN
        layer = paste(drawings, to_sprite, sizes_px * MARGIN)
        return layer * (layer[:, 3:] > 1 / 255)
    if rules.warp:
        to_sprite = warp(to_sprite, rules.warp, generator)
    layer = paste(drawings, to_sprite, sizes_px)
    layer = recolor(layer, color, rules.color_jitter, rules.hue_share, generator)
    return redraw(layer, color, rules.redraw_share, generator) if rules.redraw_share else layer


def _restyle(drawings: Tensor, color: Tensor, rules: SceneRules, generator: torch.Generator) -> Tensor:
    """Redraw in the sprite's own square, which costs the same whatever the scene's size; an atlas again."""
    n, device = len(drawings), drawings.device
    middle, whole = torch.zeros(n, 2, device=device), torch.full((n, 2), 0.5 / MARGIN, device=device)
    square = lay_out(middle, torch.zeros(n, device=device), whole, (RESTYLED_PX, RESTYLED_PX))
    drawn = paste(drawings, warp(square, rules.warp, generator), torch.full((n,), float(RESTYLED_PX), device=device))
    drawn = recolor(drawn, color, rules.color_jitter, rules.hue_share, generator)
    drawn = redraw(drawn, color, rules.redraw_share, generator)
    return _levels(draw_by_other_hands(drawn, rules.hands, generator))


def _choose_sizes(count: int, rules: SceneRules, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    device = generator.device
    share = torch.rand(count, generator=generator, device=device)
    several = torch.randint(2, max(rules.max_objects, 2) + 1, (count,), generator=generator, device=device)
    numbers = torch.where(share < rules.single_share + rules.empty_share, 1, several)
    numbers = torch.where(share < rules.empty_share, 0, numbers).clamp(max=rules.max_objects)
    low = torch.where(numbers == 1, rules.single_size[0], rules.several_size[0])[:, None]
    high = torch.where(numbers == 1, rules.single_size[1], rules.several_size[1])[:, None]
    return numbers, low + (high - low) * torch.rand(count, rules.max_objects, generator=generator, device=device)


def _place(earlier: Tensor, sizes: Tensor, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Choose centers, in short sides from the middle, mostly far from the earlier ones: (n, 2) as x, y."""
    n, tries = len(sizes), 5
    short = min(size_hw)
    half = torch.tensor([size_hw[1] / short, size_hw[0] / short], device=sizes.device) / 2
    room = (half - 0.42 * sizes[:, None]).clamp(min=0.02)  # n 2: a little may stick out
    spots = (2 * torch.rand(n, tries, 2, generator=generator, device=sizes.device) - 1) * room[:, None]
    if not earlier.shape[1]:
        return spots[:, 0]
    nearest = torch.cdist(spots, earlier).amin(-1)  # n tries
    crowded = torch.rand(n, 1, generator=generator, device=sizes.device) < 0.2
    best = torch.where(crowded, torch.zeros_like(nearest), nearest).argmax(1)
    return spots[torch.arange(n, device=sizes.device), best]


def _choose_colors(mono: Tensor, share: float, generator: torch.Generator) -> Tensor:
    color = torch.randint(len(COLORS), mono.shape, generator=generator, device=mono.device)
    tinted = mono | (torch.rand(mono.shape, generator=generator, device=mono.device) < share)
    return torch.where(tinted, color, -1)


def _poses(
    centers: Tensor, sizes: Tensor, size_hw: tuple[int, int], max_angle: float, generator: torch.Generator
) -> Tensor:
    """Turn, mirror and stretch at random; what is returned is that of `lay_out`."""
    n, device = len(centers), centers.device
    angle = (2 * torch.rand(n, generator=generator, device=device) - 1) * max_angle
    flip = torch.where(torch.rand(n, generator=generator, device=device) < 0.5, -1.0, 1.0)
    stretch = 1 + 0.12 * (2 * torch.rand(n, generator=generator, device=device) - 1)
    return lay_out(centers, angle, torch.stack([sizes / 2 * (flip * stretch), sizes / 2 / stretch], -1), size_hw)


def lay_out(centers: Tensor, angle: Tensor, reach: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Give for every pixel its place in each sprite's own [-1, 1]^2, (n, h, w, 2) as x, y.

    Centers (n, 2) count in short sides from the middle, angles (n,) in radians, and reach (n, 2) is half a sprite's
    width and height in short sides; a negative one mirrors it.
    """
    n, (h, w), short = len(centers), size_hw, min(size_hw)
    device = centers.device
    x = ((torch.arange(w, device=device) + 0.5 - w / 2) / short).view(1, 1, w) - centers[:, :1, None]
    y = ((torch.arange(h, device=device) + 0.5 - h / 2) / short).view(1, h, 1) - centers[:, 1:, None]
    cos, sin, across, down = (v.view(n, 1, 1) for v in (angle.cos(), angle.sin(), *reach.unbind(-1)))
    return torch.stack([(x * cos + y * sin) / across, (y * cos - x * sin) / down], -1)


def paste(drawings: Tensor, to_sprite: Tensor, sizes_px: Tensor) -> Tensor:
    """Put one drawing of an atlas, (n, 4, s, 3/2 s) in [0, 1], into each empty picture: premultiplied (n, 4, h, w)."""
    inside, side = (to_sprite.abs().amax(-1) < 1)[:, None], drawings.shape[-2]
    grid = _into_atlas(to_sprite.clamp(-1, 1), sizes_px / side, side)
    return functional.grid_sample(drawings, grid, mode="bilinear", align_corners=False) * inside


def _into_atlas(uv: Tensor, shrink: Tensor, side: int) -> Tensor:
    """Map sprite coordinates to the level of the atlas whose size is nearest above the object's."""
    level = (-shrink.log2()).floor().clamp(0, LEVELS - 1)
    edge = side / 2**level  # of the level, in atlas pixels
    left = torch.where(level == 0, 0.0, float(side))
    top = torch.where(level == 2, side / 2.0, 0.0)
    column = left[:, None, None] + 0.5 + (uv[..., 0] + 1) / 2 * (edge - 1)[:, None, None]
    row = top[:, None, None] + 0.5 + (uv[..., 1] + 1) / 2 * (edge - 1)[:, None, None]
    return torch.stack([column / (side * 1.5), row / side], -1) * 2 - 1
