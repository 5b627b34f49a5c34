"""Pictures in a row: an image, and label maps laid over it in colors that name the labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

from clip_as_rnn.types import LabelMap, RgbImage
from clip_as_rnn.visualization import text as lettering
from clip_as_rnn.visualization.colors import colors
from clip_as_rnn.visualization.overlay import fit_long_side

_LONG_SIDE_PX = 320
_LETTER_PX = 14
_GAP_PX = 6
_OPACITY = 0.6
_WHITE = 255
_IGNORED_INK = (128, 128, 128)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One picture of the row: a caption, and the labels to lay over the image, if any; background is left clear."""

    caption: str
    labels: LabelMap | None


def draw_panels(image: RgbImage, panels: Sequence[Panel]) -> UInt8[ndarray, "H W 3"]:
    """Draw the panels from left to right, each shrunk to 320 px at most, captions above.

    A label has the same color in every panel; negative labels, which count nowhere, are gray.
    """
    laid = [image if panel.labels is None else _lay_over(image, panel.labels) for panel in panels]
    tiles = [fit_long_side(picture, 1, _LONG_SIDE_PX) for picture in laid]
    height, width = tiles[0].shape[:2]
    head = lettering.line_height_px(_LETTER_PX) + _GAP_PX
    step = width + _GAP_PX
    sheet = np.full((head + height, step * len(tiles) - _GAP_PX, 3), _WHITE, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        sheet[head:, i * step : i * step + width] = tile
    canvas = Image.fromarray(sheet)
    draw = ImageDraw.Draw(canvas)
    for i, panel in enumerate(panels):
        lettering.write(draw, (i * step, 0), lettering.shorten(panel.caption, _LETTER_PX, width), _LETTER_PX)
    return np.asarray(canvas)


def _lay_over(image: RgbImage, labels: LabelMap) -> RgbImage:
    """Blend every label's color with the image."""
    inks = np.vstack([colors(max(1, int(labels.max(initial=0)))), [_IGNORED_INK]])  # the last row is label -1's
    painted = (1 - _OPACITY) * image + _OPACITY * inks[np.where(labels < 0, -1, labels - 1)]
    return np.where((labels == 0)[..., None], image, painted.astype(np.uint8))
