"""Made-up stages: masks are discs in a row, `ghost` is never there, `slow` takes its time; each says that it runs."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.encoders.base import Tick, ignore_tick
from clip_as_rnn.refine.clip_crf import ClipMasks, RefinedFrame
from clip_as_rnn.result import Proposal
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Stages

PATCHES_HW = (12, 16)
SLOW_S = 3.0


class MadeUpStage:
    """Keeps images and texts as they are."""

    def check_texts(self, texts: Sequence[str]) -> None:
        """Accept everything."""

    def encode_images(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(images)

    def encode_texts(self, texts: Sequence[str], tick: Tick = ignore_tick) -> tuple[str, ...]:
        return tuple(texts)


class MadeUpProposer(MadeUpStage):
    """Discs in a row, one per text left."""

    def encode_texts(self, texts: Sequence[str], tick: Tick = ignore_tick) -> tuple[str, ...]:
        _say(f"encode {texts}")
        return tuple(texts)

    def init_state(self, image: np.ndarray, texts: tuple[str, ...]) -> tuple[str, ...]:
        return texts

    def propose(self, state: tuple[str, ...], active: np.ndarray, step: int) -> Proposal:
        _say(f"propose {step}")
        rows, columns = np.mgrid[: PATCHES_HW[0], : PATCHES_HW[1]]
        centers = [(i + 0.5) * PATCHES_HW[1] / len(active) for i in range(len(active))]
        discs = [np.clip(1.6 - np.hypot(rows - 6, columns - center) / 2, 0, 1) for center in centers]
        maps = torch.from_numpy(np.stack(discs).astype(np.float32))
        return Proposal(maps, maps)


class MadeUpClassifier(MadeUpStage):
    """The ghost scores 0.1, all others 0.9."""

    def classify(self, masks: Sequence[Any], tick: Tick = ignore_tick) -> list[np.ndarray]:
        left = [[one.texts[i] for i in one.active] for one in masks]
        if "slow" in left[0]:
            time.sleep(SLOW_S)
        return [np.array([0.1 if text == "ghost" else 0.9 for text in texts], dtype=np.float32) for texts in left]


class MadeUpRefiner:
    """Takes what is above one half, the later text over the earlier."""

    def refine(self, image: np.ndarray, masks: torch.Tensor) -> np.ndarray:
        _say("refine")
        grown = torch.nn.functional.interpolate(masks[None], image.shape[:2])[0] if len(masks) else masks
        return grown.numpy() > 0.5 if len(masks) else np.zeros((0, *image.shape[:2]), bool)

    def refine_softly(self, image: np.ndarray, masks: torch.Tensor) -> tuple[np.ndarray, None]:
        return self.refine(image, masks), None

    def refine_clip(self, images: np.ndarray, masks: ClipMasks) -> list[RefinedFrame]:
        return [RefinedFrame(self.refine(image, maps)) for image, maps in zip(images, masks.maps, strict=True)]


class MadeUpModels:
    """Nothing was loaded."""

    def build_stages(self, config: SegmenterConfig) -> Stages:
        return Stages(MadeUpProposer(), MadeUpClassifier(), MadeUpRefiner())

    def describe(self, config: SegmenterConfig) -> Mapping[str, str]:
        return {"model": "made up"}


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def made_up_segmenter(config: SegmenterConfig) -> Segmenter:
    """Make a segmenter whose settings can be replaced."""
    models = MadeUpModels()
    return Segmenter(models.build_stages(config), config, models)
