"""Colours that people with any colour vision can tell apart, and that never change from run to run."""

from colorsys import hls_to_rgb

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from clip_as_rnn.shapes import RgbImage

# Okabe & Ito, "Color universal design" (2008), without black.
_OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_GOLDEN = 0.618033988749895  # steps of this turn of the hue circle never come back to where they were
_LIGHTNESSES = (0.35, 0.55, 0.75)  # neighbours in number differ in lightness too, which every eye sees
_SATURATION = 0.7


def colours(count: int) -> UInt8[ndarray, "n 3"]:
    """Return the first `count` colours of one endless list: seven of Okabe & Ito's, then turns of the hue circle."""
    listed = [_OKABE_ITO[i] if i < len(_OKABE_ITO) else _turned(i) for i in range(count)]
    return np.array(listed, dtype=np.uint8).reshape(count, 3)


def _turned(i: int) -> tuple[int, int, int]:
    red, green, blue = hls_to_rgb(i * _GOLDEN % 1.0, _LIGHTNESSES[i % len(_LIGHTNESSES)], _SATURATION)
    return round(red * 255), round(green * 255), round(blue * 255)


def heat(values: Float[ndarray, "h w"]) -> RgbImage:
    """Colour values in [0, 1] from black over red to pale yellow; lightness grows all the way (Inferno)."""
    levels = np.round(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
    coloured: RgbImage = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return coloured
