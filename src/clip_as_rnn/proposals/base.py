"""Stage 1, y_t = f(x, h_(t-1)): what a mask proposer offers, and what ours have in common.

The work on an image, the work on texts and the work on both are apart: an image is encoded once whatever is asked of
it, texts once whatever the images, and a step of the recurrence only reads what `init_state` put together.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from clip_as_rnn.config import Mode, ProposeConfig
from clip_as_rnn.encoders.base import PatchEncoder, PatchFeatures, TextEncoder, Tick, ignore_tick
from clip_as_rnn.encoders.passes import SharedPasses
from clip_as_rnn.encoders.preprocess import patch_pixels
from clip_as_rnn.ops import min_max_scale
from clip_as_rnn.prompts.queries import normalize_text
from clip_as_rnn.prompts.templates import fill
from clip_as_rnn.proposals.affinity import Affinity, box_masks, normalize_affinity, spread
from clip_as_rnn.result import Proposal
from clip_as_rnn.types import Features, Pixels, RgbImages, TextIndices


@runtime_checkable
class MaskProposer(Protocol):
    """Proposes one soft mask per text. Holds what was loaded, and nothing of any image; states are its own."""

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text, as it will be worded, is too long."""

    def encode_images(self, images: RgbImages) -> list[Any]:
        """Do all that depends on each image alone; images of any sizes, none to many."""

    def encode_texts(self, texts: Sequence[str], tick: Tick = ignore_tick) -> Any:
        """Do all that depends on the texts alone; `tick` is called before each batch of them."""

    def init_state(self, image: Any, texts: Any) -> Any:
        """Prepare the steps of one recurrence, of these texts on this image."""

    def propose(self, state: Any, active: TextIndices, step: int) -> Proposal:
        """Propose one mask per active text, given that only these are left; steps count from 1."""


@dataclass(frozen=True, slots=True, eq=False)
class ProposalImage:
    """An image as stage 1 knows it.

    Attributes:
        features: of its patches, without their attention.
        affinity: (P, P), made of that attention; None where the affinity is off.
    """

    features: PatchFeatures
    affinity: Affinity | None


@dataclass(frozen=True, slots=True, eq=False)
class ProposalTexts:
    """Texts as stage 1 compares them with an image; row i belongs to query i.

    Attributes:
        queries: the texts themselves; later steps may word them otherwise, but only those that are left.
        first: features as step 1 words them.
        background: features of the background texts, none to many.
    """

    queries: tuple[str, ...]
    first: Features
    background: Float[Tensor, "b d"]


class PatchProposer(ABC):
    """A proposer that scores every patch of an image; a subclass says how. Keeps nothing of any image."""

    def __init__(self, encoder: PatchEncoder, encode_text: TextEncoder, config: ProposeConfig, mode: Mode) -> None:
        self._encoder = encoder
        self._passes = SharedPasses(encoder.patch_px, encoder.device, self._encode_alike)
        self._encode_text = encode_text
        self._config = config
        self._mode = mode

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise InputError if a text, as it will be worded, is too long for the encoder."""
        for template in (self._config.first_proposal_template, self._config.proposal_template):
            self._encoder.check_lengths(texts, template)

    def encode_images(self, images: RgbImages) -> list[ProposalImage]:
        """Pass images through the encoder, the only pass they will need, and turn their attention into affinity."""
        encoder = self._encoder
        multiple_px = self._config.side_multiple_px or encoder.patch_px
        pixels = [patch_pixels(image, multiple_px, encoder.patch_px, encoder.preprocessor) for image in images]
        return self._passes.encode(pixels)

    def _encode_alike(self, pixels: Pixels) -> list[ProposalImage]:
        """Encode images of one size in one pass."""
        found = self._encoder.encode_patches(
            pixels,
            attention_layers=self._config.affinity_layers,
            half_positions=self._config.half_position_embeddings,
        )
        affinities = [None if one.attention is None else normalize_affinity(one.attention) for one in found]
        return [  # one matrix of P x P is enough to keep
            ProposalImage(replace(features, attention=None), affinity)
            for features, affinity in zip(found, affinities, strict=True)
        ]

    def encode_texts(self, texts: Sequence[str], tick: Tick = ignore_tick) -> ProposalTexts:
        """Encode texts as step 1 words them, and the background texts that are not among them."""
        config = self._config
        asked = {normalize_text(text) for text in texts} if config.drop_asked_background else set()
        background = [text for text in config.background_texts if normalize_text(text) not in asked]
        background_features = self._encode_text(fill(config.proposal_template, background))
        features = self._encode_text(fill(config.first_proposal_template, texts), tick)
        return ProposalTexts(tuple(texts), features, background_features)

    @property
    def _rewords(self) -> bool:
        """Whether later steps word the texts otherwise than step 1."""
        return self._config.proposal_template != self._config.first_proposal_template

    def _features(self, texts: ProposalTexts, active: TextIndices, step: int) -> Features:
        """Return the active texts' features as this step words them."""
        if step == 1 or not self._rewords:
            return texts.first[active]
        return self._encode_text(fill(self._config.proposal_template, [texts.queries[i] for i in active]))

    def propose(self, state: Any, active: TextIndices, step: int) -> Proposal:
        """Score the patches for every active text, scale to [0, 1], and spread by the affinity inside the boxes."""
        image: ProposalImage = state.image
        scores = self.score_patches(state, active, step)
        certainty = self.rate_texts(state, scores, active, step).numpy().astype(np.float32)
        cams = min_max_scale(scores.reshape(len(active), *image.features.grid_hw)).float()
        if image.affinity is None:
            return Proposal(cams, cams, certainty)
        boxed = cams * box_masks(cams, self._config.cam_threshold, clamp=self._config.clamp_boxes)
        maps = min_max_scale(spread(image.affinity, boxed.flatten(1)).reshape(cams.shape))
        return Proposal(cams, maps, certainty)

    @abstractmethod
    def init_state(self, image: ProposalImage, texts: ProposalTexts) -> Any:
        """Prepare the steps of one recurrence; what is returned holds `image`."""

    @abstractmethod
    def score_patches(self, state: Any, active: TextIndices, step: int) -> Float[Tensor, "k p"]:
        """Score every patch for every active text, on the CPU; only the order and the differences of a row count."""

    @abstractmethod
    def rate_texts(
        self, state: Any, scores: Float[Tensor, "k p"], active: TextIndices, step: int
    ) -> Float[Tensor, " k"]:
        """Say how sure this step is of every active text, in [0, 1], given what `score_patches` found; on the CPU."""
