"""The figure of the recurrence: a row per step, a column per text, and what became of each.

A cell shows what was proposed for a text as a heat map over the darkened image, with the classifier's score below it. A
text that was dropped is crossed out, and its column ends there. With SAM two rows show each mask before it, and SAM's
masks in its place with the verdict on them. The last row shows the masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw

from clip_as_rnn.errors import InputError
from clip_as_rnn.ops import resize_nearest, upsample_maps
from clip_as_rnn.result import Segmentation, Step
from clip_as_rnn.types import RgbImage
from clip_as_rnn.visualization import text as lettering
from clip_as_rnn.visualization.colors import colors, dim, heat, heat_opacity
from clip_as_rnn.visualization.overlay import Drawing, paint_masks, resize

_MAX_COLUMNS = 20
_MAX_STEPS = 20
_WIDTH_PX = 1600  # what the columns share, as far as the limits of a cell allow
_CELL_WIDTH_PX = (120, 300)
_CELL_ASPECT = (0.6, 1.8)  # width / height; images beyond are set on gray
_FONT_PX = (12, 18)
_HEADING_LINES = 3
_MARGIN: lettering.Ink = (236, 236, 236)
_DROPPED: lettering.Ink = (178, 70, 0)  # a darker vermillion, readable on white


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where everything stands, in pixels. Column 0 holds the rows' names, the texts begin at 1."""

    cell_hw: tuple[int, int]
    size_px: int
    top: int  # where the first row begins

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the top left corner of a cell as x, y."""
        pitch_y = self.cell_hw[0] + 2 * lettering.line_height_px(self.size_px)
        return self.gap + column * (self.cell_hw[1] + self.gap), self.top + row * pitch_y

    @property
    def gap(self) -> int:
        """Return the space between columns."""
        return self.size_px // 2 + 2


@dataclass(frozen=True, slots=True, eq=False)
class _Sheet:
    """The figure while it is drawn: the canvas, its pen, the grid, and the image in the size of a cell."""

    canvas: Image.Image
    draw: ImageDraw.ImageDraw
    grid: _Grid
    view: RgbImage
    dimmed: RgbImage

    def paste(self, row: int, column: int, picture: RgbImage, *, crossed: bool = False) -> None:
        """Set a picture of the view's size into the middle of a cell."""
        height, width = self.grid.cell_hw
        cell = np.full((height, width, 3), _MARGIN, dtype=np.uint8)
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        if crossed:
            _cross_out(cell)
        self.canvas.paste(Image.fromarray(cell), self.grid.corner(row, column))

    def caption(self, row: int, column: int, text: str, ink: lettering.Ink = lettering.BLACK) -> None:
        """Write one line below a cell."""
        x, y = self.grid.corner(row, column)
        line = lettering.shorten(text, self.grid.size_px, self.grid.cell_hw[1])
        lettering.write(self.draw, (x, y + self.grid.cell_hw[0] + 2), line, self.grid.size_px, ink)

    def name_row(self, row: int, lines: Sequence[str]) -> None:
        """Write the name of a row and what to know of it into its first cell."""
        x, y = self.grid.corner(row, 0)
        for i, line in enumerate(lines):
            fitted = lettering.shorten(line, self.grid.size_px, self.grid.cell_hw[1])
            ink = lettering.GRAY if i else lettering.BLACK
            lettering.write(
                self.draw, (x, y + i * lettering.line_height_px(self.grid.size_px)), fitted, self.grid.size_px, ink
            )

    def leave_empty(self, row: int, column: int) -> None:
        """Mark a cell of a text that is gone."""
        x, y = self.grid.corner(row, column)
        middle = y + self.grid.cell_hw[0] // 2
        center = x + self.grid.cell_hw[1] // 2
        self.draw.line((center - 8, middle, center + 8, middle), fill=_MARGIN, width=3)


def draw_recurrence(image: RgbImage, segmentation: Segmentation) -> Drawing:
    """Draw what happened to every text at every step, and the masks at the end.

    At most 20 texts, those that stayed longest, and 20 steps, the first ten and the last ten, are drawn; the picture
    says what it leaves out.

    Raises:
        InputError: the segmentation was made without a trace.
    """
    if segmentation.trace is None:
        raise InputError("Expected a segmentation with its trace, but got one without; segment with `trace=True`.")
    steps = segmentation.trace.steps
    columns = _columns(segmentation.queries, steps)
    shown = _shown_steps(len(steps))
    notes = _notes(len(segmentation.queries), len(columns), len(steps), len(shown))
    refined = any(one.pictures for one in segmentation.refinements.values())
    sheet = _new_sheet(image, columns, rows=len(shown) + (3 if refined else 1), notes=notes)
    _draw_headings(sheet, columns, segmentation)
    for row, k in enumerate(shown):
        _draw_step(sheet, row, k + 1, steps[k], columns)
    if refined:
        _draw_refinements(sheet, len(shown), segmentation, columns)
    _draw_masks(sheet, len(shown) + (2 if refined else 0), segmentation, columns)
    _draw_key(sheet, segmentation.judged_by)
    return np.array(sheet.canvas)


