"""Find and read the images and label images of a semantic data set.

Images are read as their pixels lie in the file: label images never follow an EXIF orientation.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets import SemanticDataset
from clip_as_rnn.evaluation.vocabulary import Vocabulary, bundled_vocabulary, listed_vocabulary
from clip_as_rnn.io.images import DAMAGE
from clip_as_rnn.types import LabelMap, RgbImage

IGNORED = -1  # a pixel that counts nowhere
_WARNINGS_LOCK = Lock()  # warnings.catch_warnings is not thread-safe
_PLANE = 2  # dimensions of a label image; a colour picture has three


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image of a split, and where its label image is or should be."""

    name: str
    image: Path
    labels: Path


def list_images(dataset: SemanticDataset, root: Path, split: str) -> tuple[LabelledImage, ...]:
    """List the images of a split: in the order of the split file, or else by name.

    Raises:
        InputError: the root, its folders or the split file are not there, or hold no image.
    """
    home = find_home(dataset, root, split)
    images, labels = (home / pattern.format(split=split) for pattern in (dataset.images, dataset.labels))
    if not labels.is_dir():
        raise InputError(f"Expected the label images of {dataset.title} in {labels}. {dataset.source}")
    if dataset.split_file is None:
        names = sorted(path.stem for path in images.glob(f"*{dataset.image_suffix}"))
    else:
        names = _read_split(home / dataset.split_file.format(split=split), dataset)
    if not names:
        raise InputError(f"The split {split!r} of {dataset.title} in {home} holds no image. {dataset.source}")
    return tuple(
        LabelledImage(name, images / f"{name}{dataset.image_suffix}", labels / f"{name}{dataset.label_suffix}")
        for name in names
    )


def find_home(dataset: SemanticDataset, root: Path, split: str) -> Path:
    """Return the folder under `root` that holds the images of the split.

    Raises:
        InputError: there is none; the message says where it was looked for.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}, expected to hold {dataset.title}. {dataset.source}")
    candidates = [root / home / dataset.images.format(split=split) for home in dataset.homes]
    for home, images in zip(dataset.homes, candidates, strict=True):
        if images.is_dir():
            return root / home
    places = " or ".join(str(path) for path in candidates)
    raise InputError(f"Expected the images of {dataset.title}, split {split!r}, in {places}. {dataset.source}")


def read_vocabulary(dataset: SemanticDataset, root: Path, split: str) -> Vocabulary:
    """Return the classes: the bundled vocabulary, or the data set's own `classes.txt`."""
    if dataset.vocabulary is not None:
        return bundled_vocabulary(dataset.vocabulary)
    return listed_vocabulary(find_home(dataset, root, split) / "classes.txt")


def read_rgb(path: Path) -> RgbImage:
    """Read an image as RGB, not turned by its EXIF orientation.

    Raises:
        InputError: it is missing or cannot be decoded.
    """
    with _reading(path, "the image") as image:
        return np.asarray(image.convert("RGB"))


def read_labels(item: LabelledImage, dataset: SemanticDataset, class_count: int) -> LabelMap:
    """Read a label image: 0 is background, i + 1 is class i, `IGNORED` counts nowhere.

    Raises:
        InputError: it is missing, cannot be decoded or does not hold one integer per pixel.
    """
    if not item.labels.is_file():
        raise InputError(f"No annotation for the image {item.name}: expected {item.labels}. {dataset.source}")
    with _reading(item.labels, "the label image") as image:
        values = np.asarray(image)
    if values.ndim != _PLANE or values.dtype.kind not in "uib":
        raise InputError(
            f"Expected one integer per pixel in the label image {item.labels}, but got {values.shape} of "
            f"{values.dtype}; is it a coloured picture of the labels? {dataset.source}"
        )
    labels = values.astype(np.int64) + dataset.encoding.offset
    beyond = 0 if dataset.encoding.beyond == "background" else IGNORED
    return np.where((labels >= 0) & (labels <= class_count), labels, beyond)


@contextmanager
def _reading(path: Path, what: str) -> Iterator[Image.Image]:
    """Open an image file for its pixels to be taken within the block.

    Raises:
        InputError: it is missing, has too many pixels or cannot be decoded.
    """
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd headers and of sizes: what cannot be used is an error below
            with Image.open(path) as image:
                yield image
    except UnidentifiedImageError as error:
        raise InputError(f"Cannot read {what} {path}: it is of no known format.") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"Cannot read {what} {path}: it has more than {most:,} pixels.") from error
    except DAMAGE as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(f"Cannot read {what} {path}: {reason}.") from error


def check_same_size(
    item: LabelledImage, dataset: SemanticDataset, image: RgbImage, labels: Int[ndarray, "H W"]
) -> None:
    """Check that a label image belongs to its image.

    Raises:
        InputError: the sizes differ.
    """
    if image.shape[:2] != labels.shape:
        (height, width), (label_height, label_width) = image.shape[:2], labels.shape
        raise InputError(
            f"Expected the label image {item.labels} to be {width} x {height} like its image, "
            f"but it is {label_width} x {label_height}; label images are never resized here. {dataset.source}"
        )


def _read_split(path: Path, dataset: SemanticDataset) -> list[str]:
    """Read the names of a split, one a line; VOC's files may hold a second column, which is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        message = f"Expected the split's image names, one a line, in {path} (splits found: {known}). {dataset.source}"
        raise InputError(message) from error
    return [line.split()[0] for line in lines if line.strip()]
