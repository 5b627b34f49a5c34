"""What depends on the images alone and on the texts alone: done once, before the recurrence begins."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.encoders.preprocess import limit_size
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.images import ImageSource, read_image
from clip_as_rnn.precision import own_precision
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.stages import Callback, Progress, Stages
from clip_as_rnn.state import EncodedImage, EncodedTexts
from clip_as_rnn.timing import Stopwatch
from clip_as_rnn.types import RgbImage


class InputEncoder:
    """Encodes images and texts for the stages at hand."""

    def __init__(self, stages: Stages, config: SegmenterConfig) -> None:
        self._stages, self._config = stages, config

    def encode_missing(
        self, images: Sequence[ImageSource | EncodedImage], tick: Callable[[], None]
    ) -> list[EncodedImage]:
        """Encode those of a few images that were not encoded yet, together."""
        if any(isinstance(image, EncodedImage) and image.stages is not self._stages for image in images):
            raise InputError("This image was encoded by another segmenter; encode it with this one.")
        missing = [image for image in images if not isinstance(image, EncodedImage)]
        made = iter(self.encode_images(missing, tick) if missing else ())
        return [
            replace(image, seconds=0.0) if isinstance(image, EncodedImage) else next(made)  # 0.0: spent before
            for image in images
        ]

    @own_precision()
    def encode_images(
        self, images: Sequence[ImageSource | EncodedImage], tick: Callable[[], None]
    ) -> list[EncodedImage]:
        """Encode images together, where the stages can; `tick` is called before each piece of work."""
        pixels = [image.pixels if isinstance(image, EncodedImage) else read_image(image) for image in images]
        stopwatch, for_replacer = Stopwatch(), []
        with stopwatch.measure("encode_image", shared_by=max(1, len(images))):
            tick()
            resized = [limit_size(one, self._config.max_side_px) for one in pixels]
            for_proposer = self._stages.proposer.encode_images(resized)
            for_classifier = self._stages.classifier.encode_images(resized)
            for i, image in enumerate(images):
                if i:
                    tick()
                for_replacer.append(self._encode_for_replacer(image, pixels[i]))
        encodings = zip(pixels, resized, for_proposer, for_classifier, for_replacer, strict=True)
        return [EncodedImage(*own, self._stages, stopwatch.seconds["encode_image"]) for own in encodings]

    def _encode_for_replacer(self, image: ImageSource | EncodedImage, pixels: RgbImage) -> Any:
        """Take what an equal replacer made of the image before, else make it."""
        replacer = self._stages.replacer
        if isinstance(image, EncodedImage) and image.stages.replacer == replacer:
            return image.replacer_encoding
        return replacer.encode_image(pixels) if replacer else None

    def read_queries(self, texts: Sequence[str] | EncodedTexts) -> tuple[str, ...]:
        """Strip and merge texts, and refuse those that cannot be read."""
        if isinstance(texts, EncodedTexts):
            if texts.stages is not self._stages:
                raise InputError("These texts were encoded by another segmenter; encode them with this one.")
            return texts.queries
        queries = check_texts(texts)
        self._stages.proposer.check_texts(queries)
        self._stages.classifier.check_texts(queries)
        return queries

    @own_precision()
    def encode_queries(self, queries: tuple[str, ...], report: Callback) -> EncodedTexts:
        """Encode texts for both stages, and report every batch of them before it begins."""

        def tick(done: int, total: int) -> None:
            report(Progress("encode", 0, len(queries), done, total))

        stopwatch = Stopwatch()
        with stopwatch.measure("encode_text"):
            proposer_encoding = self._stages.proposer.encode_texts(queries, tick)
            classifier_encoding = self._stages.classifier.encode_texts(queries, tick)
        encodings = (proposer_encoding, classifier_encoding)
        return EncodedTexts(queries, *encodings, self._stages, stopwatch.seconds["encode_text"])
