"""Stages without a model: verdicts come from a function of the texts that are left, masks from a rule."""

from dataclasses import dataclass

import numpy as np
import torch

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import grow_masks
from clip_as_rnn.result import Proposal
from clip_as_rnn.segmenter import Segmenter

IMAGE = np.zeros((6, 8, 3), dtype=np.uint8)


@dataclass(frozen=True)
class FakeView:
    image: np.ndarray

    @property
    def size_hw(self):
        return self.image.shape[:2]


class FakeStages:
    """Row i of the maps holds the length of text i, so that rows can be told apart; texts without "!" have pixels."""

    def __init__(self, judge):
        self.judge = judge
        self.looked = []  # first pixel of each image, as it is taken in
        self.proposed = []  # (texts, step) of each call
        self.asked_at_once = []  # questions per call of the classifier

    def check(self, texts):
        if any(len(text) > 70 for text in texts):
            raise InputError("too long")

    def look(self, image, texts):
        self.looked.append(int(image[0, 0, 0]))
        return FakeView(image)

    def propose(self, view, texts, step):
        self.proposed.append((tuple(texts), step))
        maps = torch.stack([torch.full((3, 4), 0.0 if text.endswith("!") else len(text) / 100) for text in texts])
        return Proposal(maps, maps)

    def classify(self, questions):
        self.asked_at_once.append(len(questions))
        return [
            np.array([self.judge(text, one.texts, one.view) for text in one.texts], dtype=np.float32)
            for one in questions
        ]

    def finish(self, view, maps):
        return grow_masks(maps.numpy() > 0, view.size_hw)

    def describe(self):
        return {"model": "none"}


def fake_segmenter(judge, **settings):
    """Make a segmenter whose classifier is `judge(text, texts left, view)`."""
    return Segmenter(FakeStages(judge), with_settings(SegmenterConfig(), {"score_threshold": 0.5, **settings}))
