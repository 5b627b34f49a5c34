"""Fully connected conditional random fields on images and other points, usable without the rest of this package."""

from clip_as_rnn.dense_crf.crf import DenseCrf, refine
from clip_as_rnn.dense_crf.kernels import Bilateral, Gaussian

__all__ = ["Bilateral", "DenseCrf", "Gaussian", "refine"]
