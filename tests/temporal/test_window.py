"""Clips through a segmenter whose stages are made up: what windows change, and what they leave as it is."""

import weakref

import numpy as np
import pytest
import torch

from clip_as_rnn.config import VideoConfig
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.temporal.window import cut_windows
from fake_stages import fake_segmenter

TEXTS = ("dog", "cat")
WINDOWS = {"window_frames": 8, "context_frames": 3}


def frames(count, size_hw=(32, 40)):
    """Number the frames by their first pixel."""
    for t in range(count):
        yield np.full((*size_hw, 3), t, dtype=np.uint8)


def number(image):
    return int(image.image[0, 0, 0])


def seen_at(scores):
    """Judge "dog" by these scores, frame by frame, and "cat" as absent."""
    return lambda text, texts, image: scores[number(image)] if text == "dog" else 0.1


def found(segmenter, count):
    return [segmentation.texts for segmentation in segmenter.segment_video(frames(count), TEXTS)]


FLICKERING = [0.9, 0.2, 0.9, 0.9, 0.3, 0.9, 0.1, 0.9, 0.9, 0.2, 0.9, 0.9, 0.3, 0.9, 0.9, 0.9, 0.2, 0.9, 0.9, 0.9]


def test_windows_that_neither_pool_nor_smooth_leave_every_frame_as_it_is():
    plain, windowed = fake_segmenter(seen_at(FLICKERING)), fake_segmenter(seen_at(FLICKERING), **WINDOWS)
    pairs = zip(plain.segment_video(frames(20), TEXTS), windowed.segment_video(frames(20), TEXTS), strict=True)
    for one, other in pairs:
        assert (one.texts, one.scores.tolist(), one.rejections) == (
            other.texts,
            other.scores.tolist(),
            other.rejections,
        )
        assert np.array_equal(one.label_map(), other.label_map())


def test_a_text_that_flickers_is_found_throughout():
    steady = fake_segmenter(seen_at(FLICKERING), **WINDOWS, evidence_frames=3.0)
    assert found(fake_segmenter(seen_at(FLICKERING)), 20).count(()) == 6
    assert found(steady, 20) == [("dog",)] * 20


def test_one_frame_that_errs_finds_nothing():
    scores = [0.2] * 20
    scores[9] = 0.8
    assert found(fake_segmenter(seen_at(scores)), 20)[9] == ("dog",)
    assert found(fake_segmenter(seen_at(scores), **WINDOWS, evidence_frames=3.0), 20) == [()] * 20


def test_a_text_that_comes_and_goes_is_found_when_it_is_there():
    scores = [0.9] * 7 + [0.1] * 8 + [0.9] * 7
    texts = found(fake_segmenter(seen_at(scores), **WINDOWS, evidence_frames=1.0), 22)
    assert texts == [("dog",)] * 7 + [()] * 8 + [("dog",)] * 7


def test_hysteresis_reaches_across_windows():
    scores = [0.9] + [0.4] * 19
    assert found(fake_segmenter(seen_at(scores), **WINDOWS, stay_share=0.7), 20) == [("dog",)] * 20
    assert found(fake_segmenter(seen_at(scores), **WINDOWS), 20) == [("dog",)] + [()] * 19


PEAKS = {**WINDOWS, "peak_frames": 4, "peak_odds": 3.0, "stay_share": 0.5}  # theta is 0.5; the best must reach 0.75


def test_a_text_seen_well_in_a_few_frames_is_found_wherever_enough_of_it_shows():
    scores = [0.3, 0.3, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.3, 0.3, 0.3, 0.3]
    texts = found(fake_segmenter(seen_at(scores), **PEAKS), 12)
    assert texts == [("dog",) if score > 0.25 else () for score in scores]


def test_the_best_frames_promise_too_much_so_more_is_asked_of_them():
    scores = [0.1, 0.6] * 6
    assert found(fake_segmenter(seen_at(scores), **{**PEAKS, "peak_odds": 1.0}), 12) == [(), ("dog",)] * 6
    assert found(fake_segmenter(seen_at(scores), **PEAKS), 12) == [()] * 12


def test_a_clip_of_no_more_frames_than_the_best_is_held_to_theta():
    assert found(fake_segmenter(seen_at([0.6, 0.4, 0.1]), **PEAKS), 3) == [("dog",), ("dog",), ()]


def test_what_the_best_frames_reject_is_said_so_and_a_picture_is_judged_by_itself():
    segmenter = fake_segmenter(seen_at([0.6] * 12), **PEAKS)
    assert segmenter.segment(next(frames(1)), TEXTS).texts == ("dog",)
    rejections = next(segmenter.segment_video(frames(12), TEXTS)).rejections
    assert [one.text for one in rejections] == ["dog", "cat"]
    assert {one.reason for one in rejections} == {"too little of it in this frame, or in the best of those around"}


