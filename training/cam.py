"""The gradient CAM of the class names, as something to train: the second kind of local supervision.

The map of a text is A w, where A (patches, width) is the output of the last block's first layer norm, and w the mean
over the patches of the gradient of the text's logit with respect to A: the derivative along one shift that all patches
share. It is differentiated once more for training. `clip_as_rnn.proposals.grad_cam` computes the same map, frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.losses import cross_entropy
from training.towers import VisionTower


def cam_maps(tower: VisionTower, last_input: Tensor, texts: Tensor, asked: Tensor) -> Tensor:
    """Compute the maps (b, k, patches) of k texts per image, relative to their mean over the texts that are `asked`.

    `last_input` (b, 1 + patches, width) enters the last block; `texts` (b, k, d) are unit vectors times the scale;
    `asked` (b, k) bool. The factor 1 / patches of the mean is left out.
    """
    block, patches = tower.blocks[-1], last_input.shape[1] - 1
    activations = block.norm1(last_input)[:, 1:]
    shift = torch.zeros_like(activations[:, :1]).requires_grad_()
    on_patches = torch.cat([torch.zeros_like(shift), shift.expand(-1, patches, -1)], 1)
    pooled = tower.project(tower.norm_post(block(last_input, shift=on_patches))[:, 1:].mean(1))
    logits = (texts * functional.normalize(pooled.float(), dim=-1)[:, None]).sum(-1)  # b k
    logits = logits - (logits * asked).sum(1, keepdim=True) / asked.sum(1, keepdim=True).clamp(min=1)
    slopes = [
        torch.autograd.grad(logits[:, i].sum(), shift, create_graph=True, retain_graph=True)[0]
        for i in range(texts.shape[1])
    ]
    return torch.cat(slopes, 1).float() @ activations.float().transpose(1, 2)


def cam_loss(maps: Tensor, owners: Tensor, present: Tensor) -> Tensor:
    """Let every patch be named by the maps (b, k, p) of the texts that are `present` (b, k); `owners` (b, p, 1 + k).

    Maps count in units of their own spread, as CaR stretches them to [0, 1] anyway; the background's is zero.
    """
    maps = maps * present[..., None]
    count = present.sum(1).view(-1, 1, 1).clamp(min=1) * maps.shape[2]
    # Within the root, for its slope at zero is infinite, and a scene may show nothing.
    spread = (maps.square().sum((1, 2), keepdim=True) / count + 1e-12).sqrt()
    logits = (3 * maps / spread).masked_fill(~present[..., None], -1e4).transpose(1, 2)
    return cross_entropy(functional.pad(logits, (1, 0)).log_softmax(-1), owners)


def merge_namesakes(owners: Tensor, concepts: Tensor) -> tuple[Tensor, Tensor]:
    """Let the first of several slots of one concept own what all of them own.

    Takes the shares (b, p, 1 + slots) and concepts (b, slots), -1 where there is nothing. Returns the merged shares and
    which slots are left, (b, slots) bool.
    """
    slots = torch.arange(concepts.shape[1], device=concepts.device)
    first = (concepts[:, :, None] == concepts[:, None]).int().argmax(2)  # b slots
    moved = torch.zeros_like(owners[..., 1:]).scatter_add(
        2, first[:, None].expand(-1, owners.shape[1], -1), owners[..., 1:]
    )
    return torch.cat([owners[..., :1], moved], -1), (first == slots) & (concepts >= 0)
