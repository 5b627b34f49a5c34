"""From an RGB image to the pixels a CLIP reads: sizes, crops and normalization, rounded as CLIP's own code does."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import torch
from PIL import Image

from clip_as_rnn.types import Pixels, ResizedImage, RgbImage

View = Literal["crop", "whole"]
_LONG_STRIP = 4


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
    height, width = image.shape[:2]
    short = min(height, width)
    resized_hw = (side_px * height // short, side_px * width // short)
    top, left = (round((side - side_px) / 2) for side in resized_hw)  # half to even, as the original CLIP cuts
    if max(resized_hw) > _LONG_STRIP * side_px:  # resize no more of a long strip than will be seen
        y, x = height / resized_hw[0], width / resized_hw[1]
        box = (left * x, top * y, (left + side_px) * x, (top + side_px) * y)
        return np.asarray(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC, box=box))
    return _resize(image, resized_hw)[top : top + side_px, left : left + side_px]


def normalize(images: Sequence[RgbImage], config: PreprocessorConfig) -> Pixels:
    """Stack images of one size and shift and scale their channels by CLIP's mean and standard deviation; float32."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(torch.float32) / 255
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (config.image_mean, config.image_std))
    return (stacked - mean[:, None, None]) / std[:, None, None]


def _resize(image: RgbImage, size_hw: tuple[int, int]) -> ResizedImage:
    """Resize by Pillow's bicubic filter, which antialiases when shrinking."""
    if image.shape[:2] == size_hw:
        return image
    return np.asarray(Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BICUBIC))
