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

from clip_as_rnn.refine import lanes
from clip_as_rnn.refine.lattice import Geometry, Keys, plan_geometry
from clip_as_rnn.refine.team import Team, alone

Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int32]
Span: TypeAlias = tuple[int, int]
Function = TypeVar("Function", bound=Callable[..., object])

TILE = 256  # points at once: the inner loops run over them, so that they become vector instructions
SMALLEST_TABLE = 1 << 12  # slots of a hash table; it grows fourfold whenever it is half full
NO_KEY = -1


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
    """Find every point's simplex: keys (d + 1, n) of its corners by colour, barycentric coordinates (n, d + 1)."""
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
        source, row = features[j - 1, low : low + size], elevated[j]  # views: no sign of an index to check
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
    """Name and weigh the corners: colour k lowers by d + 1 the k coordinates of the highest ranks (p. 4 and 5)."""
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
    """A hash table from keys to vertex numbers, with linear probing; the number of slots is a power of two."""

    keys: Keys
    vertices: Indices


@compiled
def _slot(key: int, table: Table) -> np.uint64:
    """Spread keys over the slots (Fibonacci hashing)."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(32)) & np.uint64(len(table.keys) - 1)


@compiled
def _find(key: int, table: Table) -> np.uint64:
    """Find the slot that holds `key`, or the empty one where it belongs."""
    slot = _slot(key, table)
    while table.keys[slot] != key and table.keys[slot] != NO_KEY:
        slot = (slot + np.uint64(1)) & np.uint64(len(table.keys) - 1)
    return slot


@compiled
def _number(keys: Keys, vertices: Indices, table: Table, unique: Keys, start: Span) -> Span:
    """Assign numbers to vertices by first appearance, until all points are done or all places in `unique` are taken.

    `start` and the result: the next point and the next number.
    """
    point, count = start
    while point < len(keys) and count < len(unique):
        key = keys[point]
        slot = _find(key, table)
        if table.keys[slot] == NO_KEY:
            table.keys[slot] = key
            table.vertices[slot] = count
            unique[count] = key
            count += 1
        vertices[point] = table.vertices[slot]
        point += 1
    return point, count


class Colour(NamedTuple):
    """The vertices of one colour, with the numbers from `first` on."""

    table: Table
    keys: Keys
    first: int


def _number_colour(keys: Keys, vertices: Indices) -> tuple[Table, Keys]:
    """Assign numbers from 0 on to the vertices of one colour; return their table, and their keys in that order."""
    capacity, point, count = SMALLEST_TABLE, 0, 0
    unique = np.empty(0, np.int64)
    while True:
        table = Table(np.full(capacity, NO_KEY, np.int64), np.empty(capacity, np.int32))
        grown = np.empty(capacity // 2, np.int64)
        _number(unique[:count], np.empty(count, np.int32), table, grown, (0, 0))
        point, count = _number(keys, vertices, table, grown, (point, count))
        unique = grown
        if point == len(keys):
            return table, unique[:count].copy()
        capacity *= 4


@compiled
def _link(colour: Colour, other: Colour, steps: Keys, neighbours: Indices) -> None:
    """Join the vertices of one colour to their neighbours of the colour before, in every direction, both ways."""
    for i in range(len(colour.keys)):
        vertex = colour.first + i
        for j in range(len(steps)):
            slot = _find(colour.keys[i] + steps[j], other.table)
            if other.table.keys[slot] != NO_KEY:
                before = other.first + other.table.vertices[slot]
                neighbours[j, vertex, 0] = before
                neighbours[j, before, 1] = vertex


class Lattice(NamedTuple):
    """The tables that filter any values over one fixed set of n points with m vertices; `build_lattice` makes them."""

    vertex: Indices  # (n, d + 1) the corners of each point's simplex, by colour
    weight: Floats  # (n, d + 1) barycentric coordinates
    neighbours: Indices  # (d + 1, m, 2) before and after, in each direction; m stands for "none"
    before: Floats  # (n,) factor of a value on its way in
    after: Floats  # (n,) factor of a sum on its way out


@compiled
def _splat(lattice: Lattice, values: Floats, out: Floats, colours: Span) -> None:
    """Add the points' values (n, 4) to the vertices `out` (m + 1, 4) of some colours: no others write there."""
    for p in range(len(values)):
        value = lanes.scale(lattice.before[p], lanes.load(values, p))
        for k in range(colours[0], colours[1]):
            vertex = lattice.vertex[p, k]
            lanes.store(out, vertex, lanes.add(lanes.load(out, vertex), lanes.scale(lattice.weight[p, k], value)))


