"""Measure CaR itself, with the package, on scenes of unseen drawings while the CLIP is trained."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from clip_as_rnn import load_segmenter
from training.benchmark import RULES, Scene, benchmark_sprites, draw_scenes
from training.concepts import CORE_CONCEPTS
from training.export import IMAGE_PX, export_clip
from training.sprites import Sprites
from training.towers import Clip
from training.tune import Tally

COUNT = 16
SEED = 30_000
NAMES = [concept.name for concept in CORE_CONCEPTS]


def watched_scenes(sprites: Sprites) -> list[Scene]:
    """Draw the fixed scenes: those of the benchmark's kind, from another seed."""
    generator = torch.Generator().manual_seed(SEED)
    return draw_scenes(benchmark_sprites(sprites, held_out=True), COUNT, RULES, random.Random(SEED), generator)


def measure_car(model: Clip, tokenizer: Path, folder: Path, scenes: list[Scene]) -> str:
    """Export the model into `folder`, ask all names on every scene, and say mIoU and what was kept in one line."""
    export_clip(model, tokenizer, folder, image_px=IMAGE_PX)
    segmenter = load_segmenter("tiny", model=folder, classifier=folder)
    tally = Tally(np.zeros((len(NAMES) + 1,) * 2, dtype=np.int64))
    for scene in scenes:
        truth = np.array([0, *(number + 1 for number in scene.concepts)])[scene.owners]
        tally.judge(truth, segmenter.segment(scene.picture, NAMES), NAMES)
    return tally.line()
