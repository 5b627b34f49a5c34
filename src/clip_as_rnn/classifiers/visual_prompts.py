"""Stage 2 as in the paper: the classifier CLIP sees the image with each mask marked on it.

Every marked image is encoded once, whatever the number of texts and templates, and kept between the steps of the
recurrence; identical ones are encoded only once per image.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.classifiers.base import MasksToClassify
from clip_as_rnn.classifiers.drawing import PromptedImage, prepare_prompts
from clip_as_rnn.classifiers.template_ensemble import ClassifierTexts, TemplateEnsemble
from clip_as_rnn.config import ClassifyConfig
from clip_as_rnn.encoders.base import Tick, VisionLanguageEncoder, ignore_tick
from clip_as_rnn.encoders.preprocess import normalize, square_image
from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import upsample_maps
from clip_as_rnn.types import ResizedImage, RgbImages, Scores

_IMAGES_PER_PASS = {"cpu": 8, "cuda": 128}
_DRAWING_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierImage:
    """An image as stage 2 knows it.

    Attributes:
        prompted: the image, ready to be marked.
        features: (d,) of the marked images encoded so far, by the digest of their masks.
    """

    prompted: PromptedImage
    features: dict[bytes, Float[Tensor, " d"]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Unseen:
    """One mask that was not shown to the encoder before."""

    image: ClassifierImage
    digest: bytes
    mask: Bool[ndarray, "h w"] | None


class VisualPromptClassifier:
    """Stage 2 by visual prompts. Keeps nothing between images.

    Raises:
        InputError: the settings leave out more blocks than the encoder has.
    """

    def __init__(
        self,
        encoder: VisionLanguageEncoder,
        ensemble: TemplateEnsemble,
        config: ClassifyConfig,
        *,
        half_positions: bool = False,
    ) -> None:
        if config.classifier_skipped_blocks > encoder.blocks:
            raise InputError(
                f"Expected setting `classifier_skipped_blocks` to be at most {encoder.blocks}, as many as the "
                f"classifier has, but got {config.classifier_skipped_blocks}."
            )
        self._encoder = encoder
        self._ensemble = ensemble
        self._config = config
        self._half_positions = half_positions

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text in one of the templates is too long for the encoder."""
        self._ensemble.check_texts(texts)

    def encode_images(self, images: RgbImages) -> list[ClassifierImage]:
        """Paint what lies outside of any mask, once for all masks of an image."""
        return [ClassifierImage(prepare_prompts(image, self._config.visual_prompts)) for image in images]

    def encode_texts(self, texts: Sequence[str], tick: Tick = ignore_tick) -> ClassifierTexts:
        """Encode the queries and the contrast texts in every template."""
        return self._ensemble.encode_texts(texts, tick)

    def classify(self, masks: Sequence[MasksToClassify], tick: Tick = ignore_tick) -> list[Scores]:
        """Score every mask against all texts of its image; in [0, 1], one array per image.

        A score is the share of the text itself in a softmax over the image's active texts and the contrast texts.
        """
        digests = self._encode_marked(masks, tick)
        scores = []
        for of_image, rows in zip(masks, digests, strict=True):
            features = torch.stack([of_image.image.features[digest] for digest in rows])
            scores.append(self._ensemble.score(features, of_image.texts, of_image.active))
        return scores

    def _encode_marked(self, masks: Sequence[MasksToClassify], tick: Tick) -> list[list[bytes]]:
        """Encode what was not encoded before, in batches across images; return the digest of every mask."""
        digests: list[list[bytes]] = [[] for _ in masks]
        total = sum(len(of_image.masks) for of_image in masks)
        size = _IMAGES_PER_PASS.get(self._encoder.device.type, 8)
        draw = partial(
            _draw, side_px=self._encoder.preprocessor.image_size, whole=self._config.classifier_view == "whole"
        )
        with ThreadPoolExecutor(_DRAWING_THREADS) as threads:
            for batch in _in_batches(self._find_unseen(masks, digests), size):
                tick(sum(map(len, digests)) - len(batch), total)
                pixels = normalize(list(threads.map(draw, batch)), self._encoder.preprocessor)
                features = self._encoder.encode_image(
                    pixels,
                    skipped_blocks=self._config.classifier_skipped_blocks,
                    half_positions=self._half_positions,
                )
                for unseen, feature in zip(batch, features, strict=True):
                    unseen.image.features[unseen.digest] = feature
        return digests

    def _find_unseen(self, masks: Sequence[MasksToClassify], digests: list[list[bytes]]) -> Iterator[_Unseen]:
        """Binarize one mask after the other, so that only a batch of them is alive; skip what is known."""
        for of_image, rows in zip(masks, digests, strict=True):
            image: ClassifierImage = of_image.image
            queued = set(image.features)
            for patch_map in of_image.masks:
                mask = binarize_proposal(patch_map, image.prompted.inside.shape[:2], self._config.mask_threshold)
                digest = b"" if mask is None else blake2b(np.packbits(mask).tobytes(), digest_size=16).digest()
                rows.append(digest)
                if digest not in queued:
                    queued.add(digest)
                    yield _Unseen(image, digest, mask)


def binarize_proposal(
    patch_map: Float[Tensor, "gh gw"], size_hw: tuple[int, int], threshold: float
) -> Bool[ndarray, "h w"] | None:
    """Binarize one proposal at pixel size; None where there is hardly one, its sum being at most one pixel.

    Without a proposal the image is shown as it is; one that nowhere exceeds the threshold puts all of it outside.
    """
    upsampled = upsample_maps(patch_map[None], size_hw)[0]
    return None if float(upsampled.sum()) <= 1 else (upsampled > threshold).numpy()


def _draw(unseen: _Unseen, *, side_px: int, whole: bool) -> ResizedImage:
    prompted = unseen.image.prompted
    shown = prompted.inside if unseen.mask is None else prompted.show(unseen.mask)
    return square_image(shown, side_px, "whole" if whole else "crop")


def _in_batches(items: Iterable[_Unseen], size: int) -> Iterator[list[_Unseen]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
