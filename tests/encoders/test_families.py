"""Every family against transformers' own modules: features, gradients, mask tokens, and what loading refuses."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional

from clip_as_rnn.encoders.base import GradCamEncoder, MaskTokenEncoder
from clip_as_rnn.encoders.hub import load_encoder
from clip_as_rnn.errors import InputError
from tiny_models import SAVED, save_tiny
from untrained_proposers import every, init_state, make_proposer

CPU = torch.device("cpu")
TEXTS = ["cat", "A photo of the RED car!", "the  sky, a wall... x/y", "</s> dog <pad>", "q"]
CLOSE = {"atol": 1e-5, "rtol": 0}


def pixels_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=SAVED)
def library(request, tmp_path_factory):
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def encoder(library):
    return load_encoder(library.folder, device=CPU, dtype=torch.float32)


def test_every_family_fills_every_protocol(encoder):
    assert isinstance(encoder, GradCamEncoder)
    assert isinstance(encoder, MaskTokenEncoder)


def test_text_features_are_the_librarys(library, encoder):
    asked = [text for text in TEXTS if "<" not in text]  # special tokens, which the library reads out of a text
    with torch.no_grad():
        theirs = functional.normalize(library.texts(asked), dim=1)
    torch.testing.assert_close(encoder.encode_text(asked), theirs, **CLOSE)


def test_a_special_token_within_a_text_is_letters_and_signs(encoder):
    plain, special = (len(encoder.tokenize([text])[0]) for text in ("dog", "dog </s> </s> <pad>"))
    unpadded = [[one for one in encoder.tokenize([text])[0] if one != encoder.tokenize(["q"])[0][-1]] for text in TEXTS]
    assert special >= plain
    assert len(unpadded[3]) > len(unpadded[0]) + 1


def test_a_text_has_the_same_feature_in_any_company(encoder):
    alone = torch.cat([encoder.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(encoder.encode_text(TEXTS), alone, **CLOSE)
    assert torch.pdist(alone).min() > 1e-3


def test_image_features_are_the_librarys(library, encoder):
    pixels = pixels_of(3, 3, 32, 32)
    torch.testing.assert_close(encoder.encode_image(pixels), library.images(pixels), **CLOSE)


@pytest.mark.parametrize("layers", [0, 2, 99])
def test_patch_features_are_the_librarys(library, encoder, layers):
    pixels = pixels_of(1, 3, 32, 32)
    patches, pooled = library.patches(pixels)
    view = encoder.encode_patches(pixels, attention_layers=layers)[0]
    torch.testing.assert_close(view.patches, patches, **CLOSE)
    torch.testing.assert_close(view.pooled, pooled, **CLOSE)


def test_attention_is_the_mean_over_heads_and_the_last_layers(library, encoder):
    pixels = pixels_of(1, 3, 32, 32)
    with torch.no_grad():
        kept = library.model.vision_model(pixels, output_attentions=True).attentions
    expected = torch.stack(kept[-2:]).mean((0, 2))[0, library.extra :, library.extra :]
    torch.testing.assert_close(encoder.encode_patches(pixels, attention_layers=2)[0].attention, expected, **CLOSE)


@pytest.mark.parametrize(
    "library", ["siglip", "siglip2", "tipsv2"], indirect=True
)  # the others follow CaR's way with CLIP
@pytest.mark.parametrize("size_hw", [(24, 56), (8, 8), (48, 32)])
def test_other_sizes_are_read_as_the_library_interpolates(library, encoder, size_hw):
    pixels = pixels_of(1, 3, *size_hw)
    patches, pooled = library.patches(pixels, **library.interpolation)
    view = encoder.encode_patches(pixels, attention_layers=1)[0]
    assert view.grid_hw == (size_hw[0] // 8, size_hw[1] // 8)
    torch.testing.assert_close(view.patches, patches, **CLOSE)
    torch.testing.assert_close(view.pooled, pooled, **CLOSE)


# Gradients


def slow_z(library, pixels, last_input):
    """Run the library's last block on these tokens in double precision; return A, to be differentiated by, and z."""
    model = deepcopy(library.model).double()
    last = library.layers(model)[-1]
    held = []

    def hold(module, inputs, output):
        held.append(output.detach().requires_grad_())
        return held[-1]

    last.register_forward_pre_hook(lambda module, inputs: (last_input.double(), *inputs[1:]))
    (last.layer_norm1 if hasattr(last, "layer_norm1") else last.norm1).register_forward_hook(hold)
    return held, library.read(model.vision_model(pixels.double()), model)[1]


