"""Turn the packages' drawings into one table of small RGBA pictures per concept and style.

The Noto drawing is kept in its own style and never trained on.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from training.clip_art import clip_art_files
from training.concepts import CONCEPTS, CORE_CONCEPTS, Concept
from training.packages import DEBIAN_VERSIONS, NPM_PACKAGES, noto_font, package_folder

logger = logging.getLogger(__name__)

SPRITE_SIDE_PX = 96
RENDER_SIDE_PX = 192
HELD_OUT_STYLE = "noto"
HELD_OUT_STYLES = (HELD_OUT_STYLE, "clip art")  # nothing is chosen by scores on the second
STYLES = ("twemoji", "flat", "modern", "3d", "emojione", "fxemoji", "streamline", "mono", *HELD_OUT_STYLES)
# Icons share only the outline with a drawing. Their colors are dropped, and what a line encloses is filled.
_MONO_PACKAGES = (
    *("mdi", "fa6-solid", "game-icons", "ph", "tabler", "mingcute", "pinhead", "whh", "healthicons", "hugeicons"),
    *("fluent-emoji-high-contrast", "emojione-monotone", "icon-park", "streamline-plump-color"),
    *("streamline-flex-color", "streamline-sharp-color", "streamline-cyber-color", "streamline-kameleon-color"),
    *("streamline-color", "lucide", "lucide-lab", "la", "dinkie-icons", "picon", "boxicons", "griddy-icons", "iconoir"),
    *("carbon", "ion", "fontisto", "pixelarticons", "lineicons", "guidance", "ri", "tdesign", "bxs"),
)
_TUNING_PACKAGES = ("openmoji", "noto-v1")
_MONO_PREFIX = re.compile(r"^(animal|basic|open|deciduous|evergreen|slice-of|red|green|closed)-")
_MONO_SUFFIX = re.compile(r"(-(fill|filled|duotone|flat|one|face|head|computer|car|[0-9]{1,2}))+$")
# These names mean something else in the sets of icons.
_MONO_WRONG = {
    "mouse",
    "orange",
    "cup",
    "key",
    "shirt",
    "glasses",
    "bottle",
    "gift",
    "crown",
    "chicken",
    "house",
    "bear",
}
_MONO_ALIASES = {
    "motorcycle": ("motorbike",),
    "bicycle": ("bike",),
    "boat": ("sail-boat", "sailboat", "ship", "motor-boat"),
    "apple": ("food-apple", "apple-whole", "shiny-apple"),
    "house": ("home", "house-chimney"),
    "soccer ball": ("soccer", "futbol", "soccer-ball"),
    "sheep": ("ewe",),
    "pizza": ("pizza-slice",),
    "airplane": ("plane",),
    "television": ("tv",),
    "guitar": ("guitar-acoustic", "guitar-electric"),
    "fish": ("fish", "fish-fins"),
    "umbrella": ("umbrella", "umbrella-closed"),
    "dog": ("dog", "dog-side", "sitting-dog"),
    "horse": ("horse", "horse-head"),
    "car": ("car", "car-side", "automobile", "sedan"),
}


@dataclass(frozen=True, slots=True)
class Sprites:
    """All drawings: `rgba` (n, side, side, 4) uint8, and for each its concept's and its style's number."""

    rgba: np.ndarray
    concept: np.ndarray
    style: np.ndarray

    def of_styles(self, *, held_out: bool) -> Sprites:
        """Keep the held-out drawing only, or all that training sees."""
        return self.of_style(HELD_OUT_STYLE) if held_out else self._keep(self.style < STYLES.index(HELD_OUT_STYLE))

    def of_style(self, name: str) -> Sprites:
        """Keep one style only."""
        return self._keep(self.style == STYLES.index(name))

    def _keep(self, rows: np.ndarray) -> Sprites:
        return Sprites(self.rgba[rows], self.concept[rows], self.style[rows])


def load_sprites(work: Path) -> Sprites:
    """Read the table of sprites, drawing it first if it is not there or was drawn for other concepts or packages."""
    path = work / "sprites.npz"
    made_for = _describe_sources()
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            if "made_for" in stored and str(stored["made_for"]) == made_for:
                return Sprites(stored["rgba"], stored["concept"], stored["style"])
    sprites = draw_sprites(work)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial, rgba=sprites.rgba, concept=sprites.concept, style=sprites.style, made_for=np.array(made_for)
    )
    partial.rename(path)
    return sprites


def draw_tuning_sprites(work: Path) -> Sprites:
    """Render drawings of the core concepts to choose settings on: neither trained on nor those held out.

    Their style is the number behind the last of `STYLES`.
    """
    labels = _read_labels(work)
    rows = [
        (_to_square(_render_svg(svg)), number)
        for number, concept in enumerate(CORE_CONCEPTS)
        for package in _TUNING_PACKAGES
        for svg in _iconify(work, package, {_slug(labels[code]) for code in concept.codes})
    ]
    rgba, concepts = zip(*rows, strict=True)
    return Sprites(np.stack(rgba), np.array(concepts), np.full(len(rows), len(STYLES)))


def _describe_sources() -> str:
    """Name all that the table's numbers stand for and come from."""
    concepts = [(concept.name, concept.codes) for concept in CONCEPTS]
    return json.dumps([concepts, STYLES, NPM_PACKAGES, DEBIAN_VERSIONS, SPRITE_SIDE_PX])


def draw_sprites(work: Path) -> Sprites:
    """Render every drawing of every concept."""
    labels = _read_labels(work)
    rows: list[tuple[np.ndarray, int, int]] = []
    for number, concept in enumerate(CONCEPTS):
        for style, picture in _drawings(work, concept, labels):
            rows.append((_to_square(picture), number, STYLES.index(style)))
    logger.info("%d drawings of %d concepts", len(rows), len(CONCEPTS))
    rgba, concepts, styles = zip(*rows, strict=True)
    return Sprites(np.stack(rgba), np.array(concepts), np.array(styles))


