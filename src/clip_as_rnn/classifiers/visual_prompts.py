"""Stage 2: does each mask really show its text? A frozen CLIP judges the image with the mask marked on it.

Every marked image is encoded once, whatever the number of texts and templates; identical ones only once per image.
Knows nothing of how the masks came about.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.classifiers.marks import MarkedImage, prepare_marks
from clip_as_rnn.config import VisualPrompt
from clip_as_rnn.encoders.clip import Clip
from clip_as_rnn.encoders.preprocess import View, normalize, square_image
from clip_as_rnn.ops import grow_maps
from clip_as_rnn.prompts.queries import normalize_text
from clip_as_rnn.prompts.templates import fill
from clip_as_rnn.types import Features, PatchMaps, RgbImage, Scores

_IMAGES_PER_PASS = {"cpu": 8, "cuda": 128}


@dataclass(frozen=True, slots=True, eq=False)
class JudgingMemory:
    """What stage 2 knows of one image: shared by every step, gone with the image.

    Attributes:
        marked: the image, ready to be marked.
        contrast: the contrast texts that nobody asked for; the same in every step, whatever drops.
        features: of the marked images encoded so far, by the digest of their masks; (d,) each.
    """

    marked: MarkedImage
    contrast: tuple[str, ...]
    features: dict[bytes, Float[Tensor, " d"]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """The proposals of one image put before the classifier; row i of `maps` belongs to `texts[i]`."""

    memory: JudgingMemory
    maps: PatchMaps
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgingRules:
    """The settings of stage 2, by their names in `SegmenterConfig`."""

    mask_threshold: float
    visual_prompts: tuple[VisualPrompt, ...]
    templates: tuple[str, ...]
    template_ensemble: Literal["feature", "probability"]
    contrast_texts: tuple[str, ...]
    classifier_skipped_blocks: int
    classifier_view: View
    half_position_embeddings: bool


def ensemble_features(
    images: Float[Tensor, "m d"], texts: Float[Tensor, "t n d"], scale: float
) -> Float[Tensor, "m n"]:
    """Softmax over texts of the cosine to each text's mean feature over its templates."""
    means = torch.nn.functional.normalize(texts.mean(0), dim=1)
    return torch.softmax(scale * images @ means.T, dim=1)


def ensemble_probabilities(
    images: Float[Tensor, "m d"], texts: Float[Tensor, "t n d"], scale: float
) -> Float[Tensor, "m n"]:
    """Softmax over texts of the sum over templates of each template's softmax, as the authors' release scores."""
    chances = torch.softmax(scale * images @ texts.transpose(1, 2), dim=2)  # t m n
    return torch.softmax(chances.sum(0), dim=1)


class Classifier:
    """Stage 2 of one segmenter: the judging CLIP, its texts and the rules. Keeps nothing between images.

    Raises:
        InputError: the rules leave out more blocks than the CLIP has.
    """

    def __init__(self, clip: Clip, encode_texts: Callable[[Sequence[str]], Features], rules: JudgingRules) -> None:
        clip.check_skipped(rules.classifier_skipped_blocks)
        self._clip = clip
        self._encode_texts = encode_texts
        self._rules = rules

    def look(self, image: RgbImage, queries: Sequence[str]) -> JudgingMemory:
        """Prepare one image for judging, before the first step."""
        asked = {normalize_text(text) for text in queries}
        contrast = tuple(text for text in self._rules.contrast_texts if normalize_text(text) not in asked)
        return JudgingMemory(prepare_marks(image, self._rules.visual_prompts), contrast)

    def __call__(self, exhibits: Sequence[Exhibit]) -> list[Scores]:
        """Score every proposal against all texts of its image; in [0, 1], one row of scores per exhibit.

        A score is the share of the text itself in a softmax over the image's texts and the contrast texts.
        """
        digests = self._encode_marked(exhibits)
        scores = []
        for exhibit, rows in zip(exhibits, digests, strict=True):
            images = torch.stack([exhibit.memory.features[digest] for digest in rows])
            scores.append(self._judge(images, (*exhibit.texts, *exhibit.memory.contrast)))
        return scores

    def _judge(self, images: Features, candidates: Sequence[str]) -> Scores:
        """Softmax each image over all candidates, of which the first are its own; keep the diagonal."""
        rules = self._rules
        features = torch.stack(
            [self._encode_texts(fill(template, candidates)) for template in rules.templates]
        )  # t n d
        ensemble = ensemble_features if rules.template_ensemble == "feature" else ensemble_probabilities
        chances = ensemble(images, features, self._clip.logit_scale)
        return chances.diagonal().cpu().numpy().astype(np.float32)

    def _encode_marked(self, exhibits: Sequence[Exhibit]) -> list[list[bytes]]:
        """Encode what was not encoded before, in batches across images; return the digest of every proposal."""
        digests: list[list[bytes]] = [[] for _ in exhibits]
        unseen = self._unseen(exhibits, digests)
        size = _IMAGES_PER_PASS.get(self._clip.device.type, 8)
        for batch in _in_batches(unseen, size):
            pixels = normalize([image for _, _, image in batch], self._clip.preparation)
            features = self._clip.encode_images(
                pixels,
                skipped_blocks=self._rules.classifier_skipped_blocks,
                half_positions=self._rules.half_position_embeddings,
            )
            for (memory, digest, _), feature in zip(batch, features, strict=True):
                memory.features[digest] = feature
        return digests

    def _unseen(
        self, exhibits: Sequence[Exhibit], digests: list[list[bytes]]
    ) -> Iterator[tuple[JudgingMemory, bytes, RgbImage]]:
        """Mark one proposal after the other, so that only a batch of images is alive; skip what is known."""
        side_px, rules = self._clip.preparation.image_size, self._rules
        for exhibit, rows in zip(exhibits, digests, strict=True):
            memory, queued = exhibit.memory, set(exhibit.memory.features)
            for patch_map in exhibit.maps:
                mask = shown_mask(patch_map, memory.marked.inside.shape[:2], rules.mask_threshold)
                digest = b"" if mask is None else blake2b(np.packbits(mask).tobytes(), digest_size=16).digest()
                rows.append(digest)
                if digest not in queued:
                    queued.add(digest)
                    shown = memory.marked.inside if mask is None else memory.marked.show(mask)
                    yield memory, digest, square_image(shown, side_px, rules.classifier_view)


def shown_mask(
    patch_map: Float[Tensor, "gh gw"], size_hw: tuple[int, int], threshold: float
) -> Bool[ndarray, "h w"] | None:
    """Binarise one proposal at pixel size; None where there is hardly one, its sum being at most one pixel.

    Without a proposal the image is shown as it is; one that nowhere exceeds the threshold puts all of it outside.
    """
    grown = grow_maps(patch_map[None], size_hw)[0]
    return None if float(grown.sum()) <= 1 else (grown > threshold).numpy()


def _in_batches(
    items: Iterable[tuple[JudgingMemory, bytes, RgbImage]], size: int
) -> Iterator[list[tuple[JudgingMemory, bytes, RgbImage]]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
