"""Label Studio: predictions to import, one task per picture, with exact brush masks.

`config.xml` is the labeling interface, `tasks.json` all tasks, and `tasks/` the same one by one. Pictures are named as
Label Studio's local storage finds them, from LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to the output folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

import clip_as_rnn
from clip_as_rnn.export.base import Sample, open_dataset, place_picture, unwritable
from clip_as_rnn.io.atomic import replacing, write_json, write_text
from clip_as_rnn.types import Mask

_CHANNELS = 4  # a brush mask is RGBA, every channel the same
_LENGTH_BITS = (3, 4, 8, 16)  # in which the length of a run, less one, may be written
_WORD_BITS = 8
_LABEL = "    <Label value={}/>\n"
_CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="label" toName="image">
{labels}  </BrushLabels>
</View>
"""


class LabelStudioExporter:
    """Writes tasks with predictions for Label Studio."""

    parts: Sequence[str] = ("tasks",)

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        open_dataset(folder, classes)
        self._folder = folder
        try:
            write_text(
                folder / "config.xml", _CONFIG.format(labels="".join(map(_LABEL.format, map(quoteattr, classes))))
            )
        except OSError as error:
            raise unwritable(folder, error) from error

    def paths(self, name: str, picture: Path) -> list[Path]:
        """List the files of one picture."""
        return [self._folder / "images" / f"{name}{picture.suffix}", self._folder / "tasks" / f"{name}.json"]

    def add(self, sample: Sample) -> list[Path]:
        """Write one picture's task."""
        link, task = self.paths(sample.name, sample.picture)
        place = f"{self._folder.name}/images/{link.name}"
        found = sample.segmentation
        prediction = {
            "model_version": f"clip-as-rnn {clip_as_rnn.__version__}",
            "score": float(found.scores.mean()) if len(found) else 0.0,
            "result": [
                _region(f"{i + 1}", text, score, mask)
                for i, (text, score, mask) in enumerate(
                    zip(found.texts, found.scores.tolist(), found.each_mask(), strict=True)
                )
            ],
        }
        url = f"/data/local-files/?d={quote(place, errors='surrogateescape')}"
        try:
            place_picture(sample.picture, link)
            write_json(task, {"data": {"image": url}, "predictions": [prediction]}, indent=None)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        return [link, task]

    def close(self) -> None:
        """Join all tasks into one file; one at a time is in memory."""
        try:
            with replacing(self._folder / "tasks.json") as file:
                file.write(b"[")
                for i, path in enumerate(sorted((self._folder / "tasks").glob("*.json"))):
                    file.write((b",\n" if i else b"\n") + path.read_bytes().strip())
                file.write(b"]\n")
        except OSError as error:
            raise unwritable(self._folder, error) from error


def _region(name: str, text: str, score: float, mask: Mask) -> dict[str, Any]:
    height, width = mask.shape
    return {
        "id": name,
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [text]},
    }


def encode_brush(mask: Bool[ndarray, "h w"]) -> list[int]:
    """Encode a mask as Label Studio's brush does: run lengths of its RGBA pixels, row by row, in the bits of bytes.

    The bits of thi.ng's rle-pack: 32 of the number of values, 5 of a value's bits less one, 4 times 4 of the bits of
    run lengths less one; then per run a 1, which of the four lengths (2 bits), the length less one, and the value.
    """
    values = mask.ravel()
    ends = np.append(np.flatnonzero(np.diff(values)) + 1, values.size)
    lengths = np.diff(ends, prepend=0) * _CHANNELS
    sizes = "".join(f"{bits - 1:04b}" for bits in _LENGTH_BITS)
    bits = [f"{values.size * _CHANNELS:032b}{_WORD_BITS - 1:05b}{sizes}"]
    value = bool(values[0])
    for length in lengths.tolist():
        bits += _run(length, f"{255 if value else 0:08b}")
        value = not value
    joined = "".join(bits)
    whole = joined + "0" * (-len(joined) % 8)
    return list(int(whole, 2).to_bytes(len(whole) // 8, "big"))


def _run(length: int, value: str) -> list[str]:
    """Write one run, in pieces as long as the widest length allows."""
    longest = 1 << _LENGTH_BITS[-1]
    pieces = [longest] * (length // longest) + ([length % longest] if length % longest else [])
    runs = []
    for piece in pieces:
        size = next(i for i, bits in enumerate(_LENGTH_BITS) if piece <= 1 << bits)
        runs.append(f"1{size:02b}{piece - 1:0{_LENGTH_BITS[size]}b}{value}")
    return runs
