"""Fully connected conditional random field on an image, by mean-field inference.

Every pixel is joined to every other by Gaussian kernels over position and colour (Kraehenbuehl and Koltun, "Efficient
inference in fully connected CRFs with Gaussian edge potentials", 2011, equations in brackets theirs):

    E(x) = sum_i psi_u(x_i) + sum_(i<j) mu(x_i, x_j) sum_k w_k k(f_i, f_j)                       (1), (2)
    Q_i(l)  <-  softmax_l( -psi_u(l) - sum_l' mu(l, l') sum_k w_k sum_j k(f_i, f_j) Q_j(l') )    (Algorithm 1)

with mu(l, l') = [l != l'] (Potts) unless another is given. The sums over j are one filter per kernel on the
permutohedral lattice, normalised on both sides, N^-1/2 K N^-1/2 with N = diag(K 1). As in the authors' implementation j = i is not
left out of the sum.

It knows nothing of CLIP, texts or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clip_as_rnn.errors import InputError
from clip_as_rnn.refine import lattice_cpu, lattice_torch

Image: TypeAlias = npt.NDArray[np.uint8] | Tensor
Array = TypeVar("Array", npt.NDArray[Any], Tensor)

SMALLEST_PROBABILITY = 1e-5  # what a probability of 0 counts as
SLACK = 1e-3  # by how much rounding may carry a probability out of [0, 1]
FLOATS_AT_ONCE = 1 << 26  # of marginals; more problems than that are inferred one group after another


def _check_kernel(weight: float, **deviations: float) -> None:
    for name, value in deviations.items():
        if not (isfinite(value) and value > 0):
            raise InputError(f"Expected a standard deviation `{name}` above 0, got {value}.")
    if not isfinite(weight):
        raise InputError(f"Expected a finite kernel weight, got {weight}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Smoothness: pixels near each other agree.

    `xy` is a standard deviation in pixels; `weight` is w_k, the cost of a disagreement.
    """

    xy: float
    weight: float

    def __post_init__(self) -> None:
        _check_kernel(self.weight, xy=self.xy)

    def features(self, image: Tensor) -> Tensor:
        """Lay out the pixels (3, h, w) as points (2, h w), in standard deviations."""
        return _positions(image, self.xy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bilateral:
    """Appearance: pixels of like colour agree, within a distance.

    `xy` is a standard deviation in pixels, `rgb` one in grey levels (0 to 255); `weight` is w_k.
    """

    xy: float
    rgb: float
    weight: float

    def __post_init__(self) -> None:
        _check_kernel(self.weight, xy=self.xy, rgb=self.rgb)

    def features(self, image: Tensor) -> Tensor:
        """Lay out the pixels (3, h, w) as points (5, h w), in standard deviations."""
        return torch.cat([_positions(image, self.xy), _quotient(image.flatten(1).float(), self.rgb)])


Kernel: TypeAlias = Gaussian | Bilateral
PAPER_KERNELS: tuple[Kernel, ...] = (Gaussian(xy=1, weight=3), Bilateral(xy=67, rgb=3, weight=4))


def refine(
    image: Image,
    probabilities: Array | None = None,
    *,
    kernels: Sequence[Kernel] = PAPER_KERNELS,
    iterations: int = 10,
    unaries: Array | None = None,
    compatibility: npt.ArrayLike | Tensor | None = None,
) -> Array:
    """Sharpen label probabilities along the edges of an image.

    Args:
        image: (h, w, 3) uint8, or (b, h, w, 3) for a batch.
        probabilities: (n, h, w) in [0, 1] for n labels; they need not sum to 1 and count as 1e-5 at least. With a
            leading batch axis, (b, n, h, w): b problems, on one image each or all on the same one.
        kernels: any number of pairwise terms.
        iterations: mean-field updates; 0 gives the softmax of the negative unaries.
        unaries: energies (-log of probabilities) of the same shape, instead of `probabilities`.
        compatibility: (n, n) cost mu of two labels meeting; 1 minus the identity (Potts) if None. Two pixels have no
            order, so only its symmetric part counts.

    Returns:
        Marginals that sum to 1 over the labels, float32, shaped like the probabilities and in their kind of container,
        on their device; the inputs stay as they are.

    Raises:
        InputError: shapes that do not fit, values that are not finite or not probabilities, an image that is not uint8.
    """
    given = _given(probabilities, unaries)
    device = given.device if isinstance(given, Tensor) else torch.device("cpu")
    images = _as_tensor(image, device)
    if images.ndim == 3:  # noqa: PLR2004
        crf = DenseCrf(images, kernels)
        return crf.infer(probabilities, iterations=iterations, unaries=unaries, compatibility=compatibility)
    if given.ndim != 4 or len(given) != len(images):  # noqa: PLR2004
        raise InputError(
            f"Images of shape {tuple(images.shape)} need probabilities (b, n, h, w), got {tuple(given.shape)}."
        )
    rows = [
        DenseCrf(one, kernels).infer(
            None if probabilities is None else probabilities[i],
            iterations=iterations,
            unaries=None if unaries is None else unaries[i],
            compatibility=compatibility,
        )
        for i, one in enumerate(images)
    ]
    return torch.stack(rows) if isinstance(given, Tensor) else np.stack(rows)


class DenseCrf:
    """The pairwise terms of one image, on one device: built once, used for any number of problems on that image.

    Holds no result: calls do not influence each other and may come from several threads.
    """

    def __init__(
        self, image: Image, kernels: Sequence[Kernel] = PAPER_KERNELS, *, device: torch.device | str | None = None
    ) -> None:
        pixels = _as_tensor(image, device)
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.numel() == 0 or pixels.dtype != torch.uint8:  # noqa: PLR2004
            raise InputError(f"Expected a uint8 image (h, w, 3), got {pixels.dtype} of shape {tuple(pixels.shape)}.")
        self.size_hw = (pixels.shape[0], pixels.shape[1])
        self.device = pixels.device
        planes = pixels.permute(2, 0, 1)  # 3 h w
        self._filters = tuple(_build_filter(kernel.features(planes), kernel.weight) for kernel in kernels)
        ones = torch.ones(1, pixels.shape[0] * pixels.shape[1], device=self.device)
        self._total = self._filtered(ones)[0]  # what all labels together send to a pixel

    def infer(
        self,
        probabilities: Array | None = None,
        *,
        iterations: int = 10,
        unaries: Array | None = None,
        compatibility: npt.ArrayLike | Tensor | None = None,
    ) -> Array:
        """Infer the marginals of one problem (n, h, w) or of several (b, n, h, w); arguments as in `refine`."""
        if iterations < 0:
            raise InputError(f"Expected a number of iterations of 0 or more, got {iterations}.")
        given = _given(probabilities, unaries)
        energies = _as_tensor(given, self.device)
        if energies.ndim not in {3, 4} or tuple(energies.shape[-2:]) != self.size_hw or energies.numel() == 0:
            expected = "(n, {0}, {1}) or (b, n, {0}, {1})".format(*self.size_hw)
            raise InputError(f"Expected probabilities {expected} as the image, got {tuple(energies.shape)}.")
        energies = _energies_of(energies) if unaries is None else _finite(energies, "unaries")
        labels = energies.shape[-3]
        coupling = None if compatibility is None else _coupling(compatibility, labels, self.device)
        problems = energies.reshape(-1, labels, self._total.numel()).transpose(0, 1)  # n b p
        group = max(1, FLOATS_AT_ONCE // problems[:, 0].numel())
        marginals = [self._mean_field(part.contiguous(), iterations, coupling) for part in problems.split(group, 1)]
        result = torch.cat(marginals, 1).transpose(0, 1).reshape(energies.shape)
        return result if isinstance(given, Tensor) else result.numpy()

    def _mean_field(self, energies: Tensor, iterations: int, coupling: Tensor | None) -> Tensor:
        """Iterate Algorithm 1 on energies (n, b, p)."""
        marginals = torch.softmax(-energies, 0)
        for _ in range(iterations):
            # A filter is linear and the marginals sum to 1, so the last label's message follows from the others'.
            messages = self._filtered(marginals[:-1].flatten(0, 1)).view_as(marginals[:-1])
            messages = torch.cat([messages, (self._total - messages.sum(0))[None]])
            if coupling is not None:
                messages = -torch.tensordot(coupling, messages, 1)
            marginals = torch.softmax(messages.sub_(energies), 0)
        return marginals

    def _filtered(self, values: Tensor) -> Tensor:
        """Sum the kernels' responses to `values` (c, p)."""
        messages = torch.zeros_like(values)
        for one in self._filters:
            one.add_filtered(values, messages)
        return messages


class _Filter(Protocol):
    """A normalised kernel on the pixels of one image."""

    def add_filtered(self, values: Tensor, out: Tensor) -> None:
        """Add the filtered values (c, p) to `out` (c, p)."""


@dataclass(frozen=True, slots=True)
class _HostFilter:
    """The compiled lattice behind tensors in the processor's memory."""

    table: lattice_cpu.Lattice

    def add_filtered(self, values: Tensor, out: Tensor) -> None:
        self.table.add_filtered(values.numpy(), out.numpy())


def _build_filter(features: Tensor, weight: float) -> _Filter:
    if features.device.type == "cpu":
        return _HostFilter(lattice_cpu.build_lattice(features.numpy()).normalise(weight))
    return lattice_torch.build_lattice(features).normalise(weight)


def _positions(image: Tensor, xy: float) -> Tensor:
    """Columns and rows of the pixels (2, h w) in units of `xy`."""
    height, width = image.shape[-2:]
    across = _quotient(torch.arange(width, device=image.device).float(), xy)
    down = _quotient(torch.arange(height, device=image.device).float(), xy)
    return torch.stack([across.expand(height, width), down[:, None].expand(height, width)]).flatten(1)


def _quotient(values: Tensor, divisor: float) -> Tensor:
    """Divide exactly: by a plain number, CUDA would multiply by its rounded inverse."""
    return values / torch.full((), divisor, device=values.device)


def _given(probabilities: Array | None, unaries: Array | None) -> Array:
    if probabilities is not None and unaries is None:
        return probabilities
    if unaries is not None and probabilities is None:
        return unaries
    raise InputError("Expected either probabilities or unaries, got both or neither.")


def _as_tensor(array: npt.NDArray[Any] | Tensor, device: torch.device | str | None) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().to(device)
    return torch.from_numpy(np.array(array, order="C")).to(device)  # a copy: torch wants positive strides, may write


def _finite(values: Tensor, name: str) -> Tensor:
    if not values.isfinite().all():
        raise InputError(f"The {name} hold values that are not finite (NaN or infinity).")
    return values.float()


def _energies_of(probabilities: Tensor) -> Tensor:
    values = _finite(probabilities, "probabilities")
    low, high = float(values.min()), float(values.max())
    if low < -SLACK or high > 1 + SLACK:
        raise InputError(f"Expected probabilities in [0, 1], got values from {low:.4g} to {high:.4g}.")
    return -values.clamp(SMALLEST_PROBABILITY, 1).log()


def _coupling(compatibility: npt.ArrayLike | Tensor, labels: int, device: torch.device) -> Tensor:
    matrix = torch.as_tensor(compatibility, dtype=torch.float32, device=device)
    if matrix.shape != (labels, labels):
        raise InputError(f"Expected a compatibility matrix ({labels}, {labels}), got {tuple(matrix.shape)}.")
    matrix = _finite(matrix, "compatibilities")
    return (matrix + matrix.T) / 2
