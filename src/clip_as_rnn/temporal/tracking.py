"""Masks carried by a tracker from the frame of a stretch that shows a text best to the other frames that have it.

Which texts a frame has is decided before; here, where their pixels are. A clip is cut into stretches of a fixed number
of frames, which alone are in memory, and every text of a stretch is followed both ways from a key frame of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from clip_as_rnn.config import Mode, SegmenterConfig
from clip_as_rnn.ops import drop_empty, narrowest
from clip_as_rnn.precision import own_precision
from clip_as_rnn.refine.base import MaskTracker
from clip_as_rnn.refine.sam.runs import decode_runs, run_lengths
from clip_as_rnn.result import Refinement, Rejection, Segmentation
from clip_as_rnn.stages import Callback, Progress
from clip_as_rnn.timing import Stopwatch
from clip_as_rnn.types import LabelMap, Mask, Masks


@dataclass(frozen=True, slots=True, eq=False)
class FinishedFrame:
    """A frame that is done by itself: as the replacer encoded it, what was found in it, and in how many steps."""

    image: Any
    found: Segmentation
    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """Where one text is in a stretch.

    Attributes:
        key: the frame that the others have it from.
        runs: by frame, run lengths of the mask; without the key frame, and those in which it was lost.
    """

    key: int
    runs: Mapping[int, Int[ndarray, " r"]]


def follow_masks(
    frames: Iterator[FinishedFrame], tracker: MaskTracker, config: SegmenterConfig, report: Callback
) -> Iterator[Segmentation]:
    """Replace masks by those that the tracker carries from key frames, stretch by stretch; no text comes or goes.

    Yields:
        A segmentation per frame, in order. In semantic mode a pixel that two masks claim goes to the higher score, and
        a text that has none left is rejected, if the settings drop those.
    """
    for stretch in cut_stretches(frames, config.video.sam_track_frames):
        yield from _follow_stretch(stretch, tracker, config, report)


def cut_stretches(frames: Iterator[FinishedFrame], length: int) -> Iterator[list[FinishedFrame]]:
    """Cut a clip into stretches of so many frames, counted from the first; one of another size begins anew."""
    stretch: list[FinishedFrame] = []
    for frame in frames:
        if stretch and (len(stretch) == length or frame.found.size_hw != stretch[0].found.size_hw):
            yield stretch
            stretch = []
        stretch.append(frame)
    if stretch:
        yield stretch


def _follow_stretch(
    stretch: list[FinishedFrame], tracker: MaskTracker, config: SegmenterConfig, report: Callback
) -> Iterator[Segmentation]:
    """Replace the masks of a stretch, and take its frames out of the list: none is in memory when the next is read."""
    stopwatch = Stopwatch()
    with stopwatch.measure("track", shared_by=len(stretch)):
        tracks = _follow_texts(stretch, tracker, report)
    for t in range(len(stretch)):
        yield _replace_masks(stretch.pop(0), t, tracks, config, stopwatch.seconds)


def choose_key(text: str, stretch: Sequence[FinishedFrame]) -> int | None:
    """Choose the frame with the largest product of a text's score and the IoU of its mask with what SAM made of it.

    Frames without the text, those in which SAM's mask did not take the place of its own, and those in which other texts
    have left it no pixel, are none; of equals the first is taken.
    """
    worth = np.zeros(len(stretch))
    for t, frame in enumerate(stretch):
        decision = frame.found.refinements.get(text)
        if decision is None or not decision.replaced or text not in frame.found.texts:
            continue
        if _mask_of(frame.found, text).any():
            worth[t] = float(frame.found.scores[frame.found.texts.index(text)]) * decision.iou
    return int(worth.argmax()) if worth.any() else None


@own_precision()
def _follow_texts(stretch: Sequence[FinishedFrame], tracker: MaskTracker, report: Callback) -> dict[str, Track]:
    """Follow each text that has a key frame."""
    texts = [text for text in stretch[0].found.queries if any(text in frame.found.texts for frame in stretch)]
    tracks = {}
    for number, text in enumerate(texts):
        tick = partial(report, Progress("sam", 0, len(texts), number, len(texts)))
        key = choose_key(text, stretch)
        if key is not None:
            tracks[text] = _follow_text(text, key, stretch, tracker, tick)
    return tracks


def _follow_text(
    text: str, key: int, stretch: Sequence[FinishedFrame], tracker: MaskTracker, tick: Callable[[], None]
) -> Track:
    """Follow a text from its key frame, ahead and back, to the last that have it, also through some that have not.

    `tick` is called before each frame: a stretch may take minutes.
    """
    having = [t for t, frame in enumerate(stretch) if text in frame.found.texts]
    mask = _mask_of(stretch[key].found, text)
    runs = {}
    for order in (range(key, having[-1] + 1), range(key, having[0] - 1, -1)):
        if len(order) == 1:
            continue
        images = _tell([stretch[t].image for t in order], tick)
        for t, found in zip(order[1:], tracker.follow(images, mask), strict=True):
            if found is not None and t in having:
                runs[t] = run_lengths(found)
    return Track(key, runs)


def _tell(images: Sequence[Any], tick: Callable[[], None]) -> Iterator[Any]:
    for image in images:
        tick()
        yield image


def _replace_masks(
    frame: FinishedFrame, t: int, tracks: Mapping[str, Track], config: SegmenterConfig, seconds: Mapping[str, float]
) -> Segmentation:
    """Take the masks that were followed to frame `t` of a stretch, which took so long."""
    found = frame.found
    masks, refinements = _draw(found, t, tracks, config.mode)
    rows, rejections = np.arange(len(found)), {one.text: one for one in found.rejections}
    if config.refine.drop_empty_masks:
        masks, rows = drop_empty(masks, len(found))
    for i in np.setdiff1d(np.arange(len(found)), rows):
        reason = "no pixel left beside the masks that were followed"
        rejections[found.texts[i]] = Rejection(found.texts[i], frame.steps, float(found.scores[i]), reason)
    described: dict[str, Any] = {
        "queries": found.queries,
        "texts": tuple(found.texts[i] for i in rows),
        "scores": found.scores[rows],
        "rejections": tuple(rejections[text] for text in found.queries if text in rejections),
        "trace": found.trace,
        "judged_by": found.judged_by,
        "seconds": {**found.seconds, **seconds},
        "refinements": refinements,
    }
    if config.mode == "semantic":
        return Segmentation.from_label_map(masks, **described)
    return Segmentation(masks=masks, **described)


def _draw(
    found: Segmentation, t: int, tracks: Mapping[str, Track], mode: Mode
) -> tuple[LabelMap | Masks, dict[str, Refinement]]:
    """Draw a label map, in which the higher score keeps a pixel, or masks; and say where each mask comes from."""
    is_label_map = mode == "semantic"
    drawn = np.zeros(found.size_hw, narrowest(len(found))) if is_label_map else np.zeros_like(found.masks)
    refinements = dict(found.refinements)
    for i in np.argsort(found.scores, kind="stable").tolist():
        text, mask = found.texts[i], found.mask_at(i)
        if text in tracks:
            mask, decision = _take(tracks[text], t, mask, refinements.get(text))
            refinements |= {text: decision} if decision else {}
        if is_label_map:
            drawn[mask] = i + 1
        else:
            drawn[i] = mask
    return drawn, refinements


def _take(track: Track, t: int, own: Mask, decision: Refinement | None) -> tuple[Mask, Refinement | None]:
    """Choose between the mask that was followed to a frame and the frame's own, and say which it is.

    An own mask without a pixel has no decision.
    """
    if t not in track.runs:
        rest = "the key frame of its stretch" if t == track.key else "followed, but not seen by SAM 2"
        return own, decision and replace(decision, reason=f"{decision.reason}; {rest}")
    mask = decode_runs(track.runs[t], own.shape)
    iou = float((mask & own).sum() / (mask | own).sum())
    frames = "1 frame" if abs(t - track.key) == 1 else f"{abs(t - track.key)} frames"
    side = "back" if t > track.key else "ahead"
    return mask, Refinement(replaced=True, iou=iou, reason=f"followed from {frames} {side}: IoU {iou:.2f}")


def _mask_of(found: Segmentation, text: str) -> Mask:
    return found.mask_at(found.texts.index(text))
