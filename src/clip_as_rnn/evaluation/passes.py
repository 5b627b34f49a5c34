"""Semantic prediction in passes: where a vocabulary knows things and stuff, each is asked for by itself.

`official`: things against the generic background texts, stuff against the names of all things.
`paper`: mutual background, each against the names of the other. `single`: everything is asked for at once.
In both divided orders the things are painted over the stuff.

Within a pass, all texts are asked together (the protocol of the papers), only those that the image shows (what is left
to gain once it is known what is there), or each by itself (what a user with one word gets).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np

from clip_as_rnn.evaluation.segmenting import Segmenting
from clip_as_rnn.evaluation.vocabulary import Kind, Vocabulary
from clip_as_rnn.result import Segmentation
from clip_as_rnn.types import LabelMap, RgbImage

PassOrder = Literal["official", "paper", "single"]
Asking = Literal["all", "present", "each"]


@dataclass(frozen=True, slots=True)
class Pass:
    """One question to the segmenter: these `texts`, whose labels are `labels`, row by row."""

    segmenter: Segmenting
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


def plan_passes(segmenter: Segmenting, vocabulary: Vocabulary, order: PassOrder) -> tuple[Pass, ...]:
    """Return the passes in the order in which they are painted: stuff first, so that things lie on top."""
    if order == "single" or not vocabulary.of_kind("stuff") or not vocabulary.of_kind("thing"):
        return (Pass(segmenter, vocabulary.texts, tuple(range(1, len(vocabulary.texts) + 1))),)
    marks = segmenter.config.classify.stuff_visual_prompts
    stuff = segmenter.replace(
        background_texts=vocabulary.of_kind("thing"),
        visual_prompts=segmenter.config.classify.visual_prompts if marks is None else marks,
    )
    things = segmenter if order == "official" else segmenter.replace(background_texts=vocabulary.of_kind("stuff"))
    return (_pass_of(stuff, vocabulary, "stuff"), _pass_of(things, vocabulary, "thing"))


def predict(
    passes: Sequence[Pass], image: RgbImage, *, asking: Asking = "all", present: Collection[int] = ()
) -> Prediction:
    """Run the passes and paint each over those before it; `present` are the labels in the truth, for asking those."""
    labels = np.zeros(image.shape[:2], dtype=np.int64)
    kept: list[int] = []
    masked: list[int] = []
    started = perf_counter()
    for turn in passes:
        label_of = dict(zip(turn.texts, turn.labels, strict=True))
        texts = tuple(text for text in turn.texts if asking != "present" or label_of[text] in present)
        if not texts:
            continue
        questions = [(text,) for text in texts] if asking == "each" else [texts]
        answers = [turn.segmenter.segment(image, question, trace=True) for question in questions]
        found = _lay_together(texts, answers)
        found_labels = np.array([0, *(label_of[text] for text in found.texts)])
        painted = found_labels[found.label_map()]  # h w
        labels = np.where(painted > 0, painted, labels)
        kept.extend(label_of[text] for answer in answers for text in _kept_texts(answer))
        masked.extend(label_of[text] for text, mask in zip(found.texts, found.masks, strict=True) if mask.any())
    return Prediction(labels, tuple(sorted(kept)), tuple(sorted(masked)), perf_counter() - started)


def _lay_together(texts: tuple[str, ...], answers: Sequence[Segmentation]) -> Segmentation:
    """Make one answer of several; where masks overlap, the higher score will win."""
    return Segmentation(
        queries=texts,
        texts=tuple(text for answer in answers for text in answer.texts),
        masks=np.concatenate([answer.masks for answer in answers]),
        scores=np.concatenate([answer.scores for answer in answers]),
    )


def _kept_texts(answer: Segmentation) -> tuple[str, ...]:
    """Return the texts that passed the last step; refinement may have left some of them without a mask."""
    if answer.trace is None:
        return answer.texts
    last = answer.trace.steps[-1]
    return tuple(last.texts[i] for i in last.kept)


def _pass_of(segmenter: Segmenting, vocabulary: Vocabulary, kind: Kind) -> Pass:
    labels = tuple(i for i, entry in enumerate(vocabulary.classes, start=1) if entry.kind == kind)
    return Pass(segmenter, vocabulary.of_kind(kind), labels)
