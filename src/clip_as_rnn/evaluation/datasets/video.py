"""Find and read clips with expressions: Ref-DAVIS17 and Ref-YouTube-VOS as the field converts them, DAVIS, MeViS.

A sample is what is asked at once: all expressions of one annotator about a clip, or one expression.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image
from pycocotools import mask as coco_mask

from clip_as_rnn.errors import InputError, describe_mismatch
from clip_as_rnn.evaluation.datasets.registry import VideoDataset
from clip_as_rnn.evaluation.datasets.semantic import read_rgb
from clip_as_rnn.io.images import DAMAGE, quiet_pillow
from clip_as_rnn.types import RgbImage

_DAVIS_TEXTS = tuple(
    f"Davis17_{who}{when}.txt" for who in ("annot1", "annot2") for when in ("", "_full_video")
)  # in the order of the field's annotators 0 to 3
_DAVIS_TYPOS = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
_DAVIS_LINE = re.compile(r'^\s*(\S+)\s+(\d+)\s+"(.*)"\s*$')

Expressions = list[tuple[str, int]]  # a text, and the object it means


@dataclass(frozen=True, slots=True)
class VideoSample:
    """What is asked of a clip at once, and where its frames and their truth lie.

    Attributes:
        name: unique within the split; where results of it are submitted, below the folder of predictions.
        frames: of the clip, in order.
        texts: what is asked.
        objects: which object each text means; 1 where the truth is a mask of its own.
        absent: further texts that are asked, of things that the clip does not show.
        truth: label maps of the frames; None where there are none, or `runs` has the truth.
        runs: COCO run lengths, per object one list over the frames; the union of all objects is the truth.
    """

    name: str
    frames: tuple[Path, ...]
    texts: tuple[str, ...]
    objects: tuple[int, ...]
    absent: tuple[str, ...] = ()
    truth: tuple[Path, ...] | None = None
    runs: tuple[Sequence[Any], ...] | None = None

    @property
    def has_truth(self) -> bool:
        """Whether results can be scored here."""
        return self.truth is not None or self.runs is not None


@dataclass(frozen=True, slots=True)
class VideoSplit:
    """The samples of one split."""

    dataset: VideoDataset
    root: Path
    samples: tuple[VideoSample, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names, in order."""
        return tuple(sample.name for sample in self.samples)

    def read_frames(self, position: int) -> Iterator[RgbImage]:
        """Read the frames of the sample at `position` one by one; raises InputError."""
        return (read_rgb(path) for path in self.samples[position].frames)

    def read_truth(self, position: int) -> UInt8[ndarray, "t h w"] | None:
        """Read the label maps of the sample at `position`, if there are any; 255 is void.

        Raises:
            InputError: one is missing, damaged, or of another size than the others.
        """
        sample = self.samples[position]
        if sample.truth is not None:
            maps = [_read_labels(path) for path in sample.truth]
        elif sample.runs is not None:
            size_hw = read_rgb(sample.frames[0]).shape[:2]
            maps = [_decode(sample, t, size_hw) for t in range(len(sample.frames))]
        else:
            return None
        if len({one.shape for one in maps}) > 1:
            raise InputError(f"Expected the label maps of {sample.name} to be of one size, but they are not.")
        return np.stack(maps)


