"""Mean-field inference on the processor; the equations are in `crf`.

One buffer holds marginals, messages and logits in turn. A filter mixes the points of each channel and an update the
channels of each point, so either can overwrite what it read. The channels lie in blocks, as the filter wants them:
(blocks, p, parts, 4). The pair (label l, problem b) is channel l * count + b. An update takes a tile of points through
all its stages in a core's cache.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from clip_as_rnn.dense_crf.lattice_cpu import (
    TILE,
    Floats,
    Indices,
    Labels,
    LatticeFilter,
    Span,
    build_lattice,
    compiled,
    normalize,
)
from clip_as_rnn.dense_crf.simd import WIDTH
from clip_as_rnn.dense_crf.threads import ThreadPool

LOWEST = np.float32(-87)  # exp of less is not a normal float32
LOG2_E = np.float32(1.442695040888963)
LN2_HIGH = np.float32(0.693359375)  # few digits: its multiples are exact
LN2_LOW = np.float32(-2.12194440e-4)
EXPONENT_BIAS = np.int32(127)
EXPONENT_SHIFT = np.int32(23)
Problem: TypeAlias = tuple[int, int, int]  # how many labels, how many problems, and which of them


class CpuMeanField:
    """Mean field over the lattices of fixed points, which the threads of a call share."""

    def __init__(
        self, features: Sequence[Tensor], weights: Sequence[float], points: int, threads: int | None = None
    ) -> None:
        self._points, self._threads = points, threads
        with ThreadPool(threads) as pool:
            self._lattices = [
                normalize(build_lattice(one.numpy(), pool), weight, pool)
                for one, weight in zip(features, weights, strict=True)
            ]

    @cached_property
    def _all_label_messages(self) -> Floats:
        """What all labels together send to each point, K 1 (p,): the same in every iteration of every problem."""
        ones = np.ones((1, self._points, 1, WIDTH), np.float32)
        with ThreadPool(self._threads) as pool:
            LatticeFilter(self._lattices, pool).apply(ones)
        return ones[0, :, 0, 0].copy()

    def infer(self, energies: Tensor, iterations: int, coupling: Tensor | None) -> Tensor:
        """Overwrite the energies (n, b, p) of b problems by their marginals."""
        labels, count, points = energies.shape
        saves_blocks = plan_blocks((labels - 1) * count) != plan_blocks(labels * count)
        all_label_messages = self._all_label_messages if saves_blocks and coupling is None else None
        filtered = labels if all_label_messages is None else labels - 1  # the last label's follow from the others'
        blocks = make_blocks(filtered * count, points)
        no_messages = None if all_label_messages is None else np.zeros_like(all_label_messages)
        array = energies.numpy()
        with ThreadPool(self._threads) as pool:
            lattice_filter = LatticeFilter(self._lattices, pool)
            pool.split(points, _update, array, blocks, no_messages, iterations == 0)
            for iteration in range(1, iterations + 1):
                lattice_filter.apply(blocks)
                if coupling is not None:
                    pool.split(points, _couple, coupling.numpy(), count, blocks)
                pool.split(points, _update, array, blocks, all_label_messages, iteration == iterations)
        return energies

    def infer_labels(self, unaries: Callable[[int, int], Tensor], labels: int, iterations: int) -> Tensor:
        """Return the most probable labels (p,); `unaries(first, last)` gives the energies (last - first, p)."""
        blocks = make_blocks(labels, self._points)
        best = np.empty(self._points, np.int64)
        width = blocks.shape[2] * WIDTH

        def subtract_unaries(block: int) -> None:
            rows = unaries(block * width, min((block + 1) * width, labels))
            _subtract_rows(rows.numpy(), blocks[block])

        with ThreadPool(self._threads) as pool:
            lattice_filter = LatticeFilter(self._lattices, pool)
            pool.run([partial(subtract_unaries, block) for block in range(len(blocks))])
            for _ in range(iterations):
                pool.split(self._points, _normalize, labels, blocks)
                lattice_filter.apply(blocks, subtract_unaries)
            pool.split(self._points, _find_best, labels, blocks, best)
        return torch.from_numpy(best)


def plan_blocks(channels: int) -> tuple[int, int]:
    """Choose how many blocks of how many times four channels to filter: (blocks, 1 or 2)."""
    parts = 1 if channels <= WIDTH else 2
    return -(-channels // (parts * WIDTH)), parts


def make_blocks(channels: int, points: int) -> Floats:
    """Make room for channels, filled with zeros: (blocks, p, parts, 4)."""
    blocks, parts = plan_blocks(channels)
    return np.zeros((blocks, points, parts, WIDTH), np.float32)


class Tile(NamedTuple):
    """Room for all channels of a few points."""

    channels: Floats  # (rows, TILE) messages, then logits, then marginals
    power: Indices  # (TILE,)
    scale: Floats  # (TILE,) the same memory, read as floats


@compiled
def _make_tile(channels: int, blocks: Floats) -> Tile:
    rows = max(channels, blocks.shape[0] * blocks.shape[2] * WIDTH)
    power = np.empty(TILE, np.int32)
    return Tile(np.empty((rows, TILE), np.float32), power, power.view(np.float32))


@compiled
def _update(energies: Floats, blocks: Floats, all_label_messages: Floats | None, is_final: bool, span: Span) -> None:
    """Turn messages into marginals, in place; the final ones overwrite the energies (n, b, p) instead.

    Where `all_label_messages` are given, the last label has no channel: its messages are these less the others'.
    """
    labels, count, _ = energies.shape
    tile = _make_tile(labels * count, blocks)
    for low in range(span[0], span[1], TILE):
        part = (low, min(TILE, span[1] - low))
        _unpack(blocks, tile, part)
        if all_label_messages is not None:
            _infer_last(all_label_messages, (labels, count), tile, part)
        for channel in range(labels * count):
            row, unary = tile.channels[channel], energies[channel // count, channel % count, low : low + part[1]]
            for p in range(part[1]):
                row[p] -= unary[p]
        for problem in range(count):
            _softmax((labels, count, problem), tile, part[1])
        if not is_final:
            _pack(tile, blocks, part)
            continue
        for channel in range(labels * count):
            row, target = tile.channels[channel], energies[channel // count, channel % count, low : low + part[1]]
            for p in range(part[1]):
                target[p] = row[p]


@compiled
def _normalize(labels: int, blocks: Floats, span: Span) -> None:
    """Turn the logits of one problem into marginals, in place."""
    tile = _make_tile(labels, blocks)
    for low in range(span[0], span[1], TILE):
        part = (low, min(TILE, span[1] - low))
        _unpack(blocks, tile, part)
        _softmax((labels, 1, 0), tile, part[1])
        _pack(tile, blocks, part)


@compiled
def _find_best(labels: int, blocks: Floats, best: Labels, span: Span) -> None:
    """Find the label with the largest logit at each point, the earlier of equals."""
    tile = _make_tile(labels, blocks)
    for low in range(span[0], span[1], TILE):
        size = min(TILE, span[1] - low)
        _unpack(blocks, tile, (low, size))
        top, found = tile.channels[0], best[low : low + size]
        for p in range(size):
            found[p] = 0
        for label in range(1, labels):
            row = tile.channels[label]
            for p in range(size):
                if row[p] > top[p]:
                    top[p] = row[p]
                    found[p] = label


@compiled
def _subtract_rows(rows: Floats, block: Floats) -> None:
    """Subtract rows (k, p) from the first k channels of a block (p, parts, 4)."""
    for p in range(len(block)):
        for channel in range(len(rows)):
            block[p, channel // WIDTH, channel % WIDTH] -= rows[channel, p]


@compiled
def _unpack(blocks: Floats, tile: Tile, part: Span) -> None:
    """Sort the values of a few points by channel."""
    low, size = part
    parts = blocks.shape[2]
    for quad in range(len(blocks) * parts):
        first = quad * WIDTH
        a, b, c, d = (
            tile.channels[first],
            tile.channels[first + 1],
            tile.channels[first + 2],
            tile.channels[first + 3],
        )
        source = blocks[quad // parts, low : low + size, quad % parts]
        for p in range(size):
            a[p] = source[p, 0]
            b[p] = source[p, 1]
            c[p] = source[p, 2]
            d[p] = source[p, 3]


@compiled
def _pack(tile: Tile, blocks: Floats, part: Span) -> None:
    """Put the values of a few points back into blocks; what fills up the last block is of no account."""
    low, size = part
    parts = blocks.shape[2]
    for quad in range(len(blocks) * parts):
        first = quad * WIDTH
        a, b, c, d = (
            tile.channels[first],
            tile.channels[first + 1],
            tile.channels[first + 2],
            tile.channels[first + 3],
        )
        target = blocks[quad // parts, low : low + size, quad % parts]
        for p in range(size):
            target[p, 0] = a[p]
            target[p, 1] = b[p]
            target[p, 2] = c[p]
            target[p, 3] = d[p]


@compiled
def _infer_last(all_label_messages: Floats, shape: tuple[int, int], tile: Tile, part: Span) -> None:
    """Fill in the last label's messages: what all labels send together, less what the others send."""
    low, size = part
    labels, count = shape
    together = all_label_messages[low : low + size]
    for problem in range(count):
        last = tile.channels[(labels - 1) * count + problem]
        for p in range(size):
            last[p] = together[p]
        for label in range(labels - 1):
            row = tile.channels[label * count + problem]
            for p in range(size):
                last[p] -= row[p]


