"""The recurrence (Sun et al., algorithm 1), on fakes: what is asked, in which order, and when it ends."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_as_rnn.errors import InputError
from fake_stages import IMAGE, fake_segmenter


def share(text, texts, _):
    """Leave the last text out while others are left: a score that depends on the company."""
    return 0.1 if len(texts) > 2 and text == texts[-1] else 0.8


def fixed(**scores):
    return lambda text, *_: scores[text]


def alive(result):
    return [step.texts for step in result.trace.steps]


def test_repeats_until_nothing_changes():
    """Scores depend on the other texts, so dropping one can condemn another."""
    result = fake_segmenter(share).segment(IMAGE, ["a", "b", "c", "d"], trace=True)
    assert alive(result) == [("a", "b", "c", "d"), ("a", "b", "c"), ("a", "b")]
    assert result.texts == ("a", "b")


def test_one_step_suffices_where_nothing_drops():
    result = fake_segmenter(fixed(a=0.9, b=0.5)).segment(IMAGE, ["a", "b"], trace=True)
    assert alive(result) == [("a", "b")]


def test_steps_are_counted_from_one_and_see_only_what_is_left():
    segmenter = fake_segmenter(share)
    segmenter.segment(IMAGE, ["a", "b", "c"])
    assert segmenter.stages.proposer.proposed == [(("a", "b", "c"), 1), (("a", "b"), 2)]


def test_nothing_found_is_an_empty_result():
    result = fake_segmenter(fixed(a=0.1, b=0.2)).segment(IMAGE, ["a", "b"])
    assert result.texts == ()
    assert result.masks.shape == (0, 6, 8)
    assert result.scores.shape == (0,)
    assert not result.label_map().any()
    assert result.queries == ("a", "b")


def test_rows_of_masks_and_scores_follow_the_texts():
    result = fake_segmenter(fixed(a=0.6, b=0.1, ccc=0.9)).segment(IMAGE, ["a", "b", "ccc"], trace=True)
    assert result.texts == ("a", "ccc")
    assert result.scores == pytest.approx([0.6, 0.9])
    assert result.trace.steps[-1].maps.amax((1, 2)).tolist() == pytest.approx([0.01, 0.03])


def test_rejections_say_step_and_score():
    result = fake_segmenter(share).segment(IMAGE, ["a", "b", "c", "d"])
    told = [(one.text, one.step, one.score, one.reason) for one in result.rejections]
    assert told == [("c", 2, pytest.approx(0.1), "score below 0.5"), ("d", 1, pytest.approx(0.1), "score below 0.5")]


def test_a_text_without_a_pixel_is_rejected_with_its_score():
    result = fake_segmenter(lambda *_: 0.9).segment(IMAGE, ["a", "b!"])
    assert result.texts == ("a",)
    (rejection,) = result.rejections
    assert (rejection.text, rejection.step, rejection.reason) == ("b!", 1, "no pixel left after refinement")
    assert rejection.score == pytest.approx(0.9)


def test_a_text_without_a_pixel_stays_where_the_setting_says_so():
    result = fake_segmenter(lambda *_: 0.9, drop_empty_masks=False).segment(IMAGE, ["a", "b!"])
    assert result.texts == ("a", "b!")
    assert not result.masks[1].any()
    assert result.rejections == ()


@pytest.mark.parametrize(("strict", "found"), [(False, ("a", "b")), (True, ("b",))])
def test_a_score_at_the_threshold_passes_unless_strict(strict, found):
    segmenter = fake_segmenter(fixed(a=0.5, b=0.75), strict_threshold=strict)
    assert segmenter.segment(IMAGE, ["a", "b"]).texts == found


def test_a_strict_threshold_words_its_rejections_so():
    (rejection,) = fake_segmenter(fixed(a=0.5), strict_threshold=True).segment(IMAGE, ["a"]).rejections
    assert rejection.reason == "score not above 0.5"


def test_the_best_text_stays_where_none_passes_and_the_setting_says_so():
    result = fake_segmenter(fixed(a=0.1, b=0.3, c=0.2), keep_best=True).segment(IMAGE, ["a", "b", "c"], trace=True)
    assert alive(result) == [("a", "b", "c"), ("b",)]
    assert result.texts == ("b",)


def test_the_first_step_is_repeated_where_the_setting_says_so():
    segmenter = fake_segmenter(fixed(a=0.9, b=0.9), repeat_first_step=True)
    assert alive(segmenter.segment(IMAGE, ["a", "b"], trace=True)) == [("a", "b"), ("a", "b")]


def test_a_repeated_first_step_ends_where_nothing_is_left():
    segmenter = fake_segmenter(fixed(a=0.1), repeat_first_step=True)
    assert alive(segmenter.segment(IMAGE, ["a"], trace=True)) == [("a",)]


def test_no_steps_keep_every_text_whatever_its_score():
    result = fake_segmenter(fixed(a=0.0, b=0.9), max_steps=0).segment(IMAGE, ["a", "b"], trace=True)
    assert result.texts == ("a", "b")
    assert result.scores == pytest.approx([0.0, 0.9])
    assert len(result.trace.steps) == 1


def test_one_step_filters_once():
    result = fake_segmenter(share, max_steps=1).segment(IMAGE, ["a", "b", "c", "d"], trace=True)
    assert result.texts == ("a", "b", "c")
    assert len(result.trace.steps) == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 9), repeat=st.booleans(), best=st.booleans())
def test_ends_after_at_most_one_step_more_than_texts(seed, count, repeat, best):
    scores = np.random.default_rng(seed).random((count + 1, count + 1))
    judge = lambda text, texts, _: float(scores[len(texts), int(text)])  # noqa: E731
    segmenter = fake_segmenter(judge, repeat_first_step=repeat, keep_best=best)
    result = segmenter.segment(IMAGE, [str(i) for i in range(count)], trace=True)
    sizes = [len(step.texts) for step in result.trace.steps]
    assert len(sizes) <= count + 1
    assert sizes == sorted(sizes, reverse=True)
    assert set(result.texts) | {one.text for one in result.rejections} == set(result.queries)
    assert len(result.texts) + len(result.rejections) == count


def test_the_trace_is_kept_only_if_asked_for():
    segmenter = fake_segmenter(share)
    assert segmenter.segment(IMAGE, ["a"]).trace is None
    assert segmenter.segment(IMAGE, ["a"], trace=True).trace.steps[0].kept == (0,)


def test_time_is_told_per_stage():
    seconds = fake_segmenter(share).segment(IMAGE, ["a"]).seconds
    assert set(seconds) == {"encode_image", "encode_text", "propose", "classify", "refine"}


def images(count):
    return [np.full((6, 8, 3), i, dtype=np.uint8) for i in range(count)]


def by_brightness(text, texts, view):
    """Drop more texts, over more steps, the brighter the image."""
    return 0.1 if len(texts) > 5 - view.image[0, 0, 0] and text == texts[-1] else 0.8


def summary(result):
    return result.texts, [(one.text, one.step) for one in result.rejections]


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_many_images_give_what_each_gives_alone(at_once):
    segmenter = fake_segmenter(by_brightness)
    alone = [summary(segmenter.segment(image, list("abcde"))) for image in images(5)]
    together = segmenter.segment_many(images(5), list("abcde"), images_at_once=at_once)
    assert [summary(result) for result in together] == alone
    backwards = segmenter.segment_many(images(5)[::-1], list("abcde"), images_at_once=at_once)
    assert [summary(result) for result in backwards] == alone[::-1]


def test_images_side_by_side_share_the_classifiers_passes():
    segmenter = fake_segmenter(by_brightness)
    list(segmenter.segment_many(images(3), list("abcde"), images_at_once=3))
    assert segmenter.stages.classifier.images_at_once == [3, 2, 1]  # the nth image needs n steps


def test_images_side_by_side_are_encoded_together():
    segmenter = fake_segmenter(share)
    list(segmenter.segment_many(images(5), ["a"], images_at_once=2))
    assert segmenter.stages.proposer.encoded_at_once == [2, 2, 1]


def test_of_images_encoded_together_one_that_cannot_be_leaves_the_others_as_they_are():
    segmenter = fake_segmenter(by_brightness)
    good, bad, other = segmenter.encode_each([images(4)[3], "no such file.jpg", images(3)[2]])
    assert isinstance(bad, InputError)
    assert "no such file.jpg" in str(bad)
    for encoded, image in ((good, images(4)[3]), (other, images(3)[2])):
        assert summary(segmenter.segment(encoded, list("abcde"))) == summary(segmenter.segment(image, list("abcde")))
    assert segmenter.encode_each([]) == []


def test_frames_of_a_clip_are_encoded_together():
    segmenter = fake_segmenter(share, window_frames=8, context_frames=2)
    assert len(list(segmenter.segment_video(images(10), ["a"]))) == 10
    assert segmenter.stages.proposer.encoded_at_once == [4, 4, 2]


def test_images_are_read_as_they_are_needed():
    read = []

    def source():
        for image in images(6):
            read.append(int(image[0, 0, 0]))
            yield image

    results = fake_segmenter(share).segment_many(source(), ["a"], images_at_once=2)
    assert read == []
    next(results)
    assert read == [0, 1]
    list(results)
    assert read == list(range(6))


def test_no_images_give_no_results():
    assert list(fake_segmenter(share).segment_many([], ["a"])) == []


def test_a_call_leaves_no_trace_in_the_next():
    segmenter = fake_segmenter(by_brightness)
    before = summary(segmenter.segment(images(1)[0], list("abcde")))
    segmenter.segment(images(5)[4], ["x", "y"])
    assert summary(segmenter.segment(images(1)[0], list("abcde"))) == before


def test_two_threads_at_once_get_what_each_gets_alone():
    segmenter = fake_segmenter(by_brightness)
    work = [(image, list(texts)) for image in images(5) for texts in ("abcde", "vwxyz")]
    alone = [summary(segmenter.segment(*one)) for one in work]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: summary(segmenter.segment(*one)), work * 3)) == alone * 3


def test_texts_are_refused_before_any_image_is_read():
    with pytest.raises(InputError, match="none"):
        fake_segmenter(share).segment("no such file.jpg", [])


def test_a_text_too_long_for_the_stages_is_refused_before_any_image_is_read():
    with pytest.raises(InputError, match="too long"):
        fake_segmenter(share).segment("no such file.jpg", ["a" * 71])


def test_of_many_images_texts_are_checked_before_the_first_is_asked_for():
    with pytest.raises(InputError, match="single text"):
        fake_segmenter(share).segment_many(images(2), "cat")


def test_several_questions_about_an_encoded_image_cost_one_image_pass():
    segmenter = fake_segmenter(by_brightness)
    encoded = segmenter.encode(images(4)[3])
    results = [segmenter.segment(encoded, texts) for texts in (list("abcde"), ["x", "y"])]
    results += segmenter.segment_many([encoded, encoded], list("abcde"))
    assert segmenter.stages.proposer.encoded == [3]
    alone = [segmenter.segment(images(4)[3], texts) for texts in (list("abcde"), ["x", "y"])]
    assert [summary(result) for result in results] == [summary(alone[i]) for i in (0, 1, 0, 0)]


def test_an_image_encoded_by_another_segmenter_is_refused():
    with pytest.raises(InputError, match=r"encoded by another segmenter; encode it with this one\."):
        fake_segmenter(share).segment(fake_segmenter(share).encode(IMAGE), ["a"])


def test_texts_encoded_by_another_segmenter_are_refused():
    with pytest.raises(InputError, match=r"texts were encoded by another segmenter; encode them with this one\."):
        fake_segmenter(share).segment(IMAGE, fake_segmenter(share).encode_texts(["a"]))


def test_texts_encoded_once_serve_any_number_of_images():
    segmenter = fake_segmenter(by_brightness)
    texts = segmenter.encode_texts([*"abcde", "a"])
    results = [segmenter.segment(image, texts) for image in images(4)]
    assert segmenter.stages.proposer.questions == [tuple("abcde")]
    assert [one.seconds["encode_text"] for one in results] == [0.0] * 4
    assert [summary(one) for one in results] == [summary(segmenter.segment(one, list("abcde"))) for one in images(4)]
    with pytest.raises(InputError, match="too long"):
        segmenter.encode_texts(["a" * 71])


def test_shared_work_is_booked_once():
    segmenter = fake_segmenter(share)
    encoded = segmenter.encode(IMAGE)
    assert segmenter.segment(encoded, ["a"]).seconds["encode_image"] == 0.0
    results = list(segmenter.segment_many(images(4), ["a"], images_at_once=2))
    assert results[0].seconds["encode_text"] == results[1].seconds["encode_text"] > 0
    assert results[2].seconds["encode_text"] == results[3].seconds["encode_text"] == 0.0


def test_an_image_is_delivered_before_the_next_one_is_refined(monkeypatch):
    segmenter = fake_segmenter(share)
    refine, refined = segmenter.stages.refiner.refine, []
    monkeypatch.setattr(segmenter.stages.refiner, "refine", lambda *given: refined.append(1) or refine(*given))
    next(segmenter.segment_many(images(3), ["a"], images_at_once=3))
    assert len(refined) == 1


def test_without_filter_the_first_step_is_still_repeated_where_the_setting_says_so():
    segmenter = fake_segmenter(fixed(a=0.0, b=0.9), max_steps=0, repeat_first_step=True)
    assert alive(segmenter.segment(IMAGE, ["a", "b"], trace=True)) == [("a", "b"), ("a", "b")]


def test_texts_are_encoded_once_for_many_images():
    segmenter = fake_segmenter(share)
    list(segmenter.segment_many(images(6), ["a", "b"], images_at_once=2))
    assert segmenter.stages.proposer.questions == [("a", "b")]


def test_progress_names_every_piece_of_work_before_it_begins():
    told = []
    fake_segmenter(share).segment(IMAGE, ["a", "b", "c"], callback=told.append)
    assert [(one.stage, one.step, one.texts) for one in told] == [
        ("encode", 0, 3),
        ("propose", 1, 3),
        ("classify", 1, 3),
        ("propose", 2, 2),
        ("classify", 2, 2),
        ("refine", 2, 2),
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"visual_prompts": ("circle", "blur")}, "visual prompts (blur, circle)"),
        ({"visual_prompts": ()}, "the plain image"),
        ({"classify_by": "mask-tokens", "mask_token_block": 2}, "mask tokens from block 2 on"),
    ],
)
def test_a_trace_says_how_masks_were_judged(settings, words):
    assert fake_segmenter(share, **settings).segment(IMAGE, ["a"], trace=True).judged_by == words


def test_progress_counts_what_a_stage_counts(monkeypatch):
    segmenter, told = fake_segmenter(share), []
    encode, classify = segmenter.stages.classifier.encode_texts, segmenter.stages.classifier.classify

    def counted_texts(texts, tick):
        tick(1, 2)
        return encode(texts)

    def counted_masks(masks, tick):
        tick(2, 3)
        return classify(masks)

    monkeypatch.setattr(segmenter.stages.classifier, "encode_texts", counted_texts)
    monkeypatch.setattr(segmenter.stages.classifier, "classify", counted_masks)
    segmenter.segment(IMAGE, ["a", "b"], callback=told.append)
    counted = [(one.stage, one.step, one.texts, one.done, one.total) for one in told if one.done]
    assert counted == [("encode", 0, 2, 1, 2), ("classify", 1, 2, 2, 3)]


def test_a_callback_that_raises_ends_the_segmentation():
    def stop(progress):
        if progress.stage == "classify":
            raise KeyboardInterrupt

    segmenter = fake_segmenter(share)
    with pytest.raises(KeyboardInterrupt):
        segmenter.segment(IMAGE, ["a", "b", "c"], callback=stop)
    assert segmenter.stages.classifier.images_at_once == []


def test_made_from_given_stages_a_segmenter_cannot_be_rebuilt():
    with pytest.raises(InputError, match=r"made from given stages and cannot be rebuilt with other settings\."):
        fake_segmenter(share).replace(score_threshold=0.1)


@pytest.mark.parametrize(("weight", "found"), [(0.0, ("a", "b")), (0.5, ("a",))])
def test_the_proposers_certainty_counts_as_much_as_it_is_given_weight(weight, found):
    segmenter = fake_segmenter(fixed(a=0.64, b=0.81), certainty_weight=weight)
    segmenter.stages.proposer.certainty = {"a": 1.0, "b": 0.01}
    result = segmenter.segment(IMAGE, ["a", "b"])
    assert result.texts == found
    assert result.scores[0] == pytest.approx(0.64 if weight == 0 else 0.8)
