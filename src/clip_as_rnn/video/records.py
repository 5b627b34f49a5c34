"""What was found in each frame of a clip, one JSON line per frame, in the order of the frames.

The first line says what the run was made of. Lines are only ever added, each at once: whatever interrupts, all but the
last are whole, and the same run goes on behind them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from clip_as_rnn.io.atomic import write_text
from clip_as_rnn.io.video import Frame
from clip_as_rnn.ops import encode_rle
from clip_as_rnn.result import Segmentation
from clip_as_rnn.types import Mask


@dataclass(frozen=True, slots=True)
class Found:
    """A text found in a frame: its score, the pixels of its mask, and the mask in COCO's run lengths.

    With SAM, `sam` says what was decided about the mask.
    """

    text: str
    score: float
    area_px: int
    rle: Mapping[str, Any]
    sam: Mapping[str, Any] | None = None

    def mask(self) -> Mask:
        """Decode the mask, (h, w)."""
        return np.asarray(coco.decode(dict(self.rle)).astype(bool))


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame: its name, when it is shown, the texts found, and the scores of those rejected."""

    name: str
    time_s: float
    found: tuple[Found, ...]
    rejected: Mapping[str, float]

    @classmethod
    def of(cls, frame: Frame, segmentation: Segmentation) -> "FrameRecord":
        """Describe what was found in a frame."""
        rows = zip(segmentation.texts, segmentation.scores.tolist(), segmentation.each_mask(), strict=True)
        decided = {text: refinement.in_words() for text, refinement in segmentation.refinements.items()}
        found = tuple(
            Found(text, score, int(mask.sum()), encode_rle(mask), decided.get(text)) for text, score, mask in rows
        )
        rejected = {one.text: one.score for one in segmentation.rejections}
        return cls(frame.name, frame.time_s, found, rejected)


class FrameRecords:
    """The file of a clip's records."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resume(self, run: Mapping[str, Any]) -> set[str]:
        """Go on with a run: return the names of the frames it did; of another run, or none, begin anew.

        Raises:
            OSError: the file cannot be written.
        """
        names = {record.name for record in self} if self.continues(run) else set()
        lines = list(self._lines()) if names else []
        write_text(self.path, "".join([_line({"run": run}), *(_line(one) for one in lines if "name" in one)]))
        return names

    def continues(self, run: Mapping[str, Any]) -> bool:
        """Tell whether the file is of such a run."""
        return bool(next(self._lines(), {}).get("run") == json.loads(json.dumps(run)))

    def append(self, record: FrameRecord) -> None:
        """Add a frame.

        Raises:
            OSError: it cannot be written.
        """
        found = [
            {"text": one.text, "score": one.score, "area_px": one.area_px, "rle": dict(one.rle)}
            | ({"sam": dict(one.sam)} if one.sam else {})
            for one in record.found
        ]
        entry = {"name": record.name, "time_s": record.time_s, "found": found, "rejected": dict(record.rejected)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))

    def __iter__(self) -> Iterator[FrameRecord]:
        """Read one frame after the other."""
        for entry in self._lines():
            if "name" in entry:
                found = tuple(Found(**one) for one in entry["found"])
                yield FrameRecord(entry["name"], entry["time_s"], found, entry["rejected"])

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Read the lines that are whole; one that a kill tore off is none."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    return
                if isinstance(entry, dict) and line.endswith("\n"):
                    yield entry


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=True, separators=(",", ":")) + "\n"
