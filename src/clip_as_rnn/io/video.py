"""Clips to frames and frames to clips, one frame at a time.

Files are decoded by OpenCV, which turns frames upright as the file says, or by PyAV (the extra `video`) where OpenCV
cannot; WebM (VP9) is written by OpenCV, MP4 (H.264) by PyAV. Knows nothing of texts or masks.
"""

import codecs
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from math import isfinite
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, TypeAlias

import cv2
import numpy as np

from clip_as_rnn.errors import DependencyError, InputError
from clip_as_rnn.io.images import SUFFIXES as PICTURE_SUFFIXES
from clip_as_rnn.io.images import ImageSource, read_picture
from clip_as_rnn.types import RgbImage

VideoSource: TypeAlias = str | Path | Iterable[ImageSource]

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
USUAL_FPS = 25.0  # of what has no rate of its own
_MOST_FPS = 1000.0  # more is a damaged header
_MOST_FRAMES = 1e9
_LISTED = 5
_LISTS = (b"ffconcat", b"#extm3u", b"<", b"v=0")  # how those files begin that name others: decoders would open these
_MISSING_EXTRA = "pip install 'clip-as-rnn[video]'"
_STDERR_LOCK = Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame of a clip: how its files are named, when it is shown, and its pixels."""

    name: str
    time_s: float
    pixels: RgbImage


@dataclass(slots=True, eq=False)
class Video:
    """A clip that is being read; `frames` can be gone through once.

    Attributes:
        frames: one after the other, read as they are asked for.
        fps: frames per second; the mean where they differ.
        count: how many frames there should be; None where nobody knows.
        notes: what the user should be told, one sentence each; complete when all frames are read.
    """

    frames: Iterator[Frame]
    fps: float
    count: int | None
    notes: list[str] = field(default_factory=list)


def open_video(source: VideoSource) -> Video:
    """Open a clip: a video file, a folder of pictures in the order of their numbers, or pictures one by one.

    A file that breaks off, and a picture in a folder that cannot be read, cost those frames and a note.

    Raises:
        InputError: there is no such file, it is no video but a list of files, or it has not one frame; while reading,
            a picture of an iterable that cannot be read, or a folder without one that can.
        DependencyError: a video whose codec needs the extra.
    """
    if not isinstance(source, str | Path):
        return Video(_number(source), USUAL_FPS, len(source) if isinstance(source, Sized) else None)
    path = Path(source)
    try:
        if path.is_dir():
            return _open_folder(path)
        if path.exists() and not path.is_file():  # opening a pipe would wait for whoever fills it
            raise InputError(
                f"Expected a video file, but {str(path)!r} is a pipe or a device; save it to a file first."
            )
        with path.open("rb") as file:
            begins = file.read(64).lower().removeprefix(codecs.BOM_UTF8).lstrip()
    except FileNotFoundError as error:
        raise InputError(f"No video at {str(path)!r}; check the path.") from error
    except (OSError, ValueError) as error:  # no permission; a null byte in the path
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The video {str(path)!r} cannot be read: {reason}.") from error
    if begins.startswith(_LISTS):
        raise InputError(f"Expected a video, but {str(path)!r} is a list that names other files; give one of these.")
    return _open_file(path)


def _number(pictures: Iterable[ImageSource]) -> Iterator[Frame]:
    for i, picture in enumerate(pictures):
        yield Frame(f"{i:05d}", i / USUAL_FPS, read_picture(picture).pixels)


def _open_folder(folder: Path) -> Video:
    """List the pictures of a folder by the last number in their names, then by name."""
    paths = sorted((one for one in folder.iterdir() if one.suffix.lower() in PICTURE_SUFFIXES), key=_by_number)
    if not paths:
        raise InputError(f"Expected the frames of a clip in {str(folder)!r}, but there is no picture in it.")
    video = Video(iter(()), USUAL_FPS, len(paths))
    numbers = [number for number, _ in map(_by_number, paths) if number >= 0]
    holes = sorted(set(range(min(numbers, default=0), max(numbers, default=0))) - set(numbers)) if numbers else []
    if holes and len(holes) < len(paths):  # else the numbers are no count of frames
        named = ", ".join(map(str, holes[:_LISTED])) + (" and more" if len(holes) > _LISTED else "")
        video.notes.append(f"The numbers {named} are missing among the frames in {str(folder)!r}.")
    video.frames = _read_pictures(paths, video.notes)
    return video


def _by_number(path: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1][-18:]) if numbers else -1, path.name)


def _read_pictures(paths: list[Path], notes: list[str]) -> Iterator[Frame]:
    size_hw: tuple[int, ...] | None = None
    unread = ""
    is_unique = len({path.stem for path in paths}) == len(paths)
    for i, path in enumerate(paths):
        try:
            pixels = read_picture(path).pixels
        except InputError as error:
            notes.append(f"A frame is left out. {error}")
            unread = str(error)
            continue
        size_hw = size_hw or pixels.shape[:2]
        if pixels.shape[:2] != size_hw:
            height, width = pixels.shape[:2]
            notes.append(f"The frame {path.name} is left out: it has {width} x {height} pixels, unlike the first one.")
            continue
        yield Frame(path.stem if is_unique else path.name, i / USUAL_FPS, pixels)
    if size_hw is None:
        raise InputError(f"Not one of the {len(paths)} frames in {str(paths[0].parent)!r} could be read. {unread}")


def _open_file(path: Path) -> Video:
    """Open a file with whichever library gives a first frame."""
    with _quiet_stderr():
        capture = cv2.VideoCapture(str(path))
    is_video = capture.isOpened()
    if is_video:
        count, fps = (capture.get(what) for what in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        video = Video(
            iter(()), fps if 0 < fps <= _MOST_FPS else USUAL_FPS, int(count) if 0 < count < _MOST_FRAMES else None
        )
        frames = _decode(capture)
    else:
        video, frames = Video(iter(()), USUAL_FPS, None), iter(())
    first = next(frames, None)
    if first is None:
        frames = _decode_with_av(path, is_video=is_video)
        first = next(frames, None)
    if first is None:
        raise InputError(f"Not one frame of the video {str(path)!r} could be read; it is empty, damaged or cut short.")
    video.frames = _counted(first, frames, video, path)
    return video


def _counted(first: Frame, rest: Iterator[Frame], video: Video, path: Path) -> Iterator[Frame]:
    """Pass frames on, and say at the end if there were fewer than the file promised."""
    yield first
    read = 1
    for frame in rest:
        yield frame
        read += 1
    if video.count is not None and read < video.count:
        video.notes.append(
            f"Only {read} of about {video.count} frames of {str(path)!r} could be read; it is damaged or cut short."
        )


def _decode(capture: Any) -> Iterator[Frame]:
    """Decode by OpenCV; a time that does not grow is taken from the frame rate."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    step_s, before_s = 1 / fps if 0 < fps <= _MOST_FPS else 1 / USUAL_FPS, -1.0
    try:
        number = 0
        while True:
            is_read, bgr = capture.read()
            if not is_read:
                return
            time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if not isfinite(time_s) or time_s <= before_s:
                time_s = max(before_s, -step_s) + step_s
            before_s = time_s
            yield Frame(f"{number:05d}", time_s, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
            number += 1
    finally:
        capture.release()


def _decode_with_av(path: Path, *, is_video: bool) -> Iterator[Frame]:
    """Decode by PyAV what OpenCV cannot; frames are turned upright."""
    try:
        av = import_av(f"The codec of {str(path)!r} cannot be read without PyAV")
    except DependencyError:
        if is_video:
            raise
        raise InputError(
            f"Expected a video, but {str(path)!r} is none that OpenCV knows; {_MISSING_EXTRA} adds further kinds."
        ) from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"Expected a video, but {str(path)!r} has no pictures in it.")
            for number, frame in enumerate(container.decode(video=0)):
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                time_s = frame.time if frame.time is not None else number / USUAL_FPS
                yield Frame(f"{number:05d}", time_s, np.ascontiguousarray(pixels))
    except av.FFmpegError as error:
        if not is_video:
            raise InputError(f"Expected a video, but {str(path)!r} is none: {error.strerror}.") from error


