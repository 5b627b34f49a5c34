"""What a segmentation promises of itself."""

import json
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from clip_as_rnn.errors import DependencyError, InputError
from clip_as_rnn.ops import resize_nearest
from clip_as_rnn.result import Rejection, Segmentation, Step
from fake_results import fake_segmentation


def overlapping(*scores):
    masks = np.zeros((len(scores), 2, 4), dtype=bool)
    for i in range(len(scores)):
        masks[i, :, i : i + 2] = True
    texts = tuple(f"text {i}" for i in range(len(scores)))
    return Segmentation(texts, texts, masks, np.array(scores, dtype=np.float32))


def test_where_masks_overlap_the_higher_score_wins():
    assert overlapping(0.9, 0.5, 0.7).label_map().tolist() == [[1, 1, 3, 3]] * 2


def test_among_equal_scores_the_later_text_wins():
    assert overlapping(0.5, 0.5).label_map().tolist() == [[1, 2, 2, 0]] * 2


def test_nothing_found_is_all_background_at_the_size_of_the_image():
    empty = Segmentation(("cat",), (), np.zeros((0, 3, 5), dtype=bool), np.zeros(0, dtype=np.float32))
    assert empty.size_hw == (3, 5)
    assert empty.label_map().shape == (3, 5)
    assert not empty.label_map().any()


def test_a_text_of_score_zero_is_painted_like_any_other():
    assert overlapping(0.0).label_map().tolist() == [[1, 1, 0, 0]] * 2


def test_texts_masks_and_scores_must_be_equally_many():
    masks, scores = np.zeros((2, 3, 4), dtype=bool), np.zeros(2, dtype=np.float32)
    with pytest.raises(InputError, match=r"one mask and one score per text, but got .*: \(1, 2, 2\)\."):
        Segmentation(("cat",), ("cat",), masks, scores)


def test_a_step_names_the_dropped_and_grows_its_maps():
    maps = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]]])
    step = Step(("a", "b", "c"), maps, maps, np.zeros(3, dtype=np.float32), (1,), (2, 6))
    assert step.dropped == (0, 2)
    assert step.proposals.shape == (3, 2, 6)
    assert step.proposals[0, 0].tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1], abs=1e-6)


def test_made_up_results_keep_the_same_promises():
    result = fake_segmentation((12, 16), ("cat", "dog", "sofa"), {"dog": 1})
    assert result.texts == ("cat", "sofa")
    assert [rejection.text for rejection in result.rejections] == ["dog"]


def test_detections_of_supervision_hold_boxes_masks_scores_and_texts():
    segmentation = fake_segmentation((12, 16), ("ghost", "cat, black", "cup"), {"ghost": 1})
    found = segmentation.to_supervision()
    np.testing.assert_array_equal(found.mask, segmentation.masks)
    np.testing.assert_array_equal(found.xyxy, segmentation.boxes)
    np.testing.assert_array_equal(found.confidence, segmentation.scores)
    assert (found.class_id.tolist(), found.data["class_name"].tolist()) == ([1, 2], ["cat, black", "cup"])
    assert len(fake_segmentation((12, 16), ("ghost",), {"ghost": 1}).to_supervision()) == 0


def test_without_supervision_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DependencyError, match="Detections need supervision; install it: pip install supervision"):
        overlapping(0.5).to_supervision()


LABELS = np.array([[0, 1, 1, 0], [3, 0, 1, 3]])
QUERIES = ("cat", "bird", "dog", "sofa")


def of_labels(**others):
    """Make a segmentation of a label map on which the second text found has no pixel."""
    scores = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    return Segmentation.from_label_map(LABELS, queries=QUERIES, texts=("cat", "dog", "sofa"), scores=scores, **others)


def test_masks_of_a_label_map_are_made_when_first_asked_for_and_once():
    result = of_labels()
    result.boxes, result.label_map(), len(result), repr(result), result.size_hw
    assert vars(result)["masks"] is None
    assert np.array_equal(result.masks, np.stack([i == LABELS for i in (1, 2, 3)]))
    assert result.masks is result.masks


def test_a_thousand_texts_cost_one_map():
    labels = np.arange(1000 * 1000).reshape(1000, 1000) % 1001
    texts = tuple(f"text {i}" for i in range(1000))
    tracemalloc.start()
    result = Segmentation.from_label_map(labels, queries=texts, texts=texts, scores=np.ones(1000, dtype=np.float32))
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.size_hw == (1000, 1000)
    assert taken < labels.nbytes


