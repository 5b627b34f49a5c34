"""Masks carried from key frames, on stages that are made up: what is followed, from where, and what is left."""

import weakref
from dataclasses import replace

import numpy as np
import pytest

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.result import Refinement, Segmentation
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Stages
from clip_as_rnn.temporal.tracking import FinishedFrame, choose_key, cut_stretches
from fake_stages import FakeClassifier, FakeProposer, FakeRefiner

SIZE_HW = (24, 60)
TEXTS = ("dog", "bear")
STEP_PX = 2  # that everything moves to the right from frame to frame


def frames(count, size_hw=SIZE_HW):
    """Number the frames by their pixels."""
    for t in range(count):
        yield np.full((*size_hw, 3), t, dtype=np.uint8)


def number(image):
    return int(image[0, 0, 0])


def box(top, left, height=6, width=8):
    mask = np.zeros(SIZE_HW, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def shifted(mask, steps):
    moved, by = np.zeros_like(mask), STEP_PX * steps
    if by >= 0:
        moved[:, by:] = mask[:, : mask.shape[1] - by]
    else:
        moved[:, :by] = mask[:, -by:]
    return moved


class RoughRefiner(FakeRefiner):
    """Draws every text with a height of its own in each frame: as unsteady as masks can be."""

    def refine(self, image, masks):
        rows = [round(100 * float(one.max())) for one in masks]  # the length of the text
        drawn = [box(4 * row - 12, 10 + STEP_PX * number(image), 3 + number(image) % 5) for row in rows]
        return np.stack(drawn) if drawn else np.zeros((0, *SIZE_HW), bool)


class Replacer:
    """Leaves all masks, and agrees with them as told, frame by frame."""

    def __init__(self, agreement):
        self.agreement = agreement

    def encode_image(self, image):
        return image

    def refine(self, image, found, scores, *, probabilities=None, trace=False):
        iou = self.agreement[number(image)]
        return found, {i: Refinement(replaced=iou > 0.7, iou=iou, reason="told so") for i in range(len(found))}


class Shifter:
    """Follows a mask by the motion, which it knows from the frames' numbers; loses sight of it in some of them."""

    def __init__(self, blind=()):
        self.blind = blind
        self.asked = []  # the frames of each question

    def follow(self, images, mask):
        asked = []
        self.asked.append(asked)
        for image in images:
            asked.append(number(image))
            if len(asked) > 1:
                yield None if asked[-1] in self.blind else shifted(mask, asked[-1] - asked[0])


def segmenter_of(agreement, tracker, *, judge=lambda text, texts, image: 0.9, **settings):
    settings = {"score_threshold": 0.5, "mode": "referring", "sam_track_frames": 8, **settings}
    stages = Stages(FakeProposer(), FakeClassifier(judge), RoughRefiner(), Replacer(agreement), tracker)
    return Segmenter(stages, with_settings(SegmenterConfig(), settings))


def dog_in(*kept):
    """Find "dog" in these frames alone, and "bear" in none."""
    return lambda text, texts, image: 0.9 if text == "dog" and number(image.image) in kept else 0.1


AGREEMENT = [0.8, 0.75, 0.8, 0.95, 0.9, 0.8, 0.6, 0.8, 0.72, 0.71, 0.9, 0.1]  # best in frames 3, of the rest in 10


@pytest.mark.parametrize("windows", [{}, {"window_frames": 5, "context_frames": 2}])
def test_masks_are_those_of_the_key_frame_moved_in_both_directions(windows):
    """Wherever the windows of the recurrence are cut."""
    tracker = Shifter()
    results = list(segmenter_of(AGREEMENT, tracker, **windows).segment_video(frames(12), TEXTS))
    plain = list(segmenter_of(AGREEMENT, None, **windows).segment_video(frames(12), TEXTS))
    for t, result in enumerate(results):
        key = 3 if t < 8 else 10
        np.testing.assert_array_equal(result.masks, [shifted(mask, t - key) for mask in plain[key].masks])
        np.testing.assert_array_equal(result.scores, plain[t].scores)
        assert result.texts == plain[t].texts == TEXTS
    assert tracker.asked == [[3, 4, 5, 6, 7], [3, 2, 1, 0]] * 2 + [[10, 11], [10, 9, 8]] * 2


def test_every_mask_says_where_it_comes_from():
    results = list(segmenter_of(AGREEMENT, Shifter(blind=[5])).segment_video(frames(8), ["dog"]))
    reasons = [result.refinements["dog"].reason.split(":")[0] for result in results]
    assert reasons == [
        "followed from 3 frames ahead",
        "followed from 2 frames ahead",
        "followed from 1 frame ahead",
        "told so; the key frame of its stretch",
        "followed from 1 frame back",
        "told so; followed, but not seen by SAM 2",
        "followed from 3 frames back",
        "followed from 4 frames back",
    ]
    decision = results[4].refinements["dog"]  # five rows high there by itself, six in the key frame
    assert (decision.replaced, decision.iou) == (True, pytest.approx(6 / 7))


def test_where_the_tracker_sees_nothing_the_frame_keeps_its_own_mask_and_later_ones_are_followed():
    results = list(segmenter_of(AGREEMENT, Shifter(blind=[5])).segment_video(frames(8), ["dog"]))
    plain = list(segmenter_of(AGREEMENT, None).segment_video(frames(8), ["dog"]))
    np.testing.assert_array_equal(results[5].masks, plain[5].masks)
    np.testing.assert_array_equal(results[6].masks[0], shifted(plain[3].masks[0], 3))


def test_a_text_comes_into_no_frame_by_being_followed():
    """Frames without it are gone through on the way, and still say that it is not there."""
    tracker = Shifter()
    judge = dog_in(2, 3, 5)
    results = list(segmenter_of(AGREEMENT, tracker, judge=judge).segment_video(frames(8), TEXTS))
    assert [result.texts for result in results] == [("dog",) if t in (2, 3, 5) else () for t in range(8)]
    assert tracker.asked == [[3, 4, 5], [3, 2]]
    assert [one.text for one in results[4].rejections] == ["dog", "bear"]
    assert results[4].refinements == {}
    assert results[4].masks.shape == (0, *SIZE_HW)


def test_a_text_that_is_never_found_is_never_followed():
    tracker = Shifter()
    results = list(segmenter_of(AGREEMENT, tracker, judge=dog_in()).segment_video(frames(12), TEXTS))
    assert tracker.asked == []
    assert [result.texts for result in results] == [()] * 12


def test_where_sam_agrees_in_no_frame_nothing_is_followed():
    tracker = Shifter()
    results = list(segmenter_of([0.7] * 8, tracker).segment_video(frames(8), TEXTS))
    plain = list(segmenter_of([0.7] * 8, None).segment_video(frames(8), TEXTS))
    assert tracker.asked == []
    for result, other in zip(results, plain, strict=True):
        np.testing.assert_array_equal(result.masks, other.masks)
        assert [one.reason for one in result.refinements.values()] == ["told so"] * 2


def test_a_text_found_in_one_frame_is_not_followed_out_of_it():
    tracker = Shifter()
    results = list(segmenter_of(AGREEMENT, tracker, judge=dog_in(4)).segment_video(frames(8), TEXTS))
    assert tracker.asked == []
    assert results[4].texts == ("dog",)


def finished(rows, text="dog"):
    """Make frames of (score, IoU, replaced), in which the mask is whole, and empty with a fourth; None: no text."""
    for row in rows:
        texts = () if row is None else (text,)
        found = Segmentation(
            queries=(text,),
            texts=texts,
            masks=np.full((len(texts), 2, 2), not (row and row[3:])),
            scores=np.array([row[0]] if row else [], np.float32),
            refinements={text: Refinement(replaced=row[2], iou=row[1], reason="")} if row else {},
        )
        yield FinishedFrame(None, found, 1)


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        ([(0.9, 0.8, True), (0.8, 0.95, True), (0.95, 0.75, True)], 1),  # 0.72, 0.76, 0.71
        ([(0.5, 1.0, True), (0.99, 0.99, False), None, (0.6, 0.9, True)], 3),  # 0.50, SAM disagrees, absent, 0.54
        ([(0.9, 0.9, True), (0.9, 0.9, True)], 0),  # of equals the first
        ([None, (0.9, 0.6, False)], None),
        ([None, (0.0, 0.9, True)], None),
        ([(0.9, 0.9, True, "empty"), (0.6, 0.8, True)], 1),
        ([(0.9, 0.9, True, "empty")], None),
        ([None, None], None),
    ],
)
def test_the_key_frame_has_the_largest_product_of_score_and_agreement(rows, key):
    assert choose_key("dog", list(finished(rows))) == key


