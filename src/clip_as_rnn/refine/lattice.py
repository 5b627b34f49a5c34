"""High-dimensional Gaussian filtering on the permutohedral lattice, compiled for the CPU.

Computes, for n points with features f (d numbers each) and values v, an approximation of

    out_i = sum_j exp(-|f_i - f_j|^2 / 2) v_j                                  in O(n d^2) instead of O(n^2 d),

after Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice", 2010 (equations and
pages below are theirs). The lattice is the projection of the grid (d+1)Z^(d+1) onto the plane H_d = {x : x . 1 = 0}:

    embed   x = E f, a point of H_d, lies in one simplex; its d + 1 corners are lattice vertices
    splat   every vertex gathers b_ik v_i from its points, b the barycentric coordinates
    blur    along each of the d + 1 lattice directions in turn:  v <- v + (v_before + v_after) / 2
    slice   out_i = alpha sum_k b_ik v_k,  alpha = 1 / (1 + 2^-d)

Only vertices that are a corner of some point's simplex exist; all others hold zero, during the blur too.

It knows nothing of images, labels or random fields. Deterministic: every number is summed in one order, whatever the
number of threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from clip_as_rnn.errors import InputError

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]
Keys = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., object])
Result = TypeVar("Result")

TILE = 256  # points embedded at once: the inner loops run over them, so that they become vector instructions
LANES = 4  # channels filtered at once: they share every index that is read
FIRST_CAPACITY = 1 << 12  # slots of a hash table before it grows


def compiled(function: Function) -> Function:
    """Compile to machine code at the first call, keep it on disk, and let go of the interpreter's lock while it runs.

    Where neither the package's folder nor the user's cache can be written, the code lives as long as the process.
    """
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # numba found no folder for its cache
        return cast(Function, numba.njit(nogil=True)(function))


class Geometry(NamedTuple):
    """How points become lattice coordinates, and coordinates become one integer.

    All d + 1 coordinates of a vertex are congruent modulo d + 1; that remainder is the vertex's colour (the paper's
    "remainder-k point"). A vertex is its colour and the d quotients x_i // (d + 1) (the last one follows from the sum);
    the quotients are packed into a 64-bit key:  key = sum_i (quotient_i - origin_i) stride_i.
    """

    scale: Floats  # (d,) diagonal of E times the expected deviation of the blur (p. 5 and 6)
    origin: Keys  # (d,)
    stride: Keys  # (d,)


def plan_geometry(low: npt.ArrayLike, high: npt.ArrayLike) -> Geometry:
    """Lay out the keys for features between `low` and `high`, (d,) each.

    Raises:
        InputError: the features span so many standard deviations that vertices cannot be told apart in 64 bits.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    d = len(low)
    index = np.arange(1, d + 1)
    scale = np.sqrt(2 / 3) * (d + 1) / np.sqrt(index * (index + 1))
    elevation = np.triu(np.ones((d + 1, d))) - np.diag(index.astype(np.float64), -1)[:, :d]  # E without its scale
    ends = np.stack([elevation * scale * low, elevation * scale * high])  # 2, d + 1, d
    lowest = np.floor(ends.min(0).sum(-1) / (d + 1))[:d] - 3  # a corner and its neighbour are at most 3 away
    highest = np.ceil(ends.max(0).sum(-1) / (d + 1))[:d] + 3
    span = highest - lowest + 1
    if np.log2(span).sum() > 60:  # noqa: PLR2004
        raise InputError(
            "The kernel's standard deviations are too small for this image: the features span "
            f"{float((high - low).max()):.0f} of them; use larger ones."
        )
    stride = np.cumprod([1, *span[:-1].astype(np.int64)])
    return Geometry(scale.astype(np.float32), lowest.astype(np.int64), stride.astype(np.int64))


