"""The pieces of CLIP's blocks against transformers' own attention, which is asked for its matrices."""

import pytest
import torch

from clip_as_rnn.encoders.attention import attend, attend_and_average, finish_block, join_heads, run_block, split_heads
from untrained_clip import untrained_clip


@pytest.fixture(scope="module")
def clip():
    return untrained_clip(seed=2, heads=3)


@pytest.fixture(scope="module")
def attention(clip):
    return clip.vision.encoder.layers[0].self_attn


@pytest.fixture(scope="module")
def block(clip):
    return clip.layers[0]


def tokens_of(images):
    return torch.randn(images, 13, 24, generator=torch.Generator().manual_seed(4))


def test_heads_that_are_split_and_joined_are_the_projected_values(block, attention):
    tokens = tokens_of(2)
    _, _, value = split_heads(block, tokens)
    assert value.shape == (2, 3, 13, 8)
    torch.testing.assert_close(join_heads(block, value), attention.out_proj(attention.v_proj(tokens)))


def test_attending_in_plain_operations_is_transformers_own(block, attention):
    tokens = tokens_of(2)
    ours = attend(block, *split_heads(block, tokens))
    torch.testing.assert_close(ours, attention(tokens)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("first_patch", [0, 1, 3])
def test_the_mean_over_heads_is_that_of_the_patches_alone(block, attention, first_patch):
    tokens = tokens_of(2)
    attended, means = attend_and_average(block, tokens, first_patch)
    query, key, _ = split_heads(block, tokens)
    for image, mean in enumerate(means):
        of_heads = [torch.softmax(query[image, i] @ key[image, i].T / 8**0.5, dim=1) for i in range(3)]
        slow = torch.stack(of_heads).mean(0)[first_patch:, first_patch:]
        torch.testing.assert_close(mean, slow, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(attended, attention(tokens)[0], atol=1e-5, rtol=1e-4)


def test_a_block_is_the_same_whether_its_attention_is_kept_or_not(block):
    tokens = tokens_of(1)
    attended, _ = attend_and_average(block, block.norm1(tokens), 1)
    torch.testing.assert_close(finish_block(block, tokens, attended), run_block(block, tokens), atol=1e-5, rtol=1e-4)