@pytest.mark.parametrize("size_hw", [(4, 6), (30, 31), (1, 1)])
@pytest.mark.parametrize("made", [False, True])
def test_masks_one_by_one_and_at_another_size_are_the_masks(size_hw, made):
    labels = np.random.default_rng(0).integers(0, 4, (7, 9)).astype(np.int8)
    known = {"queries": QUERIES, "texts": ("cat", "dog", "sofa"), "scores": np.ones(3, dtype=np.float32)}
    result, masks = Segmentation.from_label_map(labels, **known), Segmentation.from_label_map(labels, **known).masks
    if made:
        assert len(result.masks) == 3
    assert np.array_equal(np.stack(list(result.each_mask())), masks)
    assert np.array_equal(result.resize_masks(size_hw), resize_nearest(masks, size_hw))


def test_masks_one_by_one_take_the_memory_of_one():
    labels = np.ones((500, 500), dtype=np.int8)
    texts = tuple(map(str, range(100)))
    result = Segmentation.from_label_map(labels, queries=texts, texts=texts, scores=np.ones(100, dtype=np.float32))
    tracemalloc.start()
    areas = [int(mask.sum()) for mask in result.each_mask()]
    small = result.resize_masks((5, 5))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert areas == [250_000] + [0] * 99
    assert small.sum() == 25
    assert peak < 6 * labels.size


def test_a_label_map_comes_back_as_a_copy():
    result = of_labels()
    assert np.array_equal(result.label_map(), LABELS)
    result.label_map()[:] = 0
    assert np.array_equal(result.label_map(), LABELS)


def test_a_label_map_takes_four_bytes_a_pixel_whatever_it_was_made_of():
    result = of_labels()
    assert result.label_map().dtype == np.int32
    assert np.array_equal(result.label_map(dtype=np.int16), LABELS)
    assert result.masks.any()  # from here on the map is made of the masks
    assert result.label_map().dtype == np.int32


def test_a_label_map_of_nothing_has_no_masks_at_its_size():
    nothing = Segmentation.from_label_map(
        np.zeros((3, 5), dtype=np.int64), queries=("cat",), texts=(), scores=np.zeros(0, dtype=np.float32)
    )
    assert nothing.masks.shape == (0, 3, 5)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.to_coco() == []


@settings(max_examples=40, deadline=None)
@given(arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_boxes_are_the_extremes_of_the_pixels_of_masks_and_of_labels_alike(labels):
    texts, scores = ("a", "b", "c"), np.ones(3, dtype=np.float32)
    of_map = Segmentation.from_label_map(labels, queries=texts, texts=texts, scores=scores)
    of_masks = Segmentation(texts, texts, np.stack([labels == i for i in (1, 2, 3)]), scores)
    assert np.array_equal(of_map.boxes, of_masks.boxes)
    for i, box in enumerate(of_map.boxes.tolist()):
        rows, columns = np.nonzero(labels == i + 1)
        slow = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
        assert box == slow


def test_the_length_of_a_segmentation_counts_the_texts_found():
    assert len(of_labels()) == 3
    assert len(overlapping(0.5)) == 1


def test_a_segmentation_shows_its_size_what_was_found_and_what_was_not():
    bird = Rejection("bird", 1, 0.2, "score below 0.4")
    assert repr(of_labels(rejections=(bird,))) == (
        "Segmentation(4x2, found: cat 0.90, dog 0.80, sofa 0.70; rejected: bird)"
    )
    empty = Segmentation(("cat",), (), np.zeros((0, 3, 5), dtype=bool), np.zeros(0, dtype=np.float32))
    assert repr(empty) == "Segmentation(5x3, found: nothing; rejected: nothing)"


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools predates the keyword of numpy 2
@pytest.mark.parametrize("result", [of_labels(), overlapping(0.9, 0.5)], ids=["labels", "masks"])
def test_annotations_are_those_that_pycocotools_reads(result):
    annotations = json.loads(json.dumps(result.to_coco(image_id=7)))
    assert [one["id"] for one in annotations] == [i + 1 for i in range(len(result))]
    for one, text, mask, score in zip(annotations, result.texts, result.masks, result.scores, strict=True):
        assert np.array_equal(coco.decode(one["segmentation"]), mask)
        assert one["area"] == coco.area(one["segmentation"])
        assert one["bbox"] == coco.toBbox(one["segmentation"]).tolist()
        assert result.queries[one["category_id"] - 1] == text
        assert (one["image_id"], one["iscrowd"], one["score"]) == (7, 0, pytest.approx(float(score)))


def test_masks_that_the_caller_changes_count_in_everything_that_follows():
    labels = np.zeros((4, 5), dtype=np.int64)
    labels[1, 1:3] = 1
    result = Segmentation.from_label_map(labels, queries=("a",), texts=("a",), scores=np.ones(1, dtype=np.float32))
    result.masks[0] = True
    assert result.label_map().all()
    assert result.boxes.tolist() == [[0, 0, 5, 4]]


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_text_is_refused(label):
    labels = np.full((2, 2), label)
    with pytest.raises(InputError, match=r"Expected labels from 0 to 1, but got some from"):
        Segmentation.from_label_map(labels, queries=("a",), texts=("a",), scores=np.ones(1, dtype=np.float32))
