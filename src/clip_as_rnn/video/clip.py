"""One clip to files: a record and a label map per frame as they come, then the overlay video and the timeline.

A run that is broken off leaves what it had of frames; the same run goes on behind them. The summary comes last: where
it is, all is.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from clip_as_rnn.errors import InputError
from clip_as_rnn.export.provenance import describe_provenance
from clip_as_rnn.io.atomic import replacing, staging, write_json
from clip_as_rnn.io.label_maps import write_label_map
from clip_as_rnn.io.video import Frame, Video, import_av, open_video, write_video
from clip_as_rnn.segmenter import Segmenter
from clip_as_rnn.stages import Callback
from clip_as_rnn.types import LabelMap, RgbImage
from clip_as_rnn.video.drawing import Timeline, davis_palette, draw_frame, draw_timeline
from clip_as_rnn.video.records import FrameRecord, FrameRecords

Container = Literal["webm", "mp4"]
_MOST_LABELS = 254  # of a DAVIS label map; 255 is void


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipJob:
    """What is to be done with a clip: a video file, or a folder of its frames.

    Attributes:
        source: the clip.
        texts: what to look for, checked; text i is label i + 1 in every frame.
        preset: the name of the preset, for the record.
        folder: where the results go; it is there.
        stem: how they are named.
        container: the overlay is a WebM or, by the extra `video`, an MP4.
        title: how the clip is called in the results; None: by its path.
    """

    source: Path
    texts: tuple[str, ...]
    preset: str
    folder: Path
    stem: str
    container: Container = "webm"
    title: str | None = None

    def path(self, ending: str) -> Path:
        """Name one of the results."""
        return self.folder / f"{self.stem}{ending}"


@dataclass(frozen=True, slots=True)
class Appearance:
    """How often a text was found in a clip, from when to when, and its mean score there; None where it never was."""

    text: str
    frames: int
    first_s: float | None = None
    last_s: float | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClipSummary:
    """What became of a clip: frames done, when each text was found, what the user should be told, what was written."""

    frames: int
    appearances: tuple[Appearance, ...]
    notes: tuple[str, ...]
    written: tuple[Path, ...]


def segment_clip(
    job: ClipJob,
    segmenter: Segmenter,
    on_frame: Callable[[int, int | None], None] = lambda _done, _count: None,
    callback: Callback | None = None,
) -> ClipSummary:
    """Find the texts in every frame and write the results.

    `on_frame` is told how many frames are done and, if that is known, of how many; `callback` of every piece of the
    segmenter's work before it begins.

    Raises:
        InputError: the clip cannot be read, has more texts than labels, or the results cannot be written.
        DependencyError: the clip or the overlay needs the extra `video`.
    """
    if len(job.texts) > _MOST_LABELS:
        raise InputError(f"Expected at most {_MOST_LABELS} texts for a clip, but got {len(job.texts)}.")
    if job.container == "mp4":
        import_av("MP4 is written by PyAV")
    video = open_video(job.source)
    about = {"source": job.title or str(job.source), "source_sha256": _digest(job.source), "queries": list(job.texts)}
    about |= describe_provenance(job.preset, segmenter)
    try:
        records = FrameRecords(job.path(".ndjson"))
        job.path(".json").unlink(missing_ok=True)
        if not records.continues(about):
            _take_away(job, records)
        done = records.resume(about)
        for number, _ in enumerate(_segment_missing(job, segmenter, video, done, records, callback), start=1):
            on_frame(number, video.count)
        return _finish(job, video, records, about)
    except OSError as error:
        raise InputError(f"The results cannot be written to {str(job.folder)!r}: {error.strerror or error}.") from error


def _segment_missing(
    job: ClipJob,
    segmenter: Segmenter,
    video: Video,
    done: set[str],
    records: FrameRecords,
    callback: Callback | None,
) -> Iterator[None]:
    """Segment and write the frames that were not done; yield once for every frame of the clip, when it is.

    Where frames look at each other, some that were done go through once more, so that those behind them see them.
    """
    waiting: deque[Frame | None] = deque()  # in order; None for one that does not go through: many would not fit
    settings = segmenter.config.video
    first = max(0, len(done) - (settings.window_frames if settings.context_frames else 0))
    if segmenter.stages.tracker is not None:  # stretches are cut as without the break
        first -= first % settings.sam_track_frames

    def pixels() -> Iterator[RgbImage]:
        for number, frame in enumerate(video.frames):
            goes_through = frame.name not in done or number >= first
            waiting.append(frame if goes_through else None)
            if goes_through:
                yield frame.pixels

    def finished() -> Iterator[None]:
        while waiting and waiting[0] is None:
            waiting.popleft()
            yield None

    palette = davis_palette()
    for segmentation in segmenter.segment_video(pixels(), job.texts, callback=callback):
        yield from finished()
        frame = waiting.popleft()
        if frame is None or frame.name in done:
            yield None
            continue
        numbers = np.array([0, *(job.texts.index(text) + 1 for text in segmentation.texts)])
        labels: LabelMap = numbers[segmentation.label_map()]
        write_label_map(job.path("_labels") / f"{frame.name}.png", labels, palette=palette)
        records.append(FrameRecord.of(frame, segmentation))
        yield None
    yield from finished()


def _take_away(job: ClipJob, records: FrameRecords) -> None:
    """Remove what another run wrote under these names, so that results of two never stand side by side."""
    for path in (*(job.path("_labels") / f"{one.name}.png" for one in records), job.path("_timeline.png")):
        path.unlink(missing_ok=True)
    for container in get_args(Container):
        job.path(f"_overlay.{container}").unlink(missing_ok=True)


def _finish(job: ClipJob, video: Video, records: FrameRecords, about: Mapping[str, Any]) -> ClipSummary:
    """Write what shows the whole clip, the summary last."""
    overlay, picture, summary = job.path(f"_overlay.{job.container}"), job.path("_timeline.png"), job.path(".json")
    with staging(job.folder, overlay.name) as stage:
        write_video(stage / overlay.name, _overlay_frames(job, records, video.fps), fps=video.fps)
        (stage / overlay.name).replace(overlay)
    timeline = Timeline.of([_without_masks(record) for record in records], job.texts)
    with replacing(picture) as file:
        Image.fromarray(draw_timeline(timeline)).save(file, format="PNG")
    appearances = tuple(_appearance(timeline, i) for i in range(len(job.texts)))
    never = [one.text for one in appearances if not one.frames]
    notes = (*video.notes, *([f"Never found: {', '.join(never)}."] if never else ()))
    frames = len(timeline.times_s)
    listed = [{name: getattr(one, name) for name in Appearance.__slots__} for one in appearances]
    write_json(summary, {**about, "frames": frames, "fps": video.fps, "texts": listed, "notes": list(notes)})
    return ClipSummary(frames, appearances, notes, (overlay, job.path("_labels"), records.path, picture, summary))


def _without_masks(record: FrameRecord) -> FrameRecord:
    """Keep of a frame what the timeline shows: a clip of any length then takes little memory."""
    found = tuple(type(one)(one.text, one.score, one.area_px, {}) for one in record.found)
    return FrameRecord(record.name, record.time_s, found, record.rejected)


def _overlay_frames(job: ClipJob, records: FrameRecords, fps: float) -> Iterator[RgbImage]:
    """Read the clip again and paint the records over it, each frame as often as its time at a constant rate asks."""
    shown, before, start_s = 0, None, 0.0
    frames = open_video(job.source).frames
    for record in records:
        frame = next((one for one in frames if one.name == record.name), None)
        if frame is None:
            break
        if before is None:
            start_s = frame.time_s
        else:
            repeats = max(0, round((frame.time_s - start_s) * fps) - shown)
            yield from (before for _ in range(repeats))
            shown += repeats
        before = draw_frame(frame.pixels, record, job.texts)
    if before is not None:
        yield before


def _appearance(timeline: Timeline, i: int) -> Appearance:
    times, scores = timeline.times_s[timeline.found[i]], timeline.scores[i][timeline.found[i]]
    text = timeline.queries[i]
    if not len(times):
        return Appearance(text, 0)
    return Appearance(text, len(times), float(times[0]), float(times[-1]), float(scores.mean()))


def _digest(path: Path) -> str:
    """Digest a file by its content, a folder by the names, sizes and times of its files."""
    if path.is_dir():
        files = sorted((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in path.iterdir())
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
