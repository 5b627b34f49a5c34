"""Stage 1 against its slow definitions: one backward pass per text, the squared affinity as a matrix."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_as_rnn.encoders.base import ignore_tick
from clip_as_rnn.proposals.grad_cam import subtract_mean_map
from untrained_clip import untrained_clip
from untrained_proposers import every, init_state, make_proposer, texts


def slow_cams(clip, view, features, background):
    """Differentiate the softmax itself, one text at a time, in double precision: CLIP-ES as it is written."""
    model = deepcopy(clip.model).double()
    layer = model.vision_model.encoder.layers[-1]
    last_input = view.last_input.double().clone()
    candidates = torch.cat([features, background]).double()
    cams = []
    for text in range(len(features)):
        activations = layer.layer_norm1(last_input).detach().requires_grad_()
        tokens = last_input + layer.self_attn(activations)[0]
        tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
        pooled = model.visual_projection(model.vision_model.post_layernorm(tokens[0, 1:])).mean(0)
        logits = clip.logit_scale * torch.nn.functional.normalize(pooled, dim=0) @ candidates.T
        (gradient,) = torch.autograd.grad(torch.softmax(logits, 0)[text], activations)
        cams.append((activations[0, 1:] @ gradient[0, 1:].mean(0)).clamp(min=0).detach())
    maps = torch.stack(cams).reshape(-1, *view.grid_hw)
    maps = maps - maps.amin((1, 2), keepdim=True)
    return (maps / maps.amax((1, 2), keepdim=True)).nan_to_num(0.0).float()  # however small: double precision holds it


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    grid_hw=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    count=st.integers(1, 20),
    background=st.integers(0, 6),
)
def test_closed_form_equals_a_backward_pass_per_text(seed, layers, heads, grid_hw, count, background):
    clip = untrained_clip(seed=seed, layers=layers, heads=heads)
    clip.logit_scale = 10.0  # beyond, random features saturate the softmax of the slow definition even in float64
    pixels = torch.randn(1, 3, 8 * grid_hw[0], 8 * grid_hw[1], generator=torch.Generator().manual_seed(seed))
    grounds = tuple(f"ground {i}" for i in range(background))
    proposer = make_proposer(clip, background_texts=grounds)
    asked = texts(count)
    state = init_state(proposer, clip, pixels, asked)
    ours = proposer.propose(state, every(len(asked)), 1).cams
    slow = slow_cams(clip, state.image.features, clip.encode_text(asked), state.texts.background)
    assert (ours - slow).abs().max() <= 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_closed_form_equals_a_backward_pass_per_text_at_the_scale_of_trained_clips(seed):
    """At 100 the shares span thirty powers of ten; of each map's greatest value, single precision leaves 3e-5."""
    clip = untrained_clip(seed=seed, layers=2)
    assert clip.logit_scale == pytest.approx(100, abs=0.1)
    proposer = make_proposer(clip, background_texts=("ground", "sky"))
    state = init_state(
        proposer, clip, torch.randn(1, 3, 40, 48, generator=torch.Generator().manual_seed(seed)), texts(8)
    )
    slow = slow_cams(clip, state.image.features, clip.encode_text(texts(8)), state.texts.background)
    assert (proposer.propose(state, every(8), 1).cams - slow).abs().max() <= 3e-5


@pytest.mark.parametrize("background", [(), ("ground", "sky")])
def test_texts_that_hardly_differ_keep_their_digits(background):
    """Their maps are a thousandth of what they share, which must not be pulled back with them."""
    clip = untrained_clip(seed=5, heads=3)

    def encode(asked, tick=ignore_tick):
        own = clip.encode_text(asked)
        return torch.nn.functional.normalize(own * 1e-3 + own.new_ones(own.shape), dim=1)

    pixels = torch.randn(1, 3, 40, 48, generator=torch.Generator().manual_seed(5))
    proposer = make_proposer(clip, encode_text=encode, background_texts=background)
    state = init_state(proposer, clip, pixels, texts(9))
    for step, active in ((1, every(9)), (2, np.arange(2, 6))):
        asked = [texts(9)[i] for i in active]
        slow = slow_cams(clip, state.image.features, encode(asked), state.texts.background)
        assert (proposer.propose(state, active, step).cams - slow).abs().max() <= 1e-5


def test_more_texts_than_clip_is_wide_take_one_pooled_gradient_per_dimension(monkeypatch):
    clip = untrained_clip(width=16)
    proposer = make_proposer(clip, background_texts=("ground",))
    asked = texts(40)
    state = init_state(proposer, clip, torch.randn(1, 3, 32, 40), asked)
    rows = []
    original = clip.pooled_gradient

    def counted(view, directions):
        rows.append(len(directions))
        return original(view, directions)

    monkeypatch.setattr(clip, "pooled_gradient", counted)
    many = proposer.propose(state, every(len(asked)), 1).cams
    assert rows == [16]
    slow = slow_cams(clip, state.image.features, clip.encode_text(asked), state.texts.background)
    torch.testing.assert_close(many, slow, atol=1e-5, rtol=0)


