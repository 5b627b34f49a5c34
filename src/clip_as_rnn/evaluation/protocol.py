"""What one image is asked and how the answers are compared with its truth.

Label maps are predicted in passes: where a vocabulary knows things and stuff, each kind is a pass of its own.
`official`: things against the generic background texts, stuff against the names of all things.
`paper`: mutual background, each against the names of the other. `single`: one pass for all texts.
In both divided orders the things are painted over the stuff.

Within a pass, the texts are segmented all together (the papers' protocol), only those that the image shows (what is
left to gain once presence is known), or each by itself (what a user with one word gets).

Sentences that refer to one object are segmented both together, as the authors do, and each by itself.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.clips import VideoEvaluator
from clip_as_rnn.evaluation.datasets.referring import Mask, ReferringSplit, check_reference, open_referring_split
from clip_as_rnn.evaluation.datasets.registry import Dataset, SemanticDataset, VideoDataset
from clip_as_rnn.evaluation.datasets.semantic import SemanticSplit, check_same_size, open_semantic_split
from clip_as_rnn.evaluation.datasets.video import VideoSplit, open_video_split
from clip_as_rnn.evaluation.datasets.vocabulary import Kind, Vocabulary, Wording
from clip_as_rnn.evaluation.evaluated import Evaluated, or_failure
from clip_as_rnn.evaluation.metrics.clips import ClipScores, VideoMetric
from clip_as_rnn.evaluation.metrics.referring import ReferenceOverlaps, ReferringMetric, measure_overlap
from clip_as_rnn.evaluation.metrics.semantic import ImageCounts, SemanticMetric, count_pixels
from clip_as_rnn.evaluation.store import Record
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.state import EncodedImage
from clip_as_rnn.types import LabelMap, RgbImage

PassOrder = Literal["official", "paper", "single"]
TextSelection = Literal["all", "present", "each"]
Split: TypeAlias = SemanticSplit | ReferringSplit | VideoSplit
Metric: TypeAlias = SemanticMetric | ReferringMetric | VideoMetric

_MAJORITY = 0.5  # of the scores
_SMALLEST_SHARE = 0.05  # of the image; a merged mask of no more is given up for the union
_SHORTEST = "a"  # sentences differ by reference; one that is too long fails by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProtocol:
    """What is evaluated on, and how.

    Attributes:
        preset: its name, for the report.
        split: None: the one that the paper reports.
        passes: how things and stuff are divided.
        selection: which texts of the vocabulary an image is asked for, and whether together.
        wording: which texts stand for the classes.
    """

    dataset: Dataset
    root: Path
    preset: str
    split: str | None = None
    passes: PassOrder = "paper"
    selection: TextSelection = "all"
    wording: Wording = "paper"

    @property
    def split_name(self) -> str:
        """The split in force."""
        return self.split or self.dataset.split

    def describe(self) -> dict[str, Any]:
        """Name the choices that a result depends on; those of no use to the kind of data set are None."""
        is_semantic = isinstance(self.dataset, SemanticDataset)
        return {
            "dataset": self.dataset.name,
            "split": self.split_name,
            "passes": self.passes if is_semantic else None,
            "asked": self.selection if is_semantic else None,
            "texts": self.wording if is_semantic else None,
        }


def open_split(protocol: EvaluationProtocol) -> Split:
    """List what is to be evaluated.

    Raises:
        InputError: the data is not where it should be, which the message says with its source, or a name in it would
            lead out of an output folder.
    """
    dataset, root, name = protocol.dataset, protocol.root, protocol.split_name
    split: Split
    if isinstance(dataset, SemanticDataset):
        split = open_semantic_split(dataset, root, name, wording=protocol.wording)
    elif isinstance(dataset, VideoDataset):
        split = open_video_split(dataset, root, name)
    else:
        split = open_referring_split(dataset, root, name)
    for sample in split.names:
        if not sample.isprintable() or PurePath(sample).is_absolute() or ".." in PurePath(sample).parts:
            raise InputError(
                f"Expected names that stay below a folder in the split {name!r} of {dataset.title}, but got {sample!r}."
            )
    return split


@dataclass(frozen=True, slots=True)
class Pass:
    """The `texts` that are segmented in one pass, whose labels are `labels`, row by row."""

    segmenter: Segmenter
    texts: tuple[str, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The labels of one image.

    Attributes:
        labels: (h, w), 0 is background, i + 1 is class i.
        kept: labels of the texts that the classifier kept to the end, ascending, with a mask or without.
        masked: labels of those that refinement left a pixel, also where others cover all of their pixels.
        seconds: time spent in the segmenter.
    """

    labels: LabelMap
    kept: tuple[int, ...]
    masked: tuple[int, ...]
    seconds: float


