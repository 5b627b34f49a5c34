"""Play the pointing game with the package's proposers: `python -m training.pointing [--model DIR]`.

Scenes of held-out drawings with one object and with three; the texts that are there are asked. A proposal points at its
highest pixel; it is right if that pixel belongs to the text's object. Chance is the objects' mean share of the image.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from clip_as_rnn import Segmenter, load_segmenter
from training.benchmark import RULES, Scene, benchmark_sprites, draw_scenes
from training.concepts import CONCEPTS
from training.paths import WORK
from training.sprites import Sprites, load_sprites

SEED = 99
PROPOSERS = {
    "CAM": {"proposals": "cam", "affinity_layers": 0},
    "CAM, refined": {"proposals": "cam", "affinity_layers": 2},
    "dense": {"proposals": "dense", "affinity_layers": 0},
    "dense, refined": {"proposals": "dense", "affinity_layers": 2},
}


def main() -> None:
    """Print one line per proposer and number of objects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--work", type=Path, default=WORK)
    arguments = parser.parse_args()
    sprites = benchmark_sprites(load_sprites(arguments.work), held_out=True)
    for objects in (1, 3):
        scenes = _scenes_with(sprites, objects, arguments.count)
        for name, settings in PROPOSERS.items():
            segmenter = load_segmenter(
                "tiny", model=arguments.model, classifier=arguments.model, max_steps=0, crf=False, **settings
            )
            right, chance = _play(segmenter, scenes)
            sys.stdout.write(f"{objects} objects, {name}: {right:.3f} (chance {chance:.3f})\n")
            sys.stdout.flush()


def _scenes_with(sprites: Sprites, objects: int, count: int) -> list[Scene]:
    rules = replace(RULES, max_objects=objects, single_share=float(objects == 1))
    generator, chance = torch.Generator().manual_seed(SEED), random.Random(SEED)
    found: list[Scene] = []
    while len(found) < count:
        drawn = draw_scenes(sprites, 16, rules, chance, generator)
        found += [scene for scene in drawn if len(set(scene.concepts)) == len(scene.concepts) == objects]
    return found[:count]


def _play(segmenter: Segmenter, scenes: list[Scene]) -> tuple[float, float]:
    right, share = [], []
    for scene in scenes:
        texts = [CONCEPTS[number].name for number in scene.concepts]
        step = segmenter.segment(scene.picture, texts, trace=True).trace.steps[0]
        for slot, proposal in enumerate(np.asarray(step.proposals)):
            mask = scene.owners == slot + 1
            right.append(bool(mask.ravel()[proposal.argmax()]))
            share.append(mask.mean())
    return float(np.mean(right)), float(np.mean(share))


if __name__ == "__main__":
    main()
