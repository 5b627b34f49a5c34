"""Mean-field inference on accelerators, by whole tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clip_as_rnn.dense_crf.lattice_torch import TorchLattice


def infer(lattices: Sequence[TorchLattice], energies: Tensor, iterations: int, coupling: Tensor | None) -> Tensor:
    """Return the marginals (n, b, p) of b problems after some iterations; the equations are in `crf`."""

    def filtered(values: Tensor) -> Tensor:
        return sum((lattice.filter(values) for lattice in lattices), torch.zeros_like(values))

    everything = filtered(torch.ones_like(energies[0, :1]))  # what all labels together send, K 1
    marginals = torch.softmax(-energies, 0)
    for _ in range(iterations):
        messages = filtered(marginals[:-1].flatten(0, 1)).view_as(marginals[:-1])
        messages = torch.cat([messages, (everything - messages.sum(0))[None]])
        if coupling is not None:
            messages = -torch.tensordot(coupling, messages, 1)
        marginals = torch.softmax(messages - energies, 0)
    return marginals
