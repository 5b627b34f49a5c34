"""The permutohedral lattice compiled for the processor: hash tables, and loops shared by threads.

Deterministic: every number is a sum in one fixed order, whatever the number of threads.
"""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import unwrap
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from clip_as_rnn.dense_crf import simd
from clip_as_rnn.dense_crf.lattice import Geometry, Keys, plan_geometry
from clip_as_rnn.dense_crf.threads import ThreadPool, run_whole

Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int32]
Labels: TypeAlias = npt.NDArray[np.int64]
Span: TypeAlias = tuple[int, int]
Function = TypeVar("Function", bound=Callable[..., object])

TILE = 256  # points at once: the inner loops run over them, so that they become vector instructions
SMALLEST_TABLE = 1 << 13  # slots of a hash table; it grows fourfold whenever a quarter is taken
SLOTS_PER_VERTEX = 4
DIRECT_SLOTS = 4  # slots per point up to which every key gets a slot of its own
EMPTY = -1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def compiled(function: Function) -> Function:
    """Compile at the first call, keep the machine code on disk, and let go of the interpreter's lock while it runs.

    Where neither the package's folder nor the user's cache can be written, the code lives as long as the process.
    """
    plain = unwrap(function)  # without what an import hook may have put around it, such as a type checker
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(plain))
    except RuntimeError:  # numba found no folder for its cache
        return cast(Function, numba.njit(nogil=True)(plain))


class Simplices(NamedTuple):
    """Where the points of one tile lie; room for every step of the search, by coordinate or rank, (d + 1, TILE)."""

    elevated: Floats  # x = E f
    nearest: Floats  # the closest remainder-0 point, its coordinates divided by d + 1
    offset: Floats  # x minus that point
    rank: Floats  # 0 for the coordinate with the largest offset
    sorted_offset: Floats  # by rank, divided by d + 1
    sorted_stride: Keys  # by rank; 0 for the last coordinate, which no key holds


@compiled
def _embed(features: Floats, geometry: Geometry, keys: Keys, weights: Floats, span: Span) -> None:
    """Find every point's simplex: keys (d + 1, n) of its corners by color, barycentric coordinates (n, d + 1)."""
    d = features.shape[0]
    simplices = Simplices(
        np.empty((d + 1, TILE), np.float32),
        np.empty((d + 1, TILE), np.float32),
        np.empty((d + 1, TILE), np.float32),
        np.empty((d + 1, TILE), np.float32),
        np.empty((d + 1, TILE), np.float32),
        np.empty((d + 1, TILE), np.int64),
    )
    for low in range(span[0], span[1], TILE):
        size = min(TILE, span[1] - low)
        _elevate(features, geometry.scale, simplices.elevated, (low, size))
        _rank(simplices, size)
        _sort(geometry.stride, simplices, size)
        _corners(geometry, simplices, keys, weights, (low, size))


@compiled
def _elevate(features: Floats, scale: Floats, elevated: Floats, part: Span) -> None:
    """Map onto the plane H: x = E f, from the last coordinate to the first, which ends up with the sum."""
    low, size = part
    total = elevated[0]
    for p in range(size):
        total[p] = np.float32(0)
    for j in range(features.shape[0], 0, -1):
        source, row = features[j - 1, low : low + size], elevated[j]  # one index per loop, so that it is vectorized
        factor, index = scale[j - 1], np.float32(j)
        for p in range(size):
            scaled = source[p] * factor
            row[p] = total[p] - index * scaled
            total[p] += scaled


