"""The course of training: which scenes, sizes and learning rate come after how many images.

Everything depends on the number of images seen alone, so an interrupted run goes on as if nothing had happened.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from training.restyle import ColorJitter
from training.scenes import SceneRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of training: it begins after `start` images; sizes (h, w) are drawn evenly."""

    start: int
    sizes_hw: tuple[tuple[int, int], ...]
    rules: SceneRules


# Drawings are redrawn from the beginning, a little at first: what helps on unseen drawings is that no two were alike.
_GENTLE = SceneRules(
    max_objects=2,
    single_share=0.7,
    several_size=(0.4, 0.6),
    color_jitter=ColorJitter(gain=0.2, offset=0.06, saturation=0.4, hue=0.12),
    hue_share=0.12,
    warp=0.06,
    redraw_share=0.2,
    hands=0.3,
)
_REDRAWN = replace(
    _GENTLE,
    max_objects=3,
    single_share=0.4,
    several_size=(0.28, 0.6),
    color_jitter=ColorJitter(gain=0.25, offset=0.08, saturation=0.5, hue=0.15),
    hue_share=0.2,
    warp=0.13,
    redraw_share=0.35,
    hands=0.8,
)
_MANY = replace(_REDRAWN, max_objects=4, single_share=0.25, several_size=(0.23, 0.55), warp=0.15, hands=0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides the outcome of training besides the code."""

    seed: int = 1
    batch: int = 128
    total_images: int = 1_500_000
    cooldown_images: int = 600_000
    milestone_images: int = 100_000  # the average is kept every so many
    warmup_images: int = 12_000
    peak_rate: float = 1.0e-3
    floor_rate: float = 2e-5
    weight_decay: float = 0.1
    average_decay: float = 0.999
    words_every: int = 3  # texts are encoded anew every so many steps
    patch_weight: float = 1.0  # of naming patches and pooled regions
    cam_weight: float = 0.0  # of the loss on the gradient CAM
    core_weight: float = 6.0  # how much more often a concept of the benchmark is drawn
    stages: tuple[Stage, ...] = field(
        default=(
            Stage(start=0, sizes_hw=((72, 72),) * 3 + ((96, 96),), rules=_GENTLE),
            Stage(start=150_000, sizes_hw=((72, 72),) * 4 + ((96, 96),) * 3 + ((120, 120),), rules=_REDRAWN),
            Stage(
                start=500_000,
                sizes_hw=((72, 72),) * 3 + ((96, 96),) * 4 + ((96, 120), (120, 96), (144, 144)),
                rules=_MANY,
            ),
            Stage(
                start=1_320_000,
                sizes_hw=((96, 96),) * 5 + ((72, 96), (96, 72), (120, 144), (144, 120), (192, 192)),
                rules=_MANY,
            ),
        )
    )

    def stage(self, seen: int) -> Stage:
        """Find the stage after `seen` images."""
        return [stage for stage in self.stages if stage.start <= seen][-1]

    def rate(self, seen: int) -> float:
        """Learning rate: a short rise, a long level stretch, a straight fall, over half of a run that is cut short."""
        rise = min(1.0, (seen + self.batch) / self.warmup_images)
        cooldown = self.cooldown_images if self.total_images >= 2 * self.cooldown_images else self.total_images // 2
        left = max(0.0, min(1.0, (self.total_images - seen) / cooldown))
        return self.floor_rate + (self.peak_rate - self.floor_rate) * rise * left

    def loss_weight(self, name: str) -> float:
        """Weigh the two kinds of local supervision against the rest."""
        return {"cam": self.cam_weight, "patch": self.patch_weight, "region": self.patch_weight}.get(name, 1.0)

    def step_rng(self, purpose: str, seen: int, worker: int) -> random.Random:
        """Make the source of chance for one purpose of one worker's step after `seen` images."""
        return random.Random(f"{self.seed}/{purpose}/{seen}/{worker}")
