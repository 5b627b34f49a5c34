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
from clip_as_rnn.shapes import LabelMap, RgbImage

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
        kept: labels of the texts that were found, ascending, also where others cover all of their pixels.
        seconds: time spent in the segmenter.
    """

    labels: LabelMap
    kept: tuple[int, ...]
    seconds: float


def plan_passes(segmenter: Segmenting, vocabulary: Vocabulary, order: PassOrder) -> tuple[Pass, ...]:
    """Return the passes in the order in which they are painted: stuff first, so that things lie on top."""
    if order == "single" or not vocabulary.of_kind("stuff") or not vocabulary.of_kind("thing"):
        return (Pass(segmenter, vocabulary.texts, tuple(range(1, len(vocabulary.texts) + 1))),)
    marks = segmenter.config.stuff_visual_prompts
    stuff = segmenter.replace(
        background_texts=vocabulary.of_kind("thing"),
        visual_prompts=segmenter.config.visual_prompts if marks is None else marks,
    )
    things = segmenter if order == "official" else segmenter.replace(background_texts=vocabulary.of_kind("stuff"))
    return (_pass_of(stuff, vocabulary, "stuff"), _pass_of(things, vocabulary, "thing"))


def predict(
    passes: Sequence[Pass], image: RgbImage, *, asking: Asking = "all", present: Collection[int] = ()
) -> Prediction:
    """Run the passes and paint each over those before it; `present` are the labels in the truth, for asking those."""
    labels = np.zeros(image.shape[:2], dtype=np.int64)
    kept: list[int] = []
    started = perf_counter()
    for turn in passes:
        label_of = dict(zip(turn.texts, turn.labels, strict=True))
        texts = tuple(text for text in turn.texts if asking != "present" or label_of[text] in present)
        if not texts:
            continue
        found = _ask_each(turn, image, texts) if asking == "each" else turn.segmenter.segment(image, texts)
        found_labels = np.array([0, *(label_of[text] for text in found.texts)])
        painted = found_labels[found.label_map()]  # h w
        labels = np.where(painted > 0, painted, labels)
        kept.extend(found_labels[1:].tolist())
    return Prediction(labels=labels, kept=tuple(sorted(kept)), seconds=perf_counter() - started)


def _ask_each(turn: Pass, image: RgbImage, texts: tuple[str, ...]) -> Segmentation:
    """Ask one text at a time and lay the answers together; where masks overlap, the higher score will win."""
    answers = [turn.segmenter.segment(image, (text,)) for text in texts]
    return Segmentation(
        queries=texts,
        texts=tuple(text for answer in answers for text in answer.texts),
        masks=np.concatenate([answer.masks for answer in answers]),
        scores=np.concatenate([answer.scores for answer in answers]),
    )


def _pass_of(segmenter: Segmenting, vocabulary: Vocabulary, kind: Kind) -> Pass:
    labels = tuple(i for i, entry in enumerate(vocabulary.classes, start=1) if entry.kind == kind)
    return Pass(segmenter, vocabulary.of_kind(kind), labels)
