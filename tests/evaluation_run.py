"""A run to be started in a process of its own, and to be killed there."""

import time
from pathlib import Path

import numpy as np

from clip_as_rnn.evaluation.datasets.registry import find_dataset
from clip_as_rnn.evaluation.protocol import EvaluationProtocol
from clip_as_rnn.evaluation.runner import RunOptions, evaluate, parse_shard
from clip_as_rnn.result import Segmentation
from evaluation_trees import FakeSegmenter, box, rectangle, reference, write_referring_tree, write_tree

IMAGES = 40
WIDTH_PX = 7
SECONDS_PER_IMAGE = 0.03


class Slow(FakeSegmenter):
    """Takes its time over every image, so that there are moments to be killed at."""

    def segment(self, image: np.ndarray, texts: tuple[str, ...], *, trace: bool = False) -> Segmentation:
        time.sleep(SECONDS_PER_IMAGE)
        return super().segment(image, texts, trace=trace)


def write_data(root: Path) -> None:
    """Write VOC and RefCOCO, side by side, with images of heights of their own; some of them are broken."""
    heights = range(4, 4 + IMAGES)
    write_tree("voc", root, {f"image{h}": np.tile(np.arange(WIDTH_PX) % 3, (h, 1)) for h in heights})
    (root / "JPEGImages/image9.jpg").write_bytes(b"broken")
    (root / "SegmentationClass/image30.png").unlink()
    references = [
        reference(h, h, ["aeroplane", "bicycle"][: 1 + (h % 5 == 0)], ann=[] if h == 9 else [h]) for h in heights
    ]
    parts = {h: [rectangle(0, 0, 5, h // 2)] for h in heights}
    write_referring_tree(root, "refs(unc).p", references, {h: (h, WIDTH_PX) for h in heights}, parts)
    (root / f"images/mscoco/images/train2014/COCO_train2014_{30:012}.jpg").write_bytes(b"broken")


def segmenter() -> FakeSegmenter:
    """Return a segmenter that finds a band of aeroplane on every image, and bicycles on every third."""
    answers = {}
    for height in range(4, 4 + IMAGES):
        size = (height, WIDTH_PX)
        answers[size] = {"aeroplane": box(size, slice(0, height // 2))}
        if height % 3 == 0:
            answers[size]["bicycle"] = box(size, slice(1, height), slice(2, 4))
    return Slow(answers)


def run(root: Path, output: Path, shard: str, dataset: str = "voc") -> None:
    """Run or go on."""
    protocol = EvaluationProtocol(dataset=find_dataset(dataset), root=root, preset="paper-voc")
    evaluate(protocol, segmenter(), output, RunOptions(shard=parse_shard(shard), save_predictions=True))