def test_scores_are_those_pooled():
    scores = [0.9, 0.6] * 4
    one = next(fake_segmenter(seen_at(scores), **WINDOWS, evidence_frames=2.0).segment_video(frames(8), TEXTS))
    weights = np.exp(-np.arange(8) / 2)
    assert one.scores[0] == pytest.approx(np.average(scores, weights=weights), rel=1e-4)


def test_every_frame_is_encoded_once_whatever_the_windows():
    segmenter = fake_segmenter(seen_at([0.9] * 40), **WINDOWS, evidence_frames=2.0, smooth_frames=2.0)
    assert len(found(segmenter, 40)) == 40
    assert segmenter.stages.proposer.encoded == list(range(40))


def test_no_more_frames_are_held_than_a_window_and_those_encoded_with_the_next_one(monkeypatch):
    """Counted whenever others are encoded, which is when most are held."""
    segmenter = fake_segmenter(seen_at([0.9] * 100), **WINDOWS, evidence_frames=2.0, smooth_frames=2.0)
    encode, seen, held = segmenter.stages.classifier.encode_images, ([], []), ([], [])

    def counted(images):
        encoded = encode(images)
        for alive, most, some in zip(seen, held, (encoded, images), strict=True):
            alive.extend(weakref.ref(one) for one in some)
            most.append(sum(one() is not None for one in alive))
        return encoded

    monkeypatch.setattr(segmenter.stages.classifier, "encode_images", counted)
    assert len(found(segmenter, 100)) == len(seen[0]) == 100
    assert max(held[0]) == WINDOWS["window_frames"] + 4
    assert max(held[1]) == WINDOWS["window_frames"] + 4 + WINDOWS["context_frames"]  # pixels that are looked back at


@pytest.mark.parametrize(("scale", "grid_hw"), [(1, (3, 4)), (4, (12, 16))])
def test_masks_of_texts_that_passed_are_refined_from_a_finer_grid(scale, grid_hw, monkeypatch):
    segmenter = fake_segmenter(seen_at([0.9] * 10), **WINDOWS, smooth_frames=2.0, smooth_scale=scale)
    refined = []
    monkeypatch.setattr(
        segmenter.stages.refiner,
        "refine",
        lambda image, maps: refined.append(maps) or np.ones((1, *image.shape[:2]), bool),
    )
    assert found(segmenter, 10) == [("dog",)] * 10
    assert [tuple(maps.shape) for maps in refined] == [(1, *grid_hw)] * 10
    assert all(torch.allclose(maps, torch.full_like(maps, 0.03), atol=1e-6) for maps in refined)  # as was proposed


def test_a_frame_of_another_size_begins_anew():
    images = [*frames(5), *frames(5, (24, 32)), *frames(5)]
    segmenter = fake_segmenter(seen_at([0.9] * 5), **WINDOWS, evidence_frames=2.0, smooth_frames=2.0)
    sizes = [one.size_hw for one in segmenter.segment_video(images, TEXTS)]
    assert sizes == [(32, 40)] * 5 + [(24, 32)] * 5 + [(32, 40)] * 5


def test_a_window_reaches_into_what_follows_it():
    encoded = [fake_segmenter(seen_at([0.9])).encode(image) for image in frames(12)]
    config = VideoConfig(window_frames=6, context_frames=2)
    cut = [
        ([number(one.proposer_encoding) for one in held], done, on)
        for held, done, on in cut_windows(iter(encoded), config)
    ]
    assert cut == [([0, 1, 2, 3, 4, 5], 4, False), ([4, 5, 6, 7, 8, 9], 4, True), ([8, 9, 10, 11], 4, True)]
    assert list(cut_windows(iter(()), config)) == []


def test_a_context_as_long_as_the_window_still_gets_on():
    config = VideoConfig(window_frames=3, context_frames=5)
    encoded = [fake_segmenter(seen_at([0.9])).encode(image) for image in frames(7)]
    assert sum(done for _, done, _ in cut_windows(iter(encoded), config)) == 7


def test_the_releases_rules_hold_in_windows_too():
    at_threshold = [0.5] * 9
    strict = fake_segmenter(seen_at(at_threshold), **WINDOWS, strict_threshold=True)
    assert found(strict, 9) == [()] * 9
    assert found(fake_segmenter(seen_at(at_threshold), **WINDOWS), 9) == [("dog",)] * 9
    best = fake_segmenter(seen_at([0.3] * 9), **WINDOWS, keep_best=True)
    assert found(best, 9) == [("dog",)] * 9


@pytest.mark.parametrize("name", sorted(name for name in PRESETS if name.startswith(("paper-", "official-"))))
def test_the_papers_presets_segment_every_frame_by_itself(name):
    assert PRESETS[name].video == VideoConfig()
