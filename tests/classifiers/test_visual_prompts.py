"""Stage 2 against slow definitions, and how little it encodes."""

from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
import torch

from clip_as_rnn.classifiers import visual_prompts
from clip_as_rnn.classifiers.base import MasksToClassify
from clip_as_rnn.classifiers.drawing import prepare_prompts
from clip_as_rnn.classifiers.template_ensemble import TemplateEnsemble
from clip_as_rnn.classifiers.visual_prompts import VisualPromptClassifier, binarize_proposal
from clip_as_rnn.config import ClassifyConfig
from clip_as_rnn.encoders.preprocess import normalize, square_image
from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import upsample_maps
from untrained_clip import untrained_clip

CONFIG = ClassifyConfig(
    mask_threshold=0.5, visual_prompts=("blur", "circle"), templates=("a photo of a {}.", "a large {}")
)


IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip():
    clip = untrained_clip(seed=3)
    clip.logit_scale = 10.0  # so that no score is all but 0 or 1
    return clip


@pytest.fixture
def encoded(clip, monkeypatch):
    """Record the number of images of every pass."""
    batches, original = [], clip.encode_image

    def counted(pixels, **settings):
        batches.append(len(pixels))
        return original(pixels, **settings)

    monkeypatch.setattr(clip, "encode_image", counted)
    return batches


def maps_of(count, seed=0):
    return torch.rand(count, 6, 8, generator=torch.Generator().manual_seed(seed))


def make_classifier(clip, **changes):
    config = replace(CONFIG, **changes)
    ensemble = TemplateEnsemble(
        clip,
        clip.encode_text,
        templates=config.templates,
        ensemble=config.template_ensemble,
        contrast_texts=config.contrast_texts,
    )
    return VisualPromptClassifier(clip, ensemble, config)


def masks_of(classifier, texts, maps, image=IMAGE):
    """Put maps before a classifier, row i for text i of as many as there are maps."""
    active = np.arange(len(maps))
    return MasksToClassify(classifier.encode_images([image])[0], classifier.encode_texts(texts), active, maps)


def judge(clip, texts, maps, image=IMAGE, **changes):
    classifier = make_classifier(clip, **changes)
    (scores,) = classifier.classify([masks_of(classifier, texts, maps, image)])
    return scores


def slow_scores(clip, texts, maps, config):
    """Mark, encode and compare one text at a time, one template at a time."""
    scores = []
    for i, one in enumerate(maps):
        mask = (upsample_maps(one[None], IMAGE.shape[:2])[0] > config.mask_threshold).numpy()
        marked = prepare_prompts(IMAGE, config.visual_prompts).show(mask)
        pixels = normalize([square_image(marked, 32, config.classifier_view)], clip.preprocessor)
        image = clip.encode_image(pixels, skipped_blocks=config.classifier_skipped_blocks)[0]
        if config.template_ensemble == "feature":
            means = [sum(clip.encode_text([t.format(text)])[0] for t in config.templates) for text in texts]
            logits = [clip.logit_scale * float(image @ mean / mean.norm()) for mean in means]
        else:
            logits = [0.0] * len(texts)
            for template in config.templates:
                cosines = [float(image @ clip.encode_text([template.format(text)])[0]) for text in texts]
                powers = np.exp(clip.logit_scale * np.array(cosines))
                logits = [total + share for total, share in zip(logits, powers / powers.sum(), strict=True)]
        powers = np.exp(np.array(logits))
        scores.append(powers[i] / powers.sum())
    return scores


@pytest.mark.parametrize("view", ["crop", "whole"])
@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("ensemble", ["feature", "probability"])
def test_scores_are_those_of_the_slow_definition(clip, ensemble, skipped, view):
    changes = {"template_ensemble": ensemble, "classifier_skipped_blocks": skipped, "classifier_view": view}
    texts = ["cat", "red car", "sky"]
    expected = slow_scores(clip, texts, maps_of(3), replace(CONFIG, **changes))
    np.testing.assert_allclose(judge(clip, texts, maps_of(3), **changes), expected, atol=1e-5)


def test_a_lone_text_always_scores_one(clip):
    assert judge(clip, ["cat"], maps_of(1)) == pytest.approx([1.0])


def test_contrast_texts_let_a_lone_text_fail(clip):
    (score,) = judge(clip, ["cat"], maps_of(1), contrast_texts=("sky", "wall", "sea"))
    with_company = slow_scores(clip, ["cat", "sky", "wall", "sea"], maps_of(1), CONFIG)[0]
    assert score == pytest.approx(with_company, abs=1e-5)
    assert score < 1


def test_a_text_is_not_contrasted_with_itself(clip):
    alone = judge(clip, ["Sky", "cat"], maps_of(2))
    np.testing.assert_array_equal(judge(clip, ["Sky", "cat"], maps_of(2), contrast_texts=("sky",)), alone)


