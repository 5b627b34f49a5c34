"""The permutohedral lattice on torch tensors, for accelerators: the filter of `lattice_cpu`, without a hash table.

Vertices are found by sorting the keys of all corners; their neighbors by binary search. The splat sums each vertex's
points in one order (a segmented sum, no atomic additions), so results repeat exactly.

It runs on any device; on the processor `lattice_cpu` is faster.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from clip_as_rnn.dense_crf.lattice import Geometry, plan_geometry

CHANNELS = 8  # filtered at once: bounds the memory of the gathered values, 4 (d + 1) n bytes each


@dataclass(frozen=True, slots=True, eq=False)
class TorchLattice:
    """The tables that filter any values over one fixed set of n points with m vertices; built by `build_lattice`."""

    starts: Tensor  # (m + 1,) where each vertex's entries begin
    points: Tensor  # ((d + 1) n,) the point of each entry
    entry_weights: Tensor  # ((d + 1) n,)
    corners: Tensor  # (d + 1, n) the vertices of each point
    corner_weights: Tensor  # (d + 1, n)
    neighbors: Tensor  # (d + 1, m, 2); m stands for "none"

    def filter(self, values: Tensor) -> Tensor:
        """Filter `values` (channels, n)."""
        return torch.cat([self._filtered(block.T.contiguous()).T for block in torch.split(values, CHANNELS)])

    def _filtered(self, values: Tensor) -> Tensor:
        entries = values[self.points] * self.entry_weights[:, None]  # (d + 1) n, c
        vertices = torch.segment_reduce(entries, "sum", offsets=self.starts, axis=0)
        nothing = vertices.new_zeros(1, vertices.shape[1])  # what a vertex that does not exist holds
        for pairs in self.neighbors:
            padded = torch.cat([vertices, nothing])
            vertices = torch.add(vertices, padded[pairs].sum(1), alpha=0.5)
        filtered = vertices[self.corners[0]] * self.corner_weights[0][:, None]
        for corner, weight in zip(self.corners[1:], self.corner_weights[1:], strict=True):
            filtered.addcmul_(vertices[corner], weight[:, None])
        return filtered

    def normalize(self, weight: float) -> "TorchLattice":
        """Scale the filter K to weight * N^-1/2 K N^-1/2 with N = diag(K 1)."""
        n = self.corners.shape[1]
        root = self._filtered(self.corner_weights.new_ones(n, 1))[:, 0].add(1e-20).rsqrt()
        return TorchLattice(
            self.starts,
            self.points,
            self.entry_weights * root[self.points],
            self.corners,
            self.corner_weights * (root * weight),
            self.neighbors,
        )


def build_lattice(features: Tensor) -> TorchLattice:
    """Build the lattice of points (d, n), in standard deviations: float32, finite.

    Raises:
        InputError: the features span too many standard deviations.
    """
    d, n = features.shape
    geometry = plan_geometry(features.amin(1).tolist(), features.amax(1).tolist())
    keys, weights = _embed(features, geometry)
    unique, inverse, counts = torch.unique(keys.flatten(), return_inverse=True, return_counts=True)
    order = inverse.argsort(stable=True)  # the entries by vertex, and within one in the order of the points
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    alpha = 1 / (1 + 2.0**-d)
    return TorchLattice(
        starts,
        order % n,
        weights.flatten()[order],
        inverse.view(d + 1, n),
        weights * alpha,
        _neighbors(unique, geometry),
    )


def _embed(features: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Find each point's simplex: keys and barycentric coordinates of its corners, (d + 1, n) each.

    Keys are those of `lattice.Geometry`, times d + 1, plus the color.
    """
    d, n = features.shape
    device = features.device
    elevated = features.new_empty(d + 1, n)
    total = features.new_zeros(n)
    for j in range(d, 0, -1):  # the order of these sums decides which simplex a point on a border belongs to
        scaled = features[j - 1] * float(geometry.scale[j - 1])
        elevated[j] = total - j * scaled
        total = total + scaled
    elevated[0] = total
    nearest = (elevated * (torch.ones((), device=device) / (d + 1))).round()
    offset = elevated - nearest * (d + 1)
    later = torch.ones(d + 1, d + 1, dtype=torch.bool, device=device).triu(1)
    rank = torch.zeros(d + 1, n, dtype=torch.int64, device=device)
    for i in range(d + 1):  # how many coordinates are larger; of equals, the earlier is the larger
        rank[i] = torch.where(later[i][:, None], offset > offset[i], offset >= offset[i]).sum(0) - 1
    rank += nearest.sum(0).long()
    step = (rank < 0).long() - (rank > d).long()
    rank += step * (d + 1)
    nearest += step
    offset = (elevated - nearest * (d + 1)) * (torch.ones((), device=device) / (d + 1))
    descending = offset.gather(0, rank.argsort(0))  # d + 1, n: by rank
    weights = torch.empty_like(descending)
    weights[1:] = (descending[:-1] - descending[1:]).flip(0)
    weights[0] = 1 - descending[0] + descending[-1]
    return _keys(nearest, rank, geometry), weights


def _keys(nearest: Tensor, rank: Tensor, geometry: Geometry) -> Tensor:
    d = len(geometry.stride)
    stride = torch.as_tensor(geometry.stride, device=nearest.device)[:, None]
    origin = torch.as_tensor(geometry.origin, device=nearest.device)[:, None]
    base = ((nearest[:d].long() - origin) * stride).sum(0)
    return torch.stack([(base - ((rank[:d] > d - k) * stride).sum(0)) * (d + 1) + k for k in range(d + 1)])


def _neighbors(unique: Tensor, geometry: Geometry) -> Tensor:
    """Look up the vertices before and after each vertex in every direction, (d + 1, m, 2)."""
    d = len(geometry.stride)
    stride = [*geometry.stride.tolist(), 0]
    color = unique % (d + 1)
    found = []
    for rise in stride:
        # Before: all coordinates fall by one, this one rises by d. Color 0 turns into d, and quotients borrow.
        before = unique + rise * (d + 1) - 1
        before = torch.where(color == 0, before + (d + 1) - sum(stride) * (d + 1), before)
        after = unique - rise * (d + 1) + 1
        after = torch.where(color == d, after - (d + 1) + sum(stride) * (d + 1), after)
        found.append(torch.stack([_find(unique, before), _find(unique, after)], 1))
    return torch.stack(found)


def _find(unique: Tensor, wanted: Tensor) -> Tensor:
    place = torch.searchsorted(unique, wanted).clamp_(max=len(unique) - 1)
    return torch.where(unique[place] == wanted, place, len(unique))
