"""Compare the two kinds of local supervision: `python -m training.compare [--images N]`.

From one checkpoint, as many scenes with the loss on patches and regions, with the loss on the gradient CAM, and with
both. Each result is exported, so that `training.pointing` and `training.tune` measure its CAM and its dense proposals.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from training.checkpoint import load_progress
from training.concepts import CONCEPTS, CORE_COUNT
from training.evaluate import evaluate, evaluation_set
from training.export import IMAGE_PX, export_clip
from training.paths import WORK
from training.plan import Plan
from training.run import take_step
from training.scenes import SpriteSheet
from training.sprites import load_sprites
from training.texts import make_tokenizer
from training.towers import ClipSize

KINDS = {"regions": (1.0, 0.0), "cam": (0.0, 1.0), "both": (1.0, 1.0)}
RATE = 2e-4  # held until the last fifth


def main() -> None:
    """Train and measure one kind after the other; print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=WORK / "checkpoint.pt")
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    arguments = parser.parse_args()
    sprites = load_sprites(WORK)
    tokenizer, device = make_tokenizer(WORK / "tokenizer"), torch.device("cpu")
    weights = torch.ones(len(CONCEPTS))
    weights[:CORE_COUNT] = Plan().core_weight
    sheet = SpriteSheet(sprites.of_styles(held_out=False), weights, device)
    questions = evaluation_set(sprites, device)
    for kind in arguments.kinds:
        folder = WORK / "compare" / kind
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(arguments.checkpoint, folder / "checkpoint.pt")
        patch_weight, cam_weight = KINDS[kind]
        plan = replace(Plan(), patch_weight=patch_weight, cam_weight=cam_weight, peak_rate=RATE, average_decay=0.99)
        progress = load_progress(folder, plan, ClipSize(vocabulary=len(tokenizer)), device)
        end = progress.seen + arguments.images
        plan = replace(plan, total_images=end, cooldown_images=arguments.images // 5)
        while progress.seen < end:
            take_step(progress, plan, sheet, tokenizer)
        export_clip(progress.average, tokenizer=WORK / "tokenizer", folder=folder / "model", image_px=IMAGE_PX)
        scores = evaluate(progress.average, tokenizer, questions)
        sys.stdout.write(f"{kind}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