@compiled
def _embed(features: Floats, geometry: Geometry, keys: Keys, weights: Floats, span: tuple[int, int]) -> None:
    """Find each point's simplex: the keys (d+1, n) of its corners by colour and its barycentric coordinates (d+1, n)."""
    d = features.shape[0]
    period, inverse = np.float32(d + 1), np.float32(np.float32(1) / np.float32(d + 1))
    elevated = np.empty((d + 1, TILE), np.float32)
    nearest = np.empty((d + 1, TILE), np.float32)  # remainder-0 point, divided by d + 1
    offset = np.empty((d + 1, TILE), np.float32)
    rank = np.empty((d + 1, TILE), np.int32)
    total = np.empty(TILE, np.float32)
    for low in range(span[0], span[1], TILE):
        size = min(TILE, span[1] - low)
        total[:] = np.float32(0)
        for j in range(d, 0, -1):  # x = E f (p. 5), from the last coordinate to the first
            for p in range(size):
                scaled = features[j - 1, low + p] * geometry.scale[j - 1]
                elevated[j, p] = total[p] - np.float32(j) * scaled
                total[p] += scaled
        for p in range(size):
            elevated[0, p] = total[p]
            total[p] = np.float32(0)
        for i in range(d + 1):
            for p in range(size):
                nearest[i, p] = np.rint(inverse * elevated[i, p])
                total[p] += nearest[i, p]
                offset[i, p] = elevated[i, p] - nearest[i, p] * period
                rank[i, p] = np.int32(0)
        for i in range(d):
            for j in range(i + 1, d + 1):
                for p in range(size):
                    less = np.int32(offset[i, p] < offset[j, p])
                    rank[i, p] += less
                    rank[j, p] += np.int32(1) - less
        for i in range(d + 1):
            for p in range(size):  # rounding may leave the plane by a few steps: walk back along the ranks (p. 5)
                moved = rank[i, p] + np.int32(total[p])
                step = np.int32(moved < 0) - np.int32(moved > d)
                rank[i, p] = moved + step * np.int32(d + 1)
                nearest[i, p] += np.float32(step)
                offset[i, p] = (elevated[i, p] - nearest[i, p] * period) * inverse
        _corners(geometry, (nearest, offset, rank), keys[:, low : low + size], weights[:, low : low + size])


@compiled
def _corners(geometry: Geometry, simplex: tuple[Floats, Floats, Indices], keys: Keys, weights: Floats) -> None:
    """Write the corner of every colour: the remainder-k point lowers the coordinates of the k highest ranks (p. 4)."""
    nearest, offset, rank = simplex
    d = keys.shape[0] - 1
    for k in range(d + 1):
        for p in range(keys.shape[1]):
            keys[k, p] = 0
            weights[k, p] = np.float32(1 if k == 0 else 0)
        for i in range(d + 1):
            for p in range(keys.shape[1]):  # b_k = y_(d-k) - y_(d+1-k), and b_0 closes the sum to 1 (p. 5)
                weights[k, p] += offset[i, p] if rank[i, p] == d - k else np.float32(0)
                weights[k, p] -= offset[i, p] if rank[i, p] == (d + 1 - k) % (d + 1) else np.float32(0)
        for i in range(d):
            for p in range(keys.shape[1]):
                lowered = np.int64(nearest[i, p]) - geometry.origin[i] - np.int64(rank[i, p] > d - k)
                keys[k, p] += lowered * geometry.stride[i]


