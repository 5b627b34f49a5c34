"""Kernels that cannot be are refused in a sentence."""

import pytest

from clip_as_rnn.dense_crf.crf import Bilateral, Gaussian
from clip_as_rnn.errors import InputError


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan"), float("inf")])
def test_kernels_need_positive_deviations(deviation: float) -> None:
    with pytest.raises(InputError, match="standard deviation `xy` above 0"):
        Gaussian(xy=deviation, weight=1)
    with pytest.raises(InputError, match="standard deviation `rgb` above 0"):
        Bilateral(xy=1, rgb=deviation, weight=1)


def test_kernels_need_finite_weights() -> None:
    with pytest.raises(InputError, match="finite kernel weight, got nan"):
        Gaussian(xy=1, weight=float("nan"))