@compiled
def _couple(coupling: Floats, count: int, blocks: Floats, span: Span) -> None:
    """Replace the messages m of every problem by -mu m."""
    labels = len(coupling)
    tile, coupled = _make_tile(labels * count, blocks), np.empty((labels, TILE), np.float32)
    for low in range(span[0], span[1], TILE):
        part = (low, min(TILE, span[1] - low))
        _unpack(blocks, tile, part)
        for problem in range(count):
            coupled[:] = np.float32(0)
            for label in range(labels):
                for other in range(labels):
                    cost, row, messages = coupling[label, other], coupled[label], tile.channels[other * count + problem]
                    for p in range(part[1]):
                        row[p] -= cost * messages[p]
            for label in range(labels):
                tile.channels[label * count + problem] = coupled[label]
        _pack(tile, blocks, part)


@compiled
def _softmax(problem: Problem, tile: Tile, size: int) -> None:
    """Overwrite the logits of one problem by their softmax over the labels."""
    labels, count, first = problem
    top, total = np.full(TILE, -np.inf, np.float32), np.zeros(TILE, np.float32)
    for label in range(labels):
        row = tile.channels[label * count + first]
        for p in range(size):
            top[p] = row[p] if row[p] > top[p] else top[p]
    for label in range(labels):
        row = tile.channels[label * count + first]
        _exponentiate(row, top, tile, size)
        for p in range(size):
            total[p] += row[p]
    for p in range(size):
        total[p] = np.float32(1) / total[p]
    for label in range(labels):
        row = tile.channels[label * count + first]
        for p in range(size):
            row[p] *= total[p]


@compiled
def _exponentiate(row: Floats, top: Floats, tile: Tile, size: int) -> None:
    """Overwrite x by exp(x - top), to some units in the last place, in instructions that work on whole vectors.

    exp(x) = 2^k exp(r) with |r| <= log(2) / 2: a Taylor polynomial, and k written into the exponent of a float.
    """
    for p in range(size):
        x = row[p] - top[p]
        x = x if x > LOWEST else LOWEST
        k = np.rint(x * LOG2_E)
        r = x - k * LN2_HIGH - k * LN2_LOW
        series = np.float32(1 / 120) + r * np.float32(1 / 720)
        series = np.float32(1 / 6) + r * (np.float32(1 / 24) + r * series)
        row[p] = np.float32(1) + r * (np.float32(1) + r * (np.float32(0.5) + r * series))
        tile.power[p] = (np.int32(k) + EXPONENT_BIAS) << EXPONENT_SHIFT
    for p in range(size):
        row[p] *= tile.scale[p]
