"""Fully connected conditional random field on an image, by mean-field inference.

Every pixel is joined to every other by Gaussian kernels over position and color (Kraehenbuehl and Koltun, "Efficient
inference in fully connected CRFs with Gaussian edge potentials", 2011, equations in brackets theirs):

    E(x) = sum_i psi(x_i) + sum_(i<j) mu(x_i, x_j) sum_k w_k k(f_i, f_j)                            (1), (2)
    Q_i(l)  <-  softmax_l( -psi_i(l) - sum_l' mu(l, l') m_i(l') ),                                  (Algorithm 1)
    m_i(l)  =   sum_k w_k sum_j k(f_i, f_j) Q_j(l)                                                  the messages

with mu(l, l') = [l != l'] (Potts) unless another is given; then the exponent is -psi + m, up to a constant. The sums
over j are one filter per kernel on the permutohedral lattice, normalized on both sides: N^-1/2 K N^-1/2 with
N = diag(K 1). As in the authors' implementation, j = i is not left out. All filters are linear and the marginals of a
pixel sum to 1, so the messages about the last label follow from those about the others.
"""

from collections.abc import Callable, Sequence
from math import isfinite, prod
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clip_as_rnn.dense_crf.kernels import PAPER_KERNELS, Bilateral, Gaussian, Kernel, check_weight
from clip_as_rnn.dense_crf.mean_field_cpu import CpuMeanField
from clip_as_rnn.dense_crf.mean_field_torch import TorchMeanField
from clip_as_rnn.errors import InputError

__all__ = ["Bilateral", "DenseCrf", "Gaussian", "refine"]

Image: TypeAlias = npt.NDArray[Any] | Tensor  # uint8 is checked where it comes in
Array = TypeVar("Array", npt.NDArray[Any], Tensor)