def import_av(purpose: str) -> ModuleType:
    """Import PyAV.

    Raises:
        DependencyError: it is not installed; the message says what it is needed for.
    """
    try:
        import av
    except ImportError as error:
        raise DependencyError(f"{purpose}; install it with: {_MISSING_EXTRA}.") from error
    module: ModuleType = av
    return module


def write_video(path: Path, frames: Iterable[RgbImage], *, fps: float) -> None:
    """Write frames of one size as WebM (VP9), or as MP4 (H.264) if the path ends so; browsers play both.

    Odd sides get their last row or column twice: neither codec keeps them as they are.

    Raises:
        InputError: not one frame, or the file cannot be written.
        DependencyError: MP4 without PyAV.
    """
    waiting = (_with_even_sides(frame) for frame in frames)
    first = next(waiting, None)
    if first is None:
        raise InputError(f"Expected one frame or more to write into {str(path)!r}, but got none.")
    write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_webm
    write(path, first, waiting, fps)


def _with_even_sides(frame: RgbImage) -> RgbImage:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else frame


def _write_webm(path: Path, first: RgbImage, rest: Iterator[RgbImage], fps: float) -> None:
    with _quiet_stderr():  # OpenCV says of every WebM that it does not know the codec's tag
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP90"), fps, first.shape[1::-1])
    if not writer.isOpened():
        raise InputError(
            f"The video {str(path)!r} cannot be written: this OpenCV has no VP9, or the folder is not there."
        )
    try:
        writer.write(cv2.cvtColor(first, cv2.COLOR_RGB2BGR))
        for frame in rest:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()


def _write_mp4(path: Path, first: RgbImage, rest: Iterator[RgbImage], fps: float) -> None:
    av = import_av("MP4 is written by PyAV")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "yuv420p"
        for pixels in chain([first], rest):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send what C code prints to stderr nowhere, for a moment; one thread at a time is inside.

    What FFmpeg says of frames, later and in threads of its own, is silenced too: it asks once, as it is first used.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    with _STDERR_LOCK:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            for descriptor in (kept, nowhere):
                with suppress(OSError):
                    os.close(descriptor)
