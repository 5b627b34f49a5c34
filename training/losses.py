"""What the CLIP is taught: naming patches, pooled regions, marked images and whole scenes.

All targets are shares of area, which the scenes know exactly. Pure functions of features; nothing is drawn here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

BACKGROUND_ASKED = 23
NOTHING_SHARE = 0.12  # a mask with less of its area on objects shows background
STRAY_SHARE = 0.06  # of a mask; an object with less of it is there by its edge only
EDGE_STRIDE_PX = 4
LEAST_PATCHES = 0.7  # an object that shows less than so many patches is not spoken of


def owner_shares(owners: Tensor, slots: int, patch_px: int) -> Tensor:
    """Measure how much of each patch each owner has: (b, patches, 1 + slots), background first."""
    one_hot = functional.one_hot(owners, slots + 1).permute(0, 3, 1, 2).float()
    return functional.avg_pool2d(one_hot, patch_px).flatten(2).transpose(1, 2)


def concept_shares(shares: Tensor, concepts: Tensor, concept_count: int) -> Tensor:
    """Turn shares per slot (b, p, 1 + slots) into shares per concept (b, p, concepts + 1), background last."""
    b, p, _ = shares.shape
    target = shares.new_zeros(b, p, concept_count + 1)
    target[..., -1] = shares[..., 0]
    index = concepts.clamp(min=0)[:, None].expand(b, p, -1)
    return target.scatter_add(2, index, shares[..., 1:] * (concepts >= 0)[:, None])


def named(logits: Tensor, concept_count: int) -> Tensor:
    """Log-probabilities of concepts and, last, of the background: all its texts together.

    The few background texts of a step stand for the `BACKGROUND_ASKED` that are asked in use.
    """
    texts = logits.shape[-1] - concept_count
    background = logits[..., concept_count:].logsumexp(-1, keepdim=True) + math.log(BACKGROUND_ASKED / texts)
    return torch.cat([logits[..., :concept_count], background], -1).log_softmax(-1)


def cross_entropy(log_p: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Average -sum target * log_p, optionally weighted per row."""
    loss = -(target * log_p).sum(-1)
    if weight is None:
        return loss.mean()
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def patch_weights(target: Tensor, background_weight: float) -> Tensor:
    """Weigh patches: background counts less, for there is much of it."""
    return background_weight + (1 - background_weight) * (1 - target[..., -1])


def whole_target(target: Tensor, marked: Tensor) -> Tensor:
    """Say what a whole image shows: objects by the root of their area, or background: (b, concepts + 1).

    `target` holds shares of the patches that count, zero elsewhere. A mark (`marked` (b,) bool) shows objects if they
    fill enough of it; a plain image, if there is enough of them to be seen.
    """
    area = target.sum(1)
    objects = area[:, :-1]
    patches = objects.sum(1, keepdim=True)
    filling = patches / area.sum(1, keepdim=True).clamp(min=1e-6) > NOTHING_SHARE
    shown = torch.where(marked[:, None], filling, patches > LEAST_PATCHES)
    weight = objects.sqrt() * shown
    background = (~shown).float()
    total = weight.sum(1, keepdim=True) + background
    return torch.cat([weight, background], 1) / total


def masks_target(concepts: Tensor, inside: Tensor) -> Tensor:
    """Say what masks of patches show: objects by their area, or background: (b, m, concepts + 1).

    `concepts` (b, p, concepts + 1) are shares of area, `inside` (b, m, p) bool. Stray bits of objects do not count.
    """
    area = inside.to(concepts.dtype) @ concepts
    shares = area / area.sum(-1, keepdim=True).clamp(min=1e-6)
    objects = torch.where(shares[..., :-1] > STRAY_SHARE, shares[..., :-1], 0.0)
    objects = objects * (objects.sum(-1, keepdim=True) > NOTHING_SHARE)
    total = objects.sum(-1, keepdim=True)
    return torch.cat([objects / total.clamp(min=1e-6), (total == 0).float()], -1)


def edge_loss(log_p: Tensor, owners: Tensor, concepts: Tensor, weights: tuple[float, float]) -> Tensor:
    """Name pixels by the patches' probabilities, grown bilinearly as the package grows proposals.

    `log_p` (b, p, concepts + 1), `owners` (b, h, w), `concepts` (b, slots); the weights are those of a pixel of the
    background and of one of an object. Only every `EDGE_STRIDE_PX`-th pixel each way is asked.
    """
    b, h, w = owners.shape
    columns = round((log_p.shape[1] * w / h) ** 0.5)
    chosen = torch.cat([torch.full_like(concepts[:, :1], log_p.shape[-1] - 1), concepts.clamp(min=0)], 1)
    maps = log_p.exp().gather(2, chosen[:, None].expand(-1, log_p.shape[1], -1)).transpose(1, 2)  # b 1+slots p
    start = EDGE_STRIDE_PX // 2
    truth = owners[:, start::EDGE_STRIDE_PX, start::EDGE_STRIDE_PX]
    grown = functional.interpolate(
        maps.view(b, maps.shape[1], -1, columns), size=truth.shape[1:], mode="bilinear", align_corners=False
    )
    right = grown.gather(1, truth[:, None])[:, 0]
    weight = torch.where(truth > 0, weights[1], weights[0])
    return (-right.clamp(min=1e-4).log() * weight).sum() / weight.sum()


def indifference(logits: Tensor, concept_count: int, nothing: Tensor) -> Tensor:
    """Where nothing is shown (b,), no concept may stand out: divergence of the concepts' softmax from uniform."""
    log_p = logits[:, :concept_count].log_softmax(-1)
    divergence = -log_p.mean(-1) - torch.tensor(float(concept_count)).log().to(log_p.device)
    return (divergence * nothing).sum() / nothing.sum().clamp(min=1)


def contrast(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Contrast matching rows in both directions; `same` (n, n) marks other rows that are right as well."""
    logits = scale * image @ text.T
    keep = torch.eye(len(image), device=image.device, dtype=torch.bool) | ~same
    logits = logits.masked_fill(~keep, -1e4)
    rows = torch.arange(len(image), device=image.device)
    return 0.5 * (functional.cross_entropy(logits, rows) + functional.cross_entropy(logits.T, rows))
