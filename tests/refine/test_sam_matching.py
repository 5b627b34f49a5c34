"""SAM's masks joined to CaR's: the worked fixture, a slow definition, and what holds for any masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clip_as_rnn.errors import InputError
from clip_as_rnn.refine.sam import match_masks
from clip_as_rnn.refine.sam.matching import MatchRules, count_overlaps, intersection_over_minimum, match_each
from clip_as_rnn.refine.sam.text_masks import TextMasks

PAPER = {"iom_threshold": 0.6, "overlap_floor": 0.05, "iou_threshold": 0.7}
STRICT = {"iom_threshold": 0.7, "overlap_floor": 0.2, "iou_threshold": 0.7}


def rectangle(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((8, 10), dtype=bool)
    mask[rows, columns] = True
    return mask


SAM = np.stack(
    [
        rectangle(slice(1, 4), slice(1, 4)),
        rectangle(slice(1, 4), slice(4, 7)),
        rectangle(slice(0, 5), slice(0, 8)),  # contains A and B
        rectangle(slice(6, 8), slice(8, 10)),
        rectangle(slice(2, 3), slice(5, 6)),
        rectangle(slice(5, 8), slice(0, 3)),
    ]
)
WITHOUT_CONTAINING = SAM[[0, 1, 3, 4, 5]]
CAR = {
    "A": rectangle(slice(1, 4), slice(1, 7)),
    "B": rectangle(slice(1, 4), slice(2, 7)),
    "C": rectangle(slice(7, 8), slice(9, 10)),
    "D": rectangle(slice(1, 7), slice(1, 7)),
    "E": np.zeros((8, 10), dtype=bool),
    "F": rectangle(slice(5, 7), slice(7, 9)),
}


@pytest.mark.parametrize(
    ("name", "setup", "iom", "indices", "iou", "replaces"),
    [
        ("A", (SAM, PAPER), (1, 1, 1, 0, 1, 0), (0, 1, 2, 4), 0.45, False),
        ("D", (SAM, PAPER), (1, 1, 2 / 3, 0, 1 / 36, 4 / 9), (0, 1, 2), 6 / 13, False),
        ("A", (WITHOUT_CONTAINING, PAPER), (1, 1, 0, 1, 0), (0, 1, 3), 1.0, True),
        ("B", (WITHOUT_CONTAINING, PAPER), (2 / 3, 1, 0, 1, 0), (0, 1, 3), 5 / 6, True),
        ("C", (WITHOUT_CONTAINING, PAPER), (0, 0, 1, 0, 0), (2,), 0.25, False),
        ("F", (WITHOUT_CONTAINING, PAPER), (0, 0, 0.25, 0, 0), (2,), 1 / 7, False),
        ("A", (WITHOUT_CONTAINING, STRICT), (1, 1, 0, 1 / 18, 0), (0, 1), 1.0, True),
        ("B", (WITHOUT_CONTAINING, STRICT), (2 / 3, 1, 0, 1 / 15, 0), (1,), 0.6, False),
    ],
)
def test_the_worked_fixture(name, setup, iom, indices, iou, replaces):
    mask, (candidates, rules) = CAR[name], setup
    masks = TextMasks(mask[None], 1)
    shared, areas = count_overlaps(masks, candidates)
    measured = intersection_over_minimum(shared[0], areas, int(mask.sum()), rules["overlap_floor"])
    np.testing.assert_allclose(measured, iom)
    ((_, match),) = match_each(masks, candidates, MatchRules(**rules))
    assert (match.indices, match.replaces) == (indices, replaces)
    assert match.iou == pytest.approx(iou)
    union = candidates[list(indices)].any(0)
    refined = match_masks(mask[None], candidates, **rules)
    np.testing.assert_array_equal(refined[0], union if replaces else mask)


def test_an_empty_mask_is_skipped_and_stays_empty():
    assert list(match_each(TextMasks(CAR["E"][None], 1), SAM, MatchRules(**PAPER))) == []
    assert not match_masks(CAR["E"][None], SAM, iom_threshold=0.0, overlap_floor=0.0, iou_threshold=None).any()


def test_without_a_gate_the_best_candidate_replaces_even_what_it_does_not_touch():
    """As the authors' demo does: where no candidate touches the mask, the first is the best."""
    refined = match_masks(CAR["C"][None], SAM[:2], iom_threshold=0.6, overlap_floor=0.05, iou_threshold=None)
    np.testing.assert_array_equal(refined[0], SAM[0])


def defined(masks, candidates, iom_threshold, overlap_floor, iou_threshold):
    """The algorithm in words of sets of pixels, one after the other."""
    refined = []
    sets = [set(zip(*np.nonzero(candidate), strict=True)) for candidate in candidates]
    for mask in masks:
        mine = set(zip(*np.nonzero(mask), strict=True))
        if not mine or not sets:
            refined.append(mask)
            continue
        scores = []
        for other in sets:
            of_mask = len(mine & other) / len(mine)
            of_other = len(mine & other) / len(other) if other and of_mask >= overlap_floor else 0.0
            scores.append(max(of_mask, of_other))
        chosen = [j for j, score in enumerate(scores) if score > iom_threshold] or [scores.index(max(scores))]
        union = set().union(*(sets[j] for j in chosen))
        passes = iou_threshold is None or len(union & mine) / len(union | mine) > iou_threshold
        refined.append(np.isin(np.arange(mask.size).reshape(mask.shape), flat(union, mask.shape)) if passes else mask)
    return np.array(refined).reshape(masks.shape)


def flat(pixels, shape):
    return [row * shape[1] + column for row, column in pixels]


