"""Patch similarity against its definition."""

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