def test_a_text_that_was_dropped_does_not_come_back_as_contrast(clip):
    classifier = make_classifier(clip, contrast_texts=("SKY", "wall"))
    (later,) = classifier.classify([masks_of(classifier, ["cat", "sky"], maps_of(1))])
    np.testing.assert_array_equal(later, judge(clip, ["cat"], maps_of(1), contrast_texts=("wall",)))


def test_more_skipped_blocks_than_the_clip_has_are_refused_at_once(clip):
    with pytest.raises(InputError, match=r"`classifier_skipped_blocks` to be at most 3, .* but got 4\."):
        make_classifier(clip, classifier_skipped_blocks=4)


def test_identical_marked_images_are_encoded_once(clip, encoded):
    same = maps_of(1).expand(5, 6, 8)
    scores = judge(clip, list("abcde"), same)
    assert encoded == [1]
    assert scores.sum() == pytest.approx(1.0, abs=1e-5)


def test_texts_without_a_proposal_share_the_image_as_it_is(clip, encoded):
    scores = judge(clip, ["a", "b"], torch.zeros(2, 6, 8), visual_prompts=("black",))
    assert encoded == [1]
    np.testing.assert_allclose(scores, judge(clip, ["a", "b"], torch.zeros(2, 6, 8), visual_prompts=()), atol=1e-6)


def test_a_later_step_encodes_only_what_it_has_not_seen(clip, encoded):
    classifier = make_classifier(clip)
    first = masks_of(classifier, list("abcd"), maps_of(4))
    classifier.classify([first])
    later = replace(first, active=np.array([0, 1, 3]), masks=torch.cat([maps_of(4)[:2], maps_of(1, seed=9)]))
    classifier.classify([later])
    assert encoded == [4, 1]


def test_another_image_shares_nothing_but_the_pass(clip, encoded):
    classifier = make_classifier(clip)
    both = [masks_of(classifier, ["a", "b"], maps_of(2), image) for image in (IMAGE, 255 - IMAGE)]
    together = classifier.classify(both)
    assert encoded == [4]
    for scores, image in zip(together, (IMAGE, 255 - IMAGE), strict=True):
        np.testing.assert_allclose(scores, judge(clip, ["a", "b"], maps_of(2), image=image), atol=1e-5)


@pytest.mark.parametrize("count", [7, 8, 9, 16, 17])
def test_no_image_is_lost_at_the_edge_of_a_batch(clip, encoded, count):
    texts = [f"thing {i}" for i in range(count)]
    scores = judge(clip, texts, maps_of(count))
    assert encoded == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    np.testing.assert_allclose(scores, slow_scores(clip, texts, maps_of(count), CONFIG), atol=1e-5)


def test_marked_images_of_a_pass_are_drawn_side_by_side(clip, monkeypatch):
    """Each of four drawings waits for the other three: one after the other, the first would wait in vain."""
    together = Barrier(4, timeout=30)
    draw = visual_prompts._draw

    def draw_together(unseen, **settings):
        together.wait()
        return draw(unseen, **settings)

    monkeypatch.setattr(visual_prompts, "_DRAWING_THREADS", 4)
    monkeypatch.setattr(visual_prompts, "_draw", draw_together)
    scores = judge(clip, list("abcd"), maps_of(4))
    np.testing.assert_allclose(scores, slow_scores(clip, list("abcd"), maps_of(4), CONFIG), atol=1e-5)


def test_a_proposal_of_one_pixel_in_sum_is_none():
    assert binarize_proposal(torch.full((1, 1), 0.01), (10, 10), 0.0) is None
    assert binarize_proposal(torch.full((1, 1), 0.011), (10, 10), 0.0).all()


def test_a_proposal_below_the_threshold_is_an_empty_mask():
    """The release shows all of the image as outside then, blurred or black, not as it is."""
    mask = binarize_proposal(torch.full((2, 2), 0.4), (10, 10), 0.4)
    assert mask is not None
    assert not mask.any()


def test_an_empty_mask_and_no_proposal_are_shown_differently(clip, encoded):
    maps = torch.stack([torch.zeros(6, 8), torch.full((6, 8), 0.3)])
    judge(clip, ["a", "b"], maps, visual_prompts=("black",))
    assert encoded == [2]


def test_every_batch_is_announced_so_that_a_run_can_be_stopped_between_two(clip, encoded):
    def stop(done, total):
        told.append((done, total))
        if done >= 16:
            raise KeyboardInterrupt

    told, classifier = [], make_classifier(clip)
    masks = masks_of(classifier, [f"thing {i}" for i in range(20)], maps_of(20))
    with pytest.raises(KeyboardInterrupt):
        classifier.classify([masks], stop)
    assert told == [(0, 20), (8, 20), (16, 20)]
    assert encoded == [8, 8]


def test_texts_are_counted_over_all_templates(clip):
    told = []
    make_classifier(clip).encode_texts(["cat", "dog", "cow"], lambda done, total: told.append((done, total)))
    assert told == [(0, 6), (3, 6)]
