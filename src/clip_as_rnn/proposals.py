"""Stage 1: one soft mask per text, from the frozen proposal CLIP.

`cam` is CLIP-ES's Grad-CAM (Lin et al., CVPR 2023) in closed form. With l_k the logit of text k, A the input of the
last block's attention and S_k = A mean_p(dl_k / dA), the gradient of the softmax gives

    cam_c = relu(S_c - sum_k p_k S_k) * p_c,                  because dp_c / dl_k = p_c (1[c = k] - p_k),

and the factor p_c falls to the min-max scaling. S is linear in dl_k / dz, so that of the background,
S_B = sum_b q_b S_b with q the softmax over the background alone, is subtracted before pulling back: the background then
drops out of the formula, and texts that lie close together keep their digits. Between steps only p changes.

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

from clip_as_rnn.clip import Clip, PatchView
from clip_as_rnn.masks import components_box_mask, min_max_scale
from clip_as_rnn.prompts import word
from clip_as_rnn.result import Proposal
from clip_as_rnn.shapes import Features, PatchMaps, Pixels

Affinity = Float[Tensor, "p p"]
_SINKHORN_ROUNDS = 3
_LOWERING = 0.1
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class ProposalMemory:
    """What stage 1 knows of one image and one set of queries: shared by every step, gone with the image.

    Attributes:
        view: the image as the proposal CLIP sees it.
        affinity: (P, P), or None where the affinity is off.
        background: features of the background texts, none to many.
        slopes: S_k - S_B per worded text, filled as steps ask for them; (P,) on the CPU.
    """

    view: PatchView
    affinity: Affinity | None
    background: Features
    slopes: dict[str, Float[Tensor, " p"]] = field(default_factory=dict)


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


def logit_directions(pooled: Float[Tensor, " d"], texts: Features, scale: float) -> Float[Tensor, "n d"]:
    """Differentiate scale * cos(pooled, text) with respect to `pooled`, one row per text."""
    length = pooled.norm()
    unit = pooled / length
    directions: Tensor = scale * (texts - (texts @ unit)[:, None] * unit) / length
    return directions


def contrast(
    slopes: Float[Tensor, "n p"], logits: Float[Tensor, " n"], background: Float[Tensor, ""]
) -> Float[Tensor, "n p"]:
    """Compute relu(S_c - sum_k p_k S_k) for every text, given slopes relative to the background's.

    `background` is the logsumexp of the background's logits, -inf where there is none. Float64, and 1 - p_c as the sum
    of the other shares, so that a text that is all but certain keeps its map.
    """
    shares = torch.softmax(torch.cat([logits, background[None]]).double(), dim=0)
    others = shares[:-1].expand(len(logits), -1).clone().fill_diagonal_(0)
    weights = torch.diag(others.sum(1) + shares[-1]) - others
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
        asked = {text.casefold() for text in queries} if rules.drop_asked_background else set()
        background = [text for text in rules.background_texts if text.casefold() not in asked]
        return ProposalMemory(
            view=view,
            affinity=None if view.attention is None else normalise_affinity(view.attention),
            background=self._encode(word(rules.proposal_template, background)),
        )

    def __call__(self, memory: ProposalMemory, texts: Sequence[str], step: int) -> Proposal:
        """Propose one mask per text, given that only these texts are left; `step` counts from 0."""
        rules = self._rules
        worded = word(rules.first_proposal_template if step == 0 else rules.proposal_template, texts)
        measure = self._gradient_maps if rules.proposals == "cam" else self._dense_maps
        raw = measure(memory, worded)
        cams = min_max_scale(raw.reshape(len(texts), *memory.view.grid_hw)).float()
        if memory.affinity is None:
            return Proposal(cams, cams)
        boxed = cams * box_masks(cams, rules.cam_threshold, clamp=rules.clamp_boxes)
        refined = spread(memory.affinity, boxed.flatten(1)).reshape(cams.shape)
        return Proposal(cams, min_max_scale(refined))

    def _gradient_maps(self, memory: ProposalMemory, worded: Sequence[str]) -> Float[Tensor, "n p"]:
        """Compute the closed-form Grad-CAM of every text.

        A text alone against the background (referring mode) has (1 - p_c) (S_c - S_B): its softmax only scales it.
        """
        features = self._encode(worded)
        self._extend_slopes(memory, worded, features)
        slopes = torch.stack([memory.slopes[text] for text in worded])
        if self._rules.mode == "referring":
            return slopes.clamp(min=0) if len(memory.background) else torch.zeros_like(slopes)
        unit = torch.nn.functional.normalize(memory.view.pooled, dim=0)
        logits = (self._clip.logit_scale * features @ unit).cpu()
        background = torch.logsumexp(self._clip.logit_scale * memory.background @ unit, dim=0).cpu()  # -inf for none
        maps = contrast(slopes, logits, background)
        dark = maps.amax(1) == 0
        if self._rules.foreground_fallback and dark.any():
            maps[dark] = contrast(slopes, logits, torch.tensor(-torch.inf))[dark]
        return maps

    def _extend_slopes(self, memory: ProposalMemory, worded: Sequence[str], features: Features) -> None:
        """Add the slopes of texts not seen before on this image.

        More texts than CLIP's width cost no more than the Jacobian of z itself: one pull-back per dimension.
        """
        view, scale = memory.view, self._clip.logit_scale
        new = [i for i, text in enumerate(worded) if text not in memory.slopes]
        if not new:
            return
        directions = logit_directions(view.pooled, features[new], scale)
        if len(memory.background):
            unit = torch.nn.functional.normalize(view.pooled, dim=0)
            shares = torch.softmax(scale * memory.background @ unit, dim=0)
            directions = directions - shares @ logit_directions(view.pooled, memory.background, scale)
        if len(new) > self._clip.width:
            basis = torch.eye(self._clip.width, device=directions.device)
            weights = directions @ self._clip.pull_back(view, basis)
        else:
            weights = self._clip.pull_back(view, directions)
        slopes = (weights @ view.activations.T).cpu()
        memory.slopes.update((worded[i], slope) for i, slope in zip(new, slopes, strict=True))

    def _dense_maps(self, memory: ProposalMemory, worded: Sequence[str]) -> Float[Tensor, "n p"]:
        """Compute each patch's chances of being each text, among the texts and the background."""
        scale = self._clip.logit_scale
        logits = scale * self._encode(worded) @ memory.view.patches.T
        background = torch.logsumexp(scale * memory.background @ memory.view.patches.T, dim=0)
        if self._rules.mode == "referring":
            return torch.sigmoid(logits - background).cpu()
        return torch.softmax(torch.cat([logits, background[None]]), dim=0)[:-1].cpu()
