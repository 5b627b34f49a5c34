"""Label maps as PNG: one integer per pixel, 8 bits while that holds every label, else 16."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.io.atomic import replacing
from clip_as_rnn.io.images import DAMAGE
from clip_as_rnn.types import LabelMap

_MOST_8_BIT = 255


def write_label_map(path: Path, labels: LabelMap, *, palette: UInt8[ndarray, "n 3"] | None = None) -> None:
    """Write labels from 0 to 65535; an 8-bit file shows label i + 1 in color i of the palette, if one is given.

    Raises:
        OSError: it cannot be written.
    """
    count = int(labels.max(initial=0)) if palette is None else len(palette)
    narrow = labels.view(np.uint8) if labels.dtype == np.int8 else labels  # the same bytes, without a copy
    picture = Image.fromarray(narrow.astype(np.uint8 if count <= _MOST_8_BIT else np.uint16, copy=False))
    if palette is not None and count <= _MOST_8_BIT:
        picture.putpalette([0, 0, 0, *palette.flatten().tolist()])
    with replacing(path) as file:
        picture.save(file, format="PNG")


def read_label_map(path: Path) -> LabelMap:
    """Read a label map that `write_label_map` wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image).astype(np.int64)
    except DAMAGE as error:
        raise InputError(f"Expected a label map in {str(path)!r}, but it cannot be read: {error}.") from error
