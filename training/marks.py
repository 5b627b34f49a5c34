"""Draw visual prompts on batches: what lies outside a mask is blurred, made gray or blacked out.

Also roughens exact masks, so that training sees masks like those that a proposer makes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Surroundings: name of the mark and how often it is drawn in training.
MARKS = {"blur": 0.1, "gray": 0.1, "black": 0.6, "blur+gray": 0.2}
BLUR_SIGMA_PX = 2.6  # of the paper's 15 x 15 Gaussian
BLUR_IMAGE_PX = 208  # a usual short side of the scenes on which it is drawn


def mark_images(images: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
    """Mark every image (b, 3, h, w) outside its mask (b, h, w), each in a random way of `MARKS`."""
    weights = torch.tensor(list(MARKS.values()), device=images.device)
    kind = torch.multinomial(weights, len(images), replacement=True, generator=generator)
    outside = torch.zeros_like(images)
    for number, name in enumerate(MARKS):
        rows = (kind == number).nonzero()[:, 0]
        if len(rows) and name != "black":
            outside[rows] = _surroundings(images[rows], name)
    return torch.where(masks[:, None], images, outside)


def _surroundings(images: Tensor, name: str) -> Tensor:
    if "blur" in name:
        images = blur(images, BLUR_SIGMA_PX * min(images.shape[-2:]) / BLUR_IMAGE_PX)
    if "gray" in name:
        luma = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
        images = (images * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    return images


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """Blur with a Gaussian, edges reflected."""
    radius = max(1, round(3 * sigma_px))
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.softmax(-offsets.square() / (2 * sigma_px**2), 0)
    channels = images.shape[1]
    padded = functional.pad(images, (radius, radius, radius, radius), mode="reflect")
    rows = functional.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return functional.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)


def roughen(masks: Tensor, patch_px: int, generator: torch.Generator) -> Tensor:
    """Make masks (b, h, w) look as if they came from a map of patches: coarse, ragged, too wide or too narrow."""
    b, h, w = masks.shape
    coarse = functional.avg_pool2d(masks[:, None].float(), patch_px)
    amount = torch.rand(b, 1, 1, 1, generator=generator, device=masks.device)
    noise = torch.randn(coarse.shape, generator=generator, device=masks.device)
    soft = functional.interpolate(coarse + 0.25 * amount * noise, size=(h, w), mode="bilinear", align_corners=False)
    level = 0.2 + 0.5 * torch.rand(b, 1, 1, generator=generator, device=masks.device)
    return soft[:, 0] > level


def random_blobs(count: int, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw masks (count, h, w) that know nothing of the objects: what a proposer makes for an absent text."""
    coarse = torch.rand(count, 1, 5, 5, generator=generator, device=generator.device)
    soft = functional.interpolate(coarse, size=size_hw, mode="bilinear", align_corners=False)[:, 0]
    level = 0.5 + 0.3 * torch.rand(count, 1, 1, generator=generator, device=generator.device)
    return soft > level


def choose_masks(owners: Tensor, slots: int, patch_px: int, generator: torch.Generator) -> Tensor:
    """Choose a mask for every scene, (b, h, w): mostly one object, roughened; sometimes a part of it or a blob."""
    b, h, w = owners.shape
    device = owners.device
    area = torch.stack([(owners == slot + 1).flatten(1).float().mean(1) for slot in range(slots)], 1)
    drawn = torch.rand(area.shape, generator=generator, device=device) * (area > 0.006)
    masks = owners == drawn.argmax(1).view(b, 1, 1) + 1
    rough = roughen(masks, patch_px, generator)
    blobs = random_blobs(b, (h, w), generator)
    fate = torch.rand(b, 1, 1, generator=generator, device=device)
    chosen = torch.where(fate < 0.2, masks, rough)
    chosen = torch.where(fate > 0.7, rough & blobs, chosen)
    return torch.where(fate > 0.8, blobs, chosen)


def choose_patches(objects: Tensor, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Choose `count` masks of patches for every scene, (b, count, patches) bool: objects, exact to rough, parts, blobs.

    `objects` (b, patches, slots) are the objects' shares of each patch, in a grid of so many `rows`.
    """
    b, p, slots = objects.shape
    grid, device = (rows, p // rows), objects.device
    lot = torch.rand(3, b, count, 1, generator=generator, device=device)
    drawn = torch.rand(b, count, slots, generator=generator, device=device) * (objects.sum(1) > 0.3)[:, None]
    share = objects.transpose(1, 2).gather(1, drawn.argmax(-1, keepdim=True).expand(-1, -1, p))  # b count p
    wide = functional.avg_pool2d(share.view(b, count, *grid), 3, 1, 1).flatten(2)
    noise = torch.randn(share.shape, generator=generator, device=device)
    rough = torch.maximum(share, 1.6 * lot[1] * wide) + 0.2 * lot[1] * noise > 0.02 + 0.5 * lot[2]
    coarse = torch.rand(b, count, 4, 4, generator=generator, device=device)
    soft = functional.interpolate(coarse, size=grid, mode="bilinear", align_corners=False).flatten(2)
    blobs = soft > 0.45 + 0.3 * lot[2]
    masks = torch.where(lot[0] < 0.25, share > 0, rough)
    masks = torch.where(lot[0] > 0.65, rough & blobs, masks)
    masks = torch.where(lot[0] > 0.78, blobs & (objects.sum(2)[:, None] < 0.4), masks)
    return torch.where(lot[0] > 0.9, blobs, masks)
