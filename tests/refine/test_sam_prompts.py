"""Prompts made from masks, and the choice among SAM's answers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clip_as_rnn.refine.sam.frame import Preprocessing, place
from clip_as_rnn.refine.sam.model import Sam, SamImage, SamMasks
from clip_as_rnn.refine.sam.prompts import Prompt, ask, choose, make_prompts, prompt_logits, split_parts

FRAME = place((32, 64), Preprocessing(64, 16, True, (0, 0, 0), (1, 1, 1)))


def mask_of(*boxes, size_hw=(16, 32)):
    mask = np.zeros(size_hw, bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_every_large_part_is_asked_about_the_largest_first():
    parts = split_parts(mask_of((0, 4, 0, 4), (6, 16, 10, 20)), limit=8)
    assert parts.boxes.tolist() == [[10, 6, 19, 15], [0, 0, 3, 3]]
    assert not parts.rest.any()


def test_corners_that_touch_are_one_part():
    assert len(split_parts(mask_of((0, 4, 0, 4), (4, 8, 4, 8)), limit=8).asked) == 1


def test_specks_are_left_as_they_are():
    """The parts asked about hold 95 % of the mask; what remains is not worth a prompt."""
    parts = split_parts(mask_of((0, 10, 0, 20), (15, 16, 30, 32)), limit=8)
    assert parts.boxes.tolist() == [[0, 0, 19, 9]]
    np.testing.assert_array_equal(parts.rest, mask_of((15, 16, 30, 32)))


def test_no_more_parts_are_asked_about_than_the_limit():
    parts = split_parts(mask_of(*((0, 2, 4 * i, 4 * i + 2) for i in range(8))), limit=3)
    assert len(parts.asked) == 3
    assert parts.rest.sum() == 5 * 4


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 4))
def test_asked_parts_and_the_rest_are_the_mask(mask, limit):
    parts = split_parts(mask, limit)
    asked = np.isin(parts.labels, parts.asked)
    np.testing.assert_array_equal(asked | parts.rest, mask)
    assert not (asked & parts.rest).any()
    assert len(parts.asked) <= limit
    assert (asked.sum() >= 0.95 * mask.sum()) or len(parts.asked) == limit


def test_a_box_of_a_coarse_mask_frames_its_pixels_in_the_image():
    """Pixel indices, both ends inclusive, at twice the size."""
    (prompt,) = make_prompts(split_parts(mask_of((2, 4, 3, 8)), 8), np.ones((16, 32), np.float32), FRAME)
    assert prompt.box.tolist() == [6, 4, 15, 7]


def test_a_prompt_shows_its_part_without_the_others():
    mask = mask_of((0, 8, 0, 8), (8, 16, 24, 32))
    parts = split_parts(mask, 8)
    first, second = make_prompts(parts, np.where(mask, 0.9, 0.1).astype(np.float32), FRAME)
    np.testing.assert_allclose(first.soft[:4, :4], 0.9)
    np.testing.assert_allclose(first.soft[4:8, 12:], 0)  # the other part
    np.testing.assert_allclose(first.soft[4:8, :4], 0.1)  # around them both
    np.testing.assert_allclose(first.soft[8:], 0)  # padding
    np.testing.assert_allclose(second.soft[4:8, 12:], 0.9)


def test_probabilities_become_log_odds_within_limits():
    soft = np.array([[[0.0, 0.5], [0.731058578630005, 1.0]]], np.float32)
    torch.testing.assert_close(prompt_logits(soft, log_odds=True), torch.tensor([[[-10, 0], [1.0, 10]]]))


def test_masks_become_what_sam_2_makes_of_a_mask():
    soft = np.array([[[0.0, 0.5], [0.5, 1.0]]], np.float32)
    torch.testing.assert_close(prompt_logits(soft, log_odds=False), torch.tensor([[[-10.0, 0.0], [0.0, 10.0]]]))


def answers(*masks, scores):
    logits = torch.stack([torch.from_numpy(mask).float() - 0.5 for mask in masks])
    return SamMasks(logits[None], torch.tensor([scores]))


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.9, 0.9], 0),  # the first agrees better
        ([0.2, 0.9], 1),  # SAM thinks so much better of the second that it makes up for it
        ([-3.0, 0.1], 1),
        ([5.0, 5.0], 0),
        ([-1.0, -2.0], 0),  # of equals the first
    ],
)
def test_the_best_answer_agrees_and_is_thought_well_of(scores, best):
    wanted = mask_of((0, 8, 0, 8), size_hw=(16, 16))
    half = mask_of((0, 8, 0, 4), size_hw=(16, 16))
    soft = torch.from_numpy(wanted).float()[None]
    assert choose(answers(wanted, half, scores=scores), soft) == [best]


def test_an_empty_answer_to_an_empty_prompt_is_no_error():
    nothing = np.zeros((16, 16), bool)
    assert choose(answers(nothing, nothing, scores=[0.5, 0.9]), torch.zeros(1, 16, 16)) == [0]


def test_what_sam_draws_in_the_padding_does_not_count():
    """The first mask is the prompt, and goes on below the image; the second is half the prompt."""
    soft = mask_of((0, 8, 0, 8), size_hw=(16, 16))
    wide, half = mask_of((0, 16, 0, 8), size_hw=(16, 16)), mask_of((0, 8, 0, 6), size_hw=(16, 16))

    class Drawing(Sam):
        def __init__(self):
            pass

        def decode_boxes(self, image, boxes, logits):
            return answers(wide, half, scores=[0.9, 0.9])

    prompt = Prompt(np.array([0.0, 0.0, 31.0, 31.0]), soft.astype(np.float32))
    image = SamImage(FRAME, torch.zeros(1, 1, 1, 1))
    (answer,) = ask(Drawing(), image, [prompt], log_odds=False, at_once=1).logits
    np.testing.assert_array_equal(answer > 0, wide)