@compiled
def _blur(neighbours: Indices, old: Floats, new: Floats, span: Span) -> None:
    """Blur vertices (m + 1, 4) along one direction with (1/2, 1, 1/2)."""
    for v in range(span[0], span[1]):
        around = lanes.add(lanes.load(old, neighbours[v, 0]), lanes.load(old, neighbours[v, 1]))
        lanes.store(new, v, lanes.add(lanes.load(old, v), lanes.scale(np.float32(0.5), around)))


@compiled
def _slice(lattice: Lattice, vertices: Floats, out: Floats, span: Span) -> None:
    """Interpolate between the vertices (m + 1, 4) at the points `out` (n, 4)."""
    for p in range(span[0], span[1]):
        total = lanes.zeros()
        for k in range(lattice.vertex.shape[1]):
            corner = lanes.load(vertices, lattice.vertex[p, k])
            total = lanes.add(total, lanes.scale(lattice.weight[p, k], corner))
        lanes.store(out, p, lanes.scale(lattice.after[p], total))


class Filters:
    """Several lattices over the same points, with room to work in that is used again by every call."""

    def __init__(self, lattices: Sequence[Lattice], team: Team) -> None:
        self._lattices = lattices
        self._team = team
        self._rooms: SimpleQueue[Floats] = SimpleQueue()

    def run(self, values: Floats, out: Floats) -> None:
        """Filter `values` (blocks, n, 4), four channels each, by every lattice into `out` (lattices, blocks, n, 4).

        With a block and a lattice for every thread, each takes whole ones, for waiting on each other costs more than
        an uneven end; otherwise all share the loops over one block.
        """
        each = range(len(values))
        blocks = [(one, values[i], sums[i]) for one, sums in zip(self._lattices, out, strict=True) for i in each]
        blocks.sort(key=lambda block: block[0].vertex.size, reverse=True)  # the long ones first, to end together
        if len(blocks) >= self._team.size:
            self._team.each([partial(self._filter, alone, *block) for block in blocks])
        else:
            for block in blocks:
                self._filter(self._team.split, *block)

    def _filter(self, share: Callable[..., None], lattice: Lattice, values: Floats, out: Floats) -> None:
        directions, m, _ = lattice.neighbours.shape
        try:
            room = self._rooms.get_nowait()
        except Empty:
            room = np.empty((2, 1 + max(one.neighbours.shape[1] for one in self._lattices), lanes.WIDTH), np.float32)
        old, new = room[:, : m + 1]
        old[:] = 0
        new[m] = 0  # what a missing vertex holds
        share(directions, _splat, lattice, values, old)
        for pairs in lattice.neighbours:
            share(m, _blur, pairs, old, new)
            old, new = new, old
        share(len(out), _slice, lattice, old, out)
        self._rooms.put(room)


def normalise(lattice: Lattice, weight: float, team: Team) -> Lattice:
    """Turn the filter K into weight * N^-1/2 K N^-1/2, where N = diag(K 1) makes all points count the same."""
    n = len(lattice.vertex)
    sums = np.empty((1, 1, n, lanes.WIDTH), np.float32)
    Filters([lattice], team).run(np.ones((1, n, lanes.WIDTH), np.float32), sums)
    root = 1 / np.sqrt(sums[0, 0, :, 0] + np.float32(1e-20))
    return lattice._replace(before=lattice.before * root, after=lattice.after * (root * np.float32(weight)))


def build_lattice(features: Floats, team: Team) -> Lattice:
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
    team.split(n, _embed, features, geometry, keys, weight)
    numbered = team.each([partial(_number_colour, keys[k], vertex[:, k]) for k in every])
    del keys
    firsts = np.cumsum([0, *(len(unique) for _, unique in numbered)]).tolist()
    colours = [Colour(table, unique, first) for (table, unique), first in zip(numbered, firsts[:-1], strict=True)]
    neighbours = np.full((d + 1, firsts[-1], 2), firsts[-1], np.int32)
    team.each([partial(_link, colours[k], colours[k - 1], geometry.steps(k), neighbours) for k in every])
    vertex += np.asarray(firsts[:-1], np.int32)
    alpha = np.float32(1 / (1 + 2.0**-d))
    return Lattice(vertex, weight, neighbours, np.ones(n, np.float32), np.full(n, alpha, np.float32))
