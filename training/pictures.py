"""Compose the demo's pictures: `python -m training.pictures [folder]` writes examples/.

A landscape drawn from shapes, and drawings of the held-out style placed by hand.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.concepts import CONCEPTS
from training.paths import EXAMPLES, WORK
from training.sprites import STYLES, Sprites, load_sprites

SIZE = (384, 288)  # width, height


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a drawing goes: its concept, which of its drawings, center and longer side in pixels."""

    name: str
    center: tuple[int, int]
    side_px: int
    variant: int = 0
    style: str = "noto"
    flipped: bool = False


PICTURES = {
    "park": (
        Placement("tree", (70, 122), 150),
        Placement("car", (232, 190), 128),
        Placement("dog", (336, 226), 96),
    ),
    "kitchen": (
        Placement("cat", (86, 180), 120),
        Placement("banana", (206, 214), 88),
        Placement("candle", (298, 160), 110),
    ),
}


def main() -> None:
    """Write every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLES)
    parser.add_argument("--work", type=Path, default=WORK)
    arguments = parser.parse_args()
    sprites = load_sprites(arguments.work)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, placements in PICTURES.items():
        picture = _landscape() if name == "park" else _room()
        for placement in placements:
            _paste(picture, sprites, placement)
        picture.save(arguments.folder / f"{name}.jpg", quality=93)


def _landscape() -> Image.Image:
    width, height = SIZE
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = np.array([150, 200, 240]) * (1 - rows) + np.array([225, 238, 250]) * rows
    picture = Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((-120, 150, 260, 420), fill=(150, 195, 120))
    draw.ellipse((120, 165, 560, 460), fill=(135, 185, 108))
    draw.rectangle((0, 228, width, height), fill=(150, 150, 152))
    draw.rectangle((0, 224, width, 230), fill=(205, 200, 190))
    return picture.filter(ImageFilter.GaussianBlur(0.8))


def _room() -> Image.Image:
    width, height = SIZE
    picture = Image.new("RGB", SIZE, (222, 208, 186))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 205, width, height), fill=(150, 110, 80))
    draw.rectangle((0, 200, width, 207), fill=(120, 85, 60))
    return picture.filter(ImageFilter.GaussianBlur(0.8))


def _paste(picture: Image.Image, sprites: Sprites, placement: Placement) -> None:
    number = next(i for i, concept in enumerate(CONCEPTS) if concept.name == placement.name)
    rows = np.flatnonzero((sprites.concept == number) & (sprites.style == STYLES.index(placement.style)))
    drawing = Image.fromarray(sprites.rgba[rows[placement.variant]])
    if placement.flipped:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawing = drawing.resize((placement.side_px, placement.side_px), Image.Resampling.LANCZOS)
    left, top = (center - placement.side_px // 2 for center in placement.center)
    picture.paste(drawing, (left, top), drawing)


if __name__ == "__main__":
    main()