def plan_passes(segmenter: Segmenter, vocabulary: Vocabulary, order: PassOrder) -> tuple[Pass, ...]:
    """Return the passes in the order in which they are painted: stuff first, so that things lie on top."""
    if order == "single" or not vocabulary.of_kind("stuff") or not vocabulary.of_kind("thing"):
        return (Pass(segmenter, vocabulary.texts, tuple(range(1, len(vocabulary.texts) + 1))),)
    prompts = segmenter.config.classify.stuff_visual_prompts
    stuff = segmenter.replace(
        background_texts=vocabulary.of_kind("thing"),
        visual_prompts=segmenter.config.classify.visual_prompts if prompts is None else prompts,
    )
    things = segmenter if order == "official" else segmenter.replace(background_texts=vocabulary.of_kind("stuff"))
    return (_pass_of(stuff, vocabulary, "stuff"), _pass_of(things, vocabulary, "thing"))


def pass_configs(split: Split, segmenter: Segmenter, protocol: EvaluationProtocol) -> tuple[SegmenterConfig, ...]:
    """Return the settings in force in each pass: those of things and stuff have background texts of their own."""
    if not isinstance(split, SemanticSplit):
        return (segmenter.config,)
    return tuple(one.segmenter.config for one in plan_passes(segmenter, split.vocabulary, protocol.passes))


def _pass_of(segmenter: Segmenter, vocabulary: Vocabulary, kind: Kind) -> Pass:
    labels = tuple(i for i, entry in enumerate(vocabulary.classes, start=1) if entry.kind == kind)
    return Pass(segmenter, vocabulary.of_kind(kind), labels)


def predict_labels(
    passes: Sequence[Pass], image: RgbImage, *, selection: TextSelection = "all", present: Collection[int] = ()
) -> Prediction:
    """Run the passes and paint each over those before it; `present` are the labels of the truth, to select by."""
    labels = np.zeros(image.shape[:2], dtype=np.int64)
    kept: list[int] = []
    masked: list[int] = []
    started = perf_counter()
    encoded: RgbImage | EncodedImage = image
    for one in passes:
        label_of = dict(zip(one.texts, one.labels, strict=True))
        texts = tuple(text for text in one.texts if selection != "present" or label_of[text] in present)
        if not texts:
            continue
        encoded = one.segmenter.encode(encoded)  # what SAM saw in an earlier pass, it need not see again
        groups = [(text,) for text in texts] if selection == "each" else [texts]
        found = [one.segmenter.segment(encoded, group, trace=True) for group in groups]
        masked.extend(_paint(labels, found, label_of))
        kept.extend(label_of[text] for answer in found for text in _kept_texts(answer))
    return Prediction(labels, tuple(sorted(kept)), tuple(sorted(masked)), perf_counter() - started)


def _paint(labels: LabelMap, found: Sequence[Segmentation], label_of: Mapping[str, int]) -> list[int]:
    """Paint masks onto labels, the highest score last, of equals the later text; return the labels of any pixel."""
    layers = [
        (float(score), label_of[text], mask)
        for answer in found
        for text, score, mask in zip(answer.texts, answer.scores, answer.masks, strict=True)
    ]
    for _, label, mask in sorted(layers, key=lambda layer: layer[0]):  # stable
        labels[mask] = label
    return [label for _, label, mask in layers if mask.any()]


def _kept_texts(found: Segmentation) -> tuple[str, ...]:
    """Return the texts that passed the last step; refinement may have left some of them without a mask."""
    if found.trace is None:
        return found.texts
    last = found.trace.steps[-1]
    return tuple(last.texts[i] for i in last.kept)


@dataclass(frozen=True, slots=True, eq=False)
class ReferencePrediction:
    """What was found for one reference.

    Attributes:
        merged: one mask from all sentences together.
        single: one mask per sentence, each segmented by itself.
        seconds: time spent in the segmenter.
    """

    merged: Mask
    single: tuple[Mask, ...]
    seconds: float


def merge_masks(found: Segmentation) -> Mask:
    """Merge the masks of several sentences about one object, as the authors' release does.

    A pixel belongs to the object if the masks there hold half of all scores. If that leaves no more than 5 % of the
    image, the union of the masks is taken instead. Nothing found gives an empty mask.
    """
    masks = found.masks
    union = np.asarray(masks.any(axis=0))  # h w, all False where nothing was found
    total = float(found.scores.sum())
    if total <= 0:
        return union
    merged: Mask = np.tensordot(found.scores / total, masks.astype(np.float64), axes=1) >= _MAJORITY  # h w
    return merged if merged.mean() > _SMALLEST_SHARE else union


