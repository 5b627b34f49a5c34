"""The blocks of CLIP's image tower, taken apart: attention that can be averaged, differentiated or never kept.

Heads and projections are those of the loaded weights; the order of operations is that of transformers' own forward.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer


def split_heads(attention: CLIPAttention, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project tokens to queries, keys and values, (b, heads, tokens, head width) each."""
    shape = (*tokens.shape[:2], attention.num_heads, attention.head_dim)
    query, key, value = (
        projection(tokens).view(shape).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return query, key, value


def join_heads(attention: CLIPAttention, values: Tensor) -> Tensor:
    """Put the heads side by side and project them back."""
    joined: Tensor = attention.out_proj(values.transpose(1, 2).flatten(2))
    return joined


def attend(attention: CLIPAttention, query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "b tokens width"]:
    """Attend in plain operations, of which every derivative is known."""
    probabilities = torch.softmax((query * attention.scale) @ key.transpose(2, 3), dim=-1)
    return join_heads(attention, probabilities @ value)


def attend_and_average(attention: CLIPAttention, tokens: Tensor) -> tuple[Tensor, Float[Tensor, "p p"]]:
    """Attend for one image, a head at a time, keeping only the mean over heads of the patches' attention, float32."""
    query, key, value = split_heads(attention, tokens)
    patches = tokens.shape[1] - 1
    mean = torch.zeros(patches, patches, dtype=torch.float32, device=tokens.device)
    values = torch.empty_like(value)
    for head in range(attention.num_heads):
        probabilities = torch.softmax((query[:, head] * attention.scale) @ key[:, head].transpose(1, 2), dim=-1)
        values[:, head] = probabilities @ value[:, head]
        mean += probabilities[0, 1:, 1:]
    return join_heads(attention, values), mean.div_(attention.num_heads)


def run_block(layer: CLIPEncoderLayer, tokens: Tensor) -> Tensor:
    """Run one transformer block whose attention matrix nobody needs."""
    return run_attended_block(layer, tokens, split_heads(layer.self_attn, layer.layer_norm1(tokens)))


def run_attended_block(layer: CLIPEncoderLayer, tokens: Tensor, heads: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Run one transformer block on tokens whose queries, keys and values are known."""
    return finish_block(layer, tokens, join_heads(layer.self_attn, functional.scaled_dot_product_attention(*heads)))


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
    query = query * query.shape[-1] ** -0.5
    to_patches = (query @ keys.transpose(2, 3)).masked_fill(~inside, -torch.inf)  # 1 heads n p
    to_itself = (query * key).sum(-1, keepdim=True)
    probabilities = torch.softmax(torch.cat([to_itself, to_patches], dim=-1), dim=-1)
    return probabilities[..., :1] * value + probabilities[..., 1:] @ values


def finish_block(layer: CLIPEncoderLayer, tokens: Tensor, attended: Tensor) -> Tensor:
    """Add the attention's output and the multi-layer perceptron to the residual stream."""
    tokens = tokens + attended
    finished: Tensor = tokens + layer.mlp(layer.layer_norm2(tokens))
    return finished
