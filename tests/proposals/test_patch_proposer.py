"""What both proposers have in common: what is kept of an image, which background counts, how steps word texts."""

import numpy as np
import pytest
import torch

from untrained_clip import untrained_clip
from untrained_proposers import every, make_proposer, texts


def test_background_texts_that_are_asked_for_are_left_out_on_demand():
    clip = untrained_clip()
    for drop, left in ((True, 1), (False, 2)):
        proposer = make_proposer(clip, background_texts=("Sky", "ground"), drop_asked_background=drop)
        assert len(proposer.encode_texts(["sky"]).background) == left


IMAGE = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)


def test_no_attention_is_kept_where_the_affinity_is_off():
    proposer = make_proposer(untrained_clip(), background_texts=("sky",))
    image = proposer.encode_images([IMAGE])[0]
    assert image.affinity is None
    proposal = proposer.propose(proposer.init_state(image, proposer.encode_texts(["cat"])), every(1), 1)
    assert torch.equal(proposal.cams, proposal.maps)


def test_of_an_image_one_matrix_over_its_patches_is_kept():
    """The attention that the affinity was made of took as much again, up to a GiB."""
    image = make_proposer(untrained_clip(), affinity_layers=2).encode_images([IMAGE])[0]
    assert image.affinity.shape == (20, 20)
    assert image.features.attention is None


@pytest.mark.parametrize("proposals", ["cam", "dense"])
def test_later_steps_word_the_texts_as_the_setting_says(proposals):
    clip = untrained_clip()
    settings = {"proposals": proposals, "background_texts": ("sky",)}
    both = make_proposer(clip, first_proposal_template="{}", proposal_template="a large {}", **settings)
    later = make_proposer(clip, first_proposal_template="a large {}", proposal_template="a large {}", **settings)
    ours, theirs = (
        proposer.init_state(proposer.encode_images([IMAGE])[0], proposer.encode_texts(texts(4)))
        for proposer in (both, later)
    )
    first = both.propose(ours, every(4), 1)
    assert not torch.allclose(first.cams, later.propose(theirs, every(4), 1).cams, atol=1e-3)
    second = both.propose(ours, np.array([1, 3]), 2)
    torch.testing.assert_close(second.cams, later.propose(theirs, np.array([1, 3]), 2).cams, atol=1e-4, rtol=0)
