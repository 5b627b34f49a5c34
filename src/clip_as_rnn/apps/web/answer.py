"""From what a visitor asked to everything that the page shows: one run of the segmenter and what is made of it."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_as_rnn import __version__
from clip_as_rnn.apps.web.controls import base_preset, chosen_settings
from clip_as_rnn.apps.web.files import open_picture
from clip_as_rnn.apps.web.recipe import as_command, as_python, differences
from clip_as_rnn.apps.web.view import result_view, steps_view
from clip_as_rnn.apps.web.watching import Watch, watched
from clip_as_rnn.config import SegmenterConfig, flat_settings
from clip_as_rnn.errors import InputError
from clip_as_rnn.export.files import Format, Result, save
from clip_as_rnn.io.images import Picture
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter, View

MAX_TEXTS = 40
_FORMATS: tuple[Format, ...] = ("figure", "labels", "masks", "json")
_STAGES = {  # the segmenter's names of its stages, for people
    "read": "Read the picture",
    "look": "Encode the picture and the texts",
    "propose": "Propose masks",
    "classify": "Judge masks",
    "finish": "Refine the masks",
    "write": "Write pictures and files",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a visitor asks: the picture, the texts, and the settings as the page's controls hold them."""

    picture: Path
    texts: Sequence[str]
    preset: str
    mode: str
    controls: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What can be downloaded."""

    labels: Path
    json: Path
    masks: Path
    figure: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the page shows.

    Attributes:
        summary: what was found, in a sentence, and what should be known of it.
        result, steps: the values of the two viewers.
        seconds: time per stage, by its name for people.
    """

    summary: str
    result: dict[str, Any]
    steps: dict[str, Any]
    seconds: dict[str, float]
    files: Files
    command: str
    python: str


def answer(
    asked: Asked,
    segmenter: Segmenter[View],
    presets: dict[str, SegmenterConfig],
    new_folder: Callable[[], Path],
    watch: Watch,
) -> Answer:
    """Run the segmenter and prepare everything that the page shows.

    Raises:
        CarError: a picture, texts or settings that cannot be used.
        StoppedError: nobody waits any more.
    """
    texts = _checked(asked.texts)
    watch.enter("Loading the picture")
    started = time.perf_counter()
    picture = open_picture(asked.picture)
    read_s = time.perf_counter() - started
    long_side_px = max(picture.pixels.shape[:2])
    chosen = segmenter.replace(**chosen_settings(presets[asked.preset], asked.mode, asked.controls, long_side_px))
    segmentation = watched(chosen, watch, texts).segment(picture.pixels, texts, trace=True)
    watch.enter("Drawing and writing the results")
    started = time.perf_counter()
    preset = base_preset(asked.preset)
    changes = differences(chosen.config, PRESETS[preset])
    files = _write(asked, segmentation, picture, _about(asked, preset, picture, chosen), new_folder())
    result, steps = result_view(picture.pixels, segmentation), steps_view(picture.pixels, segmentation)
    seconds = {"read": read_s, **segmentation.seconds, "write": time.perf_counter() - started}
    return Answer(
        summary=_summary(segmentation, picture.notes),
        result=result,
        steps=steps,
        seconds={_STAGES.get(stage, stage): spent for stage, spent in seconds.items()},
        files=files,
        command=as_command(asked.picture.name, texts, preset, changes),
        python=as_python(asked.picture.name, texts, preset, changes),
    )


def _checked(texts: Sequence[str]) -> tuple[str, ...]:
    checked = check_texts(texts)
    if len(checked) > MAX_TEXTS:
        raise InputError(
            f"Expected at most {MAX_TEXTS} texts on this page, but got {len(checked)}; `car segment` takes more."
        )
    return checked


def _about(asked: Asked, preset: str, picture: Picture, segmenter: Segmenter[View]) -> dict[str, Any]:
    """Record what made a result, for the JSON: the same that `car segment` records."""
    return {
        "image": asked.picture.name,
        "notes": list(picture.notes),
        "preset": preset,
        "settings": flat_settings(segmenter.config),
        "models": dict(segmenter.describe()),
        "version": __version__,
    }


def _write(asked: Asked, segmentation: Segmentation, picture: Picture, about: dict[str, Any], folder: Path) -> Files:
    """Write the downloads; the masks go into one ZIP."""
    stem = asked.picture.stem
    result = Result(segmentation, picture.pixels, about)
    figure, labels, _, masks, description = save(result, folder, stem=stem, formats=_FORMATS)
    archive = Path(shutil.make_archive(str(masks), "zip", root_dir=masks))
    shutil.rmtree(masks)
    return Files(labels=labels, json=description, masks=archive, figure=figure)


def _summary(segmentation: Segmentation, notes: Sequence[str]) -> str:
    """Say in a sentence what was found, and what should be known of the picture."""
    found, asked = len(segmentation.texts), len(segmentation.queries)
    steps = len(segmentation.trace.steps) if segmentation.trace else 0
    turns = "1 step" if steps == 1 else f"{steps} steps"
    outcome = (
        f"Found {found or 'none'} of {asked} texts" if asked > 1 else ("Found the text" if found else "Text not found")
    )
    return " ".join((f"{outcome} in {turns}.", *notes))
