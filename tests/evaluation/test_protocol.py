"""Which question is asked in which pass, and what lies on top."""

import numpy as np
import pytest

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.evaluation.datasets.vocabulary import ClassName, Vocabulary
from clip_as_rnn.evaluation.protocol import merge_masks, plan_passes, predict_labels, predict_reference
from clip_as_rnn.result import Segmentation
from evaluation_trees import FakeSegmenter, box
from fake_results import fake_segmentation

SIZE = (4, 4)
IMAGE = np.zeros((*SIZE, 3), dtype=np.uint8)
MIXED = Vocabulary(
    (ClassName("sky", "sky", "stuff"), ClassName("dog", "dog", "thing"), ClassName("sea", "sea", "stuff"))
)
THINGS = Vocabulary((ClassName("dog", "dog", "thing"), ClassName("cat", "cat", "thing")))
CONFIG = with_settings(
    SegmenterConfig(),
    {"background_texts": ("ground",), "visual_prompts": ("circle",), "stuff_visual_prompts": ("gray",)},
)


def ask(vocabulary, order, answers=None, config=CONFIG):
    segmenter = FakeSegmenter({SIZE: answers or {}}, config)
    return predict_labels(plan_passes(segmenter, vocabulary, order), IMAGE), segmenter.calls


def test_official_asks_stuff_against_the_things_and_things_against_the_background_texts():
    _, (stuff, things) = ask(MIXED, "official")
    assert (stuff.texts, stuff.background_texts, stuff.visual_prompts) == (("sky", "sea"), ("dog",), ("gray",))
    assert (things.texts, things.background_texts, things.visual_prompts) == (("dog",), ("ground",), ("circle",))


def test_paper_asks_each_against_the_other():
    _, (stuff, things) = ask(MIXED, "paper")
    assert (stuff.texts, stuff.background_texts) == (("sky", "sea"), ("dog",))
    assert (things.texts, things.background_texts) == (("dog",), ("sky", "sea"))


@pytest.mark.parametrize(("vocabulary", "order"), [(MIXED, "single"), (THINGS, "official"), (THINGS, "paper")])
def test_one_pass_asks_everything_where_nothing_is_divided(vocabulary, order):
    _, calls = ask(vocabulary, order)
    assert [(call.texts, call.background_texts) for call in calls] == [(vocabulary.texts, ("ground",))]


def test_stuff_has_the_marks_of_things_unless_it_has_its_own():
    _, (stuff, _) = ask(MIXED, "official", config=with_settings(SegmenterConfig(), {"visual_prompts": ("circle",)}))
    assert stuff.visual_prompts == ("circle",)


@pytest.mark.parametrize("order", ["official", "paper"])
def test_things_lie_on_stuff_and_labels_follow_the_vocabulary(order):
    answers = {"sky": box(SIZE, slice(0, 3)), "dog": box(SIZE, slice(2, 4))}
    found, _ = ask(MIXED, order, answers)
    assert found.labels.tolist() == [[1] * 4, [1] * 4, [2] * 4, [2] * 4]
    assert found.kept == (1, 2)


def test_a_text_is_kept_even_where_another_covers_all_of_it():
    answers = {"sky": box(SIZE, slice(2, 3)), "dog": box(SIZE, slice(2, 4))}
    found, _ = ask(MIXED, "official", answers)
    assert found.kept == found.masked == (1, 2)
    assert set(np.unique(found.labels)) == {0, 2}


class Refining(FakeSegmenter):
    """Keeps every text but one, and leaves the last one without a pixel."""

    def segment(self, image, texts, *, trace=False):
        found = fake_segmentation(SIZE, texts, {"cow": 1}, trace=trace)
        emptied = found.masks & (np.arange(len(found.texts)) < len(found.texts) - 1)[:, None, None]
        stayed = (
            emptied.any(axis=(1, 2)) if self.config.refine.drop_empty_masks else np.ones(len(found.texts), dtype=bool)
        )
        texts_left = tuple(text for text, stays in zip(found.texts, stayed, strict=True) if stays)
        return Segmentation(texts, texts_left, emptied[stayed], found.scores[stayed], trace=found.trace)

    def replace(self, **settings):
        return Refining(self.answers, super().replace(**settings).config)


