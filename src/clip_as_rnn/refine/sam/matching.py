"""The paper's way of joining SAM's masks to CaR's (section 3.4, as the authors' code computes it).

A candidate belongs to a mask if the larger of the two shares that their overlap covers is large enough (IoM); the union
of those that belong replaces the mask if both still agree well enough (IoU). Arithmetic on pixels alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from torch import Tensor, from_numpy

from clip_as_rnn.errors import InputError
from clip_as_rnn.refine.sam.text_masks import TextMasks
from clip_as_rnn.types import Mask

_INSIDE = 0.5  # as the authors' code binarizes


@runtime_checkable
class Candidates(Protocol):
    """Masks of one size, each decoded when it is asked for; a (m, h, w) array is one."""

    def __len__(self) -> int:
        """Count them."""

    def __getitem__(self, index: int, /) -> Mask:
        """Decode one."""


@dataclass(frozen=True, slots=True)
class MatchRules:
    """What makes a candidate belong to a mask, and their union replace it.

    Attributes:
        iom_threshold: phi_iom; a candidate belongs if its IoM is greater.
        overlap_floor: the share of the mask that a candidate must cover before the share of the candidate counts.
        iou_threshold: phi_iou; the union replaces the mask if their IoU is greater; None: it always does.
    """

    iom_threshold: float
    overlap_floor: float
    iou_threshold: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """What was found for one mask: the candidates that belong, their union, how well it agrees, and the verdict."""

    indices: tuple[int, ...]
    union: Mask
    iou: float
    replaces: bool


@overload
def match_masks(
    masks: Shaped[ndarray, "n h w"],
    candidates: Shaped[ndarray | Tensor, "m H W"],
    *,
    iom_threshold: float,
    overlap_floor: float,
    iou_threshold: float | None,
) -> Bool[ndarray, "n h w"]: ...


@overload
def match_masks(
    masks: Shaped[Tensor, "n h w"],
    candidates: Shaped[ndarray | Tensor, "m H W"],
    *,
    iom_threshold: float,
    overlap_floor: float,
    iou_threshold: float | None,
) -> Bool[Tensor, "n h w"]: ...


def match_masks(
    masks: Shaped[ndarray | Tensor, "n h w"],
    candidates: Shaped[ndarray | Tensor, "m H W"],
    *,
    iom_threshold: float,
    overlap_floor: float,
    iou_threshold: float | None,
) -> Bool[ndarray | Tensor, "n h w"]:
    """Replace masks by the union of the candidates that belong to them, where the two agree.

    With inter = |candidate and mask|, IoM = max(inter / |candidate|, inter / |mask|), the first counted only if the
    second is at least `overlap_floor`. Where no IoM is above `iom_threshold`, the largest belongs, the first of equals.
    All masks are compared as given: the order of neither list matters, but for equals. Computed on whole numbers and
    in float64; a candidate without pixels has an IoM of 0. Empty masks stay empty; without candidates all stay.

    Args:
        masks: numpy or torch, one per text; they may overlap. Numbers are inside above one half.
        candidates: of the same size, numpy or torch.
        iom_threshold: phi_iom, exceeded strictly.
        overlap_floor: see above.
        iou_threshold: phi_iou, exceeded strictly by what replaces; None replaces always, as the authors' demo does.

    Returns:
        New masks of the kind, and on the device, of `masks`.

    Raises:
        InputError: the masks and the candidates are of different sizes.
    """
    mine, others = _as_array(masks), _as_array(candidates)
    if mine.shape[1:] != others.shape[1:] and len(others) and len(mine):
        raise InputError(f"Expected candidates of the masks' size {mine.shape[1:]}, but got {others.shape[1:]}.")
    refined = mine.copy()
    rules = MatchRules(iom_threshold, overlap_floor, iou_threshold)
    pairs = match_each(TextMasks(mine, len(mine)), others, rules) if len(mine) else ()
    for i, match in pairs:
        if match.replaces:
            refined[i] = match.union
    return from_numpy(refined).to(masks.device) if isinstance(masks, Tensor) else refined


def match_each(
    masks: TextMasks, candidates: Candidates, rules: MatchRules, order: Iterable[int] | None = None
) -> Iterator[tuple[int, Match]]:
    """Match one mask after the other, in the order given or as they lie; empty ones are left out.

    Yields nothing where there are no candidates. Holds one candidate at a time, however many there are.
    """
    if len(candidates) == 0:
        return
    shared, areas = count_overlaps(masks, candidates)
    for i in range(len(masks)) if order is None else order:
        mask = masks[i]
        mask_area = int(np.count_nonzero(mask))
        if mask_area == 0:
            continue
        iom = intersection_over_minimum(shared[i], areas, mask_area, rules.overlap_floor)
        chosen = np.flatnonzero(iom > rules.iom_threshold)
        indices = tuple(int(j) for j in chosen) or (int(iom.argmax()),)
        yield i, judge(mask, join(candidates, indices), indices, rules.iou_threshold)


def join(candidates: Candidates, indices: Sequence[int]) -> Mask:
    """Unite some candidates, one or more."""
    union = candidates[indices[0]].copy()
    for j in indices[1:]:
        union |= candidates[j]
    return union


def judge(mask: Mask, union: Mask, indices: tuple[int, ...], iou_threshold: float | None) -> Match:
    """Say whether the union of some candidates agrees well enough with a mask to replace it."""
    joined = np.count_nonzero(union | mask)
    iou = float(np.count_nonzero(union & mask) / joined) if joined else 0.0
    return Match(indices, union, iou, iou_threshold is None or iou > iou_threshold)


def count_overlaps(masks: TextMasks, candidates: Candidates) -> tuple[Int[ndarray, "n m"], Int[ndarray, " m"]]:
    """Count the pixels that every mask shares with every candidate, and those of every candidate."""
    shared = np.zeros((len(masks), len(candidates)), dtype=np.int64)
    areas = np.zeros(len(candidates), dtype=np.int64)
    for j in range(len(candidates)):
        candidate = candidates[j]
        areas[j] = np.count_nonzero(candidate)
        shared[:, j] = masks.count_shared(candidate)
    return shared, areas


def intersection_over_minimum(
    shared: Int[ndarray, " m"], areas: Int[ndarray, " m"], mask_area: int, overlap_floor: float
) -> Float[ndarray, " m"]:
    """Take the larger of the shares of candidate and mask that their overlap covers, per candidate.

    The candidate's share counts as 0 where the mask's is below `overlap_floor`: else a speck inside a large mask would
    always belong.
    """
    of_candidate = np.divide(shared, areas, out=np.zeros(len(areas)), where=areas > 0)
    of_mask = shared / mask_area
    return np.maximum(np.where(of_mask < overlap_floor, 0.0, of_candidate), of_mask)


def _as_array(masks: Shaped[ndarray | Tensor, "n h w"]) -> Bool[ndarray, "n h w"]:
    array = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    return array if array.dtype == bool else array > _INSIDE
