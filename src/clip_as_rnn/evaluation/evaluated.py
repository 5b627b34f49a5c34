"""What became of one sample of a data set, and how a failure is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Integer
from numpy import ndarray

from clip_as_rnn.errors import CarError
from clip_as_rnn.evaluation.store import Record
from clip_as_rnn.types import LabelMap


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """What became of one image.

    Attributes:
        record: what is kept of it; a failure names files from the data's root on, so that it is the same anywhere.
        labels: the predicted labels unless it failed; referring: 1 is the object.
        frames: of a clip, the predicted labels of each frame, by its name.
        complaint: a failure with whole paths, for whoever is to mend it.
    """

    record: Record
    labels: LabelMap | None = None
    frames: Mapping[str, Integer[ndarray, "h w"]] = field(default_factory=dict)
    complaint: str | None = None


def or_failure(name: str, root: Path, evaluate: Callable[[], Evaluated]) -> Evaluated:
    """Evaluate, or say why not: broken files and refusals are the image's failure, not the run's."""
    try:
        return evaluate()
    except CarError as error:
        complaint = reason = str(error)
    for folder in {root, root.resolve()}:
        prefix = str(folder / "x")[:-1]  # with its slash; nothing for the folder at hand
        reason = reason.replace(prefix, "") if prefix else reason
    return Evaluated(Record(name, 0.0, failure=reason), complaint=complaint)
