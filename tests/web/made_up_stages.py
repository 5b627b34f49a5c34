"""Made-up stages: masks are discs in a row, `ghost` is never there, `slow` takes its time; each says that it runs."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.result import Proposal
from clip_as_rnn.segmenter import Question, Segmenter

PATCHES_HW = (12, 16)
SLOW_S = 3.0


@dataclass(frozen=True)
class View:
    """Only the size of an image."""

    size_hw: tuple[int, int]


class MadeUpStages:
    """Discs in a row, one per text asked; the ghost scores 0.1, all others 0.9."""

    def check(self, texts: Sequence[str]) -> None:
        """Accept everything."""

    def look(self, image: np.ndarray, texts: Sequence[str]) -> View:
        _say(f"look {texts}")
        return View(image.shape[:2])

    def propose(self, view: View, texts: Sequence[str], step: int) -> Proposal:
        _say(f"propose {step}")
        rows, columns = np.mgrid[: PATCHES_HW[0], : PATCHES_HW[1]]
        centres = [(i + 0.5) * PATCHES_HW[1] / len(texts) for i in range(len(texts))]
        discs = [np.clip(1.6 - np.hypot(rows - 6, columns - centre) / 2, 0, 1) for centre in centres]
        maps = torch.from_numpy(np.stack(discs).astype(np.float32))
        return Proposal(maps, maps)

    def classify(self, questions: Sequence[Question[View]]) -> list[np.ndarray]:
        if "slow" in questions[0].texts:
            time.sleep(SLOW_S)
        return [np.array([0.1 if text == "ghost" else 0.9 for text in one.texts]) for one in questions]

    def finish(self, view: View, maps: torch.Tensor) -> np.ndarray:
        _say("finish")
        grown = torch.nn.functional.interpolate(maps[None], view.size_hw)[0] if len(maps) else maps
        return grown.numpy() > 0.5 if len(maps) else np.zeros((0, *view.size_hw), bool)

    def describe(self) -> Mapping[str, str]:
        return {"model": "made up"}


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def made_up_segmenter(config: SegmenterConfig) -> Segmenter[View]:
    """Make a segmenter whose settings can be replaced."""
    return Segmenter(MadeUpStages(), config, made_up_segmenter)
