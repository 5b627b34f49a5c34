"""J and F of clips against a slow statement of their definition: pixel by pixel, and every way to match labels."""

from itertools import permutations
from math import ceil, hypot

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.metrics.video import score_sequence

VOID = 255


def boundary_pixels(mask):
    """Pixels that differ from the right, lower or lower right neighbor; at the rim fewer neighbors count."""
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            neighbors = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(v < height and u < width and mask[v, u] != mask[y, x] for v, u in neighbors):
                found.add((y, x))
    return found


def slow_f(mask, truth):
    tolerance = ceil(0.008 * hypot(*mask.shape))
    drawn, wanted = boundary_pixels(mask), boundary_pixels(truth)
    if not drawn and not wanted:
        return 1.0

    def share_near(these, those):
        near = [p for p in these if any(hypot(p[0] - q[0], p[1] - q[1]) <= tolerance for q in those)]
        return len(near) / len(these) if these else 1.0

    precision, recall = share_near(drawn, wanted), share_near(wanted, drawn)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def slow_j(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum() if (mask | truth).any() else 1.0


def slow_scores(truth, predicted, task):
    """Per-object J and F, in the order of the objects."""
    objects = max(value for value in truth[0].ravel().tolist() if value != VOID)
    if task == "semi-supervised":
        truth, predicted = truth[1:-1], predicted[1:-1]
    counted = [frame != VOID if task == "unsupervised" else np.ones_like(frame, bool) for frame in truth]

    def mean_of(measure, label, target):
        pairs = zip(truth, predicted, counted, strict=True)
        return np.mean([measure((p == label) & c, (t == target) & c) for t, p, c in pairs])

    labels = range(1, max(objects, predicted.max()) + 1)
    j, f = (
        {(p, o): mean_of(measure, p, o) for p in labels for o in range(1, objects + 1)} for measure in (slow_j, slow_f)
    )
    matches = [range(1, objects + 1)] if task == "semi-supervised" else permutations(labels, objects)
    best = max(matches, key=lambda match: sum(j[p, o] + f[p, o] for o, p in enumerate(match, 1)))
    return [j[p, o] for o, p in enumerate(best, 1)], [f[p, o] for o, p in enumerate(best, 1)]


def blobs(rng, shape, labels):
    """Frames of rectangles, some labels missing in some frames."""
    frames = np.zeros(shape, dtype=np.int64)
    for frame in frames:
        for label in rng.permutation(labels)[: rng.integers(0, len(labels) + 1)]:
            top, left = rng.integers(0, shape[1]), rng.integers(0, shape[2])
            frame[top : top + rng.integers(1, shape[1] + 1), left : left + rng.integers(1, shape[2] + 1)] = label
    return frames


@pytest.mark.parametrize("task", ["unsupervised", "semi-supervised"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_are_those_of_the_definition(task, seed):
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(3, 5)), int(rng.integers(1, 10)), int(rng.integers(1, 12))
    truth = blobs(rng, shape, [1, 2, VOID])
    truth[0, 0, 0] = rng.integers(1, 3)
    predicted = blobs(
        rng, shape, [1, 2, 3] if task == "unsupervised" else list(range(1, truth[0].clip(0, 2).max() + 1))
    )
    if (truth[0] == VOID).any():
        predicted.clip(0, np.where(truth[0] == VOID, 0, truth[0]).max() + (task == "unsupervised"), out=predicted)
    scores = score_sequence(truth, predicted, task=task)
    j, f = slow_scores(truth, predicted, task)
    assert scores.jf == pytest.approx((np.mean(j) + np.mean(f)) / 2, abs=1e-12)
    assert scores.j.sum() + scores.f.sum() == pytest.approx(sum(j) + sum(f), abs=1e-12)
    if task == "semi-supervised":
        np.testing.assert_allclose([scores.j, scores.f], [j, f], atol=1e-12)


@pytest.fixture
def clip():
    """Two squares that move to the right, six frames."""
    frames = np.zeros((6, 40, 60), dtype=np.int64)
    for t, frame in enumerate(frames):
        frame[5:15, 5 + t : 15 + t] = 1
        frame[20:32, 10 + t : 30 + t] = 2
    return frames


@pytest.mark.parametrize("task", ["unsupervised", "semi-supervised"])
def test_the_truth_itself_scores_one(clip, task):
    scores = score_sequence(clip, clip, task=task)
    assert scores.j.tolist() == scores.f.tolist() == [1, 1]
    assert scores.jf == 1


def test_swapped_identities_cost_nothing_but_in_the_semi_supervised_task(clip):
    swapped = np.array([0, 2, 1])[clip]
    assert score_sequence(clip, swapped, task="unsupervised").jf == 1
    assert score_sequence(clip, swapped, task="semi-supervised").j.max() == 0


def test_matched_scores_are_in_the_order_of_the_objects(clip):
    renamed = np.array([0, 3, 1])[clip]
    renamed[:, 20:26] = np.where(renamed[:, 20:26] == 1, 0, renamed[:, 20:26])  # half of object 2
    assert score_sequence(clip, renamed, task="unsupervised").j.tolist() == [1, 0.5]


def test_void_counts_as_background_in_the_semi_supervised_task_alone(clip):
    truth = clip.copy()
    truth[:, 30:32][clip[:, 30:32] == 2] = VOID
    assert score_sequence(truth, clip, task="unsupervised").jf == 1
    assert score_sequence(truth, clip, task="semi-supervised").j.tolist() == [1, pytest.approx(10 / 12)]


def test_a_missing_object_counts_as_empty(clip):
    scores = score_sequence(clip, np.where(clip == 2, 0, clip), task="semi-supervised")
    assert (scores.j.tolist(), scores.f.tolist()) == ([1, 0], [1, 0])


def test_where_truth_and_prediction_are_empty_a_frame_scores_one(clip):
    truth = clip.copy()
    truth[3:] = 0
    scores = score_sequence(truth, truth, task="unsupervised")
    assert scores.jf == 1
    predicted = truth.copy()
    predicted[5, 5:9, 5:9] = 1
    assert score_sequence(truth, predicted, task="unsupervised").j.tolist() == [pytest.approx(5 / 6), 1]


def test_first_and_last_frame_are_left_out_of_the_semi_supervised_task(clip):
    predicted = clip.copy()
    predicted[[0, -1]] = 0
    assert score_sequence(clip, predicted, task="semi-supervised").jf == 1
    assert score_sequence(clip, predicted, task="unsupervised").j.tolist() == [pytest.approx(4 / 6)] * 2


def test_a_full_frame_has_no_boundary_to_miss():
    full = np.ones((3, 8, 9), dtype=np.int64)
    scores = score_sequence(full, np.zeros_like(full), task="unsupervised")
    assert (scores.j.tolist(), scores.f.tolist()) == ([0], [1])


@pytest.mark.parametrize(("shift_px", "expected"), [(1, 1.0), (2, 0.0)])
def test_boundaries_agree_within_the_tolerance(shift_px, expected):
    """A frame of 60 x 80 has a diagonal of 100 pixels, and so a tolerance of one."""
    truth = np.zeros((3, 60, 80), dtype=np.int64)
    truth[:, :, 40:] = 1
    predicted = np.roll(truth, shift_px, axis=2)
    predicted[:, :, :shift_px] = 0
    assert score_sequence(truth, predicted, task="unsupervised").f.tolist() == [expected]


def test_an_object_that_comes_after_the_first_frame_does_not_count(clip):
    truth = clip.copy()
    truth[0][truth[0] == 2] = 0
    assert score_sequence(truth, truth, task="unsupervised").j.shape == (1,)


def test_a_clip_without_objects_has_no_score():
    empty = np.zeros((3, 4, 5), dtype=np.uint8)
    scores = score_sequence(empty, empty, task="semi-supervised")
    assert scores.j.shape == scores.f.shape == (0,)
    assert np.isnan(scores.jf)


@pytest.mark.parametrize(
    ("truth", "predicted", "task", "message"),
    [
        ((3, 4, 5), (3, 4, 6), "unsupervised", "of one size, but got (3, 4, 5) and (3, 4, 6)"),
        ((4, 5), (4, 5), "unsupervised", "Expected label maps (t, h, w)"),
        ((0, 4, 5), (0, 4, 5), "unsupervised", "Expected label maps (t, h, w)"),
        ((2, 4, 5), (2, 4, 5), "semi-supervised", "Expected 3 frames or more for the semi-supervised task, but got 2"),
    ],
)
def test_clips_that_cannot_be_scored_are_refused(truth, predicted, task, message):
    with pytest.raises(InputError) as caught:
        score_sequence(np.ones(truth, dtype=np.int64), np.ones(predicted, dtype=np.int64), task=task)
    assert message in str(caught.value)


def test_more_labels_than_allowed_are_refused(clip):
    with pytest.raises(InputError, match="labels up to 2 in a clip of the semi-supervised task, but got 3"):
        score_sequence(clip, clip + (clip == 2), task="semi-supervised")
    with pytest.raises(InputError, match="labels up to 20 in a clip of the unsupervised task, but got 255"):
        score_sequence(clip, np.where(clip == 2, VOID, clip), task="unsupervised")
    with pytest.raises(InputError, match="labels of 0 or more, but got -1"):
        score_sequence(clip, -clip.clip(0, 1), task="unsupervised")