def test_a_later_step_needs_no_further_pass(monkeypatch):
    clip = untrained_clip()
    clip.logit_scale = 5.0  # so that every text has a share worth losing
    proposer = make_proposer(clip, background_texts=("ground",))
    state = init_state(proposer, clip, torch.randn(1, 3, 32, 32), texts(5))
    first = proposer.propose(state, every(5), 1)
    monkeypatch.setattr(clip, "pooled_gradient", lambda *_: pytest.fail("a later step pulled gradients back again"))
    monkeypatch.setattr(clip, "encode_patches", lambda *_, **__: pytest.fail("a later step looked again"))
    second = proposer.propose(state, every(3), 2)
    assert second.cams.shape[0] == 3
    assert not torch.equal(first.cams[:3], second.cams)  # fewer texts share the softmax


def test_dropping_a_text_equals_never_having_asked_for_it():
    clip = untrained_clip()
    proposer = make_proposer(clip, background_texts=("ground",), affinity_layers=2)
    pixels = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    state = init_state(proposer, clip, pixels, texts(6), attention_layers=2)
    proposer.propose(state, every(6), 1)
    later = proposer.propose(state, every(2), 2).maps
    fresh = proposer.propose(init_state(proposer, clip, pixels, texts(2), attention_layers=2), every(2), 1).maps
    torch.testing.assert_close(later, fresh, atol=1e-5, rtol=0)


def test_alone_against_the_background_a_text_scales_one_map():
    """In referring mode the softmax of two falls to the scaling: the slow definition, text by text, agrees."""
    clip = untrained_clip()
    proposer = make_proposer(clip, mode="referring", background_texts=("ground", "sky"))
    state = init_state(proposer, clip, torch.randn(1, 3, 40, 32, generator=torch.Generator().manual_seed(2)), texts(4))
    ours = proposer.propose(state, every(4), 1).cams
    for i, text in enumerate(texts(4)):
        slow = slow_cams(clip, state.image.features, clip.encode_text([text]), state.texts.background)
        torch.testing.assert_close(ours[i], slow[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("fallback", [True, False])
def test_a_dark_map_is_redone_without_background_if_the_setting_says_so(monkeypatch, fallback):
    clip = untrained_clip()
    grounds = ("ground", "sky")
    proposer = make_proposer(clip, background_texts=grounds, foreground_fallback=fallback)
    state = init_state(proposer, clip, torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(3)), texts(3))
    slopes = torch.tensor([[-1.0, -2.0], [-3.0, -1.0], [1.0, 0.0]]).repeat(
        1, 10
    )  # the first two below the background's
    state.background = torch.zeros(20)
    logits = torch.tensor([0.0, 0.0, 0.0, 3.0])
    monkeypatch.setattr(proposer, "_compare", lambda *_: (logits, slopes))
    maps = proposer.score_patches(state, every(3), 1)
    with_background = subtract_mean_map(torch.cat([slopes, torch.zeros(1, 20)]), logits)[:3]
    alone = subtract_mean_map(slopes, logits[:3])
    dark = with_background.amax(1) == 0
    assert dark.tolist() == [True, True, False]
    assert torch.equal(maps, torch.where(dark[:, None] & torch.tensor(fallback), alone, with_background))


def test_weights_of_a_certain_text_keep_their_digits():
    """1 - p is 1e-11 here: in single precision it would be zero, and the map with it."""
    slopes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    maps = subtract_mean_map(slopes, torch.tensor([25.0, 0.0]))
    assert maps[0, 0] == pytest.approx(np.exp(-25.0), rel=1e-5)


@pytest.mark.parametrize("mode", ["semantic", "referring"])
@pytest.mark.parametrize("background", [(), ("ground", "sky")])
def test_a_text_is_as_certain_as_its_share_of_the_whole_image(mode, background):
    clip = untrained_clip()
    clip.logit_scale = 10.0
    proposer = make_proposer(clip, mode, background_texts=background)
    state = init_state(proposer, clip, torch.randn(1, 3, 32, 40), texts(3))
    candidates = clip.encode_text([*texts(3), *background])
    pooled = torch.nn.functional.normalize(state.image.features.pooled, dim=0)
    odds = (clip.logit_scale * candidates @ pooled).exp()
    rivals = odds.sum() if mode == "semantic" else odds[:3] + odds[3:].sum()
    torch.testing.assert_close(
        torch.from_numpy(proposer.propose(state, every(3), 1).certainty), odds[:3] / rivals, atol=1e-5, rtol=1e-4
    )
    later = proposer.propose(state, every(3)[1:], 2).certainty
    assert (later >= proposer.propose(state, every(3), 1).certainty[1:]).all()  # fewer rivals
