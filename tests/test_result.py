"""What a segmentation promises of itself."""

import sys

import numpy as np
import pytest
import torch

from clip_as_rnn.errors import DependencyError, InputError
from clip_as_rnn.result import Segmentation, Step
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
