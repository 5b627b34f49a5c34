"""Compose short clips from sprites, with exact masks: drawings that move, turn, grow, cross, leave and return.

Every frame says which pixel belongs to which object. Clips come from the same drawings and grounds as scenes.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.backgrounds import draw_backgrounds
from training.concepts import COLORS, CORE_COUNT
from training.restyle import ColorJitter, recolor
from training.scenes import SpriteSheet, lay_out, paste

FRAMES = 24
GRAIN, GAIN = 0.012, 0.05  # of the camera, frame by frame: deviation of its noise, most by which the light varies
GROUND = 1.6  # a moving ground is so many times as large as the frame
LEAST_FIRST_SHARE, LEAST_SHARE = 0.02, 0.012  # of the frame that an object shows: in the first one, in the mean
OUT = 1.0  # how far from the middle a center is out of sight, in half frames, an object's half size left out
HUES = tuple(list(COLORS).index(name) for name in ("red", "yellow", "green", "blue", "purple", "black", "white"))
WAYS = ("wander", "cross", "visit", "stay", "wander", "visit")  # equally likely


@dataclass(frozen=True, slots=True)
class Actor:
    """One object of a clip: its concept's number, and its color's, -1 for its own colors."""

    concept: int
    color: int


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip: frames (t, h, w, 3) uint8, and owners (t, h, w), 0 for the ground and k + 1 for actor k."""

    frames: np.ndarray
    owners: np.ndarray
    actors: tuple[Actor, ...]


def draw_clip(sheet: SpriteSheet, size_hw: tuple[int, int], chance: random.Random, generator: torch.Generator) -> Clip:
    """Draw one clip whose objects all show enough of themselves, the first frame included."""
    while True:
        clip = _draw(sheet, size_hw, cast_actors(chance), chance, generator)
        shares = np.stack([(clip.owners == k + 1).mean(axis=(1, 2)) for k in range(len(clip.actors))])
        if (shares[:, 0] > LEAST_FIRST_SHARE).all() and (shares.mean(axis=1) > LEAST_SHARE).all():
            return clip


def cast_actors(chance: random.Random) -> tuple[Actor, ...]:
    """Choose one to four objects of which each can be told from the others by name, or by color and name."""
    concepts = chance.sample(range(CORE_COUNT), 3)
    colors = chance.sample(HUES, 4)  # far apart, for tints vary
    actors = [Actor(concept, colors[k] if chance.random() < 0.4 else -1) for k, concept in enumerate(concepts)]
    actors = actors[: chance.choice((1, 2, 2, 3))]
    if chance.random() < 0.2:  # two of a kind
        actors = [Actor(concepts[0], colors[0]), *actors[1:], Actor(concepts[0], colors[3])]
    return tuple(actors)


def _draw(
    sheet: SpriteSheet,
    size_hw: tuple[int, int],
    actors: tuple[Actor, ...],
    chance: random.Random,
    generator: torch.Generator,
) -> Clip:
    canvas = _draw_ground(size_hw, chance, generator)
    owners = torch.zeros(FRAMES, *size_hw, dtype=torch.long)
    for k, actor in enumerate(actors):
        of_concept = (sheet.concept == actor.concept).nonzero()[:, 0].tolist()
        drawing = sheet.atlas[chance.choice(of_concept)][None].float() / 255
        drawing = recolor(drawing, torch.tensor([actor.color]), ColorJitter(), 0.0, generator)
        size = chance.uniform(0.35, 0.6) if len(actors) > 2 else chance.uniform(0.4, 0.75)
        centers, angle, sizes = _move(chance.choice(WAYS), size, size_hw, chance)
        flip, stretch = chance.choice((-1, 1)), chance.uniform(0.9, 1.1)
        reach = torch.stack([sizes / 2 * flip * stretch, sizes / 2 / stretch], -1)
        to_sprite = lay_out(centers, angle, reach, size_hw)
        layer = paste(drawing.expand(FRAMES, -1, -1, -1), to_sprite, sizes * min(size_hw))
        canvas = layer[:, :3] + canvas * (1 - layer[:, 3:])
        owners = torch.where(layer[:, 3] > 0.5, k + 1, owners)
    light = 1 + GAIN * (torch.linspace(0, chance.uniform(2, 9), FRAMES) + chance.uniform(0, 6)).sin()
    noise = GRAIN * torch.randn(canvas.shape, generator=generator)
    frames = ((canvas * light.view(-1, 1, 1, 1) + noise).clamp(0, 1) * 255).round().byte()
    return Clip(frames.permute(0, 2, 3, 1).numpy(), owners.numpy(), actors)


