"""Go through a data set image by image: resume, shard, save, and pool the results.

Images and masks are gone before the next ones come; what stays of each is its name and a few numbers.

Knows nothing of models; what happens to one image is the task's business, what is shown meanwhile the watcher's.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray
from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.description import RunDescription, digest_run
from clip_as_rnn.evaluation.records import Record, RecordStore, remove_parts, write_atomically
from clip_as_rnn.evaluation.tallies import Tally
from clip_as_rnn.evaluation.tasks import Evaluate, Evaluated, Task
from clip_as_rnn.types import LabelMap

_BYTE_LABELS = 256  # more of them need 16 bits


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a data set; every image belongs to exactly one."""

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        """Return a name for files."""
        return f"{self.index}-of-{self.count}"

    def takes(self, position: int) -> bool:
        """Tell whether the image at `position` belongs to this shard: every `count`-th does."""
        return position % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """Read `i/n`, with i from 1 to n.

    Raises:
        InputError: it is anything else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match and 1 <= int(match[1]) <= int(match[2]):
        return Shard(int(match[1]), int(match[2]))
    raise InputError(f"Expected a shard as i/n with i from 1 to n, such as 2/4, but got {text!r}.")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How much to run and what to keep; none of it changes a result.

    Attributes:
        limit: only the first so many images; None: all.
        shard: the part of them to run now.
        save_predictions: write each label map as a PNG.
    """

    limit: int | None = None
    shard: Shard = Shard()
    save_predictions: bool = False

    def __post_init__(self) -> None:
        """Check the limit.

        Raises:
            InputError: it is below 1.
        """
        if self.limit is not None and self.limit < 1:
            raise InputError(f"Expected a limit of at least 1 image, but got {self.limit}.")


@runtime_checkable
class Watcher(Protocol):
    """Whoever shows how far a run is."""

    def start(self, title: str, *, total: int, done: int) -> None:
        """Take note of what begins, and that `done` of its `total` images are done already."""

    def advance(self, record: Record, headline: float | None) -> None:
        """Take note of one more image, and of the score over all so far."""


@dataclass(frozen=True, slots=True)
class Run:
    """A task under way in one folder; `names` are the images that the report is about, all shards together."""

    title: str
    names: tuple[str, ...]
    folder: Path
    options: RunOptions
    store: RecordStore

    def records(self) -> Iterator[Record]:
        """Yield the records that are there, in the order of the data set."""
        return (self.store.read(name) for name in self.names if self.store.has_record(name))

    def is_done(self, name: str) -> bool:
        """Tell whether nothing is left to do for an image."""
        saved = not self.options.save_predictions or prediction_path(self.folder, name).is_file()
        return saved and self.store.has_result(name)


def open_run(title: str, task: Task, description: RunDescription, folder: Path, options: RunOptions) -> Run:
    """Take up a run where it was left, or begin it; the title is for whoever watches.

    Raises:
        InputError: the folder holds results of another run.
    """
    for written in (folder, prediction_path(folder, "").parent):
        remove_parts(written)
    store = RecordStore(folder, digest_run(description, task.names), str(options.shard))
    return Run(title, tuple(task.names[: options.limit]), folder, options, store)


def go_through(run: Run, evaluate: Evaluate, tally: Tally, watcher: Watcher) -> None:
    """Evaluate every image of the shard that is not done yet; `tally` pools the shard's records as they come."""
    mine = [position for position in range(len(run.names)) if run.options.shard.takes(position)]
    left = [position for position in mine if not run.is_done(run.names[position])]
    for position in sorted(set(mine) - set(left)):
        tally.add(run.store.read(run.names[position]))
    watcher.start(run.title, total=len(mine), done=len(mine) - len(left))
    for position in left:
        evaluated = evaluate(position)
        if run.options.save_predictions and evaluated.labels is not None:
            save_labels(prediction_path(run.folder, evaluated.record.name), evaluated.labels)
        run.store.append(evaluated.record)  # last, so that a record means that all is there
        tally.add(evaluated.record)
        watcher.advance(_told(evaluated), tally.headline())


def _told(evaluated: Evaluated) -> Record:
    """Return the record with the whole of a failure's paths, for whoever watches."""
    return replace(evaluated.record, failure=evaluated.complaint) if evaluated.complaint else evaluated.record


def prediction_path(folder: Path, name: str) -> Path:
    """Return where the predicted label map of an image lies."""
    return folder / "predictions" / f"{name}.png"


def save_labels(path: Path, labels: LabelMap) -> None:
    """Write a label map as a PNG of 8 bits, or of 16 where a label needs them."""
    write_atomically(path, png_bytes(labels.astype(np.uint8 if labels.max(initial=0) < _BYTE_LABELS else np.uint16)))


def read_prediction(path: Path) -> LabelMap:
    """Read a label map that `save_labels` wrote."""
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def png_bytes(pixels: Shaped[ndarray, "h w *colours"]) -> bytes:
    """Encode an array as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
