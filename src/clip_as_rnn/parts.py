"""After the recurrence: each connected part of a mask is judged by itself (ours).

A text's mask is judged as a whole, so a piece of something else passes beside a large part that is right. Judged alone
it scores less, and its proposal counts less where texts compete for pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from clip_as_rnn.classifiers.base import MaskClassifier, MasksToClassify
from clip_as_rnn.encoders.base import Tick, ignore_tick
from clip_as_rnn.state import State
from clip_as_rnn.types import PatchMaps, Scores

_LEAST = 1e-6  # of a text's best score, which others are divided by


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """The parts of one image's masks.

    Attributes:
        state: of which they are.
        maps: the last proposals of the texts that passed.
        parts: which part of its text's mask a patch belongs to, from 1; 0: to none.
        rounds: of each round, the scores of one part per text.
    """

    state: State
    maps: PatchMaps
    parts: Int[ndarray, "n gh gw"]
    rounds: list[Scores] = field(default_factory=list)

    def to_classify(self) -> MasksToClassify:
        """Put the next part of each text before the classifier; the first one again where a text has no other."""
        counts = self.parts.max((1, 2))
        numbers = np.where(counts > len(self.rounds), len(self.rounds) + 1, 1)
        inside = torch.from_numpy(self.parts == numbers[:, None, None])
        return self.state.to_classify(self.maps * inside)

    def weigh(self, exponent: float) -> Float[Tensor, "n gh gw"]:
        """Give every patch (s / s_best)^exponent, s being its part's score; 1 where it belongs to none."""
        scores = np.stack(self.rounds, axis=1)
        shares = scores / np.maximum(scores.max(1, keepdims=True), _LEAST)
        of_part = np.concatenate([np.ones((len(shares), 1)), shares**exponent], axis=1)
        rows = np.arange(len(shares))[:, None, None]
        return torch.from_numpy(of_part[rows, self.parts])


def weigh_parts(
    states: Sequence[State], classifier: MaskClassifier, eta: float, exponent: float, tick: Tick = ignore_tick
) -> None:
    """Judge the parts of the last masks of converged states, and note in each how much its patches count.

    A part is what hangs together (8 neighbors) where a proposal is at least `eta`. Every round judges one part of each
    text, of all images at once, against the same texts as the whole masks.
    """
    images = [_split(state, eta) for state in states if len(state.active)]
    while waiting := [image for image in images if image.parts.max(initial=0) > len(image.rounds)]:
        scores = classifier.classify([image.to_classify() for image in waiting], tick)
        for image, of_round in zip(waiting, scores, strict=True):
            image.rounds.append(of_round)
    for image in images:
        if image.rounds:
            image.state.part_weights = image.weigh(exponent)


def _split(state: State, eta: float) -> _Image:
    """Number the parts of each of a state's last masks."""
    last = state.steps[-1]
    maps = last.maps[list(last.kept)]
    masks = (maps >= eta).cpu().numpy().astype(np.uint8)
    return _Image(state, maps, np.stack([cv2.connectedComponents(mask, connectivity=8)[1] for mask in masks]))