SMALLEST_PROBABILITY = 1e-5  # what a probability of 0 counts as
IMAGE_AXES, RGB = 3, 3  # height, width, colors
SLACK = 1e-3  # by how much rounding may carry a probability out of [0, 1]
FLOATS_AT_ONCE = 1 << 26  # of marginals; more problems than that are inferred one group after another


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
        self.shape: tuple[int, ...] = tuple(pixels.shape[:2])
        self.device = pixels.device
        features = [kernel.features(pixels.permute(2, 0, 1)) for kernel in kernels]
        self._build(features, [kernel.weight for kernel in kernels], threads)

    @classmethod
    def from_features(
        cls,
        features: Sequence[npt.NDArray[Any] | Tensor],
        weights: Sequence[float],
        shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        threads: int | None = None,
    ) -> "DenseCrf":
        """Join points of any kind instead of the pixels of an image: the frames of a clip, a volume, a point cloud.

        Args:
            features: for each kernel the points (d, p) in its standard deviations, of any dimension d from 1 on.
            weights: for each kernel w_k.
            shape: how the p points are laid out in probabilities and marginals, such as (t, h, w).
            device: where to compute; by default where the first features are.
            threads: on the processor.

        Raises:
            InputError: numbers or shapes that do not fit, no points, or features that are not finite or span too much.
        """
        field = cls.__new__(cls)
        field.shape = tuple(int(size) for size in shape)
        points = [_as_tensor(one, device) for one in features]
        field.device = points[0].device if points else torch.device(device or "cpu")
        if len(points) != len(weights):
            raise InputError(f"Expected one weight per kernel, got {len(weights)} weights for {len(points)} kernels.")
        for one, weight in zip(points, weights, strict=True):
            check_weight(weight)
            if one.numel() == 0 or one.shape[1:] != (prod(field.shape),):
                raise InputError(
                    f"Expected features (d, {prod(field.shape)}) for points laid out as {field.shape}, got "
                    f"{tuple(one.shape)}."
                )
            _limits(one, "features")
        field._build([one.to(field.device, torch.float32) for one in points], weights, threads)
        return field

    def _build(self, features: Sequence[Tensor], weights: Sequence[float], threads: int | None) -> None:
        self._mean_field: _MeanField = (
            CpuMeanField([one.contiguous() for one in features], weights, prod(self.shape), threads)
            if self.device.type == "cpu"
            else TorchMeanField(features, weights)
        )

    def infer(
        self,
        probabilities: Array | None = None,
        *,
        iterations: int = 10,
        unaries: Array | None = None,
        compatibility: npt.ArrayLike | Tensor | None = None,
        overwrite: bool = False,
    ) -> Array:
        """Infer the marginals of one problem (n, h, w) or of several (b, n, h, w); arguments as in `refine`.

        With `overwrite`, a contiguous float32 array on this device may be lost: its memory is used for the marginals.
        """
        _check_iterations(iterations)
        given = _given(probabilities, unaries)
        values = _as_tensor(given, self.device)
        axes = len(self.shape)
        if values.ndim not in {axes + 1, axes + 2} or tuple(values.shape[-axes:]) != self.shape or not values.numel():
            size = ", ".join(map(str, self.shape))
            raise InputError(
                f"Expected probabilities (n, {size}) or (b, n, {size}) like the image, got {tuple(values.shape)}."
            )
        energies = _energies(values, is_energy=unaries is not None, overwrite=overwrite)
        labels = energies.shape[-1 - axes]
        coupling = None if compatibility is None else _coupling(compatibility, labels, self.device)
        problems = energies.reshape(-1, labels, prod(self.shape)).transpose(0, 1)  # n b p
        at_once = max(1, FLOATS_AT_ONCE // problems[:, 0].numel())
        groups = [problems[:, low : low + at_once].contiguous() for low in range(0, problems.shape[1], at_once)]
        marginals = [self._mean_field.infer(group, iterations, coupling) for group in groups]
        result = torch.cat(marginals, 1) if len(marginals) > 1 else marginals[0]
        result = result.transpose(0, 1).reshape(energies.shape)
        return result if isinstance(given, Tensor) else result.numpy()

    def infer_labels(self, probabilities: Callable[[int, int], Tensor], labels: int, *, iterations: int = 10) -> Tensor:
        """Infer the most probable label of each pixel, (h, w) int64, where all probabilities would be too many to keep.

        Holds one float per label and pixel, where `infer` and what it is given take two. Ties go to the earlier label.

        Args:
            probabilities: probabilities(first, last) gives those of labels first to last - 1, (last - first, h, w);
                called for each label once and once more per iteration, from several threads.
            labels: how many there are, 1 or more.
            iterations: mean-field updates.

        Raises:
            InputError: probabilities that do not fit or are none, no labels, a negative number of iterations.
        """
        _check_iterations(iterations)
        if labels < 1:
            raise InputError(f"Expected one label or more, got {labels}.")

        def unaries(first: int, last: int) -> Tensor:
            values, expected = probabilities(first, last).detach(), (last - first, *self.shape)
            if values.shape != expected:
                raise InputError(f"Expected probabilities {expected}, got {tuple(values.shape)}.")
            return _energies(values.to(self.device), is_energy=False, overwrite=False).flatten(1)

        return self._mean_field.infer_labels(unaries, labels, iterations).view(self.shape)


class _MeanField(Protocol):
    """Mean-field inference as one kind of device does it best."""

    def infer(self, energies: Tensor, iterations: int, coupling: Tensor | None) -> Tensor:
        """Return marginals (n, b, p); the energies may be overwritten."""

    def infer_labels(self, unaries: Callable[[int, int], Tensor], labels: int, iterations: int) -> Tensor:
        """Return the most probable labels (p,); `unaries` gives the energies of some labels, (last - first, p)."""


def _check_iterations(iterations: int) -> None:
    if iterations < 0:
        raise InputError(f"Expected a number of iterations of 0 or more, got {iterations}.")


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


def _energies(values: Tensor, *, is_energy: bool, overwrite: bool) -> Tensor:
    """Turn probabilities or unaries into energies that may be overwritten."""
    low, high = _limits(values, "unaries" if is_energy else "probabilities")
    if not is_energy and (low < -SLACK or high > 1 + SLACK):
        raise InputError(f"Expected probabilities in [0, 1], got values from {low:.4g} to {high:.4g}.")
    if not (overwrite and values.dtype == torch.float32 and values.is_contiguous()):
        values = values.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return values if is_energy else values.clamp_(SMALLEST_PROBABILITY, 1).log_().neg_()


def _coupling(compatibility: npt.ArrayLike | Tensor, labels: int, device: torch.device) -> Tensor:
    matrix = torch.as_tensor(compatibility, dtype=torch.float32, device=device)
    if matrix.shape != (labels, labels):
        raise InputError(f"Expected a compatibility matrix ({labels}, {labels}), got {tuple(matrix.shape)}.")
    _limits(matrix, "compatibilities")
    return (matrix + matrix.T) / 2
