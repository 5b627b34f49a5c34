"""What the figure shows of SAM: each mask before it, SAM's masks in its place, and the verdict."""

from dataclasses import replace

import numpy as np
import pytest

from clip_as_rnn.result import Refinement, RefinementPictures, Segmentation
from clip_as_rnn.visualization import text as lettering
from clip_as_rnn.visualization.colors import colors
from clip_as_rnn.visualization.steps import draw_recurrence
from fake_results import fake_segmentation

GRAY = np.full((90, 90, 3), 128, np.uint8)
CELL_PX, LINE_PX, TOP_PX, GAP_PX = 300, 24, 24 + 18, 11


def refined(*, pictures: bool = True) -> Segmentation:
    """Two texts found, one of them replaced by two masks of SAM, and one rejected."""
    left, right = np.zeros((2, 90, 90), bool)
    left[20:70, 10:40], right[20:70, 50:80] = True, True
    shown = RefinementPictures(left, np.stack([left, right]), left | right) if pictures else None
    decisions = {
        "cat": Refinement(replaced=True, iou=0.83, reason="replaced: IoU 0.83 above 0.7", pictures=shown),
        "dog": Refinement(replaced=False, iou=0.45, reason="kept: IoU 0.45 not above 0.7", pictures=shown),
    }
    return replace(fake_segmentation((90, 90), ("cat", "ghost", "dog"), {"ghost": 1}), refinements=decisions)


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    pitch_y = CELL_PX + 2 * lettering.line_height_px(18)
    top, left = lettering.line_height_px(18) + 18 + row * pitch_y, GAP_PX + column * (CELL_PX + GAP_PX)
    return picture[top : top + CELL_PX, left : left + CELL_PX]


def has(picture: np.ndarray, color: np.ndarray) -> bool:
    """Tell whether a mask is outlined in a color."""
    return bool((picture == color).all(axis=2).any())


def test_two_rows_stand_between_the_steps_and_the_masks():
    plain = draw_recurrence(GRAY, replace(refined(), refinements={}))
    with_sam = draw_recurrence(GRAY, refined())
    pitch = CELL_PX + 2 * lettering.line_height_px(18)
    assert len(with_sam) == len(plain) + 2 * pitch
    np.testing.assert_array_equal(with_sam[: len(plain) - 2 * pitch], plain[: len(plain) - 2 * pitch])  # the steps
    np.testing.assert_array_equal(with_sam[-pitch:], plain[-pitch:])


def test_the_mask_before_has_its_texts_color_and_those_of_sam_have_their_own():
    picture = draw_recurrence(GRAY, refined())
    cat, dog = colors(2)
    assert has(cell(picture, 2, 1), cat)
    assert not has(cell(picture, 2, 1), dog)
    assert has(cell(picture, 2, 3), dog)
    for color in colors(2):  # of two candidates
        assert has(cell(picture, 3, 1), color)


def test_a_text_without_a_mask_leaves_its_cells_empty():
    picture = draw_recurrence(GRAY, refined())
    for row in (2, 3):
        assert (cell(picture, row, 2) == 255).mean() > 0.95


def test_the_verdict_stands_below(monkeypatch: pytest.MonkeyPatch):
    written, write = [], lettering.write
    monkeypatch.setattr(lettering, "write", lambda *given: (written.append(given[2]), write(*given))[1])
    draw_recurrence(GRAY, refined())
    assert {"Before SAM", "SAM", "1 replaced", "1 kept", "IoU 0.83, replaced", "IoU 0.45, kept"} <= set(written)


def test_without_pictures_there_are_no_rows():
    plain = draw_recurrence(GRAY, replace(refined(), refinements={}))
    np.testing.assert_array_equal(draw_recurrence(GRAY, refined(pictures=False)), plain)
