"""From anything that holds a picture to one kind of array: sRGB, 8 bits, upright, opaque.

Files are never trusted: only still-picture formats are opened, and the size is checked before a pixel is decoded.
Pixels are converted in bands, so that a picture takes little more memory than its decoder and the array do.
"""

import ctypes
import io
import logging
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, UnidentifiedImageError
from PIL import _imaging as pillow_library
from torch import Tensor, strided

from clip_as_rnn.errors import InputError
from clip_as_rnn.types import RgbImage

ImageSource: TypeAlias = str | Path | bytes | Image.Image | ndarray | Tensor

MAX_PIXELS = 150_000_000  # a photo of 12,247 x 12,247; below Pillow's own limit, so that ours speaks first
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")  # MPO: JPEG of many phones
SUFFIXES = (".avif", ".bmp", ".gif", ".jpg", ".jpeg", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

_LOG = logging.getLogger(__name__)
_EXIF_ORIENTATION = 0x0112
_NAMELESS = "the image"  # how messages call what came without a file's name
_8_BITS, _12_BITS, _16_BITS = 0xFF, 0xFFF, 0xFFFF
_BAND_PIXELS = 1 << 22
_STORED: dict[int, Callable[[ndarray], ndarray]] = {  # EXIF orientation: the upright picture seen as the file holds it
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
_SIDEWAYS = (5, 6, 7, 8)
_IRREGULAR = {  # type of a file that is none of the disk: its name
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# What Pillow raises on damaged or boundless files; MemoryError and the like are not the file's fault and pass through.
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error),
    *(RuntimeError, Image.DecompressionBombError),  # RuntimeError: AVIF's decoder
)
_PILLOW_LOCK = Lock()  # how warnings are told, and to whom libtiff and Pillow's log speak, is the same for all threads
_PILLOW_LOG = logging.getLogger("PIL")


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
        return _from_pillow(source, _NAMELESS, notes=())
    if isinstance(source, bytes):
        return _from_file(io.BytesIO(source), _NAMELESS, size_bytes=len(source))
    if isinstance(source, str | Path):
        return _from_path(Path(source))
    raise InputError(f"Expected an image as path, bytes, PIL image, array or tensor, but got {type(source).__name__}.")


def _from_tensor(tensor: Tensor) -> RgbImage:
    if tensor.layout != strided:
        raise InputError(f"Expected an image tensor that holds every pixel, but got one of layout {tensor.layout}.")
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
            _check_size(width, height, _NAMELESS)
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
        status = path.stat()
        kind = _IRREGULAR.get(stat.S_IFMT(status.st_mode))
        if kind is not None:  # opening a pipe would wait for whoever fills it
            way_out = "" if kind == "a folder" else "; save what it gives to a file first"
            raise InputError(f"Expected an image file, but {str(path)!r} is {kind}{way_out}.")
        with path.open("rb") as file:
            return _from_file(file, repr(str(path)), size_bytes=status.st_size)
    except FileNotFoundError as error:
        raise InputError(f"No image at {str(path)!r}; check the path.") from error
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
        with quiet_pillow():
            image = Image.open(file, formats=_known_formats())
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photo and its extras
    except UnidentifiedImageError as error:
        raise InputError(f"Expected an image, but {name} is none of {', '.join(_known_formats())}.") from error
    except Image.DecompressionBombError as error:
        claimed = re.search(r"\d+(?= pixels\))", str(error))
        raise _too_large(name, int(claimed.group()) if claimed else None) from error
    except DAMAGE as error:
        raise _damaged(name, error) from error
    notes = (f"Of the {frames} frames of {name} only the first is used.",) if frames > 1 else ()
    return _from_pillow(image, name, notes=notes)


def _from_pillow(image: Image.Image, name: str, *, notes: tuple[str, ...]) -> Picture:
    """Decode, flatten to 8-bit RGB and turn upright."""
    _check_size(image.width, image.height, name)
    try:
        is_deep = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
        with quiet_pillow() if image.format == "TIFF" else nullcontext():
            image.load()
        convert, more = _converter(image, name)
        orientation = _orientation(image)
        size_hw = image.size if orientation in _SIDEWAYS else image.size[::-1]
        pixels = np.empty((*size_hw, 3), dtype=np.uint8)
        stored = _STORED.get(orientation, np.asarray)(pixels)
        for top, band in _bands(image):
            stored[top : top + band.height] = convert(band)
    except DAMAGE as error:
        raise _damaged(name, error) from error
    if is_deep and 0 < pixels.max() <= round(_12_BITS / _16_BITS * _8_BITS):
        more = (*more, f"Of the 16 bits of {name} only the lowest 12 are used; it is almost black as it is read.")
    return Picture(pixels, (*notes, *more))


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut an image into bands of whole rows; yield the first row of each, and the band."""
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converter(image: Image.Image, name: str) -> tuple[Callable[[Image.Image], ndarray], tuple[str, ...]]:
    """Choose how a band of any mode of Pillow becomes RGB or gray; a second value says what had to be guessed."""
    if image.mode.startswith("I") or image.mode == "F":
        return _gray_converter(image, name)
    if image.has_transparency_data:
        return lambda band: _on_white(band.convert("RGBA")), ()
    return lambda band: np.asarray(band.convert("RGB")), ()


def _gray_converter(image: Image.Image, name: str) -> tuple[Callable[[Image.Image], ndarray], tuple[str, ...]]:
    """Scale 16 bits to 8; stretch wider numbers, whose range no format fixes, from their least to their greatest."""
    ends = [(values.min(), values.max()) for values in (_finite(band) for _, band in _bands(image))]
    low, high = float(min(least for least, _ in ends)), float(max(greatest for _, greatest in ends))
    if image.mode != "F" and low >= 0 and high <= _16_BITS:
        return lambda band: _to_gray(np.asarray(band) * (_8_BITS / _16_BITS)), ()
    scale = _8_BITS / (high - low if high > low else 1.0)
    note = f"The gray values of {name} have no fixed range; {low:g} to {high:g} were stretched to black to white."
    return lambda band: _to_gray((_finite(band) - low) * scale), (note,)


def _finite(band: Image.Image) -> ndarray:
    """Return the values of a band, 0 for those that are no numbers."""
    values = np.asarray(band)
    return (
        values
        if np.issubdtype(values.dtype, np.integer)
        else np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    )


def _to_gray(values: ndarray) -> UInt8[ndarray, "h w 1"]:
    gray: UInt8[ndarray, "h w 1"] = np.round(values).astype(np.uint8)[:, :, None]
    return gray


def _on_white(image: Image.Image) -> RgbImage:
    """Lay an RGBA image on white paper."""
    paper = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(paper, image).convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; a damaged EXIF block counts as none, for the picture itself is sound."""
    try:
        with quiet_pillow():
            return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except DAMAGE:
        return 1


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence what Pillow and its libtiff say of headers and sizes: our own checks decide and speak.

    One thread at a time is inside.
    """
    with _PILLOW_LOCK, warnings.catch_warnings(), _quiet_libtiff():
        warnings.simplefilter("ignore")
        level = _PILLOW_LOG.level
        _PILLOW_LOG.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            _PILLOW_LOG.setLevel(level)


@contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """Take away where libtiff prints its complaints, past Python; where it cannot be reached, it goes on."""
    handlers = []
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(pillow_library.__file__)  # a symbol of what it is linked with is found by this one, too
        handlers = [library.TIFFSetErrorHandler, library.TIFFSetWarningHandler]
    for handler in handlers:
        handler.argtypes, handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
    before = [handler(None) for handler in handlers]
    try:
        yield
    finally:
        for handler, was in zip(handlers, before, strict=True):
            handler(was)


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
    named = "The image" if name == _NAMELESS else f"The image {name}"
    return InputError(f"{named} is damaged or cut short: {str(error).rstrip('.') or type(error).__name__}.")
