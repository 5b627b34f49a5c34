"""Two runs side by side: the images where they differ most, with their pictures."""

from dataclasses import asdict, dataclass
from pathlib import Path

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.benchmark import Question, open_task
from clip_as_rnn.evaluation.description import RunDescription, digest_run, list_differences, read_description
from clip_as_rnn.evaluation.markdown import percent, table
from clip_as_rnn.evaluation.metrics import image_miou
from clip_as_rnn.evaluation.panels import Panel, draw_panels
from clip_as_rnn.evaluation.records import Record, RecordStore, SemanticResult, write_atomically, write_json
from clip_as_rnn.evaluation.runner import png_bytes, prediction_path, read_prediction
from clip_as_rnn.evaluation.tasks import Task
from clip_as_rnn.types import RgbImage


@dataclass(frozen=True, slots=True)
class Difference:
    """One image's score in two runs: mean IoU over the labels of its truth, or the object's IoU."""

    name: str
    first: float
    second: float

    @property
    def gain(self) -> float:
        """How much better the second run is."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two runs on the same data set.

    Attributes:
        changes: what the second run was made with otherwise.
        compared: images that both evaluated; `only_one` counts those that only one of them did.
        mean_gain: mean over the compared images; None where there are none.
        largest: the images where they differ most, most first.
    """

    first: str
    second: str
    changes: tuple[str, ...]
    compared: int
    only_one: int
    mean_gain: float | None
    largest: tuple[Difference, ...]


def compare_runs(question: Question, first: Path, second: Path, folder: Path, *, count: int) -> Contrast:
    """Write `comparison.json`, `comparison.md` and a picture for each of the `count` images that differ most.

    The predictions are in the pictures where a run saved them.

    Raises:
        InputError: a folder holds no run, or a run on another data set, split or list of images.
    """
    descriptions = (read_description(first), read_description(second))
    for path, description in zip((first, second), descriptions, strict=True):
        _check_dataset(path, description, question)
    task = open_task(question)
    stores = (
        RecordStore(first, digest_run(descriptions[0], task.names)),
        RecordStore(second, digest_run(descriptions[1], task.names)),
    )
    differences, only_one = _differences(task, stores)
    differences.sort(key=lambda difference: -abs(difference.gain))  # stable: ties stay in the order of the data set
    contrast = Contrast(
        first=first.name,
        second=second.name,
        changes=tuple(f"{entry.name}: {entry.first} / {entry.second}" for entry in list_differences(*descriptions)),
        compared=len(differences),
        only_one=only_one,
        mean_gain=sum(d.gain for d in differences) / len(differences) if differences else None,
        largest=tuple(differences[:count]),
    )
    for difference in contrast.largest:
        sheet = _draw(task, difference, (first, second))
        write_atomically(folder / "pictures" / f"{difference.name}.png", png_bytes(sheet))
    write_json(folder / "comparison.json", asdict(contrast))
    write_atomically(folder / "comparison.md", render_contrast(contrast).encode())
    return contrast


def render_contrast(contrast: Contrast) -> str:
    """Render a comparison as Markdown."""
    rows = [
        (f"[{d.name}](pictures/{d.name}.png)", percent(d.first), percent(d.second), percent(d.gain))
        for d in contrast.largest
    ]
    parts = [
        f"# {contrast.first} (A) and {contrast.second} (B)",
        f"{contrast.compared} images in both, {contrast.only_one} in only one of them; "
        f"mean gain of B per image: {percent(contrast.mean_gain)} points.",
        "What differs between A and B:\n\n" + ("\n".join(f"- {change}" for change in contrast.changes) or "- nothing"),
        table(("image", "A", "B", "B - A"), rows),
        *(f"![{d.name}](pictures/{d.name}.png)" for d in contrast.largest),
    ]
    return "\n\n".join(parts) + "\n"


def _check_dataset(path: Path, description: RunDescription, question: Question) -> None:
    found = (description.protocol["dataset"], description.protocol["split"])
    asked = (question.dataset.name, question.split_name)
    if found != asked:
        raise InputError(
            f"The run in {path} is on {found[0]}, split {found[1]}, but the comparison is asked on {asked[0]}, "
            f"split {asked[1]}."
        )


def _differences(task: Task, stores: tuple[RecordStore, RecordStore]) -> tuple[list[Difference], int]:
    """Score every image that both runs evaluated, and count those that only one did."""
    differences: list[Difference] = []
    only_one = 0
    for name in task.names:
        there = [store.has_result(name) for store in stores]
        only_one += sum(there) == 1
        scores = [_score(store.read(name)) for store in stores] if all(there) else [None, None]
        if scores[0] is not None and scores[1] is not None:
            differences.append(Difference(name, scores[0], scores[1]))
    return differences, only_one


def _score(record: Record) -> float | None:
    if isinstance(record.result, SemanticResult):
        return image_miou(record.result.counts)
    return record.result.released.iou if record.result is not None else None


def _draw(task: Task, difference: Difference, folders: tuple[Path, Path]) -> RgbImage:
    """Draw the image, its truth, and what each run saved of its prediction."""
    position = task.names.index(difference.name)
    panels = [Panel("image", None), Panel("truth", task.truth(position))]
    for letter, folder, score in zip("AB", folders, (difference.first, difference.second), strict=True):
        path = prediction_path(folder, difference.name)
        labels = read_prediction(path) if path.is_file() else None
        unsaved = "" if labels is not None else " (run with --save-predictions to see it)"
        panels.append(Panel(f"{letter}: {percent(score)}{unsaved}", labels))
    return draw_panels(task.picture(position), panels)
