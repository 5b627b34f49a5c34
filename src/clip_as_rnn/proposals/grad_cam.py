"""Stage 1: one soft mask per text, from the frozen proposal CLIP.

`cam` is CLIP-ES's Grad-CAM (Lin et al., CVPR 2023) in closed form. With l_k the logit of text k, A the input of the
last block's attention and S_k = A mean_p(dl_k / dA), the gradient of the softmax gives

    cam_c = relu(S_c - sum_k p_k S_k) * p_c,                  because dp_c / dl_k = p_c (1[c = k] - p_k),

and the factor p_c falls to the min-max scaling. The background is one more candidate: its texts' relative weights never
change, so S_B = sum_b q_b S_b with q the softmax over the background alone. Between steps only p changes.

The weights 1[c = k] - p_k sum to zero, so all S may be taken relative to any one map, and S is linear in dl_k / dz, so
that is done before pulling back: relative to what step 1 subtracts, texts that lie close together keep their digits.

`dense` compares every projected patch with the texts instead (ours). Both are then spread by CLIP-ES's class-aware
affinity. Knows nothing of the classifier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clip_as_rnn.encoders.clip import Clip, PatchView
from clip_as_rnn.ops import components_box_mask, min_max_scale
from clip_as_rnn.prompts.queries import normalize_text
from clip_as_rnn.prompts.templates import fill
from clip_as_rnn.result import Proposal
from clip_as_rnn.types import Features, PatchMaps, Pixels

Affinity = Float[Tensor, "p p"]
_SINKHORN_ROUNDS = 3
_LOWERING = 0.1
_ROWS_AT_ONCE = 1024
_SHORTEST = 1e-30  # keeps a direction of length zero at zero


@dataclass(frozen=True, slots=True, eq=False)
class ProposalMemory:
    """What stage 1 knows of one image and one set of queries: shared by every step, gone with the image.

    Attributes:
        view: the image as the proposal CLIP sees it.
        affinity: (P, P), or None where the affinity is off.
        background: features of the background texts, none to many.
        reference: what is subtracted from every dl_k / dz, float64 on the CPU.
        slopes: S_k less the reference's, per worded text, the background's under None; (P,) on the CPU. Filled as steps
            ask for them.
    """

    view: PatchView
    affinity: Affinity | None
    background: Features
    reference: Float[Tensor, " d"]
    slopes: dict[str | None, Float[Tensor, " p"]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalRules:
    """The settings of stage 1, by their names in `SegmenterConfig`."""

    mode: Literal["semantic", "referring"]
    proposals: Literal["cam", "dense"]
    cam_threshold: float
    background_texts: tuple[str, ...]
    drop_asked_background: bool
    first_proposal_template: str
    proposal_template: str
    affinity_layers: int
    foreground_fallback: bool
    clamp_boxes: bool
    half_position_embeddings: bool


def differentiate_logits(
    pooled: Float[Tensor, " d"], texts: Features, scale: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
    """Compute scale * cos(pooled, text) and its derivative with respect to `pooled`, per text; float64, on the CPU."""
    pooled, texts = pooled.double().cpu(), texts.double().cpu()
    length = pooled.norm()
    unit = pooled / length
    cosines = texts @ unit
    return scale * cosines, scale * (texts - cosines[:, None] * unit) / length


def contrast(slopes: Float[Tensor, "n p"], logits: Float[Tensor, " n"]) -> Float[Tensor, "n p"]:
    """Compute relu(S_c - sum_k p_k S_k) for every candidate, given slopes relative to whatever they share.

    Float64, and 1 - p_c as the sum of the other shares, so that a text that is all but certain keeps its map.
    """
    shares = torch.softmax(logits.double(), dim=0)
    others = shares.expand(len(logits), -1).clone().fill_diagonal_(0)
    weights = torch.diag(others.sum(1)) - others
    return (weights @ slopes.double()).clamp(min=0)


def normalise_affinity(attention: Affinity) -> Affinity:
    """Turn mean attention into CLIP-ES's symmetric affinity: three rounds of columns, then rows, summing to one."""
    affinity = attention.clone()
    for _ in range(_SINKHORN_ROUNDS):
        affinity /= affinity.sum(0, keepdim=True)
        affinity /= affinity.sum(1, keepdim=True)
    return affinity.add_(affinity.T.clone()).mul_(0.5)


