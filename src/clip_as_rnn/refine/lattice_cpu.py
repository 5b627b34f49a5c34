"""The permutohedral lattice compiled for the processor: hash tables, and loops shared by threads.

Deterministic: every number is a sum in one fixed order, whatever the number of threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from clip_as_rnn.refine import lanes
from clip_as_rnn.refine.lattice import Geometry, Keys, plan_geometry

Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int32]
Span: TypeAlias = tuple[int, int]
Function = TypeVar("Function", bound=Callable[..., object])
Result = TypeVar("Result")

TILE = 256  # points at once: the inner loops run over them, so that they become vector instructions
SMALLEST_TABLE = 1 << 12  # slots of a hash table; it grows fourfold whenever it is half full
NO_KEY = -1


def compiled(function: Function) -> Function:
    """Compile at the first call, keep the machine code on disk, and let go of the interpreter's lock while it runs.

    Where neither the package's folder nor the user's cache can be written, the code lives as long as the process.
    """
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # numba found no folder for its cache
        return cast(Function, numba.njit(nogil=True)(function))


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
    elevated[0, :size] = np.float32(0)
    for j in range(features.shape[0], 0, -1):
        factor, index = scale[j - 1], np.float32(j)
        for p in range(size):
            scaled = features[j - 1, low + p] * factor
            elevated[j, p] = elevated[0, p] - index * scaled
            elevated[0, p] += scaled


@compiled
def _rank(simplices: Simplices, size: int) -> None:
    """Find the closest remainder-0 point and the order of the offsets from it."""
    elevated, nearest, offset, rank, total, _ = simplices
    d = elevated.shape[0] - 1
    zero, one, period = np.float32(0), np.float32(1), np.float32(d + 1)
    inverse = one / period
    total[0, :size] = zero
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
    keys[0, low : low + size] = 0
    for i in range(d):
        origin, factor = np.float32(geometry.origin[i]), geometry.stride[i]
        for p in range(size):
            keys[0, low + p] += int(nearest[i, p] - origin) * factor
    for p in range(size):
        weights[low + p, 0] = offset[d, p] - offset[0, p] + np.float32(1)
    for k in range(1, d + 1):
        for p in range(size):
            weights[low + p, k] = offset[d - k, p] - offset[d - k + 1, p]
            keys[k, low + p] = keys[k - 1, low + p] - stride[d - k + 1, p]


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
    """Number vertices by first appearance, until all points are done or all places in `unique` are taken.

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
    """Number the vertices of one colour from 0 on; return their table and their keys in the order of the numbers."""
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


class Entries(NamedTuple):
    """The splat as a sparse matrix by rows: vertex v sums over the entries start[v] .. start[v + 1]."""

    start: Keys  # (m + 1,)
    point: Indices  # (n (d + 1),)
    weight: Floats  # (n (d + 1),)


class Corners(NamedTuple):
    """The slice as a sparse matrix by rows: point i sums over d + 1 vertices."""

    vertex: Indices  # (n, d + 1)
    weight: Floats  # (n, d + 1)


@compiled
def _group(vertices: Indices, weights: Floats, colour: Colour, entries: Entries, base: int) -> None:
    """List the points of every vertex of one colour, in order; `vertices` become numbers among all colours."""
    cursor = np.zeros(len(colour.keys) + 1, np.int64)
    for p in range(len(vertices)):
        cursor[vertices[p] + 1] += 1
    cursor[0] = base
    for v in range(len(colour.keys)):
        cursor[v + 1] += cursor[v]
        entries.start[colour.first + v] = cursor[v]
    for p in range(len(vertices)):
        place = cursor[vertices[p]]
        cursor[vertices[p]] += 1
        entries.point[place] = p
        entries.weight[place] = weights[p]
        vertices[p] += colour.first


@compiled
def _pack(rows: Floats, packed: Floats, span: Span) -> None:
    """Bring up to four channels (c, n) next to each other (n, 4)."""
    for c in range(len(rows)):
        for p in range(span[0], span[1]):
            packed[p, c] = rows[c, p]


@compiled
def _splat(entries: Entries, packed: Floats, out: Floats, span: Span) -> None:
    """Sum the points' values (n, 4) at the vertices `out` (m + 1, 4)."""
    for v in range(span[0], span[1]):
        total = lanes.zeros()
        for entry in range(entries.start[v], entries.start[v + 1]):
            total = lanes.add(total, lanes.scale(entries.weight[entry], lanes.load(packed, entries.point[entry])))
        lanes.store(out, v, total)


@compiled
def _blur(neighbours: Indices, old: Floats, new: Floats, span: Span) -> None:
    """Blur along one direction with (1/2, 1, 1/2)."""
    for v in range(span[0], span[1]):
        around = lanes.add(lanes.load(old, neighbours[v, 0]), lanes.load(old, neighbours[v, 1]))
        lanes.store(new, v, lanes.add(lanes.load(old, v), lanes.scale(np.float32(0.5), around)))


