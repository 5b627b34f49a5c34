"""Our reading of CLIP against transformers' own, layer by layer."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clip_as_rnn.encoders import pull_back, transformer
from clip_as_rnn.encoders.transformer import interpolate_positions
from clip_as_rnn.errors import InputError
from untrained_clip import untrained_clip

TEXTS = ["cat", "a photo of a red car in the scene", "Dog", "x", "a clean origami tvmonitor screen."]


def pixels_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def clip():
    return untrained_clip(layers=4)


def eager(clip, pixels):
    """Let transformers run the image tower with every hidden state and attention matrix kept."""
    clip.model.set_attn_implementation("eager")
    with torch.no_grad():
        return clip.model.vision_model(
            pixels, output_attentions=True, output_hidden_states=True, interpolate_pos_encoding=False
        )


def test_text_features_are_those_of_transformers(clip):
    for text, ours in zip(TEXTS, clip.encode_text(TEXTS), strict=True):
        batch = clip.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = clip.model.text_model(batch["input_ids"]).last_hidden_state
        theirs = clip.model.text_projection(hidden[0, -1])
        torch.testing.assert_close(ours, functional.normalize(theirs, dim=0), atol=1e-5, rtol=1e-4)


def test_a_text_has_the_same_feature_in_any_company(clip, monkeypatch):
    alone = torch.cat([clip.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(clip.encode_text(TEXTS), alone, atol=1e-5, rtol=0)
    monkeypatch.setattr(transformer, "_TEXTS_PER_PASS", 2)
    torch.testing.assert_close(clip.encode_text(TEXTS), alone, atol=1e-5, rtol=0)


def test_no_texts_have_no_features(clip):
    assert clip.encode_text([]).shape == (0, clip.embed_dim)


def test_image_features_are_those_of_transformers(clip):
    pixels = pixels_of(3, 3, 32, 32)
    hidden = eager(clip, pixels).last_hidden_state[:, 0]
    theirs = clip.model.visual_projection(clip.vision.post_layernorm(hidden))
    torch.testing.assert_close(clip.encode_image(pixels), functional.normalize(theirs, dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("skipped", [1, 2, 4])
def test_skipped_blocks_are_the_last_ones(clip, skipped):
    pixels = pixels_of(2, 3, 32, 32)
    hidden = eager(clip, pixels).hidden_states[-1 - skipped][:, 0]
    theirs = functional.normalize(clip.model.visual_projection(clip.vision.post_layernorm(hidden)), dim=1)
    torch.testing.assert_close(clip.encode_image(pixels, skipped_blocks=skipped), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_attention_is_the_mean_over_heads_and_the_last_layers(clip, layers):
    pixels = pixels_of(1, 3, 32, 32)
    expected = torch.stack(eager(clip, pixels).attentions[-layers:]).mean((0, 2))[0, 1:, 1:]
    view = clip.encode_patches(pixels, attention_layers=layers)[0]
    torch.testing.assert_close(view.attention, expected, atol=1e-6, rtol=1e-4)


def test_more_layers_than_there_are_is_all_of_them(clip):
    pixels = pixels_of(1, 3, 32, 32)
    all_layers = clip.encode_patches(pixels, attention_layers=4)[0].attention
    assert torch.equal(clip.encode_patches(pixels, attention_layers=99)[0].attention, all_layers)


def test_without_affinity_no_attention_is_computed(clip):
    assert clip.encode_patches(pixels_of(1, 3, 32, 32), attention_layers=0)[0].attention is None


@pytest.mark.parametrize("layers", [0, 2])
def test_a_view_holds_what_transformers_computes(clip, layers):
    pixels = pixels_of(1, 3, 32, 32)
    states = eager(clip, pixels)
    view = clip.encode_patches(pixels, attention_layers=layers)[0]
    torch.testing.assert_close(view.last_input, states.hidden_states[-2], atol=1e-5, rtol=1e-4)
    activations = clip.vision.encoder.layers[-1].layer_norm1(states.hidden_states[-2])[0, 1:]
    torch.testing.assert_close(view.activations, activations, atol=1e-5, rtol=1e-4)
    tokens = clip.vision.post_layernorm(states.last_hidden_state[0, 1:])
    torch.testing.assert_close(view.pooled, clip.model.visual_projection(tokens.mean(0)), atol=1e-5, rtol=1e-4)
    patches = functional.normalize(clip.model.visual_projection(tokens), dim=1)
    torch.testing.assert_close(view.patches, patches, atol=1e-5, rtol=1e-4)


def test_an_image_may_have_any_whole_number_of_patches(clip):
    view = clip.encode_patches(pixels_of(1, 3, 8, 56), attention_layers=1)[0]
    assert view.grid_hw == (1, 7)
    assert view.attention.shape == (7, 7)


def test_positions_of_the_native_grid_are_untouched():
    table = torch.randn(16, 6)
    assert torch.equal(interpolate_positions(table, (4, 4)), table)


def test_positions_are_interpolated_bilinearly_between_centers():
    table = torch.tensor([[0.0], [1.0], [2.0], [3.0]])  # 2 x 2
    grown = interpolate_positions(table, (2, 4))[:, 0].reshape(2, 4)
    torch.testing.assert_close(grown, torch.tensor([[0.0, 0.25, 0.75, 1.0], [2.0, 2.25, 2.75, 3.0]]))


def test_half_positions_move_features_by_their_rounding_only(clip):
    pixels = pixels_of(1, 3, 32, 32)
    exact, rounded = clip.encode_image(pixels), clip.encode_image(pixels, half_positions=True)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=2e-2, rtol=0)


def test_an_image_is_encoded_alike_in_any_batch(clip):
    pixels = pixels_of(5, 3, 32, 32)
    alone = torch.cat([clip.encode_image(one[None]) for one in pixels])
    torch.testing.assert_close(clip.encode_image(pixels), alone, atol=1e-5, rtol=0)


def test_nothing_that_was_read_asks_for_gradients(clip):
    view = clip.encode_patches(pixels_of(1, 3, 32, 32), attention_layers=2)[0]
    pulled = clip.pooled_gradient(view, torch.eye(clip.embed_dim))
    assert not any(tensor.requires_grad for tensor in (view.pooled, view.attention, pulled, *clip.model.parameters()))


def test_pulling_back_in_pieces_is_the_same(clip, monkeypatch):
    view = clip.encode_patches(pixels_of(1, 3, 32, 40), attention_layers=0)[0]
    directions = torch.eye(clip.embed_dim)[:5]
    at_once = clip.pooled_gradient(view, directions)
    monkeypatch.setattr(pull_back, "_GRADIENT_BYTES", 1)
    torch.testing.assert_close(clip.pooled_gradient(view, directions), at_once, atol=1e-6, rtol=1e-4)


def memory_bound(patches_hw, budget, directions, monkeypatch):
    """Return the largest tensor, in numbers, that pulling some directions back makes."""
    clip, largest = untrained_clip(), [0]
    view = clip.encode_patches(pixels_of(1, 3, 8 * patches_hw[0], 8 * patches_hw[1]), attention_layers=0)[0]
    monkeypatch.setattr(pull_back, "_GRADIENT_BYTES", budget)

    class Measure(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            largest[0] = max([largest[0], *(one.numel() for one in tree_leaves(made) if isinstance(one, torch.Tensor))])
            return made

    with Measure():
        clip.pooled_gradient(view, torch.eye(clip.embed_dim)[:directions])
    return largest[0]


@pytest.mark.parametrize("directions", [1, 16])
def test_what_pulling_back_takes_grows_with_the_patches_and_not_with_their_square(monkeypatch, directions):
    small, large = (memory_bound(patches_hw, 2**17, directions, monkeypatch) for patches_hw in ((8, 8), (16, 16)))
    assert large < 5 * small
    assert large < 256 * 256


@pytest.mark.parametrize("grid_hw", [(1, 1), (4, 5), (1, 9)])
def test_pulling_back_is_the_mean_gradient_over_patches(clip, grid_hw):
    view = clip.encode_patches(pixels_of(1, 3, 8 * grid_hw[0], 8 * grid_hw[1]), attention_layers=0)[0]
    layer = clip.vision.encoder.layers[-1]
    normed = layer.layer_norm1(view.last_input.clone()).detach().requires_grad_()
    tokens = view.last_input.clone() + layer.self_attn(normed)[0]
    tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
    pooled = clip.model.visual_projection(clip.vision.post_layernorm(tokens[0, 1:])).mean(0)
    directions = torch.eye(clip.embed_dim)[:5]
    slow = [torch.autograd.grad(pooled, normed, one, retain_graph=True)[0][0, 1:].mean(0) for one in directions]
    torch.testing.assert_close(clip.pooled_gradient(view, directions), torch.stack(slow), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 16])
def test_gradients_are_pulled_back_in_inference_mode_too(clip, count):
    pixels, directions = pixels_of(1, 3, 32, 32), torch.eye(clip.embed_dim)[:count]
    expected = clip.pooled_gradient(clip.encode_patches(pixels, attention_layers=0)[0], directions)
    with torch.inference_mode():
        view = clip.encode_patches(pixels, attention_layers=0)[0]
        assert torch.equal(clip.pooled_gradient(view, directions), expected)


def test_no_directions_have_no_gradients(clip):
    view = clip.encode_patches(pixels_of(1, 3, 32, 32), attention_layers=0)[0]
    assert clip.pooled_gradient(view, torch.zeros(0, clip.embed_dim)).shape == (0, 16)


def test_a_text_too_long_is_quoted_as_it_was_given_and_said_once(clip, capfd):
    message = (
        r"The text 'x x .*\.\.\.' has 85 tokens when worded as 'a photo of {}', but CLIP reads at most 77; shorten it\."
    )
    with pytest.raises(InputError, match=message):
        clip.check_lengths(["x " * 75], "a photo of {}")
    assert capfd.readouterr() == ("", "")


def test_a_text_too_long_for_clip_is_refused_in_a_sentence(clip):
    message = r"The text 'x x .*\.\.\.' has \d+ tokens, but CLIP reads at most 77; shorten it\."
    with pytest.raises(InputError, match=message):
        clip.encode_text(["cat", "x " * 100])


def test_the_longest_text_that_fits_is_read(clip):
    assert clip.encode_text(["x " * 75]).isfinite().all()
    with pytest.raises(InputError, match="has 78 tokens"):
        clip.encode_text(["x " * 76])


@pytest.mark.parametrize(
    ("grid_hw", "side_px"), [((128, 129), 8 * 128), ((20_000, 1), 8 * 16_384), ((3, 9000), 8 * 6000)]
)
def test_too_many_patches_are_refused_before_attention_is_made(clip, grid_hw, side_px):
    message = (
        rf"The image has {grid_hw[0] * grid_hw[1]:,} patches, but at most 16,384 fit into memory; shrink it, or give "
        rf"--set max_side_px={side_px} \(in Python, max_side_px={side_px}\)\."
    )
    with pytest.raises(InputError, match=message):
        clip.encode_patches(torch.zeros(1, 3, 8 * grid_hw[0], 8 * grid_hw[1]), attention_layers=1)
