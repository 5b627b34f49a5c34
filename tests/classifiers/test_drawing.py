"""Visual prompts against their definitions, pixel by pixel."""

import cv2
import numpy as np
import pytest

from clip_as_rnn.classifiers.drawing import prepare_prompts
from clip_as_rnn.config import VISUAL_PROMPTS

RED = [255, 0, 0]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)  # never pure red


@pytest.fixture
def mask():
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:21, 15:36] = True
    return mask


def reds(image):
    return {(int(y), int(x)) for y, x in np.argwhere((image == RED).all(axis=2))}


def test_blur_softens_only_what_lies_outside(image, mask):
    shown = prepare_prompts(image, ("blur",)).show(mask)
    assert np.array_equal(shown[mask], image[mask])
    assert np.array_equal(shown[~mask], cv2.GaussianBlur(image, (15, 15), 0)[~mask])


def test_gray_takes_the_luma_of_swapped_channels(image, mask):
    """The release calls an RGB image BGR: blue weighs 0.299 and red 0.114."""
    shown = prepare_prompts(image, ("gray",)).show(mask)
    assert np.array_equal(shown[mask], image[mask])
    luma = image.astype(float) @ [0.114, 0.587, 0.299]
    assert np.abs(shown[~mask].astype(float) - luma[~mask][:, None]).max() <= 1


def test_black_leaves_nothing_outside(image, mask):
    shown = prepare_prompts(image, ("black",)).show(mask)
    assert np.array_equal(shown[mask], image[mask])
    assert not shown[~mask].any()


def test_gray_is_laid_on_the_blurred_image_whatever_the_order_asked(image, mask):
    shown = prepare_prompts(image, ("gray", "blur")).show(mask)
    assert np.array_equal(shown, prepare_prompts(image, ("blur", "gray")).show(mask))
    blurred = cv2.GaussianBlur(image, (15, 15), 0)
    assert np.array_equal(shown[~mask][:, 0], cv2.cvtColor(blurred, cv2.COLOR_BGR2GRAY)[~mask])


def test_a_rectangle_is_centerd_on_the_mean_pixel_with_the_size_of_the_box(image):
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 10:30] = True
    mask[10, 10:50] = True  # box 10 x 40 from (10, 10); the mean lies left and below of its center
    rows, columns = np.nonzero(mask)
    y, x = int(rows.mean()), int(columns.mean())
    lines = reds(prepare_prompts(image, ("rectangle",)).show(mask))
    assert {row for row, _ in lines} == set(range(y - 5, y + 6))
    assert {column for _, column in lines} == set(range(max(x - 20, 0), x + 21))
    assert (y, x) not in lines


def test_a_circle_touches_the_box_of_a_symmetric_mask(image, mask):
    lines = reds(prepare_prompts(image, ("circle",)).show(mask))
    for point in ((10, 25), (20, 25), (15, 15), (15, 35)):
        assert point in lines
    distances = [((y - 15) / 5) ** 2 + ((x - 25) / 10) ** 2 for y, x in lines]
    assert min(distances) > 0.7
    assert max(distances) < 1.35


def test_a_contour_follows_the_rim_and_ignores_holes(image, mask):
    holed = mask.copy()
    holed[14:17, 20:25] = False
    shown = prepare_prompts(image, ("contour",)).show(holed)
    rim = mask.copy()
    rim[11:20, 16:35] = False
    assert reds(shown) == {(int(y), int(x)) for y, x in np.argwhere(rim)}


def test_lines_lie_on_top_of_what_is_painted_outside(image, mask):
    shown = prepare_prompts(image, ("circle", "black")).show(mask)
    assert (10, 25) in reds(shown)
    assert set(map(tuple, shown[~mask].tolist())) <= {(0, 0, 0), (255, 0, 0)}


@pytest.mark.parametrize("prompt", ["circle", "rectangle", "contour"])
def test_an_empty_mask_has_no_lines(image, prompt):
    assert np.array_equal(prepare_prompts(image, (prompt,)).show(np.zeros((40, 60), dtype=bool)), image)


def test_an_empty_mask_puts_all_of_the_image_outside(image):
    assert not prepare_prompts(image, ("black", "circle")).show(np.zeros((40, 60), dtype=bool)).any()


@pytest.mark.parametrize("prompt", VISUAL_PROMPTS)
def test_the_image_itself_is_never_drawn_on(image, mask, prompt):
    before = image.copy()
    prepare_prompts(image, (prompt,)).show(mask)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("prompt", VISUAL_PROMPTS)
def test_marks_fit_on_any_size(size_hw, prompt):
    image = np.full((*size_hw, 3), 100, dtype=np.uint8)
    mask = np.ones(size_hw, dtype=bool)
    assert prepare_prompts(image, (prompt,)).show(mask).shape == image.shape


def test_no_visual_prompts_show_the_image_as_it_is(image, mask):
    assert np.array_equal(prepare_prompts(image, ()).show(mask), image)
