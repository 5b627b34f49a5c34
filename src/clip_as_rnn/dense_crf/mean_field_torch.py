"""Mean-field inference on accelerators, by whole tensors; the equations are in `crf`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clip_as_rnn.dense_crf.lattice_torch import CHANNELS, build_lattice


class TorchMeanField:
    """Mean field over fixed lattices, on the device of their points."""

    def __init__(self, features: Sequence[Tensor], weights: Sequence[float]) -> None:
        self._lattices = [
            build_lattice(points).normalize(weight) for points, weight in zip(features, weights, strict=True)
        ]

    def infer(self, energies: Tensor, iterations: int, coupling: Tensor | None) -> Tensor:
        """Return the marginals (n, b, p) of b problems with energies (n, b, p), which they may overwrite."""
        all_label_messages = self._filter(torch.ones_like(energies[0, :1]))  # 1 p: K 1, what all labels send together
        marginals = torch.softmax(-energies, 0)
        for _ in range(iterations):
            for channels in torch.split(marginals[:-1].flatten(0, 1), CHANNELS):
                channels.copy_(self._filter(channels))
            torch.sub(all_label_messages, marginals[:-1].sum(0), out=marginals[-1])
            if coupling is not None:
                marginals = -torch.tensordot(coupling, marginals, 1)
            _softmax_in_place(marginals.sub_(energies))
        return marginals

    def infer_labels(self, unaries: Callable[[int, int], Tensor], labels: int, iterations: int) -> Tensor:
        """Return the most probable labels (p,); `unaries(first, last)` gives the energies (last - first, p)."""
        blocks = [(first, min(first + CHANNELS, labels)) for first in range(0, labels, CHANNELS)]
        logits = torch.cat([-unaries(first, last) for first, last in blocks])
        for _ in range(iterations):
            _softmax_in_place(logits)
            for first, last in blocks:
                logits[first:last] = self._filter(logits[first:last]) - unaries(first, last)
        return logits.argmax(0)

    def _filter(self, values: Tensor) -> Tensor:
        """Sum the messages of all kernels, (channels, p)."""
        return sum((lattice.filter(values) for lattice in self._lattices), torch.zeros_like(values))


def _softmax_in_place(logits: Tensor) -> None:
    logits.sub_(logits.amax(0)).exp_()
    logits.div_(logits.sum(0))
