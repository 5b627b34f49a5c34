"""Drawing visual prompts: marks on an image that point CLIP at a mask (Shtedritski et al., ICCV 2023).

Drawn on the whole image at its own size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from scipy.ndimage import binary_fill_holes

from clip_as_rnn.config import VISUAL_PROMPTS, VisualPrompt
from clip_as_rnn.types import RgbImage

_RED = (255, 0, 0)
_BLUR_PX = (15, 15)


@dataclass(frozen=True, slots=True, eq=False)
class PromptedImage:
    """An image ready to be marked for many masks: what lies outside a mask is painted once, not per mask.

    Attributes:
        inside: the image as it is.
        outside: the image blurred, grayed or blacked out, by the visual prompts asked.
        lines: the visual prompts that draw lines: circle, rectangle, contour.
    """

    inside: RgbImage
    outside: RgbImage
    lines: tuple[VisualPrompt, ...]

    def show(self, mask: Bool[ndarray, "h w"]) -> RgbImage:
        """Draw the visual prompts for one mask: surroundings first, then lines, 1 px and pure red.

        An ellipse or a rectangle is centerd on the mean pixel of the mask, not on its box, with the box's width and
        height (CaR's release). An empty mask has no lines to draw; all of the image is then outside.
        """
        shown = np.where(mask[:, :, None], self.inside, self.outside)
        if mask.any():
            for mark in self.lines:
                _draw_line(shown, mask, mark)
        return shown


def prepare_prompts(image: RgbImage, visual_prompts: Sequence[VisualPrompt]) -> PromptedImage:
    """Paint the surroundings that the visual prompts ask for, once for all masks of an image."""
    outside = image
    if "blur" in visual_prompts:
        outside = cv2.GaussianBlur(outside, _BLUR_PX, 0)
    if "gray" in visual_prompts:  # the release's luma: the weights of blue and red change places
        outside = np.repeat(cv2.cvtColor(outside, cv2.COLOR_BGR2GRAY)[:, :, None], 3, axis=2)
    if "black" in visual_prompts:
        outside = np.zeros_like(outside)
    lines = tuple(mark for mark in VISUAL_PROMPTS[3:] if mark in visual_prompts)
    return PromptedImage(image, outside, lines)


def _draw_line(image: RgbImage, mask: Bool[ndarray, "h w"], mark: VisualPrompt) -> None:
    """Draw one mark onto `image` in place; the mask must not be empty."""
    if mark == "contour":
        filled: UInt8[ndarray, "h w"] = binary_fill_holes(mask).astype(np.uint8)
        contours, _ = cv2.findContours(filled, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(image, contours, -1, _RED, 1)
        return
    rows, columns = np.nonzero(mask)
    x, y = int(columns.mean()), int(rows.mean())
    half_width = int(columns.max() - columns.min() + 1) // 2
    half_height = int(rows.max() - rows.min() + 1) // 2
    if mark == "circle":
        # Until 4.11 OpenCV drew an 8-connected ellipse as it now draws a 4-connected one; scores feel the difference.
        cv2.ellipse(image, (x, y), (half_width, half_height), 0, 0, 360, _RED, 1, cv2.LINE_4)
    else:
        cv2.rectangle(image, (x - half_width, y - half_height), (x + half_width, y + half_height), _RED, 1)