def test_in_semantic_mode_the_higher_score_keeps_a_pixel_and_who_has_none_left_is_rejected():
    """The bear's mask, followed, covers the dog's in all frames but the key frame."""

    class Over(Shifter):
        def follow(self, images, mask):
            for number, _ in enumerate(images):
                if number:
                    yield np.ones(SIZE_HW, bool) if mask[8].any() else mask

    def judge(text, texts, image):
        return 0.9 if text == "bear" else 0.8

    results = list(segmenter_of(AGREEMENT, Over(), judge=judge, mode="semantic").segment_video(frames(8), TEXTS))
    assert [result.texts for result in results] == [TEXTS if t == 3 else ("bear",) for t in range(8)]
    assert (results[0].label_map() == 1).all()
    (rejection,) = results[0].rejections
    assert (rejection.text, rejection.step) == ("dog", 1)
    assert rejection.reason == "no pixel left beside the masks that were followed"
    assert rejection.score == pytest.approx(0.8)
    kept = segmenter_of(AGREEMENT, Over(), judge=judge, mode="semantic", drop_empty_masks=False)
    assert [result.texts for result in kept.segment_video(frames(8), TEXTS)] == [TEXTS] * 8


def test_stretches_count_from_the_first_frame_and_begin_anew_where_the_size_changes():
    sizes = [(4, 4)] * 7 + [(4, 5)] * 4
    made = [
        FinishedFrame(t, Segmentation(queries=(), texts=(), masks=np.zeros((0, *size), bool), scores=np.zeros(0)), 1)
        for t, size in enumerate(sizes)
    ]
    assert [[frame.image for frame in one] for one in cut_stretches(iter(made), 3)] == [
        [0, 1, 2], [3, 4, 5], [6], [7, 8, 9], [10],
    ]  # fmt: skip
    assert list(cut_stretches(iter([]), 3)) == []


