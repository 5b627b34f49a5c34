"""Our reading of CLIP against transformers' own, layer by layer."""

import pytest
import torch
from torch.nn import functional

from clip_as_rnn import clip as clip_module
from clip_as_rnn.clip import _grow_positions
from clip_as_rnn.errors import InputError
from random_clip import random_clip

TEXTS = ["cat", "a photo of a red car in the scene", "Dog", "x", "a clean origami tvmonitor screen."]


def pixels_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def clip():
    return random_clip(layers=4)


def eager(clip, pixels):
    """Let transformers run the image tower with every hidden state and attention matrix kept."""
    clip.model.set_attn_implementation("eager")
    with torch.no_grad():
        return clip.model.vision_model(
            pixels, output_attentions=True, output_hidden_states=True, interpolate_pos_encoding=False
        )


def test_text_features_are_those_of_transformers(clip):
    for text, ours in zip(TEXTS, clip.encode_texts(TEXTS), strict=True):
        batch = clip.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = clip.model.text_model(batch["input_ids"]).last_hidden_state
        theirs = clip.model.text_projection(hidden[0, -1])
        torch.testing.assert_close(ours, functional.normalize(theirs, dim=0), atol=1e-5, rtol=1e-4)


def test_a_text_has_the_same_feature_in_any_company(clip, monkeypatch):
    alone = torch.cat([clip.encode_texts([text]) for text in TEXTS])
    torch.testing.assert_close(clip.encode_texts(TEXTS), alone, atol=1e-5, rtol=0)
    monkeypatch.setattr(clip_module, "_TEXTS_PER_PASS", 2)
    torch.testing.assert_close(clip.encode_texts(TEXTS), alone, atol=1e-5, rtol=0)


def test_no_texts_have_no_features(clip):
    assert clip.encode_texts([]).shape == (0, clip.width)


def test_image_features_are_those_of_transformers(clip):
    pixels = pixels_of(3, 3, 32, 32)
    hidden = eager(clip, pixels).last_hidden_state[:, 0]
    theirs = clip.model.visual_projection(clip.vision.post_layernorm(hidden))
    torch.testing.assert_close(clip.encode_images(pixels), functional.normalize(theirs, dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("skipped", [1, 2, 4])
def test_skipped_blocks_are_the_last_ones(clip, skipped):
    pixels = pixels_of(2, 3, 32, 32)
    hidden = eager(clip, pixels).hidden_states[-1 - skipped][:, 0]
    theirs = functional.normalize(clip.model.visual_projection(clip.vision.post_layernorm(hidden)), dim=1)
    torch.testing.assert_close(clip.encode_images(pixels, skipped_blocks=skipped), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_attention_is_the_mean_over_heads_and_the_last_layers(clip, layers):
    pixels = pixels_of(1, 3, 32, 32)
    expected = torch.stack(eager(clip, pixels).attentions[-layers:]).mean((0, 2))[0, 1:, 1:]
    view = clip.view_patches(pixels, affinity_layers=layers)
    torch.testing.assert_close(view.attention, expected, atol=1e-6, rtol=1e-4)


def test_more_layers_than_there_are_is_all_of_them(clip):
    pixels = pixels_of(1, 3, 32, 32)
    all_layers = clip.view_patches(pixels, affinity_layers=4).attention
    assert torch.equal(clip.view_patches(pixels, affinity_layers=99).attention, all_layers)


def test_without_affinity_no_attention_is_computed(clip):
    assert clip.view_patches(pixels_of(1, 3, 32, 32), affinity_layers=0).attention is None


@pytest.mark.parametrize("layers", [0, 2])
def test_a_view_holds_what_transformers_computes(clip, layers):
    pixels = pixels_of(1, 3, 32, 32)
    states = eager(clip, pixels)
    view = clip.view_patches(pixels, affinity_layers=layers)
    torch.testing.assert_close(view.last_input, states.hidden_states[-2], atol=1e-5, rtol=1e-4)
    activations = clip.vision.encoder.layers[-1].layer_norm1(states.hidden_states[-2])[0, 1:]
    torch.testing.assert_close(view.activations, activations, atol=1e-5, rtol=1e-4)
    tokens = clip.vision.post_layernorm(states.last_hidden_state[0, 1:])
    torch.testing.assert_close(view.pooled, clip.model.visual_projection(tokens.mean(0)), atol=1e-5, rtol=1e-4)
    patches = functional.normalize(clip.model.visual_projection(tokens), dim=1)
    torch.testing.assert_close(view.patches, patches, atol=1e-5, rtol=1e-4)


def test_an_image_may_have_any_whole_number_of_patches(clip):
    view = clip.view_patches(pixels_of(1, 3, 8, 56), affinity_layers=1)
    assert view.grid_hw == (1, 7)
    assert view.attention.shape == (7, 7)


def test_positions_of_the_native_grid_are_untouched():
    table = torch.randn(17, 6)
    assert torch.equal(_grow_positions(table, (4, 4)), table)


def test_positions_are_interpolated_bilinearly_between_centres():
    table = torch.zeros(5, 1)
    table[1:, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])  # 2 x 2
    grown = _grow_positions(table, (2, 4))[1:, 0].reshape(2, 4)
    torch.testing.assert_close(grown, torch.tensor([[0.0, 0.25, 0.75, 1.0], [2.0, 2.25, 2.75, 3.0]]))


def test_half_positions_move_features_by_their_rounding_only(clip):
    pixels = pixels_of(1, 3, 32, 32)
    exact, rounded = clip.encode_images(pixels), clip.encode_images(pixels, half_positions=True)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=2e-2, rtol=0)


def test_an_image_is_encoded_alike_in_any_batch(clip):
    pixels = pixels_of(5, 3, 32, 32)
    alone = torch.cat([clip.encode_images(one[None]) for one in pixels])
    torch.testing.assert_close(clip.encode_images(pixels), alone, atol=1e-5, rtol=0)


def test_nothing_that_was_read_asks_for_gradients(clip):
    view = clip.view_patches(pixels_of(1, 3, 32, 32), affinity_layers=2)
    pulled = clip.pull_back(view, torch.eye(clip.width))
    assert not any(tensor.requires_grad for tensor in (view.pooled, view.attention, pulled, *clip.model.parameters()))


def test_pulling_back_in_pieces_is_the_same(clip, monkeypatch):
    view = clip.view_patches(pixels_of(1, 3, 32, 40), affinity_layers=0)
    at_once = clip.pull_back(view, torch.eye(clip.width))
    monkeypatch.setattr(clip_module, "_PULL_BACK_BYTES", 1)
    torch.testing.assert_close(clip.pull_back(view, torch.eye(clip.width)), at_once, atol=1e-6, rtol=1e-4)


def test_a_text_too_long_for_clip_is_refused_in_a_sentence(clip):
    message = r"The text 'x x .*\.\.\.' has \d+ tokens, but CLIP reads at most 77; shorten it\."
    with pytest.raises(InputError, match=message):
        clip.encode_texts(["cat", "x " * 100])


def test_the_longest_text_that_fits_is_read(clip):
    assert clip.encode_texts(["x " * 75]).isfinite().all()
    with pytest.raises(InputError, match="has 78 tokens"):
        clip.encode_texts(["x " * 76])


def test_too_many_patches_are_refused_before_attention_is_made(clip):
    message = r"The image has 16,512 patches, but at most 16,384 fit into memory; lower the setting `max_side_px`\."
    with pytest.raises(InputError, match=message):
        clip.view_patches(torch.zeros(1, 3, 8 * 128, 8 * 129), affinity_layers=1)
