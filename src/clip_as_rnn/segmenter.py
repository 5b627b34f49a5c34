"""CLIP as RNN (Sun et al., CVPR 2024, algorithm 1): propose a mask per text, judge each, drop what fails, repeat.

The stages are passed in; this module imports no model and knows nothing of gradients, prompts or files.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.images import ImageSource, read_image
from clip_as_rnn.ops import grow_masks
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.result import Proposal, Rejection, Segmentation, Step, Trace
from clip_as_rnn.types import Masks, PatchMaps, RgbImage, Scores


@runtime_checkable
class SizedView(Protocol):
    """An image as the stages want it; made per call and gone with it."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels at which masks are proposed and judged."""


View = TypeVar("View", bound=SizedView)


@dataclass(frozen=True, slots=True, eq=False)
class Question(Generic[View]):
    """What a step asks of the classifier: does row i of `maps` show `texts[i]`?"""

    view: View
    maps: PatchMaps
    texts: tuple[str, ...]


@runtime_checkable
class Stages(Protocol[View]):
    """What a segmenter is made of. Stages hold what was loaded, and nothing of any image."""

    def check(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text cannot be read."""

    def look(self, image: RgbImage, texts: Sequence[str]) -> View:
        """Take in one image, before the first step."""

    def propose(self, view: View, texts: Sequence[str], step: int) -> Proposal:
        """Stage 1: one soft mask per text, given that only these texts are left; steps count from 0."""

    def classify(self, questions: Sequence[Question[View]]) -> list[Scores]:
        """Stage 2: one score per mask, for several images at once."""

    def finish(self, view: View, maps: PatchMaps) -> Masks:
        """Refine the last proposals to masks, of any size."""

    def describe(self) -> Mapping[str, str]:
        """Say what was loaded: models, fingerprints, device, precision."""


def recurrence(
    stages: Stages[View], view: View, texts: tuple[str, ...], config: SegmenterConfig
) -> Generator[Question[View], Scores, tuple[Step, ...]]:
    """Run algorithm 1 on one image. Yields a question for the classifier, is sent its scores, returns every step.

    The texts alive only ever become fewer, so it ends after at most one step more than there are texts.
    """
    steps: list[Step] = []
    alive = texts
    passed_before = 0 if config.recurrence.repeat_first_step else len(alive)
    while alive:
        proposal = stages.propose(view, alive, len(steps))
        scores = yield Question(view, proposal.maps, alive)
        kept = keep(scores, config)
        steps.append(Step(alive, proposal.cams, proposal.maps, scores, kept, view.size_hw))
        if len(kept) == passed_before or len(steps) == config.recurrence.max_steps:
            break
        alive, passed_before = tuple(alive[i] for i in kept), len(kept)
    return tuple(steps)


def keep(scores: Scores, config: SegmenterConfig) -> tuple[int, ...]:
    """Choose the texts that pass: score >= theta (paper), or > theta and at least the best one (authors' release)."""
    if config.recurrence.max_steps == 0:
        return tuple(range(len(scores)))
    threshold = config.classify.score_threshold
    passing = scores > threshold if config.recurrence.strict_threshold else scores >= threshold
    if config.recurrence.keep_best and not passing.any():
        return (int(np.argmax(scores)),)
    return tuple(int(i) for i in np.flatnonzero(passing))


class Segmenter(Generic[View]):
    """Finds texts in images. Holds what was loaded and the settings; no call leaves a trace in it."""

    def __init__(
        self,
        stages: Stages[View],
        config: SegmenterConfig,
        rebuild: Callable[[SegmenterConfig], "Segmenter[View]"] | None = None,
    ) -> None:
        self.stages = stages
        self.config = config
        self._rebuild = rebuild

    def segment(self, image: ImageSource, texts: Sequence[str], *, trace: bool = False) -> Segmentation:
        """Find the texts in one image.

        Args:
            image: a path, bytes of a file, a PIL image, (h, w, 3) uint8 array or (3, h, w) uint8 tensor, RGB.
            texts: what to look for, one or more; duplicates are merged.
            trace: keep every step: what was proposed, scored and dropped.

        Raises:
            InputError: an image that cannot be read, no texts, a blank one, or one that is too long for CLIP.
        """
        return next(self.segment_many([image], texts, trace=trace))

    def segment_many(
        self, images: Iterable[ImageSource], texts: Sequence[str], *, trace: bool = False, images_at_once: int = 4
    ) -> Iterator[Segmentation]:
        """Find the texts in each image, in order; images are read as they are needed.

        `images_at_once` of them go through the recurrence side by side, so that the classifier's passes are full.
        The result of an image does not depend on its neighbours, up to the rounding of batched products.
        """
        queries = check_texts(texts)
        self.stages.check(queries)
        waiting = iter(images)
        while batch := [read_image(image) for image in islice(waiting, max(1, images_at_once))]:
            runs = [_Run(self.stages, image, queries, self.config) for image in batch]
            while asking := [run for run in runs if run.question]:
                started = time.perf_counter()
                answers = self.stages.classify([run.question for run in asking if run.question])
                elapsed = (time.perf_counter() - started) / len(asking)
                for run, scores in zip(asking, answers, strict=True):
                    run.seconds["classify"] = run.seconds.get("classify", 0.0) + elapsed
                    run.answer(scores)
            for run in runs:
                yield run.conclude(trace=trace)

    def replace(self, **settings: object) -> "Segmenter[View]":
        """Make a segmenter with other settings on the same loaded models.

        Raises:
            InputError: an unknown setting, a value out of range, or other models: load those anew.
        """
        if self._rebuild is None:
            raise InputError("This segmenter was made from given stages and cannot be rebuilt with other settings.")
        return self._rebuild(with_settings(self.config, settings))

    def describe(self) -> Mapping[str, str]:
        """Say what was loaded: models, fingerprints, device, precision."""
        return self.stages.describe()


@dataclass(slots=True, eq=False)
class _Run(Generic[View]):
    """One image on its way through the recurrence."""

    stages: Stages[View]
    image: RgbImage
    queries: tuple[str, ...]
    config: SegmenterConfig
    question: Question[View] | None = None
    steps: tuple[Step, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    view: View = field(init=False)
    _turns: Generator[Question[View], Scores, tuple[Step, ...]] = field(init=False)

    def __post_init__(self) -> None:
        started = time.perf_counter()
        self.view = self.stages.look(self.image, self.queries)
        self._turns = recurrence(self.stages, self.view, self.queries, self.config)
        self.seconds["look"] = time.perf_counter() - started
        self.answer(None)

    def answer(self, scores: Scores | None) -> None:
        """Go on to the next question, or to the end."""
        started = time.perf_counter()
        try:
            self.question = next(self._turns) if scores is None else self._turns.send(scores)
        except StopIteration as end:
            self.question, self.steps = None, end.value
        self.seconds["propose"] = self.seconds.get("propose", 0.0) + time.perf_counter() - started

    def conclude(self, *, trace: bool) -> Segmentation:
        """Refine the last proposals of the texts that stayed, and say of the others where they fell."""
        started = time.perf_counter()
        last = self.steps[-1]
        kept = np.array(last.kept, dtype=int)
        masks = self.stages.finish(self.view, _last_maps(self.steps, self.config)[kept])
        rejections = _rejections(self.steps, self.config)
        if self.config.refine.drop_empty_masks:
            filled = masks.any(axis=(1, 2))
            for i in kept[~filled]:
                text = last.texts[i]
                rejections[text] = Rejection(
                    text, len(self.steps), float(last.scores[i]), "no pixel left after refinement"
                )
            masks, kept = masks[filled], kept[filled]
        masks = grow_masks(masks, self.image.shape[:2])
        self.seconds["finish"] = time.perf_counter() - started
        return Segmentation(
            queries=self.queries,
            texts=tuple(last.texts[i] for i in kept),
            masks=masks,
            scores=last.scores[kept],
            rejections=tuple(rejections[text] for text in self.queries if text in rejections),
            trace=Trace(self.steps) if trace else None,
            seconds=dict(self.seconds),
        )


def _last_maps(steps: Sequence[Step], config: SegmenterConfig) -> PatchMaps:
    """Take the last step's maps; where all of them are zero, the release falls back on the step before."""
    last = steps[-1]
    if config.propose.foreground_fallback and len(steps) > 1 and not last.maps.any():
        before = steps[-2]
        return before.maps[[before.texts.index(text) for text in last.texts]]
    return last.maps


def _rejections(steps: Sequence[Step], config: SegmenterConfig) -> dict[str, Rejection]:
    """Say of every dropped text in which step it fell, and at what score."""
    bound = "not above" if config.recurrence.strict_threshold else "below"
    reason = f"score {bound} {config.classify.score_threshold:g}"
    return {
        step.texts[i]: Rejection(step.texts[i], number, float(step.scores[i]), reason)
        for number, step in enumerate(steps, start=1)
        for i in step.dropped
    }
