"""SAM asked for exactly what CaR found: a box and a mask prompt per connected part of a mask, the best answer of each.

The mask prompt is made from the probabilities that the dense CRF leaves, as log-odds; without a CRF from the mask
itself, as transformers' SAM 2 does (20 m - 10). Ours, not in the paper: some 500 times cheaper than a grid of points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.refine.sam.frame import Frame
from clip_as_rnn.refine.sam.model import Sam, SamImage, SamMasks, explain_lack_of_memory, masks_of_size
from clip_as_rnn.types import Mask

_LOGIT_LIMIT = 10.0  # SAM's own logits lie within +-10 to 20
_COVERED = 0.95  # of a mask's pixels: what is left is specks
_CONNECTIVITY = 8


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The connected parts of one mask, the largest first.

    Attributes:
        labels: 0 outside the mask, else 1 + the number of the part in OpenCV's order.
        asked: labels of those that SAM is asked about; the others stay as they are.
        boxes: x0, y0, x1, y1 of those asked about, pixel indices of the mask, both ends inclusive.
    """

    labels: Int[ndarray, "h w"]
    asked: tuple[int, ...]
    boxes: Int[ndarray, "k 4"]

    @property
    def rest(self) -> Mask:
        """The pixels of the parts that SAM is not asked about."""
        return (self.labels > 0) & ~np.isin(self.labels, self.asked)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One question to SAM: a box in the image's pixels, and a soft mask in the square of logits, in [0, 1]."""

    box: Float[ndarray, "4"]
    soft: Float[ndarray, "s s"]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The masks that SAM drew for some prompts, one each, carried to the image when one is asked for.

    Attributes:
        frame: of the image.
        logits: in the square of logits, one per prompt.
    """

    frame: Frame
    logits: tuple[Float[Tensor, "s s"], ...]

    def __len__(self) -> int:
        """Count the masks."""
        return len(self.logits)

    def __getitem__(self, index: int) -> Mask:
        """Draw one mask at the image's size; InputError where there is too little memory."""
        with explain_lack_of_memory(masks_of_size(self.frame.size_hw)):
            return (self.frame.grow_logits(self.logits[index][None])[0] > 0).cpu().numpy()


def split_parts(mask: Mask, limit: int) -> Parts:
    """Find the 8-connected parts that together hold most of a mask: at most `limit`, the largest first."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=_CONNECTIVITY)
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = np.argsort(-areas, kind="stable")[:limit]
    missing = areas.sum() - np.cumsum(areas[order]) + areas[order]  # pixels not covered before each
    order = order[missing > (1 - _COVERED) * areas.sum()]
    left, top, width, height = (stats[1 + order, column] for column in range(4))
    boxes = np.stack([left, top, left + width - 1, top + height - 1], -1)
    return Parts(labels, tuple(int(1 + i) for i in order), boxes.astype(np.int64))


def make_prompts(parts: Parts, soft: Float[ndarray, "h w"], frame: Frame) -> Iterator[Prompt]:
    """Ask about each part of a mask: its box, and the soft mask without the other parts.

    Args:
        parts: of the mask, at any size.
        soft: how probable the text is at each pixel, at the same size.
        frame: of the image that SAM sees.
    """
    scale = np.array(frame.size_hw[::-1]) / np.array(parts.labels.shape[::-1])  # x, y
    for label, box in zip(parts.asked, parts.boxes, strict=True):
        alone = np.where((parts.labels == 0) | (parts.labels == label), soft, 0)
        corners = np.concatenate([box[:2] * scale, (box[2:] + 1) * scale - 1])
        yield Prompt(corners, frame.shrink_map(alone, outside=0.0))


def prompt_logits(soft: Float[ndarray, "n s s"], *, log_odds: bool) -> Float[Tensor, "n s s"]:
    """Turn soft masks into the logits that SAM takes for a mask prompt, within +-10.

    With `log_odds`, values are probabilities p and give log p / (1 - p); else they are shares m of a mask, and give
    20 m - 10.
    """
    values = torch.from_numpy(soft).float()
    logits = torch.logit(values.clamp(0, 1)) if log_odds else 2 * _LOGIT_LIMIT * values - _LOGIT_LIMIT
    return logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)


def ask(sam: Sam, image: SamImage, prompts: Sequence[Prompt], *, log_odds: bool, at_once: int) -> Answers:
    """Answer each prompt by the best of SAM's masks, in order; `at_once` prompts share one decoder batch.

    What SAM draws in the padding around the image plays no part in which mask is the best.

    Raises:
        InputError: the device has too little memory for so many prompts at once.
    """
    best: list[Tensor] = []
    height, width = image.frame.mask_inner_hw
    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        soft, boxes = np.stack([one.soft for one in some]), np.stack([one.box for one in some])
        masks = sam.decode_boxes(image, boxes, prompt_logits(soft, log_odds=log_odds))
        inside = SamMasks(masks.logits[..., :height, :width], masks.scores)
        chosen = choose(inside, torch.from_numpy(soft[:, :height, :width]).to(masks.logits.device))
        best.extend(masks.logits[i, k].clone() for i, k in enumerate(chosen))
    return Answers(image.frame, tuple(best))


def choose(masks: SamMasks, soft: Float[Tensor, "n h w"]) -> list[int]:
    """Take for every prompt the mask with the largest product of predicted IoU and agreement with the prompt.

    The agreement is the IoU of mask and soft mask, the latter counted with its weights; the predicted IoU counts as at
    least 0 and at most 1. Of equals the first wins.
    """
    inside = masks.logits > 0  # n k h w
    shared = (inside * soft[:, None]).sum((2, 3))
    union = inside.sum((2, 3)) + soft.sum((1, 2))[:, None] - shared
    agreement = torch.where(union > 0, shared / union, 0.0)  # n k
    return [int(k) for k in (masks.scores.clamp(0, 1) * agreement).argmax(1)]
