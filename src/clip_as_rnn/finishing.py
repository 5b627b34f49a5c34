"""What follows the recurrence: refine the masks of the texts that passed, and say of the others where they fell."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.encoders.preprocess import limit_size
from clip_as_rnn.ops import drop_empty, resize_nearest
from clip_as_rnn.parts import weigh_parts
from clip_as_rnn.precision import own_precision
from clip_as_rnn.refine.clip_crf import ClipMasks, RefinedFrame
from clip_as_rnn.result import Refinement, Rejection, Segmentation, Trace
from clip_as_rnn.stages import Callback, Progress, Stages
from clip_as_rnn.state import State, reject
from clip_as_rnn.timing import Stopwatch
from clip_as_rnn.types import LabelMap, Masks, ResizedImage


class Finisher:
    """Makes results of states that have converged, with the stages and settings they came by."""

    def __init__(self, stages: Stages, config: SegmenterConfig) -> None:
        self._stages, self._config = stages, config

    @own_precision()
    def finish(
        self, state: State, report: Callback, *, trace: bool, refined: RefinedFrame | None = None
    ) -> Segmentation:
        """Refine the masks of the texts that passed, unless that is done, and say of the others where they fell."""
        queries, scores = state.texts.queries, state.final_scores()
        masks, refinements = self._refine(state, report, trace=trace, refined=refined)
        with state.stopwatch.measure("refine"):
            found = np.arange(len(state.active))
            rejections = reject(state.steps, self._config, in_clip=state.in_clip)
            if self._config.refine.drop_empty_masks:
                masks, found = drop_empty(masks, len(state.active))
            for row in np.setdiff1d(np.arange(len(state.active)), found):
                text, step = queries[state.active[row]], len(state.steps)
                rejections[text] = Rejection(text, step, float(scores[row]), "no pixel left after refinement")
            masks = resize_nearest(masks, state.image.pixels.shape[:2])
        described: dict[str, Any] = {
            "queries": queries,
            "texts": tuple(queries[i] for i in state.active[found]),
            "scores": scores[found],
            "rejections": tuple(rejections[text] for text in queries if text in rejections),
            "trace": Trace(tuple(state.steps)) if trace else None,
            "judged_by": self._judged_by(state),
            "seconds": dict(state.stopwatch.seconds),
            "refinements": refinements,
        }
        if masks.dtype != bool:  # semantic mode: one label map
            return Segmentation.from_label_map(masks, **described)
        return Segmentation(masks=masks, **described)

    @own_precision()
    def judge_parts(self, states: Sequence[State], report: Callback) -> None:
        """Let the classifier judge the parts of the last masks by themselves, if the settings ask for it."""
        exponent = self._config.refine.part_weight
        if not exponent:
            return
        step, texts = max(len(state.steps) for state in states), sum(len(state.active) for state in states)

        def tick(done: int, total: int) -> None:
            report(Progress("classify", step, texts, done, total))

        stopwatch = Stopwatch()
        with stopwatch.measure("classify", shared_by=len(states)):
            weigh_parts(states, self._stages.classifier, self._config.classify.mask_threshold, exponent, tick)
        for state in states:
            state.stopwatch.seconds["classify"] += stopwatch.seconds["classify"]

    @own_precision()
    def refine_window(self, states: Sequence[State], report: Callback) -> list[RefinedFrame | None]:
        """Refine the last proposals of all frames of a window jointly, if the settings ask for it."""
        if not self._config.video.clip_crf:
            return [None] * len(states)
        report(
            Progress("refine", max(len(state.steps) for state in states), sum(len(state.active) for state in states))
        )
        stopwatch = Stopwatch()
        with stopwatch.measure("refine", shared_by=len(states)):
            images = np.stack([self._image_to_refine(state) for state in states])
            masks = ClipMasks([state.final_maps(self._config) for state in states], [state.active for state in states])
            refined = self._stages.refiner.refine_clip(images, masks)
        for state in states:
            state.stopwatch.seconds["refine"] += stopwatch.seconds["refine"]
        return list(refined)

    def _judged_by(self, state: State) -> str:
        by_parts = self._config.refine.part_weight and not state.in_clip
        return self._config.classify.judged_by + ("; their parts by themselves, too" if by_parts else "")

    def _image_to_refine(self, state: State) -> ResizedImage:
        return limit_size(state.image.pixels, self._config.refine.crf_max_side_px or self._config.max_side_px)

    def _refine(
        self, state: State, report: Callback, *, trace: bool, refined: RefinedFrame | None
    ) -> tuple[LabelMap | Masks, Mapping[str, Refinement]]:
        """Refine the last proposals of the texts that passed, by SAM too if there is one."""
        report(Progress("refine", len(state.steps), len(state.active)))
        with state.stopwatch.measure("refine"):
            image, maps = self._image_to_refine(state), state.final_maps(self._config)
            if self._stages.replacer is None:
                return refined.masks if refined else self._stages.refiner.refine(image, maps), {}
            refined = refined or RefinedFrame(*self._stages.refiner.refine_softly(image, maps))
        report(Progress("sam", len(state.steps), len(state.active)))
        with state.stopwatch.measure("sam"):
            replaced, decisions = self._stages.replacer.refine(
                state.image.replacer_encoding,
                refined.masks,
                state.final_scores(),
                probabilities=refined.probabilities,
                trace=trace,
            )
        return replaced, {state.texts.queries[state.active[i]]: decisions[i] for i in sorted(decisions)}
