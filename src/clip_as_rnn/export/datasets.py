"""The data sets that can be written, by name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from clip_as_rnn.export.base import DatasetExporter, remove_dataset
from clip_as_rnn.export.coco import CocoExporter
from clip_as_rnn.export.label_studio import LabelStudioExporter
from clip_as_rnn.export.labelme import LabelMeExporter
from clip_as_rnn.export.voc import VocExporter
from clip_as_rnn.export.yolo import YoloExporter

DatasetFormat = Literal["coco", "yolo", "voc", "labelme", "label-studio"]
DATASET_FORMATS: tuple[DatasetFormat, ...] = get_args(DatasetFormat)

_EXPORTERS: Mapping[DatasetFormat, Callable[[Path, Sequence[str]], DatasetExporter]] = {
    "coco": CocoExporter,
    "yolo": YoloExporter,
    "voc": VocExporter,
    "labelme": LabelMeExporter,
    "label-studio": LabelStudioExporter,
}


def open_datasets(
    formats: Sequence[DatasetFormat], folder: Path, classes: Sequence[str]
) -> dict[DatasetFormat, DatasetExporter]:
    """Open data sets in the folders of `folder` that bear their names, made or gone on with.

    Raises:
        InputError: one that is there has other classes, or cannot be written.
    """
    return {name: _EXPORTERS[name](folder / name, classes) for name in formats}


def remove_datasets(folder: Path) -> None:
    """Remove the data sets that earlier runs made in `folder`.

    Raises:
        InputError: one cannot be removed.
    """
    for name in DATASET_FORMATS:
        remove_dataset(folder / name)
