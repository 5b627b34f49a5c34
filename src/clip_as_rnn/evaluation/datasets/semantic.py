"""Find and read the images and label images of a semantic data set.

Images are read as their pixels lie in the file: label images never follow an EXIF orientation.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.registry import SemanticDataset
from clip_as_rnn.evaluation.datasets.vocabulary import Vocabulary, Wording, bundled_vocabulary, read_class_list
from clip_as_rnn.io.images import DAMAGE, quiet_pillow
from clip_as_rnn.types import LabelMap, RgbImage

IGNORED = -1  # a pixel that counts nowhere
_PLANE = 2  # dimensions of a label image; a color picture has three


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """One image of a split, and where its label image is or should be."""

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True, slots=True, eq=False)
class TrueLabels:
    """What a label image says.

    Attributes:
        labels: 0 is background, i + 1 is class i, `IGNORED` counts nowhere.
        unknown_pixels: ignored pixels whose value is neither a class of the vocabulary nor documented.
        unknown_value: the first such value.
    """

    labels: LabelMap
    unknown_pixels: int = 0
    unknown_value: int | None = None


@dataclass(frozen=True, slots=True)
class SemanticSplit:
    """The images of one split of a data set, and the classes that their labels name."""

    dataset: SemanticDataset
    root: Path
    vocabulary: Vocabulary
    samples: tuple[LabeledImage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The images' names, in order."""
        return tuple(sample.name for sample in self.samples)

    def read_image(self, position: int) -> RgbImage:
        """Read the image at `position`; raises InputError."""
        return read_rgb(self.samples[position].image)

    def read_truth(self, position: int) -> TrueLabels:
        """Read the label image at `position`; raises InputError."""
        return read_labels(self.samples[position], self.dataset, len(self.vocabulary.classes))

    def read_labels(self, position: int) -> LabelMap:
        """Read the true labels of the image at `position`; raises InputError."""
        return self.read_truth(position).labels


def open_semantic_split(dataset: SemanticDataset, root: Path, split: str, *, wording: Wording) -> SemanticSplit:
    """List the images of a split and read the class names, in the paper's words or the data set's own.

    Raises:
        InputError: the data is not where it should be, or holds no image.
    """
    samples = list_images(dataset, root, split)
    return SemanticSplit(dataset, root, read_vocabulary(dataset, root, split).worded(wording), samples)


def list_images(dataset: SemanticDataset, root: Path, split: str) -> tuple[LabeledImage, ...]:
    """List the images of a split, each once: in the order of the split file, or else by name.

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
        names = _read_split_file(home / dataset.split_file.format(split=split), dataset)
    if not names:
        raise InputError(f"The split {split!r} of {dataset.title} in {home} holds no image. {dataset.source}")
    return tuple(
        LabeledImage(name, images / f"{name}{dataset.image_suffix}", labels / f"{name}{dataset.label_suffix}")
        for name in dict.fromkeys(names)
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
    return read_class_list(find_home(dataset, root, split) / "classes.txt")


def read_rgb(path: Path) -> RgbImage:
    """Read an image as RGB, not turned by its EXIF orientation.

    Raises:
        InputError: it is missing or cannot be decoded.
    """
    return np.asarray(_decode(path, "the image", mode="RGB"))


def read_labels(sample: LabeledImage, dataset: SemanticDataset, class_count: int) -> TrueLabels:
    """Read a label image.

    Raises:
        InputError: it is missing, cannot be decoded or does not hold one integer per pixel.
    """
    if not sample.labels.is_file():
        raise InputError(f"No annotation for the image {sample.name}: expected {sample.labels}. {dataset.source}")
    values = np.asarray(_decode(sample.labels, "the label image"))
    if values.ndim != _PLANE or values.dtype.kind not in "uib":
        raise InputError(
            f"Expected one integer per pixel in the label image {sample.labels}, but got {values.shape} of "
            f"{values.dtype}; is it a colored picture of the labels? {dataset.source}"
        )
    labels = values.astype(np.int64) + dataset.encoding.offset
    outside = (labels < 0) | (labels > class_count)
    if dataset.encoding.beyond == "background":
        return TrueLabels(np.where(outside, 0, labels))
    unknown = values[outside & (values != dataset.encoding.ignored)]
    return TrueLabels(np.where(outside, IGNORED, labels), unknown.size, int(unknown[0]) if unknown.size else None)


def _decode(path: Path, what: str, *, mode: str | None = None) -> Image.Image:
    """Decode an image file as it is stored, or convert it to a mode.

    Raises:
        InputError: it is missing, has too many pixels or cannot be decoded.
    """
    try:
        with quiet_pillow(), Image.open(path) as image:  # what cannot be used is an error below
            image.load()
            return image.convert(mode) if mode else image.copy()
    except UnidentifiedImageError as error:
        raise InputError(f"Cannot read {what} {path}: it is of no known format.") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"Cannot read {what} {path}: it has more than {most:,} pixels.") from error
    except DAMAGE as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(f"Cannot read {what} {path}: {reason}.") from error


def check_same_size(sample: LabeledImage, dataset: SemanticDataset, image: RgbImage, size_hw: tuple[int, int]) -> None:
    """Check that a label image of size `size_hw` belongs to its image.

    Raises:
        InputError: the sizes differ.
    """
    if image.shape[:2] != size_hw:
        (height, width), (label_height, label_width) = image.shape[:2], size_hw
        raise InputError(
            f"Expected the label image {sample.labels} to be {width} x {height} like its image, "
            f"but it is {label_width} x {label_height}; label images are never resized here. {dataset.source}"
        )


def _read_split_file(path: Path, dataset: SemanticDataset) -> list[str]:
    """Read the names of a split, one a line; VOC's files may hold a second column, which is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        message = f"Expected the split's image names, one a line, in {path} (splits found: {known}). {dataset.source}"
        raise InputError(message) from error
    return [line.split()[0] for line in lines if line.strip()]
