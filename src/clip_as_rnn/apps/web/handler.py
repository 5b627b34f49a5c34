"""From a visitor's request to everything that the page shows: one run of the segmenter and what is made of it."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_as_rnn.apps.web.controls import base_preset, bounded_texts, chosen_settings
from clip_as_rnn.apps.web.payload import result_payload, steps_payload
from clip_as_rnn.apps.web.snippets import as_command, as_python, differences
from clip_as_rnn.apps.web.uploads import open_picture
from clip_as_rnn.apps.web.workers import Job
from clip_as_rnn.config import SegmenterConfig
from clip_as_rnn.errors import InputError
from clip_as_rnn.export.files import Format, Result, save
from clip_as_rnn.export.provenance import describe_provenance
from clip_as_rnn.io.images import Picture
from clip_as_rnn.presets import PRESETS
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.result import Segmentation
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Callback, Progress

_FORMATS: tuple[Format, ...] = ("figure", "labels", "masks", "json")
_STAGES = {  # the segmenter's names of its stages, for people
    "read": "Read the picture",
    "encode_image": "Encode the picture",
    "encode_text": "Encode the texts",
    "propose": "Propose masks",
    "classify": "Judge masks",
    "refine": "Refine the masks",
    "sam": "Refine the masks by SAM",
    "write": "Write pictures and files",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a visitor asks for: a picture that was admitted, and all else as the browser sent it."""

    picture: Path
    texts: Any
    preset: Any
    mode: Any
    controls: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the page shows.

    Attributes:
        summary: what was found, in a sentence, and what should be known of it.
        result, steps: the values of the two viewers.
        seconds: time per stage, by its name for people.
        figure, labels, masks, json: files to download.
        command, python: the same run, without the page.
    """

    summary: str
    result: dict[str, Any]
    steps: dict[str, Any]
    seconds: dict[str, float]
    figure: Path
    labels: Path
    masks: Path
    json: Path
    command: str
    python: str


def handle(
    request: Request,
    segmenter: Segmenter,
    presets: Mapping[str, SegmenterConfig],
    new_folder: Callable[[], Path],
    job: Job,
) -> Response:
    """Run the segmenter and prepare everything that the page shows.

    Raises:
        InputError: a picture, texts or settings that cannot be used.
        StoppedError: nobody waits any more.
    """
    texts = check_texts(bounded_texts(request.texts or [], "What to look for"))
    if not isinstance(request.preset, str) or request.preset not in presets:
        raise InputError("Expected one of the presets that the page offers.")
    job.report("Loading the picture")
    started = time.perf_counter()
    picture = open_picture(request.picture)
    read_s = time.perf_counter() - started
    long_side_px = max(picture.pixels.shape[:2])
    settings = chosen_settings(presets[request.preset], request.mode, request.controls, long_side_px)
    chosen = segmenter.replace(**settings)
    callback = reporter(job, len(texts), chosen.config)
    callback(Progress("encode", 0, len(texts)))
    segmentation = chosen.segment(picture.pixels, texts, trace=True, callback=callback)
    job.report("Drawing and writing the results")
    started = time.perf_counter()
    name, preset = request.picture.name, base_preset(request.preset)
    run = (name, texts, preset, differences(chosen.config, PRESETS[preset]))
    record = {"image": name, "notes": list(picture.notes), **describe_provenance(preset, chosen)}
    files = _write(Result(segmentation, picture.pixels, record), new_folder(), request.picture.stem)
    result, steps = (make(picture.pixels, segmentation) for make in (result_payload, steps_payload))
    seconds = {"read": read_s, **segmentation.seconds, "write": time.perf_counter() - started}
    return Response(
        summary=_summary(segmentation, picture),
        result=result,
        steps=steps,
        seconds={_STAGES.get(stage, stage): spent for stage, spent in seconds.items()},
        command=as_command(*run),
        python=as_python(*run),
        **files,
    )


def reporter(job: Job, texts: int, config: SegmenterConfig) -> Callback:
    """Return a callback of the segmenter that says in words what comes next, or ends the run of a job that is stopped.

    No run takes more steps than it says: each but the last drops a text, unless the first is repeated.
    """
    bound = texts + config.recurrence.repeat_first_step
    limit = config.recurrence.max_steps
    most_steps = bound if limit is None else min(bound, max(1, limit))

    def report(progress: Progress) -> None:
        masks = "1 mask" if progress.texts == 1 else f"{progress.texts} masks"
        counted = f": {progress.done} of {progress.total}" if progress.done else ""
        messages = {
            "encode": f"Encoding the picture and the texts{counted}",
            "propose": f"Step {progress.step} of at most {most_steps}: proposing {masks}",
            "classify": f"Judging {masks}{counted}",
            "refine": "Refining the edges (CRF)" if config.refine.crf else "Finishing the masks",
            "sam": "Refining the masks by SAM",
        }
        job.report(messages[progress.stage])

    return report


def _write(result: Result, folder: Path, stem: str) -> dict[str, Path]:
    """Write the downloads; the masks go into one ZIP."""
    figure, labels, _, masks, json = save(result, folder, stem=stem, formats=_FORMATS)
    archive = Path(shutil.make_archive(str(masks), "zip", root_dir=masks))
    shutil.rmtree(masks)
    return {"figure": figure, "labels": labels, "masks": archive, "json": json}


def _summary(segmentation: Segmentation, picture: Picture) -> str:
    """Say in a sentence what was found, and what should be known of the picture."""
    found, asked = len(segmentation.texts), len(segmentation.queries)
    steps = len(segmentation.trace.steps) if segmentation.trace else 0
    turns = "1 step" if steps == 1 else f"{steps} steps"
    judged = f" Masks judged by {segmentation.judged_by}." if segmentation.judged_by else ""
    outcome = (
        f"Found {found or 'none'} of {asked} texts" if asked > 1 else ("Found the text" if found else "Text not found")
    )
    return " ".join((f"{outcome} in {turns}.{judged}", *picture.notes))
