"""LabelMe: a JSON file beside each picture.

A mask without holes becomes polygons that one can edit, one per part, held together by `group_id`; one with holes,
which LabelMe's polygons cannot have, becomes its shape `mask`, exact.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip_as_rnn.export.base import Sample, open_dataset, place_picture, unwritable
from clip_as_rnn.export.polygons import trace_parts
from clip_as_rnn.io.atomic import write_json
from clip_as_rnn.types import Mask

_VERSION = "5.5.0"  # of LabelMe's format, the first with shapes that are masks and groups


class LabelMeExporter:
    """Writes LabelMe's annotations."""

    parts: Sequence[str] = ()

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        open_dataset(folder, classes)
        self._folder = folder

    def paths(self, name: str, picture: Path) -> list[Path]:
        """List the files of one picture."""
        return [self._folder / "pictures" / f"{name}{picture.suffix}", self._folder / "pictures" / f"{name}.json"]

    def add(self, sample: Sample) -> list[Path]:
        """Write one picture's shapes."""
        link, described = self.paths(sample.name, sample.picture)
        found = sample.segmentation
        height, width = found.size_hw
        rows = zip(found.texts, found.scores.tolist(), found.each_mask(), strict=True)
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [shape for i, row in enumerate(rows) for shape in _shapes(i, *row)],
            "imagePath": link.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        try:
            place_picture(sample.picture, link)
            write_json(described, content)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        return [link, described]

    def close(self) -> None:
        """Do nothing: every file is of one picture."""


def _shapes(number: int, text: str, score: float, mask: Mask) -> list[dict[str, Any]]:
    """List the shapes of one mask; none for an empty one."""
    about = {"label": text, "group_id": number, "description": f"score {score:.4f}", "flags": {}}
    parts = trace_parts(mask)
    if any(part.holes for part in parts):
        return [{**about, "shape_type": "mask", **_cut_out(mask)}]
    return [{**about, "shape_type": "polygon", "points": part.border.tolist(), "mask": None} for part in parts]


def _cut_out(mask: Mask) -> dict[str, Any]:
    """Give the first and the last pixel of a mask's box, and what is between them as a PNG."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    (top, bottom), (left, right) = ((int(one[0]), int(one[-1])) for one in (rows, columns))
    png = io.BytesIO()
    Image.fromarray(mask[top : bottom + 1, left : right + 1]).save(png, format="PNG")
    points = [[left, top], [right, bottom]]
    return {"points": points, "mask": base64.b64encode(png.getvalue()).decode("ascii")}
