"""Patch similarity against its definition."""

import numpy as np
import pytest
import torch

from clip_as_rnn.ops import min_max_scale
from clip_as_rnn.proposals.patch_similarity import interleave, shift
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


def test_moved_images_show_what_lies_evenly_around_each_patch():
    columns = torch.arange(24.0).expand(1, 3, 24, 24)
    moved = shift(columns, 12, 2)
    assert [one[0, 0, 0, 0].item() for one in moved] == [0, 3, 0, 3]  # across first; an edge is repeated
    assert [one[0, 0, 0, 12].item() for one in moved] == [9, 15, 9, 15]  # 3 px before and behind the patch's own
    rows = shift(columns.transpose(2, 3), 12, 2)
    assert [one[0, 0, 12, 0].item() for one in rows] == [9, 9, 15, 15]


@pytest.mark.parametrize(("patch_px", "shifts"), [(8, 2), (14, 2), (7, 3), (16, 4)])
def test_moved_images_keep_their_size(patch_px, shifts):
    moved = shift(torch.randn(2, 3, 2 * patch_px, 3 * patch_px), patch_px, shifts)
    assert [one.shape for one in moved] == [(2, 3, 2 * patch_px, 3 * patch_px)] * shifts**2


def test_a_finer_grid_holds_every_pass_at_its_place():
    clip = untrained_clip()
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    (plain,) = make_proposer(clip, proposals="dense").encode_images([image])
    (fine,) = make_proposer(clip, proposals="dense", patch_shifts=2).encode_images([image])
    assert fine.features.grid_hw == (8, 10)
    pixels = torch.randn(1, 3, 32, 40)
    passes = [clip.encode_patches(moved, attention_layers=0)[0] for moved in shift(pixels, 8, 2)]
    grid = interleave(passes).patches.view(8, 10, -1)
    for number, one in enumerate(passes):
        torch.testing.assert_close(grid[number // 2 :: 2, number % 2 :: 2], one.patches.view(4, 5, -1))
    assert plain.features.grid_hw == (4, 5)


def test_a_finer_grid_rates_texts_by_as_much_of_the_image():
    clip = untrained_clip()
    image = np.zeros((32, 40, 3), dtype=np.uint8)  # every pass sees the same
    of_either = []
    for shifts in (1, 2):
        proposer = make_proposer(clip, proposals="dense", background_texts=("ground",), patch_shifts=shifts)
        state = proposer.init_state(proposer.encode_images([image])[0], proposer.encode_texts(texts(3)))
        of_either.append(proposer.propose(state, every(3), 1).certainty)
    np.testing.assert_allclose(*of_either, atol=1e-5)


def test_the_affinity_keeps_the_grid_of_the_encoder():
    proposer = make_proposer(untrained_clip(), proposals="dense", patch_shifts=2, affinity_layers=1)
    (image,) = proposer.encode_images([np.zeros((32, 40, 3), dtype=np.uint8)])
    assert image.features.grid_hw == (4, 5)
    assert image.affinity is not None
