"""Small data sets in their exact layouts, and a segmenter that knows what it is going to find on them.

Every image of a tree has a size of its own, by which the fake recognizes it, whatever JPEG does to its pixels.
"""

import dataclasses
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from PIL import Image

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.registry import SemanticDataset, find_dataset
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter

REFERENCE_FILES = {
    "refcoco": "refcoco/refs(unc).p",
    "refcoco+": "refcoco+/refs(unc).p",
    "refcocog": "refcocog/refs(umd).p",
    "refcocog-google": "refcocog/refs(google).p",
}
Answers = Mapping[tuple[int, int], Mapping[str, ndarray]]  # image size to text to mask


@dataclass(frozen=True)
class Call:
    """What the fake was asked."""

    texts: tuple[str, ...]
    background_texts: tuple[str, ...]
    visual_prompts: tuple[str, ...]


@dataclass(frozen=True)
class FakeEncodedImage:
    """An image that was encoded."""

    pixels: ndarray


@dataclass(frozen=True)
class FakeSegmenter(Segmenter):
    """Finds, on an image of a size, those of its answers that are asked for; earlier answers score higher."""

    answers: Answers
    config: SegmenterConfig = field(default_factory=SegmenterConfig)
    calls: list[Call] = field(default_factory=list)
    refused: tuple[int, int] | None = None  # images of this size are an error
    encoded: list[tuple[int, int]] = field(default_factory=list)  # the size of each image that was encoded

    def encode(self, image: "ndarray | FakeEncodedImage") -> "FakeEncodedImage":
        encoded = image if isinstance(image, FakeEncodedImage) else FakeEncodedImage(image)
        self.encoded.append(encoded.pixels.shape[:2])
        return encoded

    def segment(self, image: "FakeEncodedImage", texts: Sequence[str], *, trace: bool = False) -> Segmentation:
        self.calls.append(Call(tuple(texts), self.config.propose.background_texts, self.config.classify.visual_prompts))
        size = image.pixels.shape[:2]
        if size == self.refused:
            raise InputError("This image was refused.")
        found = {text: mask for text, mask in self.answers.get(size, {}).items() if text in texts}
        kept = tuple(text for text in texts if text in found)
        ranks = {text: rank for rank, text in enumerate(found)}
        masks = np.array([found[text] for text in kept], dtype=bool).reshape(len(kept), *size)
        scores = np.array([1 - 0.01 * ranks[text] for text in kept])
        return Segmentation(tuple(texts), kept, masks, scores)

    def check_texts(self, texts: Sequence[str]) -> None:
        """Refuse texts that are longer than 1000 characters in any template."""
        config = self.config
        templates = (config.propose.proposal_template, *config.classify.templates)
        texts = (*texts, *config.propose.background_texts, *config.classify.contrast_texts)
        if any(len(template.replace("{}", text)) > 1000 for template in templates for text in texts):
            raise InputError("This text is too long.")

    def replace(self, **settings: Any) -> "FakeSegmenter":
        return dataclasses.replace(self, config=with_settings(self.config, settings))

    def describe(self) -> Mapping[str, str]:
        return {"model": "fake, fingerprint 0123", "device": "cpu"}


class Listener:
    """Remembers what a run tells of its progress: the running scores and the failures."""

    def __init__(self) -> None:
        self.headlines: list[float | None] = []
        self.failures: list[str | None] = []
        self.starts: list[tuple[int, int]] = []
        self.measures: list[str] = []

    def start(self, title: str, *, total: int, done: int, measure: str) -> None:
        self.starts.append((total, done))
        self.measures.append(measure)

    def advance(self, record: Any, headline: float | None) -> None:
        self.headlines.append(headline)
        self.failures.append(record.failure)


def box(size: tuple[int, int], rows: slice, columns: slice = slice(None)) -> ndarray:
    """Mark one rectangle."""
    mask = np.zeros(size, dtype=bool)
    mask[rows, columns] = True
    return mask


def write_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 127, dtype=np.uint8)).save(path, format="JPEG")


def write_label_image(path: Path, values: ndarray) -> None:
    """Write values as the data sets do: TIFF of 16 bits, or PNG of 8 bits with VOC's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        Image.fromarray(values.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(values.astype(np.uint8), mode=None).convert("P")
    image.putdata(values.astype(np.uint8).ravel().tolist())
    image.putpalette([channel for value in range(256) for channel in (value, 255 - value, value // 2)])
    image.save(path)


def write_tree(
    name: str, root: Path, images: Mapping[str, ndarray], *, home: str = "", split: str | None = None
) -> SemanticDataset:
    """Write a semantic data set whose label images hold the given values."""
    dataset = find_dataset(name)
    assert isinstance(dataset, SemanticDataset)
    split = split or dataset.split
    for stem, values in images.items():
        folder = root / home
        write_image(folder / dataset.images.format(split=split) / f"{stem}{dataset.image_suffix}", values.shape)
        write_label_image(folder / dataset.labels.format(split=split) / f"{stem}{dataset.label_suffix}", values)
    if dataset.split_file is not None:
        path = root / home / dataset.split_file.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{stem}\n" for stem in images))
    if dataset.vocabulary is None:
        (root / home / "classes.txt").write_text("dog\ncat\n")
    return dataset


def rectangle(left: int, top: int, right: int, bottom: int) -> list[float]:
    """Return a polygon in COCO's form that covers the pixels from (left, top) to before (right, bottom)."""
    return [left, top, right, top, right, bottom, left, bottom]


def reference(number: int, image: int, sentences: Sequence[str], split: str = "val", ann: Any = None) -> dict[str, Any]:
    """Return a record of RefCOCO's refs(...).p."""
    return {
        "ref_id": number,
        "ann_id": number if ann is None else ann,
        "image_id": image,
        "category_id": 1,
        "file_name": f"COCO_train2014_{image:012}_{number}.jpg",
        "split": split,
        "sent_ids": list(range(len(sentences))),
        "sentences": [
            {"raw": text, "sent": text.lower(), "tokens": text.split(), "sent_id": i}
            for i, text in enumerate(sentences)
        ],
    }


def write_referring_tree(
    root: Path,
    file: str,
    references: Sequence[Mapping[str, Any]],
    sizes: Mapping[int, tuple[int, int]],
    segmentations: Mapping[int, Any],
) -> None:
    """Write a referring data set; `file` holds the references, sizes and segmentations go by their ids."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(list(references)))
    else:
        path.write_bytes(pickle.dumps([dict(record) for record in references], protocol=2))
    images = []
    for number, (height, width) in sizes.items():
        name = f"COCO_train2014_{number:012}.jpg"
        write_image(root / "images/mscoco/images/train2014" / name, (height, width))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
    annotations = [{"id": i, "segmentation": parts, "iscrowd": 0} for i, parts in segmentations.items()]
    (path.parent / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
