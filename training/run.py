"""Train the bundled CLIP: `python -m training.run`. An interrupted run goes on when the same command is given again."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from transformers import CLIPTokenizer

from training.benchmark import Scene
from training.checkpoint import Progress, load_progress, save_milestone, save_progress
from training.concepts import CONCEPTS, CORE_COUNT
from training.evaluate import Questions, evaluate, evaluation_set
from training.export import IMAGE_PX, export_clip
from training.packages import fetch_packages
from training.paths import ASSETS, WORK
from training.plan import Plan
from training.scenes import SpriteSheet
from training.sprites import load_sprites
from training.step import ALONE, WEIGHTS, Share, draw_batch, training_losses
from training.texts import make_tokenizer
from training.towers import Clip, ClipSize
from training.watch import measure_car, watched_scenes

logger = logging.getLogger("training")
SAVE_EVERY_S = 60


def main() -> None:
    """Fetch, draw, train, evaluate and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="where packages, sprites and checkpoints are kept")
    parser.add_argument("--out", type=Path, default=ASSETS, help="where the model is exported when training ends")
    parser.add_argument("--images", type=int, default=Plan().total_images, help="how many images to train on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that share every batch")
    parser.add_argument("--every", type=float, default=600, help="seconds between evaluations")
    arguments = parser.parse_args()
    if Plan().batch % (2 * arguments.workers):
        parser.error(f"--workers must divide {Plan().batch // 2}, the scenes of a batch, but is {arguments.workers}.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.work.mkdir(parents=True, exist_ok=True)
    fetch_packages(arguments.work)
    load_sprites(arguments.work)
    make_tokenizer(arguments.work / "tokenizer")
    # One thread a worker and memory that is kept: twice as fast on a machine that others use as well.
    os.environ["CLIP_AS_RNN_CACHE"] = "off"  # every evaluation has other text features
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (arguments, f"file://{folder}/meeting"), nprocs=arguments.workers)


def _work(worker: int, arguments: argparse.Namespace, meeting: str) -> None:
    logging.basicConfig(level=logging.INFO if worker == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    share = Share(worker, arguments.workers)
    distributed.init_process_group("gloo", meeting, rank=worker, world_size=share.workers, timeout=timedelta(hours=1))
    plan = Plan(total_images=arguments.images)
    progress = train(plan, arguments.work, torch.device(arguments.device), share, every_s=arguments.every)
    if worker == 0:
        export_clip(progress.average, arguments.work / "tokenizer", arguments.out, image_px=IMAGE_PX)
    distributed.destroy_process_group()


def train(plan: Plan, work: Path, device: torch.device, share: Share, *, every_s: float) -> Progress:
    """Train from the last checkpoint, or from nothing, to the end of the plan."""
    sprites = load_sprites(work)
    weights = torch.ones(len(CONCEPTS))
    weights[:CORE_COUNT] = plan.core_weight
    sheet = SpriteSheet(sprites.of_styles(held_out=False), weights, device)
    questions, scenes = evaluation_set(sprites, device), watched_scenes(sprites)
    tokenizer = make_tokenizer(work / "tokenizer")
    progress = load_progress(work, plan, ClipSize(vocabulary=len(tokenizer)), device)
    last = saved = time.monotonic()
    tally: dict[str, float] = {}
    while progress.seen < plan.total_images:
        found = take_step(progress, plan, sheet, tokenizer, share)
        tally |= {name: 0.95 * tally.get(name, value) + 0.05 * value for name, value in found.items()}
        if (progress.seen // plan.batch) % 50 == 0:
            logger.info(
                "%d images, %s", progress.seen, " ".join(f"{name} {value:.3f}" for name, value in tally.items())
            )
        if share.worker == 0 and progress.seen % plan.milestone_images < plan.batch:
            save_milestone(progress, work)
        if share.worker == 0 and time.monotonic() - last > every_s:
            report(progress, work, questions, scenes)
            last = time.monotonic()
        if share.worker == 0 and time.monotonic() - saved > SAVE_EVERY_S:
            save_progress(progress, work)
            saved = time.monotonic()
    if share.worker == 0:
        report(progress, work, questions, scenes)
    return progress


def take_step(
    progress: Progress, plan: Plan, sheet: SpriteSheet, tokenizer: CLIPTokenizer, share: Share = ALONE
) -> dict[str, float]:
    """Train on one batch, together with the other workers, and return its losses."""
    batch = draw_batch(sheet, plan, progress.seen, progress.model.size.patch_px, share)
    rng = plan.step_rng("texts", progress.seen, share.worker)
    is_wordy = (progress.seen // plan.batch) % plan.words_every == 0 or progress.table is None
    known = None if is_wordy else progress.table
    found, table = training_losses(progress.model, tokenizer, batch, plan, rng, known)
    progress.table = table.detach()
    loss = sum(plan.loss_weight(name) * WEIGHTS[name] * value for name, value in found.items())
    progress.model.zero_grad()
    loss.backward()
    _average_gradients(progress.model, share)
    torch.nn.utils.clip_grad_norm_(progress.model.parameters(), 1.0)
    for optimizer in progress.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(progress.seen)
        optimizer.step()
    progress.seen += plan.batch
    progress.follow(plan)
    return {name: value.item() for name, value in found.items()}


def _average_gradients(model: Clip, share: Share) -> None:
    if share.workers == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= share.workers
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def report(progress: Progress, work: Path, questions: Questions, scenes: Sequence[Scene]) -> None:
    """Save everything and write one line on how far it came: the CLIP by itself, and CaR with it."""
    save_progress(progress, work)
    words = work / "tokenizer"
    scores = evaluate(progress.average, make_tokenizer(words), questions)
    parts = [f"{name} {value:.3f}" for name, value in scores.items()]
    parts.append(f"CaR: {measure_car(progress.average, words, work / 'latest', scenes)}")
    line = f"{time.strftime('%H:%M:%S')} {progress.seen} images: {', '.join(parts)}"
    logger.info(line)
    with (work / "status.txt").open("a") as status:
        status.write(line + "\n")


if __name__ == "__main__":
    main()
