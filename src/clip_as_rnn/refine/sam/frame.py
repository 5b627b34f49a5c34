"""Where SAM sees a pixel: the square that its encoder takes, the smaller square of its mask logits, and the way back.

SAM and HQ-SAM scale the longer side of an image and pad the rest with zeros, right and below; SAM 2 squeezes the image
into the square. Positions are x, y in pixels; resizing is bilinear, as in the processors of transformers.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from clip_as_rnn.types import Pixels, RgbImage


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a SAM wants its images.

    Attributes:
        side_px: of the square that the encoder takes.
        mask_side_px: of the square of mask logits.
        keep_aspect: scale and pad (SAM, HQ-SAM), or squeeze (SAM 2).
        mean, std: of the colors in [0, 1], red, green, blue.
    """

    side_px: int
    mask_side_px: int
    keep_aspect: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """One image's place in the squares.

    Attributes:
        size_hw: the image's own height and width.
        inner_hw: its height and width inside the encoder's square, at the top left.
        side_px, mask_side_px: of the squares.
        keep_aspect: scaled and padded, or squeezed.
    """

    size_hw: tuple[int, int]
    inner_hw: tuple[int, int]
    side_px: int
    mask_side_px: int
    keep_aspect: bool

    @property
    def mask_inner_hw(self) -> tuple[int, int]:
        """Height and width of the image inside the square of logits, to the nearest pixel, at least one."""
        height, width = (max(1, round(inner * self.mask_side_px / self.side_px)) for inner in self.inner_hw)
        return height, width

    def scale_positions(self, positions: Shaped[ndarray, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Carry positions x, y from the image into the encoder's square."""
        (height, width), (inner_height, inner_width) = self.size_hw, self.inner_hw
        return torch.from_numpy(positions * np.array([inner_width / width, inner_height / height])).float()

    def grow_logits(self, logits: Float[Tensor, "k s s"]) -> Float[Tensor, "k h w"]:
        """Enlarge mask logits to the image: to the encoder's square, without the padding, to the image.

        As the processors do it: those of SAM 2 in one step, those of SAM and HQ-SAM in two for square images as well.
        """
        inner_height, inner_width = self.inner_hw
        if not self.keep_aspect:
            return interpolate(logits[None], self.size_hw, mode="bilinear", align_corners=False)[0]
        square = interpolate(logits[None], (self.side_px, self.side_px), mode="bilinear", align_corners=False)
        return interpolate(
            square[..., :inner_height, :inner_width], self.size_hw, mode="bilinear", align_corners=False
        )[0]

    def shrink_map(self, soft: Float[ndarray, "gh gw"], outside: float) -> Float[ndarray, "s s"]:
        """Average a map of the whole image, of any size, over the pixels of the logits; the padding holds `outside`."""
        height, width = self.mask_inner_hw
        square = np.full((self.mask_side_px, self.mask_side_px), outside, dtype=np.float32)
        small = cv2.resize(soft.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        square[:height, :width] = small
        return square


def place(size_hw: tuple[int, int], preprocessing: Preprocessing) -> Frame:
    """Find an image's place in the squares, from its size alone."""
    side_px = preprocessing.side_px
    inner_hw = (side_px, side_px)
    if preprocessing.keep_aspect:
        scale = side_px / max(size_hw)
        inner_hw = (int(size_hw[0] * scale + 0.5), int(size_hw[1] * scale + 0.5))
    inner_hw = (max(1, inner_hw[0]), max(1, inner_hw[1]))
    return Frame(size_hw, inner_hw, side_px, preprocessing.mask_side_px, preprocessing.keep_aspect)


def prepare_pixels(image: RgbImage, preprocessing: Preprocessing) -> Pixels:
    """Resize, normalize and pad one image for the encoder, (1, 3, side, side) float32."""
    height, width = place((image.shape[0], image.shape[1]), preprocessing).inner_hw
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    colors = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255  # 3 H W
    mean, std = (torch.tensor(one, dtype=torch.float32) for one in (preprocessing.mean, preprocessing.std))
    pixels = torch.zeros(1, 3, preprocessing.side_px, preprocessing.side_px, dtype=torch.float32)
    pixels[0, :, :height, :width] = (colors - mean[:, None, None]) / std[:, None, None]
    return pixels
