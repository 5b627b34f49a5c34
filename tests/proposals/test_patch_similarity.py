"""Patch similarity against its definition."""

import pytest
import torch

from clip_as_rnn.ops import min_max_scale
from untrained_clip import untrained_clip
from untrained_proposers import every, init_state, make_proposer, texts


def test_dense_maps_are_the_chances_of_each_patch():
    clip = untrained_clip()
    proposer = make_proposer(clip, proposals="dense", background_texts=("ground", "sky"))
    state = init_state(proposer, clip, torch.randn(1, 3, 32, 40), texts(3))
    candidates = clip.encode_text([*texts(3), "ground", "sky"])
    chances = torch.softmax(clip.logit_scale * state.image.features.patches @ candidates.T, dim=1).T[:3]
    torch.testing.assert_close(
        proposer.propose(state, every(3), 1).cams, min_max_scale(chances.reshape(3, 4, 5)), atol=1e-5, rtol=1e-4
    )


def test_a_text_is_as_certain_as_its_three_best_patches_are_on_average():
    clip = untrained_clip()
    proposer = make_proposer(clip, proposals="dense", background_texts=("ground", "sky"))
    state = init_state(proposer, clip, torch.randn(1, 3, 32, 40), texts(3))
    candidates = clip.encode_text([*texts(3), "ground", "sky"])
    chances = torch.softmax(clip.logit_scale * state.image.features.patches @ candidates.T, dim=1).T[:3]
    expected = [sum(sorted(row)[-3:]) / 3 for row in chances.tolist()]
    assert proposer.propose(state, every(3), 1).certainty.tolist() == pytest.approx(expected, abs=1e-5)


def test_an_image_of_one_patch_has_a_certainty_too():
    clip = untrained_clip()
    proposer = make_proposer(clip, proposals="dense", background_texts=())
    state = init_state(proposer, clip, torch.randn(1, 3, 8, 8), texts(1))
    assert proposer.propose(state, every(1), 1).certainty.tolist() == [1.0]  # nothing else shares the softmax
