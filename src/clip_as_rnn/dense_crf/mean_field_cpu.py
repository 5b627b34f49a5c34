"""Mean-field inference on the processor.

Between filters, one pass turns the messages into marginals: a tile of pixels stays in a core's cache from the sum over
the kernels to the softmax. The pair (label l, problem b) is channel l * count + b.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clip_as_rnn.dense_crf import lanes
from clip_as_rnn.dense_crf.lattice_cpu import TILE, Filters, Floats, Indices, Lattice, Span, compiled
from clip_as_rnn.dense_crf.threads import Team

LOWEST = np.float32(-87)  # exp of less is not a normal float32
LOG2_E = np.float32(1.442695040888963)
LN2_HIGH = np.float32(0.693359375)  # few digits: its multiples are exact
LN2_LOW = np.float32(-2.12194440e-4)
EXPONENT_BIAS = np.int32(127)
EXPONENT_SHIFT = np.int32(23)


class Problems(NamedTuple):
    """What stays the same during all iterations."""

    energies: Floats  # (n, b, p)
    everything: Floats  # (p,) what all labels together send, K 1; (0,) where `has_room` for the last label's messages
    coupling: Floats  # (n, n), or (0, 0) for Potts


class Tile(NamedTuple):
    """Room for a few pixels."""

    channels: Floats  # (rows, TILE) messages, then logits, then marginals
    sums: Floats  # (TILE * 8,)
    spare: Floats  # (n, TILE)
    power: Indices  # (TILE,)
    scale: Floats  # (TILE,) the same memory, read as floats


def sum_everything(lattices: Sequence[Lattice], pixels: int, team: Team) -> Floats:
    """Compute what all labels together send to each pixel, K 1 (p,): the same in every iteration of every problem."""
    sums = np.empty((len(lattices), 1, pixels, lanes.WIDTH), np.float32)
    Filters(lattices, team).run(np.ones((1, pixels, lanes.WIDTH), np.float32), sums)
    everything: Floats = sums[:, 0, :, 0].sum(0)
    return everything


def plan_blocks(channels: int) -> tuple[int, int]:
    """Choose how many blocks of how many times four channels to filter: (blocks, 1 or 2)."""
    parts = 1 if channels <= lanes.WIDTH else 2
    return -(-channels // (parts * lanes.WIDTH)), parts


def has_room(labels: int, count: int) -> bool:
    """Say whether the last label's messages fit into the others' blocks, so that they can be filtered at no cost."""
    return plan_blocks((labels - 1) * count) == plan_blocks(labels * count)


def infer(lattices: Sequence[Lattice], problems: Problems, iterations: int, team: Team) -> Floats:
    """Return the marginals (n, b, p) of b problems after some iterations; the equations are in `crf`."""
    labels, count, pixels = problems.energies.shape
    filters = Filters(lattices, team)
    blocks, parts = plan_blocks((labels - 1) * count)  # if need be without the last label: it follows from the others
    packed = np.empty((blocks, pixels, parts, lanes.WIDTH), np.float32)
    messages = np.empty((len(lattices), blocks, pixels, parts, lanes.WIDTH), np.float32)
    marginals = np.empty_like(problems.energies)
    silence = problems._replace(everything=np.zeros_like(problems.everything))
    team.split(pixels, _update, silence, messages[:0], packed, marginals)
    for iteration in range(iterations):
        filters.run(packed.squeeze(2) if parts == 1 else packed, messages.squeeze(3) if parts == 1 else messages)
        wanted = marginals if iteration == iterations - 1 else marginals[:0]
        team.split(pixels, _update, problems, messages, packed, wanted)
    return marginals


@compiled
def _update(problems: Problems, messages: Floats, packed: Floats, marginals: Floats, span: Span) -> None:
    """Turn messages (kernels, blocks, p, parts, 4) into marginals: packed likewise, and as (n, b, p) or (0, b, p)."""
    labels, count, _ = problems.energies.shape
    rows = max(labels * count, packed.shape[0] * packed.shape[2] * lanes.WIDTH)
    power = np.empty(TILE, np.int32)
    tile = Tile(
        np.empty((rows, TILE), np.float32),
        np.empty(TILE * 2 * lanes.WIDTH, np.float32),
        np.empty((labels, TILE), np.float32),
        power,
        power.view(np.float32),
    )
    for low in range(span[0], span[1], TILE):
        part = (low, min(TILE, span[1] - low))
        _unpack(messages, tile, part)
        for problem in range(count):
            if len(problems.everything) > 0:
                _infer_last(problems, problem, tile, part)
            if len(problems.coupling) > 0:
                _couple(problems, problem, tile, part)
            _softmax(problems, problem, tile, part)
        for channel in range(len(marginals) * count):
            row, target = tile.channels[channel], marginals[channel // count, channel % count, low : low + part[1]]
            for p in range(part[1]):
                target[p] = row[p]
        _pack(tile, packed, part)


@compiled
def _unpack(messages: Floats, tile: Tile, part: Span) -> None:
    """Sum the kernels' messages, then sort them by channel."""
    low, size = part
    kernels, blocks, _, parts, _ = messages.shape
    for block in range(blocks):
        total = tile.sums[: size * parts * lanes.WIDTH]
        for i in range(len(total)):
            total[i] = np.float32(0)
        for kernel in range(kernels):
            source = messages[kernel, block, low : low + size].reshape(-1)
            for i in range(len(total)):
                total[i] += source[i]
        by_point = total.reshape(size, parts, lanes.WIDTH)
        for quad in range(parts):
            first = (block * parts + quad) * lanes.WIDTH
            a, b, c, d = (
                tile.channels[first],
                tile.channels[first + 1],
                tile.channels[first + 2],
                tile.channels[first + 3],
            )
            for p in range(size):
                a[p] = by_point[p, quad, 0]
                b[p] = by_point[p, quad, 1]
                c[p] = by_point[p, quad, 2]
                d[p] = by_point[p, quad, 3]


