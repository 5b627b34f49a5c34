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


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """The parts of one image's masks.

    Attributes:
        state: of which they are.
        maps: the last proposals of the texts that passed.
        numbers: of the part of its text's mask that a patch belongs to, from 1; 0: to none.
        rounds: of each round, the scores of one part per text.
    """

    state: State
    maps: PatchMaps
    numbers: Int[ndarray, "n gh gw"]
    rounds: list[Scores] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Count the parts of the text that has most."""
        return int(self.numbers.max(initial=0))

    def to_classify(self) -> MasksToClassify:
        """Put the next part of each text before the classifier; the first one again where a text has no other."""
        counts = self.numbers.max((1, 2))
        asked = np.where(counts > len(self.rounds), len(self.rounds) + 1, 1)
        return self.state.to_classify(self.maps * torch.from_numpy(self.numbers == asked[:, None, None]))

    def weights(self, exponent: float) -> Float[Tensor, "n gh gw"]:
        """Give every patch (s / s_best)^exponent, s being its part's score; 1 where it belongs to none."""
        scores = np.stack(self.rounds, axis=1).astype(np.float64)
        best = scores.max(1, keepdims=True)
        shares = np.divide(scores, best, out=np.ones_like(scores), where=best > 0)
        of_part = np.concatenate([np.ones_like(best), shares**exponent], axis=1)
        return torch.from_numpy(of_part[np.arange(len(shares))[:, None, None], self.numbers])


def weigh_parts(
    states: Sequence[State], classifier: MaskClassifier, eta: float, exponent: float, tick: Tick = ignore_tick
) -> None:
    """Judge the parts of the last masks of converged states, and note in each how much its patches count.

    A part is what hangs together (8 neighbors) where a proposal is above `eta`. Every round judges one part of each
    text, of all images at once, against the texts that passed: as many rounds as the most fragmented mask has parts.
    An image whose masks are all in one part is left alone.

    Args:
        states: whose `part_weights`, (n, gh, gw) in [0, 1], are set.
        classifier: that judged the whole masks.
        eta: in [0, 1].
        exponent: of a part's score over the best of its text's parts; above 0.
        tick: told how many rounds are done, of how many.
    """
    images = [_split(state, eta) for state in states if len(state.active)]
    images = [image for image in images if image.most > 1]
    total = max((image.most for image in images), default=0)
    for done in range(total):
        tick(done, total)
        waiting = [image for image in images if image.most > done]
        masks = [image.to_classify() for image in waiting]
        scores = classifier.classify(masks, lambda *_, done=done: tick(done, total))
        for image, of_round in zip(waiting, scores, strict=True):
            image.rounds.append(of_round)
    for image in images:
        image.state.part_weights = image.weights(exponent)


def _split(state: State, eta: float) -> _Parts:
    """Number the parts of each of a state's last masks."""
    last = state.steps[-1]
    maps = last.maps[list(last.kept)]
    masks = (maps > eta).cpu().numpy().astype(np.uint8)
    return _Parts(state, maps, np.stack([cv2.connectedComponents(mask, connectivity=8)[1] for mask in masks]))