def predict_reference(segmenter: Segmenter, image: RgbImage, sentences: tuple[str, ...]) -> ReferencePrediction:
    """Find the object that `sentences` refer to; a lone sentence is segmented only once."""
    started = perf_counter()
    encoded = segmenter.encode(image)
    merged = merge_masks(segmenter.segment(encoded, sentences))
    if len(set(sentences)) == 1:
        single = (merged,) * len(sentences)
    else:
        single = tuple(merge_masks(segmenter.segment(encoded, (sentence,))) for sentence in sentences)
    return ReferencePrediction(merged, single, perf_counter() - started)


class SemanticEvaluator:
    """Segments images of a split for the classes of its vocabulary and counts the pixels.

    Raises:
        InputError: the settings cannot be used on any image, as a text is too long.
    """

    def __init__(self, split: SemanticSplit, segmenter: Segmenter, protocol: EvaluationProtocol) -> None:
        self.split = split
        self._selection = protocol.selection
        self._passes = plan_passes(segmenter, split.vocabulary, protocol.passes)
        for one in self._passes:
            one.segmenter.check_texts(one.texts)

    def new_metric(self) -> SemanticMetric:
        """Return a metric that has counted nothing."""
        absent_asked = self._selection != "present"
        return SemanticMetric(self.split.dataset, self.split.vocabulary, absent_asked=absent_asked)

    def evaluate(self, position: int) -> Evaluated:
        """Segment the image at `position` and count its pixels; what cannot be done is the record's failure."""
        sample = self.split.samples[position]
        return or_failure(sample.name, self.split.root, lambda: self._evaluate(position))

    def _evaluate(self, position: int) -> Evaluated:
        sample = self.split.samples[position]
        image, truth = self.split.read_image(position), self.split.read_truth(position)
        check_same_size(sample, self.split.dataset, image, truth.labels.shape)
        present = np.unique(truth.labels[truth.labels > 0]).tolist()
        found = predict_labels(self._passes, image, selection=self._selection, present=present)
        pixels = count_pixels(truth.labels, found.labels)
        counts = ImageCounts(pixels, found.kept, found.masked, truth.unknown_pixels, truth.unknown_value)
        return Evaluated(Record(sample.name, found.seconds, counts), found.labels)


class ReferringEvaluator:
    """Segments images of a split for the sentences about one of their objects and measures the overlaps.

    Raises:
        InputError: the settings cannot be used on any image, as a text is too long.
    """

    def __init__(self, split: ReferringSplit, segmenter: Segmenter) -> None:
        segmenter.check_texts((_SHORTEST,))
        self.split = split
        self._segmenter = segmenter

    def new_metric(self) -> ReferringMetric:
        """Return a metric that has counted nothing."""
        return ReferringMetric(generalized=self.split.dataset.generalized)

    def evaluate(self, position: int) -> Evaluated:
        """Find the object at `position` and measure the overlaps; what cannot be done is the record's failure."""
        sample = self.split.samples[position]
        return or_failure(sample.name, self.split.root, lambda: self._evaluate(position))

    def _evaluate(self, position: int) -> Evaluated:
        sample = self.split.samples[position]
        image, truth, released = self.split.read_image(position), sample.mask(), sample.released_mask()
        check_reference(sample, self.split.dataset, image)
        found = predict_reference(self._segmenter, image, sample.sentences)
        overlaps = ReferenceOverlaps(
            released=measure_overlap(found.merged, released),
            merged=measure_overlap(found.merged, truth),
            sentences=tuple(measure_overlap(mask, truth) for mask in found.single),
            has_target=bool(sample.segmentations),
            is_empty=not found.merged.any(),
        )
        return Evaluated(Record(sample.name, found.seconds, overlaps), found.merged.astype(np.int64))


Evaluator: TypeAlias = SemanticEvaluator | ReferringEvaluator | VideoEvaluator


def make_evaluator(split: Split, segmenter: Segmenter, protocol: EvaluationProtocol) -> Evaluator:
    """Return what evaluates the images of a split.

    Raises:
        InputError: the settings cannot be used on any image.
    """
    if isinstance(split, SemanticSplit):
        return SemanticEvaluator(split, segmenter, protocol)
    if isinstance(split, VideoSplit):
        return VideoEvaluator(split, segmenter)
    return ReferringEvaluator(split, segmenter)


def update_metric(metric: Metric, record: Record) -> None:
    """Add a record to a metric; a failure adds nothing.

    Raises:
        InputError: the record is of another kind of data set, or holds labels beyond the vocabulary.
    """
    match record.result:
        case ImageCounts() as counts if isinstance(metric, SemanticMetric):
            metric.update(counts)
        case ReferenceOverlaps() as overlaps if isinstance(metric, ReferringMetric):
            metric.update(overlaps)
        case ClipScores() as scores if isinstance(metric, VideoMetric):
            metric.update(scores)
        case ImageCounts() | ReferenceOverlaps() | ClipScores():
            raise InputError(f"The record of {record.name} is of another kind of data set; take its file away.")
