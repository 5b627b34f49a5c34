"""Patch similarity (ours): every projected patch is compared with the texts, as CLIP compares whole images.

The score of a text at a patch is its share in a softmax over the active texts and the background, or in referring mode
over the text and the background.

With `patch_shifts` n > 1 the image is passed n x n times, moved by a share of a patch each time, and the patches of all
passes are laid out as one grid n times finer, as overlapping patches are (Amir et al., ECCV 2022 workshops).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clip_as_rnn.config import Mode, ProposeConfig
from clip_as_rnn.encoders.base import PatchEncoder, PatchFeatures, TextEncoder
from clip_as_rnn.proposals.base import PatchProposer, ProposalImage, ProposalTexts
from clip_as_rnn.types import Pixels, TextIndices

_BEST_PATCHES = 3  # of the encoder's own grid


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityState:
    """One recurrence on one image, with each patch's logit for the background."""

    image: ProposalImage
    texts: ProposalTexts
    background: Float[Tensor, " p"]


class PatchSimilarityProposer(PatchProposer):
    """Stage 1 by comparing patches with texts."""

    def __init__(self, encoder: PatchEncoder, encode_text: TextEncoder, config: ProposeConfig, mode: Mode) -> None:
        super().__init__(encoder, encode_text, config, mode)
        self._shifts = 1 if config.affinity_layers else config.patch_shifts  # the affinity has the encoder's own grid

    def _encode_alike(self, pixels: Pixels) -> list[ProposalImage]:
        """Encode images of one size, each moved about, and lay out the patches of all passes as one grid."""
        if self._shifts == 1:
            return super()._encode_alike(pixels)
        encode = super()._encode_alike
        passes = [encode(moved) for moved in shift(pixels, self._encoder.patch_px, self._shifts)]
        return [
            ProposalImage(interleave([one.features for one in of_image]), None)
            for of_image in zip(*passes, strict=True)
        ]

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
        best = _BEST_PATCHES * self._shifts**2
        return scores.topk(min(best, scores.shape[1]), dim=1).values.mean(1)


def shift(pixels: Pixels, patch_px: int, shifts: int) -> list[Pixels]:
    """Move images (b, 3, h, w) by shares of a patch; returns shifts^2 times (b, 3, h, w), row by row.

    Moves are whole pixels, and edges are repeated. The middles of the patches of all that is returned lie evenly, and
    those of the first above and left of all others.
    """
    starts = [round(i * patch_px / shifts) for i in range(shifts)]
    before = starts[-1] // 2
    padded = functional.pad(pixels, (before, starts[-1] - before) * 2, mode="replicate")
    h, w = pixels.shape[-2:]
    return [padded[..., top : top + h, left : left + w] for top in starts for left in starts]


def interleave(passes: Sequence[PatchFeatures]) -> PatchFeatures:
    """Lay out the patches of what `shift` moved as one grid: n^2 times (P, d) become (n^2 P, d), grid n gh, n gw.

    What is not of patches is the first's.
    """
    shifts, (gh, gw) = isqrt(len(passes)), passes[0].grid_hw

    def lay_out(tokens: Sequence[Tensor]) -> Tensor:
        grids = torch.stack([of_pass.view(gh, gw, -1) for of_pass in tokens]).view(shifts, shifts, gh, gw, -1)
        return grids.permute(2, 0, 3, 1, 4).reshape(gh * gw * len(tokens), -1)  # gh down gw across d

    return replace(
        passes[0],
        grid_hw=(gh * shifts, gw * shifts),
        activations=lay_out([one.activations for one in passes]),
        patches=lay_out([one.patches for one in passes]),
    )
