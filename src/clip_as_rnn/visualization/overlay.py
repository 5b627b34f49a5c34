"""The overlay: the masks on their image, with a legend of the texts found and of those rejected."""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

from clip_as_rnn.result import Segmentation
from clip_as_rnn.types import Masks, RgbImage
from clip_as_rnn.visualization import text as lettering
from clip_as_rnn.visualization.colors import colors

Drawing: TypeAlias = UInt8[ndarray, "H W 3"]  # sRGB, of another size than the image

_LONG_SIDE_PX = (320, 1600)  # smaller images are enlarged to be readable, larger ones need not be kept: masks have all
_LEGEND_MIN_WIDTH_PX = 320
_COLUMN_MIN_LETTERS = 16  # letters' heights that a column takes at least, for a name beside its score
_FONT_PX = (14, 30)
_FONT_SHARE = 45  # the long side holds so many letters' heights
_OPACITY = 0.5
_MAX_ENTRIES = 40  # of each kind
_ENTRY_SPACE = 2.4  # letters' heights that swatch and gaps take
_COLUMN_ROWS = 12  # a longer legend is set in two columns, if there is room


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the legend; without a color the text was rejected and is struck."""

    text: str
    remark: str
    color: lettering.Ink | None = None
    number: int = 0


def draw_overlay(image: RgbImage, segmentation: Segmentation) -> Drawing:
    """Paint the masks over their image and set a legend below it.

    The long side is brought to between 320 and 1600 px. Every mask carries the number that its text has in the legend
    and in the label map. Where masks overlap, the higher score is on top.
    """
    view = fit_long_side(image, *_LONG_SIDE_PX)
    masks = segmentation.resize_masks(view.shape[:2])
    size_px = int(np.clip(max(view.shape) // _FONT_SHARE, *_FONT_PX))
    painted = paint_masks(view, masks, segmentation.scores)
    _number_masks(painted, masks, size_px)
    width_px = max(view.shape[1], _LEGEND_MIN_WIDTH_PX, (_COLUMN_MIN_LETTERS + 1) * size_px)
    legend = _draw_legend(_entries(segmentation), width_px, size_px)
    return _stack(painted, legend)


def fit_long_side(image: RgbImage, low_px: int, high_px: int) -> Drawing:
    """Scale an image so that its long side lies within bounds; no side falls below one pixel."""
    long_side = max(image.shape[:2])
    scale = float(np.clip(long_side, low_px, high_px)) / long_side
    return resize(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def resize(image: RgbImage, size_hw: tuple[int, int]) -> Drawing:
    """Shrink by averaging areas; enlarge by repeating pixels, so that tiny images stay what they are."""
    if image.shape[:2] == size_hw:
        return image
    shrinks = size_hw[0] * size_hw[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)


def paint_masks(
    view: RgbImage, masks: Masks, scores: ndarray, palette: UInt8[ndarray, "n 3"] | None = None
) -> RgbImage:
    """Tint every mask in its color and outline it; the highest score last."""
    palette = colors(len(masks)) if palette is None else palette
    painted = view.copy()
    for i in np.argsort(scores, kind="stable"):
        tint = (1 - _OPACITY) * view[masks[i]] + _OPACITY * palette[i]
        painted[masks[i]] = np.round(tint).astype(np.uint8)
        outline, _ = cv2.findContours(masks[i].astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, outline, -1, palette[i].tolist(), max(1, max(view.shape) // 500))
    return painted


def _number_masks(painted: RgbImage, masks: Masks, size_px: int) -> None:
    """Write each mask's number where the mask is widest, if there is room."""
    canvas = Image.fromarray(painted)
    draw = ImageDraw.Draw(canvas)
    for i, mask in enumerate(masks):
        x, y, radius = _widest_place(mask)
        if radius < size_px:
            continue
        word = str(i + 1)
        half = lettering.width_px(word, size_px) // 2
        box = (x - half - size_px // 3, y - size_px // 2 - 3, x + half + size_px // 3, y + size_px // 2 + 5)
        draw.rounded_rectangle(box, radius=size_px // 3, fill=lettering.WHITE, outline=lettering.BLACK)
        lettering.write(draw, (x - half, y - size_px // 2 - 1), word, size_px)
    painted[:] = np.asarray(canvas)


def _widest_place(mask: Bool[ndarray, "h w"]) -> tuple[int, int, float]:
    """Find the center and the radius of the largest circle in a mask and in the image."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y), float(depth[y, x])


def _entries(segmentation: Segmentation) -> list[_Entry]:
    """List the legend's lines: the texts found, then those rejected; very long lists are cut, and say so."""
    palette = [(int(red), int(green), int(blue)) for red, green, blue in colors(len(segmentation.texts))]
    found = [
        _Entry(text, f"{score:.2f}", color, number)
        for number, (text, score, color) in enumerate(
            zip(segmentation.texts, segmentation.scores, palette, strict=True), 1
        )
    ]
    rejected = [_Entry(r.text, f"step {r.step}, {r.score:.2f}") for r in segmentation.rejections]
    entries = [*(found[:_MAX_ENTRIES] or [_Entry("", "nothing found")]), *rejected[:_MAX_ENTRIES]]
    more = max(0, len(found) - _MAX_ENTRIES) + max(0, len(rejected) - _MAX_ENTRIES)
    return [*entries, _Entry("", f"and {more:,} more texts")] if more else entries


def _draw_legend(entries: list[_Entry], width_px: int, size_px: int) -> RgbImage:
    """Set the entries in as many columns as fit, reading downwards."""
    pad = size_px // 2
    widest = max((_entry_width_px(entry, size_px) for entry in entries), default=0)
    room = (width_px - pad) // (_COLUMN_MIN_LETTERS * size_px + pad)
    least = 2 if len(entries) > _COLUMN_ROWS and room > 1 else 1
    column_px = min(widest, (width_px - pad) // least - pad)
    columns = (width_px - pad) // (column_px + pad)
    rows = -(-len(entries) // columns)
    line_px = lettering.line_height_px(size_px)
    canvas = Image.new("RGB", (width_px, rows * line_px + 2 * pad), lettering.WHITE)
    draw = ImageDraw.Draw(canvas)
    for i, entry in enumerate(entries):
        xy = (pad + i // rows * (column_px + pad), pad + i % rows * line_px)
        _draw_entry(draw, xy, entry, column_px, size_px)
    return np.array(canvas)


def _entry_width_px(entry: _Entry, size_px: int) -> int:
    words = lettering.one_line(entry.text), entry.remark
    return round(_ENTRY_SPACE * size_px) + sum(lettering.width_px(word, size_px) for word in words)


def _draw_entry(draw: ImageDraw.ImageDraw, xy: tuple[int, int], entry: _Entry, limit_px: int, size_px: int) -> None:
    """Draw one line of the legend: a swatch with a number, the text, and its score."""
    x, y = xy
    room_px = limit_px - round(_ENTRY_SPACE * size_px) - lettering.width_px(entry.remark, size_px)
    text = lettering.shorten(entry.text, size_px, room_px)
    left = x + round(1.8 * size_px)
    ink = lettering.BLACK if entry.color else lettering.GRAY
    right = lettering.write(draw, (left, y), text, size_px, ink)
    if entry.color:
        draw.rectangle((x, y + 2, x + round(1.4 * size_px), y + size_px + 2), fill=entry.color)
        dark = sum(entry.color) < 3 * 110
        word = str(entry.number)
        small_px = max(9, size_px - 3)
        centerd = x + (round(1.4 * size_px) - lettering.width_px(word, small_px)) // 2
        lettering.write(draw, (centerd, y + 3), word, small_px, lettering.WHITE if dark else lettering.BLACK)
    elif text:
        lettering.strike(draw, (left, y), right, size_px)
    lettering.write(draw, (right + size_px // 2, y), entry.remark, size_px, ink)


def _stack(picture: RgbImage, legend: Drawing) -> UInt8[ndarray, "stacked wider 3"]:
    """Set the legend below the picture, on white where one is wider."""
    width_px = max(picture.shape[1], legend.shape[1])
    rows = [
        np.pad(part, ((0, 0), (0, width_px - part.shape[1]), (0, 0)), constant_values=255) for part in (picture, legend)
    ]
    return np.concatenate(rows)
