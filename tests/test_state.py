"""The hidden state of the recurrence: which texts go on, when it has converged, and which maps are refined."""

import numpy as np
import pytest
import torch

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.result import Proposal
from clip_as_rnn.stages import Stages
from clip_as_rnn.state import EncodedImage, EncodedTexts, State, passing, reject, weigh
from clip_as_rnn.timing import Stopwatch
from fake_stages import FakeClassifier, FakeProposer, FakeRefiner

PIXELS = np.zeros((6, 8, 3), dtype=np.uint8)
STAGES = Stages(FakeProposer(), FakeClassifier(None), FakeRefiner())


def config_of(**settings):
    return with_settings(SegmenterConfig(), {"score_threshold": 0.5, **settings})


def start(*queries):
    """Begin a recurrence that no stage takes part in."""
    image = EncodedImage(PIXELS, PIXELS, None, None, None, STAGES, 0.0)
    texts = EncodedTexts(queries, None, None, STAGES, 0.0)
    return State(image, texts, None, np.arange(len(queries)), Stopwatch())


def step(state, scores, config, maps=None):
    """Take one step with these scores, and with maps whose values are the positions of the texts."""
    if maps is None:
        maps = torch.stack([torch.full((2, 2), (int(i) + 1) / 10) for i in state.active])
    state.proposal = Proposal(maps, maps)
    state.update(np.array(scores, dtype=np.float32), config)
    return state


def test_texts_that_pass_are_the_next_hidden_state():
    state = step(start("a", "b", "c", "d"), [0.9, 0.1, 0.5, 0.2], config_of())
    assert state.active.tolist() == [0, 2]
    assert not state.converged
    step(state, [0.4, 0.9], config_of())
    assert state.active.tolist() == [2]  # positions among the queries, not among those that were left
    assert [one.texts for one in state.steps] == [("a", "b", "c", "d"), ("a", "c")]
    assert [one.kept for one in state.steps] == [(0, 2), (1,)]


@pytest.mark.parametrize(
    ("settings", "scores", "converged"),
    [
        ({}, [0.9, 0.9], True),
        ({}, [0.9, 0.1], False),
        ({}, [0.1, 0.1], True),
        ({"max_steps": 0}, [0.1, 0.9], True),
        ({"max_steps": 1}, [0.9, 0.1], True),
        ({"max_steps": 2}, [0.9, 0.1], False),
        ({"repeat_first_step": True}, [0.9, 0.9], False),
        ({"repeat_first_step": True, "max_steps": 1}, [0.9, 0.9], True),
        ({"repeat_first_step": True}, [0.1, 0.1], True),
    ],
)
def test_a_recurrence_ends_where_another_step_would_change_nothing_or_is_not_allowed(settings, scores, converged):
    assert step(start("a", "b"), scores, config_of(**settings)).converged is converged


def test_without_steps_every_text_passes():
    assert step(start("a", "b"), [0.1, 0.9], config_of(max_steps=0)).active.tolist() == [0, 1]


def test_the_maps_that_are_refined_are_those_of_the_texts_that_passed_the_last_step():
    state = step(step(start("a", "b", "c"), [0.9, 0.1, 0.9], config_of()), [0.1, 0.9], config_of())
    assert state.final_maps(config_of()).tolist() == [torch.full((2, 2), 0.3).tolist()]


@pytest.mark.parametrize("fallback", [True, False])
def test_where_all_last_maps_are_zero_the_release_takes_those_before(fallback):
    config = config_of(foreground_fallback=fallback)
    state = step(start("a", "b"), [0.1, 0.9], config)
    step(state, [0.9], config, torch.zeros(1, 2, 2))
    expected = 0.2 if fallback else 0.0
    assert state.final_maps(config).tolist() == [torch.full((2, 2), expected).tolist()]


@pytest.mark.parametrize("fallback", [True, False])
def test_the_maps_before_come_ahead_of_the_detail_that_a_clip_tells_of_maps_of_zero(fallback):
    config = config_of(foreground_fallback=fallback)
    state = step(start("a", "b", "c"), [0.1, 0.9, 0.9], config)
    step(state, [0.1, 0.9], config, torch.zeros(2, 2, 2))
    state.detail = torch.zeros(1, 4, 4)
    expected = torch.full((1, 2, 2), 0.3) if fallback else state.detail
    assert state.final_maps(config).tolist() == expected.tolist()


def test_the_detail_that_a_clip_tells_takes_the_place_of_the_last_maps():
    config = config_of(foreground_fallback=True)
    state = step(step(start("a", "b"), [0.1, 0.9], config), [0.9], config)
    state.detail = torch.full((1, 4, 4), 0.7)
    assert state.final_maps(config) is state.detail


