"""What CLIP sees, against its own preprocessing spelt out: Resize(side, bicubic), CenterCrop(side), Normalize."""

import numpy as np
import pytest
import torch
from PIL import Image

from clip_as_rnn.encoders import preprocess
from clip_as_rnn.encoders.preprocess import PreprocessorConfig, limit_size, normalize, patch_pixels, square_image

PLAIN = PreprocessorConfig(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resize_and_crop(image, side):
    """Spell out torchvision's Resize and CenterCrop on a PIL image."""
    picture = Image.fromarray(image)
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    longer = int(side * long / short)
    size = (side, longer) if width <= height else (longer, side)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2.0) for length in size)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize(
    ("height", "width"),
    [(224, 224), (375, 500), (500, 333), (225, 224), (227, 231), (31, 45), (100, 100), (1, 1), (3, 2), (640, 163)],
)
def test_the_crop_is_clips_own(height, width):
    image = noise(height, width)
    assert np.array_equal(square_image(image, 224, "crop"), resize_and_crop(image, 224))


@pytest.mark.parametrize(("height", "width"), [(40, 400), (50, 251), (7, 70), (1, 30), (30, 1)])
def test_of_a_long_strip_the_crop_is_the_same_to_one_level(height, width):
    """Only what will be seen is resized, so that 1 x 3000 pixels do not become 224 x 672,000."""
    image = noise(height, width)
    difference = square_image(image, 32, "crop").astype(int) - resize_and_crop(image, 32)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (3000, 1)])
def test_the_longest_strips_have_a_square_view(height, width):
    for view in ("crop", "whole"):
        assert square_image(noise(height, width), 224, view).shape == (224, 224, 3)


def test_the_whole_view_squeezes_all_of_the_image_into_the_square():
    image = noise(30, 90)
    expected = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(square_image(image, 32, "whole"), np.asarray(expected))


@pytest.mark.parametrize(
    ("size_hw", "multiple_px", "least_px", "expected_hw"),
    [
        ((150, 225), 16, 16, (160, 240)),
        ((160, 240), 16, 16, (160, 240)),
        ((1, 3000), 16, 16, (16, 3008)),
        ((5, 5), 16, 32, (32, 32)),
        ((33, 47), 14, 14, (42, 56)),
    ],
)
def test_sides_are_rounded_up_to_the_multiple(size_hw, multiple_px, least_px, expected_hw):
    image = noise(*size_hw)
    pixels = patch_pixels(image, multiple_px, least_px, PLAIN)
    expected = Image.fromarray(image).resize(expected_hw[::-1], Image.Resampling.BICUBIC)
    assert pixels.shape == (1, 3, *expected_hw)
    assert np.array_equal((pixels[0].permute(1, 2, 0) * 255).round().numpy(), np.asarray(expected))


def test_channels_are_shifted_and_scaled_one_by_one():
    config = PreprocessorConfig(4, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    image = noise(4, 4)
    pixels = normalize([image, image], config)
    expected = (image / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[1].permute(1, 2, 0), expected, atol=1e-5)


def test_pixels_do_not_depend_on_the_default_precision_of_the_program():
    config = PreprocessorConfig(4, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    expected = normalize([noise(4, 4)], config)
    torch.set_default_dtype(torch.float64)
    try:
        pixels = normalize([noise(4, 4)], config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, expected)


@pytest.mark.parametrize(
    ("size_hw", "limit", "expected_hw"),
    [
        ((300, 400), 200, (150, 200)),
        ((400, 300), 200, (200, 150)),
        ((1, 3000), 640, (1, 640)),
        ((3000, 1), 16, (16, 1)),
    ],
)
def test_larger_images_shrink_to_the_limit_in_proportion(size_hw, limit, expected_hw):
    assert limit_size(noise(*size_hw), limit).shape == (*expected_hw, 3)


@pytest.mark.parametrize("limit", [None, 400, 5000])
def test_images_within_the_limit_pass_as_they_are(limit):
    image = noise(300, 400)
    assert limit_size(image, limit) is image


def test_large_images_are_resized_channel_by_channel_to_the_same_pixels(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (301, 403, 3), dtype=np.uint8)
    whole = limit_size(pixels, 97)
    monkeypatch.setattr(preprocess, "_LARGE_PIXELS", 1000)
    assert np.array_equal(limit_size(pixels, 97), whole)
