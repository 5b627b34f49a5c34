"""The permutohedral lattice: Gaussian filtering in many dimensions, in time linear in the number of points.

For n points with features f_i (d numbers each, in standard deviations) and values v_i, filtering approximates

    out_i = sum_j exp(-|f_i - f_j|^2 / 2) v_j                                  in O(n d^2) instead of O(n^2 d),

after Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice", 2010 (pages below are
theirs). The lattice is the projection of the grid (d + 1) Z^(d + 1) onto the plane H = {x : x . 1 = 0}:

    embed   x = E f, a point of H, lies in one simplex; its d + 1 corners are lattice vertices             (p. 5)
    splat   every vertex sums b v over its points, with b the barycentric coordinates                       (p. 4)
    blur    along each of the d + 1 lattice directions in turn:  v <- v + (v_before + v_after) / 2           (p. 6)
    slice   out = alpha sum_k b_k v_k over the corners,  alpha = 1 / (1 + 2^-d)                              (p. 6)

Only vertices that are a corner of some point's simplex exist; all others hold zero, during the blur too.

This module holds what every implementation of it shares: how vertices are named. `lattice_cpu` is the compiled one for
processors, `lattice_torch` the one for accelerators.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clip_as_rnn.errors import InputError

Keys = npt.NDArray[np.int64]

KEY_BITS = 60  # leaves room for a color next to a key in 63 bits
MARGIN = 3  # how many quotients a corner or its neighbor may lie outside of the span of the points


class Geometry(NamedTuple):
    """How points become vertices, and vertices integers.

    The d + 1 coordinates of a vertex are congruent modulo d + 1; that remainder is its color k (the paper's
    "remainder-k point"; every simplex has one corner of each color). The color and the first d quotients
    x_i // (d + 1) name the vertex, for its coordinates sum to zero. They are packed into one key:

        key = sum_i (quotient_i - origin_i) stride_i
    """

    scale: npt.NDArray[np.float32]  # (d,) diagonal of E (p. 5) times the deviation of the blur (p. 6)
    origin: Keys  # (d,)
    stride: Keys  # (d,)
    key_count: int  # keys of all corners, and of their neighbors, lie in [0, key_count)

    def steps(self, color: int) -> Keys:
        """Key differences from a vertex to the one before it, (d + 1,), one for each direction.

        That one is lower by 1 in all coordinates but one, which is higher by d. So color k becomes k - 1 and the
        quotients stay, but for the odd one out, which rises; from color 0 to d, all the others fall instead.
        """
        rises = np.append(self.stride, 0)
        return rises if color > 0 else rises - self.stride.sum()


def plan_geometry(low: npt.ArrayLike, high: npt.ArrayLike) -> Geometry:
    """Lay out the keys for features between `low` and `high`, (d,) each.

    Raises:
        InputError: the features span so many standard deviations that keys do not fit 64 bits.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    index = np.arange(1, len(low) + 1)
    scale = np.sqrt(2 / 3) * (len(low) + 1) / np.sqrt(index * (index + 1))
    elevation = (np.triu(np.ones((len(low) + 1, len(low)))) - np.diag(index, -1)[:, :-1]) * scale  # E
    ends = np.stack([elevation * low, elevation * high]) / (len(low) + 1)  # 2, d + 1, d
    origin = np.floor(ends.min(0).sum(1))[:-1] - MARGIN
    span = np.ceil(ends.max(0).sum(1))[:-1] + MARGIN + 1 - origin
    if not np.log2(span).sum() <= KEY_BITS:
        raise InputError(
            f"A kernel's standard deviations are too small: the features span {np.max(high - low):.3g} of them; "
            "use larger ones."
        )
    sizes = np.cumprod([1, *span.astype(np.int64)])
    return Geometry(scale.astype(np.float32), origin.astype(np.int64), sizes[:-1].astype(np.int64), int(sizes[-1]))