def test_the_maps_of_a_first_step_have_none_before_them():
    state = step(start("a"), [0.9], config_of(foreground_fallback=True), torch.zeros(1, 2, 2))
    assert not state.final_maps(config_of(foreground_fallback=True)).any()


def test_the_classifier_is_shown_the_masks_of_this_step_and_whose_they_are():
    state = step(start("a", "b", "c"), [0.1, 0.9, 0.9], config_of())
    maps = torch.rand(2, 2, 2)
    state.proposal = Proposal(torch.zeros(2, 2, 2), maps)
    shown = state.to_classify()
    assert shown.active.tolist() == [1, 2]
    assert shown.masks is maps


@pytest.mark.parametrize(("strict", "bound"), [(False, "below"), (True, "not above")])
def test_a_dropped_text_has_its_step_and_its_score(strict, bound):
    config = config_of(strict_threshold=strict)
    state = step(step(start("a", "b", "c"), [0.9, 0.125, 0.9], config), [0.9, 0.25], config)
    told = {text: (one.step, one.score, one.reason) for text, one in reject(state.steps, config).items()}
    assert told == {"b": (1, 0.125, f"score {bound} 0.5"), "c": (2, 0.25, f"score {bound} 0.5")}


@pytest.mark.parametrize(("strict", "kept"), [(False, [0, 2]), (True, [2])])
def test_a_score_at_the_threshold_passes_unless_the_setting_is_strict(strict, kept):
    scores = np.array([0.5, 0.4, 0.6], dtype=np.float32)
    assert passing(scores, config_of(strict_threshold=strict), 3).tolist() == kept


def test_ties_for_the_best_go_to_the_earlier_text():
    config = config_of(score_threshold=0.9, keep_best=True)
    assert passing(np.array([0.2, 0.4, 0.4], dtype=np.float32), config, 3).tolist() == [1]


@pytest.mark.parametrize(("weight", "expected"), [(0.0, [0.25, 0.81]), (0.5, [0.5, 0.18]), (1.0, [1.0, 0.04])])
def test_a_score_is_the_geometric_mean_of_the_classifiers_and_the_proposers(weight, expected):
    scores, certainty = np.array([0.25, 0.81], dtype=np.float32), np.array([1.0, 0.04], dtype=np.float32)
    np.testing.assert_allclose(weigh(scores, certainty, weight), expected, rtol=1e-6)


def test_a_proposer_that_says_no_certainty_leaves_the_scores_alone():
    scores = np.array([0.25, 0.81], dtype=np.float32)
    assert weigh(scores, None, 0.5) is scores


@pytest.mark.parametrize(("weight", "expected"), [(0.0, [0.1, 0.3]), (0.5, [0.05, 0.3]), (1.0, [0.025, 0.3])])
def test_proposals_are_weighed_by_their_scores_before_they_compete_for_pixels(weight, expected):
    config = config_of(score_weight=weight, score_threshold=0.2)
    state = step(start("a", "b", "c"), [0.25, 0.1, 1.0], config)
    np.testing.assert_allclose(state.final_maps(config).amax((1, 2)), expected, rtol=1e-6)
    assert state.steps[-1].maps.amax((1, 2)).tolist() == pytest.approx([0.1, 0.2, 0.3])  # what was proposed stays


@pytest.mark.parametrize(("asked", "threshold"), [(4, 0.8), (16, 0.4), (64, 0.2)])
def test_theta_falls_with_the_root_of_how_many_texts_are_asked_if_the_setting_says_for_how_many_it_is(asked, threshold):
    config = config_of(score_threshold=0.4, score_threshold_texts=16).classify
    assert config.threshold(asked) == pytest.approx(threshold)
    assert config_of(score_threshold=0.4).classify.threshold(asked) == 0.4


def test_theta_of_one_or_two_texts_is_that_of_three():
    config = config_of(score_threshold=0.1, score_threshold_texts=48).classify
    assert [config.threshold(asked) for asked in (1, 2, 3)] == pytest.approx([0.4] * 3)
    assert config_of(score_threshold=0.5, score_threshold_texts=48).classify.threshold(1) == 1.0


def test_theta_is_that_of_the_texts_asked_and_not_of_those_left():
    config = config_of(score_threshold=0.4, score_threshold_texts=4)
    state = step(step(start("a", "b", "c", "d"), [0.5, 0.3, 0.5, 0.5], config), [0.5, 0.41, 0.39], config)
    assert state.active.tolist() == [0, 2]
    assert {one.reason for one in reject(state.steps, config).values()} == {"score below 0.4"}
