"""Pictures that claim more than they hold, or hold more than a machine can: each must end soon and in little memory."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import cv2
import numpy as np
from hostile_cases import Ends, Picture
from hostile_pictures import encoded, photo, written
from PIL import Image

_SIDE = 12_200  # of a square of 149 megapixels, a little less than is allowed


def bombs() -> list[Picture]:
    """List all bombs."""
    return [*_claims(), *_chunks(), *_large()]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, content: bytes = b"", *, depth: int = 8, color: int = 2, before: bytes = b"") -> bytes:
    """Put a PNG together: its header says what it likes, `content` is compressed already."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _claims() -> Iterator[Picture]:
    """Claim sizes that no file of this length holds."""
    jpeg = bytearray(encoded("JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = struct.pack(">HH", 65000, 65000)
    gif = bytearray(encoded("GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp = bytearray(encoded("BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    negative = bytearray(encoded("BMP"))
    negative[18:26] = struct.pack("<ii", -5, -(2**31))
    contents = {
        "png-3600-megapixel.png": png(60_000, 60_000),
        "png-largest.png": png(2**31 - 1, 2**31 - 1),
        "png-no-width.png": png(0, 5),
        "png-150-megapixel-empty.png": png(12_000, 12_000, zlib.compress(b"")),
        "jpeg-claims.jpg": bytes(jpeg),
        "gif-claims.gif": bytes(gif),
        "bmp-claims.bmp": bytes(bmp),
        "bmp-negative.bmp": bytes(negative),
        "ppm-claims.ppm": b"P6 999999999 999999999 255\n",
        "ppm-digits.ppm": b"P6 " + b"9" * 100_000 + b" 1 255\n",
        "ppm-no-size.ppm": b"P6 0 0 255\n",
        "tiff-claims.tif": _tiff({256: 2**31, 257: 2**31, 258: 8, 262: 1, 273: 8, 277: 1, 279: 4}),
        "tiff-strips.tif": _tiff({256: 5000, 257: 5000, 258: 8, 262: 1, 273: 8, 277: 60000, 279: 2**31}),
        "webp-claims.webp": b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6,
        "j2k-tiles.jp2": _tiled(encoded("JPEG2000")),
    }
    for name, content in contents.items():
        yield Picture(kind="bomb", name=name, make=written(content, name), ends="refused")
    loop = _tiff({256: 5, 257: 5, 258: 8, 262: 1, 273: 8, 277: 1, 279: 25}, following=8)  # its first frame is whole
    yield Picture(kind="bomb", name="tiff-loop.tif", make=written(loop, "tiff-loop.tif"), ends="right")


def _tiff(tags: dict[int, int], following: int = 0) -> bytes:
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows + struct.pack("<I", following)


def _tiled(whole: bytes) -> bytes:
    """Claim a large image in tiles of one pixel."""
    content = bytearray(whole)
    place = content.index(b"\xff\x51") + 6
    content[place : place + 32] = struct.pack(">8I", 12_000, 12_000, 0, 0, 1, 1, 0, 0)
    return bytes(content)


def _chunks() -> Iterator[Picture]:
    """Hide what is boundless beside sound pixels."""
    rows = b"".join(b"\0" + row.tobytes() for row in photo())
    sound, size = zlib.compress(rows), photo().shape[1::-1]

    def hidden(kind: bytes, head: bytes) -> bytes:
        return png(*size, sound, before=_chunk(kind, head + zlib.compress(bytes(60_000_000), 9)))

    contents: dict[str, Callable[[], bytes]] = {
        "png-text.png": lambda: hidden(b"zTXt", b"a\0\0"),
        "png-international.png": lambda: hidden(b"iTXt", b"a\0\1\0\0\0"),
        "png-profile.png": lambda: hidden(b"iCCP", b"a\0\0"),
        "png-thousands.png": lambda: png(*size, sound, before=_chunk(b"tEXt", b"a\0" + b"b" * 900) * 3000),
        "png-more-rows.png": lambda: png(*size, zlib.compress(rows + bytes(90_000_000), 9)),
    }
    for name, make in contents.items():
        yield Picture(kind="bomb", name=name, make=written(make, name), ends="either", pixels=photo())
    yield Picture(kind="bomb", name="jpeg-scans.jpg", make=written(lambda: _scans(20_000), "jpeg-scans.jpg"))
    frames = encoded("GIF")
    start = frames.index(b"\x2c")
    many = frames[:start] + frames[start:-1] * 3000 + b"\x3b"
    yield Picture(kind="bomb", name="gif-frames.gif", make=written(many, "gif-frames.gif"), ends="right")


def _scans(count: int) -> bytes:
    """Repeat the last scan of a progressive JPEG: little to store, much to decode."""
    pixels = np.repeat(np.repeat(photo(), 20, axis=0), 20, axis=1)
    whole = encoded("JPEG", pixels, progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def _large() -> Iterator[Picture]:
    """Hold as many pixels as are allowed, most of them in a few thousand bytes, and a few more."""
    for name, depth in (("1-bit", 1), ("8-bit", 8), ("16-bit", 16)):
        title = f"149-megapixel-{name}.png"
        make = written(partial(_blank_png, depth), title)
        yield Picture(kind="largest allowed", name=title, make=make, ends="right")
    large = {
        "149-megapixel.jpg": lambda: _blank("RGB", _SIDE, "JPEG"),
        "149-megapixel-photo.jpg": _enlarged,
        "144-megapixel-alpha.png": lambda: _blank("RGBA", 12_000, "PNG"),
        "169-megapixel.bmp": lambda: _blank("1", 13_000, "BMP"),
        "169-megapixel.gif": lambda: _blank("1", 13_000, "GIF"),
    }
    for title, content in large.items():
        kind, ends = ("bomb", "refused") if title.startswith("169") else ("largest allowed", "right")
        yield Picture(kind=kind, name=title, make=written(content, title), ends=cast(Ends, ends))


def _enlarged() -> bytes:
    """Enlarge the sound picture, so that something is found in it."""
    return encoded("JPEG", cv2.resize(photo(), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST), quality=60)


def _blank_png(depth: int) -> bytes:
    row = bytes(1 + depth * _SIDE // 8)
    return png(_SIDE, _SIDE, zlib.compress(row * _SIDE, 1), depth=depth, color=0)


def _blank(mode: str, side: int, form: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, form, **({"compress_level": 1} if form == "PNG" else {}))
    return file.getvalue()