@compiled
def _slice(corners: Corners, vertices: Floats, rows: Floats, span: Span) -> None:
    """Add the values interpolated between the vertices (m + 1, 4) to up to four channels (c, n)."""
    tile = np.empty((TILE, lanes.WIDTH), np.float32)
    for low in range(span[0], span[1], TILE):
        size = min(TILE, span[1] - low)
        for p in range(size):
            total = lanes.zeros()
            for k in range(corners.vertex.shape[1]):
                corner = lanes.load(vertices, corners.vertex[low + p, k])
                total = lanes.add(total, lanes.scale(corners.weight[low + p, k], corner))
            lanes.store(tile, p, total)
        for c in range(len(rows)):
            for p in range(size):
                rows[c, low + p] += tile[p, c]


class Team:
    """Threads that share one loop, the caller among them; they live as long as the `with` block."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size or int(numba.config.NUMBA_NUM_THREADS)
        self._others = ThreadPoolExecutor(max(1, self.size - 1))

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._others.shutdown()

    def each(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the tasks in no particular order; return their results in the given one."""
        own = -(-len(tasks) // self.size)
        waiting = [self._others.submit(task) for task in tasks[own:]]
        return [task() for task in tasks[:own]] + [task.result() for task in waiting]

    def split(self, length: int, kernel: Callable[..., None], *arguments: object) -> None:
        """Call kernel(*arguments, (start, stop)) for consecutive parts of range(length)."""
        edges = [length * i // self.size for i in range(self.size + 1)]
        self.each([partial(kernel, *arguments, span) for span in pairwise(edges)])


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """The tables that filter any values over one fixed set of n points with m vertices; `build_lattice` makes them."""

    entries: Entries
    corners: Corners
    neighbours: Indices  # (d + 1, m, 2): before and after; m stands for "none"

    def add_filtered(self, values: Floats, out: Floats, *, threads: int | None = None) -> None:
        """Add the filtered `values` (channels, n) to `out` (channels, n), both contiguous.

        Uses `threads` threads, by default as many as numba would (NUMBA_NUM_THREADS, else one for each processor).
        """
        n, m = values.shape[1], self.neighbours.shape[1]
        packed = np.zeros((n, lanes.WIDTH), np.float32)
        old, new = np.zeros((2, m + 1, lanes.WIDTH), np.float32)  # the last row is what a missing vertex holds
        with Team(threads) as team:
            for low in range(0, len(values), lanes.WIDTH):
                team.split(n, _pack, values[low : low + lanes.WIDTH], packed)
                team.split(m, _splat, self.entries, packed, old)
                for pairs in self.neighbours:
                    team.split(m, _blur, pairs, old, new)
                    old, new = new, old
                team.split(n, _slice, self.corners, old, out[low : low + lanes.WIDTH])

    def normalise(self, weight: float) -> "Lattice":
        """Turn the filter K into weight * N^-1/2 K N^-1/2, where N = diag(K 1) makes all points count the same."""
        sums = np.zeros((1, len(self.corners.vertex)), np.float32)
        self.add_filtered(np.ones_like(sums), sums)
        root = 1 / np.sqrt(sums[0] + np.float32(1e-20))
        entries = self.entries._replace(weight=self.entries.weight * root[self.entries.point])
        corners = self.corners._replace(weight=self.corners.weight * (root * np.float32(weight))[:, None])
        return Lattice(entries, corners, self.neighbours)


def build_lattice(features: Floats, *, threads: int | None = None) -> Lattice:
    """Build the lattice of points (d, n), in standard deviations: contiguous and finite; threads as for filtering.

    Raises:
        InputError: the features span too many standard deviations.
    """
    d, n = features.shape
    geometry = plan_geometry(features.min(1), features.max(1))
    keys, vertices = np.empty((d + 1, n), np.int64), np.empty((n, d + 1), np.int32)
    weights = np.empty((n, d + 1), np.float32)
    every = range(d + 1)
    with Team(threads) as team:
        team.split(n, _embed, features, geometry, keys, weights)
        numbered = team.each([partial(_number_colour, keys[k], vertices[:, k]) for k in every])
        del keys
        firsts = np.cumsum([0, *(len(unique) for _, unique in numbered)]).tolist()
        m = firsts[-1]
        colours = [Colour(table, unique, first) for (table, unique), first in zip(numbered, firsts[:-1], strict=True)]
        neighbours = np.full((d + 1, m, 2), m, np.int32)
        team.each([partial(_link, colours[k], colours[k - 1], geometry.steps(k), neighbours) for k in every])
        entries = Entries(np.empty(m + 1, np.int64), np.empty(n * (d + 1), np.int32), np.empty(n * (d + 1), np.float32))
        entries.start[m] = n * (d + 1)
        team.each([partial(_group, vertices[:, k], weights[:, k], colours[k], entries, n * k) for k in every])
    return Lattice(entries, Corners(vertices, weights * np.float32(1 / (1 + 2.0**-d))), neighbours)
