"""Try settings of the `tiny` preset on a tuning set: `python -m training.tune FOLDER name=value[|value...] ...`.

The tuning set is made by `python -m training.benchmark FOLDER --seed 77`; the benchmark itself is never looked at.
Every combination of the values is one line: mIoU with background, and the shares of present and absent texts kept.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip_as_rnn import Segmentation, Segmenter, load_segmenter


@dataclass(slots=True)
class Tally:
    """Pixels by truth and answer, and texts kept, of one combination of settings."""

    pixels: np.ndarray
    kept: list[int] = field(default_factory=lambda: [0, 0])  # absent, present
    asked: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, truth: np.ndarray, labels: np.ndarray, found: set[int]) -> None:
        """Count one scene; labels are 0 for background, i + 1 for text i."""
        classes = len(self.pixels)
        self.pixels += np.bincount(truth.ravel() * classes + labels.ravel(), minlength=classes**2).reshape(classes, -1)
        present = set(np.unique(truth)) - {0}
        for number in range(1, classes):
            self.asked[number in present] += 1
            self.kept[number in present] += number in found

    def judge(self, truth: np.ndarray, result: Segmentation, classes: Sequence[str]) -> None:
        """Count one result; the truth holds 0 and i + 1 for class i."""
        numbers = np.array([0, *(classes.index(text) + 1 for text in result.texts)])
        self.add(truth, numbers[result.label_map()], set(numbers[1:].tolist()))

    def miou(self) -> float:
        """Mean IoU over the background and every class."""
        right = np.diag(self.pixels)
        union = self.pixels.sum(0) + self.pixels.sum(1) - right
        return float((right[union > 0] / union[union > 0]).mean())

    def line(self) -> str:
        """Say it in one line."""
        absent, present = (100 * kept / max(asked, 1) for kept, asked in zip(self.kept, self.asked, strict=True))
        return f"mIoU {100 * self.miou():5.1f}  present kept {present:5.1f}  absent kept {absent:5.2f}"


def main() -> None:
    """Try every combination on the first scenes of one split."""
    parser = scene_parser(str(__doc__))
    parser.add_argument("--present", action="store_true", help="ask only the texts that are there")
    arguments = parser.parse_intermixed_args()
    for settings in combinations(arguments.settings):
        segmenter = load_segmenter("tiny", model=arguments.model, classifier=arguments.model, **settings)
        tally = measure(segmenter, arguments.folder, arguments.split, arguments.count, present_only=arguments.present)
        sys.stdout.write(f"{tally.line()}  {settings}\n")
        sys.stdout.flush()


def scene_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser of a folder of scenes, settings to combine, and which scenes and model to take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*", help="name=value|value|..., as Python writes them")
    parser.add_argument("--split", default="heldout")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--model", default="tiny")
    return parser


def combinations(assignments: list[str]) -> Iterator[dict[str, Any]]:
    """Yield every combination of `name=value|value` assignments."""
    names = [assignment.split("=", 1)[0] for assignment in assignments]
    values = [[_read(v) for v in assignment.split("=", 1)[1].split("|")] for assignment in assignments]
    for chosen in itertools.product(*values):
        yield dict(zip(names, chosen, strict=True))


def _read(value: str) -> object:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def measure(segmenter: Segmenter, folder: Path, split: str, count: int, *, present_only: bool) -> Tally:
    """Segment scenes and compare with the truth."""
    classes = (folder / "classes.txt").read_text().split("\n")[:-1]
    names = (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
    tally = Tally(np.zeros((len(classes) + 1,) * 2, dtype=np.int64))
    every = max(1, len(names) // count)
    for name in names[::every][:count]:
        truth = np.asarray(Image.open(folder / "SegmentationClass" / f"{name}.png")).astype(np.int64)
        present = [classes[i - 1] for i in np.unique(truth) if i > 0]
        result = segmenter.segment(folder / "JPEGImages" / f"{name}.jpg", present if present_only else classes)
        tally.judge(truth, result, classes)
    return tally


if __name__ == "__main__":
    main()