def slow_cams(library, pixels, view, scale, candidates, count):
    """Differentiate the softmax itself, one text at a time, in double precision: CLIP-ES as it is written."""
    held, pooled = slow_z(library, pixels, view.last_input)
    shares = torch.softmax(scale * functional.normalize(pooled, dim=0) @ candidates.double().T, dim=0)
    cams = []
    for text in range(count):
        (gradient,) = torch.autograd.grad(shares[text], held[0], retain_graph=True)
        activations, gradient = held[0][0, library.extra :].detach(), gradient[0, library.extra :]
        cams.append((activations @ gradient.mean(0)).clamp(min=0))
    maps = torch.stack(cams)
    maps = maps - maps.amin(1, keepdim=True)
    return (maps / maps.amax(1, keepdim=True)).nan_to_num(0.0).float()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("background", [(), ("sky", "the wall")])
def test_the_closed_form_cam_is_a_backward_pass_per_text(library, encoder, monkeypatch, seed, background):
    monkeypatch.setattr(encoder, "logit_scale", 5.0)  # a text that is all but certain has a map of rounding alone
    pixels = pixels_of(1, 3, 32, 32, seed=seed)
    state = init_state(make_proposer(encoder, background_texts=background), encoder, pixels, TEXTS)
    ours = make_proposer(encoder, background_texts=background).propose(state, every(len(TEXTS)), 1).cams
    candidates = torch.cat([encoder.encode_text(TEXTS), state.texts.background])
    slow = slow_cams(library, pixels, state.image.features, 5.0, candidates, len(TEXTS))
    torch.testing.assert_close(ours.flatten(1), slow, atol=1e-5, rtol=1e-4)


def test_pulling_back_is_the_mean_gradient_over_patches_in_pieces_too(library, encoder, monkeypatch):
    pixels, directions = pixels_of(1, 3, 32, 32), torch.eye(encoder.embed_dim)
    view = encoder.encode_patches(pixels, attention_layers=0)[0]
    held, pooled = slow_z(library, pixels, view.last_input)
    slow = [torch.autograd.grad(pooled, held[0], one.double(), retain_graph=True)[0] for one in directions]
    expected = torch.stack([one[0, library.extra :].mean(0) for one in slow]).float()
    torch.testing.assert_close(encoder.pooled_gradient(view, directions), expected, atol=1e-6, rtol=1e-4)
    monkeypatch.setattr("clip_as_rnn.encoders.pull_back._GRADIENT_BYTES", 1)
    torch.testing.assert_close(encoder.pooled_gradient(view, directions), expected, atol=1e-6, rtol=1e-4)
    assert encoder.pooled_gradient(view, directions[:0]).shape == (0, expected.shape[1])


# Mask tokens


def some_masks(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, 4, 4, generator=generator) < torch.rand(count, 1, 1, generator=generator)
    masks[0], masks[1] = True, False
    masks[1, 3, 3] = True
    masks[2:, 0, 0] = True  # none is empty
    return masks


def slow_masks(library, pixels, masks, first_block):
    """Let the library's own layers run under a boolean matrix of who may see whom."""
    vision = library.model.vision_model
    if not library.extra:
        hidden = vision(pixels).last_hidden_state
        return torch.cat([probe_inside(vision.head, hidden, mask) for mask in masks])
    held = []
    vision_layers = library.layers(library.model)
    handle = vision_layers[0].register_forward_pre_hook(lambda module, inputs: held.append(inputs[0]))
    vision(pixels)
    handle.remove()
    tokens = torch.cat([held[0], held[0][:, :1].expand(1, len(masks), -1)], dim=1)
    visible = held[0].shape[1]
    for depth, layer in enumerate(vision_layers):
        sees = torch.eye(tokens.shape[1], dtype=torch.bool)
        sees[:visible, :visible] = True
        for row, mask in enumerate(masks, start=visible):
            sees[row, 1 : library.extra] = True
            sees[row, library.extra : visible] = mask.flatten() if depth >= first_block else True
        blocked = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)[None, None]
        tokens = layer(tokens, attention_mask=blocked)
    return library.finish(library.model, tokens[0, visible:])


