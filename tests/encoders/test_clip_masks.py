"""Mask tokens against a slow, obvious definition: one transformer over class token, patches and mask tokens."""

import pytest
import torch
from torch.nn import functional
from transformers.activations import ACT2FN

from clip_as_rnn.encoders import transformer
from clip_as_rnn.encoders.base import MaskTokenEncoder
from untrained_clip import untrained_clip

BLOCKS = 4


def pixels_of(height, width, seed=0):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def some_masks(count, grid_hw, seed=0):
    """Make masks of every kind: empty, full, one patch, the last patch, and random ones of all densities."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, *grid_hw, generator=generator) < torch.rand(count, 1, 1, generator=generator)
    for mask, kind in zip(masks, ("empty", "full", "one patch", "last patch"), strict=False):
        mask[:] = kind == "full"
        if kind == "one patch":
            mask[0, 0] = True
        if kind == "last patch":
            mask[-1, -1] = True
    return masks


def slow_masks(clip, pixels, masks, *, first_block=0, skipped_blocks=0, half_positions=False):
    """Run full attention over [class token, patches, mask tokens] under a boolean matrix of who may see whom."""
    tokens, _ = clip.embed(pixels, half_positions=half_positions)
    tokens = torch.cat([tokens, tokens[:, :1].expand(1, len(masks), -1)], dim=1)
    visible = 1 + masks[0].numel()
    layers = clip.vision.encoder.layers[: BLOCKS - skipped_blocks]
    for depth, layer in enumerate(layers):
        sees = torch.zeros(tokens.shape[1], tokens.shape[1], dtype=torch.bool)
        sees[:visible, :visible] = True
        for row, mask in enumerate(masks, start=visible):
            sees[row, row] = True
            sees[row, 1:visible] = mask.flatten() if depth >= first_block else True
        attention, normed = layer.self_attn, layer.layer_norm1(tokens)
        mixed = []
        for head in range(attention.num_heads):
            part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            query, key, value = (
                one(normed)[0, :, part] for one in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            logits = (query @ key.T / attention.head_dim**0.5).masked_fill(~sees, -torch.inf)
            mixed.append(logits.softmax(1) @ value)
        tokens = tokens + attention.out_proj(torch.cat(mixed, dim=1)[None])
        tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
    return functional.normalize(clip.model.visual_projection(clip.vision.post_layernorm(tokens[0, visible:])), dim=1)


def fast_masks(clip, pixels, masks, **settings):
    keys = clip.encode_keys(pixels, **{"first_block": 0, **settings})[0]
    (features,) = clip.encode_masks([keys], [masks])
    return features


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def clip(request):
    clip = untrained_clip(layers=BLOCKS)
    for layer in clip.vision.encoder.layers:
        layer.mlp.activation_fn = ACT2FN[request.param]
    return clip


@torch.no_grad()
@pytest.mark.parametrize("first_block", [0, 1, 3])
@pytest.mark.parametrize("size_hw", [(32, 32), (24, 48), (8, 56), (56, 8), (8, 8)])
def test_features_are_those_of_full_attention_under_a_boolean_mask(clip, size_hw, first_block):
    pixels, grid_hw = pixels_of(*size_hw), (size_hw[0] // 8, size_hw[1] // 8)
    masks = some_masks(9, grid_hw)
    expected = slow_masks(clip, pixels, masks, first_block=first_block)
    torch.testing.assert_close(fast_masks(clip, pixels, masks, first_block=first_block), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 6, 7, 8, 500])
def test_no_mask_is_lost_or_moved_at_the_edge_of_a_pass(clip, monkeypatch, count):
    monkeypatch.setattr(transformer, "_MASKS_PER_PASS", 7)
    pixels, masks = pixels_of(24, 40), some_masks(count, (3, 5))
    torch.testing.assert_close(fast_masks(clip, pixels, masks), slow_masks(clip, pixels, masks), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"skipped_blocks": 1}, {"skipped_blocks": 3}, {"half_positions": True}])
def test_blocks_are_skipped_and_positions_rounded_as_for_images(clip, settings):
    pixels, masks = pixels_of(24, 40), some_masks(6, (3, 5))
    expected = slow_masks(clip, pixels, masks, **settings)
    torch.testing.assert_close(fast_masks(clip, pixels, masks, **settings), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("first_block", range(BLOCKS))
def test_a_full_mask_has_the_feature_of_the_plain_image(clip, first_block):
    pixels, full = pixels_of(32, 48), torch.ones(1, 4, 6, dtype=torch.bool)
    plain = clip.encode_image(pixels)
    torch.testing.assert_close(fast_masks(clip, pixels, full, first_block=first_block), plain, atol=1e-5, rtol=0)


def test_a_mask_has_the_same_feature_in_any_company(clip, monkeypatch):
    pixels, masks = pixels_of(32, 32), some_masks(12, (4, 4))
    alone = torch.cat([fast_masks(clip, pixels, masks[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(fast_masks(clip, pixels, masks), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("at_once", [1, 4, 5, 512])
def test_several_images_share_passes_and_nothing_else(clip, monkeypatch, at_once):
    monkeypatch.setattr(transformer, "_MASKS_PER_PASS", at_once)
    images = [pixels_of(32, 32, seed=1), pixels_of(24, 40, seed=2), pixels_of(32, 32, seed=3)]
    masks = [some_masks(count, grid_hw) for count, grid_hw in ((5, (4, 4)), (0, (3, 5)), (3, (4, 4)))]
    together = clip.encode_masks([clip.encode_keys(one, first_block=1)[0] for one in images], masks)
    for features, pixels, own in zip(together, images, masks, strict=True):
        torch.testing.assert_close(features, fast_masks(clip, pixels, own, first_block=1), atol=1e-5, rtol=0)


def test_no_images_and_no_masks_have_no_features(clip):
    assert clip.encode_masks([], []) == []
    assert fast_masks(clip, pixels_of(32, 32), some_masks(0, (4, 4))).shape == (0, clip.embed_dim)


def test_our_clip_has_mask_tokens(clip):
    assert isinstance(clip, MaskTokenEncoder)
