"""Stages without a model: scores come from a function of the texts that are left, masks from a rule."""

from dataclasses import dataclass

import numpy as np
import torch

from clip_as_rnn.config import SegmenterConfig, with_settings
from clip_as_rnn.encoders.base import ignore_tick
from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import resize_nearest
from clip_as_rnn.refine.clip_crf import RefinedFrame
from clip_as_rnn.result import Proposal
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Stages

IMAGE = np.zeros((6, 8, 3), dtype=np.uint8)


def refuse_long(texts):
    if any(len(text) > 70 for text in texts):
        raise InputError("too long")


@dataclass(frozen=True)
class FakeImage:
    image: np.ndarray


class FakeProposer:
    """Row i of the maps holds the length of text i, so that rows can be told apart; texts without "!" have pixels."""

    def __init__(self):
        self.encoded = []  # first pixel of each image, as it is encoded
        self.encoded_at_once = []  # images of each call of encode_images
        self.questions = []  # texts of each call of encode_texts
        self.proposed = []  # (texts, step) of each call
        self.certainty = {}  # of each text, if any is given

    def check_texts(self, texts):
        refuse_long(texts)

    def encode_images(self, images):
        self.encoded += [int(image[0, 0, 0]) for image in images]
        self.encoded_at_once.append(len(images))
        return [FakeImage(image) for image in images]

    def encode_texts(self, texts, tick=ignore_tick):
        self.questions.append(tuple(texts))
        return tuple(texts)

    def init_state(self, image, texts):
        return image, texts

    def propose(self, state, active, step):
        texts = tuple(state[1][i] for i in active)
        self.proposed.append((texts, step))
        maps = torch.stack([torch.full((3, 4), 0.0 if text.endswith("!") else len(text) / 100) for text in texts])
        certainty = np.array([self.certainty[text] for text in texts]) if self.certainty else None
        return Proposal(maps, maps, certainty)


class FakeClassifier:
    def __init__(self, judge):
        self.judge = judge
        self.images_at_once = []  # images per call

    def check_texts(self, texts):
        refuse_long(texts)

    def encode_images(self, images):
        return [FakeImage(image) for image in images]

    def encode_texts(self, texts, tick=ignore_tick):
        return tuple(texts)

    def classify(self, masks, tick=ignore_tick):
        self.images_at_once.append(len(masks))
        left = [tuple(one.texts[i] for i in one.active) for one in masks]
        return [
            np.array([self.judge(text, texts, one.image) for text in texts], dtype=np.float32)
            for one, texts in zip(masks, left, strict=True)
        ]


class FakeRefiner:
    """Gives a text every pixel where its map is above zero; texts may overlap."""

    def refine(self, image, masks):
        return resize_nearest(masks.numpy() > 0, image.shape[:2])

    def refine_softly(self, image, masks):
        return self.refine(image, masks), None

    def refine_clip(self, images, masks):
        return [RefinedFrame(self.refine(image, maps)) for image, maps in zip(images, masks.maps, strict=True)]


def fake_segmenter(judge, **settings):
    """Make a segmenter whose classifier is `judge(text, texts left, image)`."""
    config = with_settings(SegmenterConfig(), {"score_threshold": 0.5, **settings})
    return Segmenter(Stages(FakeProposer(), FakeClassifier(judge), FakeRefiner()), config)
