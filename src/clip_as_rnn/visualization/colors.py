"""Colors that people with any color vision can tell apart, and that never change from run to run."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from clip_as_rnn.types import RgbImage

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
_GOLDEN_TURN = 0.618033988749895 * 2 * np.pi  # steps of this angle around the hues never come back to where they were
_LIGHTNESSES = (38.0, 62.0, 86.0, 50.0, 74.0)  # of CIELAB: neighbors in number differ for every eye
_CHROMA = 45.0
_DIMMED = 0.5


def colors(count: int) -> UInt8[ndarray, "n 3"]:
    """Return the first `count` colors of one endless list: seven of Okabe & Ito's, then turns around the hues."""
    numbers = np.arange(max(0, count - len(_OKABE_ITO)))
    lab = np.stack(
        [
            np.take(_LIGHTNESSES, numbers % len(_LIGHTNESSES)),
            _CHROMA * np.cos(numbers * _GOLDEN_TURN),
            _CHROMA * np.sin(numbers * _GOLDEN_TURN),
        ],
        axis=1,
    )
    turned = _lab_to_rgb(lab) if len(numbers) else np.zeros((0, 3), np.uint8)
    return np.concatenate([np.array(_OKABE_ITO[:count], dtype=np.uint8).reshape(-1, 3), turned])


def _lab_to_rgb(lab: Float[ndarray, "n 3"]) -> UInt8[ndarray, "n 3"]:
    """Convert CIELAB to sRGB; what lies beyond sRGB is clipped."""
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_Lab2RGB)[0]
    rounded: UInt8[ndarray, "n 3"] = np.round(np.clip(rgb, 0.0, 1.0) * 255).astype(np.uint8)
    return rounded


def heat(values: Float[ndarray, "h w"]) -> RgbImage:
    """Color values in [0, 1] from black over red to pale yellow; lightness grows all the way (Inferno)."""
    levels = np.round(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
    colored: RgbImage = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return colored


def heat_opacity(values: Float[ndarray, "h w"]) -> Float[ndarray, "h w"]:
    """Return how much a heat map hides of what it lies on: the hotter, the more, up to 0.9."""
    opacity: Float[ndarray, "h w"] = 0.9 * np.sqrt(np.clip(values, 0.0, 1.0))
    return opacity


def dim(image: RgbImage) -> UInt8[ndarray, "h w"]:
    """Turn an image into dark gray, for heat maps to lie on."""
    gray: UInt8[ndarray, "h w"] = np.round(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * _DIMMED).astype(np.uint8)
    return gray
