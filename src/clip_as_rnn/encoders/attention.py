"""The blocks of an image tower, taken apart: attention that can be averaged, differentiated or never kept.

Heads and projections are those of the loaded weights; the order of operations is that of transformers' own forward.
Which family a block belongs to is known to the module that read it, and to nobody else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

TokenMap: TypeAlias = Callable[[Tensor], Tensor]  # (..., width) to (..., another width), each token by itself


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One transformer block that normalizes before it computes: tokens + attend(norm1), then + mlp(norm2).

    Attributes:
        norm1, norm2: the layer norms before attention and before the multi-layer perceptron.
        query, key, value: projections of normalized tokens, biases included.
        output: from all heads side by side to what is added to the tokens.
        mlp: from normalized tokens to what is added to the tokens.
        heads: how many.
        mlp_width: of its hidden layer; tells how much memory a token takes.
    """

    norm1: TokenMap
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: TokenMap
    norm2: TokenMap
    mlp: TokenMap
    heads: int
    mlp_width: int


def read_blocks(layers: Iterable[Any]) -> tuple[Block, ...]:
    """Read layers that are built as CLIP's: those of CLIP, MetaCLIP 2 and SigLIP."""
    return tuple(
        Block(
            norm1=layer.layer_norm1,
            query=layer.self_attn.q_proj,
            key=layer.self_attn.k_proj,
            value=layer.self_attn.v_proj,
            output=layer.self_attn.out_proj,
            norm2=layer.layer_norm2,
            mlp=layer.mlp,
            heads=layer.self_attn.num_heads,
            mlp_width=layer.mlp.fc1.out_features,
        )
        for layer in layers
    )


def split_heads(block: Block, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project normalized tokens to queries, keys and values, (b, heads, tokens, head width) each."""
    shape = (*normed.shape[:2], block.heads, -1)
    query, key, value = (
        projection(normed).view(shape).transpose(1, 2) for projection in (block.query, block.key, block.value)
    )
    return query, key, value


def join_heads(block: Block, values: Tensor) -> Tensor:
    """Put the heads side by side and project them back."""
    return block.output(values.transpose(1, 2).flatten(2))


def scale_queries(query: Tensor) -> Tensor:
    """Divide queries by the square root of the head's width."""
    scaled: Tensor = query * query.shape[-1] ** -0.5
    return scaled


def attend(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "b tokens width"]:
    """Attend in plain operations, of which every derivative is known."""
    probabilities = torch.softmax(scale_queries(query) @ key.transpose(2, 3), dim=-1)
    return join_heads(block, probabilities @ value)


def attend_and_average(block: Block, normed: Tensor, first_patch: int) -> tuple[Tensor, Float[Tensor, "b p p"]]:
    """Attend a head at a time, keeping only the mean over heads of the patches' attention, float32."""
    query, key, value = split_heads(block, normed)
    patches = normed.shape[1] - first_patch
    mean = torch.zeros(len(normed), patches, patches, dtype=torch.float32, device=normed.device)
    values = torch.empty_like(value)
    for head in range(block.heads):
        probabilities = torch.softmax(scale_queries(query[:, head]) @ key[:, head].transpose(1, 2), dim=-1)
        values[:, head] = probabilities @ value[:, head]
        mean += probabilities[:, first_patch:, first_patch:]
    return join_heads(block, values), mean.div_(block.heads)


def run_block(block: Block, tokens: Tensor) -> Tensor:
    """Run one transformer block whose attention matrix nobody needs."""
    return run_attended_block(block, tokens, split_heads(block, block.norm1(tokens)))


def run_attended_block(block: Block, tokens: Tensor, heads: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Run one transformer block on tokens whose queries, keys and values are known."""
    return finish_block(block, tokens, join_heads(block, functional.scaled_dot_product_attention(*heads)))


def attend_inside(
    heads: tuple[Tensor, Tensor, Tensor],
    keys: Float[Tensor, "1 heads p head_width"],
    values: Float[Tensor, "1 heads p head_width"],
    inside: Bool[Tensor, "n p"],
) -> Float[Tensor, "1 heads n head_width"]:
    """Let every token attend to itself and to the patches inside its own mask, and to nothing else.

    `heads` are the tokens' queries, keys and values. A mask without a patch leaves the token to itself.
    """
    query, key, value = heads
    query = scale_queries(query)
    to_patches = (query @ keys.transpose(2, 3)).masked_fill(~inside, -torch.inf)  # 1 heads n p
    to_itself = (query * key).sum(-1, keepdim=True)
    probabilities = torch.softmax(torch.cat([to_itself, to_patches], dim=-1), dim=-1)
    return probabilities[..., :1] * value + probabilities[..., 1:] @ values


def finish_block(block: Block, tokens: Tensor, attended: Tensor) -> Tensor:
    """Add the attention's output and the multi-layer perceptron to the residual stream."""
    tokens = tokens + attended
    return tokens + block.mlp(block.norm2(tokens))