@compiled
def _rank(simplices: Simplices, size: int) -> None:
    """Find the closest remainder-0 point and the order of the offsets from it."""
    elevated, nearest, offset, rank, total, _ = simplices
    d = elevated.shape[0] - 1
    zero, one, period = np.float32(0), np.float32(1), np.float32(d + 1)
    inverse = one / period
    for p in range(size):
        total[0, p] = zero
    for i in range(d + 1):
        for p in range(size):
            nearest[i, p] = np.rint(elevated[i, p] * inverse)
            total[0, p] += nearest[i, p]
            offset[i, p] = elevated[i, p] - nearest[i, p] * period
            rank[i, p] = zero
    for i in range(d):
        for j in range(i + 1, d + 1):
            for p in range(size):
                smaller = one if offset[i, p] < offset[j, p] else zero
                rank[i, p] += smaller
                rank[j, p] += one - smaller
    for i in range(d + 1):
        for p in range(size):  # rounding may have left the plane by some steps: take them back where they cost least
            moved = rank[i, p] + total[0, p]
            step = (one if moved < zero else zero) - (one if moved > d else zero)
            rank[i, p] = moved + step * period
            nearest[i, p] += step
            offset[i, p] = elevated[i, p] - nearest[i, p] * period


@compiled
def _sort(stride: Keys, simplices: Simplices, size: int) -> None:
    """Arrange offsets and strides by rank."""
    _, _, offset, rank, sorted_offset, sorted_stride = simplices
    d = len(stride)
    inverse = np.float32(1) / np.float32(d + 1)
    for i in range(d + 1):
        own = stride[i] if i < d else 0
        for p in range(size):
            place = int(rank[i, p])
            sorted_offset[place, p] = offset[i, p] * inverse
            sorted_stride[place, p] = own


@compiled
def _corners(geometry: Geometry, simplices: Simplices, keys: Keys, weights: Floats, part: Span) -> None:
    """Name and weigh the corners: color k lowers by d + 1 the k coordinates of the highest ranks (p. 4 and 5)."""
    nearest, offset, stride = simplices.nearest, simplices.sorted_offset, simplices.sorted_stride
    d = len(geometry.stride)
    low, size = part
    key, weight = keys[0, low : low + size], weights[low : low + size]
    for p in range(size):
        key[p] = 0
        weight[p, 0] = offset[d, p] - offset[0, p] + np.float32(1)
    for i in range(d):
        origin, factor = np.float32(geometry.origin[i]), geometry.stride[i]
        for p in range(size):
            key[p] += int(nearest[i, p] - origin) * factor
    for k in range(1, d + 1):
        before, key = key, keys[k, low : low + size]
        for p in range(size):
            key[p] = before[p] - stride[d - k + 1, p]
            weight[p, k] = offset[d - k, p] - offset[d - k + 1, p]


class Table(NamedTuple):
    """A hash table from keys to vertex numbers, with linear probing; the number of slots is a power of two.

    Where all keys that may occur are few, each has its own slot: keys of neighboring points then lie side by side.
    """

    slots: Indices  # the vertex number, or EMPTY
    keys: Keys  # by vertex number
    is_direct: bool


@compiled
def _find(key: int, table: Table) -> np.uint64:
    """Find the slot that holds `key`, or the empty one where it belongs."""
    last = np.uint64(len(table.slots) - 1)
    mixed = np.uint64(key) if table.is_direct else (np.uint64(key) * GOLDEN) >> np.uint64(32)  # Fibonacci hashing
    slot = mixed & last
    while table.slots[slot] != EMPTY and table.keys[table.slots[slot]] != key:
        slot = (slot + np.uint64(1)) & last
    return slot


@compiled
def _number(keys: Keys, vertices: Indices, table: Table, start: Span) -> Span:
    """Assign numbers to vertices by first appearance, until all points are done or all places for keys are taken.

    `start` and the result: the next point and the next number.
    """
    point, count = start
    while point < len(keys) and count < len(table.keys):
        key = keys[point]
        slot = _find(key, table)
        if table.slots[slot] == EMPTY:
            table.slots[slot] = count
            table.keys[count] = key
            count += 1
        vertices[point] = table.slots[slot]
        point += 1
    return point, count


class Color(NamedTuple):
    """The vertices of one color, with the numbers from `first` on."""

    table: Table
    size: int
    first: int


