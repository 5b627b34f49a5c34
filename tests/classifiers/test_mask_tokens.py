"""Stage 2 by mask tokens: which patches belong to a mask, how little is encoded, and whose scores they are."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clip_as_rnn.classifiers.base import MasksToClassify
from clip_as_rnn.classifiers.mask_tokens import MaskTokenClassifier, choose_patches, patch_weights
from clip_as_rnn.classifiers.template_ensemble import TemplateEnsemble
from clip_as_rnn.classifiers.visual_prompts import VisualPromptClassifier
from clip_as_rnn.config import ClassifyConfig
from clip_as_rnn.encoders.preprocess import normalize, square_image
from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import upsample_maps
from untrained_clip import untrained_clip

CONFIG = ClassifyConfig(
    classify_by="mask-tokens",
    mask_threshold=0.5,
    mask_token_share=0.5,  # of random maps, nearly every patch holds some
    templates=("a photo of a {}.", "a large {}"),
)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip():
    clip = untrained_clip(seed=3)
    clip.logit_scale = 10.0  # so that no score is all but 0 or 1
    return clip


@pytest.fixture
def encoded(clip, monkeypatch):
    """Record the number of plain images and of masks that are encoded."""
    counts, keys, masks = SimpleNamespace(images=0, masks=[]), clip.encode_keys, clip.encode_masks

    def counted_keys(pixels, **settings):
        counts.images += len(pixels)
        return keys(pixels, **settings)

    def counted_masks(images, inside):
        counts.masks.append([len(one) for one in inside])
        return masks(images, inside)

    monkeypatch.setattr(clip, "encode_keys", counted_keys)
    monkeypatch.setattr(clip, "encode_masks", counted_masks)
    return counts


def maps_of(count, seed=0):
    return torch.rand(count, 6, 8, generator=torch.Generator().manual_seed(seed))


def make_classifier(clip, made=MaskTokenClassifier, **changes):
    config = replace(CONFIG, **changes)
    ensemble = TemplateEnsemble(
        clip, clip.encode_text, templates=config.templates, ensemble="feature", contrast_texts=config.contrast_texts
    )
    return made(clip, ensemble, config)


def masks_of(classifier, texts, maps, image=IMAGE):
    active = np.arange(len(maps))
    return MasksToClassify(classifier.encode_images([image])[0], classifier.encode_texts(texts), active, maps)


def judge(clip, texts, maps, image=IMAGE, **changes):
    classifier = make_classifier(clip, **changes)
    (scores,) = classifier.classify([masks_of(classifier, texts, maps, image)])
    return scores


def slow_scores(clip, texts, maps, config):
    """Show every mask to the encoder alone, its patches found by painting the mask and looking at each of them."""
    side_px, patch_px = clip.preprocessor.image_size, clip.patch_px
    pixels = normalize([square_image(IMAGE, side_px, config.classifier_view)], clip.preprocessor)
    keys = clip.encode_keys(pixels, first_block=config.mask_token_block)[0]
    means = torch.stack([clip.encode_text([t.format(text) for t in config.templates]).mean(0) for text in texts])
    means = torch.nn.functional.normalize(means, dim=1)
    scores = []
    for i, one in enumerate(maps):
        mask = (upsample_maps(one[None], IMAGE.shape[:2])[0] > config.mask_threshold).numpy()
        painted = np.repeat(mask[:, :, None].astype(np.uint8) * 255, 3, axis=2)
        if config.classifier_view == "crop":
            painted = painted[:, 8:56]  # the middle of 48 x 64
        blocks = np.kron(painted[:, :, 0], np.ones((4, 4)))  # a whole number of its pixels makes a patch
        grid = side_px // patch_px
        shares = blocks.reshape(grid, blocks.shape[0] // grid, grid, -1).mean((1, 3)) / 255
        inside = torch.from_numpy(shares > config.mask_token_share + 1e-9)
        assert inside.any(), "the fallback has tests of its own"
        (feature,) = clip.encode_masks([keys], [inside[None]])
        scores.append(float(torch.softmax(clip.logit_scale * feature @ means.T, dim=1)[0, i]))
    return scores


@pytest.mark.parametrize(
    ("block", "share", "view"),
    [(0, 0.5, "crop"), (2, 0.5, "crop"), (0, 0.5, "whole"), (2, 0.5, "whole"), (2, 0, "whole")],
)
def test_scores_are_those_of_the_slow_definition(clip, block, share, view):
    changes = {"mask_token_block": block, "mask_token_share": share, "classifier_view": view}
    texts = ["cat", "red car", "sky"]
    expected = slow_scores(clip, texts, maps_of(3), replace(CONFIG, **changes))
    np.testing.assert_allclose(judge(clip, texts, maps_of(3), **changes), expected, atol=1e-5)


def test_features_at_three_thresholds_can_be_averaged(clip):
    maps, texts, features = maps_of(2), ["cat", "sky"], []
    for eta in (0.25, 0.5, 1.0):
        classifier = make_classifier(clip, mask_threshold=eta)
        image = classifier.encode_images([IMAGE])[0]
        features += clip.encode_masks([image.keys], [classifier._find_patches(maps, image)])
    assert not torch.allclose(features[0], features[1])
    means = torch.nn.functional.normalize(torch.stack(features).mean(0), dim=1)
    ensemble = classifier._ensemble
    expected = ensemble.score(means, ensemble.encode_texts(texts), np.arange(2))
    averaged = judge(clip, texts, maps, mask_threshold=0.5, mask_token_average=True)
    np.testing.assert_allclose(averaged, expected, atol=1e-5)


def test_a_full_mask_scores_as_the_plain_image_does(clip):
    full = torch.ones(2, 6, 8)
    plain = make_classifier(clip, VisualPromptClassifier, visual_prompts=(), classify_by="visual-prompts")
    (expected,) = plain.classify([masks_of(plain, ["cat", "sky"], full)])
    np.testing.assert_allclose(judge(clip, ["cat", "sky"], full), expected, atol=1e-5)


def test_skipped_blocks_are_those_of_visual_prompts(clip):
    full = torch.ones(2, 6, 8)
    plain = make_classifier(clip, VisualPromptClassifier, visual_prompts=(), classifier_skipped_blocks=1)
    (expected,) = plain.classify([masks_of(plain, ["cat", "sky"], full)])
    np.testing.assert_allclose(judge(clip, ["cat", "sky"], full, classifier_skipped_blocks=1), expected, atol=1e-5)


def test_contrast_texts_let_a_lone_text_fail(clip):
    assert judge(clip, ["cat"], maps_of(1)) == pytest.approx([1.0])
    assert judge(clip, ["cat"], maps_of(1), contrast_texts=("sky", "wall")) < 1


def test_the_image_is_encoded_once_and_a_later_step_costs_only_its_new_masks(clip, encoded):
    classifier = make_classifier(clip)
    first = masks_of(classifier, list("abcd"), maps_of(4))
    classifier.classify([first])
    later = replace(first, active=np.array([0, 1, 3]), masks=torch.cat([maps_of(4)[:2], maps_of(1, seed=9)]))
    (scores,) = classifier.classify([later])
    assert encoded.images == 1
    assert encoded.masks == [[4], [1]]
    fresh = make_classifier(clip)
    afresh = replace(masks_of(fresh, list("abcd"), maps_of(4)), active=later.active, masks=later.masks)
    np.testing.assert_allclose(scores, fresh.classify([afresh])[0], atol=1e-6)


def test_identical_masks_are_encoded_once(clip, encoded):
    judge(clip, list("abcde"), maps_of(1).expand(5, 6, 8))
    assert encoded.masks == [[1]]


def test_several_images_share_the_pass_and_nothing_else(clip, encoded):
    classifier = make_classifier(clip)
    both = [masks_of(classifier, ["a", "b"], maps_of(2), image) for image in (IMAGE, 255 - IMAGE)]
    together = classifier.classify(both)
    assert encoded.masks == [[2, 2]]
    for scores, image in zip(together, (IMAGE, 255 - IMAGE), strict=True):
        np.testing.assert_allclose(scores, judge(clip, ["a", "b"], maps_of(2), image=image), atol=1e-5)


def test_a_proposal_that_is_zero_everywhere_is_judged_by_the_whole_image(clip):
    zero, full = torch.zeros(2, 6, 8), torch.ones(2, 6, 8)
    np.testing.assert_allclose(judge(clip, ["a", "b"], zero), judge(clip, ["a", "b"], full), atol=1e-6)


@pytest.mark.parametrize(("least_share", "inside"), [(0.0, [1, 1, 1, 0]), (0.4, [0, 1, 1, 0]), (0.5, [0, 0, 1, 0])])
def test_a_patch_is_inside_a_mask_that_covers_more_than_the_least_share_of_it(least_share, inside):
    shares = torch.tensor([[[0.01, 0.5], [0.9, 0.0]]])
    assert choose_patches(shares, torch.zeros_like(shares), least_share).flatten().int().tolist() == inside


def test_a_mask_smaller_than_a_patch_is_the_patch_it_covers_most():
    shares = torch.tensor([[[0.1, 0.2], [0.3, 0.0]]])
    assert choose_patches(shares, torch.rand(1, 2, 2), 0.5).tolist() == [[[False, False], [True, False]]]


def test_an_empty_mask_is_the_patch_where_its_proposal_is_strongest():
    strengths = torch.tensor([[[0.1, 0.2], [0.05, 0.39]]])
    assert choose_patches(torch.zeros(1, 2, 2), strengths, 0.0).tolist() == [[[False, False], [False, True]]]


def test_of_no_masks_no_patches_are_chosen():
    assert choose_patches(torch.zeros(0, 2, 2), torch.zeros(0, 2, 2), 0.0).shape == (0, 2, 2)


@pytest.mark.parametrize("length", [1, 3, 7, 100])
@pytest.mark.parametrize("patches", [1, 4, 7])
def test_pixels_are_shared_out_among_patches_by_their_overlap(patches, length):
    fine = np.repeat(np.eye(length), patches, axis=1)  # every pixel cut into as many parts as there are patches
    expected = fine.reshape(length, patches, length).mean(2).T
    np.testing.assert_allclose(patch_weights(0, length, patches, length), expected, atol=1e-6)


def test_pixels_outside_the_view_belong_to_no_patch():
    weights = patch_weights(2, 6, 2, 8)
    assert weights.tolist() == [[0, 0, 0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5, 0, 0]]


@pytest.mark.parametrize(("changes", "most"), [({}, 2), ({"classifier_skipped_blocks": 1}, 1)])
def test_a_block_that_is_not_run_is_refused_at_once(clip, changes, most):
    with pytest.raises(InputError, match=rf"`mask_token_block` to be at most {most}, .* but got 3\."):
        make_classifier(clip, mask_token_block=3, **changes)
