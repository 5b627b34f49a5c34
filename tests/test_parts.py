"""The parts of a mask, judged by themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_as_rnn import load_segmenter
from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.encoders.base import ignore_tick
from clip_as_rnn.parts import weigh_parts
from clip_as_rnn.result import Proposal
from clip_as_rnn.stages import Stages
from clip_as_rnn.state import EncodedImage, EncodedTexts, State
from clip_as_rnn.timing import Stopwatch
from fake_stages import FakeClassifier, FakeProposer, FakeRefiner

EXAMPLES = Path(__file__).parents[1] / "examples"
PIXELS = np.zeros((5, 6, 3), dtype=np.uint8)
LEFT, RIGHT = (slice(0, 2), slice(0, 2)), (slice(3, 5), slice(4, 6))


class DrawnClassifier(FakeClassifier):
    """Scores a mask by what is drawn where it lies; counts its masks. An image is what is drawn for each text."""

    def __init__(self):
        super().__init__(None)
        self.asked = 0

    def classify(self, masks, tick=ignore_tick):
        self.asked += sum(len(one.masks) for one in masks)
        return [
            np.array(
                [float(one.image[i][mask > 0].mean()) for i, mask in zip(one.active, one.masks, strict=True)],
                dtype=np.float32,
            )
            for one in masks
        ]


STAGES = Stages(FakeProposer(), DrawnClassifier(), FakeRefiner())


def state_of(maps, drawn, kept):
    """Make a state that converged after one step, with these maps and what the classifier will find."""
    image = EncodedImage(PIXELS, PIXELS, None, drawn, None, STAGES, 0.0)
    texts = EncodedTexts(("a", "b", "c")[: len(maps)], None, None, STAGES, 0.0)
    state = State(image, texts, None, np.arange(len(maps)), Stopwatch())
    state.proposal = Proposal(maps, maps)
    scores = np.isin(np.arange(len(maps)), kept).astype(np.float32)
    state.update(scores, with_settings(SegmenterConfig(), {"max_steps": 1}))
    return state


@pytest.fixture
def maps():
    """Of text 0 two parts, of text 1 one, of text 2 nothing; a little everywhere."""
    maps = torch.full((3, 5, 6), 0.1)
    maps[0][LEFT], maps[0][RIGHT], maps[1][RIGHT] = 0.9, 0.8, 0.7
    return maps


@pytest.fixture
def drawn():
    drawn = torch.zeros(3, 5, 6)
    drawn[0][LEFT], drawn[0][RIGHT], drawn[1][RIGHT] = 0.8, 0.2, 0.6
    return drawn


def test_a_part_counts_by_its_own_score_over_the_best_of_its_text(maps, drawn):
    state = state_of(maps, drawn, [0, 1, 2])
    weigh_parts([state], DrawnClassifier(), eta=0.5, exponent=2.0)
    expected = torch.ones(3, 5, 6, dtype=torch.float64)
    expected[0][RIGHT] = 0.25**2
    torch.testing.assert_close(state.part_weights, expected)


def test_texts_that_were_dropped_have_no_weights(maps, drawn):
    state = state_of(maps, drawn, [0])
    weigh_parts([state], DrawnClassifier(), eta=0.5, exponent=2.0)
    assert state.part_weights.shape == (1, 5, 6)


def test_nothing_is_asked_where_there_is_no_mask(maps, drawn):
    classifier = DrawnClassifier()
    states = [state_of(maps, drawn, []), state_of(torch.zeros_like(maps), drawn, [0, 2])]
    weigh_parts(states, classifier, eta=0.5, exponent=2.0)
    assert classifier.asked == 0
    assert [state.part_weights for state in states] == [None, None]


def test_nothing_is_asked_where_every_mask_is_in_one_part(maps, drawn):
    classifier, state = DrawnClassifier(), state_of(maps, drawn, [1, 2])
    weigh_parts([state], classifier, eta=0.5, exponent=2.0)
    assert (classifier.asked, state.part_weights) == (0, None)


def test_a_part_that_scores_nothing_beside_one_that_does_vanishes(maps, drawn):
    drawn[0][RIGHT] = 0.0
    state = state_of(maps, drawn, [0])
    weigh_parts([state], DrawnClassifier(), eta=0.5, exponent=2.0)
    assert (state.part_weights[0][RIGHT] == 0).all()
    assert (state.part_weights[0][LEFT] == 1).all()


@pytest.mark.parametrize("least", [0.0, 1e-9])
def test_parts_that_all_score_next_to_nothing_stay(maps, least):
    state = state_of(maps, torch.full((3, 5, 6), least), [0])
    weigh_parts([state], DrawnClassifier(), eta=0.5, exponent=2.0)
    assert (state.part_weights == 1).all()


def test_rounds_are_counted(maps, drawn):
    told = []
    state = state_of(maps, drawn, [0, 1])
    weigh_parts([state], DrawnClassifier(), eta=0.5, exponent=1.0, tick=lambda *counts: told.append(counts))
    assert told == [(0, 2), (1, 2)]


def test_the_frames_of_a_window_are_left_alone_and_a_picture_is_not():
    segmenter, texts = load_segmenter("tiny"), ["dog", "car", "tree"]
    picture = Image.open(EXAMPLES / "park.jpg")
    steps = []
    found = segmenter.segment(picture, texts, callback=lambda progress: steps.append(progress))
    assert found.judged_by.endswith("their parts by themselves, too")
    rounds = [one for one in steps if one.stage == "classify"][
        2 * len([one for one in steps if one.stage == "propose"]) :
    ]
    assert [one.done for one in rounds] == sorted(one.done for one in rounds)
    assert {one.total for one in rounds} == {rounds[0].total}
    (frame,) = segmenter.segment_video([picture], texts)
    assert "parts" not in frame.judged_by


def test_images_beside_each_other_do_not_matter(maps, drawn):
    other = maps.flip(2).contiguous()
    alone, first, second = (state_of(maps, drawn, [0, 1]), state_of(other, drawn, [0]), state_of(maps, drawn, [0, 1]))
    weigh_parts([alone], DrawnClassifier(), eta=0.5, exponent=1.0)
    weigh_parts([first, second], DrawnClassifier(), eta=0.5, exponent=1.0)
    assert torch.equal(alone.part_weights, second.part_weights)


def test_a_trunk_is_not_a_second_dog():
    picture, texts = Image.open(EXAMPLES / "park.jpg"), ["dog", "car", "tree", "cat", "banana"]
    segmenter = load_segmenter("tiny")
    trunk = (slice(155, 190), slice(62, 80))
    whole, by_parts = (segmenter.replace(part_weight=g).segment(picture, texts) for g in (0.0, 2.0))
    assert whole.masks[whole.texts.index("dog")][trunk].mean() > 0.5
    assert not by_parts.masks[by_parts.texts.index("dog")][trunk].any()


def test_parts_are_judged_the_same_beside_other_images():
    segmenter, texts = load_segmenter("tiny"), ["dog", "car", "tree", "cat", "banana"]
    pictures = [EXAMPLES / "park.jpg", EXAMPLES / "kitchen.jpg", EXAMPLES / "park.jpg"]
    for picture, found in zip(pictures, segmenter.segment_many(pictures, texts), strict=True):
        assert np.mean(found.label_map() != segmenter.segment(picture, texts).label_map()) < 1e-3