def probe_inside(head, hidden, mask):
    """Run SigLIP's head with the patches outside a mask hidden from its probe."""
    gathered = head.attention(head.probe, hidden, hidden, key_padding_mask=~mask.flatten()[None])[0]
    return (gathered + head.mlp(head.layernorm(gathered)))[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("first_block", [0, 2])
def test_mask_tokens_are_full_attention_under_a_boolean_mask(library, encoder, first_block):
    if "mask_token_block" in encoder.refused:
        first_block = 0
    pixels, masks = pixels_of(1, 3, 32, 32), some_masks(9)
    keys = encoder.encode_keys(pixels, first_block=first_block)[0]
    (ours,) = encoder.encode_masks([keys], [masks])
    slow = functional.normalize(slow_masks(library, pixels, masks, first_block), dim=1)
    torch.testing.assert_close(ours, slow, **CLOSE)
    torch.testing.assert_close(ours[:1], encoder.encode_image(pixels), **CLOSE)  # a full mask


def test_several_images_share_passes_and_nothing_else(encoder, monkeypatch):
    monkeypatch.setattr("clip_as_rnn.encoders.transformer._MASKS_PER_PASS", 4)
    images, masks = [pixels_of(1, 3, 32, 32, seed=seed) for seed in range(3)], [some_masks(n) for n in (5, 3, 6)]
    keys = [encoder.encode_keys(one, first_block=0)[0] for one in images]
    together = encoder.encode_masks(keys, masks)
    for features, key, own in zip(together, keys, masks, strict=True):
        torch.testing.assert_close(features, torch.cat(encoder.encode_masks([key], [own])), **CLOSE)
    assert encoder.encode_masks(keys[:1], [masks[0][:0]])[0].shape == (0, encoder.embed_dim)


def test_a_mask_without_a_patch_still_has_a_feature(encoder):
    keys = encoder.encode_keys(pixels_of(1, 3, 32, 32), first_block=0)[0]
    assert encoder.encode_masks([keys], [torch.zeros(1, 4, 4, dtype=torch.bool)])[0].isfinite().all()


# What is refused


def test_what_makes_no_sense_for_a_family_is_refused_with_the_reason(encoder):
    pixels = pixels_of(1, 3, 32, 32)
    asked = {
        "half_position_embeddings": lambda: encoder.encode_patches(pixels, attention_layers=0, half_positions=True),
        "classifier_skipped_blocks": lambda: encoder.encode_image(pixels, skipped_blocks=1),
        "mask_token_block": lambda: encoder.encode_keys(pixels, first_block=1),
    }
    for name, call in asked.items():
        if name not in encoder.refused:
            call()
            continue
        with pytest.raises(InputError, match=rf"The setting `{name}` makes no sense for {encoder.family}: .*; leave"):
            call()


def test_a_text_too_long_is_refused_by_the_familys_name(encoder):
    message = rf"has \d\d+ tokens, but {encoder.family} reads at most {encoder.max_text_tokens}; shorten it\."
    with pytest.raises(InputError, match=message):
        encoder.encode_text(["cat", "q w " * encoder.max_text_tokens])


def test_images_in_one_pass_give_what_each_gives_alone(encoder):
    pixels = pixels_of(3, 3, 32, 40)
    squares = pixels_of(3, 3, 32, 32)
    together = encoder.encode_patches(pixels, attention_layers=2)
    keys = encoder.encode_keys(squares, first_block=0)
    for i in range(3):
        alone = encoder.encode_patches(pixels[i : i + 1], attention_layers=2)[0]
        for name in ("last_input", "activations", "patches", "pooled", "attention"):
            torch.testing.assert_close(getattr(together[i], name), getattr(alone, name), **CLOSE)
        own = encoder.encode_keys(squares[i : i + 1], first_block=0)[0]
        torch.testing.assert_close(keys[i].class_token, own.class_token, **CLOSE)
        torch.testing.assert_close(keys[i].keys, own.keys, **CLOSE)
        torch.testing.assert_close(keys[i].values, own.values, **CLOSE)
