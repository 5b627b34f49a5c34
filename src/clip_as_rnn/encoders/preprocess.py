"""From an RGB image to the pixels a CLIP reads: sizes, crops and normalization, rounded as CLIP's own code does."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from clip_as_rnn.types import Pixels, ResizedImage, RgbImage

View = Literal["crop", "whole"]
_LONG_STRIP = 4
_LARGE_PIXELS = 1 << 24


@dataclass(frozen=True, slots=True)
class PreprocessorConfig:
    """What a CLIP's preprocessor_config.json says of its images: square side in pixels, mean and std in [0, 1]."""

    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]


def limit_size(image: RgbImage, max_side_px: int | None) -> ResizedImage:
    """Shrink an image whose long side exceeds `max_side_px`; others pass as they are."""
    height, width = image.shape[:2]
    if max_side_px is None or max(height, width) <= max_side_px:
        return image
    scale = max_side_px / max(height, width)
    return _resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def patch_pixels(image: RgbImage, multiple_px: int, least_px: int, config: PreprocessorConfig) -> Pixels:
    """Stretch an image so that both sides are multiples of `multiple_px`, rounding up, and at least `least_px`."""
    height, width = (max(ceil(side / multiple_px) * multiple_px, least_px) for side in image.shape[:2])
    return normalize([_resize(image, (height, width))], config)


def square_image(image: RgbImage, side_px: int, view: View) -> ResizedImage:
    """Cut the center square out of an image, or squeeze all of it into one; bicubic, antialiased."""
    if view == "whole":
        return _resize(image, (side_px, side_px))
    resized_hw, (top, left) = _center_square(image.shape[:2], side_px)
    if max(resized_hw) > _LONG_STRIP * side_px:  # resize no more of a long strip than will be seen
        y0, x0, y1, x1 = view_box(image.shape[:2], side_px, view)
        resized = Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
        return np.asarray(resized)
    return _resize(image, resized_hw)[top : top + side_px, left : left + side_px]


def view_box(size_hw: tuple[int, int], side_px: int, view: View) -> tuple[float, float, float, float]:
    """Say what of an image `square_image` shows: top, left, bottom and right, in pixels of the image."""
    if view == "whole":
        return 0.0, 0.0, float(size_hw[0]), float(size_hw[1])
    resized_hw, (top, left) = _center_square(size_hw, side_px)
    y, x = size_hw[0] / resized_hw[0], size_hw[1] / resized_hw[1]
    return top * y, left * x, (top + side_px) * y, (left + side_px) * x


def _center_square(size_hw: tuple[int, int], side_px: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Scale a size until its short side fits the square; also say where the square begins, top and left."""
    short = min(size_hw)
    height, width = (side_px * side // short for side in size_hw)
    top, left = (round((side - side_px) / 2) for side in (height, width))  # half to even, as the original CLIP cuts
    return (height, width), (top, left)


def normalize(images: Sequence[RgbImage], config: PreprocessorConfig) -> Pixels:
    """Stack images of one size and shift and scale their channels by CLIP's mean and standard deviation; float32."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(torch.float32) / 255
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (config.image_mean, config.image_std))
    return (stacked - mean[:, None, None]) / std[:, None, None]


def _resize(image: RgbImage, size_hw: tuple[int, int]) -> ResizedImage:
    """Resize by Pillow's bicubic filter, which antialiases when shrinking.

    Pillow holds four bytes per pixel of a picture, and one of a channel: large ones are resized channel by channel.
    """
    if image.shape[:2] == size_hw:
        return image
    if image.shape[0] * image.shape[1] > _LARGE_PIXELS:
        return np.stack([_resize_by_pillow(image[:, :, i], size_hw) for i in range(3)], axis=-1)
    return _resize_by_pillow(image, size_hw)


def _resize_by_pillow(pixels: UInt8[ndarray, "h w ..."], size_hw: tuple[int, int]) -> UInt8[ndarray, "H W ..."]:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize(size_hw[::-1], Image.Resampling.BICUBIC))