def _draw_ground(size_hw: tuple[int, int], chance: random.Random, generator: torch.Generator) -> Tensor:
    """Draw a ground that stands still, or passes by and comes nearer: (t, 3, h, w)."""
    h, w = (round(GROUND * side) for side in size_hw)
    ground = draw_backgrounds(1, (h, w), 0.03, generator)
    moves = chance.random() < 0.65
    room = 1 - 1 / GROUND
    begin, end = ([chance.uniform(-room, room) if moves else 0.0 for _ in range(2)] for _ in range(2))
    zoom = torch.linspace(1.0, chance.uniform(0.8, 1.0) if moves else 1.0, FRAMES) / GROUND
    at = torch.linspace(0, 1, FRAMES)[:, None]
    shift = torch.tensor(begin) * (1 - at) + torch.tensor(end) * at  # t 2
    matrix = torch.zeros(FRAMES, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom
    matrix[:, :, 2] = shift
    grid = functional.affine_grid(matrix, [FRAMES, 3, *size_hw], align_corners=False)
    pictures = ground.expand(FRAMES, -1, -1, -1)
    return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _move(way: str, size: float, size_hw: tuple[int, int], chance: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """Give an object's centers (t, 2) in short sides from the middle, angles (t,) in radians and sizes (t,)."""
    half = [side / min(size_hw) / 2 for side in reversed(size_hw)]  # x y
    room = [max(side - 0.4 * size, 0.05) for side in half]

    def inside() -> list[float]:
        return [chance.uniform(-1, 1) * most for most in room]

    def outside() -> list[float]:
        side, axis = chance.choice((-1, 1)), chance.choice((0, 1))
        point = inside()
        point[axis] = side * (OUT * half[axis] + 0.6 * size)
        return point

    if way == "stay":
        points = [start := inside(), [v + chance.uniform(-0.06, 0.06) for v in start]]
    elif way == "cross":
        x, y = chance.choice((-1, 1)) * room[0], chance.uniform(-1, 1) * room[1]
        points = [[x, y], [-x, y + chance.uniform(-0.1, 0.1)]]
    elif way == "visit":
        gone = outside()
        points = [inside(), gone, gone, inside()] if chance.random() < 0.6 else [inside(), inside(), outside()]
    else:
        points = [inside() for _ in range(3)]
    centers = _pass_through(torch.tensor(points))
    at = torch.linspace(0, 1, FRAMES)
    sway, turn = chance.uniform(0, 0.15), chance.uniform(-0.35, 0.35)
    angle = chance.uniform(-0.2, 0.2) + turn * at + sway * (at * chance.uniform(3, 15)).sin()
    sizes = size * torch.exp(at * math.log(chance.uniform(0.7, 1.35)))
    return centers, angle, sizes


def _pass_through(points: Tensor) -> Tensor:
    """Pass through points (k, 2), slowing down at each: (t, 2)."""
    at = torch.linspace(0, len(points) - 1, FRAMES)
    leg = at.floor().clamp(max=len(points) - 2).long()
    eased = (1 - (math.pi * (at - leg)).cos()) / 2
    straight = 0.5 * eased + 0.5 * (at - leg)
    return points[leg] + (points[leg + 1] - points[leg]) * straight[:, None]
