"""Find and read the sentences and objects of a referring data set, in RefCOCO's layout.

References are a pickle or JSON; objects are COCO's polygons or run lengths, decoded by pycocotools.
"""

import io
import json
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
from jaxtyping import Bool, Int, UInt8
from numpy import ndarray
from pycocotools import mask as coco_mask

from clip_as_rnn.errors import InputError, describe_mismatch
from clip_as_rnn.evaluation.datasets.registry import ReferringDataset
from clip_as_rnn.evaluation.datasets.semantic import read_rgb
from clip_as_rnn.io.images import quiet_pillow
from clip_as_rnn.types import LabelMap, RgbImage

Mask: TypeAlias = Bool[ndarray, "h w"]
Segmentation: TypeAlias = Sequence[Any] | Mapping[str, Any]  # COCO's `segmentation`: polygons, or one RLE

_NO_ANNOTATION = -1  # gRefCOCO's `ann_id` of a sentence that refers to nothing
_TRIANGLE = 6  # coordinates: x and y of three corners; fewer enclose nothing


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


@dataclass(frozen=True, slots=True)
class ReferringSplit:
    """The references of one split of a data set."""

    dataset: ReferringDataset
    root: Path
    samples: tuple[Reference, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The references' names, in order."""
        return tuple(sample.name for sample in self.samples)

    def read_image(self, position: int) -> RgbImage:
        """Read the image of the reference at `position`; raises InputError."""
        return read_rgb(self.samples[position].image)

    def read_labels(self, position: int) -> LabelMap:
        """Return 1 where the objects of the reference at `position` are; raises InputError."""
        return self.samples[position].mask().astype(np.int64)


def open_referring_split(dataset: ReferringDataset, root: Path, split: str) -> ReferringSplit:
    """List the references of a split; see `list_references`."""
    return ReferringSplit(dataset, root, list_references(dataset, root, split))


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
        problem = f"Expected RefCOCO's fields in {path} and its instances.json, but {describe_mismatch(error)}."
        raise InputError(f"{problem} {dataset.source}") from error


def check_reference(sample: Reference, dataset: ReferringDataset, image: RgbImage) -> None:
    """Check that a reference has a sentence and that its objects are those of its image.

    Raises:
        InputError: it has none, or the image is of another size than listed.
    """
    if not sample.sentences:
        raise InputError(
            f"Expected the reference {sample.name} to have a sentence, but all of its sentences are blank."
        )
    if image.shape[:2] != sample.size_hw:
        (height, width), (listed_height, listed_width) = image.shape[:2], sample.size_hw
        raise InputError(
            f"Expected the image {sample.image} to be {listed_width} x {listed_height} as instances.json says, "
            f"but it is {width} x {height}. {dataset.source}"
        )


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
        problem = (
            f"Expected COCO's images and annotations in {path}, but: {describe_mismatch(error).removesuffix('.')}."
        )
        raise InputError(f"{problem} {dataset.source}") from error
    return _Instances(images, annotations)


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is truncated or not JSON: {error}.") from error


def _is_in_split(found: str, wanted: str) -> bool:
    """Tell whether a reference's split is the one wanted; `testA` also matches `testAB`, `test` all of them."""
    if not wanted.startswith("test") or not found.startswith("test"):
        return found == wanted
    return wanted.removeprefix("test") in found.removeprefix("test")


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


class _PlainUnpickler(pickle._Unpickler):
    """An unpickler of plain containers, texts and numbers; a pickle is a program that could call anything.

    It is the one of pickle that is written in Python: the memo of the one in C is as long as its greatest index, so
    that a few bytes could ask for gigabytes. Byte arrays, which are reserved before they are read, are left out.
    """

    dispatch = {code: run for code, run in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}  # noqa: RUF012

    def find_class(self, module_name: str, global_name: str, /) -> type:
        """Return a container's type, for lists, tuples and dicts need no name.

        Raises:
            InputError: the pickle asks for anything else.
        """
        containers = {"set": set, "frozenset": frozenset}
        if module_name in ("builtins", "__builtin__") and global_name in containers:  # Python 3 and Python 2
            return containers[global_name]
        raise InputError(f"it asks for {module_name}.{global_name}, which plain data never needs, so it was not loaded")

    def persistent_load(self, pid: object, /) -> NoReturn:
        """Refuse references to objects outside of the file."""
        raise InputError("it refers to objects outside of the file, so it was not loaded")


class _WholeReads(io.BytesIO):
    """Bytes that raise EOFError rather than give fewer than wanted, or a line without its end."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            raise EOFError
        return data

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError
        return line


def load_plain_pickle(path: Path) -> object:
    """Load plain data from a pickle.

    Raises:
        InputError: the file is missing, truncated, no pickle, or asks for more than plain data.
    """
    try:
        # The published files come from Python 2, whose strings are bytes.
        return _PlainUnpickler(_WholeReads(path.read_bytes()), encoding="utf-8", errors="replace").load()
    except InputError as error:
        raise InputError(f"Expected plain lists, texts and numbers in {path}, but {error}.") from error
    except EOFError as error:
        raise InputError(f"{path} is truncated: its pickle ends before its data does.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    except MemoryError as error:
        raise InputError(
            f"{path} holds more than this machine's memory can; check that it is the published file."
        ) from error
    except (pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is not a sound pickle: {describe_mismatch(error).removesuffix('.')}.") from error


def union_mask(segmentation: Segmentation, size_hw: tuple[int, int]) -> Mask:
    """Return every pixel that any polygon covers: the usual reading."""
    return np.asarray(_count_covers(segmentation, size_hw) > 0)


def once_covered_mask(segmentation: Segmentation, size_hw: tuple[int, int]) -> Mask:
    """Return the pixels that exactly one polygon covers.

    The authors' release compares the sum of the polygons with 1, so where polygons overlap the object has a hole.
    """
    return np.asarray(_count_covers(segmentation, size_hw) == 1)


def _count_covers(segmentation: Segmentation, size_hw: tuple[int, int]) -> Int[ndarray, "h w"]:
    """Count how many polygons (or run-length masks) cover each pixel.

    Raises:
        InputError: COCO's format is not kept, nothing is given, or a run-length mask has another size.
    """
    height, width = size_hw
    covers = np.zeros(size_hw, dtype=np.int64)
    try:
        if not len(segmentation):
            raise ValueError("there is none")
        for part in [segmentation] if isinstance(segmentation, Mapping) else segmentation:
            if isinstance(part, Mapping) or len(part) >= _TRIANGLE:
                covers += _decode(_encoded(part, height, width))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        problem = describe_mismatch(error)
        raise InputError(f"Expected polygons or run lengths of a {width} x {height} image, but: {problem}.") from error
    return covers


def _decode(encoded: Any) -> UInt8[ndarray, "h w"]:
    """Turn compressed run lengths into a mask of 0 and 1."""
    with quiet_pillow():  # pycocotools' arrays predate the `copy` keyword of numpy 2, which says so at every call
        return np.asarray(coco_mask.decode(encoded))


def _encoded(part: Any, height: int, width: int) -> Any:
    """Turn one polygon or one run-length mask, compressed or not, into compressed run lengths."""
    if not isinstance(part, Mapping):
        if len(part) % 2:
            raise ValueError(f"a polygon has {len(part)} coordinates, an odd number")
        return coco_mask.frPyObjects([part], height, width)[0]
    if list(part["size"]) != [height, width]:
        raise ValueError(f"the run lengths are of a {part['size'][1]} x {part['size'][0]} image")
    return coco_mask.frPyObjects(part, height, width) if isinstance(part["counts"], list) else part
