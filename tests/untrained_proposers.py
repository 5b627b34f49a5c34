"""Proposers on small CLIPs with random weights, and how a test takes them through a step."""

from dataclasses import replace

import numpy as np

from clip_as_rnn.config import ProposeConfig
from clip_as_rnn.proposals.affinity import normalize_affinity
from clip_as_rnn.proposals.base import ProposalImage
from clip_as_rnn.proposals.grad_cam import GradCamProposer
from clip_as_rnn.proposals.patch_similarity import PatchSimilarityProposer

CONFIG = ProposeConfig(background_texts=(), first_proposal_template="{}", proposal_template="{}", affinity_layers=0)


def make_proposer(clip, mode="semantic", encode_text=None, **settings):
    config = replace(CONFIG, **settings)
    kind = GradCamProposer if config.proposals == "cam" else PatchSimilarityProposer
    return kind(clip, encode_text or clip.encode_text, config, mode)


def init_state(proposer, clip, pixels, asked, attention_layers=0):
    """Begin a recurrence on prepared pixels."""
    features = clip.encode_patches(pixels, attention_layers=attention_layers)[0]
    affinity = None if features.attention is None else normalize_affinity(features.attention)
    return proposer.init_state(ProposalImage(features, affinity), proposer.encode_texts(asked))


def every(count):
    return np.arange(count)


def texts(count):
    return [f"thing {i} {'abc'[i % 3]}" for i in range(count)]
