"""Words on pictures: fonts that cover a text, and cutting or wrapping it to a width.

The font bundled with Pillow writes Latin; for other scripts a few common system fonts are tried. A character that no
font at hand covers is drawn as an empty box: nothing fails for want of a font.
"""

from functools import lru_cache
from typing import TypeAlias

from PIL import ImageDraw, ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Ink: TypeAlias = tuple[int, int, int]

BLACK: Ink = (32, 32, 32)
GRAY: Ink = (125, 125, 125)
WHITE: Ink = (255, 255, 255)

_SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
_UNASSIGNED = "\uffff"  # a code point that no font has: how a font draws what it lacks


def one_line(text: str) -> str:
    """Replace line breaks and everything else unprintable by single spaces."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def width_px(text: str, size_px: int) -> int:
    """Measure a line of text."""
    return round(_font(text, size_px).getlength(text))


def line_height_px(size_px: int) -> int:
    """Return the distance from one line to the next."""
    return round(size_px * 1.35)


def shorten(text: str, size_px: int, limit_px: int) -> str:
    """Cut a line to a width, with an ellipsis in place of what went; a line that fits stays as it is."""
    line = one_line(text)
    if width_px(line, size_px) <= limit_px:
        return line
    low, high = 0, len(line)  # low characters fit, high do not
    while high - low > 1:
        middle = (low + high) // 2
        if width_px(line[:middle].rstrip() + "…", size_px) <= limit_px:
            low = middle
        else:
            high = middle
    return line[:low].rstrip() + "…"


def wrap(text: str, size_px: int, limit_px: int, *, lines: int) -> list[str]:
    """Break a text at spaces into at most so many lines; a word that is too wide, and the last line, are shortened."""
    words = one_line(text).split(" ")
    wrapped: list[str] = []
    while words and len(wrapped) < lines - 1:
        count = 1
        while count < len(words) and width_px(" ".join(words[: count + 1]), size_px) <= limit_px:
            count += 1
        wrapped.append(shorten(" ".join(words[:count]), size_px, limit_px))
        words = words[count:]
    return [*wrapped, shorten(" ".join(words), size_px, limit_px)] if words else wrapped


def write(draw: ImageDraw.ImageDraw, xy: tuple[int, int], text: str, size_px: int, ink: Ink = BLACK) -> int:
    """Write one line with its top left corner at `xy`; return the x at which it ends."""
    draw.text(xy, text, fill=ink, font=_font(text, size_px))
    return xy[0] + width_px(text, size_px)


def strike(draw: ImageDraw.ImageDraw, xy: tuple[int, int], right: int, size_px: int, ink: Ink = GRAY) -> None:
    """Strike through a line that was written at `xy` and ends at `right`."""
    y = xy[1] + round(size_px * 0.62)
    draw.line((xy[0], y, right, y), fill=ink, width=max(1, size_px // 12))


def _font(text: str, size_px: int) -> Font:
    """Choose the first font that has every character of a text, else the one that lacks fewest."""
    lacking = {name: sum(not _has(name, mark) for mark in set(text)) for name in _font_names()}
    return _load(min(lacking, key=lambda name: lacking[name]), size_px)


@lru_cache(maxsize=1)
def _font_names() -> tuple[str, ...]:
    """List the fonts at hand; the empty name is Pillow's own."""
    names = [""]
    for name in _SYSTEM_FONTS:
        try:
            _load(name, 10)
        except OSError:
            continue
        names.append(name)
    return tuple(names)


@lru_cache(maxsize=64)
def _load(name: str, size_px: int) -> Font:
    return ImageFont.truetype(name, size_px) if name else ImageFont.load_default(size_px)


@lru_cache(maxsize=4096)
def _has(name: str, mark: str) -> bool:
    """Tell whether a font draws a character otherwise than one it lacks."""
    if mark.isspace():
        return True
    font = _load(name, 20)
    return bytes(font.getmask(mark)) != bytes(font.getmask(_UNASSIGNED))
