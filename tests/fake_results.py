"""Segmentations made up for tests of what comes after them: blobs for masks, and texts that drop one by one."""

import numpy as np
import torch

from clip_as_rnn.result import Rejection, Segmentation, Step, Trace

PATCHES_HW = (12, 16)


def blob(center_yx: tuple[float, float], size_hw: tuple[int, int], radius: float = 0.25) -> np.ndarray:
    """Return a soft disc in [0, 1]; center and radius are shares of the height and the width."""
    rows = (np.arange(size_hw[0])[:, None] + 0.5) / size_hw[0] - center_yx[0]
    columns = (np.arange(size_hw[1])[None] + 0.5) / size_hw[1] - center_yx[1]
    return np.clip(1.5 - np.sqrt(rows**2 + columns**2) / radius, 0, 1).astype(np.float32)


def fake_segmentation(
    size_hw: tuple[int, int], queries: tuple[str, ...], lives: dict[str, int] | None = None, *, trace: bool = True
) -> Segmentation:
    """Make a segmentation in which a text drops at step `lives[text]` (from 1); texts not named are found."""
    lives = lives or {}
    centers = {text: ((i * 0.37 + 0.2) % 1, (i * 0.61 + 0.3) % 1) for i, text in enumerate(queries)}
    steps, alive = [], queries
    while alive:
        k = len(steps) + 1
        kept = tuple(i for i, text in enumerate(alive) if lives.get(text) != k)
        maps = torch.from_numpy(np.stack([blob(centers[text], PATCHES_HW) for text in alive]))
        scores = np.array([0.9 - 0.01 * i if i in kept else 0.1 + 0.01 * i for i in range(len(alive))], np.float32)
        steps.append(Step(alive, maps, maps, scores, kept, size_hw))
        if len(kept) == len(alive):
            break
        alive = tuple(alive[i] for i in kept)
    labels = np.zeros(size_hw, int)
    for i, text in enumerate(alive):
        labels[blob(centers[text], size_hw) > 0.5] = i + 1
    masks = np.stack([labels == i + 1 for i in range(len(alive))]) if alive else np.zeros((0, *size_hw), bool)
    rejections = tuple(
        Rejection(text, k, float(step.scores[step.texts.index(text)]), "score below 0.4")
        for text in queries
        for k, step in enumerate(steps, 1)
        if lives.get(text) == k and text in step.texts
    )
    scores = steps[-1].scores if alive else np.zeros(0, np.float32)
    return Segmentation(
        queries, alive, masks, scores, rejections, Trace(tuple(steps)) if trace else None, {"clip": 0.1}
    )