def open_video_split(dataset: VideoDataset, root: Path, split: str) -> VideoSplit:
    """List the samples of a split.

    Raises:
        InputError: the data is not where it should be, or is not as it should be.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}, expected to hold {dataset.title}. {dataset.source}")
    try:
        samples = _list_samples(dataset, root, split)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"Expected the fields of {dataset.title} in {root}, but {describe_mismatch(error)}. {dataset.source}"
        ) from error
    if not samples:
        raise InputError(f"The split {split!r} of {dataset.title} in {root} holds no clip. {dataset.source}")
    return VideoSplit(dataset, root, tuple(samples))


def _list_samples(dataset: VideoDataset, root: Path, split: str) -> list[VideoSample]:
    if dataset.layout == "mevis":
        return list(_list_mevis(root / split, dataset))
    path = root / "meta_expressions" / split / "meta_expressions.json"
    if path.is_file():
        videos = _read_json(path, dataset)["videos"]
        return [sample for name, video in videos.items() for sample in _converted(dataset, root / split, name, video)]
    if dataset.annotators == len(_DAVIS_TEXTS) and (root / "DAVIS").is_dir():
        return list(_list_davis(dataset, root, "val" if split == "valid" else split))
    raise InputError(f"Expected the expressions of {dataset.title} in {path}. {dataset.source}")


def _converted(dataset: VideoDataset, home: Path, name: str, video: Mapping[str, Any]) -> Iterator[VideoSample]:
    """Take a clip apart into what is asked at once."""
    frames, truth = _frame_paths(home, name, video["frames"])
    expressions = {int(number): entry for number, entry in video["expressions"].items()}
    if dataset.annotators is None:
        for number, entry in sorted(expressions.items()):
            yield VideoSample(
                name=f"{name}/{number}",
                frames=frames,
                texts=(_text(entry),),
                objects=(int(entry.get("obj_id", 1)),),
                truth=truth,
            )
        return
    for annotator in range(dataset.annotators):
        own = [entry for number, entry in sorted(expressions.items()) if number % dataset.annotators == annotator]
        yield VideoSample(
            name=f"anno_{annotator}/{name}",
            frames=frames,
            texts=tuple(map(_text, own)),
            objects=tuple(int(entry["obj_id"]) for entry in own),
            absent=tuple(map(str.strip, video.get("absent", ((),) * dataset.annotators)[annotator])),
            truth=truth,
        )


def _text(entry: Mapping[str, Any]) -> str:
    return str(entry["exp"]).strip()


def _frame_paths(home: Path, name: str, names: Sequence[str]) -> tuple[tuple[Path, ...], tuple[Path, ...] | None]:
    frames = tuple(home / "JPEGImages" / name / f"{frame}.jpg" for frame in names)
    labels = home / "Annotations" / name
    return frames, tuple(labels / f"{frame}.png" for frame in names) if labels.is_dir() else None


def _list_davis(dataset: VideoDataset, root: Path, split: str) -> Iterator[VideoSample]:
    """Read DAVIS as it is published, with the texts of MPI-INF beside it or in `davis_text_annotations`."""
    davis = root / "DAVIS"
    folders = [folder for folder in (root / "davis_text_annotations", root) if (folder / _DAVIS_TEXTS[0]).is_file()]
    listed = davis / "ImageSets" / "2017" / f"{split}.txt"
    if not folders or not listed.is_file():
        raise InputError(f"Expected {_DAVIS_TEXTS[0]} in {root} and the split in {listed}. {dataset.source}")
    texts = [_read_davis_texts(folders[0] / name, dataset) for name in _DAVIS_TEXTS]
    for name in listed.read_text(encoding="utf-8").split():
        frames = tuple(sorted((davis / "JPEGImages" / "480p" / name).glob("*.jpg")))
        labels = davis / "Annotations_unsupervised" / "480p" / name
        for annotator, by_clip in enumerate(texts):
            said = by_clip.get(name, [])
            yield VideoSample(
                name=f"anno_{annotator}/{name}",
                frames=frames,
                texts=tuple(text for text, _ in said),
                objects=tuple(number for _, number in said),
                truth=tuple(labels / f"{frame.stem}.png" for frame in frames) if labels.is_dir() else None,
            )


def _read_davis_texts(path: Path, dataset: VideoDataset) -> dict[str, Expressions]:
    """Read lines `clip object "expression"`; the second annotator's files are Latin-1, three names mistyped."""
    encoding = "utf-8" if "annot1" in path.name else "latin-1"
    try:
        lines = path.read_text(encoding=encoding).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}. {dataset.source}") from error
    said: dict[str, Expressions] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _DAVIS_LINE.match(line)
        if match is None:
            raise InputError(f'Expected `clip object "expression"` in line {number} of {path}, but got {line!r}.')
        said.setdefault(_DAVIS_TYPOS.get(match[1], match[1]), []).append((match[3].strip(), int(match[2])))
    return said


def _list_mevis(home: Path, dataset: VideoDataset) -> Iterator[VideoSample]:
    """Read MeViS: an expression means any number of objects, whose masks are in a file of their own, if published."""
    videos = _read_json(home / "meta_expressions.json", dataset)["videos"]
    masks = _read_json(home / "mask_dict.json", dataset) if (home / "mask_dict.json").is_file() else None
    for name, video in videos.items():
        frames, _ = _frame_paths(home, name, video["frames"])
        for number, entry in video["expressions"].items():
            runs = None if masks is None else tuple(masks[str(one)] for one in entry.get("anno_id", ()))
            yield VideoSample(f"{name}/{number}", frames, (_text(entry),), (1,), runs=runs)


def _read_json(path: Path, dataset: VideoDataset) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot read {path}: {error}. {dataset.source}") from error


def _read_labels(path: Path) -> UInt8[ndarray, "h w"]:
    try:
        with quiet_pillow(), Image.open(path) as image:
            labels = np.asarray(image)
    except DAMAGE as error:
        raise InputError(f"Cannot read the label map {path}: {error}.") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:  # noqa: PLR2004 - rows and columns
        raise InputError(f"Expected one label per pixel in {path}, but got {labels.shape} of {labels.dtype}.")
    return labels


def _decode(sample: VideoSample, t: int, size_hw: tuple[int, ...]) -> UInt8[ndarray, "h w"]:
    """Decode the union of the objects of a frame; frames without a mask have None."""
    union = np.zeros(size_hw, np.uint8)
    for runs in sample.runs or ():
        if runs[t] is not None:
            try:
                union |= np.asarray(coco_mask.decode(dict(runs[t])))
            except (TypeError, ValueError, KeyError) as error:
                problem = describe_mismatch(error)
                raise InputError(f"Expected run lengths of frame {t} of {sample.name}, but {problem}.") from error
    return union