def _columns(queries: tuple[str, ...], steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Choose the texts to draw: those that stayed longest, in the order asked."""
    turns = {text: sum(text in step.texts for step in steps) + (text in _survivors(steps)) for text in queries}
    chosen = set(sorted(queries, key=lambda text: -turns[text])[:_MAX_COLUMNS])
    return tuple(text for text in queries if text in chosen)


def _survivors(steps: tuple[Step, ...]) -> set[str]:
    return {steps[-1].texts[i] for i in steps[-1].kept} if steps else set()


def _shown_steps(count: int) -> tuple[int, ...]:
    """Choose the steps to draw: all, or the first and the last ten."""
    if count <= _MAX_STEPS:
        return tuple(range(count))
    half = _MAX_STEPS // 2
    return (*range(half), *range(count - half, count))


def _notes(texts: int, texts_shown: int, steps: int, steps_shown: int) -> list[str]:
    notes = []
    if texts > texts_shown:
        notes.append(f"{texts_shown} of {texts:,} texts are shown: those that stayed longest.")
    if steps > steps_shown:
        notes.append(f"{steps_shown} of {steps} steps are shown: the first and the last.")
    return notes


def _new_sheet(image: RgbImage, columns: Sequence[str], *, rows: int, notes: list[str]) -> _Sheet:
    """Lay out the figure: notes, headings, rows, key."""
    width = int(np.clip(_WIDTH_PX // (len(columns) + 1), *_CELL_WIDTH_PX))
    height = round(width / np.clip(image.shape[1] / image.shape[0], *_CELL_ASPECT))
    size_px = int(np.clip(width // 11, *_FONT_PX))
    line_px = lettering.line_height_px(size_px)
    heading_lines = max(len(lettering.wrap(text, size_px, width, lines=_HEADING_LINES)) for text in columns)
    top = (len(notes) + heading_lines) * line_px + size_px
    grid = _Grid((height, width), size_px, top)
    right, bottom = grid.corner(rows, len(columns) + 1)
    canvas = Image.new("RGB", (right, bottom + 2 * line_px), lettering.WHITE)
    draw = ImageDraw.Draw(canvas)
    for i, note in enumerate(notes):
        fitted = lettering.shorten(note, size_px, right - 2 * grid.gap)
        lettering.write(draw, (grid.gap, grid.gap + i * line_px), fitted, size_px, lettering.GRAY)
    view = _fit(image, (height, width))
    return _Sheet(canvas, draw, grid, view, dim(view)[:, :, None].repeat(3, axis=2))


def _fit(image: RgbImage, box_hw: tuple[int, int]) -> Drawing:
    """Scale an image into a box, keeping its shape but for sides thinner than a pixel."""
    scale = min(box_hw[0] / image.shape[0], box_hw[1] / image.shape[1])
    return resize(image, (max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale))))


def _draw_headings(sheet: _Sheet, columns: Sequence[str], segmentation: Segmentation) -> None:
    """Write every text above its column, ending at the same line; those found on a bar of their color."""
    grid, palette = sheet.grid, colors(len(segmentation.texts))
    line_px = lettering.line_height_px(grid.size_px)
    for column, text in enumerate(columns, 1):
        x, y = grid.corner(0, column)
        lines = lettering.wrap(text, grid.size_px, grid.cell_hw[1], lines=_HEADING_LINES)
        found = text in segmentation.texts
        for i, line in enumerate(reversed(lines), 1):
            ink = lettering.BLACK if found else lettering.GRAY
            lettering.write(sheet.draw, (x, y - i * line_px - 6), line, grid.size_px, ink)
        if found:
            fill = tuple(palette[segmentation.texts.index(text)].tolist())
            sheet.draw.rectangle((x, y - 6, x + grid.cell_hw[1] - 1, y - 2), fill=fill)


def _draw_step(sheet: _Sheet, row: int, number: int, step: Step, columns: Sequence[str]) -> None:
    """Draw one row: the proposals of the texts alive, with their scores."""
    count = len(step.dropped)
    sheet.name_row(
        row, [f"Step {number}", f"{len(step.texts):,} alive", f"{count:,} dropped" if count else "none dropped"]
    )
    places = {text: i for i, text in enumerate(step.texts)}
    for column, text in enumerate(columns, 1):
        if text not in places:
            sheet.leave_empty(row, column)
            continue
        i = places[text]
        proposal = upsample_maps(step.maps[i : i + 1].float().cpu(), sheet.view.shape[:2])[0].numpy()
        kept = i in step.kept
        sheet.paste(row, column, _heat_over(sheet.dimmed, proposal), crossed=not kept)
        verdict = f"{step.scores[i]:.2f}" if kept else f"{step.scores[i]:.2f} dropped"
        sheet.caption(row, column, verdict, lettering.BLACK if kept else _DROPPED)


def _heat_over(dimmed: RgbImage, proposal: Float[ndarray, "h w"]) -> RgbImage:
    """Lay a heat map on the darkened image; the hotter, the less of the image shows."""
    opacity = heat_opacity(proposal)[:, :, None]
    blended: RgbImage = np.round((1 - opacity) * dimmed + opacity * heat(proposal)).astype(np.uint8)
    return blended


def _cross_out(cell: RgbImage) -> None:
    """Strike a cell from corner to corner, in place: white, with a dark edge to stand on pale heat too."""
    height, width = cell.shape[:2]
    thin_px = max(1, width // 120)  # the proposal must stay visible below
    for ink, thickness in ((lettering.BLACK, thin_px + 2), (lettering.WHITE, thin_px)):
        cv2.line(cell, (0, 0), (width - 1, height - 1), ink, thickness, cv2.LINE_AA)
        cv2.line(cell, (0, height - 1), (width - 1, 0), ink, thickness, cv2.LINE_AA)


def _draw_refinements(sheet: _Sheet, row: int, segmentation: Segmentation, columns: Sequence[str]) -> None:
    """Draw two rows: the masks before SAM in their text's color, and SAM's masks in their place, each in its own."""
    size_hw = sheet.view.shape[:2]
    decisions = segmentation.refinements
    replaced = sum(one.replaced for one in decisions.values())
    sheet.name_row(row, ["Before SAM"])
    sheet.name_row(row + 1, ["SAM", f"{replaced:,} replaced", f"{len(decisions) - replaced:,} kept"])
    palette = dict(zip(segmentation.texts, colors(len(segmentation.texts)), strict=True))
    for column, text in enumerate(columns, 1):
        pictures = decisions[text].pictures if text in decisions else None
        if pictures is None:
            sheet.leave_empty(row, column)
            sheet.leave_empty(row + 1, column)
            continue
        before, candidates = (resize_nearest(one, size_hw) for one in (pictures.before[None], pictures.candidates))
        color = np.array([palette.get(text, lettering.WHITE)], dtype=np.uint8)
        sheet.paste(row, column, paint_masks(sheet.dimmed, before, np.zeros(1), color))
        sheet.paste(row + 1, column, paint_masks(sheet.dimmed, candidates, -candidates.sum((1, 2)).astype(float)))
        verdict = f"IoU {decisions[text].iou:.2f}, {'replaced' if decisions[text].replaced else 'kept'}"
        sheet.caption(row + 1, column, verdict, lettering.BLACK if decisions[text].replaced else _DROPPED)


def _draw_masks(sheet: _Sheet, row: int, segmentation: Segmentation, columns: Sequence[str]) -> None:
    """Draw the last row: all masks on the image, then each alone with the share of the image that it covers."""
    size_hw = sheet.view.shape[:2]
    palette, scores = colors(len(segmentation.texts)), segmentation.scores
    masks = segmentation.resize_masks(size_hw)
    shares = [float(mask.mean()) for mask in segmentation.each_mask()]
    sheet.paste(row, 0, paint_masks(sheet.view, masks, scores))
    sheet.caption(row, 0, f"{len(segmentation.texts):,} found" if segmentation.texts else "nothing found")
    places = {text: i for i, text in enumerate(segmentation.texts)}
    for column, text in enumerate(columns, 1):
        if text not in places:
            sheet.leave_empty(row, column)
            continue
        i = places[text]
        sheet.paste(row, column, paint_masks(sheet.dimmed, masks[i : i + 1], scores[i : i + 1], palette[i : i + 1]))
        sheet.caption(row, column, f"mask, {shares[i]:.1%}")


def _draw_key(sheet: _Sheet, judged_by: str) -> None:
    """Explain the heat map and the scores in one line at the bottom."""
    grid = sheet.grid
    size_px, x = grid.size_px, grid.gap
    y = sheet.canvas.height - lettering.line_height_px(size_px) - grid.gap
    x = lettering.write(sheet.draw, (x, y), "proposal 0", size_px, lettering.GRAY) + 4
    bar = heat(np.linspace(0, 1, 90, dtype=np.float32)[None].repeat(size_px, axis=0))
    sheet.canvas.paste(Image.fromarray(bar), (x, y + 1))
    right = lettering.write(sheet.draw, (x + 94, y), "1.", size_px, lettering.GRAY)
    said = f"Below each: the classifier's score{f', by {judged_by}' if judged_by else ''}."
    line = lettering.shorten(said, size_px, sheet.canvas.width - right - 2 * grid.gap)
    lettering.write(sheet.draw, (right + size_px // 2, y), line, size_px, lettering.GRAY)
