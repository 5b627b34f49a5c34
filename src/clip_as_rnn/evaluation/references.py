"""Find and read the sentences and objects of a referring data set, in RefCOCO's layout."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets import ReferringDataset
from clip_as_rnn.evaluation.pickles import load_plain_pickle
from clip_as_rnn.evaluation.polygons import Mask, Segmentation, once_covered_mask, union_mask

_NO_ANNOTATION = -1  # gRefCOCO's `ann_id` of a sentence that refers to nothing


@dataclass(frozen=True, slots=True)
class Reference:
    """Sentences that all refer to the same thing in one image.

    Attributes:
        name: unique within the split; where the file repeats one, the second is called `NAME_2`, and so on.
        segmentations: polygons or run lengths of each object referred to; none where a sentence has no target.
    """

    name: str
    image: Path
    size_hw: tuple[int, int]
    sentences: tuple[str, ...]
    segmentations: tuple[Segmentation, ...]

    def released_mask(self) -> Mask:
        """Return the truth of the authors' release: the first object only, without what its polygons cover twice."""
        if not self.segmentations:
            return np.zeros(self.size_hw, dtype=bool)
        return once_covered_mask(self.segmentations[0], self.size_hw)

    def mask(self) -> Mask:
        """Return the usual truth: the union of all objects."""
        whole = np.zeros(self.size_hw, dtype=bool)
        for segmentation in self.segmentations:
            whole |= union_mask(segmentation, self.size_hw)
        return whole


def list_references(dataset: ReferringDataset, root: Path, split: str) -> tuple[Reference, ...]:
    """List the references of a split, in the order of the file.

    Of a generalized data set, every sentence is a reference of its own, as the authors sample it.

    Raises:
        InputError: the root or one of its files is not there or not as it should be, or the split is empty.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}, expected to hold {dataset.title}. {dataset.source}")
    path = _find_references(dataset, root)
    records = _load_references(path, dataset)
    instances = _load_instances(path.parent / "instances.json", dataset)
    images = _find_images(dataset, root)
    chosen = [record for record in records if _is_in_split(str(record["split"]), split)]
    if not chosen:
        known = ", ".join(sorted({str(record["split"]) for record in records}))
        raise InputError(f"{path} holds no reference of the split {split!r}; it holds {known or 'none'}.")
    try:
        found = [reference for record in chosen for reference in _references(record, instances, images, dataset)]
        return tuple(_with_unique_names(found))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"Expected RefCOCO's fields in {path} and its instances.json, but: {error!r}. {dataset.source}"
        ) from error


def clean_sentence(sentence: str) -> str:
    """Lower the case and delete quotes and slashes, as the authors do for the RefCOCO family."""
    return sentence.lower().replace('"', "").replace("/", "")


@dataclass(frozen=True, slots=True)
class _Instances:
    """COCO's images and annotations by id."""

    images: Mapping[int, Mapping[str, Any]]
    annotations: Mapping[int, Mapping[str, Any]]


def _find_references(dataset: ReferringDataset, root: Path) -> Path:
    candidates = [root / folder / name for folder in dataset.folders for name in dataset.references]
    for path in candidates:
        if path.is_file():
            return path
    places = " or ".join(str(path) for path in candidates[: len(dataset.references)])
    raise InputError(f"Expected the references of {dataset.title} in {places}. {dataset.source}")


def _find_images(dataset: ReferringDataset, root: Path) -> Path:
    for folder in dataset.images:
        if (root / folder).is_dir():
            return root / folder
    places = " or ".join(str(root / folder) for folder in dataset.images)
    raise InputError(f"Expected the images of {dataset.title} in {places}. {dataset.source}")


def _load_references(path: Path, dataset: ReferringDataset) -> list[Mapping[str, Any]]:
    try:
        records = load_plain_pickle(path) if path.suffix == ".p" else _load_json(path)
    except InputError as error:
        raise InputError(f"{error} {dataset.source}") from error
    needed = {"image_id", "split", "sentences", "ann_id"}
    if not isinstance(records, list) or not all(isinstance(r, Mapping) and needed <= r.keys() for r in records):
        raise InputError(f"Expected a list of references with {', '.join(sorted(needed))} in {path}. {dataset.source}")
    return records


def _load_instances(path: Path, dataset: ReferringDataset) -> _Instances:
    try:
        data = _load_json(path)
        images = {image["id"]: image for image in data["images"]}
        annotations = {annotation["id"]: annotation for annotation in data["annotations"]}
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"Expected COCO's images and annotations in {path}, but: {error}. {dataset.source}") from error
    return _Instances(images, annotations)


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} is truncated or not JSON: {error}.") from error


def _is_in_split(found: str, asked: str) -> bool:
    """Tell whether a reference's split is the one asked; `testA` also matches `testAB`, `test` all of them."""
    if not asked.startswith("test") or not found.startswith("test"):
        return found == asked
    return asked.removeprefix("test") in found.removeprefix("test")


def _references(
    record: Mapping[str, Any], instances: _Instances, folder: Path, dataset: ReferringDataset
) -> Iterator[Reference]:
    """Turn one record of the file into its references."""
    image = instances.images[record["image_id"]]
    raw = [str(sentence["raw"]) for sentence in record["sentences"]]
    sentences = [clean_sentence(text) if dataset.cleaned else text for text in raw]
    ids = record["ann_id"] if isinstance(record["ann_id"], list) else [record["ann_id"]]
    segmentations = tuple(instances.annotations[i]["segmentation"] for i in ids if i != _NO_ANNOTATION)
    name = str(record.get("ref_id", record["image_id"]))
    groups = [(text,) for text in sentences if text.strip()] if dataset.generalized else [tuple(sentences)]
    for number, group in enumerate(groups):
        yield Reference(
            name=f"{name}-{number}" if dataset.generalized else name,
            image=folder / str(image["file_name"]),
            size_hw=(int(image["height"]), int(image["width"])),
            sentences=tuple(text for text in group if text.strip()),
            segmentations=segmentations,
        )


def _with_unique_names(references: Iterable[Reference]) -> Iterator[Reference]:
    """Number the repeats of a name in the order of the file, so that a result is never taken for another's."""
    times: Counter[str] = Counter()
    for reference in references:
        times[reference.name] += 1
        number = times[reference.name]
        yield reference if number == 1 else replace(reference, name=f"{reference.name}_{number}")
