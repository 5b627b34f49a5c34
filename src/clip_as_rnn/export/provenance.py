"""What made a result: preset, settings, models and version, in one way for every file that records it."""

from typing import Any

import clip_as_rnn
from clip_as_rnn.config import flat_settings
from clip_as_rnn.segmenter import Segmenter


def describe_provenance(preset: str, segmenter: Segmenter) -> dict[str, Any]:
    """Describe a segmenter: its preset's name, its settings by their flat names, its models, the package's version."""
    return {
        "preset": preset,
        "settings": flat_settings(segmenter.config),
        "models": dict(segmenter.describe()),
        "version": clip_as_rnn.__version__,
    }