@compiled
def _slot(key: int, mask: int) -> int:
    """Spread keys over a table of mask + 1 slots (Fibonacci hashing)."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(mask))


@compiled
def _rehash(unique: Keys, count: int, capacity: int) -> Indices:
    """Make a table of `capacity` slots that holds the first `count` vertices."""
    table = np.full(capacity, -1, np.int32)
    for vertex in range(count):
        slot = _slot(unique[vertex], capacity - 1)
        while table[slot] >= 0:
            slot = (slot + 1) & (capacity - 1)
        table[slot] = vertex
    return table


@compiled
def _number(keys: Keys, vertices: Indices) -> tuple[Indices, Keys]:
    """Number the vertices of one colour by first appearance; return the hash table and the key of each vertex."""
    capacity = FIRST_CAPACITY
    unique = np.empty(capacity // 2, np.int64)
    table = _rehash(unique, 0, capacity)
    count = 0
    previous, vertex = np.int64(-1), np.int32(-1)
    for p in range(keys.shape[0]):
        key = keys[p]
        if key != previous:  # neighbours in an image often share a vertex
            previous = key
            slot = _slot(key, capacity - 1)
            while table[slot] >= 0 and unique[table[slot]] != key:
                slot = (slot + 1) & (capacity - 1)
            vertex = table[slot]
            if vertex < 0:
                vertex = np.int32(count)
                table[slot] = vertex
                unique[count] = key
                count += 1
                if count == capacity // 2:
                    capacity *= 4
                    grown = np.empty(capacity // 2, np.int64)
                    grown[:count] = unique
                    unique = grown
                    table = _rehash(unique, count, capacity)
        vertices[p] = vertex
    return table, unique[:count].copy()


class Colour(NamedTuple):
    """The vertices of one colour: numbers first .. first + len(keys) - 1."""

    table: Indices
    keys: Keys
    first: int


@compiled
def _link(colour: Colour, other: Colour, deltas: Keys, neighbours: Indices) -> None:
    """Join each vertex to its neighbour of the colour before, in every direction, both ways."""
    mask = other.table.shape[0] - 1
    for i in range(colour.keys.shape[0]):
        for j in range(deltas.shape[0]):
            key = colour.keys[i] + deltas[j]
            slot = _slot(key, mask)
            while other.table[slot] >= 0 and other.keys[other.table[slot]] != key:
                slot = (slot + 1) & mask
            found = other.table[slot]
            if found >= 0:
                neighbours[j, colour.first + i, 0] = other.first + found
                neighbours[j, other.first + found, 1] = colour.first + i


class Entries(NamedTuple):
    """The splat as a sparse matrix by rows: vertex v gathers from entries start[v] .. start[v + 1]."""

    start: Keys  # (m + 1,)
    point: Indices  # (n (d + 1),)
    weight: Floats  # (n (d + 1),)


class Corners(NamedTuple):
    """The slice as a sparse matrix by rows: point i reads d + 1 vertices."""

    vertex: Indices  # (d + 1, n)
    weight: Floats  # (d + 1, n)


@compiled
def _group(vertices: Indices, weights: Floats, colour: Colour, entries: Entries, base: int) -> None:
    """List the points of every vertex of one colour, in order; `vertices` become numbers among all colours."""
    cursor = np.zeros(colour.keys.shape[0] + 1, np.int64)
    for p in range(vertices.shape[0]):
        cursor[vertices[p] + 1] += 1
    cursor[0] = base
    for v in range(colour.keys.shape[0]):
        cursor[v + 1] += cursor[v]
        entries.start[colour.first + v] = cursor[v]
    for p in range(vertices.shape[0]):
        place = cursor[vertices[p]]
        cursor[vertices[p]] += 1
        entries.point[place] = p
        entries.weight[place] = weights[p]
        vertices[p] += colour.first


# The number of channels is the length of the tuple `lanes`: a constant to the compiler, which then unrolls the loops.
Lanes = tuple[int, ...]


@compiled
def _splat(entries: Entries, rows: Floats, lanes: Lanes, out: Floats, span: tuple[int, int]) -> None:
    """Gather the values `rows` (channels, n) into the vertices `out` (m + 1, channels)."""
    sums = np.empty(len(lanes), np.float32)
    for v in range(span[0], span[1]):
        sums[:] = np.float32(0)
        for entry in range(entries.start[v], entries.start[v + 1]):
            for c in range(len(lanes)):
                sums[c] += entries.weight[entry] * rows[c, entries.point[entry]]
        for c in range(len(lanes)):
            out[v, c] = sums[c]


@compiled
def _blur(neighbours: Indices, lanes: Lanes, old: Floats, new: Floats, span: tuple[int, int]) -> None:
    """Blur along one direction with (1/2, 1, 1/2); `neighbours` (m, 2)."""
    for v in range(span[0], span[1]):
        before, after = neighbours[v, 0], neighbours[v, 1]
        for c in range(len(lanes)):
            new[v, c] = old[v, c] + np.float32(0.5) * (old[before, c] + old[after, c])


@compiled
def _slice(corners: Corners, old: Floats, lanes: Lanes, rows: Floats, span: tuple[int, int]) -> None:
    """Add the interpolated vertices to `rows` (channels, n)."""
    sums = np.empty(len(lanes), np.float32)
    for p in range(span[0], span[1]):
        sums[:] = np.float32(0)
        for k in range(corners.vertex.shape[0]):
            for c in range(len(lanes)):
                sums[c] += corners.weight[k, p] * old[corners.vertex[k, p], c]
        for c in range(len(lanes)):
            rows[c, p] += sums[c]


class Team:
    """Threads that share one loop; the caller is one of them. They live as long as the `with` block."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size or numba.config.NUMBA_NUM_THREADS
        self._helpers = ThreadPoolExecutor(max(1, self.size - 1))

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._helpers.shutdown()

    def each(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the tasks, in no particular order; return their results in the given one."""
        waiting = [self._helpers.submit(task) for task in tasks[1:]] if self.size > 1 else []
        first = [task() for task in tasks[: len(tasks) - len(waiting)]]
        return first + [task.result() for task in waiting]

    def split(self, length: int, kernel: Callable[..., None], *arguments: object) -> None:
        """Call kernel(*arguments, (start, stop)) on consecutive parts of range(length)."""
        edges = [length * i // self.size for i in range(self.size + 1)]
        self.each([partial(kernel, *arguments, span) for span in pairwise(edges)])


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """The tables that filter any values over one fixed set of n points with m vertices; built by `build_lattice`."""

    entries: Entries
    corners: Corners
    neighbours: Indices  # (d + 1, m, 2); m stands for "none"

    def add_filtered(self, values: Floats, out: Floats, *, threads: int | None = None) -> None:
        """Add the filtered `values` (channels, n) to `out` (channels, n), both float32 and contiguous."""
        with Team(threads) as team:
            for low in range(0, len(values), LANES):
                self._add_block(values[low : low + LANES], out[low : low + LANES], team)

    def _add_block(self, values: Floats, out: Floats, team: Team) -> None:
        channels = len(values)
        width = 1 if channels == 1 else LANES
        if channels < width:
            padding = np.zeros((width - channels, values.shape[1]), np.float32)
            padded = np.concatenate([out, padding])
            self._add_block(np.concatenate([values, padding]), padded, team)
            out[:] = padded[:channels]
            return
        lanes = (0,) * width
        m = self.neighbours.shape[1]
        old, new = np.empty((2, m + 1, width), np.float32)
        old[m] = new[m] = 0  # what a vertex that does not exist holds
        team.split(m, _splat, self.entries, values, lanes, old)
        for pairs in self.neighbours:
            team.split(m, _blur, pairs, lanes, old, new)
            old, new = new, old
        team.split(values.shape[1], _slice, self.corners, old, lanes, out)

    def normalise(self, weight: float) -> "Lattice":
        """Scale the filter K to weight * N^-1/2 K N^-1/2 with N = diag(K 1) (Kraehenbuehl and Koltun 2013, section 3)."""
        n = self.corners.vertex.shape[1]
        sums = np.zeros((1, n), np.float32)
        self.add_filtered(np.ones((1, n), np.float32), sums)
        root = 1 / np.sqrt(sums[0] + np.float32(1e-20))
        entries = self.entries._replace(weight=self.entries.weight * root[self.entries.point])
        corners = self.corners._replace(weight=self.corners.weight * (root * np.float32(weight)))
        return Lattice(entries, corners, self.neighbours)


def build_lattice(features: Floats, *, threads: int | None = None) -> Lattice:
    """Build the lattice of points (d, n), in standard deviations: float32, contiguous, finite.

    Raises:
        InputError: the features span too many standard deviations.
    """
    d, n = features.shape
    geometry = plan_geometry(features.min(1), features.max(1))
    keys, weights = np.empty((d + 1, n), np.int64), np.empty((d + 1, n), np.float32)
    vertices = np.empty((d + 1, n), np.int32)
    with Team(threads) as team:
        team.split(n, _embed, features, geometry, keys, weights)
        numbered = team.each([partial(_number, keys[k], vertices[k]) for k in range(d + 1)])
        del keys
        firsts = np.cumsum([0, *(len(unique) for _, unique in numbered)])
        m = int(firsts[-1])
        colours = [
            Colour(table, unique, int(first)) for (table, unique), first in zip(numbered, firsts[:-1], strict=True)
        ]
        neighbours = np.full((d + 1, m, 2), m, np.int32)
        team.each([partial(_link, colours[k], colours[k - 1], _steps(geometry, k), neighbours) for k in range(d + 1)])
        entries = Entries(np.empty(m + 1, np.int64), np.empty((d + 1) * n, np.int32), np.empty((d + 1) * n, np.float32))
        entries.start[m] = (d + 1) * n
        team.each([partial(_group, vertices[k], weights[k], colours[k], entries, k * n) for k in range(d + 1)])
    alpha = np.float32(1 / (1 + 2.0**-d))
    return Lattice(entries, Corners(vertices, weights * alpha), neighbours)


def _steps(geometry: Geometry, colour: int) -> Keys:
    """Key differences from a vertex to its neighbour before it, for each of the d + 1 directions.

    The neighbour is one lower in all coordinates but one, which is d higher. Colour k becomes k - 1 and the quotients
    stay, save the odd one out, which rises; for colour 0, which becomes d, all others fall instead.
    """
    rises = np.append(geometry.stride, 0)
    return rises if colour > 0 else rises - geometry.stride.sum()
