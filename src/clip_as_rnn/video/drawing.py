"""Pictures of clips: the masks on a frame with a legend that never moves, and when each text was found."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

from clip_as_rnn.ops import resize_nearest
from clip_as_rnn.types import RgbImage
from clip_as_rnn.video.records import FrameRecord
from clip_as_rnn.visualization import text as lettering
from clip_as_rnn.visualization.colors import colors
from clip_as_rnn.visualization.overlay import Drawing, fit_long_side, paint_masks

_LONG_SIDE_PX = (320, 1280)
_FONT_PX = (12, 22)
_FONT_SHARE = 50  # the long side holds so many letters' heights
_MOST_ROWS = 12  # of the legend
_ROW_PX, _NAMES_PX, _BARS_PX, _PAD_PX, _LETTERS_PX = 40, 200, 760, 12, 15  # of the timeline
_PALE = (225, 225, 225)
_COUNT_BITS = 8


def draw_frame(image: RgbImage, record: FrameRecord, queries: Sequence[str]) -> Drawing:
    """Paint what was found over its frame, every text in a color of its own, and list all texts below it.

    All frames of a clip give pictures of one size. Texts that are not found in this frame are gray.
    """
    view = fit_long_side(image, *_LONG_SIDE_PX)
    palette, numbers = colors(len(queries)), [queries.index(one.text) for one in record.found]
    masks = np.zeros((len(numbers), *image.shape[:2]), dtype=bool)
    for row, one in zip(masks, record.found, strict=True):
        row[:] = one.mask()
    scores = np.array([one.score for one in record.found], dtype=np.float32)
    painted = paint_masks(view, resize_nearest(masks, view.shape[:2]), scores, palette[numbers])
    size_px = int(np.clip(max(view.shape) // _FONT_SHARE, *_FONT_PX))
    return np.concatenate([painted, _draw_legend(record, queries, view.shape[1], size_px)])


def _draw_legend(record: FrameRecord, queries: Sequence[str], width_px: int, size_px: int) -> UInt8[ndarray, "l w 3"]:
    line_px, pad = lettering.line_height_px(size_px), size_px // 2
    shown = queries[:_MOST_ROWS]
    canvas = Image.new("RGB", (width_px, len(shown) * line_px + 2 * pad), lettering.WHITE)
    draw = ImageDraw.Draw(canvas)
    scores = {one.text: one.score for one in record.found}
    for i, (text, color) in enumerate(zip(shown, colors(len(shown)).tolist(), strict=True)):
        y, is_found = pad + i * line_px, text in scores
        draw.rectangle((pad, y + 2, pad + size_px, y + size_px + 2), fill=tuple(color) if is_found else _PALE)
        ink = lettering.BLACK if is_found else lettering.GRAY
        room_px = width_px - pad - 6 * size_px
        right = lettering.write(draw, (pad + 2 * size_px, y), lettering.shorten(text, size_px, room_px), size_px, ink)
        if is_found:
            lettering.write(draw, (right + size_px, y), f"{scores[text]:.2f}", size_px, ink)
    return np.array(canvas)


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When each text was found in a clip; row i belongs to query i, column t to frame t.

    Attributes:
        scores: in [0, 1], also of rejected texts.
        found: whether the text was found.
        times_s: of the frames.
    """

    queries: tuple[str, ...]
    scores: ndarray
    found: ndarray
    times_s: ndarray

    @classmethod
    def of(cls, records: Sequence[FrameRecord], queries: Sequence[str]) -> "Timeline":
        """Gather the scores of all frames."""
        scores, found = np.zeros((len(queries), len(records))), np.zeros((len(queries), len(records)), dtype=bool)
        for t, record in enumerate(records):
            held = {**record.rejected, **{one.text: one.score for one in record.found}}
            scores[:, t] = [held.get(text, 0.0) for text in queries]
            found[:, t] = [any(one.text == text for one in record.found) for text in queries]
        return cls(tuple(queries), scores, found, np.array([record.time_s for record in records]))


def draw_timeline(timeline: Timeline) -> Drawing:
    """Draw a row per text: its score over the frames, in color where it was found, gray where it was rejected."""
    size_hw = (len(timeline.queries) + 1) * _ROW_PX + 2 * _PAD_PX, _NAMES_PX + _BARS_PX + 2 * _PAD_PX
    canvas = Image.new("RGB", size_hw[::-1], lettering.WHITE)
    draw = ImageDraw.Draw(canvas)
    frames, left = len(timeline.times_s), _PAD_PX + _NAMES_PX
    edges = left + np.round(np.arange(frames + 1) * _BARS_PX / max(frames, 1)).astype(int)
    for i, (text, color) in enumerate(zip(timeline.queries, colors(len(timeline.queries)).tolist(), strict=True)):
        top = _PAD_PX + i * _ROW_PX
        base, height_px = top + _ROW_PX - 6, _ROW_PX - 10
        name = lettering.shorten(text, _LETTERS_PX, _NAMES_PX - _PAD_PX)
        ink = lettering.BLACK if timeline.found[i].any() else lettering.GRAY
        lettering.write(draw, (_PAD_PX, base - lettering.line_height_px(_LETTERS_PX)), name, _LETTERS_PX, ink)
        for t in range(frames):
            peak = base - 1 - round(float(timeline.scores[i, t]) * height_px)
            fill = tuple(color) if timeline.found[i, t] else _PALE
            draw.rectangle((edges[t], peak, max(edges[t], edges[t + 1] - 1), base), fill=fill)
        draw.line((left, base + 1, left + _BARS_PX, base + 1), fill=lettering.GRAY)
    _draw_times(draw, timeline, left, _PAD_PX + len(timeline.queries) * _ROW_PX)
    return np.array(canvas)


def _draw_times(draw: ImageDraw.ImageDraw, timeline: Timeline, left: int, top: int) -> None:
    """Write the first, the middle and the last frame's time below the rows."""
    frames = len(timeline.times_s)
    for t in sorted({0, frames // 2, frames - 1} if frames else ()):
        word = f"{timeline.times_s[t]:.1f} s"
        middle = left + round((t + 0.5) * _BARS_PX / frames) - lettering.width_px(word, _LETTERS_PX) // 2
        x = min(max(left, middle), left + _BARS_PX - lettering.width_px(word, _LETTERS_PX))
        lettering.write(draw, (x, top + 4), word, _LETTERS_PX, lettering.GRAY)


def davis_palette() -> UInt8[ndarray, "255 3"]:
    """Return the colors in which DAVIS (as PASCAL VOC) shows labels 1 to 255: the bits of a label, spread."""
    labels = np.arange(1, 256)
    bits = (labels[:, None] >> np.arange(_COUNT_BITS)) & 1  # 255 8: bits 0, 3, 6 are red's, 1, 4, 7 green's
    colors_rgb = np.zeros((len(labels), 3), dtype=np.int64)
    for i in range(_COUNT_BITS):
        colors_rgb[:, i % 3] |= bits[:, i] << (7 - i // 3)
    return np.asarray(colors_rgb.astype(np.uint8))
