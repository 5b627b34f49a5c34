"""What the page's viewers are given of SAM."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from clip_as_rnn.apps.web.payload import steps_payload
from clip_as_rnn.result import Refinement, RefinementPictures, Segmentation
from clip_as_rnn.visualization.colors import colors

GRAY = np.full((20, 30, 3), 128, np.uint8)
LEFT, RIGHT = (np.tile(np.arange(30) // 15 == side, (20, 1)) for side in (0, 1))


def refined(pictures: RefinementPictures | None) -> Segmentation:
    decision = Refinement(replaced=True, iou=0.83, reason="replaced: IoU 0.83 above 0.7", pictures=pictures)
    return Segmentation(("dog",), ("dog",), LEFT[None], np.ones(1), refinements={"dog": decision})


def drawn(picture: dict[str, str]) -> np.ndarray:
    content = base64.b64decode(picture["layer"].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_mask_is_shown_before_sam_and_after_it_and_sams_own_between():
    everything = np.ones((20, 30), bool)
    pictures = RefinementPictures(LEFT, np.stack([RIGHT, everything]), everything)
    (one,) = steps_payload(GRAY, refined(pictures))["refined"]
    assert (one["text"], one["replaced"], one["reason"]) == ("dog", True, "replaced: IoU 0.83 above 0.7")
    assert [picture["name"] for picture in one["pictures"]] == ["before", "SAM", "after"]
    before, candidates, after = (drawn(picture) for picture in one["pictures"])
    np.testing.assert_array_equal(before[..., 3] > 0, LEFT)
    np.testing.assert_array_equal(after[..., 3] > 0, everything)
    np.testing.assert_array_equal(before[0, 0, :3], colors(1)[0])
    np.testing.assert_array_equal(candidates[0, 29, :3], colors(2)[0])  # the smaller one lies on top
    np.testing.assert_array_equal(candidates[0, 0, :3], colors(2)[1])


def test_where_sam_saw_nothing_there_are_words_alone():
    (one,) = steps_payload(GRAY, refined(None))["refined"]
    assert one["pictures"] == []


@pytest.mark.parametrize("size_hw", [(1, 300), (300, 1)])
def test_without_sam_there_is_no_such_page(size_hw):
    found = Segmentation(("dog",), ("dog",), np.ones((1, *size_hw), bool), np.ones(1))
    assert steps_payload(np.zeros((*size_hw, 3), np.uint8), found)["refined"] == []
