"""Save and load the state of training, all or nothing."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.plan import Plan
from training.towers import Clip, ClipSize


@dataclass(slots=True)
class Progress:
    """The state of training: the model, the running average of its weights (which is exported), the optimizers."""

    model: Clip
    average: Clip
    optimizers: tuple[torch.optim.Optimizer, ...]
    seen: int = 0
    table: Tensor | None = None  # vectors of the last step's table of texts

    @torch.no_grad()
    def follow(self, plan: Plan) -> None:
        """Move the average towards the model; early on it follows faster."""
        steps = self.seen / plan.batch
        decay = min(plan.average_decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)


def load_progress(work: Path, plan: Plan, size: ClipSize, device: torch.device) -> Progress:
    """Load the last checkpoint, or start anew with the plan's seed."""
    torch.manual_seed(plan.seed)
    model = Clip(size).to(device)
    progress = Progress(model, copy.deepcopy(model), _make_optimizers(model, plan))
    path = work / "checkpoint.pt"
    if path.exists():
        stored = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(stored["model"])
        progress.average.load_state_dict(stored["average"])
        for optimizer, state in zip(progress.optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        progress.seen, progress.table = stored["seen"], stored.get("table")
    return progress


def save_progress(progress: Progress, work: Path) -> None:
    """Write the checkpoint; the old one stays until the new one is whole."""
    partial = work / "checkpoint.partial"
    torch.save(
        {
            "model": progress.model.state_dict(),
            "average": progress.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in progress.optimizers],
            "seen": progress.seen,
            "table": progress.table,
            "size": asdict(progress.model.size),
        },
        partial,
    )
    partial.rename(work / "checkpoint.pt")


def save_milestone(progress: Progress, work: Path) -> None:
    """Keep the average of this moment beside the checkpoint; a decay of the rate can begin from any checkpoint."""
    state = {"average": progress.average.state_dict(), "seen": progress.seen, "size": asdict(progress.model.size)}
    partial = work / "milestone.partial"
    torch.save(state, partial)
    partial.rename(work / f"average_{progress.seen // 1000:05d}k.pt")


def _make_optimizers(model: Clip, plan: Plan) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the vision blocks, where most of the learning is, AdamW for the rest."""
    blocks = [p for p in model.vision.blocks.parameters() if p.ndim > 1]
    known = {id(p) for p in blocks}
    matrices = [p for p in model.parameters() if p.ndim > 1 and id(p) not in known]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return (
        torch.optim.Muon(
            blocks, lr=plan.peak_rate, weight_decay=plan.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups, lr=plan.peak_rate, betas=(0.9, 0.98), foreach=True),
    )
