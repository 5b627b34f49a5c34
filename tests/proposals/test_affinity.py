"""The affinity against its slow definition, the squared matrix, and the boxes within which it acts."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_as_rnn.proposals.affinity import box_masks, normalize_affinity, spread


@given(seed=st.integers(0, 1000), patches=st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_spreading_equals_the_squared_matrix(seed, patches):
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(patches, patches, generator=generator) + 1e-3
    affinity = normalize_affinity(attention)
    torch.testing.assert_close(affinity, affinity.T)
    maps = torch.rand(3, patches, generator=generator)
    torch.testing.assert_close(spread(affinity, maps), maps @ (affinity @ affinity).T)


def test_normalising_leaves_the_attention_as_it_was():
    attention = torch.rand(4, 4)
    before = attention.clone()
    normalize_affinity(attention)
    assert torch.equal(attention, before)


def test_boxes_hold_every_component_above_the_threshold():
    cam = torch.zeros(1, 6, 8)
    cam[0, 1, 1] = cam[0, 2, 2] = 1.0  # joined at a corner: one component
    cam[0, 5, 7] = 0.5
    cam[0, 0, 7] = 0.39
    boxes = box_masks(cam, 0.4, clamp=False)[0]
    expected = torch.zeros(6, 8)
    expected[1:3, 1:3] = 1
    expected[5, 7] = 1
    assert torch.equal(boxes, expected)
