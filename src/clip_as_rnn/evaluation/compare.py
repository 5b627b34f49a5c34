"""Two runs side by side: the images where they differ most, with their pictures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.evaluation.datasets.referring import ReferringSplit
from clip_as_rnn.evaluation.datasets.semantic import SemanticSplit
from clip_as_rnn.evaluation.datasets.video import VideoSplit
from clip_as_rnn.evaluation.metrics.referring import ReferenceOverlaps
from clip_as_rnn.evaluation.metrics.semantic import ImageCounts, image_miou
from clip_as_rnn.evaluation.protocol import EvaluationProtocol, open_split
from clip_as_rnn.evaluation.store import (
    Record,
    RecordStore,
    RunDescription,
    digest_run,
    list_differences,
    prediction_path,
    read_description,
    writing_to,
)
from clip_as_rnn.evaluation.tables import percent, table
from clip_as_rnn.io.atomic import prepare_folder, replacing, write_json, write_text
from clip_as_rnn.io.label_maps import read_label_map
from clip_as_rnn.types import RgbImage
from clip_as_rnn.visualization.panels import Panel, draw_panels

PictureSplit: TypeAlias = SemanticSplit | ReferringSplit


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
class RunComparison:
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


def compare_runs(protocol: EvaluationProtocol, first: Path, second: Path, folder: Path, *, count: int) -> RunComparison:
    """Write `comparison.json`, `comparison.md` and a picture for each of the `count` images that differ most.

    The predictions are in the pictures where a run saved them.

    Raises:
        InputError: a folder holds no run, or a run on another data set, split or list of images; or `folder` cannot be
            written.
    """
    descriptions = (read_description(first), read_description(second))
    for path, description in zip((first, second), descriptions, strict=True):
        _check_dataset(path, description, protocol)
    split = open_split(protocol)
    if isinstance(split, VideoSplit):
        raise InputError("Runs on clips are not compared picture by picture; see their reports.")
    first_records = RecordStore(first, digest_run(descriptions[0], split.names)).read()
    second_records = RecordStore(second, digest_run(descriptions[1], split.names)).read()
    differences, only_one = _differences(split, first_records, second_records)
    differences.sort(key=lambda difference: -abs(difference.gain))  # stable: ties stay in the order of the data set
    comparison = RunComparison(
        first=first.name,
        second=second.name,
        changes=tuple(f"{entry.name}: {entry.first} / {entry.second}" for entry in list_differences(*descriptions)),
        compared=len(differences),
        only_one=only_one,
        mean_gain=sum(d.gain for d in differences) / len(differences) if differences else None,
        largest=tuple(differences[:count]),
    )
    prepare_folder(folder)
    for difference in comparison.largest:
        sheet = Image.fromarray(_draw(split, difference, (first, second)))
        with writing_to(folder), replacing(folder / "pictures" / f"{difference.name}.png") as file:
            sheet.save(file, format="PNG")
    with writing_to(folder):
        write_json(folder / "comparison.json", asdict(comparison), indent=2)
        write_text(folder / "comparison.md", render_comparison(comparison))
    return comparison


def render_comparison(comparison: RunComparison) -> str:
    """Render a comparison as Markdown."""
    rows = [
        (f"[{d.name}](pictures/{d.name}.png)", percent(d.first), percent(d.second), percent(d.gain))
        for d in comparison.largest
    ]
    changes = "\n".join(f"- {change}" for change in comparison.changes) or "- nothing"
    parts = [
        f"# {comparison.first} (A) and {comparison.second} (B)",
        f"{comparison.compared} images in both, {comparison.only_one} in only one of them; "
        f"mean gain of B per image: {percent(comparison.mean_gain)} points.",
        f"What differs between A and B:\n\n{changes}",
        table(("image", "A", "B", "B - A"), rows),
        *(f"![{d.name}](pictures/{d.name}.png)" for d in comparison.largest),
    ]
    return "\n\n".join(parts) + "\n"


def _check_dataset(path: Path, description: RunDescription, protocol: EvaluationProtocol) -> None:
    found = (description.protocol.get("dataset"), description.protocol.get("split"))
    wanted = (protocol.dataset.name, protocol.split_name)
    if found != wanted:
        raise InputError(
            f"The run in {path} is on {found[0]}, split {found[1]}, but the comparison is asked on {wanted[0]}, "
            f"split {wanted[1]}."
        )


def _differences(
    split: PictureSplit, first: Mapping[str, Record], second: Mapping[str, Record]
) -> tuple[list[Difference], int]:
    """Score every image that both runs evaluated, and count those that only one did."""
    differences: list[Difference] = []
    only_one = 0
    for name in split.names:
        scores = [_score(records.get(name)) for records in (first, second)]
        evaluated = [name in records and records[name].result is not None for records in (first, second)]
        only_one += sum(evaluated) == 1
        if scores[0] is not None and scores[1] is not None:
            differences.append(Difference(name, scores[0], scores[1]))
    return differences, only_one


def _score(record: Record | None) -> float | None:
    if record is None:
        return None
    match record.result:
        case ImageCounts():
            return image_miou(record.result.pixels)
        case ReferenceOverlaps():
            return record.result.released.iou
        case _:
            return None


def _draw(split: PictureSplit, difference: Difference, folders: tuple[Path, Path]) -> RgbImage:
    """Draw the image, its truth, and what each run saved of its prediction."""
    position = split.names.index(difference.name)
    panels = [Panel("image", None), Panel("truth", split.read_labels(position))]
    for letter, folder, score in zip("AB", folders, (difference.first, difference.second), strict=True):
        path = prediction_path(folder, difference.name)
        labels = read_label_map(path) if path.is_file() else None
        unsaved = "" if labels is not None else " (run with --save-predictions to see it)"
        panels.append(Panel(f"{letter}: {percent(score)}{unsaved}", labels))
    return draw_panels(split.read_image(position), panels)
