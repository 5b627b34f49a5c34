"""CLIP as RNN (Sun et al., CVPR 2024, algorithm 1): propose a mask per text, classify each, drop what fails, repeat.

The stages are passed in; this module knows no model. Image work, text work and the recurrence are apart, so that
several questions about one image cost one image pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.encoders.preprocess import limit_size
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.images import ImageSource, read_image
from clip_as_rnn.io.video import VideoSource, open_video
from clip_as_rnn.ops import drop_empty, resize_nearest
from clip_as_rnn.precision import own_precision
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.refine.clip_crf import ClipMasks, RefinedFrame
from clip_as_rnn.result import Proposal, Refinement, Rejection, Segmentation, Trace
from clip_as_rnn.stages import Callback, Models, Progress, Stages
from clip_as_rnn.state import EncodedImage, EncodedTexts, State, reject, weigh
from clip_as_rnn.temporal.window import Memory, Window, cut_windows
from clip_as_rnn.timing import Stopwatch
from clip_as_rnn.types import LabelMap, Masks, ResizedImage, RgbImage, Scores

_IMAGES_AT_ONCE = 4


class Segmenter:
    """Finds texts in images. Holds what was loaded and the settings; no call leaves a trace in it."""

    def __init__(self, stages: Stages, config: SegmenterConfig, models: Models | None = None) -> None:
        self.stages = stages
        self.config = config
        self.models = models

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
        queries = texts.queries if isinstance(texts, EncodedTexts) else self._check_queries(texts)
        report(Progress("encode", 0, len(queries)))
        encoded = self._encode_unless([image], _ignore_call)
        spent_before = replace(texts, seconds=0.0) if isinstance(texts, EncodedTexts) else None
        encoded_texts = spent_before or self._encode_queries(queries, report)
        (segmentation,) = self._segment_encoded(encoded, encoded_texts, trace=trace, report=report)
        return segmentation

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
        return self._segment_batches(
            iter(images), self._check_queries(texts), max(1, images_at_once), trace=trace, report=callback or _ignore
        )

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

        Raises:
            InputError: as `segment`, or a source that is no clip; both at once, before the first frame.
            DependencyError: a video whose codec needs the extra `video`.
        """
        queries = self._check_queries(texts)
        frames, report = (frame.pixels for frame in open_video(source).frames), callback or _ignore
        if self.config.video.window_frames == 1:
            return self._segment_batches(frames, queries, _IMAGES_AT_ONCE, trace=trace, report=report)
        return self._segment_windows(frames, queries, trace=trace, report=report)

    def _segment_windows(
        self, frames: Iterator[ImageSource | EncodedImage], queries: tuple[str, ...], *, trace: bool, report: Callback
    ) -> Iterator[Segmentation]:
        """Run the frames of one window after the other through the recurrence, in which they look at each other."""
        report(Progress("encode", 0, len(queries)))
        texts = self._encode_queries(queries, report)

        def encode() -> Iterator[EncodedImage]:
            while some := list(islice(frames, _IMAGES_AT_ONCE)):
                yield from self._encode_unless(some, lambda: report(Progress("encode", 0, len(queries))))

        memory: Memory | None = None
        for encoded, done, continues in cut_windows(encode(), self.config.video):
            share = replace(texts, seconds=texts.seconds / done)
            states = [self._start(image, share) for image in encoded]
            window = Window(states, self.config, memory if continues else None)
            self._recur(states, report, window)
            refined = self._refine_window(states, report)
            for state, of_frame in zip(states[:done], refined, strict=False):
                yield self._finish(state, report, trace=trace, refined=of_frame)
            memory = window.remember(done)
            texts = replace(texts, seconds=0.0)  # spent on the first frames

    def _segment_batches(
        self,
        images: Iterator[ImageSource | EncodedImage],
        queries: tuple[str, ...],
        images_at_once: int,
        *,
        trace: bool,
        report: Callback,
    ) -> Iterator[Segmentation]:
        """Encode the texts when the first image is asked for, and the images a few at a time."""
        report(Progress("encode", 0, len(queries)))
        texts = self._encode_queries(queries, report)
        while batch := list(islice(images, images_at_once)):
            encoded = self._encode_unless(batch, lambda: report(Progress("encode", 0, len(queries))))
            yield from self._segment_encoded(encoded, texts, trace=trace, report=report)
            texts = replace(texts, seconds=0.0)  # spent on the first images

    def _segment_encoded(
        self, images: Sequence[EncodedImage], texts: EncodedTexts, *, trace: bool, report: Callback
    ) -> Iterator[Segmentation]:
        """Run a few images through the recurrence side by side, and refine what is left, one when it is asked for."""
        share = replace(texts, seconds=texts.seconds / len(images))
        states = [self._start(image, share) for image in images]
        self._recur(states, report)
        return (self._finish(state, report, trace=trace) for state in states)

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

    def _refine_window(self, states: Sequence[State], report: Callback) -> list[RefinedFrame | None]:
        """Refine the last proposals of all frames of a window jointly, if the settings ask for it."""
        if not self.config.video.clip_crf:
            return [None] * len(states)
        report(
            Progress("refine", max(len(state.steps) for state in states), sum(len(state.active) for state in states))
        )
        stopwatch = Stopwatch()
        with stopwatch.measure("refine", shared_by=len(states)):
            images = np.stack([self._image_to_refine(state) for state in states])
            masks = ClipMasks([state.final_maps(self.config) for state in states], [state.active for state in states])
            refined = self.stages.refiner.refine_clip(images, masks)
        for state in states:
            state.stopwatch.seconds["refine"] += stopwatch.seconds["refine"]
        return list(refined)

    def _image_to_refine(self, state: State) -> ResizedImage:
        return limit_size(state.image.pixels, self.config.refine.crf_max_side_px or self.config.max_side_px)

    def _refine(
        self, state: State, report: Callback, *, trace: bool, refined: RefinedFrame | None
    ) -> tuple[LabelMap | Masks, Mapping[str, Refinement]]:
        """Refine the last proposals of the texts that passed, by SAM too if there is one."""
        report(Progress("refine", len(state.steps), len(state.active)))
        with state.stopwatch.measure("refine"):
            image, maps = self._image_to_refine(state), state.final_maps(self.config)
            if self.stages.replacer is None:
                return refined.masks if refined else self.stages.refiner.refine(image, maps), {}
            refined = refined or RefinedFrame(*self.stages.refiner.refine_softly(image, maps))
        report(Progress("sam", len(state.steps), len(state.active)))
        with state.stopwatch.measure("sam"):
            replaced, decisions = self.stages.replacer.refine(
                state.image.replacer_encoding,
                refined.masks,
                state.final_scores(),
                probabilities=refined.probabilities,
                trace=trace,
            )
        return replaced, {state.texts.queries[state.active[i]]: decisions[i] for i in sorted(decisions)}

    @own_precision()
    def _finish(
        self, state: State, report: Callback, *, trace: bool, refined: RefinedFrame | None = None
    ) -> Segmentation:
        """Refine the masks of the texts that passed, unless that is done, and say of the others where they fell."""
        queries, scores = state.texts.queries, state.final_scores()
        masks, refinements = self._refine(state, report, trace=trace, refined=refined)
        with state.stopwatch.measure("refine"):
            found, rejections = np.arange(len(state.active)), reject(state.steps, self.config)
            if self.config.refine.drop_empty_masks:
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
            "judged_by": self.config.classify.judged_by,
            "seconds": dict(state.stopwatch.seconds),
            "refinements": refinements,
        }
        if masks.dtype != bool:  # semantic mode: one label map
            return Segmentation.from_label_map(masks, **described)
        return Segmentation(masks=masks, **described)

    def encode(self, image: ImageSource | EncodedImage) -> EncodedImage:
        """Do all that depends on the image alone; this segmenter takes the outcome wherever it takes an image.

        Of an image that another segmenter encoded, SAM need not look again where both refine by it in the same way.

        Raises:
            InputError: an image that cannot be read, or with more patches than fit into memory.
        """
        (encoded,) = self._encode_images([image], _ignore_call)
        return encoded

    def encode_each(self, images: Sequence[ImageSource | EncodedImage]) -> list[EncodedImage | InputError]:
        """Do with each of a few images what `encode` does with one; those of one size share the encoders' passes.

        What is made of an image does not depend on its neighbors, up to the rounding of batched products. In the place
        of one that cannot be encoded stands what `encode` raises.
        """
        try:
            return [*self._encode_images(images, _ignore_call)]
        except InputError as error:
            if len(images) == 1:
                return [error]
        return [outcome for image in images for outcome in self.encode_each([image])]

    @own_precision()
    def _encode_images(
        self, images: Sequence[ImageSource | EncodedImage], tick: Callable[[], None]
    ) -> list[EncodedImage]:
        """Encode images together, where the stages can; `tick` is called before each piece of work."""
        pixels = [image.pixels if isinstance(image, EncodedImage) else read_image(image) for image in images]
        stopwatch, for_replacer = Stopwatch(), []
        with stopwatch.measure("encode_image", shared_by=max(1, len(images))):
            tick()
            resized = [limit_size(one, self.config.max_side_px) for one in pixels]
            for_proposer = self.stages.proposer.encode_images(resized)
            for_classifier = self.stages.classifier.encode_images(resized)
            for i, image in enumerate(images):
                if i:
                    tick()
                for_replacer.append(self._encode_for_replacer(image, pixels[i]))
        encodings = zip(pixels, resized, for_proposer, for_classifier, for_replacer, strict=True)
        return [EncodedImage(*own, self.stages, stopwatch.seconds["encode_image"]) for own in encodings]

    def _encode_for_replacer(self, image: ImageSource | EncodedImage, pixels: RgbImage) -> Any:
        """Take what an equal replacer made of the image before, else make it."""
        replacer = self.stages.replacer
        if isinstance(image, EncodedImage) and image.stages.replacer == replacer:
            return image.replacer_encoding
        return replacer.encode_image(pixels) if replacer else None

    def _check_queries(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Strip and merge texts, and refuse those that cannot be read."""
        queries = check_texts(texts)
        self.stages.proposer.check_texts(queries)
        self.stages.classifier.check_texts(queries)
        return queries

    @own_precision()
    def _encode_queries(self, queries: tuple[str, ...], report: Callback) -> EncodedTexts:
        def tick(done: int, total: int) -> None:
            report(Progress("encode", 0, len(queries), done, total))

        stopwatch = Stopwatch()
        with stopwatch.measure("encode_text"):
            proposer_encoding = self.stages.proposer.encode_texts(queries, tick)
            classifier_encoding = self.stages.classifier.encode_texts(queries, tick)
        return EncodedTexts(queries, proposer_encoding, classifier_encoding, stopwatch.seconds["encode_text"])

    def _encode_unless(
        self, images: Sequence[ImageSource | EncodedImage], tick: Callable[[], None]
    ) -> list[EncodedImage]:
        """Encode those of a few images that were not encoded yet, together."""
        if any(isinstance(image, EncodedImage) and image.stages is not self.stages for image in images):
            raise InputError("This image was encoded by another segmenter; encode it with this one.")
        missing = [image for image in images if not isinstance(image, EncodedImage)]
        made = iter(self._encode_images(missing, tick) if missing else ())
        return [
            replace(image, seconds=0.0) if isinstance(image, EncodedImage) else next(made)  # 0.0: spent before
            for image in images
        ]

    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        """Do all that depends on the texts alone; `segment` of this segmenter takes the outcome in their place.

        Raises:
            InputError: as `segment`.
        """
        return self._encode_queries(self._check_queries(texts), _ignore)

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