def test_no_more_frames_are_held_than_a_stretch_and_those_encoded_together():
    """Counted whenever another is encoded, which is when most are held."""
    seen, held = [], []

    class Seen(Replacer):
        def encode_image(self, image):
            seen.append(weakref.ref(image))
            held.append(sum(one() is not None for one in seen))
            return image

    class Still(Shifter):
        def follow(self, images, mask):
            yield from (mask for number, _ in enumerate(images) if number)

    plain = segmenter_of([0.9] * 60, Still())
    stages = replace(plain.stages, replacer=Seen([0.9] * 60))
    results = Segmenter(stages, plain.config).segment_video(frames(60), TEXTS)
    assert sum(1 for _ in results) == len(held) == 60
    assert max(held) == 8 + 4


def test_following_is_timed_and_told():
    told = []
    segmenter = segmenter_of(AGREEMENT, Shifter())
    results = list(segmenter.segment_video(frames(8), TEXTS, callback=told.append))
    assert all(result.seconds["track"] >= 0 for result in results)
    counted = [(one.done, one.total) for one in told if one.stage == "sam" and one.total]
    assert counted == [(0, 2)] * 9 + [(1, 2)] * 9  # eight frames, the key frame twice


def test_pictures_are_not_followed():
    tracker = Shifter()
    segmenter = segmenter_of(AGREEMENT, tracker)
    assert segmenter.segment(next(frames(1)), TEXTS).texts == TEXTS
    assert len(list(segmenter.segment_many(frames(3), TEXTS))) == 3
    assert tracker.asked == []


def test_presets_of_the_paper_follow_nothing():
    following = {name for name, config in PRESETS.items() if config.video.sam_track_frames > 1}
    assert {"default", "fast", "tiny"} <= following
    assert not any(name.startswith(("paper-", "official-")) for name in following)