def stacks(n):
    return st.tuples(st.integers(0, n), st.integers(0, n), st.integers(1, 5), st.integers(1, 6)).flatmap(
        lambda sizes: st.tuples(
            arrays(bool, (sizes[0], *sizes[2:]), elements=st.booleans()),
            arrays(bool, (sizes[1], *sizes[2:]), elements=st.booleans()),
        )
    )


thresholds = st.sampled_from((0.0, 0.05, 0.3, 0.5, 0.7, 0.95))


@given(stacks(4), thresholds, thresholds, st.one_of(st.none(), thresholds))
def test_equals_the_definition(stack, iom, floor, iou):
    masks, candidates = stack
    refined = match_masks(masks, candidates, iom_threshold=iom, overlap_floor=floor, iou_threshold=iou)
    np.testing.assert_array_equal(refined, defined(masks, candidates, iom, floor, iou))


@given(stacks(4), thresholds)
def test_nothing_is_replaced_without_passing_the_gate(stack, gate):
    masks, candidates = stack
    before = masks.copy()
    refined = match_masks(masks, candidates, iom_threshold=0.3, overlap_floor=0.05, iou_threshold=gate)
    np.testing.assert_array_equal(masks, before)
    for mask, new in zip(masks, refined, strict=True):
        assert (new == mask).all() or (new & mask).sum() / (new | mask).sum() > gate


@given(stacks(4), st.randoms(use_true_random=False))
def test_the_order_of_the_texts_does_not_matter(stack, random):
    masks, candidates = stack
    order = list(range(len(masks)))
    random.shuffle(order)
    np.testing.assert_array_equal(
        match_masks(masks[order], candidates, **PAPER), match_masks(masks, candidates, **PAPER)[order]
    )


@given(stacks(4), st.one_of(st.none(), thresholds))
def test_empty_masks_stay_empty(stack, gate):
    masks, candidates = stack
    refined = match_masks(masks, candidates, iom_threshold=0.5, overlap_floor=0.05, iou_threshold=gate)
    assert not refined[~masks.any((1, 2))].any()


@pytest.mark.parametrize("candidates", [np.zeros((0, 8, 10), bool), np.zeros((0, 0, 0), bool)])
def test_without_candidates_every_mask_stays(candidates):
    masks = np.stack(list(CAR.values()))
    refined = match_masks(masks, candidates, iom_threshold=0.6, overlap_floor=0.05, iou_threshold=None)
    np.testing.assert_array_equal(refined, masks)


def test_without_candidates_no_mask_is_made(monkeypatch):
    monkeypatch.setattr(TextMasks, "__getitem__", lambda masks, index: pytest.fail("made a mask"))
    assert list(match_each(TextMasks(np.stack(list(CAR.values())), 6), SAM[:0], MatchRules(**PAPER))) == []


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_images_of_one_line_work(shape):
    masks, candidates = np.ones((1, *shape), bool), np.ones((2, *shape), bool)
    candidates[0].flat[0] = False
    refined = match_masks(masks, candidates, iom_threshold=0.6, overlap_floor=0.05, iou_threshold=0.7)
    assert refined.all()


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_a_candidate_without_pixels_never_belongs(floor):
    candidates = np.concatenate([np.zeros((1, 8, 10), bool), SAM[:1]])
    ((_, match),) = match_each(TextMasks(SAM[:1], 1), candidates, MatchRules(0.0, floor, 0.7))
    assert match.indices == (1,)


def test_masks_without_texts_stay_none():
    assert match_masks(np.zeros((0, 8, 10), bool), SAM, **PAPER).shape == (0, 8, 10)


def test_masks_of_no_size_and_candidates_of_another_leave_none():
    assert match_masks(np.zeros((0, 0, 0), bool), SAM, **PAPER).shape == (0, 0, 0)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_masks_of_zeros_and_ones_are_as_good_as_truths(kind):
    """As the authors hold them."""
    masks = np.stack(list(CAR.values()))
    wanted = match_masks(masks, WITHOUT_CONTAINING, **PAPER)
    for numbers in (masks.astype(kind), torch.from_numpy(masks.astype(kind))):
        refined = match_masks(numbers, WITHOUT_CONTAINING.astype(kind), **PAPER)
        assert refined.dtype in (np.dtype(bool), torch.bool)
        np.testing.assert_array_equal(refined, wanted)


def test_gives_back_the_kind_it_was_given():
    """Tensors in, a tensor out, on either side; the caller's masks are left as they are."""
    masks = torch.from_numpy(np.stack([CAR["A"], CAR["B"]]))
    refined = match_masks(masks, torch.from_numpy(WITHOUT_CONTAINING), **PAPER)
    assert isinstance(refined, torch.Tensor)
    np.testing.assert_array_equal(refined, match_masks(masks.numpy(), WITHOUT_CONTAINING, **PAPER))
    assert isinstance(match_masks(masks.numpy(), torch.from_numpy(SAM), **PAPER), np.ndarray)
    assert masks[1].sum() == 15


def test_refuses_candidates_of_another_size():
    with pytest.raises(InputError, match=r"of the masks' size \(8, 10\), but got \(10, 8\)"):
        match_masks(CAR["A"][None], np.zeros((1, 10, 8), bool), **PAPER)


def test_reads_masks_that_may_not_be_written():
    masks = np.stack([CAR["B"]])
    masks.setflags(write=False)
    candidates = WITHOUT_CONTAINING.copy()
    candidates.setflags(write=False)
    assert match_masks(masks, candidates, **PAPER)[0].sum() == 18
