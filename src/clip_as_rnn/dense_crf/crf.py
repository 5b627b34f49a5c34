"""Fully connected conditional random field on an image, by mean-field inference.

Every pixel is joined to every other by Gaussian kernels over position and colour (Kraehenbuehl and Koltun, "Efficient
inference in fully connected CRFs with Gaussian edge potentials", 2011, equations in brackets theirs):

    E(x) = sum_i psi(x_i) + sum_(i<j) mu(x_i, x_j) sum_k w_k k(f_i, f_j)                            (1), (2)
    Q_i(l)  <-  softmax_l( -psi_i(l) - sum_l' mu(l, l') m_i(l') ),                                  (Algorithm 1)
    m_i(l)  =   sum_k w_k sum_j k(f_i, f_j) Q_j(l)                                                  the messages

with mu(l, l') = [l != l'] (Potts) unless another is given; then the exponent is -psi + m, up to a constant. The sums
over j are one filter per kernel on the permutohedral lattice, normalised on both sides: N^-1/2 K N^-1/2 with
N = diag(K 1). As in the authors' implementation, j = i is not left out. All filters are linear and the marginals of a
pixel sum to 1, so the messages about the last label follow from those about the others.

It knows nothing of CLIP, texts or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, prod
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clip_as_rnn.dense_crf import lattice_cpu, lattice_torch, mean_field_cpu, mean_field_torch
from clip_as_rnn.dense_crf.threads import Team
from clip_as_rnn.errors import InputError

Image: TypeAlias = npt.NDArray[Any] | Tensor  # uint8 is checked where it comes in
Array = TypeVar("Array", npt.NDArray[Any], Tensor)

SMALLEST_PROBABILITY = 1e-5  # what a probability of 0 counts as
IMAGE_AXES, RGB = 3, 3  # height, width, colours
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
    if images.ndim != 1 + IMAGE_AXES:
        field = DenseCrf(images, kernels)
        return field.infer(probabilities, iterations=iterations, unaries=unaries, compatibility=compatibility)
    if given.ndim != 1 + IMAGE_AXES or len(given) != len(images):
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

    Holds no result: calls do not influence each other and may come from several threads. On the processor it uses
    `threads` threads, by default as many as numba would (NUMBA_NUM_THREADS, or one for each processor).
    """

    def __init__(
        self,
        image: Image,
        kernels: Sequence[Kernel] = PAPER_KERNELS,
        *,
        device: torch.device | str | None = None,
        threads: int | None = None,
    ) -> None:
        pixels = _as_tensor(image, device)
        if pixels.ndim != IMAGE_AXES or pixels.shape[-1] != RGB or not pixels.numel() or pixels.dtype != torch.uint8:
            raise InputError(f"Expected a uint8 image (h, w, 3), got {pixels.dtype} of shape {tuple(pixels.shape)}.")
        self.size_hw = (pixels.shape[0], pixels.shape[1])
        self.device = pixels.device
        features = [kernel.features(pixels.permute(2, 0, 1)) for kernel in kernels]
        weights = [kernel.weight for kernel in kernels]
        self._terms: _Terms = (
            _ProcessorTerms(features, weights, prod(self.size_hw), threads)
            if self.device.type == "cpu"
            else _AcceleratorTerms(features, weights)
        )

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
            raise InputError(f"Expected probabilities {expected} like the image, got {tuple(energies.shape)}.")
        if unaries is None:
            energies = _energies_of(energies)
        else:
            _limits(energies, "unaries")
            energies = energies.float()
        labels = energies.shape[-3]
        coupling = None if compatibility is None else _coupling(compatibility, labels, self.device)
        problems = energies.reshape(-1, labels, prod(self.size_hw)).transpose(0, 1)  # n b p
        at_once = max(1, FLOATS_AT_ONCE // problems[:, 0].numel())
        groups = [problems[:, low : low + at_once].contiguous() for low in range(0, problems.shape[1], at_once)]
        marginals = [self._terms.infer(group, iterations, coupling) for group in groups]
        result = torch.cat(marginals, 1) if len(marginals) > 1 else marginals[0]
        result = result.transpose(0, 1).reshape(energies.shape)
        return result if isinstance(given, Tensor) else result.numpy()


class _Terms(Protocol):
    """The pairwise terms in the form that one kind of device wants."""

    def infer(self, energies: Tensor, iterations: int, coupling: Tensor | None) -> Tensor:
        """Return marginals (n, b, p)."""


class _ProcessorTerms:
    def __init__(self, features: Sequence[Tensor], weights: Sequence[float], pixels: int, threads: int | None) -> None:
        self._pixels, self._threads = pixels, threads
        with Team(threads) as team:
            self._lattices = [
                _build_on_processor(points, weight, team) for points, weight in zip(features, weights, strict=True)
            ]

    @cached_property
    def _everything(self) -> lattice_cpu.Floats:
        with Team(self._threads) as team:
            return mean_field_cpu.sum_everything(self._lattices, self._pixels, team)

    def infer(self, energies: Tensor, iterations: int, coupling: Tensor | None) -> Tensor:
        labels, count, _ = energies.shape
        everything = np.empty(0, np.float32) if mean_field_cpu.has_room(labels, count) else self._everything
        matrix = torch.empty(0, 0) if coupling is None else coupling
        problems = mean_field_cpu.Problems(energies.numpy(), everything, matrix.numpy())
        with Team(self._threads) as team:
            return torch.from_numpy(mean_field_cpu.infer(self._lattices, problems, iterations, team))


def _build_on_processor(features: Tensor, weight: float, team: Team) -> lattice_cpu.Lattice:
    return lattice_cpu.normalise(lattice_cpu.build_lattice(features.numpy(), team), weight, team)


class _AcceleratorTerms:
    def __init__(self, features: Sequence[Tensor], weights: Sequence[float]) -> None:
        self._lattices = [
            lattice_torch.build_lattice(points).normalise(weight)
            for points, weight in zip(features, weights, strict=True)
        ]

    def infer(self, energies: Tensor, iterations: int, coupling: Tensor | None) -> Tensor:
        return mean_field_torch.infer(self._lattices, energies, iterations, coupling)


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
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)  # torch knows no other arrays


def _limits(values: Tensor, name: str) -> tuple[float, float]:
    low, high = (float(limit) for limit in values.aminmax())
    if not isfinite(low + high):
        raise InputError(f"The {name} hold values that are not finite (NaN or infinity).")
    return low, high


def _energies_of(probabilities: Tensor) -> Tensor:
    low, high = _limits(probabilities, "probabilities")
    if low < -SLACK or high > 1 + SLACK:
        raise InputError(f"Expected probabilities in [0, 1], got values from {low:.4g} to {high:.4g}.")
    return probabilities.float().clamp(SMALLEST_PROBABILITY, 1).log_().neg_()


def _coupling(compatibility: npt.ArrayLike | Tensor, labels: int, device: torch.device) -> Tensor:
    matrix = torch.as_tensor(compatibility, dtype=torch.float32, device=device)
    if matrix.shape != (labels, labels):
        raise InputError(f"Expected a compatibility matrix ({labels}, {labels}), got {tuple(matrix.shape)}.")
    _limits(matrix, "compatibilities")
    return (matrix + matrix.T) / 2
