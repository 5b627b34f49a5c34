"""Arithmetic of maps against loops that spell it out."""

import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from scipy.ndimage import find_objects, label

from clip_as_rnn.ops import components_box_mask, encode_rle, min_max_scale, resize_nearest, upsample_maps


def slow_growth(values, size_hw):
    """Interpolate bilinearly with half-pixel centers, clamped at the rim, one pixel at a time."""
    grown = np.zeros(size_hw)
    for y in range(size_hw[0]):
        for x in range(size_hw[1]):
            at = [(p + 0.5) * n / m - 0.5 for p, n, m in zip((y, x), values.shape, size_hw, strict=True)]
            low = [int(np.floor(p)) for p in at]
            for dy in (0, 1):
                for dx in (0, 1):
                    weight = (1 - abs(at[0] - low[0] - dy)) * (1 - abs(at[1] - low[1] - dx))
                    row, column = (
                        np.clip(p + d, 0, n - 1) for p, d, n in zip(low, (dy, dx), values.shape, strict=True)
                    )
                    grown[y, x] += weight * values[row, column]
    return grown


def test_scaling_stretches_each_map_on_its_own():
    maps = torch.tensor([[[1.0, 3.0]], [[-2.0, -1.0]]])
    torch.testing.assert_close(min_max_scale(maps), torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]]))


def test_a_constant_map_scales_to_zero():
    assert not min_max_scale(torch.full((1, 3, 4), 7.0)).any()
    assert not min_max_scale(torch.zeros(1, 3, 4)).any()


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 5), (16, 9), (40, 24)])
def test_growth_is_bilinear(size_hw):
    maps = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for grown, values in zip(upsample_maps(maps, size_hw), maps, strict=True):
        np.testing.assert_allclose(grown.numpy(), slow_growth(values.numpy(), size_hw), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_growth_takes_any_precision_and_gives_float32(dtype):
    maps = torch.tensor([[[0.0, 0.5], [1.0, 0.25]]])
    assert torch.equal(upsample_maps(maps.to(dtype), (5, 6)), upsample_maps(maps, (5, 6)))


def test_no_maps_grow_to_no_masks():
    assert upsample_maps(torch.zeros(0, 2, 2), (4, 5)).shape == (0, 4, 5)
    assert resize_nearest(np.zeros((0, 2, 2), dtype=bool), (4, 5)).shape == (0, 4, 5)


def test_masks_grow_to_their_nearest_pixel():
    mask = np.array([[[True, False], [False, True]]])
    assert np.array_equal(resize_nearest(mask, (4, 6)), np.kron(mask, np.ones((1, 2, 3), dtype=bool)))
    assert np.array_equal(resize_nearest(resize_nearest(mask, (6, 10)), (2, 2)), mask)


def test_masks_of_the_wanted_size_are_not_copied():
    mask = np.zeros((1, 3, 4), dtype=bool)
    assert resize_nearest(mask, (3, 4)) is mask


@pytest.mark.parametrize(("count", "kind"), [(127, np.int8), (128, np.int16), (32767, np.int16), (32768, np.int32)])
def test_a_label_map_grows_in_as_few_bits_as_hold_its_labels(count: int, kind: type):
    labels = np.array([[0, count], [1, 2]])
    grown = resize_nearest(labels, (4, 6))
    assert grown.dtype == kind
    assert np.array_equal(grown, np.kron(labels, np.ones((2, 3), dtype=np.int64)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 12), width=st.integers(1, 12), clamp=st.booleans())
def test_boxes_are_those_of_all_components(seed, height, width, clamp):
    mask = (np.random.default_rng(seed).random((height, width)) < 0.25).astype(np.uint8)
    expected = np.zeros(mask.shape)
    components, _ = label(mask, structure=np.ones((3, 3)))
    for rows, columns in find_objects(components):
        bottom, right = (
            (min(rows.stop, height - 1), min(columns.stop, width - 1)) if clamp else (rows.stop, columns.stop)
        )
        expected[rows.start : bottom, columns.start : right] = 1
    assert np.array_equal(components_box_mask(mask, clamp=clamp).numpy(), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_boxes_of_contours_cover_the_same(seed):
    """The authors' release walks contours, holes and what lies in them included; their boxes add nothing."""
    mask = (np.random.default_rng(seed).random((14, 17)) < 0.45).astype(np.uint8)
    expected = np.zeros(mask.shape)
    for contour in cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]:
        x, y, width, height = cv2.boundingRect(contour)
        expected[y : y + height, x : x + width] = 1
    assert np.array_equal(components_box_mask(mask, clamp=False).numpy(), expected)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in the decoder of pycocotools
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_run_lengths_are_json_and_decode_to_the_mask(share: float):
    mask = np.random.default_rng(0).random((7, 5)) < share
    rle = encode_rle(mask)
    assert json.loads(json.dumps(rle)) == rle
    assert rle["size"] == [7, 5]
    assert np.array_equal(coco.decode(rle) > 0, mask)


def test_clamped_boxes_leave_out_the_last_row_and_column():
    boxes = components_box_mask(np.ones((4, 5), dtype=np.uint8), clamp=True)
    assert boxes[:3, :4].all()
    assert not boxes[3].any()
    assert not boxes[:, 4].any()
