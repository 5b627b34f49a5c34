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

from clip_as_rnn.dense_crf import lanes
from clip_as_rnn.dense_crf.lattice import Geometry, Keys, plan_geometry
from clip_as_rnn.dense_crf.threads import Team, alone

Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int32]
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
    """A hash table from keys to vertex numbers, with linear probing; the number of slots is a power of two.

    Where all keys that may occur are few, each has its own slot: keys of neighbouring points then lie side by side.
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


class Colour(NamedTuple):
    """The vertices of one colour, with the numbers from `first` on."""

    table: Table
    size: int
    first: int


def _number_colour(keys: Keys, vertices: Indices, key_count: int) -> tuple[Table, int]:
    """Assign numbers from 0 on to the vertices of one colour, named by keys in [0, key_count); return how many."""
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
def _link(colour: Colour, other: Colour, steps: Keys, neighbours: Indices) -> None:
    """Join the vertices of one colour to their neighbours of the colour before, in every direction, both ways."""
    for j in range(len(steps)):
        for i in range(colour.size):
            found = other.table.slots[_find(colour.table.keys[i] + steps[j], other.table)]
            if found != EMPTY:
                vertex, before = colour.first + i, other.first + found
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
    """Add the points' values to the vertices `out` of some colours: no others write there."""
    for p in range(len(values)):
        value = lanes.scale(lattice.before[p], lanes.load(values, p))
        for k in range(colours[0], colours[1]):
            vertex = lattice.vertex[p, k]
            lanes.store(out, vertex, lanes.add(lanes.load(out, vertex), lanes.scale(lattice.weight[p, k], value)))


@compiled
def _blur(neighbours: Indices, old: Floats, new: Floats, span: Span) -> None:
    """Blur vertices along one direction with (1/2, 1, 1/2)."""
    for v in range(span[0], span[1]):
        around = lanes.add(lanes.load(old, neighbours[v, 0]), lanes.load(old, neighbours[v, 1]))
        lanes.store(new, v, lanes.add(lanes.load(old, v), lanes.scale(np.float32(0.5), around)))


@compiled
def _slice(lattice: Lattice, vertices: Floats, out: Floats, span: Span) -> None:
    """Interpolate between the vertices at the points `out`."""
    for p in range(span[0], span[1]):
        total = lanes.scale(lattice.weight[p, 0], lanes.load(vertices, lattice.vertex[p, 0]))
        for k in range(1, lattice.vertex.shape[1]):
            corner = lanes.load(vertices, lattice.vertex[p, k])
            total = lanes.add(total, lanes.scale(lattice.weight[p, k], corner))
        lanes.store(out, p, lanes.scale(lattice.after[p], total))


class Filters:
    """Several lattices over the same points, with room to work in for blocks of one size, used again by every call."""

    def __init__(self, lattices: Sequence[Lattice], team: Team) -> None:
        self._lattices = lattices
        self._team = team
        self._rooms: SimpleQueue[Floats] = SimpleQueue()

    def run(self, values: Floats, out: Floats) -> None:
        """Filter `values` by every lattice into `out`, in blocks of four or eight channels.

        Shapes are (blocks, n, 4) and (lattices, blocks, n, 4), or (blocks, n, 2, 4) and (lattices, blocks, n, 2, 4).
        With two or more for every thread, each takes whole ones, for waiting on each other costs more than an uneven
        end; otherwise all share the loops over one block.
        """
        each = range(len(values))
        blocks = [(one, values[i], sums[i]) for one, sums in zip(self._lattices, out, strict=True) for i in each]
        blocks.sort(key=lambda block: block[0].vertex.size, reverse=True)  # the long ones first, to end together
        if len(blocks) >= 2 * self._team.size:
            self._team.each([partial(self._filter, alone, *block) for block in blocks])
        else:
            for block in blocks:
                self._filter(self._team.split, *block)

    def _filter(self, share: Callable[..., None], lattice: Lattice, values: Floats, out: Floats) -> None:
        directions, m, _ = lattice.neighbours.shape
        try:
            room = self._rooms.get_nowait()
        except Empty:
            rows = 1 + max(one.neighbours.shape[1] for one in self._lattices)
            room = np.empty((2, rows, *values.shape[1:]), np.float32)
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
    numbered = team.each([partial(_number_colour, keys[k], vertex[:, k], geometry.key_count) for k in every])
    del keys
    firsts = np.cumsum([0, *(count for _, count in numbered)]).tolist()
    colours = [Colour(table, count, first) for (table, count), first in zip(numbered, firsts[:-1], strict=True)]
    neighbours = np.full((d + 1, firsts[-1], 2), firsts[-1], np.int32)
    team.each([partial(_link, colours[k], colours[k - 1], geometry.steps(k), neighbours) for k in every])
    vertex += np.asarray(firsts[:-1], np.int32)
    alpha = np.float32(1 / (1 + 2.0**-d))
    return Lattice(vertex, weight, neighbours, np.ones(n, np.float32), np.full(n, alpha, np.float32))
