"""COCO instances: `annotations/instances_default.json` and `images/default/`, as CVAT and datumaro lay them out.

Masks are compressed run lengths, exact, with `iscrowd` 0. Pictures are kept one by one in `pictures/` until `close`
joins them into the one file that COCO wants.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from clip_as_rnn.export.base import Sample, open_dataset, place_picture, unwritable
from clip_as_rnn.io.atomic import replacing, write_json


class CocoExporter:
    """Writes COCO instances. Images are numbered from 1 in the order of their names, texts in the order asked."""

    parts: Sequence[str] = ("pictures",)

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        open_dataset(folder, classes)
        self._folder = folder
        self._classes = tuple(classes)

    def paths(self, name: str, picture: Path) -> list[Path]:
        """List the files of one picture."""
        return [self._folder / "images" / "default" / f"{name}{picture.suffix}", self._part(name)]

    def add(self, sample: Sample) -> list[Path]:
        """Write one picture's annotations."""
        link, part = self.paths(sample.name, sample.picture)
        height, width = sample.segmentation.size_hw
        image = {"file_name": link.name, "width": width, "height": height}
        try:
            place_picture(sample.picture, link)
            write_json(part, {"image": image, "annotations": sample.segmentation.to_coco()}, indent=None)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        return [link, part]

    def close(self) -> None:
        """Join all pictures into one file; one at a time is in memory."""
        try:
            with replacing(self._folder / "annotations" / "instances_default.json") as file:
                self._write(file)
        except OSError as error:
            raise unwritable(self._folder, error) from error

    def _part(self, name: str) -> Path:
        return self._folder / "pictures" / f"{name}.json"

    def _write(self, file: IO[bytes]) -> None:
        categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(self._classes, 1)]
        info = {"description": "Masks of clip-as-rnn for texts; see the field score of each."}
        head = f'{{"info": {_dump(info)}, "licenses": [], "categories": {_dump(categories)}'
        file.write(head.encode())
        for field, rows in (("images", self._images()), ("annotations", self._annotations())):
            file.write(f', "{field}": ['.encode())
            for i, row in enumerate(rows):
                file.write((",\n" if i else "\n").encode() + _dump(row).encode(errors="backslashreplace"))
            file.write(b"]")
        file.write(b"}\n")

    def _parts(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, path in enumerate(sorted((self._folder / "pictures").glob("*.json")), 1):
            yield number, json.loads(path.read_text(encoding="utf-8"))

    def _images(self) -> Iterator[dict[str, Any]]:
        for number, part in self._parts():
            yield {"id": number, **part["image"]}

    def _annotations(self) -> Iterator[dict[str, Any]]:
        count = 0
        for number, part in self._parts():
            for annotation in part["annotations"]:
                count += 1
                yield {**annotation, "id": count, "image_id": number}


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