def _number_color(keys: Keys, vertices: Indices, key_count: int) -> tuple[Table, int]:
    """Assign numbers from 0 on to the vertices of one color, named by keys in [0, key_count); return how many."""
    if key_count <= DIRECT_SLOTS * len(keys):
        size = 1 << (key_count - 1).bit_length()
        table = Table(np.full(size, EMPTY, np.int32), np.empty(len(keys) + 1, np.int64), is_direct=True)
        return table, _number(keys, vertices, table, (0, 0))[1]
    size, point, count = SMALLEST_TABLE, 0, 0
    known = np.empty(0, np.int64)
    while True:
        table = Table(np.full(size, EMPTY, np.int32), np.empty(size // SLOTS_PER_VERTEX, np.int64), is_direct=False)
        _number(known, np.empty(count, np.int32), table, (0, 0))
        point, count = _number(keys, vertices, table, (point, count))
        if point == len(keys):
            return table, count
        known = table.keys
        size *= 4


@compiled
def _link(color: Color, other: Color, steps: Keys, neighbors: Indices) -> None:
    """Join the vertices of one color to their neighbors of the color before, in every direction, both ways."""
    for j in range(len(steps)):
        for i in range(color.size):
            found = other.table.slots[_find(color.table.keys[i] + steps[j], other.table)]
            if found != EMPTY:
                vertex, before = color.first + i, other.first + found
                neighbors[j, vertex, 0] = before
                neighbors[j, before, 1] = vertex


class Lattice(NamedTuple):
    """The tables that filter any values over one fixed set of n points with m vertices; `build_lattice` makes them."""

    vertex: Indices  # (n, d + 1) the corners of each point's simplex, by color
    weight: Floats  # (n, d + 1) barycentric coordinates
    neighbors: Indices  # (d + 1, m, 2) before and after, in each direction; m stands for "none"
    before: Floats  # (n,) factor of a value on its way in
    after: Floats  # (n,) factor of a sum on its way out


@compiled
def _splat(lattice: Lattice, values: Floats, out: Floats, colors: Span) -> None:
    """Add the points' values to the vertices `out` of some colors: no others write there."""
    for p in range(len(values)):
        value = simd.scale(lattice.before[p], simd.load(values, p))
        for k in range(colors[0], colors[1]):
            vertex = lattice.vertex[p, k]
            simd.store(out, vertex, simd.add(simd.load(out, vertex), simd.scale(lattice.weight[p, k], value)))


@compiled
def _blur(neighbors: Indices, old: Floats, new: Floats, span: Span) -> None:
    """Blur vertices along one direction with (1/2, 1, 1/2)."""
    for v in range(span[0], span[1]):
        around = simd.add(simd.load(old, neighbors[v, 0]), simd.load(old, neighbors[v, 1]))
        simd.store(new, v, simd.add(simd.load(old, v), simd.scale(np.float32(0.5), around)))


@compiled
def _slice(lattice: Lattice, vertices: Floats, sums: Floats | None, out: Floats, span: Span) -> None:
    """Interpolate between the vertices at the points, add `sums` if there are any, and write that to `out`."""
    for p in range(span[0], span[1]):
        total = simd.scale(lattice.weight[p, 0], simd.load(vertices, lattice.vertex[p, 0]))
        for k in range(1, lattice.vertex.shape[1]):
            corner = simd.load(vertices, lattice.vertex[p, k])
            total = simd.add(total, simd.scale(lattice.weight[p, k], corner))
        total = simd.scale(lattice.after[p], total)
        if sums is not None:
            total = simd.add(simd.load(sums, p), total)
        simd.store(out, p, total)


class LatticeFilter:
    """The sum of the filters of several lattices over the same points, with room to work in that is used again."""

    def __init__(self, lattices: Sequence[Lattice], threads: ThreadPool) -> None:
        self._lattices = lattices
        self._threads = threads
        self._rooms: SimpleQueue[tuple[Floats, Floats]] = SimpleQueue()

    def apply(self, blocks: Floats, finish: Callable[[int], object] = lambda _: None) -> None:
        """Filter values (blocks, n, 1, 4) or (blocks, n, 2, 4) in place; call finish(i) once block i is done.

        As long as there is a block for every thread, each takes a whole one, for waiting on each other costs time;
        then all share the loops over one block after the other.
        """
        values = blocks.squeeze(2) if blocks.shape[2] == 1 else blocks

        def filter_block(i: int, split: Callable[..., None]) -> None:
            self._filter(values[i], split)
            finish(i)

        whole = len(values) - len(values) % self._threads.size
        self._threads.run([partial(filter_block, i, run_whole) for i in range(whole)])
        for i in range(whole, len(values)):
            filter_block(i, self._threads.split)

    def _filter(self, values: Floats, split: Callable[..., None]) -> None:
        """Overwrite values (n, 4) or (n, 2, 4) by the sum of their filters."""
        try:
            vertices, sums = self._rooms.get_nowait()
        except Empty:
            rows = 1 + max((one.neighbors.shape[1] for one in self._lattices), default=0)
            vertices, sums = np.empty((2, rows, *values.shape[1:]), np.float32), np.empty_like(values)
        if not self._lattices:
            values[:] = 0
        for i, lattice in enumerate(self._lattices):
            directions, m, _ = lattice.neighbors.shape
            old, new = vertices[:, : m + 1]
            old[:] = 0
            new[m] = 0  # what a missing vertex holds
            split(directions, _splat, lattice, values, old)
            for pairs in lattice.neighbors:
                split(m, _blur, pairs, old, new)
                old, new = new, old
            out = values if i == len(self._lattices) - 1 else sums  # the last one reads the values before it writes
            split(len(out), _slice, lattice, old, None if i == 0 else sums, out)
        self._rooms.put((vertices, sums))


def normalize(lattice: Lattice, weight: float, threads: ThreadPool) -> Lattice:
    """Turn the filter K into weight * N^-1/2 K N^-1/2, where N = diag(K 1) makes all points count the same."""
    ones = np.ones((1, len(lattice.vertex), 1, simd.WIDTH), np.float32)
    LatticeFilter([lattice], threads).apply(ones)
    root = 1 / np.sqrt(ones[0, :, 0, 0] + np.float32(1e-20))
    return lattice._replace(before=lattice.before * root, after=lattice.after * (root * np.float32(weight)))


def build_lattice(features: Floats, threads: ThreadPool) -> Lattice:
    """Build the lattice of points (d, n), in standard deviations: contiguous and finite.

    Raises:
        InputError: the features span too many standard deviations.
    """
    d, n = features.shape
    geometry = plan_geometry(features.min(1), features.max(1))
    keys, vertex, weight = (
        np.empty((d + 1, n), np.int64),
        np.empty((n, d + 1), np.int32),
        np.empty((n, d + 1), np.float32),
    )
    every = range(d + 1)
    threads.split(n, _embed, features, geometry, keys, weight)
    numbered = threads.run([partial(_number_color, keys[k], vertex[:, k], geometry.key_count) for k in every])
    del keys
    firsts = np.cumsum([0, *(count for _, count in numbered)]).tolist()
    colors = [Color(table, count, first) for (table, count), first in zip(numbered, firsts[:-1], strict=True)]
    neighbors = np.full((d + 1, firsts[-1], 2), firsts[-1], np.int32)
    threads.run([partial(_link, colors[k], colors[k - 1], geometry.steps(k), neighbors) for k in every])
    vertex += np.asarray(firsts[:-1], np.int32)
    alpha = np.float32(1 / (1 + 2.0**-d))
    return Lattice(vertex, weight, neighbors, np.ones(n, np.float32), np.full(n, alpha, np.float32))
