"""Gradients through the last block of an image tower, averaged over patches, for many directions at once.

How tokens become z is the family's own matter, a `Pooling`. It must be a sum over patches, at least to first order, so
that the patches can be treated in blocks: memory grows with the patches and not with their square.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from clip_as_rnn.encoders.attention import Block, attend, finish_block, split_heads

_GRADIENT_BYTES = 512 * 2**20  # what the batched backward pass, or a block of patches in closed form, may take at once


@runtime_checkable
class Pooling(Protocol):
    """How the patches' tokens after the last block become z."""

    def pull(self, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Turn derivatives with respect to z into those with respect to the sum that `pool` returns the terms of."""

    def pool(self, tokens: Float[Tensor, "b width"], block: slice) -> Float[Tensor, " m"]:
        """Add up the terms of some patches: those of `block`, a range that counts patches from 0."""


def pull_back(
    block: Block,
    last_input: Float[Tensor, "1 tokens width"],
    first_patch: int,
    pooling: Pooling,
    directions: Float[Tensor, "n d"],
) -> Float[Tensor, "n width"]:
    """Average the gradient of <direction, z> with respect to A = norm1(last_input) over the patches.

        g = 1/P sum_p d<direction, z> / dA_p,   one row per direction

    That average is the derivative of z along one shift shared by all patches. Behind the linear projections it is one
    shift each of queries, keys and values, so three vectors are differentiated instead of P. Exact and linear in the
    directions; float32. Directions have the precision of the weights. Nothing given may be an inference tensor.
    """
    patches = last_input.shape[1] - first_patch
    rows, at_once = choose_sizes(block, patches)
    directions = pooling.pull(directions)
    heads = split_heads(block, block.norm1(last_input))
    total = torch.zeros(len(directions), 3, *heads[0].shape[1::2], dtype=torch.float32, device=last_input.device)
    for start in range(0, patches, rows):
        part = slice(start, min(start + rows, patches))
        with torch.enable_grad():
            shifts = torch.zeros(total.shape[1:], dtype=total.dtype, device=total.device, requires_grad=True)
            pooled = pooling.pool(_shift_and_finish(block, last_input, heads, shifts, (first_patch, part)), part)
        for i in range(0, len(directions), at_once):
            (gradients,) = torch.autograd.grad(
                pooled, shifts, directions[i : i + at_once], is_grads_batched=True, retain_graph=True
            )
            total[i : i + at_once] += gradients
    weights = torch.cat([one.weight.float() for one in (block.query, block.key, block.value)])
    return total.flatten(1) @ weights / patches


def _shift_and_finish(
    block: Block,
    last_input: Tensor,
    heads: tuple[Tensor, Tensor, Tensor],
    shifts: Float[Tensor, "3 heads head_width"],
    place: tuple[int, slice],
) -> Float[Tensor, "b width"]:
    """Run a block for some patches, with `shifts` added to the query, the key and the value of every patch.

    `place` is where patches begin among the tokens, and which of the patches are wanted.
    """
    first_patch, part = place
    on_patches = torch.ones(last_input.shape[1], 1, dtype=torch.float32, device=last_input.device)
    on_patches[:first_patch] = 0
    query, key, value = (
        tokens + (on_patches * shift[:, None]).to(tokens.dtype)  # heads tokens head_width
        for tokens, shift in zip(heads, shifts, strict=True)
    )
    wanted = slice(first_patch + part.start, first_patch + part.stop)
    return finish_block(block, last_input[:, wanted], attend(block, query[:, :, wanted], key, value))[0]


def choose_sizes(block: Block, patches: int) -> tuple[int, int]:
    """Choose how many patches and how many directions go through one backward pass.

    For each, three rows of attention per head and about eight rows of tokens are alive.
    """
    row_bytes = 4 * (3 * block.heads * patches + 8 * block.mlp_width)
    rows = max(1, min(patches, _GRADIENT_BYTES // row_bytes))
    return rows, max(1, _GRADIENT_BYTES // (row_bytes * rows))
