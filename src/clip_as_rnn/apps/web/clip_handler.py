"""From a visitor's request about a short clip to what the page shows of it: the video with its masks, the timeline."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from clip_as_rnn.apps.pictures import MAX_PIXELS
from clip_as_rnn.apps.web.controls import bounded_texts
from clip_as_rnn.apps.web.workers import Job
from clip_as_rnn.config import Mode
from clip_as_rnn.errors import InputError
from clip_as_rnn.io.video import open_video
from clip_as_rnn.prompts.queries import check_texts
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Progress
from clip_as_rnn.video.clip import ClipJob, ClipSummary, segment_clip

_DOING = {"encode": "reading frames", "propose": "proposing masks", "classify": "judging masks"}
MOST_FRAMES = 300  # of a clip on the page: ten seconds of most films


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """What a visitor asks for: a clip that was admitted, and all else as the browser sent it."""

    clip: Path
    texts: Any
    mode: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipResponse:
    """What the page shows.

    Attributes:
        summary: what was found, in a sentence, and what should be known of the clip.
        overlay, timeline: to look at.
        labels, records: files to download.
    """

    summary: str
    overlay: Path
    timeline: Path
    labels: Path
    records: Path


def handle_clip(
    request: ClipRequest, segmenter: Segmenter, preset: str, new_folder: Callable[[], Path], job: Job
) -> ClipResponse:
    """Run the segmenter over a clip and prepare what the page shows.

    Raises:
        InputError: a clip, texts or a mode that cannot be used.
        DependencyError: a clip whose codec needs the extra `video`.
        StoppedError: nobody waits any more.
    """
    texts = check_texts(bounded_texts(request.texts or [], "What to look for"))
    if request.mode not in get_args(Mode):
        raise InputError("Expected one of the modes that the page offers.")
    job.report("Opening the clip")
    count = _check_clip(request.clip)
    progress = _Progress(job, count)
    made = ClipJob(
        source=request.clip, texts=texts, preset=preset, folder=new_folder(), stem="clip", title=request.clip.name
    )
    chosen = segmenter.replace(mode=request.mode)
    try:
        summary = segment_clip(made, chosen, progress.count_done, progress.say_next)
    except InputError as error:
        raise InputError(_without_folder(str(error), request.clip)) from error
    job.report("Packing the label maps")
    overlay, labels, records, timeline, _ = summary.written
    return ClipResponse(
        summary=_summary(summary),
        overlay=overlay,
        timeline=timeline,
        labels=Path(shutil.make_archive(str(labels), "zip", root_dir=labels)),
        records=records,
    )


@dataclass(slots=True)
class _Progress:
    """Says how many frames are done and what comes next; ends the run of a job that is stopped."""

    job: Job
    total: int | None
    read: int = 0
    done: int = 0

    def count_done(self, done: int, _: int | None) -> None:
        self.done = done
        self._say("writing")

    def say_next(self, progress: Progress) -> None:
        if progress.stage == "encode" and not progress.total:
            self.read += 1
            if self.read > MOST_FRAMES + 1:  # the texts are the first that is encoded
                raise _too_long()
        self._say(_DOING.get(progress.stage, "refining masks"))

    def _say(self, doing: str) -> None:
        total = "" if self.total is None else f" of {max(self.total, self.done)}"
        self.job.report(f"{self.done}{total} frames done; {doing}")


def _check_clip(path: Path) -> int | None:
    """Look at a clip's first frame and return how many frames it should have.

    Raises:
        InputError: it cannot be read, or is too long or too large for the page.
    """
    try:
        video = open_video(path)
    except InputError as error:
        raise InputError(_without_folder(str(error), path)) from error
    if video.count is not None and video.count > MOST_FRAMES:
        raise _too_long()
    height, width = next(video.frames).pixels.shape[:2]
    if height * width > MAX_PIXELS:
        raise InputError(f"Expected frames of at most {MAX_PIXELS / 1e6:.0f} million pixels.")
    return video.count


def _too_long() -> InputError:
    return InputError(f"Expected a clip of at most {MOST_FRAMES} frames on this page; `car segment` takes longer ones.")


def _without_folder(message: str, path: Path) -> str:
    """Name the visitor's file, not the server's folders."""
    return message.replace(str(path), path.name)


def _summary(summary: ClipSummary) -> str:
    """Say in a sentence how often each text was found."""
    found = [f"{one.text} in {one.frames}" for one in summary.appearances if one.frames]
    words = f"Found {', '.join(found)} of {summary.frames} frames." if found else f"Nothing in {summary.frames} frames."
    return " ".join((words, *summary.notes))