@compiled
def _pack(tile: Tile, packed: Floats, part: Span) -> None:
    """Write the channels in blocks; what fills up the last block is of no account."""
    low, size = part
    parts = packed.shape[2]
    for quad in range(len(packed) * parts):
        first = quad * lanes.WIDTH
        a, b, c, d = (
            tile.channels[first],
            tile.channels[first + 1],
            tile.channels[first + 2],
            tile.channels[first + 3],
        )
        target = packed[quad // parts, low : low + size, quad % parts]
        for p in range(size):
            target[p, 0] = a[p]
            target[p, 1] = b[p]
            target[p, 2] = c[p]
            target[p, 3] = d[p]


@compiled
def _infer_last(problems: Problems, problem: int, tile: Tile, part: Span) -> None:
    """Fill in the last label's messages: what all labels send together, less what the others send."""
    low, size = part
    labels, count, _ = problems.energies.shape
    everything = problems.everything[low : low + size]
    last = tile.channels[(labels - 1) * count + problem]
    for p in range(size):
        last[p] = everything[p]
    for label in range(labels - 1):
        row = tile.channels[label * count + problem]
        for p in range(size):
            last[p] -= row[p]


@compiled
def _couple(problems: Problems, problem: int, tile: Tile, part: Span) -> None:
    """Replace messages m by -mu m."""
    labels, count, _ = problems.energies.shape
    for label in range(labels):
        row, copy = tile.channels[label * count + problem], tile.spare[label]
        for p in range(part[1]):
            copy[p] = row[p]
            row[p] = np.float32(0)
    for label in range(labels):
        row = tile.channels[label * count + problem]
        for other in range(labels):
            cost, copy = problems.coupling[label, other], tile.spare[other]
            for p in range(part[1]):
                row[p] -= cost * copy[p]


@compiled
def _softmax(problems: Problems, problem: int, tile: Tile, part: Span) -> None:
    """Subtract the energies, then overwrite the logits by their softmax over the labels."""
    low, size = part
    labels, count, _ = problems.energies.shape
    top, total = np.full(TILE, -np.inf, np.float32), np.zeros(TILE, np.float32)
    for label in range(labels):
        row, energies = tile.channels[label * count + problem], problems.energies[label, problem, low : low + size]
        for p in range(size):
            row[p] -= energies[p]
            top[p] = row[p] if row[p] > top[p] else top[p]
    for label in range(labels):
        row = tile.channels[label * count + problem]
        _exponentiate(row, top, tile, size)
        for p in range(size):
            total[p] += row[p]
    for p in range(size):
        total[p] = np.float32(1) / total[p]
    for label in range(labels):
        row = tile.channels[label * count + problem]
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
