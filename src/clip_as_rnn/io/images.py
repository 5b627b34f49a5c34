"""From anything that holds a picture to one kind of array: sRGB, 8 bits, upright, opaque.

Knows files, limits and odd encodings; knows nothing of texts or models. Files are never trusted: only still-picture
formats are opened, and the size is checked before a pixel is decoded.
"""

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from clip_as_rnn.errors import InputError
from clip_as_rnn.types import RgbImage

ImageSource: TypeAlias = str | Path | bytes | Image.Image | ndarray | Tensor

MAX_PIXELS = 150_000_000  # a photo of 12,247 x 12,247; below Pillow's own limit, so that ours speaks first
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")  # MPO: JPEG of many phones
SUFFIXES = (".avif", ".bmp", ".gif", ".jpg", ".jpeg", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

_LOG = logging.getLogger(__name__)
_EXIF_ORIENTATION = 0x0112
_16_BITS = 0xFFFF
_UPRIGHT = {  # EXIF orientation: what puts the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises on damaged or boundless files; MemoryError and the like are not the file's fault and pass through.
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error),
    *(RuntimeError, Image.DecompressionBombError),  # RuntimeError: AVIF's decoder
)
_WARNINGS_LOCK = Lock()  # warnings.catch_warnings is not thread-safe


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture and what its reader should be told: one sentence per thing that was not taken as it was."""

    pixels: RgbImage
    notes: tuple[str, ...] = ()


def read_image(source: ImageSource) -> RgbImage:
    """Read a picture as (h, w, 3) uint8; its notes go to the log as warnings. See `read_picture`."""
    picture = read_picture(source)
    for note in picture.notes:
        _LOG.warning(note)
    return picture.pixels


def read_picture(source: ImageSource) -> Picture:
    """Read a picture from a path, bytes, a PIL image, an array or a tensor.

    Arrays are uint8, (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); tensors the same with the channel first; an RGB array
    is not copied. Files and PIL images are turned upright as their EXIF tag says; of several frames the first is
    taken; transparency is laid on white; 16 bits are scaled to 8.

    Raises:
        InputError: there is no such file, it holds no picture, is damaged, or has more than `MAX_PIXELS`.
    """
    if isinstance(source, Tensor):
        return Picture(_from_tensor(source))
    if isinstance(source, ndarray):
        return Picture(_from_array(source))
    if isinstance(source, Image.Image):
        return _from_pillow(source, "the image", notes=())
    if isinstance(source, bytes):
        return _from_file(io.BytesIO(source), "the image", size_bytes=len(source))
    if isinstance(source, str | Path):
        return _from_path(Path(source))
    raise InputError(f"Expected an image as path, bytes, PIL image, array or tensor, but got {type(source).__name__}.")


def _from_tensor(tensor: Tensor) -> RgbImage:
    match tuple(tensor.shape):
        case (_, _):
            return _from_array(tensor.detach().cpu().numpy())
        case (1 | 3 | 4, _, _):
            return _from_array(tensor.detach().permute(1, 2, 0).cpu().numpy())
        case shape:
            raise InputError(f"Expected an image tensor of shape (3, h, w), but got {shape}.")


def _from_array(array: ndarray) -> RgbImage:
    if array.dtype != np.uint8:
        raise InputError(f"Expected an image of type uint8 with values from 0 to 255, but got {array.dtype}.")
    match array.shape:
        case (height, width) | (height, width, 1 | 3 | 4):
            _check_size(width, height, "the image")
        case shape:
            raise InputError(f"Expected an image of shape (h, w), (h, w, 3) or (h, w, 4), but got {shape}.")
    match array.shape:
        case (_, _, 3):
            return np.ascontiguousarray(array)
        case (_, _, 4):
            return _on_white(Image.fromarray(np.ascontiguousarray(array)))
        case _:
            return np.repeat(array.reshape(height, width, 1), 3, axis=2)


def _from_path(path: Path) -> Picture:
    try:
        if path.is_dir():
            raise InputError(f"Expected an image file, but {str(path)!r} is a folder.")
        if not path.exists():
            raise InputError(f"No image at {str(path)!r}; check the path.")
        with path.open("rb") as file:
            return _from_file(file, repr(str(path)), size_bytes=path.stat().st_size)
    except OSError as error:  # no permission, a name too long
        raise InputError(f"The image {str(path)!r} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # a null byte in the path
        if isinstance(error, InputError):
            raise
        raise InputError(f"No image at {str(path)!r}; check the path.") from error


def _from_file(file: io.BytesIO | io.BufferedReader, name: str, *, size_bytes: int) -> Picture:
    """Open, check and decode an image file; `name` is how messages call it."""
    if size_bytes == 0:
        raise InputError(f"Expected an image, but {name} is empty (0 bytes).")
    try:
        with _quiet_pillow():
            image = Image.open(file, formats=_known_formats())
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photo and its extras
    except UnidentifiedImageError as error:
        raise InputError(f"Expected an image, but {name} is none of {', '.join(_known_formats())}.") from error
    except Image.DecompressionBombError as error:
        claimed = re.search(r"\d+", str(error))
        raise _too_large(name, int(claimed.group()) if claimed else None) from error
    except DAMAGE as error:
        raise _damaged(name, error) from error
    notes = (f"Of the {frames} frames of {name} only the first is used.",) if frames > 1 else ()
    return _from_pillow(image, name, notes=notes)


def _from_pillow(image: Image.Image, name: str, *, notes: tuple[str, ...]) -> Picture:
    """Decode, flatten to 8-bit RGB and turn upright."""
    _check_size(image.width, image.height, name)
    try:
        image.load()
        pixels, more = _to_rgb(image, name)
        turn = _UPRIGHT.get(_orientation(image))
        if turn is not None:
            pixels = np.array(Image.fromarray(pixels).transpose(turn))
    except DAMAGE as error:
        raise _damaged(name, error) from error
    return Picture(pixels, (*notes, *more))


def _to_rgb(image: Image.Image, name: str) -> tuple[RgbImage, tuple[str, ...]]:
    """Bring any mode of Pillow to RGB; a second value says what had to be guessed."""
    if image.mode.startswith("I") or image.mode == "F":
        grey, notes = _to_8_bits(np.asarray(image), name)
        return np.repeat(grey[:, :, None], 3, axis=2), notes
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA")), ()
    return np.array(image.convert("RGB")), ()


def _to_8_bits(values: ndarray, name: str) -> tuple[UInt8[ndarray, "h w"], tuple[str, ...]]:
    """Scale 16 bits to 8; stretch wider numbers, whose range no format fixes, from their least to their greatest."""
    if np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() <= _16_BITS:
        return np.round(values * (255.0 / _16_BITS)).astype(np.uint8), ()
    finite = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    stretched = (finite - low) * (255.0 / (high - low if high > low else 1.0))
    note = f"The grey values of {name} have no fixed range; {low:g} to {high:g} were stretched to black to white."
    return np.round(stretched).astype(np.uint8), (note,)


def _on_white(image: Image.Image) -> RgbImage:
    """Lay an RGBA image on white paper."""
    paper = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(paper, image).convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; a damaged EXIF block counts as none, for the picture itself is sound."""
    try:
        with _quiet_pillow():
            return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except DAMAGE:
        return 1


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings on headers and sizes: our own checks decide and speak."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _known_formats() -> list[str]:
    """List those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(width: int, height: int, name: str) -> None:
    if width * height == 0:
        raise InputError(f"Expected an image of at least one pixel, but {name} is {width} x {height}.")
    if width * height > MAX_PIXELS:
        raise _too_large(name, width * height)


def _too_large(name: str, pixels: int | None) -> InputError:
    size = f"has {pixels / 1e6:,.0f} million" if pixels else "has more"
    limit = f"{MAX_PIXELS / 1e6:,.0f} million"
    return InputError(f"Expected an image of at most {limit} pixels, but {name} {size}; shrink it first.")


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(f"The image {name} is damaged or cut short: {str(error).rstrip('.') or type(error).__name__}.")