def _drawings(work: Path, concept: Concept, labels: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    font = _noto_bitmaps(work)
    fluent = package_folder(work, "fluentui-emoji") / "icons"
    for code in concept.codes:
        slug = _slug(labels[code])
        yield from _existing("twemoji", package_folder(work, "@twemoji/svg"), (f"{code}.svg",))
        yield from _existing("flat", fluent / "flat", (f"{slug}.svg",))
        yield from _existing("modern", fluent / "modern", (f"{slug}.svg",))
        yield from _existing(
            "3d", package_folder(work, "@lobehub/fluent-emoji-3d") / "assets", (f"{code}.webp", f"{code}-fe0f.webp")
        )
        if code in font:
            yield HELD_OUT_STYLE, font[code]
    for path in clip_art_files(work, concept.name):
        try:
            yield "clip art", _render_svg(path.read_text(errors="replace"))
        except ValueError as error:
            logger.warning("%s cannot be drawn: %s", path.name, error)
    slugs = {_slug(word) for word in (concept.name, *concept.synonyms, *(labels[code] for code in concept.codes))}
    for style in ("emojione", "fxemoji", "streamline"):
        package = "streamline-emojis" if style == "streamline" else style
        for svg in _iconify(work, package, slugs, squash=style == "fxemoji"):
            yield style, _render_svg(svg)
    names = {*_MONO_ALIASES.get(concept.name, ())} | ({_slug(concept.name)} - _MONO_WRONG)
    for package in _MONO_PACKAGES:
        for svg in _iconify(work, package, names, bare=True):
            yield "mono", _fill_outline(_render_svg(svg))


def _existing(style: str, folder: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Image.Image]]:
    for name in names:
        path = folder / name
        if path.exists():
            is_svg = path.suffix == ".svg"
            yield style, _render_svg(path.read_text()) if is_svg else Image.open(path).convert("RGBA")
            return


def _read_labels(work: Path) -> dict[str, str]:
    """Map code points to their English names."""
    rows = json.loads((package_folder(work, "emojibase-data") / "en" / "data.json").read_text())
    return {row["hexcode"].lower().removesuffix("-fe0f"): row["label"] for row in rows}


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("\u2019", "")).strip("-")


def _iconify(work: Path, package: str, slugs: set[str], *, squash: bool = False, bare: bool = False) -> Iterator[str]:
    """Yield the SVG texts of one Iconify package whose names are in `slugs`, numbered variants included.

    `bare` leaves out what icons' names say of the way they are drawn.
    """
    table = _read_iconify(work, package)
    wanted = {slug.replace("-", "") for slug in slugs} if squash else slugs
    for name, icon in table["icons"].items():
        plain = _MONO_PREFIX.sub("", _MONO_SUFFIX.sub("", name)) if bare else re.sub(r"-[1-9]$", "", name)
        if plain in wanted and not icon.get("hidden"):
            width = icon.get("width", table.get("width", 16))
            height = icon.get("height", table.get("height", 16))
            body = icon["body"].replace("currentColor", "#808080")
            yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'


@cache
def _read_iconify(work: Path, package: str) -> dict[str, Any]:
    path = package_folder(work, f"@iconify-json/{package}") / "icons.json"
    table: dict[str, Any] = json.loads(path.read_text())
    return table


def _fill_outline(icon: Image.Image) -> Image.Image:
    """Turn an icon gray, and fill what its lines enclose with white: line drawings become things with a body."""
    alpha = np.asarray(icon.getchannel("A"))
    outside = (alpha < 128).astype(np.uint8)
    _, regions = cv2.connectedComponents(np.pad(outside, 1, constant_values=1), connectivity=4)
    inside = ((regions != regions[0, 0]) & (regions > 0))[1:-1, 1:-1]
    luma = np.where(inside & (alpha < 128), 255, np.asarray(icon.convert("L")))
    solid = np.where(inside, 255, alpha)
    return Image.fromarray(np.dstack([luma, luma, luma, solid]).astype(np.uint8), "RGBA")


def _render_svg(svg: str) -> Image.Image:
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_SIDE_PX, height=RENDER_SIDE_PX))
    return Image.open(io.BytesIO(png)).convert("RGBA")


@cache
def _noto_bitmaps(work: Path) -> dict[str, Image.Image]:
    """Read the color bitmaps of the Noto font by code point."""
    from fontTools.ttLib import TTFont

    font = TTFont(noto_font(work))
    strike = font["CBDT"].strikeData[0]
    wanted = {int(code, 16) for concept in CONCEPTS for code in concept.codes}
    cmap = {point: name for point, name in font.getBestCmap().items() if point in wanted}
    return {
        f"{point:x}": Image.open(io.BytesIO(strike[name].imageData)).convert("RGBA")
        for point, name in cmap.items()
        if name in strike
    }


def _to_square(picture: Image.Image) -> np.ndarray:
    """Crop to what is visible and fit it, centerd, into a transparent square."""
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    cropped = picture.crop(box) if box else picture
    scale = SPRITE_SIDE_PX / max(cropped.size)
    size = tuple(max(1, round(side * scale)) for side in cropped.size)
    small = cropped.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    square = Image.new("RGBA", (SPRITE_SIDE_PX, SPRITE_SIDE_PX))
    square.paste(small, ((SPRITE_SIDE_PX - size[0]) // 2, (SPRITE_SIDE_PX - size[1]) // 2))
    return np.asarray(square)
