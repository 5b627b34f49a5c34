"""Patch similarity (ours): every projected patch is compared with the texts, as CLIP compares whole images.

The score of a text at a patch is its share in a softmax over the active texts and the background, or in referring mode
over the text and the background.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clip_as_rnn.proposals.base import PatchProposer, ProposalImage, ProposalTexts
from clip_as_rnn.types import TextIndices

_BEST_PATCHES = 3


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityState:
    """One recurrence on one image, with each patch's logit for the background."""

    image: ProposalImage
    texts: ProposalTexts
    background: Float[Tensor, " p"]


class PatchSimilarityProposer(PatchProposer):
    """Stage 1 by comparing patches with texts."""

    def init_state(self, image: ProposalImage, texts: ProposalTexts) -> SimilarityState:
        """Compare all patches with the background."""
        logits = self._encoder.logit_scale * texts.background @ image.features.patches.T
        return SimilarityState(image, texts, torch.logsumexp(logits, dim=0))

    def score_patches(self, state: SimilarityState, active: TextIndices, step: int) -> Float[Tensor, "k p"]:
        """Compute each patch's probability of being each active text."""
        features = self._features(state.texts, active, step)
        logits = self._encoder.logit_scale * features @ state.image.features.patches.T
        if self._mode == "referring":
            return torch.sigmoid(logits - state.background).cpu()
        return torch.softmax(torch.cat([logits, state.background[None]]), dim=0)[:-1].cpu()

    def rate_texts(
        self, state: SimilarityState, scores: Float[Tensor, "k p"], active: TextIndices, step: int
    ) -> Float[Tensor, " k"]:
        """Take the mean of a text's probabilities at its best patches."""
        return scores.topk(min(_BEST_PATCHES, scores.shape[1]), dim=1).values.mean(1)
