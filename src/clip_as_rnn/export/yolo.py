"""YOLO segmentation as Ultralytics reads it: `images/`, a text file per picture in `labels/`, and `data.yaml`.

One row per text found: its number and one polygon, in shares of width and height. Holes and further parts are joined to
the polygon by lines without width, so that one object stays one row; scores have no place.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_as_rnn.export.base import Sample, open_dataset, place_picture, unwritable
from clip_as_rnn.export.polygons import join_rings, trace_parts
from clip_as_rnn.io.atomic import write_text
from clip_as_rnn.types import Mask

_WITHIN_PIXEL = 0.49  # the center, almost: readers that cut off and readers that round both find the pixel
_ASIDE = 0.25  # also within the pixel: a polygon that is a point or a line gets a width, by which FiftyOne divides


class YoloExporter:
    """Writes YOLO segmentation labels. Texts are numbered from 0 in the order asked."""

    parts: Sequence[str] = ()

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        open_dataset(folder, classes)
        self._folder = folder
        names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(classes))
        try:
            write_text(folder / "data.yaml", f"train: images\nval: images\nnames:\n{names}")
        except OSError as error:
            raise unwritable(folder, error) from error

    def paths(self, name: str, picture: Path) -> list[Path]:
        """List the files of one picture."""
        return [self._folder / "images" / f"{name}{picture.suffix}", self._folder / "labels" / f"{name}.txt"]

    def add(self, sample: Sample) -> list[Path]:
        """Write one picture's labels; an empty file where nothing was found."""
        link, labels = self.paths(sample.name, sample.picture)
        found = sample.segmentation
        rows = [
            f"{found.queries.index(text)} {row}\n"
            for text, mask in zip(found.texts, found.each_mask(), strict=True)
            if (row := _polygon(mask))
        ]
        try:
            place_picture(sample.picture, link)
            write_text(labels, "".join(rows))
        except OSError as error:
            raise unwritable(self._folder, error) from error
        return [link, labels]

    def close(self) -> None:
        """Do nothing: every file is of one picture, or was there from the beginning."""


def _polygon(mask: Mask) -> str:
    """Write a mask as one polygon; empty for an empty mask."""
    parts = trace_parts(mask)
    if not parts:
        return ""
    ring = join_rings([join_rings([part.border, *part.holes]) for part in parts])
    vertices = ring + _WITHIN_PIXEL
    vertices[0, np.ptp(ring, axis=0) == 0] += _ASIDE - _WITHIN_PIXEL
    height, width = mask.shape
    return " ".join(f"{x / width:.7f} {y / height:.7f}" for x, y in vertices.tolist())
