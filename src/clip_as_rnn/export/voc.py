"""Pascal VOC: boxes in `Annotations/`, masks as PNG in `SegmentationClass/` and `SegmentationObject/`.

Values of class PNGs are 1 + the place of a text among the texts asked; those of object PNGs count the objects of the
XML file. Where masks overlap, the higher score keeps the pixel, as in `Segmentation.label_map`. Colors are VOC's own,
by which CVAT and datumaro know the values again; `labelmap.txt` says to them which color is which text.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from clip_as_rnn.export.base import Sample, open_dataset, place_picture, unwritable
from clip_as_rnn.io.atomic import write_bytes, write_text
from clip_as_rnn.io.label_maps import write_label_map
from clip_as_rnn.result import Segmentation

_MOST_COLORS = 255  # of a palette, beside the background's


class VocExporter:
    """Writes Pascal VOC annotations."""

    parts: Sequence[str] = ("Annotations",)

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        open_dataset(folder, classes)
        self._folder = folder
        self._palette = palette(len(classes))
        if len(classes) <= _MOST_COLORS:
            try:
                write_text(folder / "labelmap.txt", _label_map(classes))
            except OSError as error:
                raise unwritable(folder, error) from error

    def paths(self, name: str, picture: Path) -> list[Path]:
        """List the files of one picture."""
        masks = [self._folder / kind / f"{name}.png" for kind in ("SegmentationClass", "SegmentationObject")]
        return [
            self._folder / "JPEGImages" / f"{name}{picture.suffix}",
            *masks,
            self._folder / "Annotations" / f"{name}.xml",
        ]

    def add(self, sample: Sample) -> list[Path]:
        """Write one picture's boxes and masks."""
        link, class_png, object_png, xml = self.paths(sample.name, sample.picture)
        found = sample.segmentation
        objects = found.label_map()
        numbers = np.array([0, *(found.queries.index(text) + 1 for text in found.texts)], dtype=objects.dtype)
        try:
            place_picture(sample.picture, link)
            write_label_map(class_png, numbers[objects], palette=self._palette)
            write_label_map(object_png, objects, palette=palette(len(found)))
            write_bytes(xml, _describe(link.name, found))
        except OSError as error:
            raise unwritable(self._folder, error) from error
        return [link, class_png, object_png, xml]

    def close(self) -> None:
        """List the pictures."""
        names = sorted(path.stem for path in (self._folder / "Annotations").glob("*.xml"))
        try:
            write_text(
                self._folder / "ImageSets" / "Segmentation" / "trainval.txt", "".join(f"{name}\n" for name in names)
            )
        except OSError as error:
            raise unwritable(self._folder, error) from error


def palette(count: int) -> UInt8[ndarray, "n 3"]:
    """Give values from 1 on the colors of VOC's own palette: their bits are dealt out to the three channels.

    Colors repeat from the 256th value on; from there on files have no palette.
    """
    numbers = np.arange(1, count + 1)
    rgb = np.zeros((count, 3), dtype=int)
    for place in range(7, -1, -1):
        rgb |= (numbers[:, None] >> np.arange(3) & 1) << place
        numbers = numbers >> 3
    return rgb.astype(np.uint8)


def _label_map(classes: Sequence[str]) -> str:
    """List each class as `name:red,green,blue:parts:actions`; a colon, which would end the name, becomes a wide one."""
    names = (name.replace(":", "\N{FULLWIDTH COLON}") for name in ("background", *classes))
    rows = zip(names, [[0, 0, 0], *palette(len(classes)).tolist()], strict=True)
    return "".join(f"{name}:{','.join(map(str, color))}::\n" for name, color in rows)


def _describe(file_name: str, found: Segmentation) -> bytes:
    """Describe a picture in VOC's XML: corners are pixels counted from 1, both inclusive."""
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", file_name)
    size = ElementTree.SubElement(root, "size")
    for name, value in zip(("height", "width", "depth"), (*found.size_hw, 3), strict=True):
        _add(size, name, value)
    _add(root, "segmented", 1)
    for text, score, (x0, y0, x1, y1) in zip(found.texts, found.scores.tolist(), found.boxes.tolist(), strict=True):
        one = ElementTree.SubElement(root, "object")
        about: dict[str, object] = {"name": text, "pose": "Unspecified", "truncated": 0, "difficult": 0, "score": score}
        for name, content in about.items():
            _add(one, name, content)
        box = ElementTree.SubElement(one, "bndbox")
        for name, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            _add(box, name, value)
    ElementTree.indent(root)
    described: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return described


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
