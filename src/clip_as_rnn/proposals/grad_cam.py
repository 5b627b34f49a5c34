"""Gradient CAM (CLIP-ES, Lin et al., CVPR 2023) in closed form: no softmax is differentiated, later steps are free.

With l_k the logit of text k, A the input of the last block's attention and S_k = A mean_p(dl_k / dA), the gradient of
the softmax gives

    cam_c = relu(S_c - sum_k p_k S_k) * p_c,                  because dp_c / dl_k = p_c (1[c = k] - p_k),

and the factor p_c falls to the min-max scaling. The background is one more candidate: its texts' relative weights never
change, so S_B = sum_b q_b S_b with q the softmax over the background alone. Between steps only p changes.

The weights 1[c = k] - p_k sum to zero, so all S may be taken relative to any one map, and S is linear in dl_k / dz, so
that is done before the gradient: relative to what step 1 subtracts, texts that lie close together keep their digits.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clip_as_rnn.config import Mode, ProposeConfig
from clip_as_rnn.encoders.base import GradCamEncoder, TextEncoder
from clip_as_rnn.proposals.base import PatchProposer, ProposalImage, ProposalTexts
from clip_as_rnn.types import Features, TextIndices

_SHORTEST = 1e-30  # keeps a direction of length zero at zero


@dataclass(slots=True, eq=False)
class GradCamState:
    """One recurrence on one image: the maps S_k less the reference's, filled as the first two steps ask for them.

    Attributes:
        reference: what is subtracted from every dl_k / dz, float64 on the CPU.
        first, later: (n, P) maps of the queries in either wording; rows of texts that dropped before stay zero.
        background: (P,) map of the background texts together.
    """

    image: ProposalImage
    texts: ProposalTexts
    reference: Float[Tensor, " d"]
    first: Float[Tensor, "n p"] | None = None
    later: Float[Tensor, "n p"] | None = None
    background: Float[Tensor, " p"] | None = None


def differentiate_logits(
    pooled: Float[Tensor, " d"], texts: Features, scale: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
    """Compute scale * cos(pooled, text) and its derivative with respect to `pooled`, per text; float64, on the CPU."""
    pooled, texts = pooled.cpu().double(), texts.cpu().double()  # some devices have no float64
    length = pooled.norm()
    unit = pooled / length
    cosines = texts @ unit
    return scale * cosines, scale * (texts - cosines[:, None] * unit) / length


def subtract_mean_map(maps: Float[Tensor, "n p"], logits: Float[Tensor, " n"]) -> Float[Tensor, "n p"]:
    """Compute relu(S_c - sum_k p_k S_k) for every candidate, given maps relative to whatever they share.

    Float64, and 1 - p_c as the sum of the other shares, so that a text that is all but certain keeps its map.
    """
    shares = torch.softmax(logits.double(), dim=0)
    others = shares.expand(len(logits), -1).clone().fill_diagonal_(0)
    weights = torch.diag(others.sum(1)) - others
    return (weights @ maps.double()).clamp(min=0)


class GradCamProposer(PatchProposer):
    """Stage 1 by closed-form gradient CAM."""

    def __init__(self, encoder: GradCamEncoder, encode_text: TextEncoder, config: ProposeConfig, mode: Mode) -> None:
        super().__init__(encoder, encode_text, config, mode)
        self._gradients = encoder

    def init_state(self, image: ProposalImage, texts: ProposalTexts) -> GradCamState:
        """Choose the reference: the mean derivative that step 1 subtracts, in referring mode the background's."""
        candidates = texts.background if self._mode == "referring" else torch.cat([texts.first, texts.background])
        logits, directions = differentiate_logits(image.features.pooled, candidates, self._encoder.logit_scale)
        return GradCamState(image, texts, torch.softmax(logits, dim=0) @ directions)

    def score_patches(self, state: GradCamState, active: TextIndices, step: int) -> Float[Tensor, "k p"]:
        """Compute the closed-form CAM of every active text.

        A text alone against the background (referring mode) has (1 - p_c) (S_c - S_B): its softmax only scales it.
        """
        logits, maps = self._compare(state, active, step)
        if self._mode == "referring":
            return maps.clamp(min=0) if len(state.texts.background) else torch.zeros_like(maps)
        if state.background is None:
            return subtract_mean_map(maps, logits)
        cams = subtract_mean_map(torch.cat([maps, state.background[None]]), logits)[:-1]
        is_zero = cams.amax(1) == 0
        if self._config.foreground_fallback and is_zero.any():
            cams[is_zero] = subtract_mean_map(maps, logits[:-1])[is_zero]
        return cams

    def rate_texts(
        self, state: GradCamState, scores: Float[Tensor, "k p"], active: TextIndices, step: int
    ) -> Float[Tensor, " k"]:
        """Take each text's share in the softmax that the maps are the gradient of: one of the whole image."""
        logits, _ = self._compare(state, active, step)
        if self._mode == "semantic":
            return torch.softmax(logits, dim=0)[: len(active)]
        pooled, background = state.image.features.pooled, state.texts.background
        against, _ = differentiate_logits(pooled, background, self._encoder.logit_scale)
        return torch.sigmoid(logits - torch.logsumexp(against, dim=0))

    def _compare(
        self, state: GradCamState, active: TextIndices, step: int
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "k p"]]:
        """Return the logits of the active texts, with the background's last if it counts, and the texts' maps."""
        texts, pooled, scale = state.texts, state.image.features.pooled, self._encoder.logit_scale
        logits, directions = differentiate_logits(pooled, self._features(texts, active, step), scale)
        if len(texts.background) and self._mode == "semantic":
            background_logits, background_directions = differentiate_logits(pooled, texts.background, scale)
            mean = torch.softmax(background_logits, dim=0) @ background_directions
            logits = torch.cat([logits, torch.logsumexp(background_logits, dim=0)[None]])
            directions = torch.cat([directions, mean[None]])
        maps = state.later if step > 1 and self._rewords else state.first
        if maps is None:
            maps = self._fill_maps(state, active, directions, step)
        return logits, maps[active]

    def _fill_maps(
        self, state: GradCamState, active: TextIndices, directions: Float[Tensor, "m d"], step: int
    ) -> Float[Tensor, "n p"]:
        """Compute the maps of a wording when it is first needed, and the background's if it is not known."""
        needed = directions if state.background is None else directions[: len(active)]
        computed = self._gradient_maps(state.image, needed - state.reference)
        if len(computed) > len(active):
            state.background = computed[-1]
        maps = torch.zeros(len(state.texts.first), computed.shape[1], dtype=torch.float32)
        maps[active] = computed[: len(active)]
        if step == 1:
            state.first = maps
        else:
            state.later = maps
        return maps

    def _gradient_maps(self, image: ProposalImage, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        """Turn derivatives of logits with respect to z into maps, A times the mean gradient; on the CPU.

        Directions have length 1 on their way, where half precision neither underflows nor overflows. More of them
        than z has dimensions cost no more than the Jacobian of z itself.
        """
        lengths = directions.norm(dim=1, keepdim=True).clamp(min=_SHORTEST)
        directions, lengths = (directions / lengths).float().to(self._encoder.device), lengths.float()
        width = self._encoder.embed_dim
        if len(directions) > width:
            units = torch.eye(width, dtype=torch.float32, device=directions.device)
            jacobian = self._gradients.pooled_gradient(image.features, units)
            weights = directions @ jacobian
        else:
            weights = self._gradients.pooled_gradient(image.features, directions)
        maps: Tensor = (weights @ image.features.activations.T).cpu() * lengths
        return maps
