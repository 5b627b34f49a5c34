"""Stage 2 by mask tokens (ours): one pass over the plain image serves all masks, in every step of the recurrence.

Each mask has a copy of CLIP's class token that sees the patches inside the mask only; its output is the mask's feature.
An image's keys and values are made once, a set of patches is encoded once, and a later step costs its new sets alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from clip_as_rnn.classifiers.base import MasksToClassify
from clip_as_rnn.classifiers.template_ensemble import ClassifierTexts, TemplateEnsemble
from clip_as_rnn.config import ClassifyConfig
from clip_as_rnn.encoders.base import MaskTokenEncoder, PatchKeys, Tick, ignore_tick
from clip_as_rnn.encoders.passes import SharedPasses
from clip_as_rnn.encoders.preprocess import normalize, square_image, view_box
from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import upsample_maps
from clip_as_rnn.types import PatchMaps, Pixels, RgbImages, Scores

_MASKS_AT_ONCE = 32  # that are brought to the patch grid; each takes a float map of the image's size
_ROUNDING = 1e-6  # of the weighted sum of a patch's pixels


@dataclass(frozen=True, slots=True, eq=False)
class MaskTokenImage:
    """An image as this stage 2 knows it.

    Attributes:
        size_hw: of the image, in pixels.
        keys: what mask tokens attend to.
        features: (d,) of the sets of patches encoded so far, by their packed bits.
    """

    size_hw: tuple[int, int]
    keys: PatchKeys
    features: dict[bytes, Float[Tensor, " d"]] = field(default_factory=dict)


class MaskTokenClassifier:
    """Stage 2 by mask tokens. Keeps nothing of any image.

    Raises:
        InputError: the settings name a block that the encoder does not have, or that they leave out.
    """

    def __init__(
        self,
        encoder: MaskTokenEncoder,
        ensemble: TemplateEnsemble,
        config: ClassifyConfig,
        *,
        half_positions: bool = False,
    ) -> None:
        last = encoder.blocks - config.classifier_skipped_blocks - 1
        if config.mask_token_block > last:
            raise InputError(
                f"Expected setting `mask_token_block` to be at most {last}, the last block that the classifier runs, "
                f"but got {config.mask_token_block}."
            )
        self._encoder = encoder
        self._passes = SharedPasses(encoder.patch_px, encoder.device, self._encode_squares)
        self._ensemble = ensemble
        self._config = config
        self._half_positions = half_positions
        eta = config.mask_threshold
        self._thresholds = (eta / 2, eta, min(2 * eta, 1.0)) if config.mask_token_average else (eta,)

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text in one of the templates is too long for the encoder."""
        self._ensemble.check_texts(texts)

    def encode_texts(self, texts: Sequence[str], tick: Tick = ignore_tick) -> ClassifierTexts:
        """Encode the queries and the contrast texts in every template."""
        return self._ensemble.encode_texts(texts, tick)

    def encode_images(self, images: RgbImages) -> list[MaskTokenImage]:
        """Pass the plain images through the encoder, the only pass they will need."""
        encoder, view = self._encoder, self._config.classifier_view
        side_px = encoder.preprocessor.image_size
        pixels = [normalize([square_image(image, side_px, view)], encoder.preprocessor) for image in images]
        keys = self._passes.encode(pixels)
        return [MaskTokenImage((image.shape[0], image.shape[1]), own) for image, own in zip(images, keys, strict=True)]

    def _encode_squares(self, pixels: Pixels) -> list[PatchKeys]:
        """Encode square images in one pass."""
        return self._encoder.encode_keys(
            pixels,
            first_block=self._config.mask_token_block,
            skipped_blocks=self._config.classifier_skipped_blocks,
            half_positions=self._half_positions,
        )

    def classify(self, masks: Sequence[MasksToClassify], tick: Tick = ignore_tick) -> list[Scores]:
        """Score every mask against all texts of its image; in [0, 1], one array per image.

        A score is the share of the text itself in a softmax over the image's active texts and the contrast texts.
        """
        digests = self._encode_unseen(masks, tick)
        scores = []
        for of_image, rows in zip(masks, digests, strict=True):
            features = torch.stack([of_image.image.features[digest] for digest in rows])
            by_threshold = features.view(len(self._thresholds), -1, features.shape[1])
            means = functional.normalize(by_threshold.mean(0), dim=1)
            scores.append(self._ensemble.score(means, of_image.texts, of_image.active))
        return scores

    def _encode_unseen(self, masks: Sequence[MasksToClassify], tick: Tick) -> list[list[bytes]]:
        """Encode the sets of patches that are new to their image, all images together.

        Returns:
            For every image the sets' bits: of all its masks at the first threshold, then at the next.
        """
        digests: list[list[bytes]] = []
        unseen: list[dict[bytes, Tensor]] = []
        total = sum(len(of_image.masks) for of_image in masks)
        for of_image in masks:
            tick(sum(map(len, digests)) // len(self._thresholds), total)
            image: MaskTokenImage = of_image.image
            inside = self._find_patches(of_image.masks, image)
            digests.append([row.tobytes() for row in np.packbits(inside.flatten(1).numpy(), axis=1)])
            unseen.append(
                {bits: one for bits, one in zip(digests[-1], inside, strict=True) if bits not in image.features}
            )
        images = [(of_image.image, new) for of_image, new in zip(masks, unseen, strict=True) if new]
        features = self._encoder.encode_masks(
            [image.keys for image, _ in images], [torch.stack(list(new.values())) for _, new in images]
        )
        for (image, new), rows in zip(images, features, strict=True):
            image.features.update(zip(new, rows, strict=True))
        return digests

    def _find_patches(self, maps: PatchMaps, image: MaskTokenImage) -> Bool[Tensor, "tn rows columns"]:
        """Find the classifier's patches inside each proposal, binarized at pixel size as a visual prompt would be.

        Row t n + i belongs to proposal i of n at threshold t.
        """
        box = view_box(image.size_hw, self._encoder.preprocessor.image_size, self._config.classifier_view)
        (top, left, bottom, right), (gh, gw) = box, image.keys.grid_hw
        rows = patch_weights(top, bottom, gh, image.size_hw[0])
        columns = patch_weights(left, right, gw, image.size_hw[1])
        found: list[list[Tensor]] = [[] for _ in self._thresholds]
        for some in torch.split(maps.cpu(), _MASKS_AT_ONCE):
            grown = upsample_maps(some, image.size_hw)
            strengths = rows @ grown @ columns.T
            for at_threshold, threshold in zip(found, self._thresholds, strict=True):
                shares = rows @ (grown > threshold).float() @ columns.T
                at_threshold.append(choose_patches(shares, strengths, self._config.mask_token_share))
        return torch.cat([inside for at_threshold in found for inside in at_threshold])


def choose_patches(
    shares: Float[Tensor, "n gh gw"], strengths: Float[Tensor, "n gh gw"], least_share: float
) -> Bool[Tensor, "n gh gw"]:
    """Take the patches of which a mask covers more than `least_share`; if there is none, the one it covers most.

    Among those covered equally, or not at all, the strongest proposal decides, and then the first. A mask whose
    proposal is zero everywhere points nowhere, and is the whole image.
    """
    inside = shares > least_share + _ROUNDING
    most_covered = shares == shares.amax((1, 2), keepdim=True)
    best = strengths.masked_fill(~most_covered, -1).flatten(1).argmax(1)
    only_best = functional.one_hot(best, shares.shape[1] * shares.shape[2]).bool().view(shares.shape)
    nowhere = strengths.amax((1, 2), keepdim=True) <= 0
    none_inside = ~inside.any(2, keepdim=True).any(1, keepdim=True)
    return torch.where(none_inside, only_best | nowhere, inside)


def patch_weights(start: float, end: float, patches: int, length: int) -> Float[Tensor, "patches length"]:
    """Weigh the pixels of one axis by the share of each patch that they make up; a row sums to 1 inside the image.

    The patches divide [start, end) evenly; positions are in pixels of the axis, whose length is `length`.
    """
    edges = torch.linspace(start, end, patches + 1, dtype=torch.float64)
    pixels = torch.arange(length, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * (patches / (end - start))).float()