def spread(affinity: Affinity, maps: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Apply the squared affinity, as two products with the maps and never as a matrix.

    In float64: a spread map is nearly constant, and scaling it to [0, 1] brings its last digits forward.
    """
    once = _multiply_exactly(affinity, maps.T)
    return _multiply_exactly(affinity, once).T.float().to(maps.device)


def _multiply_exactly(affinity: Affinity, columns: Float[Tensor, "p n"]) -> Float[Tensor, "p n"]:
    """Multiply in float64, a block of rows at a time; on the CPU where the device, as Apple's, has no float64."""
    columns = columns.to(affinity.device if affinity.is_cuda else "cpu", torch.float64)
    starts = range(0, len(affinity), _ROWS_AT_ONCE)
    return torch.cat([affinity[i : i + _ROWS_AT_ONCE].to(columns) @ columns for i in starts])


def box_masks(cams: PatchMaps, threshold: float, *, clamp: bool) -> PatchMaps:
    """Mark, per map, the boxes around all components above `threshold` times its maximum.

    With `clamp` as the authors' release does it: 8-bit maps, an integer threshold lowered until something passes, and
    the last row and column left out.
    """
    boxes = torch.zeros_like(cams)
    for i, cam in enumerate(cams.numpy()):
        above = _above_in_8_bits(cam, threshold) if clamp else cam > threshold * cam.max()
        boxes[i] = components_box_mask(above.astype(np.uint8), clamp=clamp)
    return boxes


def _above_in_8_bits(cam: Float[np.ndarray, "gh gw"], threshold: float) -> np.ndarray:
    levels = (cam * 255).astype(np.uint8)
    while True:
        above = levels > int(threshold * int(levels.max()))
        if above.any() or threshold <= 0:
            return above
        threshold -= _LOWERING


class Proposer:
    """Stage 1 of one segmenter: the proposal CLIP, its texts and the rules. Keeps nothing between images."""

    def __init__(self, clip: Clip, encode_texts: Callable[[Sequence[str]], Features], rules: ProposalRules) -> None:
        self._clip = clip
        self._encode = encode_texts
        self._rules = rules

    def look(self, pixels: Pixels, queries: Sequence[str]) -> ProposalMemory:
        """Pass one image, prepared for CLIP, through the proposal CLIP: the only pass it will need."""
        rules = self._rules
        view = self._clip.view_patches(
            pixels, affinity_layers=rules.affinity_layers, half_positions=rules.half_position_embeddings
        )
        asked = {normalize_text(text) for text in queries} if rules.drop_asked_background else set()
        background = [text for text in rules.background_texts if normalize_text(text) not in asked]
        background_features = self._encode(fill(rules.proposal_template, background))
        return ProposalMemory(
            view=view,
            affinity=None if view.attention is None else normalise_affinity(view.attention),
            background=background_features,
            reference=self._choose_reference(view, background_features, queries),
        )

    def __call__(self, memory: ProposalMemory, texts: Sequence[str], step: int) -> Proposal:
        """Propose one mask per text, given that only these texts are left; `step` counts from 0."""
        rules = self._rules
        worded = fill(rules.first_proposal_template if step == 0 else rules.proposal_template, texts)
        measure = self._gradient_maps if rules.proposals == "cam" else self._dense_maps
        raw = measure(memory, worded)
        cams = min_max_scale(raw.reshape(len(texts), *memory.view.grid_hw)).float()
        if memory.affinity is None:
            return Proposal(cams, cams)
        boxed = cams * box_masks(cams, rules.cam_threshold, clamp=rules.clamp_boxes)
        refined = spread(memory.affinity, boxed.flatten(1)).reshape(cams.shape)
        return Proposal(cams, min_max_scale(refined))

    def _choose_reference(self, view: PatchView, background: Features, queries: Sequence[str]) -> Float[Tensor, " d"]:
        """Average the derivatives that step 1 will average: all candidates', or in referring mode the background's."""
        rules = self._rules
        asked = [] if rules.mode == "referring" else fill(rules.first_proposal_template, queries)
        candidates = torch.cat([self._encode(asked), background])
        logits, directions = differentiate_logits(view.pooled, candidates, self._clip.logit_scale)
        return torch.softmax(logits, dim=0) @ directions

    def _gradient_maps(self, memory: ProposalMemory, worded: Sequence[str]) -> Float[Tensor, "n p"]:
        """Compute the closed-form Grad-CAM of every text.

        A text alone against the background (referring mode) has (1 - p_c) (S_c - S_B): its softmax only scales it.
        """
        logits = self._extend_slopes(memory, worded)
        slopes = torch.stack([memory.slopes[text] for text in worded])
        if self._rules.mode == "referring":
            return slopes.clamp(min=0) if len(memory.background) else torch.zeros_like(slopes)
        if not len(memory.background):
            return contrast(slopes, logits)
        maps = contrast(torch.cat([slopes, memory.slopes[None][None]]), logits)[:-1]
        dark = maps.amax(1) == 0
        if self._rules.foreground_fallback and dark.any():
            maps[dark] = contrast(slopes, logits[:-1])[dark]
        return maps

    def _extend_slopes(self, memory: ProposalMemory, worded: Sequence[str]) -> Float[Tensor, " n"]:
        """Add the slopes of texts not seen before on this image; return the logits of all, with the background's last.

        More texts than CLIP's width cost no more than the Jacobian of z itself: one pull-back per dimension.
        """
        view, scale = memory.view, self._clip.logit_scale
        names: list[str | None] = list(worded)
        logits, directions = differentiate_logits(view.pooled, self._encode(worded), scale)
        if len(memory.background) and self._rules.mode == "semantic":
            shared, theirs = differentiate_logits(view.pooled, memory.background, scale)
            names.append(None)
            logits = torch.cat([logits, torch.logsumexp(shared, dim=0)[None]])
            directions = torch.cat([directions, (torch.softmax(shared, dim=0) @ theirs)[None]])
        new = [i for i, name in enumerate(names) if name not in memory.slopes]
        if new:
            slopes = self._pull_back(view, directions[new] - memory.reference)
            memory.slopes.update((names[i], slope) for i, slope in zip(new, slopes, strict=True))
        return logits

    def _pull_back(self, view: PatchView, directions: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        """Turn derivatives of logits with respect to z into maps, A times the mean gradient; on the CPU.

        Directions are pulled back at length 1, where half precision neither underflows nor overflows.
        """
        lengths = directions.norm(dim=1, keepdim=True).clamp(min=_SHORTEST)
        directions, lengths = (directions / lengths).float().to(self._clip.device), lengths.float()
        if len(directions) > self._clip.width:
            weights = directions @ self._clip.pull_back(view, torch.eye(self._clip.width, device=directions.device))
        else:
            weights = self._clip.pull_back(view, directions)
        maps: Tensor = (weights @ view.activations.T).cpu() * lengths
        return maps

    def _dense_maps(self, memory: ProposalMemory, worded: Sequence[str]) -> Float[Tensor, "n p"]:
        """Compute each patch's chances of being each text, among the texts and the background."""
        scale = self._clip.logit_scale
        logits = scale * self._encode(worded) @ memory.view.patches.T
        background = torch.logsumexp(scale * memory.background @ memory.view.patches.T, dim=0)
        if self._rules.mode == "referring":
            return torch.sigmoid(logits - background).cpu()
        return torch.softmax(torch.cat([logits, background[None]]), dim=0)[:-1].cpu()
