"""Open-vocabulary segmentation without training: CLIP as RNN (Sun et al., CVPR 2024).

Importing this package loads neither torch nor transformers; the names below are fetched when first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # as `typing` has it; to load that takes a moment in which Ctrl-C finds nobody who answers
if TYPE_CHECKING:
    from clip_as_rnn.config import SegmenterConfig
    from clip_as_rnn.errors import CarError, DependencyError, InputError, WeightsError
    from clip_as_rnn.loading import load_segmenter
    from clip_as_rnn.presets import PRESETS
    from clip_as_rnn.result import Rejection, Segmentation, Step, Trace
    from clip_as_rnn.segmenter import Segmenter

__version__ = "0.2.0"

_HOMES = {
    "load_segmenter": "loading",
    "PRESETS": "presets",
    "SegmenterConfig": "config",
    "CarError": "errors",
    "DependencyError": "errors",
    "InputError": "errors",
    "WeightsError": "errors",
    "Rejection": "result",
    "Segmentation": "result",
    "Step": "result",
    "Trace": "result",
    "Segmenter": "segmenter",
}

__all__ = [
    "PRESETS",
    "CarError",
    "DependencyError",
    "InputError",
    "Rejection",
    "Segmentation",
    "Segmenter",
    "SegmenterConfig",
    "Step",
    "Trace",
    "WeightsError",
    "load_segmenter",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clip_as_rnn' has no attribute {name!r}")
    return getattr(import_module(f"clip_as_rnn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
