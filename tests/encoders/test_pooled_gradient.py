"""The closed form, in both orders, against automatic differentiation of transformers' own block."""

import pytest
import torch
from transformers.activations import ACT2FN

from clip_as_rnn.encoders import pooled_gradient, transformer
from clip_as_rnn.encoders.pooled_gradient import PooledGradient
from untrained_clip import untrained_clip


def clip_with(activation, **sizes):
    """Make a CLIP whose last block has gains and biases that matter, and this activation."""
    clip = untrained_clip(**sizes)
    layer = clip.vision.encoder.layers[-1]
    layer.mlp.activation_fn = ACT2FN[activation]
    for norm in (layer.layer_norm1, layer.layer_norm2, clip.vision.post_layernorm):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        torch.nn.init.normal_(norm.bias)
    return clip


def last_input(clip, grid_hw):
    pixels = torch.randn(1, 3, 8 * grid_hw[0], 8 * grid_hw[1], generator=torch.Generator().manual_seed(0))
    return clip.encode_patches(pixels, attention_layers=0)[0].last_input.clone()


@pytest.fixture(params=["by direction", "by unit"])
def order(request, monkeypatch):
    """Take either order, whatever the number of directions."""
    monkeypatch.setattr(pooled_gradient, "_FEW_DIRECTIONS", 1000 if request.param == "by direction" else -1)


def closed_form(clip, tokens, rows, directions=None):
    parts = clip.vision.encoder.layers[-1], clip.vision.post_layernorm, clip.model.visual_projection.weight
    directions = torch.eye(clip.embed_dim) if directions is None else directions
    return PooledGradient(*parts).differentiate(tokens, directions, rows)


def slow_jacobian(clip, tokens):
    """Average the gradient of each dimension of z with respect to A over the patches, by automatic differentiation."""
    layer = clip.vision.encoder.layers[-1]
    normed = layer.layer_norm1(tokens).detach().requires_grad_()
    hidden = tokens + layer.self_attn(normed)[0]
    hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    pooled = clip.model.visual_projection(clip.vision.post_layernorm(hidden[0, 1:])).mean(0)
    return torch.stack([torch.autograd.grad(one, normed, retain_graph=True)[0][0, 1:].mean(0) for one in pooled])


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("grid_hw", [(1, 1), (4, 5), (1, 9)])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.usefixtures("order")
def test_the_closed_form_is_what_automatic_differentiation_gives(activation, grid_hw, heads):
    clip = clip_with(activation, heads=heads)
    tokens = last_input(clip, grid_hw)
    expected = slow_jacobian(clip, tokens)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(closed_form(clip, tokens, rows=1000), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("count", [0, 1, 7])
def test_directions_are_combined_linearly(count):
    clip = clip_with("quick_gelu")
    tokens, directions = last_input(clip, (4, 5)), torch.randn(count, clip.embed_dim)
    expected = directions @ slow_jacobian(clip, tokens)
    torch.testing.assert_close(closed_form(clip, tokens, 1000, directions), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("order")
def test_blocks_of_patches_and_of_tokens_add_up(monkeypatch):
    clip = clip_with("gelu")
    tokens = last_input(clip, (4, 5))
    at_once = closed_form(clip, tokens, rows=1000)
    monkeypatch.setattr(pooled_gradient, "_TOKENS_AT_ONCE", 4)
    for rows in (1, 7, 20):
        torch.testing.assert_close(closed_form(clip, tokens, rows=rows), at_once, atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("order")
def test_half_precision_costs_no_more_than_the_rounding_of_the_weights_and_the_input():
    exact, rounded = clip_with("quick_gelu"), clip_with("quick_gelu")
    rounded.model.to(torch.bfloat16)
    tokens = last_input(exact, (4, 5))
    expected, found = closed_form(exact, tokens, 1000), closed_form(rounded, tokens.bfloat16(), 1000)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.03 * float(expected.abs().max()), rtol=0)


def test_few_and_many_directions_agree_and_neither_takes_a_backward_pass(monkeypatch):
    clip = clip_with("quick_gelu")
    view = clip.encode_patches(torch.randn(1, 3, 32, 40), attention_layers=0)[0]
    monkeypatch.setattr(transformer, "pull_back", lambda *_: pytest.fail("a backward pass was prepared"))
    directions = torch.randn(40, clip.embed_dim)
    few = torch.cat([clip.pooled_gradient(view, some) for some in directions.split(5)])
    torch.testing.assert_close(clip.pooled_gradient(view, directions), few, atol=1e-5, rtol=1e-4)