@pytest.mark.parametrize("drops_empty", [True, False])
def test_a_text_that_refinement_leaves_no_pixel_is_kept_but_not_masked(drops_empty):
    """Presence is the classifier's decision, whatever becomes of the mask."""
    vocabulary = Vocabulary(tuple(ClassName(name, name, "thing") for name in ("dog", "cow", "cat")))
    segmenter = Refining({}).replace(drop_empty_masks=drops_empty)
    found = predict_labels(plan_passes(segmenter, vocabulary, "paper"), IMAGE)
    assert (found.kept, found.masked) == ((1, 3), (1,))


def test_only_the_texts_that_an_image_shows_are_asked_when_wanted():
    segmenter = FakeSegmenter({SIZE: {"dog": box(SIZE, slice(0, 2))}}, CONFIG)
    found = predict_labels(plan_passes(segmenter, MIXED, "official"), IMAGE, selection="present", present=[2])
    assert [call.texts for call in segmenter.calls] == [("dog",)]  # no stuff is there, so its pass is left out
    assert found.kept == (2,)


def test_each_text_is_asked_by_itself_when_wanted_and_the_best_score_lies_on_top():
    segmenter = FakeSegmenter({SIZE: {"cat": box(SIZE, slice(1, 4)), "dog": box(SIZE, slice(0, 2))}})
    found = predict_labels(plan_passes(segmenter, THINGS, "paper"), IMAGE, selection="each")
    assert [call.texts for call in segmenter.calls] == [("dog",), ("cat",)]
    assert found.labels[:, 0].tolist() == [1, 2, 2, 2]
    assert found.kept == (1, 2)


def test_many_texts_asked_one_by_one_cost_one_image_pass():
    segmenter = FakeSegmenter({SIZE: {"cat": box(SIZE, slice(1, 4))}})
    predict_labels(plan_passes(segmenter, THINGS, "paper"), IMAGE, selection="each")
    assert (len(segmenter.calls), segmenter.encoded) == (2, [SIZE])


def test_all_sentences_about_an_object_cost_one_image_pass():
    segmenter = FakeSegmenter({SIZE: {"a": box(SIZE, slice(0, 2))}})
    predict_reference(segmenter, IMAGE, ("a", "b", "c"))
    assert (len(segmenter.calls), segmenter.encoded) == (4, [SIZE])


def found_for(masks, scores):
    texts = tuple(str(i) for i in range(len(masks)))
    return Segmentation(texts, texts, np.array(masks).reshape(-1, 10, 10), np.array(scores, dtype=float))


def test_sentences_vote_with_their_scores():
    left, top = box((10, 10), slice(None), slice(0, 5)), box((10, 10), slice(0, 5))
    assert np.array_equal(merge_masks(found_for([left, top], [0.9, 0.1])), left)
    assert np.array_equal(merge_masks(found_for([left, top], [0.5, 0.5])), left | top)  # half is enough


def test_a_merged_mask_of_five_percent_or_less_gives_way_to_the_union():
    five, six = box((10, 10), slice(0, 1), slice(0, 5)), box((10, 10), slice(0, 1), slice(0, 6))
    other = box((10, 10), slice(5, 6))
    assert np.array_equal(merge_masks(found_for([five, other], [0.9, 0.1])), five | other)
    assert np.array_equal(merge_masks(found_for([six, other], [0.9, 0.1])), six)


def test_nothing_found_merges_to_an_empty_mask():
    empty = merge_masks(found_for(np.zeros((0, 10, 10), dtype=bool), []))
    assert empty.shape == (10, 10)
    assert not empty.any()


def test_masks_without_any_score_merge_to_their_union():
    assert merge_masks(found_for([box((10, 10), slice(0, 5))], [0.0])).sum() == 50


def test_an_object_is_asked_with_all_sentences_and_then_with_each():
    left, top = box(SIZE, slice(None), slice(0, 2)), box(SIZE, slice(0, 2))
    segmenter = FakeSegmenter({SIZE: {"a": left, "b": top}})
    found = predict_reference(segmenter, IMAGE, ("a", "b"))
    assert [call.texts for call in segmenter.calls] == [("a", "b"), ("a",), ("b",)]
    assert np.array_equal(found.merged, left)  # scores 1 and 0.99
    assert np.array_equal(found.single[0], left)
    assert np.array_equal(found.single[1], top)


def test_a_lone_sentence_is_asked_once():
    segmenter = FakeSegmenter({SIZE: {"a": box(SIZE, slice(0, 2))}})
    found = predict_reference(segmenter, IMAGE, ("a", "a"))
    assert len(segmenter.calls) == 1
    assert len(found.single) == 2
