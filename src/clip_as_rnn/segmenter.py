"""CLIP as RNN (Sun et al., CVPR 2024, algorithm 1): propose a mask per text, classify each, drop what fails, repeat.

The stages are passed in; this module knows no model. Image work, text work and the recurrence are apart, so that
several questions about one image cost one image pass.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.encoding import InputEncoder
from clip_as_rnn.errors import InputError
from clip_as_rnn.finishing import Finisher
from clip_as_rnn.io.images import ImageSource
from clip_as_rnn.io.video import VideoSource, open_video
from clip_as_rnn.precision import own_precision
from clip_as_rnn.refine.clip_crf import RefinedFrame
from clip_as_rnn.result import Proposal, Segmentation
from clip_as_rnn.stages import Callback, Models, Progress, Stages
from clip_as_rnn.state import EncodedImage, EncodedTexts, State, weigh
from clip_as_rnn.temporal.tracking import FinishedFrame, follow_masks
from clip_as_rnn.temporal.window import Memory, Window, cut_windows
from clip_as_rnn.timing import Stopwatch
from clip_as_rnn.types import Scores

_IMAGES_AT_ONCE = 4


class Segmenter:
    """Finds texts in images. Holds what was loaded and the settings; no call leaves a trace in it."""

    def __init__(self, stages: Stages, config: SegmenterConfig, models: Models | None = None) -> None:
        self.stages = stages
        self.config = config
        self.models = models
        self._inputs = InputEncoder(stages, config)
        self._finisher = Finisher(stages, config)

    def segment(
        self,
        image: ImageSource | EncodedImage,
        texts: Sequence[str] | EncodedTexts,
        *,
        trace: bool = False,
        callback: Callback | None = None,
    ) -> Segmentation:
        """Find the texts in one image.

        Args:
            image: a path, bytes of a file, a PIL image, (h, w, 3) uint8 array or (3, h, w) uint8 tensor, RGB; or what
                `encode` returned for it, which saves the image pass.
            texts: what to look for, one or more; duplicates are merged. Or what `encode_texts` returned for them.
            trace: keep every step: what was proposed, scored and dropped.
            callback: told of every piece of work before it begins; what it raises ends the segmentation.

        Raises:
            InputError: an image that cannot be read, no texts, a blank one, or one that is too long for CLIP.
        """
        report = callback or _ignore
        queries = self._inputs.read_queries(texts)
        report(Progress("encode", 0, len(queries)))
        images = self._inputs.encode_missing([image], _ignore_call)
        if isinstance(texts, EncodedTexts):
            words = replace(texts, seconds=0.0)  # spent before
        else:
            words = self._inputs.encode_queries(queries, report)
        (frame,) = self._segment_encoded(images, words, trace=trace, report=report)
        return frame.found

    def _segment_encoded(
        self, images: Sequence[EncodedImage], texts: EncodedTexts, *, trace: bool, report: Callback
    ) -> Iterator[FinishedFrame]:
        """Run a few images through the recurrence side by side, and refine what is left, one when it is asked for."""
        share = replace(texts, seconds=texts.seconds / len(images))
        states = [self._start(image, share) for image in images]
        self._recur(states, report)
        self._finisher.judge_parts(states, report)
        return (self._finish(state, report, trace=trace) for state in states)

    def _finish(
        self, state: State, report: Callback, *, trace: bool, refined: RefinedFrame | None = None
    ) -> FinishedFrame:
        found = self._finisher.finish(state, report, trace=trace, refined=refined)
        return FinishedFrame(state.image.replacer_encoding, found, len(state.steps))

    def _recur(self, states: Sequence[State], report: Callback, window: Window | None = None) -> None:
        """Run algorithm 1 on several images x side by side: from h_0, all texts, until no h_t changes any more.

        In a window of a clip, y_t is smoothed over its frames, and s_t pooled over them.
        """
        step = 0
        while running := [state for state in states if not state.converged]:
            step += 1
            for state in running:
                report(Progress("propose", step, len(state.active)))
                state.proposal = self._propose(state, step)  # y_t = f(x, h_t-1)
            if window:
                window.smooth_proposals(running)
            scores_of_all = self._classify(running, step, report)  # s_t = g(x, y_t, h_t-1)
            decided = window.decide(running, scores_of_all) if window else [(scores, None) for scores in scores_of_all]
            for state, (scores, passed) in zip(running, decided, strict=True):
                state.update(scores, self.config, passed)  # h_t: s_t >= theta; converged if all are

    @own_precision()
    def _propose(self, state: State, step: int) -> Proposal:
        """Propose one mask per active text of one image; steps may word their texts differently, hence the number."""
        with state.stopwatch.measure("propose"):
            return self.stages.proposer.propose(state.proposer_state, state.active, step)

    @own_precision()
    def _classify(self, states: Sequence[State], step: int, report: Callback) -> list[Scores]:
        """Score the masks of all images in one go, and book each image its share of the time."""
        masks = sum(len(state.active) for state in states)

        def tick(done: int, total: int) -> None:
            report(Progress("classify", step, masks, done, total))

        tick(0, masks)
        stopwatch = Stopwatch()
        with stopwatch.measure("classify", shared_by=len(states)):
            scores = self.stages.classifier.classify([state.to_classify() for state in states], tick)
        for state in states:
            state.stopwatch.seconds["classify"] += stopwatch.seconds["classify"]
        weight = self.config.classify.certainty_weight
        return [weigh(own, state.proposal.certainty, weight) for own, state in zip(scores, states, strict=True)]

    @own_precision()
    def _start(self, image: EncodedImage, texts: EncodedTexts) -> State:
        """Begin with all texts, h_0."""
        stopwatch = Stopwatch({"encode_image": image.seconds, "encode_text": texts.seconds})
        with stopwatch.measure("propose"):
            proposer_state = self.stages.proposer.init_state(image.proposer_encoding, texts.proposer_encoding)
        return State(image, texts, proposer_state, np.arange(len(texts.queries)), stopwatch)

    def segment_many(
        self,
        images: Iterable[ImageSource | EncodedImage],
        texts: Sequence[str],
        *,
        trace: bool = False,
        images_at_once: int = _IMAGES_AT_ONCE,
        callback: Callback | None = None,
    ) -> Iterator[Segmentation]:
        """Find the texts in each image, in order; images are read as they are needed.

        `images_at_once` of them are encoded together and go through the recurrence side by side, so that the passes of
        the encoders are full; those of one size share the passes of the image towers.
        The result of an image does not depend on its neighbors, up to the rounding of batched products. Arguments and
        errors are those of `segment`; texts are checked at once, images when it is their turn.
        """
        frames = self._segment_batches(
            iter(images),
            self._inputs.read_queries(texts),
            max(1, images_at_once),
            trace=trace,
            report=callback or _ignore,
        )
        return (frame.found for frame in frames)

    def segment_video(
        self,
        source: VideoSource,
        texts: Sequence[str],
        *,
        trace: bool = False,
        callback: Callback | None = None,
    ) -> Iterator[Segmentation]:
        """Find the texts in each frame of a clip, in order, one result per frame; frames are read as they are needed.

        The source is a video file, a folder of frames, or an iterable of frames as `segment` takes images. Frames that
        cannot be read are left out; `io.video.open_video` says which. The other arguments are those of `segment`.

        Results come as soon as no later frame has a say in them: at the end of a window, and where a SAM 2 follows the
        masks at the end of a stretch of `sam_track_frames`.

        Raises:
            InputError: as `segment`, or a source that is no clip; both at once, before the first frame.
            DependencyError: a video whose codec needs the extra `video`.
        """
        queries = self._inputs.read_queries(texts)
        images, report = (frame.pixels for frame in open_video(source).frames), callback or _ignore
        if self.config.video.window_frames == 1:
            frames = self._segment_batches(images, queries, _IMAGES_AT_ONCE, trace=trace, report=report)
        else:
            frames = self._segment_windows(images, queries, trace=trace, report=report)
        if self.stages.tracker is None:
            return (frame.found for frame in frames)
        return follow_masks(frames, self.stages.tracker, self.config, report)

    def _segment_batches(
        self,
        images: Iterator[ImageSource | EncodedImage],
        queries: tuple[str, ...],
        images_at_once: int,
        *,
        trace: bool,
        report: Callback,
    ) -> Iterator[FinishedFrame]:
        """Encode the texts when the first image is asked for, and the images a few at a time."""
        tick = partial(report, Progress("encode", 0, len(queries)))
        tick()
        texts = self._inputs.encode_queries(queries, report)
        while batch := list(islice(images, images_at_once)):  # what is made of it has no name here, to be free by then
            yield from self._segment_encoded(
                self._inputs.encode_missing(batch, tick), texts, trace=trace, report=report
            )
            texts = replace(texts, seconds=0.0)  # spent on the first images

    def _segment_windows(
        self, frames: Iterator[ImageSource | EncodedImage], queries: tuple[str, ...], *, trace: bool, report: Callback
    ) -> Iterator[FinishedFrame]:
        """Run one window of a clip after the other through the recurrence; only one is in memory."""
        tick = partial(report, Progress("encode", 0, len(queries)))
        tick()
        texts = self._inputs.encode_queries(queries, report)

        def encode() -> Iterator[EncodedImage]:
            while some := list(islice(frames, _IMAGES_AT_ONCE)):
                yield from self._inputs.encode_missing(some, tick)

        memory: Memory | None = None
        for encoded, done, continues in cut_windows(encode(), self.config.video):
            memory = yield from self._segment_window(
                encoded, done, texts, memory if continues else None, trace=trace, report=report
            )
            del encoded  # before the next frames are read
            texts = replace(texts, seconds=0.0)  # spent on the first frames

    def _segment_window(
        self,
        encoded: Sequence[EncodedImage],
        done: int,
        texts: EncodedTexts,
        before: Memory | None,
        *,
        trace: bool,
        report: Callback,
    ) -> Generator[FinishedFrame, None, Memory | None]:
        """Let the frames of a window look at each other; yield the first `done` of them, return what they leave."""
        share = replace(texts, seconds=texts.seconds / done)
        states = [self._start(image, share) for image in encoded]
        window = Window(states, self.config, before)
        self._recur(states, report, window)
        window.add_detail(states)
        refined = self._finisher.refine_window(states, report)
        for state, of_frame in zip(states[:done], refined, strict=False):
            yield self._finish(state, report, trace=trace, refined=of_frame)
        return window.remember(done)

    def encode(self, image: ImageSource | EncodedImage) -> EncodedImage:
        """Do all that depends on the image alone; this segmenter takes the outcome wherever it takes an image.

        Of an image that another segmenter encoded, SAM need not look again where both refine by it in the same way.

        Raises:
            InputError: an image that cannot be read, or with more patches than fit into memory.
        """
        (encoded,) = self._inputs.encode_images([image], _ignore_call)
        return encoded

    def encode_each(self, images: Sequence[ImageSource | EncodedImage]) -> list[EncodedImage | InputError]:
        """Do with each of a few images what `encode` does with one; those of one size share the encoders' passes.

        What is made of an image does not depend on its neighbors, up to the rounding of batched products. In the place
        of one that cannot be encoded stands what `encode` raises.
        """
        try:
            return [*self._inputs.encode_images(images, _ignore_call)]
        except InputError as error:
            if len(images) == 1:
                return [error]
        return [outcome for image in images for outcome in self.encode_each([image])]

    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        """Do all that depends on the texts alone; `segment` of this segmenter takes the outcome in their place.

        Raises:
            InputError: as `segment`.
        """
        return self._inputs.encode_queries(self._inputs.read_queries(texts), _ignore)

    def check_texts(self, texts: Sequence[str]) -> None:
        """Check before the first image what would otherwise fail on every one of them.

        Raises:
            InputError: a text, or a background or contrast text of the settings, is too long as the settings word it.
        """
        config = self.config
        self.stages.proposer.check_texts((*texts, *config.propose.background_texts))
        self.stages.classifier.check_texts((*texts, *config.classify.contrast_texts))

    def replace(self, **settings: object) -> "Segmenter":
        """Make a segmenter with other settings on the same loaded models.

        Raises:
            InputError: an unknown setting, a value out of range, or other models: load those anew.
        """
        if self.models is None:
            raise InputError("This segmenter was made from given stages and cannot be rebuilt with other settings.")
        config = with_settings(self.config, settings)
        return Segmenter(self.models.build_stages(config), config, self.models)

    def describe(self) -> Mapping[str, str]:
        """Name the models, what identifies their weights, the device and the precision."""
        return {} if self.models is None else self.models.describe(self.config)


def _ignore(_: Progress) -> None:
    """Report to nobody."""


def _ignore_call() -> None:
    """Tell nobody."""
