"""A run to be started in a process of its own, and to be killed there."""

import time
from pathlib import Path

import numpy as np

from clip_as_rnn.evaluation.benchmark import Conduct, Question, evaluate
from clip_as_rnn.evaluation.datasets import find_dataset
from clip_as_rnn.evaluation.runner import RunOptions, parse_shard
from clip_as_rnn.result import Segmentation
from evaluation_trees import FakeSegmenter, Silent, box, write_tree

IMAGES = 40
WIDTH_PX = 7
SECONDS_PER_IMAGE = 0.03


class Slow(FakeSegmenter):
    """Takes its time over every image, so that there are moments to be killed at."""

    def segment(self, image: np.ndarray, texts: tuple[str, ...], *, trace: bool = False) -> Segmentation:
        time.sleep(SECONDS_PER_IMAGE)
        return super().segment(image, texts, trace=trace)


def write_data(root: Path) -> None:
    """Write a VOC tree whose images have heights of their own; two of them are broken."""
    heights = range(4, 4 + IMAGES)
    write_tree("voc", root, {f"image{h}": np.tile(np.arange(WIDTH_PX) % 3, (h, 1)) for h in heights})
    (root / "JPEGImages/image9.jpg").write_bytes(b"broken")
    (root / "SegmentationClass/image30.png").unlink()


def segmenter() -> FakeSegmenter:
    """Return a segmenter that finds a band of aeroplane on every image, and bicycles on every third."""
    answers = {}
    for height in range(4, 4 + IMAGES):
        size = (height, WIDTH_PX)
        answers[size] = {"aeroplane": box(size, slice(0, height // 2))}
        if height % 3 == 0:
            answers[size]["bicycle"] = box(size, slice(1, height), slice(2, 4))
    return Slow(answers)


def run(root: Path, output: Path, shard: str) -> None:
    """Run or go on."""
    question = Question(dataset=find_dataset("voc"), root=root)
    options = RunOptions(shard=parse_shard(shard), save_predictions=True)
    evaluate(question, segmenter(), output, Conduct("paper-voc", options, Silent()))
